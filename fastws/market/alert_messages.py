"""Alerts as users see them: the message of one that has fired, and their rules."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Final, NamedTuple

import msgspec

from fastws._market import Instrument, PriceUpdate, utc_text
from fastws.market.alert_store import Rule, number_text
from fastws.market.schema import MAX_USER_ID
from fastws.messages.published import MAX_ALERT_MESSAGE, MAX_ALERT_TYPE

_user_id = msgspec.json.Decoder(str | int)
_text = msgspec.json.Decoder(str)

_SENTENCES: Final = {
    "price_above": "{name} exceeded {threshold}",
    "price_below": "{name} fell below {threshold}",
    "change_percent_above": "{name} change exceeded {threshold}%",
    "change_percent_below": "{name} change fell below {threshold}%",
    "volume_above": "{name} volume exceeded {threshold}",
}


class Alert(msgspec.Struct, frozen=True, gc=False):
    """What a user is told. `current_price` is the price that came with whatever crossed the threshold.

    `extra` is passed through unchanged, as in `PriceUpdate`. `rule_id` is that of the rule that has fired; an alert
    that a backend publishes has none. `id` is that of the alert where instances tell each other of it, else 0.
    """

    code: str
    alert_type: str
    threshold: int | Decimal
    current_price: int | Decimal
    message: str
    extra: bytes | None = None
    rule_id: int | None = None
    id: int = 0


class UserAlert(NamedTuple):
    """An alert for the user whose id is `user_key` as text."""

    user_key: str
    alert: Alert


def read_alert(members: Mapping[str, msgspec.Raw]) -> UserAlert:
    """Return the alert that a backend publishes, from the members of its JSON object.

    Those of the alert message are required, and `user_id`, a text or an integer; others are passed through. Texts are
    bounded: a user's last alerts are kept, and go to every connection of the user.

    Raises:
        ValueError: beginning with the name of the member that is missing or wrong.
    """
    left = dict(members)
    left.pop("type", None)
    user_key = _take_user(left)
    instrument = Instrument(_take_text(left, "code"))
    alert_type = _take_text(left, "alert_type", MAX_ALERT_TYPE)
    threshold = _take_number(left, "threshold", instrument)
    current_price = _take_number(left, "current_price", instrument)
    message = _take_text(left, "message", MAX_ALERT_MESSAGE)
    extra = b",".join(b"%b:%b" % (msgspec.json.encode(name), bytes(raw)) for name, raw in left.items())
    return UserAlert(
        user_key, Alert(instrument.code, alert_type, threshold, current_price, message, extra or None)
    )


def _take(members: dict[str, msgspec.Raw], name: str) -> msgspec.Raw:
    raw = members.pop(name, None)
    if raw is None:
        raise ValueError(f"{name}: missing")
    return raw


def _take_user(members: dict[str, msgspec.Raw]) -> str:
    try:
        user_key = str(_user_id.decode(_take(members, "user_id")))
    except msgspec.DecodeError:
        raise ValueError("user_id: expected text or an integer") from None
    return checked_user(user_key)


def checked_user(user_key: str) -> str:
    """Return `user_key` if it can be the id of a user; else ValueError."""
    if not 0 < len(user_key) <= MAX_USER_ID or not user_key.isprintable():
        raise ValueError(f"user_id: expected 1 to {MAX_USER_ID} printable characters, got {user_key!a:.80}")
    return user_key


def _take_text(members: dict[str, msgspec.Raw], name: str, limit: int | None = None) -> str:
    """A text that is not empty; with `limit` one of so many characters at most."""
    try:
        text = _text.decode(_take(members, name))
    except msgspec.DecodeError:
        raise ValueError(f"{name}: expected text") from None
    if not text:
        raise ValueError(f"{name}: must not be empty")
    if limit is not None and len(text) > limit:
        raise ValueError(f"{name}: has {len(text)} characters, at most {limit} fit")
    return text


def _take_number(members: dict[str, msgspec.Raw], name: str, instrument: Instrument) -> int | Decimal:
    """The number as it is written, so that no digit changes, within the bounds of a price."""
    text = bytes(_take(members, name)).decode()
    try:
        return PriceUpdate(instrument, text).price
    except ValueError as error:
        raise ValueError(f"{name}: {str(error).partition(': ')[2]}") from None


def encode_alert(alert: Alert, published_ms: int) -> bytes:
    """Return the alert message as JSON without ``sequence`` and the closing brace; see `encode_screener`.

    Raises:
        ValueError: `published_ms` is outside the years 1970 to 9999.
    """
    return b'{"type":"alert","code":%b,"alert_type":%b,"threshold":%b,"current_price":%b,"message":%b%b%b' % (
        msgspec.json.encode(alert.code),
        msgspec.json.encode(alert.alert_type),
        number_text(alert.threshold).encode(),
        number_text(alert.current_price).encode(),
        msgspec.json.encode(alert.message),
        b"" if alert.extra is None else b"," + alert.extra,
        b',"timestamp":"%b"' % utc_text(published_ms).encode(),
    )


def encode_rule(rule: Rule) -> bytes:
    """Return a rule as the JSON object that ``/v1/alerts`` shows; ``fired_*`` are null while it waits."""
    fired_at = None if rule.fired_ms is None else utc_text(rule.fired_ms)
    return (
        b'{"id":%d,"code":%b,"alert_type":%b,"threshold":%b,"created_at":"%b","fired_at":%b,"fired_price":%b}'
        % (
            rule.id,
            msgspec.json.encode(rule.code),
            msgspec.json.encode(rule.alert_type),
            number_text(rule.threshold).encode(),
            utc_text(rule.created_ms).encode(),
            msgspec.json.encode(fired_at),
            b"null" if rule.fired_price is None else number_text(rule.fired_price).encode(),
        )
    )


def alert_message(instrument: Instrument, alert_type: str, threshold: int | Decimal) -> str:
    """Return the sentence of an alert, such as ``Samsung Electronics exceeded 75,000 KRW``."""
    shown = f"{threshold:,f}" if isinstance(threshold, Decimal) else f"{threshold:,}"
    if alert_type.startswith("price_") and instrument.currency is not None:
        shown = f"{shown} {instrument.currency}"
    return _SENTENCES[alert_type].format(name=instrument.name, threshold=shown)
