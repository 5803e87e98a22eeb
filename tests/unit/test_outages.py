"""What the log says of a Redis that comes and goes."""

from __future__ import annotations

import structlog

from fastws.relay.outages import AGAIN_SECONDS, OutageLog


def test_each_change_is_told_where_they_are_few() -> None:
    log = OutageLog("redis://host:6379", "one:8000")
    with structlog.testing.capture_logs() as lines:
        log.tell(0.0)
        assert not lines
        log.note_there(1.0, 0.25)
        log.note_away(20.0, "it is gone")
        log.note_there(25.0, 5.0)
    there, away, again = lines
    assert there == {
        "event": "the relay is there",
        "log_level": "info",
        "relay": "redis://host:6379",
        "after_s": 0.25,
        "instance": "one:8000",
    }
    assert (away["log_level"], away["error"]) == ("warning", "it is gone")
    assert again["after_s"] == 5.0


def test_of_many_changes_some_are_told_and_the_last_one() -> None:
    log = OutageLog("redis", "one")
    with structlog.testing.capture_logs() as lines:
        for n in range(100):
            log.note_there(n * 0.05, 0.02)
            log.note_away(n * 0.05 + 0.02, f"reason {n}")
            log.tell(n * 0.05 + 0.03)
        assert [line["log_level"] for line in lines] == ["info", "warning"]
        log.tell(AGAIN_SECONDS + 1.0)
        log.tell(AGAIN_SECONDS + 2.0)
        assert [line.get("error") for line in lines] == [None, "reason 0", "reason 99"]
        log.note_there(AGAIN_SECONDS + 3.0, 1.0)
        log.tell(AGAIN_SECONDS + 3.0)
    assert [line["log_level"] for line in lines] == ["info", "warning", "warning", "info"]


def test_a_refusal_is_told_at_once_after_an_outage() -> None:
    log = OutageLog("redis", "one")
    with structlog.testing.capture_logs() as lines:
        log.note_there(1.0, 0.0)
        log.note_away(2.0, "closed by server")
        log.note_away(2.1, "refused")
        assert [line.get("error") for line in lines] == [None, "closed by server", "refused"]
        for n in range(50):
            log.note_away(2.2 + n * 0.1, "closed by server")
            log.note_away(2.25 + n * 0.1, "refused")
        assert len(lines) == 3, "once"
        log.note_away(8.0, "closed by server")
        log.tell(2.1 + AGAIN_SECONDS)
        assert lines[-1]["error"] == "closed by server"


def test_of_one_that_is_nowhere_there_is_nothing_to_tell() -> None:
    log = OutageLog("", "one")
    with structlog.testing.capture_logs() as lines:
        log.note_there(1.0, 0.0)
        log.tell(2.0)
    assert not lines
