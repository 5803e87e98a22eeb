"""Which registrations a session of KIS should have, which it has, and what to ask for next. Sans-IO.

KIS blocks who asks too fast or registers and unregisters without end, and its sessions hold some forty registrations.
All of that is kept here, from a clock that is passed in, so that an hour of it can be played in a test.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fastws.kis.control import STREAMS, Ack, Outcome, Registration, Request
from fastws.kis.registration import NEVER, Change, Entry, Limits, Phase, State

__all__ = ["LEAST_PACE", "Change", "Limits", "Registrations", "State"]

LEAST_PACE: Final = 0.1
"""The least time between two requests, in seconds."""

REMOVAL_TRIES: Final = 2
"""How often KIS is asked to take one back before it is held to be gone."""


class Registrations:
    """The registrations of one session of one app key, over all the sockets that it gets one after the other.

    1. Between two requests lie at least `limits.pace` seconds, also when they go out on different sockets.
    2. At most `cap` registrations are registered or on their way to or from it; `cap` is that of `limits`, or what KIS
       has taught by refusing one (OPSP0008): as many as it then had.
    3. A registration has at most one request under way. What is registered is not asked for again, but for the remedy
       of rule 7, and nothing is taken back that is not registered.
    4. What is registered is taken back only when it is no longer wanted, or has to make room for what comes before it,
       and not before it was registered for `min_dwell` seconds. So a wish that comes and goes costs two requests in
       `min_dwell` at most, however often it does; and all together are taken back no faster than `removal_interval`,
       after the first `removal_burst`, with what is asked for once more because no answer came.
    5. Places go to execution notices first, then by priority (lower numbers first), then in the order of the wishes.
    6. A new socket knows nothing: all that is wanted is registered again.
    7. In one session a registration that brings no data is registered anew once; if KIS then says that it had it, and
       it had data shortly before, it is once taken back and made again. One that has brought data gets that remedy when
       :meth:`renew` says that it has gone silent, with growing pauses in between while that does not help; of one whose
       silence tells nothing only the request is repeated.

    Times are seconds of a monotonic clock, the same for all calls.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        """Raises ValueError for a pace below 0.1 s or a cap below 1."""
        self.limits = limits or Limits()
        if self.limits.pace < LEAST_PACE:
            raise ValueError(
                f"KIS blocks who asks faster than every {LEAST_PACE} s; pace is {self.limits.pace}"
            )
        if self.limits.cap < 1:
            raise ValueError(f"a session has at least one registration; cap is {self.limits.cap}")
        self.cap = self.limits.cap
        self.is_connected = False
        self._entries: dict[Registration, Entry] = {}
        self._n_wishes = 0
        self._next_at = -NEVER
        self._removals_at = -NEVER  # when the removals so far will have been made up for
        self._learned_at = NEVER
        self._is_closing = False
        self._selected: set[Registration] | None = None  # None: to be worked out
        self._data_at = -NEVER  # of any, in this session

    def __len__(self) -> int:
        """The number of registrations that are wanted."""
        return sum(entry.is_wanted for entry in self._entries.values())

    def __contains__(self, registration: object) -> bool:
        entry = self._entries.get(registration)  # type: ignore[call-overload]
        return entry is not None and entry.is_wanted

    def __iter__(self) -> Iterator[Registration]:
        return iter([entry.registration for entry in self._entries.values() if entry.is_wanted])

    # What is wanted

    def want(self, registration: Registration, priority: int = 0) -> None:
        """Have it registered; when it is wanted already, only its priority changes. One that failed is tried again."""
        entry = self._entries.get(registration)
        self._n_wishes += 1
        if entry is None:
            self._entries[registration] = Entry(registration, priority, self._n_wishes)
        else:
            if not entry.is_wanted:
                entry.is_wanted = True
                entry.order = self._n_wishes
            entry.priority = priority
            if entry.is_failed:
                self._try_again(entry)
        self._selected = None

    def unwant(self, registration: Registration) -> bool:
        """Have it registered no longer; whether it was wanted."""
        entry = self._entries.get(registration)
        if entry is None or not entry.is_wanted:
            return False
        entry.is_wanted = False
        self._drop_if_gone(entry)
        self._selected = None
        return True

    def renew(self, registration: Registration, now: float) -> bool:
        """Register once more what KIS has confirmed and sends nothing of although there is something; whether that is
        going to be done. It is not where it was done a short while ago."""
        entry = self._entries.get(registration)
        if entry is None or not entry.is_wanted or entry.phase is not Phase.ACTIVE or now < entry.renew_at:
            return False
        if entry.data_at > entry.renewed_at:
            entry.renew_pause = 0.0  # the last time it has helped
        limits = self.limits
        entry.renew_pause = min(max(2.0 * entry.renew_pause, limits.slow_retry), limits.last_renewal_pause)
        entry.renewed_at, entry.renew_at = now, now + entry.renew_pause
        entry.data_at = -NEVER
        entry.was_lively = True
        entry.n_repeats = 0
        entry.answered_repeat = False
        return True

    def close(self) -> None:
        """Take back all that is registered, whatever its dwell: the session is about to end."""
        self._is_closing = True
        self._selected = None

    # What is known

    def state(self, registration: Registration) -> State | None:
        """Return the state of a registration, None when it is not wanted."""
        entry = self._entries.get(registration)
        if entry is None or not entry.is_wanted:
            return None
        if entry.phase is Phase.ACTIVE:
            return State.ACTIVE
        return State.FAILED if entry.is_failed else State.PENDING

    @property
    def n_active(self) -> int:
        """Registrations that KIS has, wanted or not."""
        return sum(entry.phase is Phase.ACTIVE for entry in self._entries.values())

    @property
    def n_occupied(self) -> int:
        """Registrations that KIS has or may have, those under way included."""
        return sum(entry.phase is not Phase.IDLE for entry in self._entries.values())

    @property
    def waiting(self) -> list[Registration]:
        """Those that are wanted and have no place, because others come before them."""
        selected = self._choose()
        return [
            entry.registration
            for entry in self._entries.values()
            if entry.is_wanted and not entry.is_failed and entry.registration not in selected
        ]

    # What happens

    def on_connected(self, now: float) -> None:
        """A socket is open; nothing is registered on it."""
        if now - self._learned_at >= self.limits.cap_memory:
            self.cap = self.limits.cap
            self._learned_at = NEVER
        self.is_connected = True
        self._data_at = -NEVER
        self._selected = None

    def on_disconnected(self, now: float) -> None:
        """The socket is gone, and with it all that was registered."""
        self.is_connected = False
        self._is_closing = False
        for entry in list(self._entries.values()):
            is_final = entry.is_failed and entry.retry_at == NEVER
            entry.end_of_data(now, self.limits.silent_after)
            if not is_final:
                entry.forget()
            self._drop_if_gone(entry)
        self._selected = None

    def on_ack(self, ack: Ack, now: float) -> Change | None:
        """Take an answer; returns what has become of its registration, None when nothing has.

        What concerns the session as a whole (see `Outcome`) changes nothing here.
        """
        entry = self._entries.get(ack.registration) if ack.registration is not None else None
        if entry is None:
            return None
        if entry.phase is Phase.REMOVING:
            return self._on_removal_answered(entry, ack, now)
        if ack.outcome in (Outcome.REGISTERED, Outcome.DONE):
            entry.is_unproven = False
            if entry.n_repeats and ack.is_repeated:
                entry.answered_repeat = True
            if entry.phase is Phase.IDLE and not (entry.is_failed and not entry.code):
                return None  # so late that what it confirms may have been taken back since
            return self._activate(entry, now)
        if entry.phase is not Phase.REGISTERING:
            return None  # late, or doubled
        if ack.outcome is Outcome.FULL:
            return self._on_full(entry, ack, now)
        if ack.outcome is Outcome.REFUSED:
            return self._fail(entry, ack.code, ack.text, NEVER)
        if ack.outcome is Outcome.LATER:
            delays = self.limits.retry_delays
            if entry.n_delays >= len(delays):
                return self._fail(entry, ack.code, ack.text, now + self.limits.slow_retry)
            entry.phase = Phase.IDLE
            entry.retry_at = now + delays[entry.n_delays]
            entry.n_delays += 1
            entry.n_tries = 0
            self._drop_if_gone(entry)
        return None

    def on_data(self, tr_id: str, tr_key: str, now: float) -> Change | None:
        """Note that data of a registration came; data proves it when its answer is lost or late."""
        self._data_at = now
        entry = self._entries.get(Registration(tr_id, tr_key))
        if entry is None:
            return None
        entry.data_at = now
        entry.is_unproven = False
        return self._activate(entry, now) if entry.phase is Phase.REGISTERING else None

    # What to do

    def next_request(self, now: float) -> Request | None:
        """Return what is to be sent now, and count it as sent; None when there is nothing yet."""
        if not self.is_connected or now < self._next_at:
            return None
        self._expire(now)
        for choose in (self._next_removal, self._next_registration, self._next_remedy):
            request = choose(now)
            if request is not None:
                self._next_at = now + self.limits.pace
                return request
        return None

    def take_changes(self, now: float) -> list[Change]:
        """Return what has failed since for want of an answer."""
        changes = []
        for entry in list(self._entries.values()):
            if entry.n_tries >= self.limits.max_tries and self._is_overdue(entry, Phase.REGISTERING, now):
                change = self._fail(entry, "", "", now + self.limits.slow_retry)
                if change is not None:
                    changes.append(change)
        return changes

    def wake_at(self, now: float) -> float:
        """Return when to call :meth:`next_request` again if nothing happens before; infinity: not needed."""
        if not self.is_connected:
            return NEVER
        limits = self.limits
        selected = self._choose()
        n_free = self.cap - self.n_occupied
        at = NEVER
        for entry in self._entries.values():
            if entry.phase is Phase.REGISTERING:
                at = min(at, entry.sent_at + limits.ack_timeout)
            elif entry.phase is Phase.REMOVING:
                again_at = self._removal_at() if entry.n_tries < REMOVAL_TRIES else -NEVER
                at = min(at, max(entry.sent_at + limits.ack_timeout, again_at))
            elif entry.phase is Phase.ACTIVE:
                if entry.registration not in selected:
                    at = min(at, self._removable_at(entry))
                elif entry.is_unproven:
                    at = -NEVER
                elif self._is_remediable(entry):
                    at = min(at, self._remedy_at(entry))
            elif self._is_closing or not entry.is_wanted:
                continue
            elif entry.is_failed or (entry.registration in selected and n_free > 0):
                at = min(at, entry.retry_at)
        return max(at, self._next_at)

    def _choose(self) -> set[Registration]:
        if self._selected is None:
            wanted = (
                []
                if self._is_closing
                else [e for e in self._entries.values() if e.is_wanted and not e.is_failed]
            )
            wanted.sort(key=lambda entry: entry.rank)
            self._selected = {entry.registration for entry in wanted[: self.cap]}
        return self._selected

    def _expire(self, now: float) -> None:
        for entry in list(self._entries.values()):
            if entry.is_failed and entry.retry_at <= now:
                self._try_again(entry)
            elif entry.n_tries >= REMOVAL_TRIES and self._is_overdue(entry, Phase.REMOVING, now):
                # KIS does not say; if it still has it, the next registration will be told so.
                self._remove(entry, now)
            elif self._is_overdue(entry, Phase.REGISTERING, now) and entry.registration not in self._choose():
                # Nobody waits for it any more, and KIS may have it. Who waits for it again asks again.
                self._activate(entry, now)
                entry.is_unproven = True

    def _is_overdue(self, entry: Entry, phase: Phase, now: float) -> bool:
        # The sum is what wake_at says, too: rounded otherwise, its moment could be one that is too early.
        return entry.phase is phase and now >= entry.sent_at + self.limits.ack_timeout

    def _next_removal(self, now: float) -> Request | None:
        if now < self._removal_at():
            return None
        selected = self._choose()
        for entry in self._entries.values():
            if entry.phase is Phase.ACTIVE:
                if entry.registration in selected or now < self._removable_at(entry):
                    continue
                entry.n_tries = 0
            elif not self._is_overdue(entry, Phase.REMOVING, now):
                continue
            return self._send(entry, now, is_removal=True)
        return None

    def _next_registration(self, now: float) -> Request | None:
        if self._is_closing:
            return None
        selected = self._choose()
        best: Entry | None = None
        is_full = self.n_occupied >= self.cap
        for entry in self._entries.values():
            if entry.phase is Phase.REGISTERING:
                if (
                    not self._is_overdue(entry, Phase.REGISTERING, now)
                    or entry.n_tries >= self.limits.max_tries
                ):
                    continue
            elif entry.phase is Phase.ACTIVE and entry.is_unproven:
                pass  # it has its place already
            elif entry.phase is not Phase.IDLE or is_full or entry.retry_at > now:
                continue
            if entry.registration in selected and (best is None or entry.rank < best.rank):
                best = entry
        return None if best is None else self._send(best, now, is_removal=False)

    def _next_remedy(self, now: float) -> Request | None:
        if self._is_closing:
            return None
        selected = self._choose()
        for entry in self._entries.values():
            if entry.phase is not Phase.ACTIVE or entry.registration not in selected:
                continue
            if not self._is_remediable(entry) or now < self._remedy_at(entry):
                continue
            entry.n_repeats += 1
            if entry.n_repeats == 1:
                entry.sent_at = entry.registered_at = now
                return Request(entry.registration, is_removal=False)
            entry.n_tries = 0
            return self._send(entry, now, is_removal=True)
        return None

    def _is_remediable(self, entry: Entry) -> bool:
        if entry.data_at > -NEVER:
            return False
        if entry.registration.tr_id not in STREAMS:
            return entry.n_repeats == 0 and entry.renewed_at > -NEVER
        if entry.n_repeats == 0:
            return entry.was_lively or self._data_at > entry.registered_at
        return entry.n_repeats == 1 and entry.was_lively and entry.answered_repeat

    def _remedy_at(self, entry: Entry) -> float:
        dwelt_at = entry.registered_at + self.limits.min_dwell
        if entry.n_repeats:
            return max(entry.sent_at + self.limits.silent_after, dwelt_at, self._removal_at())
        return max(entry.registered_at + self.limits.silent_after, dwelt_at)

    def _removable_at(self, entry: Entry) -> float:
        if self._is_closing:
            return -NEVER
        return max(entry.registered_at + self.limits.min_dwell, entry.retry_at, self._removal_at())

    def _removal_at(self) -> float:
        """From when on one more may be taken back, whichever it is."""
        if self._is_closing:
            return -NEVER
        return self._removals_at - self.limits.removal_interval * (self.limits.removal_burst - 1)

    def _send(self, entry: Entry, now: float, *, is_removal: bool) -> Request:
        if entry.is_unproven and not is_removal:
            entry.n_tries = 0
        entry.is_unproven = False
        entry.phase = Phase.REMOVING if is_removal else Phase.REGISTERING
        if is_removal and not self._is_closing:
            self._removals_at = max(self._removals_at, now) + self.limits.removal_interval
        entry.sent_at = now
        entry.n_tries += 1
        return Request(entry.registration, is_removal)

    def _activate(self, entry: Entry, now: float) -> Change | None:
        if entry.phase is Phase.ACTIVE:
            return None
        entry.phase = Phase.ACTIVE
        entry.registered_at = now
        entry.retry_at = -NEVER
        entry.n_tries = entry.n_delays = 0
        entry.is_failed = False
        # KIS has more room than it has taught, or an answer came so late that its place was given away.
        self.cap = max(self.cap, min(self.n_active, self.limits.cap))
        self._selected = None
        return Change(entry.registration, State.ACTIVE) if entry.is_wanted else None

    def _on_removal_answered(self, entry: Entry, ack: Ack, now: float) -> Change | None:
        if ack.outcome is Outcome.LATER:
            retry_at = now + self.limits.retry_delays[0]
            if entry.n_tries < REMOVAL_TRIES:
                entry.phase = Phase.ACTIVE
                entry.retry_at = retry_at
            else:
                # The request before, which was not answered, may have been obeyed: nobody knows whether it is there.
                entry.n_tries = REMOVAL_TRIES - 1
                entry.sent_at = retry_at - self.limits.ack_timeout
        elif ack.outcome is not Outcome.REGISTERED:  # that one is the late answer to its registration
            self._remove(entry, now)
        return None

    def _on_full(self, entry: Entry, ack: Ack, now: float) -> Change:
        n_active = self.n_active
        entry.phase = Phase.IDLE
        entry.n_tries = 0
        if n_active:
            self.cap = n_active
            self._learned_at = now
        else:
            entry.retry_at = now + self.limits.retry_delays[-1]
        self._selected = None
        self._drop_if_gone(entry)
        return Change(entry.registration, State.PENDING, ack.code, ack.text, is_full=True)

    def _fail(self, entry: Entry, code: str, text: str, retry_at: float) -> Change | None:
        entry.phase = Phase.IDLE
        entry.is_failed = True
        entry.code = code
        entry.retry_at = retry_at
        entry.n_tries = 0
        self._selected = None
        self._drop_if_gone(entry)
        return Change(entry.registration, State.FAILED, code, text) if entry.is_wanted else None

    def _try_again(self, entry: Entry) -> None:
        entry.is_failed = False
        entry.retry_at = -NEVER
        entry.n_tries = entry.n_delays = 0
        entry.code = ""
        self._selected = None

    def _remove(self, entry: Entry, now: float) -> None:
        entry.phase = Phase.IDLE
        entry.n_tries = 0
        entry.end_of_data(now, self.limits.silent_after)
        if entry.n_repeats < 2:
            entry.n_repeats = 0  # it was not taken back as a remedy, so the next time it may need one
        self._selected = None
        self._drop_if_gone(entry)

    def _drop_if_gone(self, entry: Entry) -> None:
        if not entry.is_wanted and entry.phase is Phase.IDLE:
            self._entries.pop(entry.registration, None)
