"""A load test of a server that runs: what `fastws bench` does between its flags and its report."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any, Final, Literal

from fastws.bench._client import LoadClient, LoadError
from fastws.bench.figures import LoadResult
from fastws.bench.listing import stocks
from fastws.bench.measure import Run, observe
from fastws.bench.process import Process, StallProbe, machine
from fastws.bench.progress import Progress
from fastws.bench.report import bottlenecks, oddities, problems
from fastws.bench.subscriptions import RandomStocks, Stock, Subscription, own_streams, requests
from fastws.logs import redact_text

WARM_UP_S: Final = 1.0
AFTER_STORM_S: Final = 3.0
"""Messages that were missed come right after the answer; numbers that are not there by then are lost."""

_CONNECT_S: Final = 30.0
_CONNECTS_PER_S: Final = 100
"""Slower than that, a server does not accept: opening has so long beside the ramp-up."""
_CLOSE_S: Final = 1.0
_PING: Final = b'{"type":"ping"}'


@dataclass(frozen=True)
class Plan:
    """A load test. Subscriptions are all of mode all, or all of mode latest."""

    url: str
    connections: int
    duration: float
    ramp_up: float
    batch_size: int
    subscriptions: tuple[Subscription, ...]
    random_stocks: RandomStocks | None
    seed: int = 1
    check: Literal["none", "edges", "full"] = "full"
    token: str | None = field(default=None, repr=False)
    deflate: bool = False
    pid: int | None = None
    n_ping: int = 0
    n_slow: int = 0
    has_storm: bool = False

    @property
    def is_conflated(self) -> bool:
        """Whether holes in `seq` are no losses."""
        options = [subscription.is_conflated for subscription in self.subscriptions]
        if self.random_stocks:
            options.append(self.random_stocks.options.is_conflated)
        return all(options)

    @property
    def names_groups(self) -> bool:
        """Whether only the server knows which stocks are subscribed to."""
        return any(subscription.kind != "stock" for subscription in self.subscriptions)

    def facts(self) -> dict[str, Any]:
        """The plan as the report tells it, without the token."""
        told = {name: value for name, value in asdict(self).items() if name != "token"}
        told["subscriptions"] = [str(subscription) for subscription in self.subscriptions]
        told["random_stocks"] = str(self.random_stocks) if self.random_stocks else None
        return told | {
            "url": redact_text(self.url),
            "has_token": self.token is not None,
            "is_conflated": self.is_conflated,
        }


def run(plan: Plan, progress: Progress) -> dict[str, Any]:
    """Put the load on the server; returns everything that was measured, as JSON has it.

    SIGINT and SIGTERM during the measurement end it early, and the storm where they come in it. What there is to report
    by then is reported.

    :raises LoadError: the load could not be set up.
    :raises Interrupted: by a signal before there was anything to report.
    """
    facts = machine()
    process = _process(plan.pid) if plan.pid is not None else None
    with contextlib.ExitStack() as stack:
        stack.callback(progress.clear)
        interrupts = stack.enter_context(_Interrupts("preparing"))
        listed = _listed(plan)
        codes = [stock.code for stock in listed or ()]
        payloads = requests(plan.subscriptions, plan.random_stocks, codes, plan.seed)
        # A token may keep stocks from the list that come with their market.
        is_complete = not plan.names_groups or (listed is not None and plan.token is None)
        client = _client(plan, payloads, _wanted(plan, listed or ()) if is_complete else {})
        if plan.deflate:
            _try_plain(plan, payloads)
        with StallProbe() as probe:
            try:
                document = _measure(plan, client, process, progress, interrupts)
            finally:
                client.close(timeout=_CLOSE_S)
    if not is_complete and plan.check != "none":
        document["notes"].append(
            "which stocks the markets and sectors have is not known: what came of others was not looked for"
        )
    load = document["run"]["load"]
    document["stalls"] = probe.report()
    at, latency = load["slowest_at"], load["latency"]
    if at is not None:
        document["stalls"]["of_the_slowest_ms"] = probe.stalled_ms(at - latency["max_ms"] / 1000, at)
    return {"plan": plan.facts(), "machine": facts} | document


def _measure(
    plan: Plan, client: LoadClient, process: Process | None, progress: Progress, interrupts: _Interrupts
) -> dict[str, Any]:
    n = plan.connections
    n_before = 0
    last_at = 0.0

    def opened(n_open: int) -> None:
        progress.show("connecting", n_open / n, f"{n_open:,}/{n:,} connections")

    def second(at: float, result: LoadResult) -> None:
        nonlocal n_before, last_at
        n_messages = result["messages"] + result["compressed_messages"]
        rate = (n_messages - n_before) / (at - last_at)
        n_before, last_at = n_messages, at
        text = f"{at:.0f}/{plan.duration:g} s  {rate:,.0f} msg/s"
        p99 = result["latency"]["p99_ms"]
        text += "" if p99 is None else f"  p99 {p99:.1f} ms"
        progress.show("measuring", at / plan.duration, f"{text}  {client.n_open:,} open")

    interrupts.phase = "connecting"
    began = time.monotonic()
    timeout = plan.ramp_up + _CONNECT_S + n / _CONNECTS_PER_S
    client.connect(
        timeout=timeout,
        max_in_flight=plan.batch_size,
        ramp_up=plan.ramp_up,
        # Ten steps at least: in one, a ramp-up would have no effect.
        step=min(plan.batch_size, max(1, n // 10)) if plan.ramp_up else plan.batch_size,
        on_progress=opened,
    )
    connect_s = time.monotonic() - began
    interrupts.client = client
    interrupts.phase = "warming up"
    client.run(min(WARM_UP_S, plan.duration))
    if interrupts.n:
        raise interrupts.interrupted()
    interrupts.phase = "measuring"
    before = client.result()
    client.reset()
    measured = observe(
        client,
        process,
        seconds=plan.duration,
        connect_s=connect_s,
        is_stopped=lambda: interrupts.n > 0,
        on_second=second,
    )
    histogram = client.latencies()
    # Closes are not reset, and are told once.
    before["closes"] = {}
    faults = [f"while connecting, {fault}" for fault in problems(before, declared=True)]
    faults += problems(measured.load, declared=True)
    # One that came with the last message has cut nothing short.
    is_short = measured.load["seconds"] < plan.duration - 0.01
    interrupted = "measuring" if interrupts.n and is_short else None
    silent, notes = _notes(plan, measured, is_whole=interrupted is None)
    faults += silent
    storm = None
    if plan.has_storm and interrupted:
        notes.append("no connection was cut: the run was interrupted before that")
    elif plan.has_storm and client.n_open < n:
        notes.append(f"no connection was cut: only {client.n_open:,} of {n:,} were open by then")
    elif plan.has_storm:
        try:
            with interrupts.raising("bringing all connections back after the cut"):
                storm, storm_faults = _storm(plan, client, progress, interrupts)
        except Interrupted as error:
            interrupted = "storm"
            notes.append(str(error))
        else:
            faults += storm_faults
    return {
        "run": asdict(measured),
        "latency_histogram": histogram,
        "storm": storm,
        "interrupted": interrupted,
        "faults": faults,
        "notes": notes,
    }


def _storm(
    plan: Plan, client: LoadClient, progress: Progress, interrupts: _Interrupts
) -> tuple[dict[str, Any] | None, list[str]]:
    """Cut every connection, bring all back with their sessions, and look whether anything is missing."""
    n = plan.connections
    client.reset()
    try:
        client.cut()
        began = time.monotonic()
        client.restore(
            timeout=_CONNECT_S + n / _CONNECTS_PER_S,
            max_in_flight=plan.batch_size,
            on_progress=lambda n_open: progress.show("restoring", n_open / n, f"{n_open:,}/{n:,} sessions"),
        )
    except LoadError as error:
        return None, [f"after the cut, {error}"]
    seconds = time.monotonic() - began
    interrupts.phase = "waiting for what was missed after the cut, which is not checked"
    progress.show("checking", 1.0, f"all back after {seconds:.2f} s, what was missed is checked")
    client.run(AFTER_STORM_S)
    load = client.result()
    faults = [f"after the cut, {fault}" for fault in problems(load, declared=True)]
    restored = load["restored"]
    if restored and restored["recovered"] < n:
        faults.append(f"after the cut, {n - restored['recovered']:,} sessions could not get what they missed")
    return {"seconds": seconds, "load": load}, faults


def _notes(plan: Plan, measured: Run, *, is_whole: bool) -> tuple[list[str], list[str]]:
    """What is wrong when nothing came, and what is to be noted."""
    load = measured.load
    faults: list[str] = []
    notes = [*bottlenecks(load), *oddities(load)]
    if not load["messages"] and not load["compressed_messages"]:
        text = "no message came: does the server's feed publish what is subscribed to?"
        # Round trips are figures of their own, also of a server without a feed.
        is_wrong = is_whole and not (load["ping"] and load["ping"]["answered"])
        (faults if is_wrong else notes).append(text)
    if load["compressed_messages"]:
        notes.append(
            "compressed messages are counted and not read: latency and losses are of those that came plain"
        )
    if load["untimed"]:
        notes.append(f"{load['untimed']:,} messages had no timestamp and are in no latency")
    if plan.check == "none":
        notes.append("nothing was checked for losses (--check none)")
    return faults, notes


def _client(
    plan: Plan,
    payloads: Callable[[int], tuple[bytes, ...]],
    wanted: Mapping[str, Any],
) -> LoadClient:
    def with_ping(index: int) -> tuple[bytes, ...]:
        return (*payloads(index), _PING)

    # Answers may come compressed, which the client does not read. A pong is too small for that, and comes after them.
    return LoadClient(
        plan.url,
        plan.connections,
        subscribe=with_ping if plan.deflate else payloads,
        wait_for="pong" if plan.deflate else "subscribed",
        n_answers=1 if plan.deflate else 0,
        check=plan.check,
        conflated=plan.is_conflated,
        n_slow=plan.n_slow,
        n_ping=plan.n_ping,
        ping_message=_PING,
        headers=_headers(plan),
        deflate=plan.deflate,
        keep_sessions=plan.has_storm,
        **wanted,
    )


def _wanted(plan: Plan, listed: Sequence[Stock]) -> dict[str, Any]:
    """What the connections subscribe to, for their client."""
    by_all = [subscription.streams(listed) for subscription in plan.subscriptions]
    codes = [stock.code for stock in listed]
    return {
        "wanted": own_streams(plan.random_stocks, codes, plan.seed),
        "wanted_by_all": frozenset().union(*by_all),
    }


def _try_plain(plan: Plan, payloads: Callable[[int], tuple[bytes, ...]]) -> None:
    """Let the server refuse a subscription where it can be read."""
    client = LoadClient(plan.url, 1, subscribe=payloads, headers=_headers(plan))
    client.connect(timeout=_CONNECT_S)
    client.close()


def _headers(plan: Plan) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {plan.token}"} if plan.token else {}


def _process(pid: int) -> Process:
    process = Process(pid)
    try:
        process.sample()
    except (FileNotFoundError, ProcessLookupError):
        raise LoadError(f"there is no process {pid}: --pid is that of the server, on this machine") from None
    except PermissionError:
        raise LoadError(f"the figures of process {pid} may not be read; run as its user") from None
    return process


def _listed(plan: Plan) -> list[Stock] | None:
    """The stocks that the server lists; None where they are not needed, or for a check only and not to be had."""
    if plan.random_stocks is None:
        if not plan.names_groups or plan.check == "none":
            return None
        try:
            return stocks(plan.url, _headers(plan))
        except LoadError:
            return None
    listed = stocks(plan.url, _headers(plan))
    if len(listed) < plan.random_stocks.n and not plan.random_stocks.is_at_most:
        raise LoadError(
            f"the server lists {len(listed)} stocks, and each connection is to get {plan.random_stocks.n} of them:"
            f" give --random {len(listed)} or fewer"
        )
    return listed


class Interrupted(KeyboardInterrupt):
    """A signal came; the text says during what."""


class _Interrupts:
    """Takes SIGINT and SIGTERM while it is entered, and counts them in `n`.

    1. Without a `client` they raise `Interrupted`, which names the `phase`.
    2. With one there are figures to report: they only end its run.
    3. While it is `raising` they raise again.
    """

    def __init__(self, phase: str) -> None:
        self.phase = phase
        self.client: LoadClient | None = None
        self.n = 0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> _Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._old[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def raising(self, phase: str) -> Iterator[None]:
        client, self.client = self.client, None
        self.phase = phase
        try:
            yield
        finally:
            self.client = client

    def interrupted(self) -> Interrupted:
        return Interrupted(f"interrupted while {self.phase}")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.n += 1
        if self.client is None:
            raise self.interrupted()
        self.client.stop()
