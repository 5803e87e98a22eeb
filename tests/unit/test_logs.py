"""Log lines: their form, what is removed from them, and how many there are."""

from __future__ import annotations

import io
import json
import logging
import re
import time
from collections.abc import Iterator

import pytest
import structlog

from fastws import logs
from fastws.logs import LogLimiter, redact_text

SECRET = "s3cr3t.v4lue-AZ09_~"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def written(style: str = "json", level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    logs.configure(level, style, stream)  # type: ignore[arg-type]
    return stream


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


# Form.


def test_json_lines() -> None:
    stream = written()
    structlog.get_logger("fastws.test").info("listening", port=8000, name="삼성전자")
    logging.getLogger("asyncio").warning("slow %s", "callback", extra={"took": 1.5})
    first, second = lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", str(first.pop("timestamp")))
    second.pop("timestamp")
    assert first == {
        "level": "info",
        "logger": "fastws.test",
        "event": "listening",
        "port": 8000,
        "name": "삼성전자",
    }
    assert second == {"level": "warning", "logger": "asyncio", "event": "slow callback", "took": 1.5}


def test_console_lines_are_plain_where_there_is_no_terminal() -> None:
    stream = written("console")
    structlog.get_logger("fastws.test").info("listening", port=8000)
    assert re.fullmatch(r"\S+Z \[info +\] listening +\[fastws\.test\] port=8000\n", stream.getvalue()), (
        stream.getvalue()
    )


def test_levels() -> None:
    stream = written(level="warning")
    log = structlog.get_logger("fastws.test")
    log.debug("a")
    log.info("b")
    log.warning("c")
    logging.getLogger("aiohttp").info("d")
    logging.getLogger("aiohttp").error("e")
    assert [line["event"] for line in lines(stream)] == ["c", "e"]


def test_configuring_again_replaces() -> None:
    first = written()
    second = written()
    structlog.get_logger("fastws.test").info("once")
    assert first.getvalue() == ""
    assert len(lines(second)) == 1


def test_a_client_can_forge_no_line_and_move_no_cursor() -> None:
    for style in ("console", "json"):
        stream = written(style)
        structlog.get_logger("fastws.test").info("refused", origin="a\r\n2026 [error] forged\x1b[2J\udcff")
        text = stream.getvalue()
        assert text.count("\n") == 1
        assert "\x1b" not in text
        assert "\r" not in text
        text.encode()


def test_tracebacks_are_written_and_cleaned() -> None:
    for style in ("console", "json"):
        stream = written(style)
        try:
            raise ValueError(f"cannot open /v1/ws?token={SECRET}")
        except ValueError:
            structlog.get_logger("fastws.test").exception("failed")
            logging.getLogger("asyncio").exception(f"failed as {style}")
        text = stream.getvalue()
        assert text.count("Traceback (most recent call last)") == 2
        assert "ValueError: cannot open /v1/ws?token=[removed]" in text
        assert SECRET not in text


# Secrets.


@pytest.mark.parametrize(
    "text",
    [
        f"GET /v1/ws?token={SECRET} HTTP/1.1",
        f"/v1/ws?x=1&token={SECRET}&y=2",
        f"/v1/ws?TOKEN={SECRET}",
        f"/v1/ws?access_token={SECRET}",
        f"next=%2Fv1%2Fws%3Ftoken%3D{SECRET}",
        f"session_id={SECRET}",
        f"?session_id={SECRET}&token={SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"authorization:bearer {SECRET}",
        f"Authorization: {SECRET}",
        f"Authorization: Basic {SECRET}",
        f"{{'authorization': 'Bearer {SECRET}'}}",
        f"(b'Authorization', b'Bearer {SECRET}')",
        f"Sec-WebSocket-Protocol: fastws, bearer.{SECRET}",
        f"Bearer {SECRET}",
        f'{{"type":"refresh_token","token":"{SECRET}"}}',
        f'{{"session_id": "{SECRET}"}}',
        json.dumps(json.dumps({"token": SECRET})),
        f"password={SECRET}",
    ],
)
def test_secrets_are_removed(text: str) -> None:
    cleaned = redact_text(text)
    for part in SECRET.split("."):
        assert part not in cleaned, cleaned
    assert "[removed]" in cleaned
    assert redact_text(cleaned).count("[removed]") <= cleaned.count("[removed]") + 1


def test_a_jwt_is_removed_wherever_it_stands() -> None:
    assert redact_text(f"odd place <{JWT}>, and {JWT}.") == "odd place <[removed]>, and [removed]."


@pytest.mark.parametrize(
    "text",
    [
        "listening on http://127.0.0.1:8000",
        "GET /v1/stocks/005930/orderbook?depth=10&history=1",
        "the tokens of 3 clients expired",
        "authorization failed",
        "eyJ is how a token begins",
        "price=73000 session=open",
    ],
)
def test_the_rest_stays(text: str) -> None:
    assert redact_text(text) == text


def test_every_field_however_deep() -> None:
    stream = written()
    structlog.get_logger("fastws.test").info(
        f"?token={SECRET}",
        token=SECRET,
        Authorization=SECRET,
        headers={"authorization": SECRET, "x": [f"bearer.{SECRET}", {f"?token={SECRET}": 1}]},
        data=f"?token={SECRET}".encode(),
        pair=(1, f"session_id={SECRET}"),
        error=ValueError(f"token={SECRET}"),
        deep=[[[[[[[[f"token={SECRET}"]]]]]]]],
        n=5,
        ratio=0.5,
        nothing=None,
    )
    assert SECRET not in stream.getvalue()
    (line,) = lines(stream)
    assert (line["n"], line["ratio"], line["nothing"], line["token"]) == (5, 0.5, None, "[removed]")


def test_cleaning_time_is_linear() -> None:
    """What an attacker sends may be logged; 200 KB of it must not stop the loop."""
    for piece in (
        "authorization",
        "bearer ",
        "token=",
        "eyJ",
        '"token":"',
        "eyJaaaa.",
        "authorization: bearer ",
        "a",
    ):
        text = piece * (200_000 // len(piece))
        started = time.perf_counter()
        redact_text(text)
        # Measured under 0.1 s; quadratic would be minutes.
        assert time.perf_counter() - started < 3, piece


# Floods.


class Recorder:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, object]]] = []

    def warning(self, event: str, **fields: object) -> None:
        self.lines.append(("warning", event, fields))

    def error(self, event: str, **fields: object) -> None:
        self.lines.append(("error", event, fields))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_one_line_per_kind_and_interval_with_the_number_left_out() -> None:
    log, clock = Recorder(), Clock()
    limiter = LogLimiter(10.0, clock=clock)
    assert limiter.log(log, "bad frame", "bad frame", peer=1)
    assert not any(limiter.log(log, "bad frame", "bad frame", peer=index) for index in range(500))
    assert limiter.log(log, "bad token", "bad token", level="error")
    clock.now += 9.9
    assert not limiter.log(log, "bad frame", "bad frame")
    clock.now += 0.2
    assert limiter.log(log, "bad frame", "bad frame", peer=7)
    assert limiter.log(log, "bad token", "bad token")
    assert log.lines == [
        ("warning", "bad frame", {"peer": 1}),
        ("error", "bad token", {}),
        ("warning", "bad frame", {"peer": 7, "suppressed": 501}),
        ("warning", "bad token", {}),
    ]


