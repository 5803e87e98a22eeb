"""What an instance says of its sessions to those that their clients go to."""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec

from fastws._core import Channel, Hub
from fastws.dialects.mail import Mail
from fastws.mailboxes import Kept
from fastws.market.alert_messages import Alert
from fastws.market.alert_store import number_text
from fastws.relay.control import MAX_SIZE
from fastws.relay.peers import Peers
from fastws.relay.receiving import Receiving
from fastws.relay.sending import Sending
from fastws.relay.session_messages import HandedAlert, Mark, Reached, SessionAnswer, groups_of
from fastws.sessions import Session

# Others may not have heard yet that a connection has ended.
_JUST_SECONDS: Final = 1.0

_encoder: Final = msgspec.msgpack.Encoder()


class SessionStates:
    """Says how far the clients of sessions are, by stamps. Belongs to the thread of the event loop."""

    def __init__(
        self, hub: Hub, mail: Mail, peers: Peers, sending: Sending, receiving: Receiving, *, origin: int
    ) -> None:
        self.hub = hub
        self.mail = mail
        self._peers = peers
        self._sending = sending
        self._receiving = receiving
        self._origin = origin

    @property
    def has_gaps(self) -> bool:
        """Whether something is missing here, so that it cannot be said how far anybody is."""
        return self._receiving.n_with_gaps > 0

    def of(self, session: Session, cursor: int | None, claim: int) -> tuple[SessionAnswer, list[Kept]]:
        """What there is to say of a session whose client has seen everything up to `cursor`, but for positions; and
        what of that is kept here for its user."""
        subscriptions = session.subscriptions
        handed = session.handed
        if session.is_moved:
            # Nobody has used it here.
            marks = None if handed is None else handed.marks
        else:
            marks = None if cursor is None else self.hub.marks(subscriptions, cursor)
        if self._receiving.n_with_gaps:
            marks = None
        n_missed = 0 if cursor is None else self.hub.count_missed(subscriptions, cursor)[0]
        kept = self.mail.missed_by(session, cursor)
        alerts = [one.payload for one in kept]
        if handed is not None:
            n_missed = max(n_missed, handed.n_missed)
            ids = {alert.id for alert in alerts if alert.id}
            alerts = [alert for alert in handed.alerts if alert.id not in ids] + alerts
        state = SessionAnswer(
            self._origin,
            claim,
            "given",
            session.moves,
            session.is_paused,
            time.monotonic() - session.saved_at < _JUST_SECONDS,
            groups_of(subscriptions),
            None if marks is None else [_mark(*each) for each in marks],
            n_missed,
            [_handed(alert) for alert in alerts],
            session.is_moved,
        )
        return state, kept

    def positions(self) -> list[Reached]:
        """How far this instance is; what it has published itself is on its way then."""
        own = self._sending.positions()
        reached = [(self._origin, shard, position) for shard, position in enumerate(own)]
        return reached + [each for each in self._receiving.positions() if self._peers.get(each[0])]


def encode_state(answer: SessionAnswer, limit: int = MAX_SIZE) -> bytes:
    """As much of it as fits into `limit` bytes, what is most needed first."""
    message = _encoder.encode(answer)
    if len(message) > limit:
        message = _encoder.encode(answer := msgspec.structs.replace(answer, marks=None))
    if len(message) > limit:
        message = _encoder.encode(msgspec.structs.replace(answer, alerts=[]))
    return message


def _mark(channel: Channel, first: int, last: int) -> Mark:
    bit: Any = channel.bit  # it is one of those that a mark may have: only those have topics
    return Mark(bit, channel.key, first, last)


def _handed(alert: Alert) -> HandedAlert:
    return HandedAlert(
        alert.code,
        alert.alert_type,
        number_text(alert.threshold),
        number_text(alert.current_price),
        alert.message,
        alert.extra,
        alert.id,
    )
