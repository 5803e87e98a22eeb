"""What permessage-deflate costs the server and saves on the wire: plain and compressed phases in turn, in one run."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
from typing import Any

from benchmarks.program import run_loop
from benchmarks.scenarios.peer import Peer, connect
from benchmarks.scenarios.process import Server
from benchmarks.scenarios.steady import even_prices
from fastws.bench import LoadClient, LoadError
from fastws.bench.report import FAULTS, Table, closes_text

KINDS = ("plain", "compressed")
COST_LIMIT = 1.3
SAVED_LIMIT = 0.75
N_SYMBOLS = 50
# Of the readers of a phase so many are expanded, and what is in them checked.
N_CHECKED = 2
WARM_UP_S = 1.0
JOIN_S = 10.0


class Check:
    """Holds what one connection gets against the numbers in it."""

    def __init__(self) -> None:
        self.seqs: dict[str, int] = {}
        self.n_messages = self.n_batches = 0
        self.faults: list[str] = []
        self.is_subscribed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribed":
            self.is_subscribed.set_result(None)
        elif message["type"] == "batch":
            self.n_batches += "snapshot" not in message
            for update in message["messages"]:
                self._take(update, is_snapshot="snapshot" in message)
        elif message["type"] == "price_update":
            self._take(message, is_snapshot=False)
        elif message["type"] not in ("connection", "feed_status", "symbol_status"):
            self.faults.append(f"unexpected {message}")

    def _take(self, update: dict[str, Any], *, is_snapshot: bool) -> None:
        code, seq = update["code"], update["seq"]
        if is_snapshot:
            self.seqs[code] = seq
            return
        self.n_messages += 1
        if seq != self.seqs.get(code, 0) + 1:
            self.faults.append(f"{code}: seq {seq} after {self.seqs.get(code)}")
        self.seqs[code] = seq


async def _phase(options: argparse.Namespace, server: Server, kind: str, subscribe: bytes) -> dict[str, Any]:
    is_compressed = kind == "compressed"
    checks = [Check() for _ in range(N_CHECKED)]
    peers: list[Peer] = []
    crowd = LoadClient(
        server.url, options.connections - N_CHECKED, subscribe=subscribe, check="none", deflate=is_compressed
    )
    run = asyncio.get_running_loop().run_in_executor
    try:
        await run(None, crowd.connect)
        for check in checks:
            peers.append(await connect(server.url, check.take, deflate=is_compressed))
            peers[-1].send(**json.loads(subscribe))
            await asyncio.wait_for(check.is_subscribed, JOIN_S)
        await run(None, crowd.run, WARM_UP_S)
        crowd.reset()
        n_wire, n_plain = (sum(getattr(peer, name) for peer in peers) for name in ("n_wire", "n_plain"))
        n_messages, n_batches = (
            sum(getattr(check, name) for check in checks) for name in ("n_messages", "n_batches")
        )
        first = server.sample()
        await run(None, crowd.run, options.seconds)
        last = server.sample()
        result = crowd.result()
        row = {
            "kind": kind,
            "cpu_cores": (last.cpu_s - first.cpu_s) / (last.at - first.at),
            "bytes_per_second": result["bytes_per_second"],
            "frames": result["frames"],
            "compressed_messages": result["compressed_messages"],
            "messages_checked": sum(check.n_messages for check in checks) - n_messages,
            "batches_checked": sum(check.n_batches for check in checks) - n_batches,
            "wire_bytes_checked": sum(peer.n_wire for peer in peers) - n_wire,
            "plain_bytes_checked": sum(peer.n_plain for peer in peers) - n_plain,
            "client_cpu_cores": result["client"]["cpu_share"],
            "faults": [fault for check in checks for fault in check.faults[:3]],
        }
        if result["open"] < options.connections - N_CHECKED:
            row["faults"].append(f"connections were closed: {closes_text(result['closes'])}")
        row["faults"] += [f"{name} {result[name]}" for name in FAULTS if result[name]]  # type: ignore[literal-required]
        return row
    finally:
        for peer in peers:
            peer.reset()
        await run(None, lambda: crowd.close(timeout=0.0))


async def _phases(options: argparse.Namespace, server: Server, symbols: list[str]) -> list[dict[str, Any]]:
    subscribe = json.dumps(
        {"type": "subscribe", "subscription_type": "stock", "targets": symbols, "channels": ["price"]}
    ).encode()
    rows = []
    for turn in range(options.rounds):
        # Each kind comes first in every other turn, so that a drift of the machine is nobody's.
        for kind in KINDS if turn % 2 == 0 else reversed(KINDS):
            rows.append(await _phase(options, server, kind, subscribe))
            with contextlib.suppress(TimeoutError):  # what is left costs both kinds alike
                async with asyncio.timeout(JOIN_S):
                    while server.stats()["active_connections"]:
                        await asyncio.sleep(0.05)
    return rows


def deflate(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """One cohort of readers with and without compression, in turn."""
    if options.connections <= N_CHECKED:
        raise LoadError(f"--connections must be over {N_CHECKED}")
    symbols = [f"D{i:05d}" for i in range(N_SYMBOLS)]
    settings = even_prices(options.rate) | {"batch_interval_ms": options.batch_interval_ms}
    with Server(feed="sim", symbols=symbols, settings=settings) as server:
        rows = run_loop(_phases(options, server, symbols))
        target = {"url": server.url, "command": server.shown_command, "environment": server.environment}
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in KINDS}
    cores = {kind: [row["cpu_cores"] for row in by_kind[kind]] for kind in KINDS}
    pairs = [
        compressed / plain for plain, compressed in zip(cores["plain"], cores["compressed"], strict=True)
    ]
    ratio = sum(cores["compressed"]) / sum(cores["plain"])
    packed = by_kind["compressed"]
    saved = 1 - sum(row["wire_bytes_checked"] for row in packed) / sum(
        row["plain_bytes_checked"] for row in packed
    )
    n_batches = sum(row["batches_checked"] for row in packed)
    batch_size = sum(row["messages_checked"] for row in packed) / max(n_batches, 1)
    table = Table(
        f"deflate: {options.connections:,} connections in one cohort, {options.rate:,g} messages/s to each"
    )
    for kind in KINDS:
        shown = "  ".join(f"{value:.3f}" for value in cores[kind])
        rate = statistics.fmean(row["bytes_per_second"] for row in by_kind[kind])
        table.add(kind, f"server cores {shown}, {rate / 1e6:,.1f} MB/s")
    table.add("compressed / plain", f"{ratio:.2f} (pairs {'  '.join(f'{pair:.2f}' for pair in pairs)})")
    table.add("messages in a batch", f"{batch_size:.1f}")
    table.add("saved on the wire", f"{saved:.1%}")
    table.print()
    faults = [f"{row['kind']}: {fault}" for row in rows for fault in row["faults"]]
    if not all(row["compressed_messages"] for row in packed):
        faults.append("nothing came compressed")
    if any(row["compressed_messages"] for row in by_kind["plain"]):
        faults.append("compressed messages came without having been agreed to")
    if ratio > options.cost_limit:
        faults.append(
            f"compression costs {ratio:.2f} times the plain run, {options.cost_limit:g} are allowed"
        )
    if saved < SAVED_LIMIT:
        faults.append(f"{saved:.1%} are saved, {SAVED_LIMIT:.0%} are wanted")
    return {
        "target": target,
        "phases": rows,
        "cost_ratio": ratio,
        "cost_ratio_pairs": pairs,
        "saved": saved,
        "messages_per_batch": batch_size,
    }, faults
