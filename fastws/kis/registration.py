"""One registration: what is known of it, and how KIS is to be asked. Sans-IO."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Final, NamedTuple

from fastws.kis.control import NOTICES, Registration

NEVER: Final = float("inf")


class State(StrEnum):
    """What is known of a registration that is wanted."""

    PENDING = "pending"
    """It waits for its turn, for a place, or for KIS's answer."""
    ACTIVE = "active"
    """KIS has confirmed it, or sends its data."""
    FAILED = "failed"
    """KIS has refused it, or has not answered for long."""


class Limits(NamedTuple):
    """How KIS is to be asked; durations in seconds.

    Requests are `pace` apart: KIS advises 0.2 and blocks below 0.1. A session has at most `cap` registrations, of
    which KIS grants 41 at most. What was registered stays so for `min_dwell`, even when nobody wants it. A request
    that is not answered within `ack_timeout` is sent again, `max_tries` times in all, and then every `slow_retry`; what
    KIS put off is tried again after `retry_delays`. A registration that is confirmed and brings nothing for
    `silent_after` while there is data is registered once more. A cap that KIS has taught is forgotten with the session
    that is `cap_memory` old. Of registrations that are no longer wanted, `removal_burst` may be taken back at once, and
    one more every `removal_interval`. One that has gone silent is renewed again after `slow_retry` at the earliest, and
    while that does not help later each time, up to `last_renewal_pause`.
    """

    pace: float = 0.2
    cap: int = 40
    min_dwell: float = 30.0
    ack_timeout: float = 8.0
    max_tries: int = 3
    retry_delays: tuple[float, ...] = (5.0, 20.0, 60.0)
    slow_retry: float = 300.0
    silent_after: float = 60.0
    cap_memory: float = 3600.0
    removal_interval: float = 3.0
    removal_burst: int = 20
    last_renewal_pause: float = 3600.0


class Change(NamedTuple):
    """A registration has got into another state; `code` and `text` are KIS's where it said why."""

    registration: Registration
    state: State
    code: str = ""
    text: str = ""
    is_full: bool = False
    """KIS has no room for it: it stays pending until there is."""


class Phase(Enum):
    IDLE = 0  # not registered, as far as is known
    REGISTERING = 1
    ACTIVE = 2
    REMOVING = 3


class Entry:
    __slots__ = (
        "answered_repeat",
        "code",
        "data_at",
        "is_failed",
        "is_unproven",
        "is_wanted",
        "n_delays",
        "n_repeats",
        "n_tries",
        "order",
        "phase",
        "priority",
        "registered_at",
        "registration",
        "renew_at",
        "renew_pause",
        "renewed_at",
        "retry_at",
        "sent_at",
        "was_lively",
    )

    def __init__(self, registration: Registration, priority: int, order: int) -> None:
        self.registration = registration
        self.priority = priority
        self.order = order
        self.is_wanted = True
        self.registered_at = 0.0
        self.was_lively = False  # it had data shortly before the last session, or registration, ended
        self.data_at = -NEVER  # of this registration
        self.forget()

    def forget(self) -> None:
        """Begin as in a new session."""
        self.phase = Phase.IDLE
        self.sent_at = 0.0
        self.n_tries = 0  # requests without an answer
        self.n_delays = 0  # answers that put it off
        self.retry_at = -NEVER
        self.is_failed = False
        self.is_unproven = False  # it counts as registered, to be taken back, and KIS has not said so
        self.code = ""  # why it failed
        self.n_repeats = 0
        self.answered_repeat = False
        self.renewed_at = self.renew_at = -NEVER
        self.renew_pause = 0.0  # none so far

    def end_of_data(self, now: float, silent_after: float) -> None:
        """Nothing is registered any more; remember whether it had data until then."""
        if self.data_at > -NEVER:
            self.was_lively = now - self.data_at < silent_after
            self.data_at = -NEVER

    @property
    def rank(self) -> tuple[bool, int, int]:
        return self.registration.tr_id not in NOTICES, self.priority, self.order
