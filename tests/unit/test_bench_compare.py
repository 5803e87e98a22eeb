"""Two results of a load test side by side."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("the load client is built on epoll", allow_module_level=True)

from fastws.bench.compare import FORMAT, CompareError, compare, load


def document() -> dict[str, Any]:
    latency = {"p50_ms": 10.0, "p90_ms": 20.0, "p99_ms": 30.0, "p999_ms": 31.0, "max_ms": 40.0}
    return {
        "format": FORMAT,
        "plan": {"connections": 100, "pid": 5, "subscriptions": ["stock:A"]},
        "machine": {"processor": "P", "cores": 2, "kernel": "6.1", "load_average": [0.1, 0.2, 0.3]},
        "run": {
            "connect_s": 0.5,
            "load": {
                "messages_per_second": 1000.0,
                "bytes_per_second": 2_500_000.0,
                "latency": latency,
                "ping": None,
                "client": {"cpu_share": 0.1},
                "lost": 0,
                "duplicates": 0,
            },
            "server": {"cpu_cores": 0.2, "rss_most": 50 << 20},
        },
        "storm": None,
        "notes": [],
        "faults": [],
    }


def rows(text: str) -> dict[str, list[str]]:
    return {line[:22].strip(): line[22:].split() for line in text.splitlines()}


def test_figures_and_their_change() -> None:
    first, second = document(), document()
    second["run"]["load"]["messages_per_second"] = 1500.0
    second["run"]["load"]["latency"]["p99_ms"] = 15.0
    second["run"]["load"]["lost"] = 7
    text = compare(("a.json", "b.json"), (first, second))
    table = rows(text)
    assert table[""] == ["a.json", "b.json", "change"]
    assert table["messages/s"] == ["1,000", "1,500", "+50.0%"]
    assert table["latency p99, ms"] == ["30.0", "15.0", "-50.0%"]
    assert table["latency p50, ms"] == ["10.0", "10.0", "="]
    assert table["MB/s"] == ["2.50", "2.50", "="]
    assert table["server, MiB"] == ["50.0", "50.0", "="]
    assert table["lost"] == ["0", "7"], "there is no percentage of nothing"
    assert "ping p99, ms" not in table, "neither has it"
    assert "differs" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_what_only_one_has() -> None:
    first, second = document(), document()
    first["run"]["server"] = None
    second["run"]["load"]["ping"] = {"p50_ms": 0.5, "p99_ms": 1.5}
    second["storm"] = {"seconds": 2.5}
    table = rows(compare(("a", "b"), (first, second)))
    assert table["server, cores"] == ["-", "0.200"]
    assert table["ping p99, ms"] == ["-", "1.5"]
    assert table["back from the cut, s"] == ["-", "2.50"]


def test_what_makes_them_hard_to_compare() -> None:
    first = document()
    second = copy.deepcopy(first)
    second["plan"] |= {"connections": 200, "pid": 6, "subscriptions": []}
    second["machine"] |= {"cores": 4, "load_average": [9, 9, 9]}
    second["notes"] = ["the generator was the bottleneck"]
    second["faults"] = ["1 messages came twice"]
    lines = compare(("a", "b"), (first, second)).splitlines()
    assert "differs: connections 100 and 200" in lines
    assert "differs: subscriptions stock:A and none" in lines
    assert "differs: cores 2 and 4" in lines
    assert "b: the generator was the bottleneck" in lines
    assert "b: FAULT: 1 messages came twice" in lines
    assert not any("pid" in line or "load_average" in line for line in lines)


def test_long_names_keep_their_end() -> None:
    text = compare(("results/of/monday/a.json", "b"), (document(), document()))
    assert text.splitlines()[0].split()[0] == "…of/monday/a.json"


def test_a_file_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document()))
    assert load(path) == document()


@pytest.mark.parametrize(
    "text", ["", "no json", "[]", "{}", '{"format":99,"plan":{}}', '{"format":1}', '{"format":1,"plan":{}}']
)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(CompareError, match=r"other\.json is no"):
        load(path)
