"""What a client of the realtime dialect knows over all its connections. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeAlias

from fastws.client import messages
from fastws.client.ages import Ages
from fastws.client.backoff import Reconnection
from fastws.client.messages import Rejected, Restored, Withdrawn
from fastws.client.realtime_messages import AssetUpdate, Message, SymbolStatus, decode, encode
from fastws.errors import ErrorCode
from fastws.messages import realtime as wire

Target: TypeAlias = str | int
"""A symbol, or the id of a portfolio."""
Reply: TypeAlias = (
    wire.RealtimeSubscribed | wire.RealtimeUnsubscribed | wire.RealtimePong | wire.RealtimeAuthenticated
)
_REPLIES: Final[Mapping[type[wire.ClientMessage], type[Reply]]] = {
    wire.SubscribeAsset: wire.RealtimeSubscribed,
    wire.SubscribePortfolio: wire.RealtimeSubscribed,
    wire.UnsubscribeAsset: wire.RealtimeUnsubscribed,
    wire.UnsubscribePortfolio: wire.RealtimeUnsubscribed,
    wire.RealtimePing: wire.RealtimePong,
    wire.RealtimeAuth: wire.RealtimeAuthenticated,
}
Held: TypeAlias = tuple[str, Target]
""""asset" and a symbol, or "portfolio" and an id."""
# Of the server's `message_bytes`, which may be as low as this many of the longest names.
_TARGETS_PER_REQUEST: Final = 200
_NO_SESSIONS: Final = (
    "this dialect has no sessions: everything was subscribed to again, and its last values follow"
)


class Outcome(NamedTuple):
    """What a request for targets was answered."""

    targets: list[Target]
    rejected: list[Rejected]
    error: messages.Error | None


class _Asked:
    """A request that waits for its answers: one for each of its targets, unless an error is the last one."""

    def __init__(self, request: wire.ClientMessage, held: list[Held], *, is_own: bool) -> None:
        self.request = request
        self.held = held
        self.is_own = is_own
        self.left = {target for _, target in held}


class RealtimeSession:
    """Turns what comes on a connection of the realtime dialect into messages for the user, and the user's requests into
    what is to be sent; see `fastws.client.link.Conversation`.

    1. There are no sessions: what the server has acknowledged is held, and asked for again on every connection.
    2. Requests that were not answered in full are sent again on the next connection: each may be done twice.
    3. Values are the newest ones always, so nothing that is passed over is told.
    """

    def __init__(self, reconnection: Reconnection) -> None:
        self.reconnection = reconnection
        self.outgoing: list[bytes] = []
        self.answers: list[tuple[int, Any]] = []
        self.is_live = False
        self.last_error: messages.Error | None = None
        self.must_ask_again = False
        self.n_repeated = 0
        self.n_unknown = 0
        self.ages = Ages()
        self.held: dict[Held, None] = {}
        self._greeting: wire.RealtimeGreeting | None = None
        self._asked: dict[int, _Asked] = {}
        self._abandoned: set[int] = set()
        self._n_requests = 0

    @property
    def server_time(self) -> datetime | None:
        return None if self._greeting is None else datetime.fromisoformat(self._greeting.timestamp)

    @property
    def user_id(self) -> str | int | None:
        return None if self._greeting is None else self._greeting.data.user_id

    def parameters(self) -> dict[str, str]:
        return {}

    def connection_lost(self) -> None:
        self.is_live = self.must_ask_again = False
        self.last_error = None
        self.outgoing.clear()
        for number, asked in list(self._asked.items()):
            asked.left = {target for _, target in asked.held}
            if asked.is_own or number in self._abandoned:
                del self._asked[number]
        self._abandoned.clear()

    # Requests.

    def ask_ping(self) -> int:
        return self._ask(wire.RealtimePing())

    def ask_token(self, token: str) -> int:
        return self._ask(wire.RealtimeAuth(data=wire.GivenToken(token)))

    def subscribe(self, kind: str, targets: Iterable[Target]) -> list[int]:
        return [self._ask(request, held) for request, held in _requests(kind, targets, is_wanted=True)]

    def unsubscribe(self, kind: str, targets: Iterable[Target]) -> list[int]:
        return [self._ask(request, held) for request, held in _requests(kind, targets, is_wanted=False)]

    def _ask(
        self, request: wire.ClientMessage, held: list[Held] | None = None, *, is_own: bool = False
    ) -> int:
        self._n_requests += 1
        request.id = self._n_requests
        self._asked[self._n_requests] = _Asked(request, held or [], is_own=is_own)
        if self.is_live:
            self.outgoing.append(encode(request))
        return self._n_requests

    def ask_again(self) -> None:
        self.must_ask_again = False
        if self.is_live:
            self.outgoing += [encode(asked.request) for asked in self._asked.values()]

    def abandon(self, number: int) -> None:
        if number in self._asked:
            self._abandoned.add(number)

    # What comes.

    def receive(self, text: bytes, now: float) -> list[Message]:
        match decode(text):
            case None:
                self.n_unknown += 1
            case wire.RealtimeGreeting() if self.is_live:
                return [messages.unreadable(text, "it greets who was greeted on this connection")]
            case wire.RealtimeGreeting() as greeting:
                return self._greeted(greeting, now)
            case wire.RealtimeServerShutdown() as notice:
                self.reconnection.note_shutdown(notice.data.reconnect_after_ms / 1000)
            case (
                wire.RealtimeSubscribed()
                | wire.RealtimeUnsubscribed()
                | wire.RealtimePong()
                | wire.RealtimeAuthenticated() as reply
            ) if not self._is_asked_for(reply):
                return [messages.unreadable(text, "it answers what was not asked")]
            case wire.RealtimeSubscribed() | wire.RealtimeUnsubscribed() as reply:
                self._changed(reply)
            case wire.RealtimePong() as reply:
                self.ages.set_clock(reply.timestamp, now)
                self._answer(reply.id, reply)
            case wire.RealtimeAuthenticated() as reply:
                self._answer(reply.id, reply)
            case messages.Error() as error:
                return self._failed(error)
            case AssetUpdate() as update:
                self.ages.take(update.symbol, update.timestamp, is_restored=update.stale)
                return [update]
            case SymbolStatus() as status:
                self.ages.note(status.symbol, status.status)
                return [status]
            case told:
                return [told]
        return []

    def _is_asked_for(self, reply: Reply) -> bool:
        asked = self._asked.get(reply.id) if isinstance(reply.id, int) else None
        if asked is None:
            # It may answer again what it has answered.
            return True
        if type(reply) is not _REPLIES[type(asked.request)]:
            return False
        return not isinstance(reply, wire.RealtimeSubscribed | wire.RealtimeUnsubscribed) or (
            asked.held[0][0] == _held(reply.data)[0]
        )

    def _greeted(self, greeting: wire.RealtimeGreeting, now: float) -> list[Message]:
        is_first = self._greeting is None
        self._greeting = greeting
        self.ages.set_clock(greeting.timestamp, now)
        self.ages.begin()
        self.is_live = True
        self.reconnection.note_live(now)
        waiting = list(self._asked.values())
        given_up = {
            pair
            for asked in waiting
            if isinstance(asked.request, wire.UnsubscribeAsset | wire.UnsubscribePortfolio)
            for pair in asked.held
        }
        for kind in ("asset", "portfolio"):
            targets = [pair[1] for pair in self.held if pair[0] == kind and pair not in given_up]
            for request, held in _requests(kind, targets, is_wanted=True):
                self._ask(request, held, is_own=True)
        self.outgoing += [encode(asked.request) for asked in waiting]
        return [] if is_first else [Restored(False, None, _NO_SESSIONS)]

    def _changed(self, reply: wire.RealtimeSubscribed | wire.RealtimeUnsubscribed) -> None:
        held = _held(reply.data)
        _, target = held
        if isinstance(reply, wire.RealtimeSubscribed):
            self.held[held] = None
        else:
            self.held.pop(held, None)
            self.ages.forget([str(target)] if held[0] == "asset" else ())
        asked = self._asked.get(reply.id) if isinstance(reply.id, int) else None
        if asked is not None:
            asked.left.discard(target)
            if not asked.left:
                self._answer(reply.id, Outcome([target for _, target in asked.held], [], None))

    def _failed(self, error: messages.Error) -> list[Message]:
        asked = self._asked.get(error.id) if isinstance(error.id, int) else None
        if asked is None:
            self.last_error = error
            self.must_ask_again |= error.code == ErrorCode.RATE_LIMIT_EXCEEDED and bool(self._asked)
            return [error]
        is_own = asked.is_own
        outcome: Any = error
        if asked.held:
            # Those that were accepted have been acknowledged before.
            refused = [pair for pair in asked.held if pair[1] in asked.left]
            reasons = {item.target: item.reason for item in messages.rejections(error)}
            rejected = [
                Rejected(str(target), reasons.get(str(target), error.message)) for _, target in refused
            ]
            outcome = Outcome(
                [target for _, target in asked.held if target not in asked.left], rejected, error
            )
            if is_own:
                for pair in refused:
                    self.held.pop(pair, None)
        self._answer(error.id, outcome)
        if not is_own:
            return []
        return [Withdrawn(asked.held[0][0], outcome.rejected)] if asked.held else [error]

    def _answer(self, number: object, answer: Any) -> None:
        asked = self._asked.pop(number, None) if isinstance(number, int) else None
        if asked is not None and isinstance(number, int):
            self._abandoned.discard(number)
            if not asked.is_own:
                self.answers.append((number, answer))


def _held(data: wire.Target) -> Held:
    if isinstance(data.symbol, str):
        return "asset", data.symbol
    return "portfolio", int(data.portfolio_id)  # type: ignore[arg-type]  # one of both is there


def _requests(
    kind: str, targets: Iterable[Target], *, is_wanted: bool
) -> Iterator[tuple[wire.ClientMessage, list[Held]]]:
    """What to send for targets, each once, with what it is about."""
    names = list(dict.fromkeys(targets))
    if kind == "portfolio":
        for number in names:
            portfolio = wire.Portfolio(portfolio_id=int(number))
            make = wire.SubscribePortfolio if is_wanted else wire.UnsubscribePortfolio
            yield make(data=portfolio), [(kind, number)]
        return
    for start in range(0, len(names), _TARGETS_PER_REQUEST):
        part = names[start : start + _TARGETS_PER_REQUEST]
        symbols = wire.Symbols(symbols=[str(name) for name in part])
        message = wire.SubscribeAsset if is_wanted else wire.UnsubscribeAsset
        yield message(data=symbols), [(kind, name) for name in part]
