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
FeedState = Annotated[
    str,
    Meta(
        description="State of an upstream feed.",
        extra_json_schema={"enum": ["live", "stale", "reconnecting", "stopped"]},
    ),
]
