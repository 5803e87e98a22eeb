"""Answers of HTTP endpoints that are about the whole server, where several workers serve one port.

Whoever asks reaches any of them. So the one that is asked asks the others, and answers for all: counts are added up,
lists are put together, and figures for Prometheus have a label `worker`. Without that, a scrape of a counter would be
another process's every time, and the rates made of it nonsense.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from aiohttp import web

from fastws.server import bodies, ledger
from fastws.server.callers import is_administrator
from fastws.server.handshake import Refusal
from fastws.server.http import HttpError, json_response
from fastws.server.realtime_routes import USER_KEY
from fastws.server.siblings import Answers, SiblingError, Siblings

if TYPE_CHECKING:
    from fastws.server.shared import Shared

HEALTH_SECONDS: Final = 0.5
"""Whoever asks whether the server lives does not wait longer for a worker that may not."""

# What is not added up: the largest, the smallest, and what is the same, or one's own.
_LARGEST: Final = frozenset(
    {
        "effective_interval_ms",
        "loop_lag_ms",
        "largest_outbox_bytes",
        "uptime_seconds",
        "sequence",
        "addresses",
        "symbols_judged",
        "symbols_stale",
    }
)
_SMALLEST: Final = frozenset({"last_update_age_ms"})
_OWN: Final = frozenset(
    {"batching_enabled", "batch_interval_ms", "rate_limiting_enabled", "rate_limit", "epoch", "feeds", "version",
     "draining"}
)  # fmt: skip
_SHOWN_OF_EACH: Final = (
    "active_connections",
    "total_subscriptions",
    "messages_sent",
    "queued_messages",
    "effective_interval_ms",
    "loop_lag_ms",
    "uptime_seconds",
)

_SOON: Final = (("Retry-After", "1"),)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_read = msgspec.json.decode


def together(shared: Shared) -> Any:
    """Return the middleware that lets this worker answer for all."""
    worker = shared.worker
    siblings = worker.siblings
    known: dict[int, dict[str, Any]] = {}

    async def stats(request: web.Request, own: bytes) -> bytes:
        if request.query.get("scope", "instance") != "instance":
            return own  # the relay has told of all instances, of which each worker is one
        answers = await siblings.ask_all("stats")
        known.update({n: _read(data) for n, data in answers.found.items()})
        # What one that is busy had last: a sum without it would fall, and then rise by all it has ever done.
        there = answers.found.keys() | answers.failed.keys() & siblings.present & known.keys()
        bodies = {worker.number: _read(own)} | {n: known[n] for n in there}
        body = add_up(bodies, worker.n_workers)
        # Each has said how many fit that it knows of, and the limit is of all.
        body["room_for_connections"] = min(
            body["room_for_connections"], shared.connection_limit or body["room_for_connections"]
        )
        return msgspec.json.encode(body)

    async def health(request: web.Request, own: bytes) -> bytes:
        answers = await siblings.ask_all("n_connections", seconds=HEALTH_SECONDS)
        body = _read(own)
        body["active_connections"] += sum(int(data) for data in answers.found.values())
        return msgspec.json.encode(body | {"workers": len(answers.found) + 1})

    async def connections(request: web.Request, own: bytes) -> bytes:
        answers = await _all(siblings, "connections", request.query.get("subscriptions", "true").encode())
        lists = [data[1:-1] for _, data in sorted({worker.number: own, **answers.found}.items())]
        return b"[%b]" % b",".join(filter(None, lists))

    async def the_ledger(request: web.Request, own: bytes) -> bytes:
        wanted = [request.query.get(name, "true") == "true" for name in ("topics", "connections")]
        answers = await _all(siblings, "ledger", msgspec.msgpack.encode(wanted))
        return ledger.joined({worker.number: own, **answers.found})

    async def kick(request: web.Request, own: bytes) -> bytes:
        answers = await siblings.ask_all("kick", await request.read())
        body = _read(own)
        body["closed"] += sum(int(data) for data in answers.found.values())
        return msgspec.json.encode(body)

    async def reload_portfolios(request: web.Request, own: bytes) -> bytes:
        ids = bodies.read_ids(await request.read())
        await _all(siblings, "reload_portfolios", msgspec.msgpack.encode(ids), seconds=20.0)
        return own

    async def realtime(request: web.Request, own: bytes) -> bytes:
        answers = await siblings.ask_all("realtime", request.get(USER_KEY, "").encode())
        body = _read(own)
        for data in answers.found.values():
            _add_realtime(body, _read(data))
        return msgspec.json.encode(body)

    merges: dict[tuple[str, str], Callable[[web.Request, bytes], Awaitable[bytes]]] = {
        ("GET", "/v1/ws/stats"): stats,
        ("GET", "/health"): health,
        ("GET", "/v1/ws/connections"): connections,
        ("GET", "/v1/ws/ledger"): the_ledger,
        ("POST", "/v1/admin/kick"): kick,
        ("POST", "/v1/portfolios/reload"): reload_portfolios,
        ("GET", "/realtime/status"): realtime,
    }

    async def publish(request: web.Request) -> web.Response | None:
        # Who is not the administrator is told so by the handler.
        if worker.is_owner or not shared.admin_token or not is_administrator(request, shared.admin_token):
            return None
        try:
            return await shared.publish(await request.read())
        except SiblingError as error:
            raise HttpError(
                Refusal(503, "SERVICE_UNAVAILABLE", f"{error}; it may have been published", _SOON)
            ) from None

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        method = "GET" if request.method == "HEAD" else request.method
        path = request.path.rstrip("/")
        if (method, path) == ("POST", "/v1/publish") and (published := await publish(request)) is not None:
            return published
        response = await handler(request)
        merge = merges.get((method, path))
        if merge is None or response.status != 200:
            return response
        return json_response(await merge(request, cast(bytes, cast(web.Response, response).body)))

    return answer


async def _all(siblings: Siblings, name: str, data: bytes, *, seconds: float = 10.0) -> Answers:
    """The answers of all others; half of them is not what was asked for."""
    answers = await siblings.ask_all(name, data, seconds=seconds)
    if answers.failed:
        which = ", ".join(f"worker {n}: {why}" for n, why in sorted(answers.failed.items()))
        raise HttpError(
            Refusal(503, "SERVICE_UNAVAILABLE", f"not all have answered ({which}); try again", _SOON)
        )
    return answers


def add_up(bodies: Mapping[int, dict[str, Any]], n_workers: int) -> dict[str, Any]:
    """One body of ``/v1/ws/stats`` for those of several workers, and some of each.

    What cannot be added up is that of the worker with the lowest number, so that it is the same whoever is asked. The
    epoch is that of all: whoever compares figures learns from it that one of them began anew.
    """
    first, *others = (body for _, body in sorted(bodies.items()))
    body = dict(first)
    for other in others:
        for name, value in other.items():
            body[name] = _added(name, body.get(name), value)
    body["epoch"] = "-".join(each["epoch"] for _, each in sorted(bodies.items()))
    body["workers"] = n_workers
    body["by_worker"] = [
        {"worker": number} | {name: each[name] for name in _SHOWN_OF_EACH}
        for number, each in sorted(bodies.items())
    ]
    return body


def _added(name: str, one: Any, other: Any) -> Any:
    if one is None or other is None or name in _OWN:
        return other if one is None else one
    if name in _LARGEST:
        return max(one, other)
    if name in _SMALLEST:
        return min(one, other)
    if name == "relay":
        return other if one["is_up"] and not other["is_up"] else one
    if isinstance(one, dict):
        return {key: _added("", one.get(key), other.get(key)) for key in dict.fromkeys((*one, *other))}
    return round(one + other, 3) if isinstance(one, float) else one + other


def _add_realtime(body: dict[str, Any], other: Mapping[str, Any]) -> None:
    for name, n in other["global_stats"].items():
        body["global_stats"][name] += n
    if "user_stats" in body and "user_stats" in other:
        mine, theirs = body["user_stats"], other["user_stats"]
        mine["connection_count"] += theirs["connection_count"]
        if "connections_elsewhere" in mine:
            # To this worker, those of the others are elsewhere.
            mine["connections_elsewhere"] = max(0, mine["connections_elsewhere"] - theirs["connection_count"])
        for kind, names in theirs["subscriptions"].items():
            held = mine["subscriptions"][kind]
            mine["subscriptions"][kind] = list(dict.fromkeys((*held, *names)))


# Figures for Prometheus.


def label(text: str, worker: str) -> str:
    """Return an exposition with the label `worker` at every sample."""
    return "\n".join(_labelled(text.split("\n"), f'worker="{worker}"'))


def _labelled(lines: Iterable[str], pair: str) -> Iterator[str]:
    for line in lines:
        if not line or line.startswith("#"):
            yield line
            continue
        name, brace, rest = line.partition("{")
        if brace and " " not in name:
            yield f"{name}{{{pair},{rest}"
        else:
            name, _, value = line.partition(" ")
            yield f"{name}{{{pair}}} {value}"


def join(expositions: Sequence[str]) -> str:
    """Put expositions together: each family once, with the samples of all."""
    families: dict[str, tuple[list[str], list[str]]] = {}
    end = ""
    for text in expositions:
        about: list[str] = []
        samples: list[str] = []
        for line in text.splitlines():
            if line == "# EOF":
                end = "# EOF\n"
            elif line.startswith("# HELP "):
                about, samples = families.setdefault(line.split(" ", 3)[2], ([], []))
                is_new = not about
                if is_new:
                    about.append(line)
            elif line.startswith("#"):
                if is_new:
                    about.append(line)
            elif line:
                samples.append(line)
    lines = [line for about, samples in families.values() for line in (*about, *samples)]
    return "\n".join(lines) + "\n" + end
