"""Fixtures of all tests."""

from __future__ import annotations

import gc
import logging
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from tests.certificates import files, forced
from tests.outcomes import note
from tests.serving import Server

BEGAN = pytest.StashKey[float]()
OUTCOMES = ("passed", "failed", "error", "skipped")

StartServer = Callable[..., Server]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tls",
        action="store_true",
        help="let every server of the tests speak TLS, where they run some in plain only and some both ways; "
        "tests of what TLS cannot have (mark `plain`) are skipped",
    )
    parser.addoption(
        "--long", action="store_true", help="run the tests that take long (mark `long`), and only those"
    )
    # One word: what follows an option that is not known yet would be taken for the path of a test.
    parser.addoption(
        "--outcome", metavar="BUILD:PATH", help="note what the tests of this build came to, as JSON"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[BEGAN] = time.monotonic()
    # A shell without job control starts what it puts into the background deaf to Ctrl-C, and so what that starts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "plain(reason): why a test cannot run over TLS; skipped with --tls")
    config.addinivalue_line("markers", "long: measures for a while; left out without --long")
    if config.getoption("tls"):
        forced["certfile"] = str(files().certfile)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    is_long = config.getoption("long")
    others = [item for item in items if (item.get_closest_marker("long") is None) is is_long]
    items[:] = [item for item in items if (item.get_closest_marker("long") is not None) is is_long]
    if others:
        config.hook.pytest_deselected(items=others)
    if not forced:
        return
    for item in items:
        for mark in item.iter_markers("plain"):
            item.add_marker(pytest.mark.skip(reason=f"not over TLS: {mark.args[0]}"))


def pytest_collection_finish() -> None:
    # Thousands of tests stay to the end: a collector that looked at them each time would take longer than the tests.
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    if config.getoption("outcome"):
        build, _, path = config.getoption("outcome").partition(":")
        counts = ((name, len(terminalreporter.stats.get(name, ()))) for name in OUTCOMES)
        ran = ", ".join(f"{n:,} {name}" for name, n in counts if n)
        note(Path(path), build, ran, exitstatus == pytest.ExitCode.OK, time.monotonic() - config.stash[BEGAN])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "over" in metafunc.fixturenames:
        metafunc.parametrize("over", ["tls"] if forced else ["tcp", "tls"], indirect=True)


@pytest.fixture(autouse=True)
def own_logs() -> Iterator[None]:
    """What a test makes of logging in this process ends with it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def over(request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings for ``server(..., **over)``, with which a test runs twice: in plain, and with TLS."""
    return {} if request.param == "tcp" else {"certfile": str(files().certfile)}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StartServer]:
    """Start servers with ``server("--feed", "sim", rate_limit=5)``; each is ended, and checked, with the test."""
    yield from _servers(tmp_path)


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Like `server`, for the tests of a module: the same flags and settings give the same server."""
    started: dict[tuple[object, ...], Server] = {}
    starting = _servers(tmp_path_factory.mktemp("servers"))
    start = next(starting)

    def shared(*flags: str, **settings: object) -> Server:
        key = (flags, tuple(sorted(settings.items())))
        if key not in started:
            started[key] = start(*flags, **settings)
        return started[key]

    yield shared
    next(starting, None)


def _servers(directory: Path) -> Iterator[StartServer]:
    started: list[Server] = []

    def start(*flags: str, **settings: object) -> Server:
        started.append(Server(directory, *flags, **settings))
        return started[-1]

    yield start
    failures = []
    for server in started:
        try:
            server.end()
        except (AssertionError, pytest.fail.Exception) as failure:
            failures.append(str(failure))
    assert not failures, "\n".join(failures)
