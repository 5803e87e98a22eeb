"""``python -m fastws.kis.testing``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from typing import Any, Final

import msgspec
import uvloop

from fastws import logs
from fastws.errors import FastwsError
from fastws.kis.testing import actions, script
from fastws.kis.testing.server import FakeKIS
from fastws.kis.testing.settings import FakeSettings, ScriptError, example_keys
from fastws.market.instruments import Instruments

PROG: Final = "python -m fastws.kis.testing"
_FAILED: Final = 1
_USAGE: Final = 2

_INTRODUCTION: Final = """\
A KIS server for development at night and for tests: keys, quotations and the
real-time WebSocket, with the limits of the real one. Without a script it plays
the simulator's market for every symbol that is registered. It prints what to
export so that a client of KIS comes here instead.
"""

_CONTROL: Final = """\
over HTTP, while it runs:
  curl -s URL/_fake                                  what is going on
  curl -s URL/_fake/requests                         what clients sent; also sessions, calls, violations
  curl -s URL/_fake -d '{"do": "drop"}'              do something; a list does several things
  curl -s URL/_fake -d '{"do": "set", "settings": {"cap": 3}}'
"""


def _epilog() -> str:
    when = (script.__doc__ or "").partition("\n\n")[2].rstrip()
    return "\n".join(
        [
            "scripts:",
            *(f"  {line}" if line else "" for line in when.replace("``", "").replace("::", ":").splitlines()),
            "",
            "actions, for `do`; app_key narrows each of them to the sessions of one app key. What",
            "has times and seconds waits to be met, and then happens once, or so often, or for so",
            "long (all that are met meanwhile):",
            *(f"  {line}" if line else "" for line in actions.describe().splitlines()),
            "",
            "settings, with their defaults (times in seconds):",
            *(f"  {line}" for line in _settings()),
            "",
            _CONTROL,
        ]
    )


def _settings() -> list[str]:
    lines = []
    for name, value in msgspec.structs.asdict(FakeSettings()).items():
        shown = "one example key" if name == "app_keys" else msgspec.json.encode(value).decode()
        lines.append(f"{name} = {shown}")
    return lines


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=PROG,
        description=_INTRODUCTION,
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--host", default="127.0.0.1", help="(default: %(default)s)")
    add("--port", type=int, default=9443, help="0 for a free one (default: %(default)s)")
    add("--script", metavar="FILE", help="what is to happen when; TOML (.toml) or JSON lines, see below")
    add("--play", metavar="FILE", help="play these messages over and over instead of the simulator's market")
    add("--rate", type=float, metavar="N", help="trades and books a second, together (default: 50)")
    add("--seed", type=int, metavar="N", help="of the simulator's market")
    add("--phase", metavar="PHASE", help="clock, pre_market, opening_auction, regular (default), closing_auction, "
        "after_market or closed")  # fmt: skip
    add("--cap", type=int, metavar="N", help="registrations of a session (default: 41)")
    add("--keys", type=int, metavar="N", help="how many example app keys there are (default: 1)")
    add("--any-key", action="store_true", help="accept every app key and secret")
    add("--paper", action="store_true", help="be the paper-trading environment")
    add("--symbols-file", metavar="FILE", help="the symbols of the market, as for fastws serve")
    add(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="any other setting, its value as JSON",
    )
    return made


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    logs.configure("info", "console")
    try:
        server = _server(options)
    except (FastwsError, ValueError) as error:
        print(f"{PROG}: error: {error}", file=sys.stderr)
        return _USAGE
    try:
        return uvloop.run(_serve(server, options.play))
    except KeyboardInterrupt:
        return 0


def _server(options: argparse.Namespace) -> FakeKIS:
    values: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("rate", "seed", "phase", "cap")
        if getattr(options, name) is not None
    }
    if options.keys is not None:
        values["app_keys"] = example_keys(options.keys)
    if options.any_key:
        values["any_app_key"] = True
    if options.paper:
        values["environment"] = "paper"
    if options.play:
        values["market"] = "none"
    for text in options.set:
        name, is_set, value = text.partition("=")
        if not is_set:
            raise ScriptError(f"--set {text}: expected NAME=VALUE, as cap=3")
        try:
            values[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            values[name] = value  # a text, which need not be quoted
    instruments = Instruments.load_symbols_file(options.symbols_file) if options.symbols_file else None
    loaded = script.load(options.script) if options.script else None
    return FakeKIS(host=options.host, port=options.port, script=loaded, instruments=instruments, **values)


async def _serve(server: FakeKIS, play: str | None) -> int:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    try:
        await server.start()
    except OSError as error:
        reason = error.strerror or str(error)
        print(f"{PROG}: error: cannot listen on {server.host} port {server.port}: {reason}; "
              "choose another --port, or 0 for a free one", file=sys.stderr)  # fmt: skip
        return _FAILED
    try:
        if play:
            server.do("play", file=play, loop=True, wait=True)
        _welcome(server)
        await ended.wait()
    except ScriptError as error:
        print(f"{PROG}: error: {error}", file=sys.stderr)
        return _USAGE
    finally:
        await server.stop()
    return 0


def _welcome(server: FakeKIS) -> None:
    lines = [f"The fake KIS server listens on {server.host} port {server.port}. In the client's shell:", ""]
    lines += [f"  export {name}={value}" for name, value in server.variables().items()]
    lines += [
        "",
        f"What it sees, and what it can be told: {server.rest_url}/_fake (see --help). Ctrl-C ends it.",
    ]
    others = list(server.settings.app_keys)[1:]
    if others:
        lines += ["", "Further app keys, with their secrets:"]
        lines += [f"  {key} {server.settings.app_keys[key]}" for key in others]
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # whoever read the help has seen enough
        sys.exit(main())
