"""The examples of the wire contract, byte for byte, over a real socket to a real server."""

from __future__ import annotations

import json
import re

import pytest
from websockets.asyncio.client import connect

from tests import transcript
from tests.clients import Client
from tests.conftest import StartServer
from tests.transcript import Transcript

# The examples of sections 3 and 4 as they are written there, those that begin with a later stage left out. "…" stands
# for anything, and so do the members of a batch.
REQUESTS = """
{"type":"subscribe","subscription_type":"stock","targets":["005930","000660","035720"]}
{"type":"unsubscribe","subscription_type":"stock","targets":["005930"]}
{"type":"ping"}
{"type":"list_subscriptions"}
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
"""  # noqa: E501


async def play(url: str, script: Transcript) -> list[str]:
    """Act a transcript out with `websockets`; returns the texts received."""
    received = []
    async with connect(url, proxy=None) as connection:
        client = Client(connection)
        for step in script.steps:
            if step.is_sent:
                await connection.send(step.text)
            else:
                received.append(await client.receive_text())
    return received


@pytest.mark.parametrize("name", transcript.names())
async def test_transcript(shared_server: StartServer, name: str) -> None:
    script = transcript.load(name)
    server = shared_server(*script.flags, **script.settings)
    server.until_feed_is(script.feed_status)
    script.compare(await play(server.url, script))


def test_transcripts_hold_every_example() -> None:
    scripts = [transcript.load(name) for name in transcript.names()]
    sent = {step.text for script in scripts for step in script.steps if step.is_sent}
    expected = [json.loads(text) for script in scripts for text in script.expected]
    assert [example for example in REQUESTS.split("\n") if example and example not in sent] == []
    for example in map(json.loads, filter(None, ANSWERS.split("\n"))):
        # What we have added may stand between the members of the example, but these keep their order.
        assert any(
            list(example) == [key for key in message if key in example]
            and all(value in ("…", message[key]) for key, value in example.items())
            for message in expected
        ), example


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
