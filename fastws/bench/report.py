"""What a run says of itself: its table, what was wrong, and what takes its figures their meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastws.bench.figures import Group, LoadResult
from fastws.bench.plot import histogram
from fastws.errors import CloseCode

BUSY_LIMIT: Final = 0.9
STALL_LIMIT_MS: Final = 100.0
"""A generator that stood still for so long has read late what came in time."""

SILENCE_LIMIT_S: Final = 0.5
SILENCE_FACTOR: Final = 10
"""A silence is told when it is over the limit and so many times what lies between two messages of one connection."""

DELAY_LIMIT: Final = 0.1
"""Waiting for a processor for more than this share of the time, the client measures the machine, not the server."""

FAULTS: Final = {
    "undeclared_lost": "messages were lost without being declared",
    "duplicates": "messages came twice",
    "reordered": "messages came out of order",
    "sequence_backwards": "messages or batches had a sequence that was not above the last one",
    "errors": "messages were errors",
    "unparsed": "messages could not be read",
    "unwanted": "messages were of what the connection had not subscribed to",
    "binary_messages": "messages were binary frames; the server's are text",
    "bad_texts": "text messages were no UTF-8, and the generator closed the connection (1007)",
    "protocol_violations": "times the server broke the WebSocket protocol, and the generator closed the connection"
    " (1002)",
    "unfinished": "messages were cut off by the end of the connection",
}
"""Counts that must be 0, and what they say otherwise."""


class Table:
    """Rows of a name and a text, aligned when printed."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.rows: list[tuple[str, str]] = []

    def add(self, name: str, text: str) -> None:
        self.rows.append((name, text))

    def text(self) -> str:
        width = max(len(name) for name, _ in self.rows) + 2
        return "\n".join([self.title, *(f"  {name:<{width}}{text}".rstrip() for name, text in self.rows)])

    def print(self) -> None:
        print(self.text())


def mib(size: float) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def durations(row: Mapping[str, Any]) -> str:
    if not row["count"]:
        return "nothing measured"
    names = (("p50", "p50_ms"), ("p90", "p90_ms"), ("p99", "p99_ms"), ("p99.9", "p999_ms"), ("max", "max_ms"))
    return "  ".join(f"{name} {row[key]:.1f}" for name, key in names) + "  ms"


def bottlenecks(load: LoadResult) -> list[str]:
    own = load["client"]
    notes = []
    if max(own["cpu_share"], own["busy_share"]) > BUSY_LIMIT:
        notes.append("the generator was the bottleneck")
    if own["stall_max_ms"] > STALL_LIMIT_MS:
        notes.append(
            f"the generator itself stood still for {own['stall_max_ms']:,.0f} ms: what came then was read late, which"
            " is in the latencies"
        )
    if own["run_delay_seconds"] > DELAY_LIMIT * load["seconds"]:
        notes.append("the generator had to wait for a processor: latencies are in part its own")
    return notes


def oddities(load: LoadResult) -> list[str]:
    """What is no fault in itself and has to be known to read the figures."""
    notes = []
    silence_s = load["silence_max_ms"] / 1000
    messages = load["messages"] + load["compressed_messages"]
    usual_s = load["seconds"] * load["connections"] / messages if messages else 0.0
    if messages and silence_s > max(SILENCE_LIMIT_S, SILENCE_FACTOR * usual_s):
        notes.append(f"nothing came for {silence_s:.1f} s on any connection")
    ping = load["ping"]
    if ping and ping["ended"]:
        notes.append(f"{ping['ended']:,} pings had no answer when their connection ended")
    if ping and ping["longest_open_ms"] > 1000 * SILENCE_LIMIT_S:
        notes.append(
            f"{ping['open']:,} pings had no answer at the end, the oldest for {ping['longest_open_ms'] / 1000:.1f} s;"
            " they are in no percentile"
        )
    if load["early"]:
        notes.append(
            f"clocks differ: {load['early']:,} messages came before their timestamp, by {load['earliest_ms']:,.0f} ms"
            " at most, and count as 0 ms"
        )
    if load["overlong"]:
        notes.append(
            f"{load['overlong']:,} messages took more than 60 s, and count as 60 s in the percentiles"
        )
    if load["begun"]:
        notes.append(f"{load['begun']:,} messages had begun and not ended when the measurement did")
    return notes


