"""Fields that messages of different kinds share."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

Timestamp = Annotated[
    str,
    Meta(
        description="When the server published or sent it: ISO 8601, UTC, milliseconds.",
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$",
        examples=["2025-11-11T09:30:00.000Z"],
        extra_json_schema={"format": "date-time"},
    ),
]
Sequence = Annotated[
    int,
    Meta(
        ge=0,
        description="The server's counter: +1 for every message published, whatever its topic.",
        examples=[12345],
    ),
]
Epoch = Annotated[
    str, Meta(description="Changes when the counters of the server start over.", examples=["k3f9"])
]
SymbolState = Annotated[
    str,
    Meta(
        description="stale: nothing has come of the symbol for longer than can be, while its market trades; live: "
        "something has come since, or there is a reason why nothing does.",
        extra_json_schema={"enum": ["stale", "live"]},
    ),
]
LastUpdate = Annotated[
    Timestamp,
    Meta(description="When its last price or order book was published: ISO 8601, UTC, milliseconds."),
]
UsualInterval = Annotated[
    int, Meta(ge=0, description="How long it usually is from one update to the next, ms.", examples=[250])
]
StaleAfter = Annotated[
    int, Meta(ge=0, description="From how much silence on it counts as stale, ms.", examples=[10000])
]
FeedState = Annotated[
    str,
    Meta(
        description="State of an upstream feed.",
        extra_json_schema={"enum": ["live", "stale", "reconnecting", "stopped"]},
    ),
]
