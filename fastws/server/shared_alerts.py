"""Brings alerts to users at whichever instance they are connected, and lets each be heard once."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import msgspec

from fastws.dialects.mail import Mail
from fastws.market.alert_messages import Alert
from fastws.market.alert_store import number_text
from fastws.relay.control import AlertHeard, UserAlert

if TYPE_CHECKING:
    from fastws.relay.relay import Relay

_REMEMBERED: Final = 10_000


class _Known:
    """An alert that was told or kept here as `sequence` (0: only heard of); `is_told`: its user has heard it.

    `alert` is one that came in here, of which the database is to know that its user has heard it.
    """

    __slots__ = ("alert", "is_told", "sequence")

    def __init__(self) -> None:
        self.alert: Alert | None = None
        self.sequence = 0
        self.is_told = False


class SharedAlerts:
    """Joins the `Mail` of this instance to those of the others. Belongs to the thread of the event loop.

    1. An alert has an id from the instance where it comes in, which says it to all. Where the user is connected it is
       told; where the user has a session, and where it came in, it is kept.
    2. Whoever tells it first says so to all, and from then on it waits for nobody. What was lost on the way, or was
       told at two instances in one moment, is told twice: an alert that never comes costs more.
    3. What waits goes to the instance that its user comes to; that one keeps it from then on.

    `is_awaited` says whether a user has a connection or a session here.
    """

    def __init__(self, relay: Relay, mail: Mail, is_awaited: Callable[[str], bool]) -> None:
        self._relay = relay
        self._mail = mail
        self._is_awaited = is_awaited
        self._known: OrderedDict[int, _Known] = OrderedDict()
        relay.on_alert = self._on_alert
        relay.on_heard = self._on_heard
        relay.sharing.on_users = self._on_users

    def tell(self, user_key: str, alert: Alert) -> int:
        """Tell a user, wherever connected; returns the sequence here."""
        alert = self._named(alert)
        sequence = self._tell(user_key, alert)
        self._relay.say(_message(self._relay.origin, user_key, alert))
        return sequence

    def on_told(self, alert: Alert) -> None:
        """Take note that a user has heard an alert here; see `Mail.on_told`."""
        if alert.id and not (known := self._of(alert.id)).is_told:
            known.is_told = True
            self._relay.say(AlertHeard(self._relay.origin, alert.id))

    def _tell(self, user_key: str, alert: Alert) -> int:
        known = self._of(alert.id)
        known.sequence = self._mail.tell(user_key, alert, is_heard=known.is_told)
        return known.sequence

    def _named(self, alert: Alert) -> Alert:
        """Give an alert that came in here an id."""
        alert = msgspec.structs.replace(alert, id=secrets.randbits(62) + 1)
        self._of(alert.id).alert = alert
        return alert

    def _of(self, alert_id: int) -> _Known:
        known = self._known.setdefault(alert_id, _Known())
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return known

    # What other instances say.

    def _on_alert(self, message: UserAlert) -> None:
        if not (message.is_handed or self._is_awaited(message.user_key)):
            return
        known = self._of(message.id)
        if known.sequence or (known.is_told and message.is_handed):
            return
        threshold, price = (Decimal(text) for text in (message.threshold, message.current_price))
        self._tell(
            message.user_key,
            Alert(
                message.code,
                message.alert_type,
                threshold,
                price,
                message.message,
                message.extra,
                id=message.id,
            ),
        )

    def _on_heard(self, heard: AlertHeard) -> None:
        known = self._of(heard.id)
        known.is_told = True
        if known.sequence:
            self._mail.note_heard(known.sequence)
        if known.alert is not None:
            self._mail.on_told(known.alert)

    def _on_users(self, origin: int, user_keys: Iterable[str]) -> None:
        """Hand on what has waited here for users who have come to another instance."""
        for user_key in user_keys:
            for alert in self._mail.take_untold(user_key):
                # Those of before the start have no id yet.
                named = alert if alert.id else self._named(alert)
                self._relay.say_to(origin, _message(self._relay.origin, user_key, named, is_handed=True))


def _message(origin: int, user_key: str, alert: Alert, *, is_handed: bool = False) -> UserAlert:
    return UserAlert(
        origin,
        user_key,
        alert.code,
        alert.alert_type,
        number_text(alert.threshold),
        number_text(alert.current_price),
        alert.message,
        alert.extra,
        alert.id,
        is_handed,
    )
