"""The fake KIS server over real sockets, with a client that knows nothing but KIS's protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fastws.kis.testing import FakeKIS, example_keys, parse
from tests.serving import ROOT, until

UNIT = Path(__file__).parents[1] / "unit"
QUOTATIONS = "/uapi/domestic-stock/v1/quotations"
TEXT = aiohttp.WSMsgType.TEXT


async def wait_for(condition: Callable[[], Any], what: str, seconds: float = 5.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        await asyncio.sleep(0.005)
    return value


class Client:
    """A connection: sends registrations, and takes messages apart by their first character."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, approval_key: str) -> None:
        self.socket = socket
        self.approval_key = approval_key

    async def send(self, tr_type: str, tr_id: str, tr_key: str) -> None:
        header = {
            "approval_key": self.approval_key,
            "custtype": "P",
            "tr_type": tr_type,
            "content-type": "utf-8",
        }
        body = {"input": {"tr_id": tr_id, "tr_key": tr_key}}
        await self.socket.send_str(json.dumps({"header": header, "body": body}))

    async def register(self, tr_id: str, tr_key: str = "005930") -> str:
        """Register and return the message code of the answer."""
        await self.send("1", tr_id, tr_key)
        return str((await self.answer())["body"]["msg_cd"])

    async def unregister(self, tr_id: str, tr_key: str = "005930") -> str:
        await self.send("2", tr_id, tr_key)
        return str((await self.answer())["body"]["msg_cd"])

    async def receive(self, seconds: float = 5.0) -> str | None:
        """The next message; None at the end of the connection."""
        async with asyncio.timeout(seconds):
            message = await self.socket.receive()
        return message.data if message.type is TEXT else None

    async def answer(self) -> dict[str, Any]:
        """The next answer to a request; data before it is left out."""
        while True:
            text = await self.receive()
            assert text is not None, "the connection ended before an answer"
            if text.startswith("{") and "PINGPONG" not in text:
                made: dict[str, Any] = json.loads(text)
                return made

    async def data(self) -> str:
        """The next data frame."""
        while True:
            text = await self.receive()
            assert text is not None, "the connection ended before data"
            if text[0] in "01":
                return text

    async def end(self) -> int | None:
        """Read to the end of the connection; returns the close code, None where there was no close frame."""
        while True:
            async with asyncio.timeout(5.0):
                message = await self.socket.receive()
            if message.type is aiohttp.WSMsgType.CLOSE:
                return int(message.data)
            if message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
                return None if self.socket.close_code == 1006 else self.socket.close_code


