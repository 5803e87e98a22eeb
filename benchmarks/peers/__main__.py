"""Compare fastws with other servers under the same load, in one run.

    python -m benchmarks.peers A C
    python -m benchmarks.peers 500x1000 --only floor,bun --rounds 1
    python -m benchmarks.peers --list

Every server gets the scenarios in turn, round by round; medians of the rounds are told. One that is not installed is
left out, with the reason. The exit status is 1 when fastws lost a message, got something else wrong or did not stand
the load, 2 when an argument is wrong, 3 when the comparison broke off or its result could not be written, 130 after
Ctrl-C and 141 when nobody reads the output.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.comparison import (
    OURS,
    SCENARIOS,
    Options,
    Scenario,
    compare,
    judged,
    machine_is_shared,
    of_ours,
    of_peer,
    scenario,
    table,
    told,
)
from benchmarks.program import ended, json_path, make_parser, prepare, write
from fastws.bench.process import StallProbe, machine
from fastws.cli.arguments import count, positive


def a_scenario(text: str) -> Scenario:
    try:
        return scenario(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def names(text: str) -> list[str]:
    wanted = text.split(",")
    known = {peer.name for peer in PEERS}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no such server: {', '.join(unknown)}; there are {', '.join(known)}"
        )
    return wanted


def intervals(text: str) -> list[int]:
    return [int(ms) for ms in text.split(",")]


def parser() -> argparse.ArgumentParser:
    top = make_parser("benchmarks.peers", __doc__)
    add = top.add_argument
    letters = ", ".join(f"{name} {row.connections}x{row.rate:g}" for name, row in SCENARIOS.items())
    add("scenarios", nargs="*", type=a_scenario, metavar="SCENARIO", help=f"CONNECTIONSxRATE, or {letters}")
    add(
        "--only",
        type=names,
        metavar="NAMES",
        help="these servers, as floor,bun, beside fastws (default: all)",
    )
    add("--rounds", type=count, default=2, metavar="N", help="(default: %(default)d)")
    add(
        "--seconds",
        type=positive,
        default=5.0,
        metavar="S",
        help="measured in a round (default: %(default)g)",
    )
    add("--warm-up", type=positive, default=1.0, metavar="S", help="time before that (default: %(default)g)")
    add(
        "--batch-interval-ms",
        type=intervals,
        default=[30, 0],
        metavar="MS,MS",
        help="of fastws (default: 30,0)",
    )
    add("--memory-limit", type=positive, default=4096, metavar="MiB",
        help="a server that holds more has fallen over and is ended (default: %(default)g)")  # fmt: skip
    add("--pin", metavar="SERVER,CLIENT", help="processors to run on, as 0,1")
    add("--json", type=json_path, metavar="FILE", help="write everything that was measured")
    add("--list", action="store_true", help="tell which servers there are, and what is not installed")
    return top


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    return ended("peers", lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    options = parser().parse_args(arguments)
    if options.list:
        for peer in PEERS:
            print(
                f"{peer.name:<11}{peer.missing() or peer.version():<44}  {peer.what}; sends together: {peer.batches}"
            )
        return 0
    prepare()
    wanted = [peer for peer in PEERS if options.only is None or peer.name in options.only]
    skipped = {peer.name: reason for peer in wanted if (reason := peer.missing())}
    entrants = [of_ours(interval) for interval in options.batch_interval_ms]
    entrants += [of_peer(peer) for peer in wanted if peer.name not in skipped]
    how = Options(
        options.rounds, options.seconds, options.warm_up, int(options.memory_limit * 2**20), options.pin
    )
    facts = machine()
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    warning = machine_is_shared()
    for text in (*(f"left out: {name}: {reason}" for name, reason in skipped.items()), warning):
        if text:
            say(text)
    outcomes = {}
    with StallProbe() as probe:
        for row in options.scenarios or [SCENARIOS["A"], SCENARIOS["C"]]:
            results = compare(row, entrants, how, say)
            goals = judged(row, results)
            outcomes[row.name] = (row, results, goals)
            print(row.title, *table(results), *told(goals), sep="\n", flush=True)
    stalls = probe.report()
    print(f"  the machine stood still for {stalls['machine_stall_max_ms']:.1f} ms at most")
    if options.json:
        document = {
            "command": [
                "python",
                "-m",
                "benchmarks.peers",
                *(sys.argv[1:] if arguments is None else arguments),
            ],
            "machine": facts,
            "date": date,
            "options": asdict(how),
            "skipped": skipped,
            "scenarios": {
                name: {
                    "connections": row.connections,
                    "rate": row.rate,
                    "servers": {result.entrant.name: result.document() for result in results},
                    "goals": goals,
                }
                for name, (row, results, goals) in outcomes.items()
            },
            **stalls,
        }
        write(options.json, document)
    ours = [r for _, results, _ in outcomes.values() for r in results if r.entrant.name.startswith(OURS)]
    return 1 if any(result.faults or result.failures for result in ours) else 0


if __name__ == "__main__":
    sys.exit(main())
