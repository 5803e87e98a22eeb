"""The AsyncAPI document: it is one, it is served, and what real servers say and accept is what it says."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from fastws._version import __version__
from fastws.errors import CloseCode, ErrorCode
from fastws.server.asyncapi import document
from tests import transcript
from tests.clients import client
from tests.conftest import StartServer
from tests.contract import Contract, Json, exchanged
from tests.serving import ROOT, Server, missing, until

SCHEMA = ROOT / "tests" / "node_modules" / "@asyncapi" / "specs" / "schemas" / "3.0.0.json"


def contract_of(channel: str) -> Contract:
    # As it leaves the server: tuples and enumerations have become what JSON has.
    return Contract(json.loads(msgspec.json.encode(document())), channel)


@pytest.fixture(scope="module")
def contract() -> Contract:
    return contract_of("screener")


@pytest.fixture(scope="module")
def realtime() -> Contract:
    return contract_of("realtime")


@pytest.fixture
def target(shared_server: StartServer) -> Server:
    return shared_server("--feed", "sim", simulator_seed=1, simulator_rate=500)


# The document.


def ask(server: Server, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = server.http_connection()
    try:
        connection.request("GET", "/v1/asyncapi.json", headers=headers)
        response = connection.getresponse()
        return (
            response.status,
            {name.lower(): value for name, value in response.getheaders()},
            response.read(),
        )
    finally:
        connection.close()


def test_the_document_is_served_and_need_not_be_sent_twice(target: Server) -> None:
    status, headers, body = ask(target)
    assert (status, headers["content-type"]) == (200, "application/json; charset=utf-8")
    assert headers["cache-control"] == "no-cache"
    assert json.loads(body) == json.loads(msgspec.json.encode(document()))
    for known in (headers["etag"], f'"other", {headers["etag"]}', "*"):
        status, again, body = ask(target, **{"If-None-Match": known})
        assert (status, again["etag"], body) == (304, headers["etag"], b"")
    assert ask(target, **{"If-None-Match": '"other"'})[0] == 200


def test_the_document_is_valid_asyncapi(contract: Contract) -> None:
    if not SCHEMA.exists():
        missing(
            "the npm package @asyncapi/specs is not installed; `make tests/node_modules/.ready` installs it"
        )
    validator = Draft7Validator(json.loads(SCHEMA.read_text()))
    assert [f"{flaw.json_path}: {flaw.message}" for flaw in validator.iter_errors(contract.document)] == []
    for spoil in (
        lambda wrong: wrong["operations"]["ping"].update(action="ask"),
        lambda wrong: wrong["channels"]["screener"]["bindings"]["ws"].update(method="PUT"),
        lambda wrong: wrong["components"]["schemas"]["Level"].update(type="thing"),
        lambda wrong: wrong["components"]["securitySchemes"]["query"].pop("name"),
        lambda wrong: wrong.pop("info"),
    ):
        wrong = copy.deepcopy(contract.document)
        spoil(wrong)
        assert not validator.is_valid(wrong)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_every_reference_leads_somewhere(contract: Contract) -> None:
    found = set(references(contract.document))
    for reference in found:
        place: Any = contract.document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
    # And nothing is described that nothing refers to.
    components = contract.document["components"]
    assert {f"#/components/schemas/{name}" for name in components["schemas"]} <= found
    assert {f"#/components/messages/{name}" for name in components["messages"]} <= found
    for name, channel in contract.document["channels"].items():
        assert {f"#/channels/{name}/messages/{tag}" for tag in channel["messages"]} <= found


def test_the_schemas_are_schemas_and_their_examples_fit(contract: Contract, realtime: Contract) -> None:
    components = contract.document["components"]
    for schema in components["schemas"].values():
        Draft202012Validator.check_schema(schema)
        for field in schema.get("properties", {}).values():
            whole = {**field, "components": components}
            assert all(Draft202012Validator(whole).is_valid(example) for example in field.get("examples", []))
    for message in components["messages"].values():
        assert message["summary"]
    for each in (contract, realtime):
        assert set(each.messages) == each.requests | each.answers
        for name, message in each.messages.items():
            assert message["examples"]
            for example in message["examples"]:
                assert each.flaws(example["payload"], [name]) == []


def test_the_tables_of_codes_are_in_it(contract: Contract) -> None:
    channel = contract.document["channels"]["screener"]
    other = contract.document["channels"]["realtime"]
    assert contract.document["info"]["version"] == __version__
    assert channel["address"] == "/v1/ws"
    assert other["address"] == "/ws/realtime/"
    assert all(channel[table] == other[table] for table in ("x-error-codes", "x-close-codes"))
    assert list(other["bindings"]["ws"]["query"]["properties"]) == ["token", "compression"]
    assert [row["code"] for row in channel["x-error-codes"]] == list(ErrorCode)
    assert [row["code"] for row in channel["x-close-codes"]] == list(CloseCode)
    codes = contract.document["components"]["schemas"]["ErrorCode"]
    assert set(codes["enum"]) == set(ErrorCode)
    assert all(code.meaning in codes["description"] for code in ErrorCode)
    assert list(channel["bindings"]["ws"]["query"]["properties"]) == [
        "token", "session_id", "last_sequence", "epoch", "compression",
    ]  # fmt: skip


# What is said, and what is accepted.


@pytest.mark.parametrize("channel", ["screener", "realtime"])
def test_golden_transcripts_keep_the_contract(channel: str) -> None:
    contract = contract_of(channel)
    seen = set()
    for name in transcript.names():
        if transcript.load(name).channel != channel:
            continue
        sent, expected = exchanged(transcript.load(name))
        assert sent or name.endswith("shutdown")
        seen |= {contract.check(text)["type"] for text in expected}
        refused = refused_requests(transcript.load(name))
        for text in sent:
            try:
                message = json.loads(text)
            except ValueError:
                assert text in refused
                continue
            flaws = contract.flaws(message, contract.requests)
            assert bool(flaws) == (text in refused), (name, text, flaws)
            if not flaws:
                seen.add(message["type"])
    # An overflow is not the same twice, and no symbol falls silent so soon; those of a live server are looked at below,
    # and in the test of freshness.
    assert seen == (contract.requests | contract.answers) - {"overflow", "symbol_status"}


def refused_requests(script: transcript.Transcript) -> set[str]:
    """The texts that are answered by `INVALID_MESSAGE`."""
    refused = set()
    for step, answer in zip(script.steps, script.steps[1:], strict=False):
        # No schema says which fields do not go together with this one.
        if '"code":"INVALID_MESSAGE"' in answer.text and '"mode":"all"' not in step.text:
            refused.add(step.text)
    return refused


async def test_live_sessions_keep_the_contract(contract: Contract, target: Server) -> None:
    seen = set()
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(client(target.url)) for _ in range(3)]
        everything, newest, wrong = connections
        await everything.subscribe("stock", "005930", "000660", "AAPL", id=1)
        await newest.subscribe("market", "KOSPI", "NASDAQ", "nowhere", max_rate=20)
        await newest.subscribe("sector", "IT", channels=["price"])
        for text in (
            "",
            "[]",
            '{"type":5}',
            '{"type":"subscribe","id":9}',
            '{"type":"ping","id":[]}',
            "{" * 5000,
        ):
            await wrong.connection.send(text)
        await wrong.subscribe("stock", "nowhere")
        await wrong.send(type="reconnect", session_id="none")
        await wrong.send(type="auth", token="none")
        for connection, n in ((everything, 150), (newest, 50), (wrong, 9)):
            assert (
                contract.flaws(json.loads(json.dumps(connection.greeting, default=float)), ["connection"])
                == []
            )
            for _ in range(n):
                seen |= types(contract.check(await connection.receive_text()))
    assert {"batch", "subscribed", "price_update", "orderbook_update", "error"} <= seen


def types(message: Json) -> set[str]:
    return {message["type"], *(inner["type"] for inner in message.get("messages", ()))}


async def test_a_whole_replay_keeps_the_contract(contract: Contract, server: StartServer) -> None:
    target = server("--feed", "replay:sample", "--replay-speed", "20", "--replay-loop")
    n, seen = 0, set()
    async with client(target.url) as connection:
        await connection.send(
            type="set_subscriptions", subscriptions={"market": ["KOSPI"], "stock": ["005930"]}
        )
        while n < 100:
            message = contract.check(await connection.receive_text())
            n += len(message.get("messages", [message]))
            seen |= types(message)
    assert {"price_update", "orderbook_update"} <= seen


async def test_an_overflow_keeps_the_contract(contract: Contract, server: StartServer) -> None:
    target = server("--feed", "sim", simulator_rate=5000, outbox_soft_bytes=16384)

    def listen() -> set[str]:
        seen = set()
        with target.raw_client(receive_buffer=4096) as raw:
            raw.send_message(type="subscribe", subscription_type="stock", targets=["005930", "000660"])
            until(lambda: target.stats()["updates"]["lost"] > 100, "losses", 30)
            while "overflow" not in seen:
                message = contract.check(json.dumps(raw.read_message()))
                seen.add(message["type"])
        return seen

    assert "batch" in await asyncio.to_thread(listen)


PRICE: Json = {
    "type": "price_update", "code": "005930", "name": "Samsung Electronics", "price": 73000,
    "timestamp": "2025-11-11T09:30:00.000Z", "sequence": 12345, "seq": 1,
}  # fmt: skip
BATCH: Json = {
    "type": "batch", "batch_size": 1, "messages": [PRICE], "timestamp": PRICE["timestamp"], "sequence": 1,
}  # fmt: skip
ERROR: Json = {
    "type": "error", "code": "FORBIDDEN", "error_code": "FORBIDDEN", "message": "", "details": {},
    "timestamp": PRICE["timestamp"],
}  # fmt: skip


@pytest.mark.parametrize(
    "message",
    [
        PRICE | {"type": "price"},
        PRICE | {"price": "73000"},
        PRICE | {"volume": 1.5},
        PRICE | {"seq": 0},
        PRICE | {"timestamp": "2025-11-11T09:30:00Z"},
        PRICE | {"stale": False},
        {key: value for key, value in PRICE.items() if key != "sequence"},
        BATCH | {"snapshot": False},
        BATCH | {"messages": [PRICE | {"code": 5930}]},
        BATCH | {"messages": [{"type": "pong", "timestamp": PRICE["timestamp"]}]},
        ERROR | {"code": "UNHEARD_OF"},
        {key: value for key, value in ERROR.items() if key != "details"},
        ERROR | {"id": [1]},
        [],
        None,
    ],
)
def test_what_breaks_the_contract_is_found(contract: Contract, message: Any) -> None:
    assert contract.flaws(message, contract.answers)
    with pytest.raises(AssertionError):
        contract.check(json.dumps(message))


@pytest.mark.parametrize("message", [PRICE, BATCH, ERROR], ids=lambda message: message["type"])
def test_members_that_nobody_knows_are_allowed(contract: Contract, message: Json) -> None:
    assert contract.flaws(message | {"note": {"anything": [1]}}, contract.answers) == []
