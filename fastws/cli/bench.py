"""``fastws bench``: load on a server, and what came of it."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

from fastws._version import __version__
from fastws.bench import loadtest
from fastws.bench.compare import FORMAT, compare, load
from fastws.bench.plot import can_draw_blocks
from fastws.bench.progress import Progress
from fastws.bench.report import show
from fastws.bench.subscriptions import SYNTAX, RandomStocks, Subscription, parse, parse_lines, parse_random
from fastws.cli.arguments import count, duration, some_duration
from fastws.cli.parsers import FAILED, INTERRUPTED
from fastws.errors import FastwsError, SettingsError

DEFAULT_URL: Final = "ws://127.0.0.1:8000/v1/ws"
DEFAULT_RANDOM: Final = 10
DEFAULT_PINGS: Final = 10
WIDEST: Final = 100
BENCH_EXAMPLES: Final = f"""\
A subscription is
  {SYNTAX}
  as stock:005930 or stock:005930,000660,channels=price or market:KOSPI

The connections are opened and subscribed, and for --duration all that comes is
counted and timed. The server sets the rate: one with a feed, as fastws serve
--feed sim. A latency runs from the timestamp that the server gave a message to
its receipt, so both have to run on one machine, or on exact clocks. This is for
ws:// only, without TLS.

Ctrl-C and SIGTERM end the measurement early, with its report. The exit status is
0; 1 when messages were lost or came twice, none came at all, the server closed
connections, or the load could not be set up; 2 when a flag is wrong; 130 when
it was interrupted before there was anything to report; 141 when nobody reads
the report (--json is written).

examples:
  fastws bench --subscribe stock:005930,channels=price --duration 10 --pid "$PID"
      1,000 readers of one stock, and what the server needs for them
  fastws bench --connections 5000 --random 50,mode=latest --ping --json b.json
      each with its own fifty stocks, and round trips meanwhile
  fastws bench --compare a.json b.json
