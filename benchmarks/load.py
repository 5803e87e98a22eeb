"""Load scenarios against a real server process: what arrives, how late, and what it costs.

    python -m benchmarks.load fanout --connections 1000 --rate 4000 --seconds 10
    python -m benchmarks.load idle --connections 9000
    python -m benchmarks.load slow --connections 500 --slow 50 --rate 2000
    python -m benchmarks.load deflate --connections 1000
    python -m benchmarks.load alerts --rules 10000
    python -m benchmarks.load restore --cycles 200
    python -m benchmarks.load clients --kills 500
    python -m benchmarks.load watchlists --connections 10000 --workers 2
    python -m benchmarks.load rush --connections 10000
    python -m benchmarks.load sessions --connections 9000
    python -m benchmarks.load cycles --connections 5000
    python -m benchmarks.load growth
    python -m benchmarks.load storm --connections 2000
    python -m benchmarks.load stop --connections 5000
    python -m benchmarks.load rolling --connections 5000 --rate 1000
    python -m benchmarks.load kis --connections 1000 --rate 2000
    python -m benchmarks.load portfolios --watched 5000 --rate 2000
    python -m benchmarks.load relay --connections 3000 --rate 2000
    python -m benchmarks.load chaos --kills 5 --partition 20
    python -m benchmarks.load inlet --connections 20 --rate 50000

Each starts `fastws serve` on a free port and stops it again; the first three can measure what runs at `--url` instead.
The exit status is 1 when a message was lost without being declared, came twice or out of order, could not be read, or
a bound of the scenario was not kept, 2 when the load could not be set up or an argument is wrong, 3 when it broke off
(a server that ended under it, a result that could not be written), 130 after Ctrl-C, 143 after SIGTERM, and 141 when
nobody reads what it prints.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import aiohttp

from benchmarks.program import UNUSABLE, BrokenOffError, ended, json_path, make_parser, prepare, write
from benchmarks.scenarios import (
    alerts,
    clients,
    deflate,
    fault_kinds,
    faults,
    growth,
    inlet,
    kis,
    memory,
    portfolios,
    relay,
    relay_chaos,
    restore,
    rolling,
    rush,
    soak,
    steady,
    stop,
    storm,
    watchlists,
)
from benchmarks.scenarios.peer import PeerError
from fastws.bench import LoadError
from fastws.bench.process import STALL_MS, StallProbe, machine
from fastws.cli.arguments import count, duration, positive


def counts(text: str) -> list[int]:
    return [count(part) for part in text.split(",")]


def parser() -> argparse.ArgumentParser:
    top = make_parser("benchmarks.load", __doc__)
    commands = top.add_subparsers(dest="scenario", required=True)
    for scenario, connections, seconds in (
        (steady.fanout, 1000, 10.0),
        (steady.idle, 1000, 2.0),
        (steady.slow, 500, 20.0),
    ):
        command = commands.add_parser(scenario.__name__, help=scenario.__doc__, description=scenario.__doc__)
        command.set_defaults(run=scenario)
        _add_steady(command, connections, seconds)
        if scenario is steady.slow:
            command.add_argument(
                "--slow", type=count, default=50, metavar="N", help="connections that never read"
            )
        if scenario is not steady.idle:
            _add_rate(command, 1000.0)
            command.add_argument(
                "--ping", type=int, default=4, metavar="N", help="connections that ping ten times a second"
            )
    for run, name in (
        (deflate.deflate, "deflate"),
        (alerts.alerts, "alerts"),
        (restore.restore, "restore"),
        (clients.clients, "clients"),
        (storm.storm, "storm"),
        (stop.stop, "stop"),
        (rolling.rolling, "rolling"),
        (watchlists.watchlists, "watchlists"),
        (rush.rush, "rush"),
        (memory.sessions, "sessions"),
        (memory.cycles, "cycles"),
        (growth.growth, "growth"),
        (kis.kis, "kis"),
        (portfolios.portfolios, "portfolios"),
        (relay.relay, "relay"),
        (relay_chaos.chaos, "chaos"),
        (inlet.inlet, "inlet"),
        (faults.faults, "faults"),
        (soak.soak, "soak"),
    ):
        command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        command.set_defaults(run=run)
        command.add_argument("--batch-interval-ms", type=int, default=30, metavar="MS")
        command.add_argument(
            "--json", type=json_path, metavar="FILE", help="write everything that was measured"
        )
        {"deflate": _add_deflate, "alerts": _add_alerts, "restore": _add_restore, "clients": _add_clients,
         "storm": _add_storm, "stop": _add_stop, "rolling": _add_rolling, "watchlists": _add_watchlists,
         "rush": _add_rush, "sessions": _add_sessions, "cycles": _add_cycles, "growth": _add_growth, "kis": _add_kis,
         "portfolios": _add_portfolios, "relay": _add_relay, "chaos": _add_chaos,
         "inlet": _add_inlet, "faults": _add_faults, "soak": _add_soak}[name](command)  # fmt: skip
    return top


def _add_rate(command: argparse.ArgumentParser, rate: float) -> None:
    command.add_argument(
        "--rate",
        type=positive,
        default=rate,
        metavar="R",
        help="messages/s published (default: %(default)g)",
    )


def _add_seconds(command: argparse.ArgumentParser, seconds: float, what: str) -> None:
    command.add_argument(
        "--seconds", type=positive, default=seconds, metavar="S", help=f"{what} (default: %(default)g)"
    )


def _add_connections(command: argparse.ArgumentParser, connections: int) -> None:
    command.add_argument(
        "--connections", type=count, default=connections, metavar="N", help="(default: %(default)d)"
    )


def _add_steady(command: argparse.ArgumentParser, connections: int, seconds: float) -> None:
    _add_connections(command, connections)
    _add_seconds(command, seconds, "measured time")
    add = command.add_argument
    add("--warm-up", type=positive, default=1.0, metavar="S", help="time before that (default: %(default)g)")
    add("--batch-interval-ms", type=int, default=30, metavar="MS")
    add("--mode", choices=("all", "latest"), default="all")
    add("--check", choices=("none", "edges", "full"), default="edges", help="how closely messages are read")
    add("--batch-size", type=count, default=100, metavar="N", help="connections opened at a time")
    add("--ramp-up", type=duration, default=0.0, metavar="S", help="spread the opening over so many seconds")
    add("--connect-timeout", type=positive, default=60.0, metavar="S")
    add("--nap-us", type=int, default=0, metavar="US", help="pause of the client after each wake-up")
    add("--pin", metavar="SERVER,CLIENT", help="processors to run on, as 0,1")
    add("--url", help="measure this server instead of a new one; it must publish by itself")
    add("--server-pid", type=int, metavar="PID", help="its process, for processor time and memory")
    add("--symbol", default=steady.SYMBOL, help="what is subscribed to (default: %(default)s)")
    add("--json", type=json_path, metavar="FILE", help="write everything that was measured")


def _add_deflate(command: argparse.ArgumentParser) -> None:
    _add_connections(command, 1000)
    _add_rate(command, 667.0)
    _add_seconds(command, 5.0, "length of a phase")
    command.add_argument(
        "--rounds", type=count, default=4, metavar="N", help="phases of each kind (default: %(default)d)"
    )
    _add_cost_limit(command, deflate.COST_LIMIT, "what compression may cost, in plain runs")


def _add_alerts(command: argparse.ArgumentParser) -> None:
    _add_rate(command, 1000.0)
    _add_seconds(command, 20.0, "measured time")
    command.add_argument("--rules", type=count, default=10_000, metavar="N", help="(default: %(default)d)")
    _add_cost_limit(command, alerts.COST_LIMIT, "what the rules may cost, in processors")


def _add_cost_limit(command: argparse.ArgumentParser, limit: float, what: str) -> None:
    command.add_argument(
        "--cost-limit", type=positive, default=limit, metavar="X", help=f"{what} (default: %(default)g)"
    )


def _add_restore(command: argparse.ArgumentParser) -> None:
    _add_connections(command, 25)
    _add_rate(command, 2000.0)
    add = command.add_argument
    add("--cycles", type=count, default=200, metavar="N", help="outages in all (default: %(default)d)")
    add("--longest-outage", type=duration, default=10.0, metavar="S", help="(default: %(default)g)")
    add("--seed", type=int, default=1, help="of deaths, outages and subscriptions")


def _add_clients(command: argparse.ArgumentParser) -> None:
    _add_connections(command, 8)
    _add_rate(command, 1500.0)
    add = command.add_argument
    add("--programs", nargs="+", choices=("js", "python"), default=["js", "python"], metavar="KIND",
        help="js and python (default: both)")  # fmt: skip
    add("--kills", type=count, default=500, metavar="N", help="of each program (default: %(default)d)")
    add("--restarts", type=int, default=4, metavar="N", help="of the server (default: %(default)d)")
    add("--longest", type=positive, default=300.0, metavar="S", help="give up then (default: %(default)g)")
    add("--seed", type=int, default=1, help="of kills and subscriptions")


def _add_storm(command: argparse.ArgumentParser) -> None:
    _add_connections(command, 2000)
    _add_rate(command, 2000.0)
    add = command.add_argument
    add(
        "--outage",
        type=positive,
        default=1.0,
        metavar="S",
        help="until they come back (default: %(default)g)",
    )
    add("--within", type=positive, default=1.0, metavar="S", help="all of them within (default: %(default)g)")


def _add_stop(command: argparse.ArgumentParser) -> None:
    _add_connections(command, 5000)
    _add_rate(command, 1000.0)
    _add_seconds(command, 3.0, "time before the signal")


def _add_rolling(command: argparse.ArgumentParser) -> None:
    _add_connections(command, 5000)
    _add_rate(command, 1000.0)
    _add_seconds(command, 3.0, "time before the upgrade, and after it")
    add = command.add_argument
    add("--symbols", type=count, default=1000, metavar="N", help="(default: %(default)d)")
    add("--spread", type=positive, default=5.0, metavar="S", help="shutdown_spread (default: %(default)g)")


def _add_portfolios(command: argparse.ArgumentParser) -> None:
    _add_rate(command, 2000.0)
    _add_seconds(command, 10.0, "measured time")
    add = command.add_argument
    add("--portfolios", type=count, default=100_000, metavar="N", help="(default: %(default)d)")
    add("--positions", type=count, default=20, metavar="N", help="of each of them (default: %(default)d)")
    add("--symbols", type=count, default=2000, metavar="N", help="(default: %(default)d)")
    add("--watched", type=count, default=5000, metavar="N", help="portfolios (default: %(default)d)")
    add("--each", type=count, default=1, metavar="N", help="of a connection (default: %(default)d)")
    add("--interval-ms", type=int, metavar="MS", help="setting portfolio_interval_ms; unset: its default")
    add(
        "--reloads",
        type=int,
        default=0,
        metavar="N",
        help="times that all are read again (default: %(default)d)",
    )
    add("--seed", type=int, default=1, help="of positions (default: %(default)d)")


def _add_watchlists(command: argparse.ArgumentParser) -> None:
    _add_connections(command, 10_000)
    _add_rate(command, 5000.0)
    _add_seconds(command, 8.0, "measured time")
    add = command.add_argument
    add("--symbols", type=count, default=2000, metavar="N", help="(default: %(default)d)")
    add("--each", type=count, default=50, metavar="N", help="symbols of a connection (default: %(default)d)")
    add("--workers", type=count, default=1, metavar="N", help="of the server (default: %(default)d)")
    add("--pin", metavar="SERVER,CLIENT", help="processors to run on, as 0,1")
    add("--seed", type=int, default=1, help="of what they subscribe to (default: %(default)d)")


def _add_rush(command: argparse.ArgumentParser) -> None:
    _add_connections(command, 10_000)
    add = command.add_argument
    add("--in-flight", type=count, default=1000, metavar="N",
        help="connects under way at a time (default: %(default)d)")  # fmt: skip
    add("--rounds", type=count, default=3, metavar="N", help="(default: %(default)d)")


def _add_sessions(command: argparse.ArgumentParser) -> None:
    _add_connections(command, 9000)


def _add_cycles(command: argparse.ArgumentParser) -> None:
    _add_connections(command, 5000)
    _add_rate(command, 500.0)
    _add_seconds(command, 3.0, "length of the flood")
    command.add_argument("--cycles", type=count, default=5, metavar="N", help="(default: %(default)d)")


def _add_kis(command: argparse.ArgumentParser) -> None:
    _add_connections(command, 1000)
    _add_rate(command, 2000.0)
    _add_seconds(command, 10.0, "measured time")
    command.add_argument(
        "--each", type=count, default=2, metavar="N", help="symbols of a connection (default: %(default)d)"
    )


def _add_relay(command: argparse.ArgumentParser) -> None:
    _add_connections(command, 3000)
    _add_rate(command, 2000.0)
    _add_seconds(command, 10.0, "measured time, of each part")
    command.add_argument("--symbols", type=count, default=100, metavar="N", help="(default: %(default)d)")


def _add_chaos(command: argparse.ArgumentParser) -> None:
    _add_rate(command, 500.0)
    add = command.add_argument
    add("--kills", type=int, default=5, metavar="N", help="of Redis (default: %(default)d)")
    add("--partition", type=positive, default=20.0, metavar="S", help="(default: %(default)g)")


def _add_inlet(command: argparse.ArgumentParser) -> None:
    _add_connections(command, 20)
    _add_rate(command, 50_000.0)
    _add_seconds(command, 5.0, "measured time, of each part with subscribers")
    add = command.add_argument
    add("--symbols", type=count, default=50, metavar="N", help="(default: %(default)d)")
    add("--rounds", type=count, default=30, metavar="N", help="into the ring (default: %(default)d)")


def _add_faults(command: argparse.ArgumentParser) -> None:
    _add_connections(command, 2000)
    _add_rate(command, 500.0)
    command.add_argument(
        "--only", nargs="+", choices=list(fault_kinds.KINDS), metavar="KIND",
        help=f"of {', '.join(fault_kinds.KINDS)} (default: all)",
    )  # fmt: skip


def _add_soak(command: argparse.ArgumentParser) -> None:
    _add_rate(command, 500.0)
    add = command.add_argument
    add("--minutes", type=positive, default=60.0, metavar="M", help="(default: %(default)g)")
    add(
        "--churn", type=positive, default=50.0, metavar="R", help="clients/s that come (default: %(default)g)"
    )
    add("--seed", type=int, default=1, help="of what clients do (default: %(default)d)")


def _add_growth(command: argparse.ArgumentParser) -> None:
    _add_rate(command, 100_000.0)
    _add_seconds(command, 2.0, "measured at each point")
    add = command.add_argument
    add(
        "--connections",
        type=counts,
        default=[100, 1000, 10_000],
        metavar="N,N",
        help="(default: 100,1000,10000)",
    )
    add("--topics", type=counts, default=[1, 20, 200, 2000], metavar="N,N", help="(default: 1,20,200,2000)")
    add("--rounds", type=count, default=2, metavar="N", help="(default: %(default)d)")


def main(arguments: Sequence[str] | None = None) -> int:
    return ended("load", lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    options = parser().parse_args(arguments)
    prepare()
    facts = machine()
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    began = time.monotonic()
    try:
        with StallProbe() as probe:
            result, faults = options.run(options)
    except LoadError as error:
        print(f"load: {error}", file=sys.stderr)
        return UNUSABLE
    except (PeerError, aiohttp.ClientError) as error:
        raise BrokenOffError(f"broke off: {error}; has the server ended?") from None
    stalls = probe.report()
    _tell_stalls(probe, stalls, result)
    print("  FAULTS: " + "; ".join(faults) if faults else "  every message is accounted for")
    if options.json:
        command = ["python", "-m", "benchmarks.load", *(sys.argv[1:] if arguments is None else arguments)]
        document = {
            "command": command,
            "machine": facts,
            "date": date,
            "scenario": options.scenario,
            "began_at": began,
            "faults": faults,
            **stalls,
            **result,
        }
        write(options.json, document)
    return 1 if faults else 0


def _tell_stalls(probe: StallProbe, report: dict[str, Any], result: dict[str, Any]) -> None:
    """Whether latencies are the machine's: it let nobody run, and when the slowest message came."""
    line = (
        f"  the machine let nobody run for {report['machine_stall_max_ms']:.1f} ms at most,"
        f" {report['machine_stalls']} times over {STALL_MS:g} ms"
    )
    runs = [result["run"]] if "load" in result.get("run", {}) else list(result.get("runs", {}).values())
    for run in runs:
        at, latency = run["load"]["slowest_at"], run["load"]["latency"]
        if at is not None:
            first = at - latency["max_ms"] / 1000
            run["stalled_ms_of_the_slowest"] = probe.stalled_ms(first, at)
            line += f"; {run['stalled_ms_of_the_slowest']:.0f} of the {latency['max_ms']:.0f} ms of the slowest message"
    print(line)


if __name__ == "__main__":
    sys.exit(main())