def test_what_was_left_out_last_is_told_at_the_end() -> None:
    log = Recorder()
    limiter = LogLimiter(10.0, clock=Clock())
    for _ in range(3):
        limiter.log(log, "a", "a")
    limiter.flush(log)
    limiter.flush(log)
    assert log.lines[1:] == [("warning", "log lines were left out", {"kind": "a", "suppressed": 2})]


def test_kinds_are_bounded() -> None:
    log, clock = Recorder(), Clock()
    limiter = LogLimiter(10.0, max_kinds=4, clock=clock)
    for index in range(1000):
        limiter.log(log, f"kind {index}", f"event {index}")
    # Four of their own and one for all the others.
    assert [event for _, event, _ in log.lines] == ["event 0", "event 1", "event 2", "event 3", "event 4"]
    clock.now += 11
    limiter.log(log, "kind 2000", "event")
    assert log.lines[-1] == ("warning", "event", {"suppressed": 995})


def test_what_others_log_is_limited_by_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(logs, "limiter", LogLimiter(10.0, clock=clock))
    stream = written()
    asyncio_log, other = logging.getLogger("asyncio"), logging.getLogger("somebody")

    def fail(kind: type[Exception], number: int) -> None:
        try:
            raise kind(number)
        except kind as error:
            asyncio_log.error(f"Fatal error\nprotocol: <P at {number:#x}>", exc_info=error)

    for number in range(100):
        fail(ValueError, number)
        fail(KeyError, number)
        logging.getLogger("aiohttp.server").error("Error handling request from %s", number)
        other.warning("kept")
    kinds = [line["event"] for line in lines(stream)]
    assert kinds.count("kept") == 100
    assert len(kinds) == 103
    clock.now += 11
    fail(ValueError, 7)
    assert lines(stream)[-1]["suppressed"] == 99