"""

_T = TypeVar("_T")


def fill_bench(bench: argparse.ArgumentParser) -> None:
    bench.epilog = BENCH_EXAMPLES
    add = bench.add_argument
    add("--url", default=DEFAULT_URL, help="the server, ws:// only (default: %(default)s)")
    add("--connections", type=count, default=1000, metavar="N", help="(default: %(default)d)")
    add(
        "--duration",
        type=some_duration,
        default=60.0,
        metavar="S",
        help="measured time (default: %(default)g s)",
    )
    add("--ramp-up", type=duration, default=10.0, metavar="S",
        help="spread the opening over so long, in steps of --batch-size (default: %(default)g s)")  # fmt: skip
    add("--batch-size", type=count, default=100, metavar="N",
        help="connections opened per step at most, and under way at a time (default: %(default)d)")  # fmt: skip
    what = bench.add_argument_group(
        "subscriptions",
        f"of every connection; all of mode all, or all of mode latest (default: --random {DEFAULT_RANDOM})",
    )
    what.add_argument("--subscribe", type=_as_type(parse), action="append", default=[], metavar="SUBSCRIPTION",
                      help="such as stock:005930; may be given several times")  # fmt: skip
    what.add_argument("--random", type=_as_type(parse_random), metavar="N[,OPTIONS]",
                      help="for each connection its own N of the server's /v1/stocks")  # fmt: skip
    what.add_argument("--file", type=Path, metavar="FILE", help="a subscription per line; # begins a comment")
    what.add_argument("--seed", type=int, default=1, help="of --random (default: %(default)d)")
    add("--token", metavar="JWT", help="authenticate with it; mind the server's connections_per_user")
    add(
        "--deflate",
        action="store_true",
        help="ask for compression; compressed messages are counted, not read",
    )
    add("--check", choices=("auto", "none", "edges", "full"), default="auto",
        help="full reads every message; edges only the ends of a batch, for one stock on one channel; "
        "auto takes the one that fits (default: %(default)s)")  # fmt: skip
    add("--pid", type=count, metavar="PID", help="the server's process, for its processor time and memory")
    add("--ping", type=count, nargs="?", const=DEFAULT_PINGS, default=0, metavar="N",
        help="N of the connections also time a ping ten times a second (N: %(const)d)")  # fmt: skip
    add("--slow-readers", type=count, default=0, metavar="N", help="N of the connections never read")
    add("--reconnect-storm", action="store_true",
        help="after --duration, cut all connections at once and restore their sessions")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write everything that was measured")
    add(
        "--compare",
        type=Path,
        nargs=2,
        metavar="FILE",
        help="instead of a load, compare two results of --json",
    )
    bench.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    if options.compare:
        first, second = options.compare
        print(compare((str(first), str(second)), (load(first), load(second))))
        return 0
    plan = _plan(options)
    if options.json and options.json.is_dir():
        raise SettingsError(f"--json: {options.json} is a directory; name a file")
    if options.json and not os.access(
        options.json if options.json.exists() else options.json.parent, os.W_OK
    ):
        raise SettingsError(f"--json: {options.json} cannot be written")
    try:
        measured = loadtest.run(plan, Progress(sys.stderr))
    except loadtest.Interrupted as error:
        print(f"{error}: there is nothing to report", file=sys.stderr)
        return INTERRUPTED
    document = {"format": FORMAT, "version": __version__} | measured
    width = min(WIDEST, shutil.get_terminal_size().columns) - 1
    # What was measured is lost neither with a file that cannot be written nor with a report that nobody reads.
    try:
        print(show(document, width=width, has_blocks=can_draw_blocks(sys.stdout.encoding)), flush=True)
    finally:
        if options.json:
            _write(options.json, document)
    return FAILED if document["faults"] else 0


def _write(path: Path, document: Mapping[str, Any]) -> None:
    try:
        path.write_text(json.dumps(document, indent=2) + "\n")
    except OSError as error:
        raise FastwsError(f"--json: {path} cannot be written: {error.strerror}") from None


def _plan(options: argparse.Namespace) -> loadtest.Plan:
    subscriptions = tuple(options.subscribe)
    if options.file:
        try:
            subscriptions += tuple(parse_lines(options.file.read_text().splitlines()))
        except OSError as error:
            raise SettingsError(f"--file: {options.file}: {error.strerror}") from None
        except ValueError as error:
            raise SettingsError(f"--file: {options.file}: {error}") from None
        if not subscriptions:
            raise SettingsError(f"--file: {options.file} holds no subscription")
    random_stocks: RandomStocks | None = options.random
    if not subscriptions and random_stocks is None:
        random_stocks = RandomStocks(DEFAULT_RANDOM, Subscription("stock", ()), is_at_most=True)
    everything = [*subscriptions, *([random_stocks.options] if random_stocks else [])]
    if len({subscription.is_conflated for subscription in everything}) > 1:
        raise SettingsError(
            "--subscribe: some subscriptions are of mode all and some of mode latest (the default of market and "
            "sector), where a loss could not be told from a newer value; add mode=all or mode=latest to some"
        )
    _check_url(options.url)
    if options.ping + options.slow_readers > options.connections:
        raise SettingsError(
            f"--connections: {options.connections} are fewer than the {options.slow_readers} that do not read and"
            f" the {options.ping} that ping"
        )
    if options.slow_readers == options.connections:
        raise SettingsError(
            f"--slow-readers: all {options.connections} connections would not read, and nothing would be measured;"
            " give --connections more"
        )
    if options.reconnect_storm:
        for flag, is_given in (("--deflate", options.deflate), ("--slow-readers", options.slow_readers)):
            if is_given:
                raise SettingsError(
                    f"--reconnect-storm: not with {flag}, whose connections cannot be checked"
                )
    check = _check(options, everything, random_stocks)
    if options.reconnect_storm and check == "none":
        raise SettingsError(
            "--reconnect-storm: not with --check none; what was missed is known by its numbers"
        )
    return loadtest.Plan(
        url=options.url,
        connections=options.connections,
        duration=options.duration,
        ramp_up=options.ramp_up,
        batch_size=options.batch_size,
        subscriptions=subscriptions,
        random_stocks=random_stocks,
        seed=options.seed,
        check=check,
        token=options.token,
        deflate=options.deflate,
        pid=options.pid,
        n_ping=options.ping,
        n_slow=options.slow_readers,
        has_storm=options.reconnect_storm,
    )


def _check_url(url: str) -> None:
    if not url.startswith("ws://"):
        raise SettingsError(f"--url: {url} is no ws:// URL; TLS is not spoken, so measure without it")
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole:
        raise SettingsError(f"--url: {url} has no usable host or port; write it as {DEFAULT_URL}")


def _check(
    options: argparse.Namespace, everything: list[Subscription], random_stocks: RandomStocks | None
) -> Literal["none", "edges", "full"]:
    is_one = len(everything) == 1 and (
        everything[0].is_one_stream
        if random_stocks is None
        else random_stocks.n == 1 and len(random_stocks.options.channels or ()) == 1
    )
    if options.check == "edges" and not is_one:
        raise SettingsError(
            "--check: edges is for one stock on one channel, as --subscribe stock:005930,channels=price"
        )
    if options.check == "auto":
        return "edges" if is_one else "full"
    check: Literal["none", "edges", "full"] = options.check
    return check


def _as_type(read: Callable[[str], _T]) -> Callable[[str], _T]:
    """Let argparse tell what is wrong with a value."""

    def convert(text: str) -> _T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert
