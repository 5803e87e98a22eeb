"""The handler as programs use it: the example of the documentation as a process, and every kind of frame, on the
fake server over real sockets."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fastws.kis import (
    Gap,
    KISAuthManager,
    KISCallbackError,
    KISConnectionError,
    KISCredentialsError,
    KISInUseError,
    KISOverflowError,
    KISSubscriptionError,
    KISWebSocketHandler,
    Limits,
    Timing,
)
from fastws.kis.testing import FakeKIS
from tests.kis_client import until
from tests.serving import ROOT

PROGRAM = """
import asyncio
from fastws.kis import KISAuthManager
from fastws.kis import KISWebSocketHandler

async def main():
    auth_manager = KISAuthManager()
    ws_handler = KISWebSocketHandler(auth_manager)
    async def on_quote(df): print(df.iloc[0]["MKSC_SHRN_ISCD"], df.iloc[0]["BIDP1"], df.iloc[0]["ASKP1"])
    async def on_tick(df): print(df.iloc[0]["MKSC_SHRN_ISCD"], df.iloc[0]["STCK_PRPR"])
    ws_handler.set_callbacks(on_quote=on_quote, on_tick=on_tick)
    await ws_handler.connect()
    await ws_handler.subscribe_quote(["005930", "000660"], exchange="UN")
    await ws_handler.subscribe_tick(["005930", "000660"], exchange="UN")
    await asyncio.sleep(SECONDS)
    await ws_handler.disconnect()

