"""How much was traded while nobody listened. Sans-IO."""

from __future__ import annotations

from typing import NamedTuple


class Gap(NamedTuple):
    """What a lost connection cost for one instrument.

    `lost_volume` is in shares: what the day's volume (ACML_VOL) grew by between the last trade that was seen and the
    first one after, without that one's own; None where that cannot be told, because another day has begun. It is 0 when
    nothing was missed. `seconds` is how long there was no connection.
    """

    tr_id: str
    code: str
    lost_volume: int | None
    seconds: float


class VolumeGaps:
    """The day's volume at the last trade of each instrument and TR, and the gaps in it.

    KIS has no sequence numbers and sends nothing again: trades that happen while there is no connection are lost. The
    day's volume tells how much they were.
    """

    def __init__(self) -> None:
        self._volumes: dict[tuple[str, str], int] = {}
        self._open: set[tuple[str, str]] = set()
        self._seconds = 0.0

    def on_reconnected(self, seconds: float) -> None:
        """There was no connection for that long; the next trade of every instrument tells what it cost."""
        self._seconds = seconds if not self._open else self._seconds + seconds
        self._open.update(self._volumes)

    def forget(self, tr_id: str, code: str) -> None:
        """Expect no more trades of an instrument, as when it is registered no longer."""
        self._volumes.pop((tr_id, code), None)
        self._open.discard((tr_id, code))

    def on_trade(self, tr_id: str, code: str, day_volume: int, trade_volume: int) -> Gap | None:
        """Note a trade (ACML_VOL, CNTG_VOL); returns the gap before it when it is the first one after one."""
        key = (tr_id, code)
        last = self._volumes.get(key)
        self._volumes[key] = day_volume
        if not self._open or key not in self._open:
            return None
        self._open.discard(key)
        if last is None or day_volume < last:
            return Gap(tr_id, code, None, self._seconds)
        return Gap(tr_id, code, max(0, day_volume - last - trade_volume), self._seconds)
