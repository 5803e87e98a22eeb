"""What clients of the screener dialect may send. The docstrings are the contract's texts."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

SubscriptionType = Annotated[
    Literal["stock", "market", "sector", "portfolio"],
    Meta(
        description="stock: prices and order books of symbols; market: the status of a market and the prices of "
        "its members; sector: the prices of its members; portfolio: the values of the user's own portfolios"
    ),
]
# The keys of a mapping, which msgspec leaves out of schemas.
TYPES_ONLY: Final = {"propertyNames": {"enum": ["stock", "market", "sector", "portfolio"]}}
Channel = Literal["price", "orderbook"]
MAX_SEQUENCE: Final = 2**63 - 1
RequestId = Annotated[
    str | int,
    Meta(description="Any text or integer; comes back on the reply or the error.", examples=["a", 1]),
]
# The bound keeps what clients can make the server remember small.
Target = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        description="A symbol, a market, a sector, or the id of a portfolio as a text.",
        examples=["005930", "KOSPI", "IT", "123"],
    ),
]
Targets = Annotated[list[Target], Meta(min_length=1)]
Token = Annotated[str, Meta(max_length=16_384, description="A JWT.")]
SessionId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        description="`connection_id` of the greeting of an earlier connection.",
        examples=["550e8400-e29b-41d4-a716-446655440000"],
    ),
]


class Request(msgspec.Struct, tag_field="type", kw_only=True):
    """Root of what a client sends. `id` is echoed on the reply or the error."""

    is_for_all: ClassVar[bool] = False
    """Whether it is answered also to a client that has yet to say who it is, where nobody else is served."""

    id: RequestId | UnsetType = UNSET


class Subscribe(Request, tag="subscribe"):
    """Begin to receive what is published about targets.

    Answered by `subscribed`, then by one `batch` with `snapshot: true` that holds the last known message of every
    target. Subscribing again to what is held changes nothing but the options that are named.
    """

    subscription_type: SubscriptionType
    targets: Targets
    mode: (
        Annotated[
            Literal["all", "latest"],
            Meta(
                description="all: every update, the default of stock; latest: only the newest value per symbol "
                "and message type within a flush, the default of market and sector (with max_rate 5)"
            ),
        ]
        | UnsetType
    ) = UNSET
    max_rate: (
        Annotated[
            float,
            Meta(
                ge=0.001,
                le=1000,
                description="Values per second and symbol, at most; implies mode latest. The last value always comes.",
                examples=[5],
            ),
        ]
        | UnsetType
    ) = UNSET
    snapshot: Annotated[bool, Meta(description="Whether the snapshot is wanted.")] = True
    channels: (
        Annotated[
            list[Channel],
            Meta(min_length=1, description="Which messages of a symbol are wanted; default: all."),
        ]
        | UnsetType
    ) = UNSET

    @property
    def has_options(self) -> bool:
        """Whether the request says how to deliver, and not only what."""
        return (self.mode, self.max_rate, self.channels) != (UNSET, UNSET, UNSET)


class Unsubscribe(Request, tag="unsubscribe"):
    """Stop receiving what is published about targets; those not held count as done.

    Answered by `unsubscribed`.
    """

    subscription_type: SubscriptionType
    targets: Targets


class Ping(Request, tag="ping"):
    """Ask for a sign of life. Answered by `pong`."""

    is_for_all: ClassVar[bool] = True


class ListSubscriptions(Request, tag="list_subscriptions"):
    """Ask what is held. Answered by `subscriptions`."""


class SetSubscriptions(Request, tag="set_subscriptions"):
    """Hold exactly these targets from now on; the server works out the difference.

    Answered by `subscriptions`, then, if targets were added, by a snapshot of those.
    """

    subscriptions: Annotated[
        dict[SubscriptionType, list[Target]],
        Meta(description="Targets by subscription type; all that is wanted.", extra_json_schema=TYPES_ONLY),
    ]


class Pause(Request, tag="pause"):
    """Receive nothing but control messages until `resume`. Answered by `paused`."""


class Resume(Request, tag="resume"):
    """Receive again. Answered by `resumed`, then, also if it was not paused, by a snapshot of everything held."""


class Auth(Request, tag="auth"):
    """Give the connection a token, or another user's. Answered by `authenticated`.

    A token that is not accepted is answered by `INVALID_TOKEN`, and the connection goes on as it was.
    """

    is_for_all: ClassVar[bool] = True

    token: Token


class RefreshToken(Request, tag="refresh_token"):
    """Extend the connection by a newer token of the same user. Answered by `token_refreshed`.

    A token that is not accepted is answered by `TOKEN_REFRESH_ERROR`, and the old one stays.
    """

    token: Token


class Reconnect(Request, tag="reconnect"):
    """Take over the session of an earlier connection of the same user. Answered by `reconnected`.

    The same can be asked for in the handshake, with the query parameters of these names.
    """

    session_id: SessionId
    last_sequence: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=MAX_SEQUENCE,
                description="The highest sequence seen, after which to go on.",
                examples=[12345],
            ),
        ]
        | UnsetType
    ) = UNSET
    epoch: (
        Annotated[
            str,
            Meta(
                max_length=64,
                description="The epoch in which last_sequence counts; default: the current one.",
            ),
        ]
        | UnsetType
    ) = UNSET


ClientMessage = (
    Subscribe
    | Unsubscribe
    | Ping
    | ListSubscriptions
    | SetSubscriptions
    | Pause
    | Resume
    | Auth
    | RefreshToken
    | Reconnect
)
