"""Settings from a file and the environment: whatever they are, all that is said of them are SettingsErrors."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from fastws import configuration
from fastws.errors import SettingsError
from fastws.settings import SETTINGS, Settings

TOKENS = (
    *(f"\n{name} = ".encode() for name in SETTINGS),
    *(f"\n{setting.variable}=".encode() for setting in SETTINGS.values()),
    *(
        b"\n---\n",
        b'"',
        b"[",
        b"]",
        b"{",
        b"}",
        b"true",
        b"1e9",
        b"inf",
        b"nan",
        b"0x1",
        b"'x'",
        b'["a"]',
        b"replay:",
    ),
)
_BETWEEN = b"\n---\n"
# Settings that name files may name these, and reading them never ends.
_DEVICES = (b"/dev", b"/proc", b"\\")


def check(data: bytes) -> None:
    if any(device in data for device in _DEVICES):
        return
    text, _, variables = data.partition(_BETWEEN)
    path = directory() / "fastws.toml"
    path.write_bytes(text)
    environ = dict(environment(variables))
    reading = configuration.read(str(path), environ, {})
    for problem in reading.problems:
        assert isinstance(problem, SettingsError)
        assert str(problem)
        check_secrets(str(problem), reading.settings, environ)
    assert isinstance(reading.settings, Settings)
    try:
        loaded = configuration.load(str(path), environ, {})
    except SettingsError:
        assert reading.problems
    else:
        assert not reading.problems
        assert repr(loaded) == repr(reading.settings)


def check_secrets(text: str, settings: Settings, environ: dict[str, str]) -> None:
    """What is wrong with a secret is said without it."""
    for setting in SETTINGS.values():
        value = environ.get(setting.variable, "")
        if setting.is_secret and len(value) >= 8 and value not in "".join(SETTINGS):
            assert value not in text


def environment(lines: bytes) -> Iterator[tuple[str, str]]:
    for line in lines.split(b"\n"):
        name, _, value = line.decode("utf-8", "surrogateescape").partition("=")
        # As an environment may be: no NUL, and a name.
        if name and "\0" not in line.decode("latin-1"):
            yield name, value


@cache
def directory() -> Path:
    return Path(tempfile.mkdtemp(prefix="fastws-fuzz-"))


def seeds() -> Iterator[bytes]:
    yield b""
    yield b'host = "0.0.0.0"\nport = 8000\nfeed = "sim"\nallowed_origins = ["https://app.example"]\n'
    yield b'[jwt_keys]\nkey-1 = "a secret of more than thirty-two bytes"\n'
    yield b'jwt_algorithm = "ES256"\njwt_secret = "short"\n'
    yield b'port = 99999\nprot = 1\nworkers = "two"\nbatch_interval_ms = 1.5\n'
    yield (
        b"port = 1"
        + _BETWEEN
        + b"FASTWS_PORT=2\nFASTWS_RATE_LIMIT=many\nFASTWS_NOTHING=1\nREALTIME_BATCH_SIZE=5"
    )
    yield (
        b"port = \xff"
        + _BETWEEN
        + b"FASTWS_PORT=tcp://10.0.0.1:8000\nFASTWS_JWT_SECRET=a secret of some length"
    )
    yield b"a = " + b"[" * 300
    for first in range(0, len(SETTINGS), 25):
        names = list(SETTINGS)[first : first + 25]
        yield b"\n".join(f"{name} = 1".encode() for name in names)
        yield _BETWEEN + b"\n".join(f"{SETTINGS[name].variable}=1".encode() for name in names)
