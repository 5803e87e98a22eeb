"""``fastws check-config``: what is shown of settings, and every problem that a start would meet."""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import structlog

from fastws.cli import main
from fastws.cli.config_report import WIDTH
from fastws.settings import SETTINGS
from fastws.settings_catalog import Setting
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
    header, *lines, room, last = lines_of(capsys)
    assert re.fullmatch(r"\d+ connections fit, by the limit of file descriptors", room)
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
        # Nobody answers there.
        assert main(["check-config", *arguments, *given]) == 2
        captured = capsys.readouterr()
        assert SECRET not in captured.out + captured.err
        text = captured.out + captured.err
        assert "hid" not in text.replace("hide", "")
        assert ":***" in text
    settings = {setting["name"]: setting for setting in document_of(capsys, *arguments, status=2)["settings"]}
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
    for host in ("localhost", "127.0.0.2"):
        lines_of(capsys, "--host", host)
    assert main(["check-config", "--host", "0.0.0.0"]) == 0
    assert "/metrics can be reached wherever clients can" in capsys.readouterr().err
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


def test_a_missing_driver_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    # Of another driver than the one that there is an extra for.
    (problem,) = problems_of(capsys, "--database", "postgresql+pg8000://host/x")
    assert 'write postgresql+psycopg:// and pip install "psycopg[binary]"' in problem


def test_what_is_in_a_database_is_looked_at(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    lines_of(capsys, "--database", f"sqlite:///{tmp_path}/empty.db")
    file = tmp_path / "x.db"
    url = f"sqlite:///{file}"
    file.write_bytes(b"this is no database" * 1000)
    (problem,) = problems_of(capsys, "--database", url)
    assert re.fullmatch(rf"database {url}: file is not a database", problem)
    file.unlink()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE schema_version (version INTEGER)")
        connection.execute("INSERT INTO schema_version VALUES (3)")
        connection.commit()
        # It is open, and again when it is not, and neither leaves anything behind.
        lines_of(capsys, "--database", url)
    before = sorted(tmp_path.iterdir())
    lines_of(capsys, "--database", url)
    assert sorted(tmp_path.iterdir()) == before
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("INSERT INTO schema_version VALUES (99)")
        connection.commit()
    (problem,) = problems_of(capsys, "--database", url)
    assert "was written by a newer fastws" in problem


def test_a_database_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    url = "postgresql+psycopg://user:hidden@127.0.0.1:1/db"
    (problem,) = problems_of(capsys, "--database", url)
    assert problem.startswith("database postgresql+psycopg://user:***@127.0.0.1:1/db: connection failed")
    assert "hidden" not in problem


def test_the_place_of_a_relative_database(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"the database is the file {tmp_path}/x.db" in lines_of(capsys, "--database", "sqlite:///x.db")
    assert document_of(capsys, "--database", "sqlite:///x.db")["database_file"] == f"{tmp_path}/x.db"


@pytest.mark.parametrize(
    ("bind", "host", "collide"),
    [
        ("127.0.0.1:9000", "127.0.0.1", True),
        ("0.0.0.0:9000", "127.0.0.1", True),
        ("localhost:9000", "127.0.0.1", True),
        ("127.0.0.1:9000", "0.0.0.0", True),
        ("[::]:9000", "::1", True),
        ("[::1]:9000", "127.0.0.1", False),
        ("127.0.0.1:9000", "127.0.0.2", False),
        ("127.0.0.1:9001", "127.0.0.1", False),
    ],
)
def test_the_administrators_address_is_another(
    capsys: pytest.CaptureFixture[str], bind: str, host: str, collide: bool
) -> None:
    arguments = ("--admin-bind", bind, "--host", host, "--port", "9000")
    assert main(["check-config", *arguments]) == (2 if collide else 0)
    error = capsys.readouterr().err
    text = (
        f"error: admin_bind: {bind} is also where clients connect: host {host}, port 9000 (from --admin-bind)"
    )
    assert (text in error) == collide


def test_only_a_unix_socket_leaves_the_port_to_the_administrator(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lines_of(capsys, "--admin-bind", "127.0.0.1:8000", "--unix-socket", str(tmp_path / "s"))


def test_what_works_and_may_not_be_meant(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastws.server.advice.capacity", lambda: 5000)
    assert main(["check-config", "--admin-token", "x" * 16]) == 0
    assert capsys.readouterr().err == ""
    for flags, config, text in (
        (("--admin-token", "x" * 15), "", "admin_token is short"),
        (("--host", "0.0.0.0"), "", "/metrics can be reached wherever clients can"),
        ((), "connection_limit = 5001", "connection_limit is 5001 and only 5000 connections fit"),
        (("--workers", "2"), "connection_limit = 10001", "and only 10000 connections fit"),
        (("--workers", "3"), "handshake_rate = 5", "an address up to 15 handshakes a second"),
    ):
        assert main(["check-config", *flags, "--config", write(tmp_path, config)]) == 0
        error = capsys.readouterr().err
        assert text in error
        assert len(error.splitlines()) == 1
    monkeypatch.setattr("fastws.server.advice.capacity", lambda: 900)
    assert main(["check-config"]) == 0
    assert "only 900 connections fit" in capsys.readouterr().err


def test_help_lists_choices(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    text = capsys.readouterr().out
    assert all(choices in text for choices in (": reject|evict_oldest", ": reject|accept", ": HS256|HS384|"))


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


def test_what_is_to_be_loaded_is_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As at the start: in the working directory, and without being run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_feed.py").write_text("raise RuntimeError")
    assert any("my_feed:setup" in line for line in lines_of(capsys, "--load", "my_feed:setup"))
    (problem,) = problems_of(capsys, "--load", "my_fed:setup")
    assert problem.startswith("load")
    assert "No module named 'my_fed'" in problem
