"""Everything that can go wrong with the fake KIS server on demand."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import aiohttp
import pytest

from fastws.kis.testing import parse
from tests.kis_server import wait_for, world


async def test_ends_of_connections() -> None:
    async with world() as w:
        for action, code in (({"do": "drop"}, None), ({"do": "close", "code": 1001}, 1001)):
            async with w.connect() as client:
                assert await client.register("H0STCNT0") == "OPSP0000"
                assert w.kis.do(action) == 1
                assert await client.end() == code
            await wait_for(lambda: not w.kis.sessions, "the end of the session")
        assert [(e.closed_by, e.close_code) for e in w.kis.journal.sessions] == [
            ("server", None),
            ("server", 1001),
        ]


async def test_the_journal_tells_who_ended_a_session() -> None:
    async with world() as w:
        async with w.connect() as client:
            await client.socket.close(code=4000)
        async with w.connect() as client:
            response = client.socket._response
            assert response.connection is not None
            assert response.connection.transport is not None
            response.connection.transport.abort()
        entries = w.kis.journal.sessions
        await wait_for(lambda: all(entry.closed_at for entry in entries), "the ends of the sessions")
        assert [(entry.closed_by, entry.close_code) for entry in entries] == [
            ("client", 4000),
            ("network", None),
        ]


async def test_silence_says_nothing_and_ends_nothing() -> None:
    async with (
        world(market="simulator", pingpong_interval=0.05, pong_timeout=0.1) as w,
        w.connect() as client,
    ):
        assert await client.register("H0UNCNT0") == "OPSP0000"
        await client.data()
        assert w.kis.do("silence") == 1
        with contextlib.suppress(TimeoutError):
            while await client.receive(0.4) is not None:
                pass  # what was under way
            pytest.fail("the connection ended")
        assert w.kis.state()["sessions"][0]["silent"]
        async with world() as other, other.connect() as elsewhere:
            assert await elsewhere.register("H0UNCNT0") == "OPSP0000"
        w.kis.do("set", settings={"pong_timeout": 60.0})
        w.kis.do("clear")
        assert await client.data()


async def test_handshakes_and_connections_can_be_refused() -> None:
    async with world() as w:
        key = await w.approval_key()
        w.kis.do("refuse_upgrade", times=2)
        for _ in range(2):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                async with w.connect(key):
                    pass
            assert refused.value.status == 503
        w.kis.do("hang_upgrade")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), w.connect(key):
                pass
        async with w.connect(key) as before:
            assert await before.register("H0STCNT0") == "OPSP0000"
            w.kis.do("refuse_connections", seconds=0.4)
            started = time.monotonic()
            refusals = 0
            while time.monotonic() - started < 5.0:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", w.kis.port)
                except ConnectionError:
                    refusals += 1
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    await writer.wait_closed()
                    if refusals:
                        break
            assert refusals
            assert await before.register("H0STASP0") == "OPSP0000"  # who is there stays


async def test_answers_can_be_anything() -> None:
    async with world() as w, w.connect() as client:
        w.kis.do("answer", code="OPSP0007", tr_key="000660", times=2)
        assert await client.register("H0STCNT0") == "OPSP0000"
        for code in ("OPSP0007", "OPSP0007", "OPSP0000"):
            assert await client.register("H0STCNT0", "000660") == code
        w.kis.do("answer", code="OPSP1234", text="news")
        await client.send("1", "H0STASP0", "005930")
        assert (await client.answer())["body"] == {"rt_cd": "1", "msg_cd": "OPSP1234", "msg1": "news"}
        w.kis.do("answer", code="OPSP8996")
        assert await client.register("H0STASP0") == "OPSP8996"
        assert await client.end() == 1000


async def test_acknowledgements_can_be_missing_late_and_out_of_order() -> None:
    async with world(market="simulator") as w, w.connect() as client:
        w.kis.do("no_ack")
        await client.send("1", "H0UNCNT0", "005930")
        assert (await client.data()).startswith("0|H0UNCNT0|")  # it was made nevertheless
        assert w.kis.journal.requests[0].answer == ""
        assert await client.register("H0UNCNT0") == "OPSP0002"
        w.kis.do("no_ack", obey=False)
        await client.send("1", "H0UNASP0", "005930")
        assert await client.register("H0UNASP0") == "OPSP0000"
        w.kis.do("late_ack", after_data=True)
        await client.send("1", "H0UNCNT0", "000660")
        while True:
            text = await client.receive()
            assert text is not None
            if text.startswith("0|H0UNCNT0|") and text.split("|")[3].startswith("000660"):
                break
            assert not text.startswith("{")
        assert (await client.answer())["header"]["tr_key"] == "000660"
        w.kis.do("late_ack", delay=0.3)
        started = time.monotonic()
        assert await client.register("H0UNASP0", "000660") == "OPSP0000"
        assert time.monotonic() - started >= 0.3
        w.kis.do("reorder_acks", of=3)
        for code in ("000001", "000002", "000003"):
            await client.send("1", "H0STMKO0", code)
        order = [(await client.answer())["header"]["tr_key"] for _ in range(3)]
        assert order == ["000003", "000002", "000001"]


async def test_a_registration_can_be_acknowledged_and_silent_until_it_is_repeated() -> None:
    async with world(market="simulator", rate=2000.0) as w, w.connect() as client:
        w.kis.do("mute", coming=1, tr_key="005930")
        assert await client.register("H0UNCNT0", "005930") == "OPSP0000"
        assert await client.register("H0UNCNT0", "000660") == "OPSP0000"
        assert {(await client.data()).split("|")[3][:6] for _ in range(40)} == {"000660"}
        assert await client.register("H0UNCNT0", "005930") == "OPSP0002"
        while not (await client.data()).split("|")[3].startswith("005930"):
            pass
        assert w.kis.do("mute", tr_key="000660") == 1
        before = w.kis.state()["sessions"][0]["registrations"]
        assert [one["muted"] for one in before] == [False, True]


async def test_a_script_waits_for_sessions_requests_records_and_times(tmp_path: Path) -> None:
    script = parse(
        """
        {"settings": {"cap": 5}}
        {"session": 1, "records": 20, "do": "drop"}
        {"session": 2, "request": 3, "do": "drop"}
        {"session": 3, "request": 1, "do": "answer", "code": "OPSP0011"}
        {"session": 4, "after": 0.1, "do": "close", "code": 1012}
        {"at": 0.05, "every": 0.05, "do": "say", "message": "tick"}
        """
    )
    async with world(script=script, market="simulator") as w:
        async with w.connect() as client:
            assert await client.register("H0UNCNT0") == "OPSP0000"
            assert await client.end() is None
        assert 20 <= w.kis.journal.sessions[0].n_records <= 22
        async with w.connect() as client:
            assert await client.register("H0STCNT0") == "OPSP0000"
            assert await client.register("H0STASP0") == "OPSP0000"
            await client.send("1", "H0STMKO0", "005930")
            assert await client.end() is None
        async with w.connect() as client:
            assert await client.register("H0STCNT0") == "OPSP0011"
            assert [await client.receive() for _ in range(2)] == ["tick", "tick"]
            await client.socket.close()
        async with w.connect() as client:
            assert await client.end() == 1012
        entries = w.kis.journal.sessions
        assert entries[1].n_requests == 3
        assert entries[3].closed_at is None or entries[3].closed_at - entries[3].opened_at >= 0.1
        assert w.kis.settings.cap == 5
