"""The examples of the wire contract, byte for byte, over a real socket to a real server."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests import transcript
from tests.clients import Client, Message
from tests.conftest import StartServer
from tests.serving import Server, run
from tests.transcript import Known, Step, Transcript

# The examples of sections 3 to 9 as they are written there, those of a later stage left out. "…" stands for anything,
# and so do the members of a batch. Of what is answered to a GET, sections 8 and 9 have exactly these members.
REQUESTS = """
{"type":"subscribe","subscription_type":"stock","targets":["005930","000660","035720"]}
{"type":"unsubscribe","subscription_type":"stock","targets":["005930"]}
{"type":"ping"}
{"type":"list_subscriptions"}
{"type":"set_subscriptions","subscriptions":{"stock":["005930"],"market":["KOSPI"]}}
{"type":"pause"}
{"type":"resume"}
{"type":"auth","token":"…"}
{"type":"refresh_token","token":"…"}
{"type":"reconnect","session_id":"…"}
"""
ANSWERS = """
{"type":"connection","status":"connected","connection_id":"…","authenticated":"…","user_id":"…","epoch":"…","sequence":"…","batch_interval_ms":30,"limits":{"subscriptions":50,"rate_limit":100,"message_bytes":65536},"feeds":"…","timestamp":"…"}
{"type":"subscribed","subscription_type":"stock","targets":["005930","000660","035720"],"timestamp":"…"}
{"type":"unsubscribed","subscription_type":"stock","targets":["005930"],"timestamp":"…"}
{"type":"pong","timestamp":"…"}
{"type":"price_update","code":"005930","name":"Samsung Electronics","price":73000,"change":1000,"change_percent":1.39,"volume":12345678,"timestamp":"…","sequence":"…"}
{"type":"orderbook_update","code":"005930","bids":[{"price":72900,"quantity":1000}],"asks":[{"price":73000,"quantity":800}],"timestamp":"…","sequence":"…"}
{"type":"market_status","market":"KOSPI","status":"open","timestamp":"…","sequence":"…"}
{"type":"batch","batch_size":"…","messages":"…","timestamp":"…","sequence":"…"}
{"type":"error","code":"…","message":"…","details":"…","timestamp":"…"}
{"type":"subscriptions","subscriptions":"…","rejected":"…","timestamp":"…"}
{"type":"paused","timestamp":"…"}
{"type":"resumed","timestamp":"…"}
{"type":"connection","status":"connected","connection_id":"…","authenticated":true,"user_id":"user-123","epoch":"…","sequence":"…","batch_interval_ms":30,"limits":{"subscriptions":50,"rate_limit":100,"message_bytes":65536},"feeds":"…","timestamp":"…"}
{"type":"authenticated","user_id":"user-123","expires_at":"…","timestamp":"…"}
{"type":"token_refreshed","expires_at":"…","timestamp":"…"}
{"type":"alert","code":"005930","alert_type":"price_above","threshold":75000,"current_price":75100,"message":"Samsung Electronics exceeded 75,000 KRW","timestamp":"…","sequence":"…"}
{"type":"batch","batch_size":5,"messages":"…","timestamp":"…","sequence":"…"}
{"type":"reconnected","session_id":"…","restored_subscriptions":{"stock":["005930","000660"],"market":["KOSPI"]},"missed_messages_count":5,"timestamp":"…"}
{"type":"error","code":"RATE_LIMIT_EXCEEDED","message":"Rate limit exceeded (100 messages/second)","details":{"rate_limit":100},"timestamp":"…"}
{"type":"server_shutdown","reconnect_after_ms":"…","timestamp":"…"}
{"type":"feed_status","feed":"…","status":"stopped","timestamp":"…","sequence":"…"}
{"active_connections":"…","total_subscriptions":"…","subscriptions_by_type":"…","messages_sent":"…","saved_sessions":"…","batching_enabled":"…","batch_interval_ms":"…","queued_messages":"…","rate_limiting_enabled":"…","rate_limit":100}
{"connection_id":"…","user_id":"user-123","connected_at":"…","subscriptions":{"stock":["005930","000660"],"market":["KOSPI"]},"message_count":"…","last_activity":"…"}
{"accepted":"…","first_sequence":"…","last_sequence":"…"}
{"user_id":"user-123","expires_at":"…","tier":"…"}
{"status":"ok","price_feed_running":"…","active_connections":"…","timestamp":"…"}
"""  # noqa: E501


# Those of section 10. A transcript has the time and the members that we have added beside them.
REALTIME_REQUESTS = """
{"type":"ping","data":{}}
{"type":"subscribe_asset","data":{"symbol":"AAPL"}}
{"type":"unsubscribe_asset","data":{"symbol":"AAPL"}}
{"type":"subscribe_portfolio","data":{"portfolio_id":123}}
{"type":"unsubscribe_portfolio","data":{"portfolio_id":123}}
{"type":"auth","data":{"token":"…"}}
"""
REALTIME_ANSWERS = """
{"type":"connection","data":{"status":"connected","connection_id":"…","authenticated":true,"user_id":123}}
{"type":"pong","data":{}}
{"type":"subscribed","data":{"symbol":"AAPL"}}
{"type":"subscribed","data":{"portfolio_id":123}}
{"type":"asset_update","data":{"symbol":"AAPL","price":150.25,"change":2.50,"change_percent":1.69,"volume":50000000,"high":151.00,"low":148.50}}
{"type":"portfolio_update","data":{"portfolio_id":123,"name":"Growth Portfolio","total_value":50000.00,"daily_change":125.50,"daily_change_percent":0.25}}
{"type":"error","data":{"code":"FORBIDDEN","message":"…","details":{}}}
{"websocket_url":"…","connection_info":{"protocol":"…","host":"…","path":"/ws/realtime/","authentication":"jwt"},"message_types":{"ping":"Health check message","subscribe_asset":"Subscribe to asset price updates"}}
{"service_status":"running","global_stats":{"total_connections":"…","authenticated_users":"…","portfolio_subscriptions":"…","asset_subscriptions":"…"},"user_stats":{"connection_count":"…","subscriptions":{"portfolios":[123],"assets":["AAPL","GOOGL","MSFT"]}}}
"""  # noqa: E501
PATHS = {"screener": "/v1/ws", "realtime": "/ws/realtime/"}

FLOOD = 150


class Player:
    """Acts one transcript out with `websockets` and plain HTTP requests, comparing as it goes."""

    def __init__(self, server: Server, script: Transcript) -> None:
        self.server = server
        self.script = script
        self.known: Known = {}
        self.client: Client | None = None
        self.flooded: str | None = None
        self.answer = ""

    async def play(self) -> None:
        steps = self.script.steps
        try:
            if steps[0].kind not in ("connect", "ask"):
                await self._connect("")
            for number, step in enumerate(steps, 1):
                await self._take(step, f"{self.script.name}, step {number}")
        finally:
            await self._disconnect()

    async def _take(self, step: Step, where: str) -> None:
        match step.kind:
            case "send" | "send_text":
                await self._send(step.text)
            case "expect":
                transcript.match(step.text, await self._receive(), self.known, where)
            case "flood":
                for _ in range(FLOOD):
                    await self._send(step.text)
                while json.loads(text := await self._receive())["type"] == "pong":
                    pass
                self.flooded = text
            case "connect":
                await self._disconnect()
                await self._connect(step.text)
            case "closed":
                assert self.client is not None
                with pytest.raises(ConnectionClosed) as closed:
                    await self.client.receive()
                assert closed.value.rcvd is not None
                assert str(closed.value.rcvd.code) == step.text, where
                self.client = None
            case "ask":
                self.answer = await asyncio.to_thread(self._ask, transcript.decode(step.text))
            case "answer":
                body = transcript.decode(self.answer)
                shown = transcript.compact(transcript.part_of(body, transcript.decode(step.text)))
                transcript.match(step.text, shown, self.known, f"{where}\nanswer   {self.answer}")
            case "stop":
                self.server.signal(signal.SIGTERM)

    async def _connect(self, query: str) -> None:
        url = self.server.url_of(PATHS[self.script.channel]) + self.script.filled(query, self.known)
        self.client = Client(await connect(url, proxy=None, ssl=self.server.tls))

    async def _disconnect(self) -> None:
        if self.client is not None:
            await self.client.connection.close()
            self.client = None

    async def _send(self, text: str) -> None:
        assert self.client is not None
        await self.client.connection.send(self.script.filled(text, self.known))

    async def _receive(self) -> str:
        if self.flooded is not None:
            text, self.flooded = self.flooded, None
            return text
        assert self.client is not None
        return await self.client.receive_text()

    def _ask(self, request: Message) -> str:
        headers = {"Content-Type": "application/json"}
        if "bearer" in request:
            headers["Authorization"] = f"Bearer {self.script.filled(request['bearer'], self.known)}"
        connection = self.server.http_connection()
        try:
            body = transcript.compact(request["body"]).encode() if "body" in request else None
            path = self.script.filled(request["path"], self.known)
            connection.request(request["method"], path, body, headers)
            response = connection.getresponse()
            text = response.read().decode()
            return f'{{"status":{response.status},"body":{text or "null"}}}'
        finally:
            connection.close()


@pytest.mark.parametrize("name", transcript.names())
async def test_transcript(
    shared_server: StartServer, over: dict[str, str], name: str, tmp_path: Path
) -> None:
    script = transcript.load(name)
    settings = script.settings | over
    if script.imports:
        settings["database"] = f"sqlite:///{tmp_path}/fastws.db"
        for kind, lines in script.imports.items():
            (tmp_path / kind).write_text("\n".join(lines))
            done = run(tmp_path, "import", kind, kind, database=settings["database"])
            assert done.returncode == 0, done.stderr
    server = shared_server(*script.flags, **settings)
    if script.feed_status is not None:
        server.until_feed_is(script.feed_status)
    await Player(server, script).play()


def test_transcripts_hold_every_example() -> None:
    check_examples("screener", REQUESTS, ANSWERS)
    check_examples("realtime", REALTIME_REQUESTS, REALTIME_ANSWERS)


def check_examples(channel: str, requests: str, expected_answers: str) -> None:
    scripts = [transcript.load(name) for name in transcript.names()]
    scripts = [script for script in scripts if script.channel == channel]
    sent = [step.text for script in scripts for step in script.steps if step.kind in ("send", "send_text")]
    # Ids may stand everywhere, tokens and session ids are other ones each time.
    sent += [re.sub(r'"<[^>"]+>"', '"…"', re.sub(r',"id":[^,}]+', "", text)) for text in sent]
    assert [example for example in requests.split("\n") if example and example not in sent] == []
    expected = [transcript.decode(text) for script in scripts for text in script.expected]
    answers = [message for message in expected if isinstance(message, dict)]
    bodies = [answer["body"] for answer in answers if "body" in answer]
    answers += [item for body in bodies for item in (body if isinstance(body, list) else [body]) if item]
    answers += [inner for message in answers for inner in message.get("messages", ())]
    for example in map(transcript.decode, filter(None, expected_answers.split("\n"))):
        assert any(holds(message, example) for message in answers), example


def holds(message: Any, example: Any) -> bool:
    """Whether a message is that of the contract.

    What we have added may stand between the members of the example, but these keep their order.
    """
    if isinstance(message, dict) and isinstance(example, dict):
        return list(example) == [key for key in message if key in example] and all(
            holds(message[key], value) for key, value in example.items()
        )
    return example in ("…", message)


def test_transcripts_match_strictly() -> None:
    known = {"sequence": 7}
    expected = '{"sequence":"<sequence+1>","timestamp":"<timestamp>","price":1.50}'
    text = '{"sequence":8,"timestamp":"2025-11-11T09:30:00.000Z","price":1.50}'
    transcript.match(expected, text, known, "here")
    for wrong in (
        text.replace("8", "9"),
        text.replace("1.50", "1.5"),
        text.replace(".000Z", "Z"),
        text + " ",
        re.sub(r'^\{("sequence":8),(.*?),', r"{\2,\1,", text),
    ):
        with pytest.raises(AssertionError, match="here"):
            transcript.match(expected, wrong, known, "here")
