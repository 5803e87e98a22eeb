"""Alerts as users see them: the message of one that has fired, and their rules."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final

import msgspec

from fastws._market import utc_text
from fastws.market.alert_store import Rule, number_text

if TYPE_CHECKING:
    from fastws._market import Instrument

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
    that a backend publishes has none.
    """

    code: str
    alert_type: str
    threshold: int | Decimal
    current_price: int | Decimal
    message: str
    extra: bytes | None = None
    rule_id: int | None = None


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
