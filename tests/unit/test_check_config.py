"""``fastws check-config``: what is shown of settings, and every problem that a start would meet."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from fastws.cli import main
from fastws.cli.config_report import WIDTH
from fastws.settings import SETTINGS, Setting
from tests.certificates import Authority

SECRET = "a secret of a length that is long enough"


@pytest.fixture(autouse=True)
def _only_given_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in os.environ:
        if variable.startswith("FASTWS_"):
            monkeypatch.delenv(variable)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["check-config", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out.splitlines()


def problems_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["check-config", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    *problems, last = captured.err.splitlines()
    assert last.startswith(f"{len(problems)} problem")
    assert all(problem.startswith("fastws: error: ") for problem in problems)
    return [problem.removeprefix("fastws: error: ") for problem in problems]


def document_of(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    assert main(["check-config", "--json", *arguments]) == status
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def write(directory: Path, text: str, name: str = "fastws.toml") -> str:
    path = directory / name
    path.write_text(text)
    return str(path)


# What is shown.


def test_every_setting_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    header, *lines, last = lines_of(capsys)
    assert header.split() == ["SETTING", "VALUE", "TAKES", "SOURCE"]
    assert [line.split()[0] for line in lines] == list(SETTINGS)
    assert last == "ok: every setting has its default"
    for line in lines:
        assert line.startswith("  ")
        assert line.endswith("default")


def test_values_have_units_sources_and_marks(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write(tmp_path, "batch_interval_ms = 50\nrate_limit = 100\nstall_timeout = 5\n")
    monkeypatch.setenv("FASTWS_SUBSCRIPTION_LIMIT", "7")
    monkeypatch.setenv("WEBSOCKET_TIMEOUT", "60")
    monkeypatch.chdir(tmp_path)
    _, *lines, last = lines_of(capsys, "--config", "fastws.toml", "--replay-loop")
    found = {" ".join(line.split()) for line in lines}
    assert found >= {
        "* batch_interval_ms 50 ms restart fastws.toml",
        # It is given, and is what it would be anyway.
        "rate_limit 100 messages/s reload fastws.toml",
        "* stall_timeout 5 s reload fastws.toml",
        "* subscription_limit 7 subscriptions reload FASTWS_SUBSCRIPTION_LIMIT",
        "* idle_timeout 60 s reload WEBSOCKET_TIMEOUT",
        "* replay_loop true restart --replay-loop",
        "certfile unset reload default",
    }
    assert last == "ok: 5 settings differ from their defaults"
    document = document_of(capsys, "--config", config, "--replay-loop")
    kinds = {setting["name"]: setting["source_kind"] for setting in document["settings"]}
    assert [kinds[name] for name in ("rate_limit", "idle_timeout", "subscription_limit", "replay_loop", "port")] == [
        "file", "variable", "variable", "flag", "default",
    ]  # fmt: skip


def test_nothing_is_wider_than_the_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    directory = tmp_path / ("a-long-name-" * 10)
    directory.mkdir()
    origins = [f"https://{name}.example.com:8443" for name in ("one", "two", "three", "four")]
    config = write(directory, f"allowed_origins = {json.dumps(origins)}\nuser_id_claim = '{'x' * 300}'\n")
    lines = lines_of(capsys, "--config", config)
    assert max(map(len, lines)) == WIDTH
    text = "".join(line[27:].split("  ")[0].strip() for line in lines)
    assert all(origin in text for origin in origins)
    assert "x" * 300 in text
    # The end of a path says which file it is.
    assert any(line.endswith("-a-long-name-/fastws.toml") for line in lines)


def test_secrets_are_not_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write(
        tmp_path,
        f'jwt_secret = "{SECRET}"\njwt_previous_secret = "{SECRET}"\nadmin_token = "{SECRET}"\n'
        f'[jwt_keys]\nk1 = "{SECRET}"\n',
    )
    url = "postgresql+psycopg://user:hid/den@host/db?password=hidden"
    arguments = ("--config", config, "--database", url)
    for given in ((), ("--json",)):
        assert main(["check-config", *arguments, *given]) == 0
        captured = capsys.readouterr()
        assert SECRET not in captured.out + captured.err
        assert "hid" not in captured.out.replace("hide", "")
        assert ":***" in captured.out
    settings = {setting["name"]: setting for setting in document_of(capsys, *arguments)["settings"]}
    assert settings["database"]["value"] == "postgresql+psycopg://user:***@host/db?password=***"
    for name in ("jwt_secret", "jwt_previous_secret", "admin_token", "jwt_keys"):
        assert settings[name]["value"] == "***"
        assert settings[name]["is_default"] is False
    assert document_of(capsys)["settings"][list(SETTINGS).index("jwt_secret")]["value"] is None


def test_json_has_values_of_their_types(capsys: pytest.CaptureFixture[str]) -> None:
    document = document_of(capsys, "--port", "9000", "--allowed-origins", "https://a.example")
    assert (document["ok"], document["problems"]) == (True, [])
    settings = {setting["name"]: setting for setting in document["settings"]}
    assert list(settings) == list(SETTINGS)
    assert settings["port"] == {
        "name": "port",
        "value": 9000,
        "is_default": False,
        "source": "--port",
        "source_kind": "flag",
        "default": 8000,
        "unit": None,
        "takes": "restart",
        "description": SETTINGS["port"].description,
    }
    assert settings["allowed_origins"]["value"] == ["https://a.example"]
    assert settings["host"]["value"] == "127.0.0.1"
    assert settings["compression"]["value"] is True
    assert settings["batch_interval_ms"]["unit"] == "ms"
    assert settings["shutdown_timeout"]["takes"] == "reload"


# What is found.


def test_every_problem_is_reported(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    symbols = write(tmp_path, "symbol,name\n", "symbols.csv")
    config = write(
        tmp_path,
        'rate_limit = "7"\nbatch_intervall_ms = 5\nping_interval = 30\npong_timeout = 20\njwt_algorithm = "RS256"\n'
        f'symbols_file = "{symbols}"\nallowed_origins = ["nonsense"]\n',
    )
    monkeypatch.setenv("FASTWS_PORT", "x")
    monkeypatch.setenv("FASTWS_NONSENSE", "1")
    problems = problems_of(
        capsys, "--config", config, "--feed", "replay:nowhere", "--database", "sqlite:////nowhere/x.db",
        "--unix-socket", "/nowhere/x", "--certfile", __file__, "--host", "203.0.113.1",
    )  # fmt: skip
    assert [problem.partition(":")[0] for problem in problems] == [
        "rate_limit", "batch_intervall_ms", "FASTWS_NONSENSE", "port", "allowed_origins", "ping_interval", "feed",
        "host", "unix_socket", "certfile", "symbols_file", "database", "jwt_algorithm",
    ]  # fmt: skip
    assert "did you mean batch_interval_ms?" in problems[1]
    assert "(from FASTWS_PORT)" in problems[3]
    assert "/nowhere" in problems[8]
    assert "symbols.csv" in problems[10]
    document = document_of(capsys, "--config", config, status=2)
    assert document["ok"] is False
    assert document["problems"][0]["setting"] == "rate_limit"
    settings = {setting["name"]: setting for setting in document["settings"]}
    assert "value" not in settings["rate_limit"]
    assert settings["symbols_file"]["value"] == symbols


def test_a_default_in_the_place_of_a_wrong_value_is_not_blamed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = write(
        tmp_path, 'ping_interval = "x"\npong_timeout = 20\njwt_algorithm = "X"\njwt_public_key = "/nowhere"\n'
    )
    problems = problems_of(capsys, "--config", config)
    assert [problem.partition(":")[0] for problem in problems] == ["ping_interval", "jwt_algorithm"]
    config = write(tmp_path, "ping_interval = 30\npong_timeout = 20\n")
    assert len(problems_of(capsys, "--config", config)) == 1


def test_a_file_that_cannot_be_read_and_a_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTWS_PORT", "x")
    problems = problems_of(capsys, "--config", "/no/such.toml")
    assert [problem.partition(":")[0] for problem in problems] == ["config", "port"]


def test_certificate_and_key(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    authority = Authority()
    certificate, key, other = (tmp_path / name for name in ("cert.pem", "key.pem", "other.pem"))
    authority.issue(certificate, key)
    authority.issue(tmp_path / "unused.pem", other)
    lines_of(capsys, "--certfile", str(certificate), "--keyfile", str(key))
    (problem,) = problems_of(capsys, "--certfile", str(certificate), "--keyfile", str(other))
    assert problem.startswith("keyfile: ")
    assert "does not belong" in problem


def test_keys_are_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = write(tmp_path, 'jwt_algorithm = "RS256"\njwt_public_key = "nowhere.pem"\n')
    (problem,) = problems_of(capsys, "--config", config)
    assert problem.startswith("jwt_public_key: ")
    # What the server would warn of is told as well.
    assert main(["check-config", "--jwt-secret", "short"]) == 0
    captured = capsys.readouterr()
    assert "the secret is short" in captured.err
    assert "short" not in captured.out


def test_addresses_of_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    for host in ("0.0.0.0", "localhost", "127.0.0.2"):
        lines_of(capsys, "--host", host)
    for host in ("no such host", "203.0.113.1", "a..b"):
        (problem,) = problems_of(capsys, "--host", host)
        assert problem.startswith("host: ")
        assert "use 127.0.0.1" in problem


def test_a_unix_socket_that_could_not_be_made(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lines_of(capsys, "--unix-socket", str(tmp_path / "s"))
    assert not (tmp_path / "s").exists()
    for path in (tmp_path / "none" / "s", tmp_path / ("x" * 120), Path(__file__)):
        (problem,) = problems_of(capsys, "--unix-socket", str(path))
        assert problem.startswith("unix_socket: ")


@pytest.mark.parametrize(
    "url", ["nonsense", "nosuchdb://host/x", "sqlite:///no/such/directory/x.db", "oracle://host/x"]
)
def test_databases_that_cannot_be(capsys: pytest.CaptureFixture[str], url: str) -> None:
    (problem,) = problems_of(capsys, "--database", url)
    assert problem.startswith("database: ")


def test_a_database_is_not_made(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lines_of(capsys, "--database", f"sqlite:///{tmp_path}/x.db")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_flag_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "--prot", "1"]) == 2
    assert (
        "--prot: unknown option, did you mean --port? (see fastws check-config --help)"
        in capsys.readouterr().err
    )


def test_help_says_what_takes_a_restart(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("serve", "check-config"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert "On SIGHUP the server reads" in text
        for setting in SETTINGS.values():
            # Where the setting is described, with or without a flag.
            is_marked = bool(
                re.search(rf"{re.escape(setting.default_text)}\) \[restart\]", text_of(text, setting))
            )
            assert is_marked == setting.needs_restart, setting.name


def text_of(text: str, setting: Setting) -> str:
    """The part of a help text that is about a setting: from its name or flag to the mark, if there is one."""
    described = text.index(setting.description)
    if (flag := text.find(f" {setting.name} (")) >= 0:
        return text[flag:described]
    return text[described : described + len(setting.description) + len(setting.default_text) + 40]
