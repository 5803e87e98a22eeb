"""What the command line imports: a command what it needs, and the list of commands next to nothing."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import pytest

from fastws.cli import COMMANDS, main
from fastws.cli.parsers import make_parser

_SCRIPT = """
import contextlib, json, sys
before = set(sys.modules)
from fastws.cli import main
with contextlib.suppress(SystemExit):
    main(sys.argv[1:])
print(json.dumps(sorted(set(sys.modules) - before)), file=sys.stderr)
"""

# Of optional dependencies, which are all installed here.
HEAVY = {"rich", "pandas", "matplotlib", "yaml", "yfinance", "psycopg"}


def imported(*arguments: str) -> set[str]:
    result = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    return set(json.loads(result.stderr))


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_the_list_of_commands_needs_none_of_them(flag: str) -> None:
    modules = imported(flag)
    # Nothing of others at all: what is here came with Python.
    assert {name.partition(".")[0] for name in modules} <= sys.stdlib_module_names | {"fastws"}
    assert {name for name in modules if name.startswith("fastws")} == {
        "fastws", "fastws._version", "fastws.cli", "fastws.cli.parsers", "fastws.errors",
    }  # fmt: skip
    assert "asyncio" not in modules


@pytest.mark.parametrize("command", ["token", "bench", "top", "import"])
def test_a_command_needs_no_server(command: str) -> None:
    if command == "bench" and sys.platform != "linux":
        pytest.skip("the load client is built on epoll")
    modules = imported(command, "--help")
    assert not any(name.startswith(("fastws.server", "fastws.feeds.kis", "fastws._core")) for name in modules)
    assert not {"aiohttp", "uvloop", *HEAVY} & modules
    if command == "top":
        assert "structlog" not in modules


@pytest.mark.parametrize("command", ["serve", "feed"])
def test_what_runs_for_months_holds_nothing_of_extras(command: str) -> None:
    assert not HEAVY & imported(command, "--help")


def test_every_command_is_where_it_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        for name in (command.name, *command.aliases):
            with pytest.raises(SystemExit) as caught:
                main([name, "--help"])
            assert caught.value.code == 0
            text = capsys.readouterr().out
            assert text.startswith(f"usage: fastws {command.name} ")
            # As argparse has wrapped it.
            purpose = command.purpose[0].upper() + command.purpose[1:] + "."
            assert purpose in " ".join(text.split())


def test_flags_are_added_once() -> None:
    parser = make_parser("", "", COMMANDS)
    for _ in range(2):
        options, unknown = parser.parse_known_args(["token", "--sub", "u"])
        assert (options.sub, unknown) == ("u", [])
        assert isinstance(options.command, argparse.ArgumentParser)
        assert callable(options.run)
