"""What can be set of the fake server, with what KIS does as the defaults where that is known."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from fastws.errors import FastwsError
from fastws.wording import explain

EXAMPLE_APP_KEY: Final = "PSfakefakefakefakefakefakefakefake01"
EXAMPLE_APP_SECRET: Final = ("fake+secret/of/the/fake+KIS+server/" * 6)[:178] + "01"
EXAMPLE_HTS_ID: Final = "FAKEUSER01"

_Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0.0)]
_Positive: TypeAlias = Annotated[float, msgspec.Meta(gt=0.0)]
_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
_Some: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]

Phase: TypeAlias = Literal[
    "clock", "pre_market", "opening_auction", "regular", "closing_auction", "after_market", "closed"
]


class ScriptError(FastwsError):
    """A script, an action or a setting cannot be used; the text names the place, the field and what is wrong."""


def example_keys(n: int) -> dict[str, str]:
    """App keys and secrets for `n` accounts."""
    return {f"{EXAMPLE_APP_KEY[:-2]}{i:02}": f"{EXAMPLE_APP_SECRET[:-2]}{i:02}" for i in range(1, n + 1)}


class FakeSettings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """All settings; times are in seconds. A script sets them in its table `settings`, the action `set` later on."""

    # Credentials
    app_keys: dict[str, str] = msgspec.field(default_factory=lambda: example_keys(1))
    """App key to app secret."""
    any_app_key: bool = False
    """Accept every app key and secret."""
    environment: Literal["real", "paper"] = "real"
    paper_unified: Literal["refuse", "silent", "serve"] = "refuse"
    """What the paper environment does with registrations of NXT and UN."""
    approval_seconds: _Positive = 86_400.0
    approval_interval: _Seconds = 1.0
    """Least time between two approval keys of one app key."""
    approval_replaces: bool = False
    """Whether a new approval key ends the earlier ones of its app key."""
    token_seconds: _Positive = 86_400.0
    token_interval: _Seconds = 60.0
    rest_rate: _Count = 0
    """Quotations by REST in a second and app key; 0: 18 in the real environment, 1 in the paper one."""

    # Sessions
    cap: _Some = 41
    """Registrations of a session."""
    slot_hold: _Seconds = 0.0
    """How long the app key of a session that ended without a close frame counts as in use."""
    close_on_unknown_approval: bool = False
    pingpong_interval: _Positive = 10.0
    """Silence of the server after which it sends PINGPONG."""
    pingpong_always: bool = False
    """Send PINGPONG in that interval also while there is data."""
    pong: Literal["any", "frame", "text"] = "any"
    """Which reply counts: a PONG control frame with the text of the PINGPONG, or that text."""
    pong_timeout: _Positive = 100.0
    rfc_ping: Literal["pong", "ignore", "error"] = "pong"
    """What a ping of RFC 6455 gets; error: an unknown tr_id and a close."""

    # Discipline
    min_request_interval: _Seconds = 0.1
    request_tolerance: _Seconds = 0.02
    """How much less is put down to the network and to this process."""
    max_hasty: _Count = 20
    """Hasty requests of an app key in a minute before it is blocked; 0: never blocked for that."""
    min_connect_interval: _Seconds = 1.0
    max_fruitless_connects: _Count = 10
    """Sessions of an app key in a minute that ended without data, before it is blocked; 0: never."""
    max_fruitless_registrations: _Count = 30
    """Registrations in a minute that were ended without data, before the app key is blocked; 0: never."""
    max_cycles: _Count = 10
    """How often in a minute one registration may be made anew before the app key is blocked; 0: never."""
    block_seconds: _Seconds = 600.0

    # Market
    market: Literal["simulator", "none"] = "simulator"
    rate: Annotated[float, msgspec.Meta(gt=0.0, le=20_000.0)] = 50.0
    """Trades and books a second over all symbols that somebody has registered."""
    seed: int | None = None
    volatility: Annotated[float, msgspec.Meta(gt=0.0, le=1_000.0)] = 1.0
    phase: Phase = "regular"
    """The phase of the day; clock: that of the clock in Seoul. Elsewhere the time of day runs on as it is."""
    records_per_frame: Annotated[int, msgspec.Meta(ge=1, le=19)] = 3
    """A trade comes as one to so many records."""
    widths: dict[str, Annotated[int, msgspec.Meta(ge=1, le=200)]] = {}
    """TR id to the values of a record, where it is not to be the usual number."""
    notice_key: Annotated[str, msgspec.Meta(min_length=32, max_length=32)] | None = None
    notice_iv: Annotated[str, msgspec.Meta(min_length=16, max_length=16)] | None = None
    """Key and iv of encrypted notices, instead of new ones in every session."""

    @property
    def rest_limit(self) -> int:
        return self.rest_rate or (18 if self.environment == "real" else 1)


def changed(settings: FakeSettings, values: dict[str, Any]) -> FakeSettings:
    """Return `settings` with `values`. Raises ScriptError naming the field."""
    checked: FakeSettings = convert({**msgspec.structs.asdict(settings), **values}, FakeSettings)
    return checked


def convert(value: Any, kind: Any) -> Any:
    """msgspec.convert with a ScriptError that begins with the field."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        path, reason = explain(str(error))
        raise ScriptError(f"{path}: {reason}" if path else reason) from None
