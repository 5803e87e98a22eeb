"""What a client knows of its session, over all its connections: who it is, what it holds, where it is. Sans-IO."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final, NamedTuple, TypeAlias

from msgspec import UNSET

from fastws.client import messages, wire
from fastws.client.ages import Ages
from fastws.client.backoff import Reconnection
from fastws.client.held import UNSAID, Held, Target, Wish, parts, subscribe_request
from fastws.client.messages import (
    Message,
    OrderbookUpdate,
    PriceUpdate,
    Rejected,
    Restored,
    SymbolStatus,
    Withdrawn,
)
from fastws.client.numbers import Numbers
from fastws.errors import ErrorCode
from fastws.messages import (
    Greeting,
    Pause,
    Paused,
    Ping,
    Pong,
    Reconnected,
    RefreshToken,
    Resume,
    Resumed,
    ServerShutdown,
    Subscribe,
    Subscribed,
    TokenRefreshed,
    Unsubscribe,
    Unsubscribed,
)

Request: TypeAlias = Subscribe | Unsubscribe | Pause | Resume | Ping | RefreshToken
Reply: TypeAlias = Subscribed | Unsubscribed | Paused | Resumed | Pong | TokenRefreshed
Answer: TypeAlias = Reply | messages.Error
_REPLIES: Final[Mapping[type[Request], type[Reply]]] = {
    Subscribe: Subscribed,
    Unsubscribe: Unsubscribed,
    Pause: Paused,
    Resume: Resumed,
    Ping: Pong,
    RefreshToken: TokenRefreshed,
}


class Asked(NamedTuple):
    """A request that waits for its answer. `is_own`: the session asks for what it held before."""

    request: Request
    wish: Wish
    is_own: bool = False


class Session:
    """Turns what comes on a connection of the screener dialect into messages for the user, and the user's requests into
    what is to be sent.

    1. A connection is *live* from its greeting on, or, when it continues a session, from the server's word about that.
       What the greeting says holds from then on and not before: a connection that ends earlier has changed nothing.
    2. What the server has acknowledged is held; after an interruption that was not restored all of it is asked for
       again, with its options. Requests that no answer came to are sent again on the next connection: each of them
       may be done twice.
    3. Whatever of mode ``all`` does not come has been told before: by ``Restored(recovered=False)``, ``Overflow``,
       ``Withdrawn`` or ``Gap``. Nothing comes twice but in snapshots, which are marked.
    4. Every snapshot belongs to one acknowledgement; both come in the order of the requests.
    5. A pause outlives interruptions. What is published during it is left out by intention, and is not told.

    Whoever drives it takes `outgoing` and `answers`, and empties them, after each call.
    """

    def __init__(self, reconnection: Reconnection) -> None:
        self.reconnection = reconnection
        self.held = Held()
        self.greeting: Greeting | None = None
        """Of the last connection that was live."""
        self.is_live = False
        self.is_paused = False
        """As the server has last said."""
        self.outgoing: list[bytes] = []
        self.answers: list[tuple[int, Answer]] = []
        self.last_error: messages.Error | None = None
        """Of this connection, about no request: what it ends of, if it ends."""
        self.must_ask_again = False
        """The server has dropped a request, it does not say which: call `ask_again` a second later."""
        self.cursor = 0
        self.n_repeated = 0
        self.n_unknown = 0
        self.ages = Ages()
        self._numbers = Numbers()
        self._new_greeting: Greeting | None = None
        self._asked: dict[int, Asked] = {}
        self._abandoned: set[int] = set()
        self._n_requests = 0
        # Sent on this connection, and not answered: a request that is sent twice has two answers and two snapshots.
        self._n_resumes = 0
        # Of each snapshot that is still to come what it was asked for, and what of that is wanted in another way than
        # before; and what such snapshots of the last connection were asked for.
        self._awaited: deque[tuple[frozenset[Target], frozenset[Target]]] = deque()
        self._owed: set[Target] = set()

    # Connections.

    def parameters(self) -> dict[str, str]:
        """What to add to the query of the URL to go on where the last connection ended."""
        if self.greeting is None:
            return {}
        return {
            "session_id": self.greeting.connection_id,
            "last_sequence": str(self.cursor),
            "epoch": self.greeting.epoch,
        }

    def connection_lost(self) -> None:
        self.is_live = False
        self.must_ask_again = False
        self.last_error = None
        self._new_greeting = None
        self._n_resumes = 0
        self.outgoing.clear()
        for targets, _ in self._awaited:
            self._owed |= targets
        self._awaited.clear()
        for number, asked in list(self._asked.items()):
            if asked.is_own and isinstance(asked.request, Subscribe):
                # The server may have done it, and its snapshot is lost with the answer.
                kind = asked.request.subscription_type
                self._owed |= {(kind, target) for target in asked.request.targets}
            if asked.is_own or number in self._abandoned:
                del self._asked[number]
        self._abandoned.clear()

    # Requests.

    def ask(self, request: Request, wish: Wish = UNSAID, *, is_own: bool = False) -> int:
        """Send a request now, or when the session is live; `answers` has its answer under the number returned."""
        self._n_requests += 1
        request.id = self._n_requests
        self._asked[self._n_requests] = Asked(request, wish, is_own)
        if self.is_live:
            self._send(request)
        return self._n_requests

    def _send(self, request: Request) -> None:
        self._n_resumes += isinstance(request, Resume)
        self.outgoing.append(wire.request_text(request))

    def subscribe(self, kind: str, targets: Iterable[str], wish: Wish, *, snapshot: bool) -> list[int]:
        """Ask for targets in as many requests as it takes. Those held already come with a snapshot in any case: it
        tells where the new options begin to hold."""
        return [
            self.ask(
                subscribe_request(
                    kind, part, wish, snapshot or any((kind, target) in self.held.wishes for target in part)
                ),
                wish,
            )
            for part in parts(targets)
        ]

    def abandon(self, number: int) -> None:
        """Nobody waits for this answer any more. It is still heeded when it comes, but not asked for again."""
        if number in self._asked:
            self._abandoned.add(number)

    def ask_again(self) -> None:
        """Send what waits for an answer once more."""
        self.must_ask_again = False
        if self.is_live:
            for asked in self._asked.values():
                self._send(asked.request)

    # What comes.

    def receive(self, text: bytes, now: float) -> list[Message]:
        """Take a text message; returns what it has for the user, in order."""
        match wire.decode(text):
            case None:
                self.n_unknown += 1
            case wire.Received() as received:
                return self._receive_data(received)
            case messages.Unreadable() as unreadable:
                return [unreadable]
            case Greeting() if self.is_live or self._new_greeting is not None:
                return [messages.unreadable(text, "it greets who was greeted on this connection")]
            case Greeting() as greeting:
                return self._greeted(greeting, now)
            case Reconnected() as reply:
                return self._reconnected(reply, now)
            case ServerShutdown() as notice:
                self.reconnection.note_shutdown(notice.reconnect_after_ms / 1000)
            case messages.Error() as error:
                return self._receive_error(error, now)
            case (
                Subscribed() | Unsubscribed() | Paused() | Resumed() | Pong() | TokenRefreshed() as reply
            ) if not self._is_asked_for(reply):
                return [messages.unreadable(text, "it answers what was not asked")]
            case Subscribed() as reply:
                return self._subscribed(reply)
            case Unsubscribed() as reply:
                self.held.drop(reply.subscription_type, reply.targets)
                if reply.subscription_type == "stock":
                    self.ages.forget(reply.targets)
                self._note_modes()
                self._answered(reply.id, reply)
            case Paused() as reply:
                self.is_paused = True
                self._note_modes()
                self._answered(reply.id, reply)
            case Resumed() as reply:
                self._n_resumes -= 1
                everything = frozenset(self.held.wishes)
                # Answers overtake data: what comes before the snapshot is from before the pause, if there was one.
                self._awaited.append((everything, everything if self.is_paused else frozenset()))
                self.is_paused = False
                self._note_modes()
                self._answered(reply.id, reply)
            case Pong() as reply:
                self.ages.set_clock(reply.timestamp, now)
                self._answered(reply.id, reply)
            case TokenRefreshed() as reply:
                self._answered(reply.id, reply)
        return []

    def ask_ping(self) -> int:
        return self.ask(Ping())

    def ask_token(self, token: str) -> int:
        return self.ask(RefreshToken(token=token))

    def _is_asked_for(self, reply: Reply) -> bool:
        """Whether the server can say this now. It may answer again what it has answered."""
        if isinstance(reply, Resumed) and not self._n_resumes:
            return False
        asked = self._asked.get(reply.id) if isinstance(reply.id, int) else None
        if asked is None:
            return True
        request = asked.request
        if isinstance(request, (Subscribe, Unsubscribe)) and isinstance(reply, (Subscribed, Unsubscribed)):
            return (
                type(reply) is _REPLIES[type(request)]
                and reply.subscription_type == request.subscription_type
            )
        return type(reply) is _REPLIES[type(request)]

    def _greeted(self, greeting: Greeting, now: float) -> list[Message]:
        self._new_greeting = greeting
        self.ages.set_clock(greeting.timestamp, now)
        if self.greeting is not None:
            # The server's word about the session follows.
            return []
        self._begin(greeting, now)
        self.ask_again()
        return []

    def _begin(self, greeting: Greeting, now: float) -> None:
        """A session of its own begins."""
        self._numbers.forget()
        self.ages.begin()
        self._owed.clear()
        self.greeting = greeting
        self.cursor = greeting.sequence
        self._go_live(now)

    def _go_live(self, now: float) -> None:
        self.is_live = True
        self._new_greeting = None
        self.reconnection.note_live(now)

    def _reconnected(self, reply: Reconnected, now: float) -> list[Message]:
        greeting = self._new_greeting
        if greeting is None:
            return []
        restored = {
            (kind, target) for kind, targets in reply.restored_subscriptions.items() for target in targets
        }
        given_up = self._given_up()
        missing = self.held.wishes.keys() - restored - given_up
        if reply.recovered:
            if self.greeting is not None and greeting.epoch != self.greeting.epoch:
                # Another server goes on with it, by numbers of its own; all that was missed is still to come.
                self._numbers.forget()
                self.ages.change_server()
                self.cursor = 0
            self.greeting = greeting
            self._go_live(now)
            # Where something is lost, everything that is held is told anew.
            wanted = self.held.wishes.keys() if missing else self._owed
            again = [target for target in self.held.wishes if target in wanted and target not in given_up]
            self._owed.clear()
        else:
            self._begin(greeting, now)
            again = [target for target in self.held.wishes if target in missing]
            # Whether a pause that was asked for and not acknowledged holds cannot be known.
            may_be_paused = any(isinstance(asked.request, Pause) for asked in self._asked.values())
            if not self.is_paused and not may_be_paused:
                self._awaited.append((frozenset(restored), frozenset()))
            self._note_modes()
        self._ask_for(again)
        self._drop_strangers(restored)
        self._ask_waiting()
        reason = ""
        if not reply.recovered:
            reason = "the server does not have everything since then any more"
        elif missing:
            reason = f"{len(missing)} subscriptions had to be made again"
        recovered = reply.recovered and not missing
        return [Restored(recovered, reply.missed_messages_count, reason)]

    def _given_up(self) -> set[Target]:
        """What requests that wait for an answer are to end."""
        return {
            (asked.request.subscription_type, target)
            for asked in self._asked.values()
            if isinstance(asked.request, Unsubscribe)
            for target in asked.request.targets
        }

    def _drop_strangers(self, restored: set[Target]) -> None:
        """End what is held by an answer that never came and that nobody waits for."""
        wanted = set(self.held.wishes)
        for asked in self._asked.values():
            if isinstance(asked.request, Subscribe):
                wanted |= {(asked.request.subscription_type, target) for target in asked.request.targets}
        strangers: dict[str, list[str]] = {}
        for kind, target in sorted(restored - wanted):
            strangers.setdefault(kind, []).append(target)
        for kind, targets in strangers.items():
            for part in parts(targets):
                self.ask(Unsubscribe(subscription_type=kind, targets=part), is_own=True)  # type: ignore[arg-type]

    def _ask_for(self, targets: Iterable[Target]) -> None:
        for request in self.held.requests(targets):
            self.ask(request, self.held.wishes[request.subscription_type, request.targets[0]], is_own=True)

    def _ask_waiting(self) -> None:
        for asked in self._asked.values():
            if not asked.is_own:
                self._send(asked.request)

    def _receive_error(self, error: messages.Error, now: float) -> list[Message]:
        if self._new_greeting is not None and error.code == ErrorCode.SESSION_RESTORATION_FAILED:
            self._begin(self._new_greeting, now)
            if self.is_paused:
                self.is_paused = False
                self.ask(Pause(), is_own=True)
            given_up = self._given_up()
            self._ask_for(target for target in self.held.wishes if target not in given_up)
            self._ask_waiting()
            return [Restored(False, None, error.message)]
        number = error.id if isinstance(error.id, int) else 0
        asked = self._asked.pop(number, None)
        if asked is None:
            self.last_error = error
            self.must_ask_again |= error.code == ErrorCode.RATE_LIMIT_EXCEEDED and bool(self._asked)
            return [error]
        self._abandoned.discard(number)
        if not asked.is_own:
            self.answers.append((number, error))
            return []
        if not isinstance(asked.request, Subscribe):
            return [error]
        kind, targets = asked.request.subscription_type, asked.request.targets
        self.held.drop(kind, targets)
        self._note_modes()
        return [Withdrawn(kind, [Rejected(target, error.message) for target in targets])]

    def _subscribed(self, reply: Subscribed) -> list[Message]:
        asked = self._asked.get(reply.id) if isinstance(reply.id, int) else None
        if asked is None or not isinstance(asked.request, Subscribe):
            return []
        kind = reply.subscription_type
        targets = [(kind, target) for target in reply.targets]
        before = {target: self.held.wishes.get(target) for target in targets}
        self.held.accept(kind, reply.targets, asked.wish)
        if asked.request.snapshot and not self.is_paused:
            changed = frozenset(target for target in targets if self.held.wishes[target] != before[target])
            self._awaited.append((frozenset(targets), changed))
        elif kind == "stock":
            for target in reply.targets:
                self._numbers.unknown(target)
        rejected = [] if reply.rejected is UNSET else reply.rejected
        if asked.is_own:
            self.held.drop(kind, [item.target for item in rejected])
        self._note_modes()
        self._answered(reply.id, reply)
        return [Withdrawn(kind, rejected)] if asked.is_own and rejected else []

    def _answered(self, number: object, reply: Answer) -> None:
        asked = self._asked.pop(number, None) if isinstance(number, int) else None
        if asked is not None and isinstance(number, int):
            self._abandoned.discard(number)
            if not asked.is_own:
                self.answers.append((number, reply))

    def _note_modes(self) -> None:
        unsettled = {target for _, changed in self._awaited for target in changed}
        self._numbers.hold(self.held.modes(set(self.held.wishes) if self.is_paused else unsettled))

    def _receive_data(self, received: wire.Received) -> list[Message]:
        if received.is_snapshot:
            found: list[Message] = list(received.items)  # type: ignore[arg-type]  # of the types of Message
            for item in received.items:
                self._note_age(item, is_live=False)
            targets, _ = self._awaited.popleft() if self._awaited else (frozenset[Target](), None)
            self._note_modes()
            self._numbers.take_snapshot(
                [item for item in received.items if isinstance(item, (PriceUpdate, OrderbookUpdate))],
                [name for kind, name in targets if kind == "stock"],
                received.sequence,
            )
        else:
            found = []
            for item in received.items:
                self._receive_item(item, found)
        self.cursor = max(self.cursor, received.sequence)
        return found

    def _receive_item(self, item: wire.Live, found: list[Message]) -> None:
        if isinstance(item, (PriceUpdate, OrderbookUpdate)):
            verdict = self._numbers.take(item)
            if not verdict:
                self.n_repeated += verdict is False
                return
            if isinstance(verdict, list):
                found += verdict
        elif isinstance(item, messages.Overflow):
            are_noted = [self._numbers.declare(lost) for lost in item.items]
            if not all(are_noted):
                found.append(messages.unreadable(wire.encode(item), "it declares losses without end"))
        self._note_age(item, is_live=True)
        if isinstance(item, messages.Update):
            self.cursor = max(self.cursor, item.sequence)
        found.append(item)  # type: ignore[arg-type]  # of the types of Message

    def _note_age(self, item: wire.Live, *, is_live: bool) -> None:
        if isinstance(item, (PriceUpdate, OrderbookUpdate)):
            self.ages.take(item.code, item.timestamp, is_live=is_live, is_restored=item.stale)
        elif isinstance(item, SymbolStatus):
            self.ages.note(item.code, item.status)

    @property
    def user_id(self) -> str | int | None:
        return None if self.greeting is None else self.greeting.user_id

    @property
    def server_time(self) -> datetime | None:
        return None if self.greeting is None else datetime.fromisoformat(self.greeting.timestamp)
