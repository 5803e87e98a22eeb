"""The thresholds of waiting alert rules, and which of them a price crosses."""

from typing import Final, final

from fastws._market import PriceUpdate

ALERT_TYPES: Final[tuple[str, ...]]
"""Every alert type: ``<what>_above`` and ``<what>_below``, where the price message has a member ``<what>``."""

@final
class AlertIndex:
    """Rules by instrument and type, the nearest threshold first. Holds ids, not rules; `len` is their number.

    A rule "above" is crossed by a value greater than its threshold, a rule "below" by one less than it, both
    exactly: equal is neither. A value that a price lacks crosses nothing. Belongs to one thread.
    """

    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def add(self, code: str, alert_type: str, threshold: str, rule_id: int) -> None:
        """Let a rule wait; `threshold` is plain decimal text as `_market` reads it.

        An id is not to be added twice, which is not checked. Raises ValueError naming the field for an
        unknown `alert_type` and for a `threshold` that is no such number.
        """

    def remove(self, code: str, alert_type: str, rule_id: int) -> bool:
        """Take a rule out; return whether it was waiting. Looks at every rule of the code and type."""

    def take(self, update: PriceUpdate) -> list[int] | None:
        """Take out the rules that `update` crosses and return their ids, or None when there are none.

        They come by type in the order of `ALERT_TYPES`, those of a type from the nearest to the farthest
        threshold, those of a threshold by id.
        """
