"""What the fake KIS server sends: its market, played frames, notices and PINGPONG."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.kis_server import real_frames, wait_for, world


async def test_the_market_is_what_was_registered() -> None:
    async with world(market="simulator") as w, w.connect() as client:
        wanted = {(tr, code) for tr in ("H0UNCNT0", "H0UNASP0") for code in ("005930", "000660")}
        for registration in sorted(wanted):
            await client.send("1", *registration)
        acknowledged, seen = set(), set()
        while seen != wanted:
            text = await client.receive()
            assert text is not None
            if text.startswith("{"):
                header = json.loads(text)["header"]
                acknowledged.add((header["tr_id"], header["tr_key"]))
                continue
            flag, tr_id, count, payload = text.split("|", 3)
            values = payload.split("^")
            width = {"H0UNCNT0": 47, "H0UNASP0": 66}[tr_id]
            assert flag == "0"
            assert len(count) == 3
            assert len(values) == int(count) * width
            assert {values[i] for i in range(0, len(values), width)} == {values[0]}
            # Nobody gets what has not been acknowledged.
            assert (tr_id, values[0]) in acknowledged
            seen.add((tr_id, values[0]))
        assert await client.unregister("H0UNASP0", "005930") == "OPSP0001"
        for _ in range(30):
            assert not (await client.data()).startswith("0|H0UNASP0|001|005930")


async def test_every_captured_frame_is_played_to_the_byte(tmp_path: Path) -> None:
    frames = real_frames()
    assert len(frames) >= 10
    path = tmp_path / "frames.txt"
    path.write_text("# captured\n" + "".join(f"{frame}\n" for frame in frames))
    async with world() as w, w.connect() as client:
        for registration in sorted({(f.split("|")[1], f.split("|")[3].split("^")[0]) for f in frames}):
            assert await client.register(*registration) == "OPSP0000"
        assert w.kis.do("play", file=str(path), speed=0) == len(frames)
        assert [await client.data() for _ in frames] == frames
        assert w.kis.journal.sessions[0].n_records == len(frames) + 2  # one of them has three
        w.kis.do("play", file=str(path), speed=1_000, loop=True)
        assert [await client.data() for _ in frames * 2] == frames * 2


async def test_only_what_is_registered_is_played_unless_to_everyone(tmp_path: Path) -> None:
    path = tmp_path / "frames.txt"
    path.write_text("0|H0STCNT0|001|000660^1\n@1762819200123 0|H0STCNT0|001|005930^1\nhello\n")
    async with world() as w, w.connect() as client:
        assert await client.register("H0STCNT0") == "OPSP0000"
        w.kis.do("play", file=str(path), speed=0)
        assert await client.receive() == "0|H0STCNT0|001|005930^1"
        w.kis.do("play", file=str(path), speed=0, to="everyone")
        assert [await client.receive() for _ in range(3)] == [
            "0|H0STCNT0|001|000660^1", "0|H0STCNT0|001|005930^1", "hello",
        ]  # fmt: skip


async def test_notices_are_encrypted_with_what_the_acknowledgement_said() -> None:
    async with world() as w:
        ciphers = set()
        for _ in range(2):
            async with w.connect() as client:
                await client.send("1", "H0STCNI0", "FAKEUSER01")
                answer = await client.answer()
                assert answer["header"]["encrypt"] == "Y"
                output = answer["body"]["output"]
                ciphers.add((output["key"], output["iv"]))
                await client.send("1", "H0STCNT0", "005930")
                other = (await client.answer())["body"]["output"]
                assert other["key"] != output["key"]
                assert w.kis.do("notice", code="005930", quantity=7, price=72_100) == 1
                flag, tr_id, count, payload = (await client.data()).split("|", 3)
                assert (flag, tr_id, count) == ("1", "H0STCNI0", "001")
                cipher = Cipher(algorithms.AES(output["key"].encode()), modes.CBC(output["iv"].encode()))
                decryptor = cipher.decryptor()
                clear = decryptor.update(base64.b64decode(payload)) + decryptor.finalize()
                values = clear[: -clear[-1]].decode().split("^")
                assert (values[0], values[8], int(values[9]), len(values)) == ("FAKEUSER01", "005930", 7, 26)
                await client.socket.close()
            await wait_for(lambda: not w.kis.sessions, "the end of the session")
        assert len(ciphers) == 2


async def test_a_frame_that_says_it_is_bad_goes_out_as_it_is() -> None:
    async with world() as w, w.connect() as client:
        assert await client.register("H0STCNT0") == "OPSP0000"
        w.kis.do("malformed", kind="width")
        w.kis.do("say", message="0|H0UNCNT0|001")
        assert (await client.data()).startswith("0|H0UNCNT0|002|005930^")
        assert await client.data() == "0|H0UNCNT0|001"


async def test_phases_and_operations_are_told() -> None:
    async with world(market="simulator") as w, w.connect() as client:
        assert await client.register("H0UNMKO0") == "OPSP0000"
        w.kis.do("set_phase", phase="closing_auction")
        assert await client.data() == "0|H0UNMKO0|001|005930^N^(null)^121^^^^55^N^"
        w.kis.do("operation", tr_key="005930", halted=True, reason="VI", vi="Y")
        assert await client.data() == "0|H0UNMKO0|001|005930^Y^VI^^^^^58^Y^"
        assert (await w.get("/_fake"))["phase"] == "closing_auction"


async def test_a_burst_of_large_frames_arrives() -> None:
    async with world() as w, w.connect() as client:
        for tr_id in ("H0UNCNT0", "H0UNASP0"):
            assert await client.register(tr_id) == "OPSP0000"
        assert w.kis.do("burst", frames=300, records=100) == 300
        for _ in range(300):
            assert (await client.data()).split("|")[2] == "100"


# PINGPONG


@pytest.mark.parametrize("form", ["text", "frame"])
async def test_pingpong_is_sent_into_silence_and_either_reply_counts(form: str) -> None:
    async with world(pingpong_interval=0.1, pong_timeout=0.6) as w, w.connect() as client:
        deadline = time.monotonic() + 1.2
        while time.monotonic() < deadline:
            text = await client.receive()
            assert text is not None
            assert re.fullmatch(r'\{"header":\{"tr_id":"PINGPONG","datetime":"\d{14}"\}\}', text)
            if form == "text":
                await client.socket.send_str(text)
            else:
                await client.socket.pong(text.encode())
        entry = w.kis.journal.sessions[0]
        assert entry.closed_at is None
        counted = (entry.n_text_replies > 1, entry.n_frame_replies > 1)
        assert counted == ((True, False) if form == "text" else (False, True))


@pytest.mark.parametrize("demanded", ["none", "text", "frame"])
async def test_who_does_not_reply_as_demanded_is_cut_off(demanded: str) -> None:
    settings = {} if demanded == "none" else {"pong": demanded}
    async with world(pingpong_interval=0.05, pong_timeout=0.4, **settings) as w, w.connect() as client:
        while (text := await client.receive()) is not None:
            if demanded == "text":
                await client.socket.pong(text.encode())
            elif demanded == "frame":
                await client.socket.send_str(text)
        entry = w.kis.journal.sessions[0]
        await wait_for(lambda: entry.closed_at is not None, "the end of the session")
        assert (entry.closed_by, entry.close_code) == ("server", None)
        assert entry.closed_at is not None
        assert 0.4 <= entry.closed_at - entry.opened_at < 3.0
        assert w.kis.journal.n_violations("no_pong") == 1


async def test_data_keeps_pingpong_away_unless_it_is_always_sent() -> None:
    async with world(market="simulator", pingpong_interval=0.3) as w, w.connect() as client:
        assert await client.register("H0UNCNT0") == "OPSP0000"
        for _ in range(200):
            assert "PINGPONG" not in str(await client.receive())
        w.kis.do("set", settings={"pingpong_always": True})
        while "PINGPONG" not in str(await client.receive()):
            pass


async def test_a_pingpong_of_the_client_postpones_that_of_the_server() -> None:
    async with world(pingpong_interval=0.2) as w, w.connect() as client:
        await client.socket.send_str('{"header":{"tr_id":"PINGPONG","datetime":"20260101000000"}}')
        with pytest.raises(TimeoutError):
            await client.receive(0.6)
        assert w.kis.journal.sessions[0].n_own_pingpongs == 1
        assert not w.kis.journal.requests


@pytest.mark.parametrize("rfc_ping", ["pong", "error"])
async def test_pings_of_rfc_6455_are_seen(rfc_ping: str) -> None:
    async with world(rfc_ping=rfc_ping) as w, w.connect() as client:
        await client.socket.ping(b"abc")
        async with asyncio.timeout(5.0):
            message = await client.socket.receive()
        if rfc_ping == "pong":
            assert (message.type, bytes(message.data)) == (aiohttp.WSMsgType.PONG, b"abc")
        else:
            assert json.loads(message.data)["body"]["msg_cd"] == "OPSP8991"
            assert await client.end() == 1000
        assert w.kis.journal.sessions[0].n_rfc_pings == 1