class World:
    """A fake server and clients of it."""

    def __init__(self, kis: FakeKIS, http: aiohttp.ClientSession) -> None:
        self.kis = kis
        self.http = http

    async def post(self, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        async with self.http.post(self.kis.rest_url + path, json=body) as response:
            return response.status, await response.json()

    async def get(self, path: str, **parameters: str) -> Any:
        async with self.http.get(self.kis.rest_url + path, params=parameters) as response:
            assert response.status == 200
            return await response.json()

    async def approval_key(self, app_key: str = "", secret: str = "") -> str:
        app_key = app_key or self.kis.app_key
        secret = secret or self.kis.settings.app_keys[app_key]
        body = {"grant_type": "client_credentials", "appkey": app_key, "secretkey": secret}
        status, answer = await self.post("/oauth2/Approval", body)
        assert status == 200, answer
        return str(answer["approval_key"])

    @asynccontextmanager
    async def connect(self, approval_key: str = "", path: str = "/tryitout") -> AsyncIterator[Client]:
        key = approval_key or await self.approval_key()
        async with self.http.ws_connect(self.kis.ws_url + path, autoping=False) as socket:
            yield Client(socket, key)


@asynccontextmanager
async def world(**settings: Any) -> AsyncIterator[World]:
    """A server that does not keep tests waiting, and minds nothing unless `settings` say so."""
    script = settings.pop("script", None)
    usual = {
        "approval_interval": 0.0, "token_interval": 0.0, "min_connect_interval": 0.0, "min_request_interval": 0.0,
        "rate": 400.0, "market": "none",
    }  # fmt: skip
    async with (
        FakeKIS(script=script, **{**usual, **settings}) as kis,
        aiohttp.ClientSession() as http,
    ):
        yield World(kis, http)


def real_frames() -> list[str]:
    """The captured frames among the samples of the tests."""
    frames = []
    for name in ("kis_samples.txt", "kis_testing_messages.txt"):
        lines = (UNIT / name).read_text().splitlines()
        frames += [
            lines[i + 1]
            for i, line in enumerate(lines)
            if line.startswith("# ") and "(real)" in line and lines[i + 1].startswith("0|")
        ]
    return frames


# Keys


async def test_approval_keys_and_tokens_are_given_to_whom_they_belong() -> None:
    async with world() as w:
        kis = w.kis
        body = {"grant_type": "client_credentials", "appkey": kis.app_key, "secretkey": kis.app_secret}
        status, answer = await w.post("/oauth2/Approval", body)
        assert status == 200
        assert set(answer) == {"approval_key"}
        assert re.fullmatch(r"[0-9a-f-]{36}", answer["approval_key"])
        for change, code in (
            ({"appkey": "PS" + "x" * 34}, "EGW00103"),
            ({"secretkey": "wrong"}, "EGW00105"),
            ({"secretkey": None, "appsecret": kis.app_secret}, "EGW00104"),  # the other endpoint's name
            ({"grant_type": "password"}, "EGW00101"),
        ):
            status, answer = await w.post("/oauth2/Approval", body | change)
            assert (status, answer["error_code"]) == (403, code)
        del body["secretkey"]
        status, answer = await w.post("/oauth2/tokenP", body | {"appsecret": kis.app_secret})
        assert status == 200
        assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 86_400)
        time.strptime(answer["access_token_token_expired"], "%Y-%m-%d %H:%M:%S")


async def test_keys_and_tokens_are_issued_at_the_pace_of_kis() -> None:
    async with world(approval_interval=60.0, token_interval=60.0) as w:
        keys = {"grant_type": "client_credentials", "appkey": w.kis.app_key}
        secret = w.kis.app_secret
        assert (await w.post("/oauth2/Approval", keys | {"secretkey": secret}))[0] == 200
        status, answer = await w.post("/oauth2/Approval", keys | {"secretkey": secret})
        assert (status, answer["error_code"]) == (500, "EGW00201")
        assert (await w.post("/oauth2/tokenP", keys | {"appsecret": secret}))[0] == 200
        status, answer = await w.post("/oauth2/tokenP", keys | {"appsecret": secret})
        assert (status, answer["error_code"]) == (403, "EGW00133")
        assert [entry.kind for entry in w.kis.journal.violations] == ["hasty_approval", "hasty_token"]