def verdict_of(group: Group) -> list[str]:
    """The faults of a group of connections none of which was to be closed."""
    counts: Mapping[str, Any] = group
    faults = [f"{name} {counts[name]:,}" for name in FAULTS if counts[name]]
    for name in ("first_error", "first_unparsed"):
        if counts[name]:
            faults.append(f"{name}: {counts[name]}")
    if group["closes"]:
        faults.append(f"closed by the server: {closes_text(group['closes'])}")
    return faults


def problems(group: Group, *, declared: bool = False) -> list[str]:
    """The same in sentences. With `declared`, losses that the server told of count as well."""
    counts: Mapping[str, Any] = group
    found = [f"{counts[name]:,} {text}" for name, text in FAULTS.items() if counts[name]]
    if declared and group["lost"] > group["undeclared_lost"]:
        n = group["lost"] - group["undeclared_lost"]
        found.append(f"{n:,} messages were lost and declared: the connections were read too slowly")
    found += [str(counts[name]) for name in ("first_error", "first_unparsed") if counts[name]]
    for code, n in sorted(group["closes"].items()):
        found.append(f"{n:,} connections were closed by the server: {_close_text(code)}")
    return found


def closes_text(closes: Mapping[int, int]) -> str:
    """How many connections were closed with which code."""
    return ", ".join(f"{n:,} x {_close_text(code)}" for code, n in sorted(closes.items())) or "none"


def _close_text(code: int) -> str:
    if code == 1006:
        return "1006 without a close frame, as when it ends or crashes"
    known = {int(entry): entry.meaning for entry in CloseCode}
    return f"{code} {known[code]}" if code in known else str(code)


def show(document: Mapping[str, Any], *, width: int, has_blocks: bool) -> str:
    """Return the report of a load test, of `width` columns; see `fastws.bench.loadtest.run`."""
    plan, measured = document["plan"], document["run"]
    load: LoadResult = measured["load"]
    seconds = load["seconds"]
    table = Table(f"{plan['url']}  {', '.join(_watched(plan))}")
    _add_load(table, load, plan, measured["connect_s"])
    if measured["server"]:
        server = measured["server"]
        each = server["cpu_cores"] / load["messages_per_second"] * 1e6 if load["messages"] else None
        table.add(
            "server",
            f"{server['cpu_cores']:.2f} cores"
            + (f", {each:.2f} us per message" if each is not None else "")
            + f", {mib(server['rss_most'])} at most",
        )
    own = load["client"]
    table.add(
        "generator",
        f"{own['cpu_share']:.2f} cores, {own['busy_share']:.0%} busy, waited {own['run_delay_seconds']:.2f} s,"
        f" stood still {own['stall_max_ms']:,.0f} ms at most",
    )
    stalls = document["stalls"]
    if stalls["machine_stalls"]:
        table.add(
            "machine",
            f"let nobody run {stalls['machine_stalls']} x, {stalls['machine_stall_max_ms']:.0f} ms at most;"
            f" {stalls.get('of_the_slowest_ms', 0):.0f} ms of the max latency",
        )
    lines = [table.text()]
    rows = histogram(document["latency_histogram"], width=width, has_blocks=has_blocks)
    if rows:
        lines += ["", f"  latency{'share    up to':>{width - 9}}", *rows]
    if document["storm"]:
        lines += ["", _storm_table(document["storm"], plan["connections"]).text()]
    lines.append("")
    ended = f"after {seconds:.1f} of {plan['duration']:g} s"
    if document["interrupted"] == "measuring":
        lines.append(f"interrupted {ended}")
    elif load["open"] == 0 and seconds < plan["duration"] - 0.1:
        n_closed = sum(load["closes"].values())
        by = " by the server" if n_closed == load["connections"] else ""
        lines.append(f"ended {ended}: every connection was closed{by}")
    lines += [f"note: {note}" for note in document["notes"]]
    lines += [f"FAULT: {fault}" for fault in document["faults"]]
    if not document["faults"]:
        lines.append(_good_verdict(load, plan))
    return "\n".join(lines)


