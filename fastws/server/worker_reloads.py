"""Lets all workers of a server take over other settings, and finds out which of them have. Runs in their parent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from fastws import logs
from fastws.errors import SettingsError
from fastws.server.notify import Notifier
from fastws.server.reload import carry_over
from fastws.server.workers import Outcome
from fastws.settings import Settings

RELOAD_SECONDS: Final = 60.0
"""How long workers may take for a reload."""

_log = structlog.get_logger("fastws")


class WorkerReloads:
    """The settings of a server of several workers, which `settings` has, and the reloads of them.

    `tell` lets a worker reload. `status` is what a service manager is shown when all is well.

    1. One reload at a time; of those that are asked for during one, one is done after it.
    2. A worker that is started meanwhile takes part, also one that was forked with the settings of before.
    3. Whoever is started later begins with the new settings if one worker at least has taken them over. What the others
       could not use is said, with their numbers: those go on with what they had.
    """

    def __init__(
        self,
        settings: Settings,
        read_again: Callable[[], Settings],
        tell: Callable[[int], object],
        notifier: Notifier,
        status: Callable[[], str],
    ) -> None:
        self.settings = settings
        self._read_again = read_again
        self._tell = tell
        self._notifier = notifier
        self._status = status
        self._next: Settings | None = None
        self._waiting: set[int] = set()
        self._errors: dict[int, str] = {}
        self._n_done = 0
        self._by = 0.0
        self._is_wanted_again = False

    @property
    def ends_by(self) -> float | None:
        """When the reload that is under way is given up, by :func:`time.monotonic`; None while there is none."""
        return None if self._next is None else self._by

    def begin(self, workers: Iterable[int]) -> None:
        """Reload, or once more when the reload that is under way has ended."""
        if self._next is not None:
            self._is_wanted_again = True
            return
        self._notifier.reloading()
        try:
            settings, _ = carry_over(self.settings, self._read_again())
        except SettingsError as error:
            _log.error("the settings cannot be reloaded, and all stay as they were", error=str(error))
            self._fail(str(error))
            return
        except Exception as error:
            # A fault of ours, which must not end the parent: the workers would end with it.
            _log.exception("the reload failed")
            self._fail(type(error).__name__)
            return
        self._next = settings
        self._errors = {}
        self._n_done = 0
        self._by = time.monotonic() + RELOAD_SECONDS
        for number in workers:
            self._ask(number)
        self._look()

    def note_started(self, number: int) -> None:
        """A worker was started, with the settings of before the reload that may be under way."""
        if self._next is not None:
            self._ask(number)

    def note_done(self, number: int, outcome: Outcome) -> None:
        """A worker has said what came of its reload."""
        if number in self._waiting:
            self._waiting.remove(number)
            if outcome.error is None:
                self._n_done += 1
            else:
                self._errors[number] = outcome.error
            self._look()

    def note_ended(self, number: int) -> None:
        """A worker has ended: the next begins with what the reload comes to, or is asked, too."""
        self._errors.pop(number, None)
        if number in self._waiting:
            self._waiting.remove(number)
            self._look()

    def look_at_clock(self) -> None:
        """Give up on those that take too long."""
        if self._next is not None and time.monotonic() >= self._by:
            for number in self._waiting:
                self._errors[number] = f"it was not done within {RELOAD_SECONDS:g} s"
            self._waiting.clear()
            self._look()

    def take_wish(self) -> bool:
        """Whether another reload was asked for during the one that has ended; true once."""
        is_due = self._is_wanted_again and self._next is None
        if is_due:
            self._is_wanted_again = False
        return is_due

    def _ask(self, number: int) -> None:
        self._waiting.add(number)
        self._tell(number)

    def _look(self) -> None:
        if self._waiting or self._next is None:
            return
        settings, self._next = self._next, None
        if not self._errors or self._n_done:
            self._take(settings)
        if not self._errors:
            self._notifier.ready(self._status())
            return
        # Each has logged what it was.
        number, error = min(self._errors.items())
        if self._n_done:
            _log.error(
                "some workers could not reload and go on with the settings of before; reload again",
                failed=sorted(self._errors),
                reloaded=self._n_done,
                error=error,
            )
            error = f"worker {number}: {error}"
        else:
            _log.error("the reload has failed, and all workers stay as they were", error=error)
        self._fail(error)

    def _take(self, settings: Settings) -> None:
        before, self.settings = self.settings, settings
        if (settings.log_level, settings.log_format) != (before.log_level, before.log_format):
            logs.configure(settings.log_level, settings.log_format)

    def _fail(self, error: str) -> None:
        self._notifier.ready(f"the last reload failed: {logs.redact_text(error)}")
