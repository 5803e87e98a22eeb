"""The alert rules and the dashboard of deploy/ are about figures that there are, and Prometheus takes them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from docs.generate.server import asked
from tests.conftest import StartServer
from tests.integration.test_metrics import REASONS
from tests.serving import ROOT, require_module, require_program

PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = PROMETHEUS / "fastws.rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "fastws.json"
# Of Prometheus itself: what is asked, its alerts, and quantiles.
_GIVEN = {"job", "instance", "alertname", "le"}
_NAME = re.compile(r"\b(?:fastws|process)_\w+")
_SELECTED = re.compile(r"\b((?:fastws|process)_\w+)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)\s*(=~?)\s*"([^"]*)"')
_BY = re.compile(r"\bby \(([^)]*)\)")
_TOKEN = "of an administrator"


def rules() -> list[dict[str, Any]]:
    document = require_module("yaml").safe_load(RULES.read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return document


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = dashboard()["panels"]
    return found


def queries() -> dict[str, str]:
    """What the dashboard asks, by where it does."""
    found = {
        f"{panel['id']} {panel['title']} {target['refId']}": target["expr"]
        for panel in panels()
        for target in panel.get("targets", ())
    }
    found |= {f"annotation {each['name']}": each["expr"] for each in dashboard()["annotations"]["list"]}
    found |= {
        f"variable {each['name']}": each["query"]["query"]
        for each in dashboard()["templating"]["list"]
        if each["type"] == "query"
    }
    return found


def whole(families: Iterator[Metric]) -> dict[str, dict[str, set[str]]]:
    """The names of samples, the labels of each and the values that these have."""
    found: dict[str, dict[str, set[str]]] = {}
    for family in families:
        # One that counts nothing yet, by a label, has no sample.
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        for suffix in suffixes:
            found.setdefault(family.name.removesuffix("_total") + suffix, {})
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


@pytest.fixture
def figures(server: StartServer) -> dict[str, dict[str, set[str]]]:
    """Those of two workers, which a relay joins; and of TLS, a polled source and KIS."""
    target = server("--workers", "2", feed="sim", admin_token=_TOKEN)
    status, body = target.get("/metrics", headers={"Authorization": f"Bearer {_TOKEN}"})
    assert status == 200
    found = whole(iter(asked()[1]))
    for name, labels in whole(text_string_to_metric_families(body.decode())).items():
        for label, values in labels.items():
            found.setdefault(name, {}).setdefault(label, set()).update(values)
        found.setdefault(name, {})
    return found


def test_all_figures_that_are_asked_for_are_there(figures: dict[str, dict[str, set[str]]]) -> None:
    asked_for = queries() | {rule["alert"]: rule["expr"] for rule in rules()}
    assert len(asked_for) > 60
    labels_known = {label for labels in figures.values() for label in labels} | _GIVEN
    for place, expression in asked_for.items():
        names = set(_NAME.findall(expression))
        assert names <= figures.keys(), f"{place}: {names - figures.keys()}"
        for name, matchers in _SELECTED.findall(expression):
            for label, operator, value in _MATCHER.findall(matchers):
                if label in ("job", "instance"):
                    continue
                known = figures[name].get(label, set()) | REASONS.get(name.removesuffix("_total"), set())
                wanted = set(value.split("|")) if operator == "=~" else {value}
                assert wanted <= known, f"{place}: {label} of {name} is never {wanted - known}"
        for names_given in _BY.findall(expression):
            assert {label.strip() for label in names_given.split(",")} <= labels_known, place


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        [require_program("promtool"), *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_alert_fires_and_none_on_a_quiet_day() -> None:
    promtool("test", "rules", PROMETHEUS / "fastws.test.yml")
    bad, quiet = require_module("yaml").safe_load((PROMETHEUS / "fastws.test.yml").read_text())["tests"]
    expected = {
        re.sub(r'.*"(\w+)".*', r"\1", sample["labels"])
        for sample in bad["promql_expr_test"][0]["exp_samples"]
    }
    assert expected == {rule["alert"] for rule in rules()}

    def asked_of(scenario: dict[str, Any]) -> set[str]:
        return {name for each in scenario["input_series"] for name in re.findall(r"^\w+", each["series"])}

    # Silence of figures that are not there would say nothing.
    assert asked_of(quiet) == asked_of(bad)


def test_each_alert_says_what_it_means_and_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert rule["annotations"].keys() == {"summary", "action"}, rule["alert"]


def test_prometheus_takes_its_configuration() -> None:
    promtool("check", "config", PROMETHEUS / "prometheus.yml")
    (scrape,) = require_module("yaml").safe_load((PROMETHEUS / "prometheus.yml").read_text())[
        "scrape_configs"
    ]
    # Where fastws@.service lets them be asked, and under the name that the rules have.
    assert scrape["static_configs"] == [{"targets": [f"127.0.0.1:900{n}" for n in range(3)]}]
    assert scrape["job_name"] == "fastws"


def test_prometheus_understands_the_dashboard(tmp_path: Path) -> None:
    expressions = [text for place, text in queries().items() if not place.startswith("variable")]
    filled = [text.replace("$__rate_interval", "1m").replace("$", "") for text in expressions]
    path = tmp_path / "rules.yml"
    recorded = [{"record": f"panel:{n}", "expr": text} for n, text in enumerate(filled)]
    # JSON is YAML.
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": recorded}]}))
    assert f"{len(recorded)} rules found" in promtool("check", "rules", path)


def test_the_panels_do_not_lie_on_each_other() -> None:
    taken: dict[tuple[int, int], int] = {}
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["id"]) == panel["id"], panel["title"]
    assert len({panel["id"] for panel in panels()}) == len(panels())
    titles = [panel["title"] for panel in panels() if panel["type"] != "row"]
    assert len(titles) > 30
    # Whose data source whoever imports it chooses.
    sources = {panel["datasource"]["uid"] for panel in panels() if panel["type"] != "row"}
    assert sources == {"${datasource}"}
