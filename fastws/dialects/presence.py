"""Who is there, and for whom there is room. Sans-IO."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

from fastws.auth import Identity
from fastws.dialects.clients import Client
from fastws.errors import CloseCode, ErrorCode
from fastws.limits import Limits

COUNTED_SECONDS: Final = 6.0
"""For how long the connections of an instance may be counted that is not there any more."""


class Elsewhere(Protocol):
    """The connections that users have at other instances, as far as they are known."""

    def n_connections(self, user_key: str, /) -> int: ...

    def oldest_ms(self, user_key: str, /) -> int | None:
        """When a user's oldest was opened, Unix ms; None where there is none."""

    def evict_oldest(self, user_key: str, /) -> None:
        """Have a user's oldest one closed."""


class Presence:
    """The clients that are there, by the id of their connections and by user.

    1. A user has at most `connections_per_user` connections (0: any number), and an address and the server what
       `limits` says. Where `evicts_oldest`, the user's oldest one goes for the newest, else the newest is refused.
    2. Nobody is evicted before it is certain that the newcomer gets in.
    3. Every client counts to `limits` from :meth:`arrive` to :meth:`depart`, first as a guest and from
       :meth:`take_place` on in full; one that is evicted is a guest again until it ends.
    4. A client is in `arriving` until :meth:`enter`, and is not there before: it may wait for keys, or for a session.
    5. `by_user` holds each user who is there with the clients in the order in which they became the user's.
       `on_entered` is called whenever one has, and `on_user_changed` whenever a user's clients are others than before.
    6. Connections at other instances count, too, as far as they are known. So two that come to different instances in
       one moment may both get in. One whose session has come here is not counted where it was, too.
    7. `on_changed` is called with the id of each connection that comes, goes or becomes another user's.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        connections_per_user: int,
        evicts_oldest: bool,
    ) -> None:
        self.limits = limits
        self.connections_per_user = connections_per_user
        self.evicts_oldest = evicts_oldest
        self.arriving: dict[Client, None] = {}
        self.by_id: dict[str, Client] = {}
        self.by_user: dict[str, dict[Client, None]] = {}
        self.on_entered: Callable[[Client], object] = lambda client: None
        self.on_user_changed: Callable[[str], object] = lambda user_key: None
        # None where this instance is alone.
        self.elsewhere: Elsewhere | None = None
        self.on_changed: Callable[[str], object] = lambda connection_id: None

    def arrive(self, client: Client) -> None:
        """Note a connection of which it is not known yet who it is."""
        self.limits.arrive(client.arrival.address_key)
        self.arriving[client] = None

    def depart(self, client: Client) -> None:
        """Forget a connection that has ended."""
        self.limits.depart(client.arrival.address_key, is_admitted=client.is_counted)
        self.arriving.pop(client, None)
        self._forget_id(client)
        self._forget_user(client)

    def take_place(self, client: Client) -> bool:
        """Count a connection from now on, for its user, its address and in all; False: it was refused."""
        if not self._has_room(client):
            return False
        key = client.arrival.address_key
        is_full = self._is_full(client)
        oldest = self._oldest(client) if is_full else None
        is_freed = oldest is not None and oldest.is_counted
        is_of_key = oldest is not None and is_freed and oldest.arrival.address_key == key
        excess = self.limits.admit(key, n_leaving=is_freed, n_leaving_of_key=is_of_key)
        if excess is not None:
            self._refuse(client, excess.message, excess.limit, excess.current)
            return False
        client.is_counted = True
        if is_full:
            self._make_room(client, oldest)
        return True

    def enter(self, client: Client) -> None:
        """A connection that has its place is found under its id and its user from now on."""
        self.arriving.pop(client, None)
        self.by_id[client.connection_id] = client
        self._note_user(client)
        self.on_changed(client.connection_id)

    def rename(self, client: Client, connection_id: str) -> None:
        """Let a connection that is there go on under another id."""
        self._forget_id(client)
        client.connection_id = connection_id
        self.by_id[connection_id] = client
        self.on_changed(connection_id)

    def identify(self, client: Client, identity: Identity) -> bool:
        """Make a connection that is there the one of `identity`; False: its user has too many, and it was refused."""
        if identity.user_key != client.user_key:
            self._forget_user(client)
            client.identity = identity
            if not self._has_room(client):
                return False
            if self._is_full(client):
                self._make_room(client, self._oldest(client))
        client.identity = identity
        self._note_user(client)
        self.on_changed(client.connection_id)
        return True

    def _has_room(self, client: Client) -> bool:
        """Whether a connection may be its user's, be it in the place of the oldest; False: it was refused."""
        n_others = self._n_others(client)
        if self.evicts_oldest or not self.connections_per_user or n_others < self.connections_per_user:
            return True
        self.limits.note_refused_user()
        text = f"A user may have {self.connections_per_user} connections; close one first"
        self._refuse(client, text, self.connections_per_user, n_others)
        return False

    def connections_of(self, user_key: str) -> tuple[int, int]:
        """How many connections a user has here, and when the oldest was opened, Unix ms."""
        clients = self.by_user.get(user_key)
        if not clients:
            return 0, 0
        return len(clients), next(iter(clients)).connection.opened_at_ms

    def evict_oldest(self, user_key: str, opened_ms: int) -> None:
        """Let the user's oldest connection go for one at another instance, if it was opened by `opened_ms`."""
        oldest = next(iter(self.by_user.get(user_key, ())), None)
        if oldest is not None and oldest.connection.opened_at_ms <= opened_ms:
            self._evict(oldest)

    def _is_full(self, client: Client) -> bool:
        """Whether another connection of the user has to go for this one."""
        return 0 < self.connections_per_user <= self._n_others(client)

    def _oldest(self, client: Client) -> Client | None:
        """The user's oldest other connection; None when that is at another instance."""
        key = client.user_key or ""
        oldest = next((other for other in self.by_user.get(key, ()) if other is not client), None)
        if oldest is None or self.elsewhere is None:
            return oldest
        opened_ms = self.elsewhere.oldest_ms(key)
        return None if opened_ms is not None and opened_ms < oldest.connection.opened_at_ms else oldest

    def _make_room(self, client: Client, oldest: Client | None) -> None:
        if oldest is not None:
            self._evict(oldest)
        elif self.elsewhere is not None:
            self.elsewhere.evict_oldest(client.user_key or "")

    def _n_others(self, client: Client) -> int:
        key = client.user_key
        if key is None:
            return 0
        others = self.by_user.get(key, {})
        n_elsewhere = 0 if self.elsewhere is None else self.elsewhere.n_connections(key)
        if n_elsewhere:
            now = time.monotonic()
            n_moved = sum(other.moved_until > now for other in others if other is not client)
            n_elsewhere = max(0, n_elsewhere - n_moved - (client.moved_until > now))
        return len(others) - (client in others) + n_elsewhere

    def _evict(self, client: Client) -> None:
        if client.is_counted:
            client.is_counted = False
            self.limits.dismiss(client.arrival.address_key)
        n_connections = len(self.by_user.get(client.user_key or "", {}))
        self._forget_user(client)
        text = f"A user may have {self.connections_per_user} connections; a newer one has replaced this one"
        details: dict[str, object] = {"limit": self.connections_per_user, "current": n_connections}
        client.refuse(ErrorCode.LIMIT_EXCEEDED, text, details)
        client.connection.close(CloseCode.RATE_ABUSE, "replaced by a newer connection of the user")

    def _refuse(self, client: Client, text: str, limit: int, current: int) -> None:
        client.refuse(ErrorCode.LIMIT_EXCEEDED, text, {"limit": limit, "current": current})
        client.connection.close(CloseCode.RATE_ABUSE, "too many connections")

    def _note_user(self, client: Client) -> None:
        if client.user_key is None:
            return
        clients = self.by_user.setdefault(client.user_key, {})
        if client not in clients:
            clients[client] = None
            self.on_entered(client)
            self.on_user_changed(client.user_key)

    def _forget_user(self, client: Client) -> None:
        key = client.user_key
        if key is not None and key in self.by_user:
            self.by_user[key].pop(client, None)
            if not self.by_user[key]:
                del self.by_user[key]
            self.on_user_changed(key)

    def _forget_id(self, client: Client) -> None:
        if self.by_id.get(client.connection_id) is client:
            del self.by_id[client.connection_id]
            self.on_changed(client.connection_id)
