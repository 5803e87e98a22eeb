"""Faults, one after the other, under load: what clients see of each, what is lost and told, how soon it is over."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks.program import run_loop
from benchmarks.scenarios.fault_house import House, UnavailableError, suffer
from benchmarks.scenarios.fault_kinds import KINDS, N_QUIET, Ground
from benchmarks.scenarios.peer import PeerError
from benchmarks.scenarios.process import Server
from benchmarks.scenarios.restore import symbol_names
from fastws.bench import LoadError
from fastws.bench.report import Table

N_SYMBOLS = 12
"""Half of them in mode all, half in mode latest; every fifth update is a book, so no multiple of five."""


def words(seen: Mapping[str, Any]) -> str:
    """What clients saw, for a table."""
    parts = [f"{code} {n} times" for code, n in sorted(seen["closes"].items())]
    if parts:
        parts = [f"cut off ({', '.join(parts)})"]
        if seen["recovered"]:
            parts.append(f"{seen['recovered']} recovered without a gap")
        if seen["not_recovered"]:
            parts.append(f"{seen['not_recovered']} told to begin anew")
    parts.append(f"longest pause {seen['longest_pause_ms'] / 1000:.1f} s")
    return ", ".join(parts)


def faults(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Faults, one after the other: networks, readers, clocks, disks, descriptors, memory, feeds and halts."""
    symbols = [f"F{i:03d}" for i in range(N_SYMBOLS)]
    results: dict[str, Any] = {}
    found: list[str] = []
    table = Table("fault → what clients behind it saw; declared lost; recovery")
    for name in options.only or KINDS:
        kind = KINDS[name]
        print(f"  {name} …", flush=True)
        try:
            with Ground(kind) as ground:
                settings = {
                    "batch_interval_ms": options.batch_interval_ms,
                    "rate_limit": 1000,
                } | ground.settings
                with Server(
                    feed="none",
                    symbols=[*symbols, *symbol_names(N_QUIET)],
                    settings=settings,
                    prefix=ground.prefix,
                    host=ground.host,
                ) as server:
                    house = House(server, symbols, options.rate, options.connections)
                    result = run_loop(suffer(house, partial(kind.make, ground=ground)))
                    log = server.log()
        except UnavailableError as reason:
            results[name] = {"about": kind.about, "left_out": str(reason)}
            table.add(name, f"left out: {reason}")
            continue
        except (LoadError, TimeoutError, OSError, PeerError) as error:
            results[name] = {"about": kind.about, "faults": [repr(error)]}
            found.append(f"{name}: {error!r}")
            table.add(name, "FAILED")
            continue
        if "Traceback" in log:
            result["faults"].append(
                f"the server has logged a failure: {log[log.index('Traceback') :][:1500]}"
            )
        results[name] = {"about": kind.about} | result
        found += [f"{name}: {fault}" for fault in result["faults"]]
        lost = result["ledger"]["connections"]["lost"]
        table.add(
            name,
            f"{words(result['behind'])}; lost {lost:,}; {result['recovery_ms']:.0f} ms"
            + (f"; {result['notes']}" if result["notes"] else ""),
        )
    table.print()
    return {"kinds": results}, found