asyncio.run(main())
"""

FAST = Limits(pace=0.2, min_dwell=1.0, ack_timeout=0.5, silent_after=1.0)
# Short pauses only. How long silence may last is left as it is: the server here shares a thread with the test, and on a
# busy machine both of them may stand still for seconds, which the client rightly takes for a connection that is dead.
QUICK = Timing(first_delay=1.0, last_delay=1.5, in_use_delay=(1.0, 1.2))


class Program:
    """A handler with callbacks that keep what they get."""

    def __init__(self, kis: FakeKIS, **options: Any) -> None:
        self.quotes: list[pd.DataFrame] = []
        self.ticks: list[pd.DataFrame] = []
        self.notices: list[pd.DataFrame] = []
        self.records: list[tuple[Any, str]] = []
        self.gaps: list[Gap] = []
        self.errors: list[Exception] = []
        self.messages: list[str | None] = []
        self.handler = KISWebSocketHandler(
            auth(kis), **({"limits": FAST, "timing": QUICK, "max_retries": 3} | options)
        )
        self.handler.set_callbacks(
            on_quote=self.quotes.append,
            on_tick=self.ticks.append,
            on_error=self.on_error,
            on_notice=self.notices.append,
            on_records=lambda records, tr_id: self.records.append((records, tr_id)),
            on_gap=self.gaps.append,
        )

    def on_error(self, error: Exception, message: str | None = None) -> None:
        self.errors.append(error)
        self.messages.append(message)

    async def states(self, wanted: dict[str, Any]) -> None:
        await until(lambda: self.handler.get_subscriptions() == wanted, f"subscriptions {wanted}")


def auth(kis: FakeKIS, **options: Any) -> KISAuthManager:
    options = {"app_key": kis.app_key, "app_secret": kis.app_secret, "rest_url": kis.rest_url} | options
    return KISAuthManager(ws_url=kis.ws_url, **options)


@pytest.fixture
async def quiet() -> AsyncIterator[FakeKIS]:
    """A server that sends nothing of itself but PINGPONG."""
    async with FakeKIS(market="none", pingpong_interval=0.5) as kis:
        yield kis


@pytest.fixture
async def program(quiet: FakeKIS) -> AsyncIterator[Program]:
    program = Program(quiet)
    await program.handler.connect()
    yield program
    await program.handler.disconnect()


async def run_program(
    directory: Path, kis: FakeKIS, seconds: float, **variables: str
) -> tuple[int, str, str]:
    path = directory / "program.py"
    path.write_text(PROGRAM.replace("SECONDS", str(seconds)))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", str(path),
        env={**os.environ, "PYTHONPATH": str(ROOT), **kis.variables(), **variables},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=directory,
    )  # fmt: skip
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def test_the_example_prints_quotes_and_ticks(tmp_path: Path) -> None:
    async with FakeKIS(rate=200) as kis:
        status, output, errors = await run_program(tmp_path, kis, 3.0)
        assert (status, errors) == (0, "")
        lines = [line.split() for line in output.splitlines()]
        for code in ("005930", "000660"):
            assert any(len(line) == 3 and line[0] == code for line in lines), "no quote"
            assert any(len(line) == 2 and line[0] == code for line in lines), "no tick"
        assert all(word.isdecimal() for line in lines for word in line)
        assert [entry.answer for entry in kis.journal.requests] == ["OPSP0000"] * 4 + ["OPSP0001"] * 4
        assert kis.journal.fastest_gap() >= 0.1
        assert not kis.journal.violations
        assert kis.app_secret not in output + errors


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"KIS_APP_KEY": "PSwrongwrongwrongwrong"}, "KIS does not know this app key; check KIS_APP_KEY"),
        ({"KIS_APP_SECRET": "wrong"}, "KIS does not accept this app secret; check KIS_APP_SECRET"),
        ({"KIS_APP_SECRET": ""}, "no connection without an app secret of KIS: set KIS_APP_SECRET"),
        ({"KIS_PAPER": "perhaps"}, "KIS_PAPER is neither true nor false"),
        ({"KIS_WS_URL": "http://localhost:1"}, "KIS_WS_URL must be like ws://host:port"),
    ],
)
async def test_a_mistake_ends_the_example_with_one_sentence(
    tmp_path: Path, quiet: FakeKIS, variables: dict[str, str], sentence: str
) -> None:
    status, _, errors = await run_program(tmp_path, quiet, 0.1, **variables)
    assert status == 1
    last = errors.strip().splitlines()[-1]
    assert last.startswith("fastws.kis.errors.KISCredentialsError: ")
    assert sentence in last
    assert "connection" in last
    assert quiet.app_secret not in errors


SAMPLES = [
    line
    for line in (ROOT / "tests/unit/kis_samples.txt").read_bytes().splitlines()
    if line[:11]
    in {f"0|H0{venue}{kind}|".encode() for venue in ("ST", "NX", "UN") for kind in ("CNT0", "ASP0")}
    and line.count(b"|") == 3
]


async def test_every_sample_arrives_complete_and_typed(quiet: FakeKIS, program: Program) -> None:
    codes, handler = ["005930", "000660"], program.handler
    for exchange in ("KRX", "UN", "NXT"):
        await handler.subscribe_quote(codes, exchange)
        await handler.subscribe_tick(codes, exchange)
    await until(lambda: handler.get_connection_status()["subscriptions"]["active"] == 12, "12 active")
    n_delivered = 0
    for message in SAMPLES:
        _, tr_id, count, payload = message.decode().split("|", 3)
        values = payload.split("^")
        frames = program.quotes if tr_id.endswith("ASP0") else program.ticks
        frames.clear()
        program.records.clear()
        program.errors.clear()
        quiet.do("say", message=message.decode())
        if len(values) % int(count):
            await until(lambda: handler.get_connection_status()["unreadable"] == {"width": 1}, "counted")
            continue
        await until(lambda frames=frames: frames and program.records, f"{tr_id} {len(values)}")
        n_delivered += 1
        (frame,) = frames
        width = len(values) // int(count)
        assert frame.shape == (int(count), width)
        assert frame.attrs["tr_id"] == tr_id
        for row in range(int(count)):
            for column, text in zip(frame.columns, values[row * width : (row + 1) * width], strict=True):
                value = frame[column].iloc[row]
                if isinstance(value, str):
                    assert value == text
                else:
                    assert isinstance(value, (np.int64, np.float64)), column
                    assert value == type(value)(text)
        assert frame["ACML_VOL"].dtype == np.int64
        assert isinstance(frame["MKSC_SHRN_ISCD"].iloc[0], str)
        extra = [name for name in frame.columns if name.startswith("EXTRA_")]
        assert extra == (["EXTRA_47"] if width == 48 else [])
        ((records, of),) = program.records
        assert of == tr_id
        assert records.dtype.names == tuple(frame.columns)
        assert records["ACML_VOL"].tolist() == frame["ACML_VOL"].tolist()
    assert n_delivered >= 12
    assert {len(m.decode().split("|", 3)[3].split("^")) // int(m.split(b"|")[2]) for m in SAMPLES} >= {
        46, 47, 48, 59, 62, 63, 66,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("data_type", "exchange", "width", "last"),
    [
        ("tick", "UN", 46, "VI_STND_PRC"),
        ("tick", "UN", 47, "MARKET_CLS_CODE"),
        ("tick", "KRX", 48, "EXTRA_47"),
        ("quote", "KRX", 59, "STCK_DEAL_CLS_CODE"),
        ("quote", "NXT", 62, "NMID_CLS_CODE"),
        ("quote", "KRX", 63, "MARKET_CLS_CODE"),
        ("quote", "UN", 65, "NMID_CLS_CODE"),
        ("quote", "UN", 66, "ANTC_EXCH_CLS_CODE"),
        ("quote", "UN", 67, "EXTRA_66"),
    ],
)
async def test_widths_map_by_name(data_type: str, exchange: str, width: int, last: str) -> None:
    venue = {"KRX": "ST", "NXT": "NX", "UN": "UN"}[exchange]
    tr_id = f"H0{venue}{'CNT0' if data_type == 'tick' else 'ASP0'}"
    async with FakeKIS(rate=200, widths={tr_id: width}) as kis:
        program = Program(kis)
        await program.handler.connect()
        subscribe = program.handler.subscribe_tick if data_type == "tick" else program.handler.subscribe_quote
        await subscribe("005930", exchange)
        frames = program.ticks if data_type == "tick" else program.quotes
        await until(lambda: len(frames) >= 3, "three frames")
        await program.handler.disconnect()
        assert not program.errors
        frame = frames[-1]
        assert (frame.shape[1], frame.columns[-1]) == (width, last)
        assert frame["MKSC_SHRN_ISCD"].iloc[0] == "005930"
        assert frame["ACML_VOL"].iloc[0] > 0


async def test_decimals_can_be_exact(quiet: FakeKIS) -> None:
    program = Program(quiet, decimals="exact")
    await program.handler.connect()
    await program.handler.subscribe_tick(["005930"], "KRX")
    await program.states({"005930": {"tick": {"KRX": "active"}}})
    frame = next(line for line in SAMPLES if b"|H0STCNT0|003|005930" in line)
    quiet.do("say", message=frame.decode())
    await until(lambda: program.ticks, "the frame")
    await program.handler.disconnect()
    assert program.ticks[0]["PRDY_CTRT"].tolist() == [Decimal("1.91"), Decimal("1.84"), Decimal("1.98")]
    assert program.ticks[0]["WGHN_AVRG_STCK_PRC"].iloc[0] == Decimal("71690.50")
    assert program.ticks[0]["STCK_PRPR"].dtype == np.int64


async def test_subscriptions_by_symbol_and_sor_shares_with_un(quiet: FakeKIS, program: Program) -> None:
    handler = program.handler
    await handler.subscribe_tick(["005930"])
    with pytest.warns(UserWarning, match="served as UN"):
        await handler.subscribe_tick(["005930"], exchange="SOR")
    await handler.subscribe_quote("005930", "KRX")
    await program.states({"005930": {"tick": {"UN": "active", "SOR": "active"}, "quote": {"KRX": "active"}}})
    assert [entry.tr_id for entry in quiet.journal.requests] == ["H0UNCNT0", "H0STASP0"]
    await handler.unsubscribe(stock_code="005930", data_type="tick", exchange="UN")
    await handler.unsubscribe(stock_code="005930", data_type="all", exchange="KRX")
    await until(lambda: len(quiet.journal.requests) == 3, "the end of the quotes")
    assert (quiet.journal.requests[-1].tr_id, quiet.journal.requests[-1].tr_type) == ("H0STASP0", "2")
    await program.states({"005930": {"tick": {"SOR": "active"}}})
    await handler.unsubscribe(stock_code="005930", data_type="tick", exchange="SOR")
    assert handler.get_subscriptions() == {}
    await until(lambda: len(quiet.journal.requests) == 4, "the end of the ticks")
    assert not quiet.journal.violations


async def test_what_is_unsubscribed_is_delivered_no_more(quiet: FakeKIS, program: Program) -> None:
    await program.handler.subscribe_tick(["005930", "000660"], "KRX")
    await program.states({code: {"tick": {"KRX": "active"}} for code in ("005930", "000660")})
    await program.handler.unsubscribe("005930", "tick", "KRX")
    for message in SAMPLES:
        if message.startswith(b"0|H0STCNT0|"):
            quiet.do("say", message=message.decode())
    await until(lambda: program.ticks, "the tick of the other")
    await until(lambda: len(program.records) >= 1, "the same for records")
    assert {frame["MKSC_SHRN_ISCD"].iloc[0] for frame in program.ticks} == {"000660"}


async def test_execution_notices_come_in_clear(quiet: FakeKIS) -> None:
    program = Program(quiet)
    await program.handler.subscribe_notice(quiet.variables()["KIS_HTS_ID"])
    await program.handler.connect()
    await until(lambda: program.handler.get_connection_status()["subscriptions"]["active"] == 1, "active")
    quiet.do("notice", filled=True)
    await until(lambda: program.notices, "the notice")
    quiet.do("say", message="1|H0STCNI0|001|not-base64!")
    await until(lambda: program.handler.get_connection_status()["unreadable"], "the damaged one is counted")
    await program.handler.disconnect()
    frame = program.notices[0]
    assert frame.shape == (1, 26)
    assert frame["CNTG_QTY"].dtype == np.int64
    assert frame["CNTG_YN"].iloc[0] == "2"
    assert program.handler.get_connection_status()["unreadable"] == {"encrypted": 1}


async def test_a_slow_callback_loses_data_and_says_so_but_never_the_connection() -> None:
    async with FakeKIS(rate=400, pingpong_interval=0.3, pingpong_always=True, pong_timeout=1.0) as kis:
        program = Program(kis, max_queue=5)
        quotes: list[pd.DataFrame] = []
        seen: list[pd.DataFrame] = []

        async def on_quote(frame: pd.DataFrame) -> None:
            quotes.append(frame)

        def on_tick(frame: pd.DataFrame) -> None:
            time.sleep(0.25)  # holds up the whole event loop
            seen.append(frame)

        program.handler.set_callbacks(on_quote=on_quote, on_tick=on_tick, on_error=program.on_error)
        await program.handler.connect()
        await program.handler.subscribe_tick(["005930"])
        await program.handler.subscribe_quote(["005930"])
        await until(lambda: len(seen) >= 14, "slow callbacks", 30)
        status = program.handler.get_connection_status()
        await program.handler.disconnect()
        assert status["sessions"] == 1, "every PINGPONG was answered in time"
        assert status["dropped"] > 0
        losses = [error for error in program.errors if isinstance(error, KISOverflowError)]
        assert sum(error.n_frames for error in losses) == program.handler.get_connection_status()["dropped"]
        assert quotes
        assert not kis.journal.n_violations("no_pong")


async def test_a_failing_callback_is_reported_and_gets_what_follows() -> None:
    async with FakeKIS(rate=100) as kis:
        program = Program(kis)
        n_calls = 0

        async def on_tick(frame: pd.DataFrame) -> None:
            nonlocal n_calls
            n_calls += 1
            raise KeyError("no such column")

        program.handler.set_callbacks(on_tick=on_tick, on_error=program.on_error)
        await program.handler.connect()
        await program.handler.subscribe_tick(["005930"])
        await until(lambda: n_calls >= 3, "three calls")
        await program.handler.disconnect()
        error = program.errors[0]
        assert isinstance(error, KISCallbackError)
        assert isinstance(error.__cause__, KeyError)
        assert program.messages[0] is not None
        assert program.messages[0].startswith("0|H0UNCNT0|")


async def test_what_comes_after_an_unsubscription_is_not_remembered(quiet: FakeKIS, program: Program) -> None:
    message = next(line for line in SAMPLES if line.startswith(b"0|H0STCNT0|001|005930^140610")).decode()
    await program.handler.subscribe_tick(["005930"], "KRX")
    await program.states({"005930": {"tick": {"KRX": "active"}}})
    await program.handler.unsubscribe("005930", "tick", "KRX")
    # KIS is told when the registration is a second old, and sends until then.
    quiet.do("say", message=message)
    n_frames = program.handler.get_connection_status()["frames"]
    await until(lambda: program.handler.get_connection_status()["frames"] > n_frames, "the frame")
    await until(lambda: any(r.answer == "OPSP0001" for r in quiet.journal.requests), "the end")
    await program.handler.subscribe_tick(["005930"], "KRX")
    await program.states({"005930": {"tick": {"KRX": "active"}}})
    quiet.do("drop")
    await until(lambda: program.errors, "the loss")
    await program.states({"005930": {"tick": {"KRX": "active"}}})
    quiet.do("say", message=message.replace("^11955000^", "^11956005^"))
    await until(lambda: program.ticks, "a tick")
    assert not program.gaps


async def test_a_lost_connection_is_made_again_and_tells_what_was_missed(
    quiet: FakeKIS, program: Program
) -> None:
    message = next(line for line in SAMPLES if line.startswith(b"0|H0STCNT0|001|005930^140610")).decode()
    await program.handler.subscribe_tick(["005930"], "KRX")
    await program.states({"005930": {"tick": {"KRX": "active"}}})
    quiet.do("say", message=message)
    await until(lambda: program.ticks, "the first tick")
    quiet.do("drop")
    await until(lambda: program.errors, "the loss")
    await program.states({"005930": {"tick": {"KRX": "active"}}})
    quiet.do("say", message=message.replace("^11955000^", "^11956005^"))
    await until(lambda: program.gaps, "the gap")
    assert program.gaps[0][:3] == ("H0STCNT0", "005930", 1000)
    assert program.gaps[0].seconds > 0.9
    (error,) = program.errors
    assert isinstance(error, KISConnectionError)
    assert str(error).startswith("connection lost: it ended without a close frame; trying again in ")
    assert program.handler.get_connection_status()["retry_count"] == 0


async def test_retries_end_after_max_retries(quiet: FakeKIS) -> None:
    program = Program(
        quiet, max_retries=2, timing=QUICK._replace(first_delay=0.1, last_delay=0.2, least_gap=0.1)
    )
    await program.handler.connect()
    quiet.do("refuse_upgrade", status=503, times=9)
    quiet.do("drop")
    await until(lambda: not program.handler.get_connection_status()["is_running"], "the end")
    await until(lambda: len(program.errors) == 3, "three failures")
    assert all("connection" in str(error) for error in program.errors)
    assert str(program.errors[-1]).endswith("HTTP 503; given up after 3 failures in a row")
    status = program.handler.get_connection_status()
    assert (status["is_connected"], status["retry_count"], status["max_retries"]) == (False, 3, 2)
    quiet.do("clear")
    await program.handler.connect()
    assert program.handler.get_connection_status()["is_connected"]
    await program.handler.disconnect()


async def test_bad_credentials_raise_at_once(quiet: FakeKIS) -> None:
    program = Program(quiet)
    program.handler.auth_manager = auth(quiet, app_secret="wrong")
    handler = KISWebSocketHandler(auth(quiet, app_secret="wrong"))
    errors: list[Exception] = []
    handler.set_callbacks(on_error=lambda error, message=None: errors.append(error))
    with pytest.raises(KISCredentialsError, match=r"connection refused: .* app secret; .*EGW00105"):
        await handler.connect()
    assert [type(error) for error in errors] == [KISCredentialsError]
    assert not handler.get_connection_status()["is_running"]


async def test_a_second_session_of_the_program_is_refused(quiet: FakeKIS, program: Program) -> None:
    other = Program(quiet)
    with pytest.raises(KISInUseError, match="this program already has a session"):
        await other.handler.connect()
    assert [type(error) for error in other.errors] == [KISInUseError]
    assert program.handler.get_connection_status()["is_connected"]
    assert len(quiet.journal.sessions) == 1


async def test_full_slots_are_said_once_and_the_rest_waits() -> None:
    async with FakeKIS(market="none", cap=3) as kis:
        program = Program(kis)
        await program.handler.connect()
        await program.handler.subscribe_tick([f"{i:06}" for i in range(5)], "KRX")
        await until(lambda: program.errors, "the refusal")
        assert isinstance(program.errors[0], KISSubscriptionError)
        assert program.errors[0].code == "OPSP0008"
        assert "no free registration" in str(program.errors[0])
        status = program.handler.get_connection_status()
        assert (status["subscriptions"], status["max_registrations"]) == (
            {"pending": 2, "active": 3, "failed": 0}, 3,
        )  # fmt: skip
        await program.handler.disconnect()
        assert len(program.errors) == 1
        assert kis.journal.n_violations("over_cap") == 1


async def test_more_than_the_cap_is_said_when_it_is_asked_for(quiet: FakeKIS) -> None:
    program = Program(quiet, limits=FAST._replace(cap=2))
    await program.handler.connect()
    await program.handler.subscribe_quote(["000001", "000002", "000003"], "KRX")
    await until(lambda: program.errors, "the warning")
    assert "2 at most, so 000003 quote KRX wait for one" in str(program.errors[0])
    await program.handler.disconnect()


async def test_malformed_arguments(quiet: FakeKIS) -> None:
    handler = KISWebSocketHandler(auth(quiet))
    with pytest.raises(ValueError, match="six or seven digits and capital letters"):
        await handler.subscribe_quote(["005930", "samsung"])
    assert handler.get_subscriptions() == {}
    with pytest.raises(ValueError, match="exchange must be one of KRX, NXT, UN, SOR"):
        await handler.subscribe_tick(["005930"], exchange="NASDAQ")
    with pytest.raises(ValueError, match="data_type must be quote, tick or all"):
        await handler.unsubscribe("005930", data_type="trade")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_queue"):
        KISWebSocketHandler(auth(quiet), max_queue=0)
    with pytest.raises(ValueError, match="max_retries"):
        KISWebSocketHandler(auth(quiet), max_retries=-1)
    with pytest.raises(ValueError, match="HTS id"):
        await handler.subscribe_notice()


async def test_disconnecting_from_within_a_callback() -> None:
    async with FakeKIS(rate=100) as kis:
        program = Program(kis)
        done = asyncio.Event()

        async def on_tick(frame: pd.DataFrame) -> None:
            await program.handler.disconnect()
            done.set()

        program.handler.set_callbacks(on_tick=on_tick, on_error=program.on_error)
        await program.handler.connect()
        await program.handler.subscribe_tick(["005930"])
        await asyncio.wait_for(done.wait(), 15)
        assert not program.handler.get_connection_status()["is_running"]
        assert not program.errors