async def test_quotations() -> None:
    async with world(rest_rate=7, market="simulator") as w:
        kis = w.kis
        keys = {"grant_type": "client_credentials", "appkey": kis.app_key, "appsecret": kis.app_secret}
        token = (await w.post("/oauth2/tokenP", keys))[1]["access_token"]
        headers = {
            "authorization": f"Bearer {token}", "appkey": kis.app_key, "appsecret": kis.app_secret, "custtype": "P",
        }  # fmt: skip

        async def call(
            path: str, tr_id: str, changed: dict[str, str] | None = None, **parameters: str
        ) -> Any:
            sent = {**headers, "tr_id": tr_id, **(changed or {})}
            url = kis.rest_url + QUOTATIONS + path
            async with w.http.get(url, headers=sent, params=parameters) as response:
                return response.status, await response.json()

        one = {"FID_COND_MRKT_DIV_CODE": "UN", "FID_INPUT_ISCD": "005930"}
        status, answer = await call("/inquire-price", "FHKST01010100", **one)
        assert (status, answer["rt_cd"]) == (200, "0")
        price = int(answer["output"]["stck_prpr"])
        assert int(answer["output"]["stck_llam"]) <= price <= int(answer["output"]["stck_mxpr"])
        several = {}
        for i in range(1, 36):
            several |= {f"FID_COND_MRKT_DIV_CODE_{i}": "J", f"FID_INPUT_ISCD_{i}": f"{i:06}"}
        status, answer = await call("/intstock-multprice", "FHKST11300006", **several)
        assert [row["inter_shrn_iscd"] for row in answer["output"]] == [f"{i:06}" for i in range(1, 31)]
        status, answer = await call("/inquire-asking-price-exp-ccn", "FHKST01010200", **one)
        assert int(answer["output1"]["askp1"]) > int(answer["output1"]["bidp1"]) > 0
        for tr_id, changed, expected in (
            ("FHKST01010100", {"authorization": "Bearer x"}, (500, "EGW00121")),
            ("FHKST01010100", {"appsecret": "x"}, (403, "EGW00105")),
            ("FHKST99999999", {}, (200, "OPSQ0002")),
        ):
            status, answer = await call("/inquire-price", tr_id, changed, **one)
            assert (status, answer["msg_cd"], answer["rt_cd"]) == (*expected, "1")
        status, answer = await call("/inquire-price", "FHKST01010100", FID_COND_MRKT_DIV_CODE="J")
        assert answer["msg_cd"] == "OPSQ2001"
        answers = [await call("/inquire-price", "FHKST01010100", **one) for _ in range(8)]
        assert (500, "EGW00201") in [(status, answer["msg_cd"]) for status, answer in answers]
        assert kis.journal.n_violations("rest_rate") > 0
        kis.do("expire_tokens")
        await asyncio.sleep(1.0)  # a second's calls have to be over, which is what is tested
        status, answer = await call("/inquire-price", "FHKST01010100", **one)
        assert (status, answer["msg_cd"]) == (500, "EGW00123")


async def test_http_can_be_spoilt() -> None:
    async with world() as w:
        body = {"grant_type": "client_credentials", "appkey": w.kis.app_key, "secretkey": w.kis.app_secret}
        w.kis.do("rest", of="approval", status=502, times=2)
        for _ in range(2):
            assert (await w.post("/oauth2/Approval", body))[0] == 502
        assert (await w.post("/oauth2/Approval", body))[0] == 200
        w.kis.do("rest", of="approval", body="<html>")
        async with w.http.post(w.kis.rest_url + "/oauth2/Approval", json=body) as response:
            assert (response.status, await response.text()) == (200, "<html>")
        w.kis.do("rest", of="token", code="EGW00103")
        assert (await w.post("/oauth2/Approval", body))[0] == 200
        status, answer = await w.post("/oauth2/tokenP", body | {"appsecret": w.kis.app_secret})
        assert (status, answer["error_code"]) == (403, "EGW00103")
        w.kis.do("rest", delay=0.2)
        started = time.monotonic()
        assert (await w.post("/oauth2/Approval", body))[0] == 200
        assert time.monotonic() - started >= 0.2


# Registrations


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


# Data


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


# Faults


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


# Conduct


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


# From outside


async def test_another_process_can_look_and_act() -> None:
    async with world(market="simulator") as w, w.connect() as client:
        assert await client.register("H0UNCNT0") == "OPSP0000"
        state = await w.get("/_fake")
        assert state["sessions"][0]["registrations"][0]["tr_id"] == "H0UNCNT0"
        requests = await w.get("/_fake/requests")
        assert [(entry["tr_id"], entry["answer"]) for entry in requests] == [("H0UNCNT0", "OPSP0000")]
        assert await w.get("/_fake/requests", since="1000") == []
        assert (await w.get("/_fake/calls"))[0]["path"] == "/oauth2/Approval"
        assert (await w.get("/_fake/sessions", since="1000"))[0]["number"] == 1  # it is open
        status, answer = await w.post("/_fake", [{"do": "answer", "code": "OPSP0009"}, {"do": "pingpong"}])
        assert (status, answer) == (200, {"done": [0, 1]})
        assert (await w.get("/_fake"))["faults"] == [
            {"do": "answer", "app_key": None, "times": None, "seconds": None, "tr_id": None, "tr_key": None,
             "code": "OPSP0009", "text": None, "close": None}
        ]  # fmt: skip
        assert await client.register("H0UNASP0") == "OPSP0009"
        for body, error in (
            ({"do": "answer"}, "code: is missing"),
            ([{"do": "drop", "app_key": "x"}, {"do": "fly"}], "[1]: do: 'fly' is no action; they are"),
            ({"do": "play", "file": "/no/such"}, "file: /no/such cannot be read: No such file or directory"),
            (3, "do: None is no action"),
        ):
            status, answer = await w.post("/_fake", body)
            assert status == 400
            assert answer["error"].startswith(error)
        assert (await w.post("/_fake", {"do": "drop"}))[1] == {"done": [1]}
        assert await client.end() is None


