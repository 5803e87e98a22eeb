"""Frames of KIS: the samples, others made of them, and a parser with what it reported."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from fastws._kis import KISParser, columns_for, split_frame
from fastws._market import BookUpdate, Instrument, PriceUpdate

KST = datetime.timezone(datetime.timedelta(hours=9))


def kst_ms(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text).replace(tzinfo=KST).timestamp()) * 1000


NOW = kst_ms("2026-10-06T12:00:00") / 1000.0


def read_samples() -> dict[str, bytes]:
    samples = {}
    name = ""
    for line in (Path(__file__).parent / "kis_samples.txt").read_bytes().splitlines():
        if line.startswith(b"# "):
            name = line[2:].split()[0].decode()
        elif line:
            samples[name] = line
    return samples


SAMPLES = read_samples()
FRAMES = [message for message in SAMPLES.values() if message[:2] in (b"0|", b"1|")]
TABLE = json.loads(files("fastws.data").joinpath("kis_columns.json").read_text())


class Listener:
    """A parser with what it reported."""

    def __init__(
        self,
        resolve: Callable[[str], Instrument | None] | None = None,
        now: float = NOW,
    ) -> None:
        self.now = now
        self.codes: list[str] = []
        self.bad: list[tuple[str, bytes]] = []
        self.widths: list[tuple[str, int]] = []
        self.parser = KISParser(
            resolve if resolve is not None else self.resolve,
            clock=lambda: self.now,
            on_bad=lambda kind, message: self.bad.append((kind, message)),
            on_new_width=lambda tr_id, width: self.widths.append((tr_id, width)),
        )
        self.parse = self.parser.parse

    def resolve(self, code: str) -> Instrument:
        self.codes.append(code)
        return Instrument(code)

    def prices(self, message: bytes) -> list[PriceUpdate]:
        updates = self.parse(message)
        assert all(type(update) is PriceUpdate for update in updates)
        return updates  # type: ignore[return-value]

    def price(self, message: bytes) -> PriceUpdate:
        (update,) = self.prices(message)
        return update

    def book(self, message: bytes) -> BookUpdate:
        (update,) = self.parse(message)
        assert type(update) is BookUpdate
        return update

    def fault(self, message: bytes) -> str:
        """Parse a message that has to be refused, and say as what."""
        before = self.parser.n_bad
        assert self.parse(message) == []
        assert self.parser.n_bad == before + 1
        assert sum(self.parser.bad_kinds.values()) == self.parser.n_bad
        (kind,) = self.parser.bad_kinds
        return kind


def fields_of(update: PriceUpdate) -> tuple[object, ...]:
    return (
        update.instrument.code,
        update.price,
        update.change,
        update.change_percent,
        update.volume,
        update.trade_volume,
        update.high,
        update.low,
        update.venue,
        update.quality,
        update.event_time_ms,
        update.extra,
    )


def frame(tr_id: str, *records: list[str], count: int | None = None, flag: str = "0") -> bytes:
    n = len(records) if count is None else count
    return f"{flag}|{tr_id}|{n:03}|{'^'.join('^'.join(record) for record in records)}".encode()


def record_of(name: str, **changes: str) -> list[str]:
    """The first record of a sample with other values in the named columns."""
    split = split_frame(SAMPLES[name])
    record = list(split.records[0])
    names = columns_for(split.tr_id, len(record))
    for column, value in changes.items():
        record[names.index(column)] = value
    return record


def trade(**changes: str) -> bytes:
    return frame("H0STCNT0", record_of("trade_krx_47", **changes))


def book(**changes: str) -> bytes:
    return frame("H0STASP0", record_of("book_krx_63", **changes))
