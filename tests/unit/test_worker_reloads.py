"""Reloads of several workers: who takes part, and what is said of them that fail."""

from __future__ import annotations

import errno
import os
import signal
import time
from typing import NoReturn

import msgspec
import pytest

from fastws.errors import SettingsError
from fastws.server import worker_reloads
from fastws.server.notify import Notifier
from fastws.server.supervisor import Supervisor
from fastws.server.worker_reloads import WorkerReloads
from fastws.server.workers import Outcome
from fastws.settings import Settings

DONE = Outcome("well", None)
FAILED = Outcome("the last reload failed", "no key")


class Told(Notifier):
    def __init__(self) -> None:
        super().__init__({})
        self.states: list[str] = []

    def ready(self, status: str) -> None:
        self.states.append(status)

    def reloading(self) -> None:
        self.states.append("reloading")


class Desk:
    """Reloads of two workers, whose next settings are those in `file`."""

    def __init__(self) -> None:
        self.old = Settings(rate_limit=10)
        self.file: Settings | Exception = Settings(rate_limit=20)
        self.asked: list[int] = []
        self.told = Told()
        self.reloads = WorkerReloads(
            self.old, self._read, self.asked.append, self.told, lambda: "all is well"
        )

    def _read(self) -> Settings:
        if isinstance(self.file, Exception):
            raise self.file
        return self.file

    def begin(self) -> None:
        self.reloads.begin((1, 2))

    @property
    def rate_limit(self) -> int:
        return self.reloads.settings.rate_limit


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_it_is_done_when_all_have_done_it(desk: Desk) -> None:
    desk.begin()
    desk.reloads.note_done(1, DONE)
    assert (desk.rate_limit, desk.told.states) == (10, ["reloading"])
    desk.reloads.note_done(2, DONE)
    assert (desk.rate_limit, desk.told.states) == (20, ["reloading", "all is well"])
    assert desk.reloads.ends_by is None


def test_one_that_fails_is_named_and_the_next_begin_with_what_the_others_have(desk: Desk) -> None:
    desk.begin()
    desk.reloads.note_done(2, FAILED)
    desk.reloads.note_done(1, DONE)
    assert desk.rate_limit == 20
    assert desk.told.states[-1] == "the last reload failed: worker 2: no key"


def test_where_all_fail_all_stays(desk: Desk) -> None:
    desk.begin()
    for number in (1, 2):
        desk.reloads.note_done(number, FAILED)
    assert (desk.rate_limit, desk.told.states[-1]) == (10, "the last reload failed: no key")
    desk.file = SettingsError("rate_limit: no number")
    desk.begin()
    assert (desk.rate_limit, desk.told.states[-1]) == (10, "the last reload failed: rate_limit: no number")
    # A fault of ours does not end the parent.
    desk.file = RuntimeError("boom")
    desk.begin()
    assert (desk.rate_limit, desk.told.states[-1]) == (10, "the last reload failed: RuntimeError")
    assert desk.asked == [1, 2]


def test_who_is_started_meanwhile_takes_part_and_who_ends_is_not_waited_for(desk: Desk) -> None:
    desk.reloads.note_started(2)
    assert not desk.asked
    desk.begin()
    desk.reloads.note_ended(2)
    desk.reloads.note_started(2)
    desk.reloads.note_done(1, DONE)
    assert (desk.asked, desk.rate_limit) == ([1, 2, 2], 10)
    desk.reloads.note_done(2, DONE)
    assert desk.rate_limit == 20


def test_another_one_begins_after_the_first_and_hears_only_its_own_answers(desk: Desk) -> None:
    desk.begin()
    desk.file = Settings(rate_limit=30)
    desk.begin()
    assert desk.asked == [1, 2]
    assert not desk.reloads.take_wish()
    for number in (1, 2):
        desk.reloads.note_done(number, DONE)
    assert desk.rate_limit == 20
    assert desk.reloads.take_wish()
    assert not desk.reloads.take_wish()
    desk.begin()
    desk.reloads.note_done(1, DONE)
    assert desk.rate_limit == 20
    desk.reloads.note_done(2, DONE)
    assert desk.rate_limit == 30


def test_who_takes_too_long_is_given_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.begin()
    desk.reloads.note_done(1, DONE)
    desk.reloads.look_at_clock()
    ends_by = desk.reloads.ends_by
    assert ends_by is not None
    monkeypatch.setattr(worker_reloads.time, "monotonic", lambda: ends_by)
    desk.reloads.look_at_clock()
    assert desk.rate_limit == 20
    assert desk.told.states[-1] == "the last reload failed: worker 2: it was not done within 60 s"


def test_what_only_a_restart_changes_stays(desk: Desk) -> None:
    desk.file = msgspec.structs.replace(desk.old, rate_limit=20, port=9999)
    desk.begin()
    for number in (1, 2):
        desk.reloads.note_done(number, DONE)
    assert (desk.rate_limit, desk.reloads.settings.port) == (20, desk.old.port)


def test_a_fork_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> NoReturn:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    supervisor = Supervisor(Settings(workers=2), Settings)
    try:
        supervisor._has_served = True
        slot = supervisor._slots[0]
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        n_fds = len(os.listdir("/proc/self/fd"))
        monkeypatch.setattr(os, "fork", fork)
        supervisor._start(slot)
        assert slot.pid is None
        assert slot.restart_at is not None
        assert slot.restart_at <= time.monotonic() + 2
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
        assert len(os.listdir("/proc/self/fd")) == n_fds
    finally:
        supervisor._end()