def _good_verdict(load: LoadResult, plan: Mapping[str, Any]) -> str:
    """What a run without a fault has shown, and no more."""
    if not load["messages"] and not load["compressed_messages"]:
        return "nothing was checked: no message came"
    if plan["check"] == "none" or load["compressed_messages"]:
        return "no fault was seen; whether messages were lost was not checked"
    if not load["numbered"]:
        return "no fault was seen; no message was numbered, so a loss cannot be told"
    if load["unnumbered"]:
        return f"no fault was seen; {load['unnumbered']:,} messages had no seq, so that their loss cannot be told"
    what = "no message twice, none out of order" if plan["is_conflated"] else "no message lost, none twice"
    return f"ok: {what}" + ("" if plan["check"] == "full" else ", by the ends of each batch")


def _watched(plan: Mapping[str, Any]) -> list[str]:
    names = [*plan["subscriptions"], *([plan["random_stocks"]] if plan["random_stocks"] else [])]
    return names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"]


def _add_load(table: Table, load: LoadResult, plan: Mapping[str, Any], connect_s: float) -> None:
    seconds = load["seconds"]
    closed = "" if load["open"] == load["connections"] else f", {load['open']:,} left"
    table.add("connections", f"{load['connections']:,} opened in {connect_s:.2f} s{closed}")
    messages = load["messages"] + load["compressed_messages"]
    compressed = " (compressed ones: a batch is one)" if load["compressed_messages"] else ""
    table.add(
        "messages",
        f"{messages / seconds if seconds else 0:,.0f}/s, {messages:,} in {seconds:.1f} s{compressed}",
    )
    # Of compressed messages only the number is known.
    has_read = load["messages"] > 0 or not load["compressed_messages"]
    if has_read:
        fewest, most = load["messages_per_connection"]
        table.add("per connection", f"{fewest:,} to {most:,}")
    size = messages / load["frames"] if load["frames"] else 0.0
    table.add(
        "bytes",
        f"{load['bytes_per_second'] / 1e6:,.2f} MB/s, in {load['frames'] / seconds if seconds else 0:,.0f}"
        f" frames/s of {size:.1f} messages",
    )
    if has_read:
        table.add("latency", durations(load["latency"]))
    if load["ping"]:
        ping = load["ping"]
        table.add("ping", durations(ping))
        table.add(
            "",
            f"{ping['sent']:,} sent, {ping['answered']:,} answered, {ping['skipped']:,} skipped, {ping['open']:,} open",
        )
    table.add("silence", f"{load['silence_max_ms']:,.0f} ms at most without a message")
    if plan["check"] != "none" and has_read:
        lost = f"{load['lost']:,} ({load['declared_lost']:,} declared), {load['duplicates']:,} twice"
        if plan["is_conflated"]:
            table.add(
                "conflated",
                f"{load['conflated']:,} values gave way to newer ones; {load['duplicates']:,} twice",
            )
        else:
            table.add("lost", lost)
    if load["slow"]:
        slow = load["slow"]
        closes = ", ".join(f"{n:,} closed with {code}" for code, n in sorted(slow["closes"].items()))
        table.add(
            "slow readers", f"{slow['open']:,} of {slow['connections']:,} open" + (closes and f", {closes}")
        )


def _storm_table(storm: Mapping[str, Any], n: int) -> Table:
    load: LoadResult = storm["load"]
    table = Table(f"  all {n:,} connections were cut at once")
    table.add("  all back", f"after {storm['seconds']:.2f} s, {n / storm['seconds']:,.0f}/s")
    restored = load["restored"]
    if restored:
        table.add("  restored", f"{restored['recovered']:,} sessions with all they missed")
        table.add("  missed", f"{restored['missed']:,} messages by then; lost since: {load['lost']:,}")
    return table
