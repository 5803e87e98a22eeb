"""Feeds for tests of the screener dialect: a replay of what a test writes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

# Twelve symbols: enough to overlap, few enough that each moves a hundred times a second.
SYMBOLS = {
    f"S{number:02}": ("ALPHA" if number < 8 else "BETA", "IT" if number % 2 else "FINANCE")
    for number in range(12)
}
PRICE = "price_update"

# For servers of which a test wants every update: what a slow machine, or one that stood still, has not taken waits, and
# is not dropped as a slow client's is.
UNBOUNDED = {"outbox_soft_bytes": 1 << 28, "outbox_hard_bytes": 1 << 29}


def milliseconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp() * 1000.0


def write_symbols(directory: Path) -> Path:
    path = directory / "symbols.csv"
    rows = [f"{code},Stock {code},{market},{sector},10000,KRW" for code, (market, sector) in SYMBOLS.items()]
    path.write_text("\n".join(["symbol,name,market,sector,previous_close,currency", *rows, ""]))
    return path


def price(at_ms: int, code: str, value: object, **members: object) -> str:
    body = {"type": PRICE, "code": code, "price": value} | members
    return f"@{at_ms} {json.dumps(body)}"


def status(at_ms: int, market: str, value: str) -> str:
    return f"@{at_ms} " + json.dumps({"type": "market_status", "market": market, "status": value})


def write_replay(directory: Path, lines: Iterable[str]) -> str:
    path = directory / "feed.replay"
    path.write_text("\n".join([*lines, ""]))
    return f"replay:{path}"
