"""What has passed over the relay, for metrics. Sans-IO."""

from __future__ import annotations


class RelayCounts:
    """What has passed, for metrics; all but the gauges only grow."""

    def __init__(self) -> None:
        self.envelopes = {"sent": 0, "received": 0, "repeated": 0}
        self.updates = {"sent": 0, "received": 0, "outdated": 0, "missed": 0, "refused": 0}
        self.bytes = {"sent": 0, "received": 0}
        self.refused = 0
        self.gaps = {"seen": 0, "given_up": 0}
        self.values = {"asked_for": 0, "handed_out": 0}
        self.sessions = {"announced": 0, "heard": 0, "given": 0, "taken": 0, "taken_over": 0, "replaced": 0}
