"""How much was traded while nobody listened. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

_KST_OFFSET: Final = 9 * 3600
_DAY: Final = 86_400


def day_of(unix_seconds: float) -> int:
    """The day in Seoul, as a number that grows by one every midnight there."""
    return int(unix_seconds + _KST_OFFSET) // _DAY


class Gap(NamedTuple):
    """What a lost connection cost for one instrument.

    `lost_volume` is in shares: what the day's volume (ACML_VOL) grew by between the last trade that was seen and the
    first one after, without that one's own; None where that cannot be told, because another day has begun. It is 0 when
    nothing was missed. `seconds` is how long there was no connection since the last trade that was seen.
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
        self._volumes: dict[tuple[str, str], tuple[int, int]] = {}  # the day, and its volume so far
        self._open: dict[tuple[str, str], float] = {}  # how long each was without a connection

    def on_reconnected(self, seconds: float, keys: Iterable[tuple[str, str]] | None = None) -> None:
        """There was no connection for that long; the next trade of each of `keys` (TR and code), or of every
        instrument, tells what it cost."""
        for key in self._volumes if keys is None else keys:
            if key in self._volumes:
                self._open[key] = self._open.get(key, 0.0) + seconds

    def forget(self, tr_id: str, code: str) -> None:
        """Expect no more trades of an instrument, as when it is registered no longer."""
        self._volumes.pop((tr_id, code), None)
        self._open.pop((tr_id, code), None)

    def on_trade(self, tr_id: str, code: str, day_volume: int, trade_volume: int, day: int) -> Gap | None:
        """Note a trade (ACML_VOL, CNTG_VOL) of `day` (see :func:`day_of`); returns the gap before it when it is the
        first one after one."""
        key = (tr_id, code)
        last_day, last = self._volumes.get(key, (day, 0))
        self._volumes[key] = day, day_volume
        if not self._open or key not in self._open:
            return None
        seconds = self._open.pop(key)
        if last_day != day or day_volume < last:
            return Gap(tr_id, code, None, seconds)
        return Gap(tr_id, code, max(0, day_volume - last - trade_volume), seconds)
