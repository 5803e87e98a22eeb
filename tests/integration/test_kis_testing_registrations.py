"""Registrations and sessions at the fake KIS server."""

from __future__ import annotations

import asyncio

import pytest

from fastws.kis.testing import example_keys
from tests.kis_server import wait_for, world


@pytest.mark.parametrize("path", ["/", "/tryitout", "/tryitout/H0STCNT0"])
async def test_registrations_are_answered_as_by_kis(path: str) -> None:
    async with world(cap=3) as w, w.connect(path=path) as client:
        assert await client.register("H0STCNT0") == "OPSP0000"
        assert await client.register("H0STCNT0") == "OPSP0002"
        assert await client.register("H0STASP0") == "OPSP0000"
        assert await client.register("H0UPCNT0", "0001") == "OPSP0000"
        assert await client.register("H0UNCNT0") == "OPSP0008"
        assert await client.unregister("H0UNCNT0") == "OPSP0003"
        assert await client.unregister("H0STCNT0") == "OPSP0001"
        assert await client.register("H0UNCNT0") == "OPSP0000"
        assert await client.register("H0ZZZZZ0") == "OPSP8991"
        assert await client.register("H0STCNT0", "5930") == "OPSP8992"
        await client.socket.send_str("hello")
        answer = await client.answer()
        assert (answer["header"]["tr_id"], answer["body"]["msg_cd"]) == ("(null)", "OPSP9999")
        client.approval_key = "unknown"
        assert await client.register("H0STCNT0") == "OPSP0011"
        assert w.kis.journal.max_registrations() == 3
        kinds = [entry.kind for entry in w.kis.journal.violations]
        assert kinds == ["repeated", "over_cap", "not_registered", "malformed", "malformed", "malformed",
                         "unknown_approval"]  # fmt: skip
        assert [entry.answer for entry in w.kis.journal.requests][:4] == [
            "OPSP0000", "OPSP0002", "OPSP0000", "OPSP0000",
        ]  # fmt: skip


async def test_41_registrations_fit_and_42_do_not() -> None:
    async with world() as w, w.connect() as client:
        codes = [await client.register("H0STCNT0", f"{i:06}") for i in range(42)]
        assert codes == ["OPSP0000"] * 41 + ["OPSP0008"]


async def test_an_approval_key_is_looked_at_when_it_is_used() -> None:
    async with world(close_on_unknown_approval=True) as w, w.connect() as client:
        assert await client.register("H0STCNT0") == "OPSP0000"
        w.kis.do("expire_keys")
        await asyncio.sleep(0.0)
        assert not client.socket.closed  # a session that is up lives on
        assert await client.register("H0STASP0") == "OPSP0011"
        assert await client.end() == 1000


async def test_an_app_key_has_one_session() -> None:
    async with world(app_keys=example_keys(2)) as w, w.connect() as first:
        assert await first.register("H0STCNT0") == "OPSP0000"
        async with w.connect() as second:
            await second.send("1", "H0STCNT0", "000660")
            text = await second.receive()
            assert text == (
                '{"header":{"tr_id":"(null)","tr_key":"","encrypt":"N"},'
                '"body":{"rt_cd":"9","msg_cd":"OPSP8996","msg1":"ALREADY IN USE appkey"}}'
            )
            assert await second.end() == 1000
        other = list(w.kis.settings.app_keys)[1]
        async with w.connect(await w.approval_key(other)) as third:
            assert await third.register("H0STCNT0") == "OPSP0000"
        assert await first.register("H0STASP0") == "OPSP0000"
        assert w.kis.journal.max_sessions() == 1
        assert w.kis.journal.n_violations("second_session") == 1
        await first.socket.close()
        await wait_for(lambda: not w.kis.sessions, "the end of the sessions")
        async with w.connect() as again:
            assert await again.register("H0STCNT0") == "OPSP0000"


async def test_a_slot_can_be_held_after_a_drop() -> None:
    async with world(slot_hold=0.5) as w:
        async with w.connect() as client:
            assert await client.register("H0STCNT0") == "OPSP0000"
            w.kis.do("drop")
            assert await client.end() is None
        async with w.connect() as client:
            assert await client.register("H0STCNT0") == "OPSP8996"
        ended = w.kis.journal.sessions[0].closed_at
        await wait_for(lambda: w.kis.now() > ended + 0.5, "the end of the hold")
        async with w.connect() as client:
            assert await client.register("H0STCNT0") == "OPSP0000"
            await client.socket.close()
        async with w.connect() as client:  # after a close frame nothing is held
            assert await client.register("H0STCNT0") == "OPSP0000"


async def test_paper_has_other_registrations() -> None:
    async with world(environment="paper") as w, w.connect() as client:
        assert await client.register("H0STCNT0") == "OPSP0000"
        assert await client.register("H0UNCNT0") == "OPSP8991"
        assert await client.register("H0STCNI0", "USER1") == "OPSP8991"
        assert await client.register("H0STCNI9", "USER1") == "OPSP0000"
        assert w.kis.variables()["KIS_PAPER"] == "1"