class Process:
    """``python -m fastws.kis.testing`` as its users run it."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        command = [sys.executable, "-W", "error", "-m", "fastws.kis.testing", "--port", "0", *arguments]
        self.output = directory / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=output,
            )

    def variables(self) -> dict[str, str]:
        def printed() -> dict[str, str]:
            assert self.process.poll() is None, self.output.read_text()
            text = self.output.read_text()
            return dict(re.findall(r"export (\w+)=(\S+)\n", text)) if "Ctrl-C" in text else {}

        found: dict[str, str] = until(printed, "the variables")
        return found

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(10.0)


async def test_the_command_plays_a_market_and_says_how_to_come_there(tmp_path: Path) -> None:
    script = tmp_path / "script.toml"
    script.write_text('[settings]\ncap = 2\n\n[[step]]\nsession = 2\nrequest = 1\ndo = "drop"\n')
    running = Process(tmp_path, "--script", str(script), "--rate", "300", "--set", "approval_interval=0")
    try:
        variables = running.variables()
        async with aiohttp.ClientSession() as http:
            body = {"grant_type": "client_credentials", "appkey": variables["KIS_APP_KEY"],
                    "secretkey": variables["KIS_APP_SECRET"]}  # fmt: skip
            async with http.post(variables["KIS_REST_URL"] + "/oauth2/Approval", json=body) as response:
                key = (await response.json())["approval_key"]
            async with http.ws_connect(variables["KIS_WS_URL"] + "/tryitout") as socket:
                client = Client(socket, key)
                assert await client.register("H0UNCNT0") == "OPSP0000"
                assert await client.register("H0UNASP0") == "OPSP0000"
                assert await client.register("H0UNASP0", "000660") == "OPSP0008"
                assert (await client.data()).startswith("0|H0UN")
            async with http.ws_connect(variables["KIS_WS_URL"]) as socket:
                await Client(socket, key).send("1", "H0UNCNT0", "005930")
                assert await Client(socket, key).end() is None
    finally:
        assert running.end() == 0, running.output.read_text()
    assert "Traceback" not in running.output.read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--set", "cap=none"], "cap: expected an integer, got a text"),
        (["--set", "cap"], "--set cap: expected NAME=VALUE"),
        (["--phase", "lunch"], "phase: invalid value 'lunch'"),
        (["--play", "no.txt"], "file: no.txt cannot be read: No such file or directory"),
        (["--script", "no.toml"], "no.toml: cannot be read: No such file or directory"),
        (["--rate", "0"], "rate: expected a number > 0"),
    ],
)
def test_what_is_wrong_with_the_command_is_told_in_a_line(
    arguments: list[str], expected: str, tmp_path: Path
) -> None:
    running = Process(tmp_path, *arguments)
    assert running.process.wait(20.0) == 2
    assert expected in running.output.read_text()
    assert len(running.output.read_text().splitlines()) == 1


def test_the_help_has_every_action_and_setting() -> None:
    command = [sys.executable, "-m", "fastws.kis.testing", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, cwd=ROOT).stdout
    for word in ("refuse_connections", "reorder_acks", "[[step]]", "pong_timeout", "curl", "every"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 110
