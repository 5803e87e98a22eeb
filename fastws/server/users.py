"""Users wherever they are connected: their alerts, their sessions, and the end of their connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from fastws.dialects.admission import Admission
from fastws.dialects.holdings import Holdings
from fastws.market.alert_messages import Alert
from fastws.market.alerts import AlertBook
from fastws.relay.control import Eviction, Kick
from fastws.server.shared_alerts import SharedAlerts

if TYPE_CHECKING:
    from fastws.relay.relay import Relay

_log = structlog.get_logger("fastws")


class Users:
    """Reaches users here and, after :meth:`join`, at other instances. Belongs to the thread of the event loop."""

    def __init__(self, admission: Admission, alerts: AlertBook) -> None:
        self._admission = admission
        self._alerts = alerts
        self._shared_alerts: SharedAlerts | None = None
        self._relay: Relay | None = None
        self._are_others_asked = False
        admission.mail.on_told = self._on_told

    def join(self, relay: Relay, *, asks_others: bool, sessions_bytes: int) -> None:
        """Have users in common with the instances that `relay` joins this one to.

        `asks_others`: :meth:`kick` reaches them, too. Of their sessions `sessions_bytes` are kept here; 0 for none.
        """
        self._relay = relay
        self._are_others_asked = asks_others
        presence = self._admission.presence
        self._shared_alerts = SharedAlerts(relay, self._admission.mail, self._is_awaited)
        relay.kicking.on_kick = self._on_kick
        relay.sharing.user = presence.connections_of
        relay.sharing.on_eviction = self._on_eviction
        presence.elsewhere = relay.sharing
        presence.on_user_changed = relay.sharing.note_user
        if sessions_bytes:
            takeover = self._admission.takeover
            takeover.elsewhere = relay.join_sessions(
                Holdings(self._admission.sessions, presence, takeover),
                self._admission.mail,
                limit=sessions_bytes,
            )

    def tell(self, user_key: str, alert: Alert) -> int:
        """Publish an alert to a user, wherever connected; see `Mail`. Returns its sequence here."""
        if self._shared_alerts is not None:
            return self._shared_alerts.tell(user_key, alert)
        return self._admission.mail.tell(user_key, alert)

    async def kick(
        self, *, user_id: str | None, jti: str | None, connection_id: str | None
    ) -> tuple[int, list[str]]:
        """Close connections with 4401, also those of other instances; see `Admission.kick`.

        Returns how many, and the names of the instances that have not said how many of theirs.
        """
        n = self._admission.kick(user_id=user_id, jti=jti, connection_id=connection_id)
        missing: list[str] = []
        if self._relay is not None and self._are_others_asked:
            n_others, missing = await self._relay.kicking.kick(
                user_id=user_id, jti=jti, connection_id=connection_id
            )
            n += n_others
        whom = {
            "user": user_id and user_id[:64],
            "jti": jti and jti[:64],
            "connection": connection_id and connection_id[:8],
        }
        silent = {"missing": missing} if missing else {}
        _log.info("kicked", **{name: text for name, text in whom.items() if text}, closed=n, **silent)
        return n, missing

    def _on_told(self, alert: Alert) -> None:
        if self._shared_alerts is not None:
            self._shared_alerts.on_told(alert)
        if alert.rule_id is not None:
            self._alerts.told(alert.rule_id)

    # What other instances say.

    def _on_kick(self, kick: Kick) -> int:
        return self._admission.kick(user_id=kick.user_id, jti=kick.jti, connection_id=kick.connection_id)

    def _on_eviction(self, eviction: Eviction) -> None:
        self._admission.presence.evict_oldest(eviction.user_key, eviction.opened_ms)

    def _is_awaited(self, user_key: str) -> bool:
        moves = None if self._relay is None else self._relay.sessions
        return (
            user_key in self._admission.presence.by_user
            or self._admission.sessions.has_user(user_key)
            # Whose session waits that an instance has left which is gone.
            or (moves is not None and moves.known.has_orphan_of(user_key))
        )
