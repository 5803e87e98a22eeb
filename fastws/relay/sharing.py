"""What instances know of each other's users and of what each other's clients look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from fastws._core import Hub
from fastws.relay.channels import Channels
from fastws.relay.control import (
    NOTHING,
    Eviction,
    Message,
    Pair,
    TableName,
    TablePart,
    TablesRequest,
    encode,
)
from fastws.relay.links import AnyLink
from fastws.relay.peers import Peer, Peers
from fastws.relay.tables import CHANGES, OwnTable, PeerTable

USERS: Final = "users"
INTEREST: Final = "interest"
_TABLES: Final[tuple[TableName, ...]] = (USERS, INTEREST)
_ASK_AGAIN_SECONDS: Final = 1.0

MIN_CHANGED: Final = 2 * CHANGES
"""So many users who may have changed are remembered without a look at them."""


class Sharing:
    """Tells the others of the tables of this instance, and knows theirs. Belongs to the thread of the event loop.

    ``users`` has the number of connections of each user, and when the oldest was opened (Unix ms); ``interest`` the two
    numbers of `fastws.market.interest.Interest` of each code, as long as there is somebody who runs a feed.

    1. Changes leave within a tick of the relay (50 ms), together; `interest` is looked at every second.
    2. What a change has lost is seen at the next announcement, and the whole table asked for.
    3. While Redis is away, users who have changed are remembered: at most twice as many as have connections, or were
       told to have some.
    4. Who is not heard any more has no entries, nor has anybody while Redis is away: then each is alone.

    `on_eviction` is called with what others ask for, and `on_users` with an instance's origin and users who have
    connections there now, or others than before.
    """

    def __init__(
        self,
        hub: Hub,
        link: AnyLink,
        channels: Channels,
        peers: Peers,
        *,
        origin: int,
        clock: Callable[[], float],
    ) -> None:
        self.hub = hub
        self.on_eviction: Callable[[Eviction], object] = lambda eviction: None
        self.on_users: Callable[[int, Iterable[str]], object] = lambda origin, keys: None
        # What the users and the codes of this instance have now; asked for those that have changed, and for all.
        self.user: Callable[[str], Pair] = lambda key: NOTHING
        self.interest: Callable[[], Mapping[str, Pair]] = dict
        self._origin = origin
        self._link = link
        self._channels = channels
        self._peers = peers
        self._clock = clock
        self._own: dict[TableName, OwnTable] = {name: OwnTable(origin, name) for name in _TABLES}
        self._changed_users: set[str] = set()
        self._max_changed = MIN_CHANGED

    # Of this instance.

    @property
    def serials(self) -> dict[TableName, int]:
        """What announcements tell."""
        return {name: table.serial for name, table in self._own.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """How many entries the others have been told of."""
        return {name: len(table) for name, table in self._own.items()}

    @property
    def n_waiting(self) -> int:
        """Users who may have changed and are still to be told of."""
        return len(self._changed_users)

    def note_user(self, key: str) -> None:
        """A user has other connections than before."""
        self._changed_users.add(key)
        if len(self._changed_users) > self._max_changed:
            self._forget_unchanged()

    def _forget_unchanged(self) -> None:
        """Of users who have come and gone while nothing could be told, there is nothing to tell."""
        table = self._own[USERS]
        self._changed_users = {key for key in self._changed_users if table.differs(key, self.user(key))}
        # The next look is worth it once there are as many again.
        self._max_changed = max(MIN_CHANGED, 2 * len(self._changed_users))

    def look(self, *, is_anyone_feeding: bool) -> None:
        """Look at what clients want; once a second."""
        self._own[INTEREST].replace(self.interest() if is_anyone_feeding else {})

    def tell(self) -> None:
        """Tell what has changed."""
        if not self._link.is_up:
            return
        changed, users = self._changed_users, self._own[USERS]
        for _ in range(min(len(changed), CHANGES)):
            key = changed.pop()
            users.put(key, self.user(key))
        for table in self._own.values():
            for part in table.changes():
                self._send(self._channels.control, part)

    def hand_out(self, request: TablesRequest) -> None:
        """Send whole tables to whoever has asked."""
        for name in request.tables:
            self._hand_out(self._channels.inbox(request.origin), iter(self._own[name].whole()))

    def _hand_out(self, inbox: str, parts: Iterator[TablePart]) -> None:
        # One part in a turn of the loop: a hundred thousand users are 50 parts.
        part = next(parts, None)
        if part is not None:
            self._send(inbox, part)
            self.hub.loop.call_soon(self._hand_out, inbox, parts)

    # Of the others.

    def receive(self, part: TablePart) -> None:
        peer = self._peers.get(part.origin)
        if peer is not None:
            _table(peer, part.table).receive(part)
            self._ask_if_missing(peer, part.table)
            if part.table == USERS:
                self.on_users(part.origin, (key for key, pair in part.entries.items() if pair[0]))

    def announced(self, peer: Peer, serials: Mapping[TableName, int]) -> None:
        """Hear how far a peer's tables have come."""
        for name, serial in serials.items():
            _table(peer, name).announced(serial)
            self._ask_if_missing(peer, name)

    def n_connections(self, user_key: str) -> int:
        """How many connections a user has at other instances."""
        return sum(pair[0] for _, pair in self._of_user(user_key))

    def oldest_ms(self, user_key: str) -> int | None:
        """When the user's oldest connection at another instance was opened; None: there is none."""
        return min((pair[1] for _, pair in self._of_user(user_key)), default=None)

    def evict_oldest(self, user_key: str) -> None:
        """Ask the instance that has a user's oldest connection to close it."""
        found = list(self._of_user(user_key))
        if not found:
            return
        peer, (n, opened_ms) = min(found, key=lambda one: (one[1][1], one[0].origin))
        self._send(self._channels.inbox(peer.origin), Eviction(self._origin, user_key, opened_ms))
        # Until that instance says it itself.
        entries = _table(peer, USERS).entries
        if n > 1:
            entries[user_key] = n - 1, opened_ms + 1
        else:
            del entries[user_key]

    def wanted_elsewhere(self) -> dict[str, Pair]:
        """What the clients of all other instances want, by code."""
        wanted: dict[str, Pair] = {}
        if self._link.is_up:
            for peer in self._peers:
                for code, (n_viewers, n_others) in _table(peer, INTEREST).entries.items():
                    before = wanted.get(code, NOTHING)
                    wanted[code] = before[0] + n_viewers, before[1] + n_others
        return wanted

    def _of_user(self, user_key: str) -> Iterator[tuple[Peer, Pair]]:
        if self._link.is_up:
            for peer in self._peers:
                pair = _table(peer, USERS).get(user_key)
                if pair[0]:
                    yield peer, pair

    def _ask_if_missing(self, peer: Peer, name: TableName) -> None:
        if _table(peer, name).is_to_be_asked(self._clock(), _ASK_AGAIN_SECONDS):
            self._send(self._channels.inbox(peer.origin), TablesRequest(self._origin, [name]))

    def _send(self, channel: str, message: Message) -> None:
        self._link.send(channel, encode(message))


def _table(peer: Peer, name: TableName) -> PeerTable:
    try:
        return peer.tables[name]
    except KeyError:
        table = peer.tables[name] = PeerTable()
        return table
