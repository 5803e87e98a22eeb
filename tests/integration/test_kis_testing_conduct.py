"""What the fake KIS server minds, and blocks."""

from __future__ import annotations

import asyncio

from tests.kis_server import wait_for, world


async def test_hasty_requests_are_seen_and_punished() -> None:
    async with (
        world(min_request_interval=0.1, request_tolerance=0.02, max_hasty=5) as w,
        w.connect() as client,
    ):
        for i in range(4):
            assert await client.register("H0STCNT0", f"{i:06}") == "OPSP0000"
            await asyncio.sleep(0.11)
        journal = w.kis.journal
        assert journal.n_violations("hasty_request") == 0
        slowest = journal.fastest_gap()
        assert slowest is not None
        assert slowest >= 0.1
        total = journal.fastest(4)
        assert total is not None
        assert total >= 0.3
        for i in range(10, 17):
            await client.send("1", "H0STCNT0", f"{i:06}")
        assert await client.end() is None
        assert journal.n_violations("hasty_request") >= 6
        fastest = journal.fastest_gap()
        assert fastest is not None
        assert fastest < 0.08
        body = {"grant_type": "client_credentials", "appkey": w.kis.app_key, "secretkey": w.kis.app_secret}
        assert (await w.post("/oauth2/Approval", body))[1]["error_code"] == "EGW00003"
        async with w.connect(client.approval_key) as again:
            await again.send("1", "H0STCNT0", "005930")
            assert await again.end() is None
        w.kis.do("unblock")
        async with w.connect() as again:
            assert await again.register("H0STCNT0") == "OPSP0000"


async def test_pace_is_looked_at_across_sessions() -> None:
    async with world(min_request_interval=0.2) as w:
        key = await w.approval_key()
        async with w.connect(key) as client:
            assert await client.register("H0STCNT0") == "OPSP0000"
        async with w.connect(key) as client:
            assert await client.register("H0STCNT0") in ("OPSP0000", "OPSP8996")
        assert w.kis.journal.n_violations("hasty_request") == 1


async def test_loops_of_registrations_are_blocked() -> None:
    async with world(max_cycles=5) as w, w.connect() as client:
        for _ in range(5):
            assert await client.register("H0STCNT0") == "OPSP0000"
            assert await client.unregister("H0STCNT0") == "OPSP0001"
        await client.send("1", "H0STCNT0", "005930")
        assert await client.end() is None
        assert w.kis.journal.n_violations("cycle") == 1
        assert w.kis.state()["blocked"] == [w.kis.app_key]
    async with world(max_fruitless_registrations=5) as w, w.connect() as client:
        for i in range(5):
            assert await client.register("H0STCNT0", f"{i:06}") == "OPSP0000"
            assert await client.unregister("H0STCNT0", f"{i:06}") == "OPSP0001"
        assert await client.register("H0STCNT0") == "OPSP0000"
        await client.send("2", "H0STCNT0", "005930")
        assert await client.end() is None
        assert w.kis.journal.n_violations("fruitless_registrations") == 1


async def test_loops_of_connections_are_blocked_unless_the_server_makes_them() -> None:
    async with world(max_fruitless_connects=3, min_connect_interval=1.0) as w:
        key = await w.approval_key()

        async def visit(drop: bool) -> str | None:
            async with w.connect(key) as client:
                await client.send("1", "H0STCNT0", "005930")
                text = await client.receive()
                if drop:
                    w.kis.do("drop")
                else:
                    await client.socket.close()
            await wait_for(lambda: not w.kis.sessions, "the end of the session")
            return text

        for _ in range(5):
            assert await visit(drop=True) is not None
        assert not w.kis.state()["blocked"]
        for _ in range(4):
            assert await visit(drop=False) is not None
        assert w.kis.state()["blocked"] == [w.kis.app_key]
        assert await visit(drop=False) is None
        assert w.kis.journal.n_violations("hasty_connect") == 8
        assert w.kis.journal.n_violations("fruitless_connects") == 1
