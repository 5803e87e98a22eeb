"""Publishing over HTTP: what is done, and what a wrong request is told."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest
from api_site import ADMIN, PRICE, SAMSUNG, bearer, site
from listening import scenario

from fastws._market import BookUpdate, Instrument, MarketStatus, PriceUpdate, encode_screener
from fastws.feeds.lines import decode_body
from fastws.market.alert_messages import Alert, encode_alert
from fastws.market.instruments import MAX_INSTRUMENTS
from fastws.server.http import MAX_BODY_SIZE
from fastws.server.publishing import MAX_UPDATES


@scenario
async def test_publish_one_and_many() -> None:
    async with site() as server:
        market = server.view.market
        answer = await server.publish(PRICE)
        assert answer == {"accepted": 1, "first_sequence": 1, "last_sequence": 1}
        answer = await server.publish(
            [
                {**PRICE, "price": 73100},
                {
                    "type": "orderbook_update",
                    "code": "NEW1",
                    "bids": [{"price": 1.5, "quantity": 2}],
                    "asks": [],
                },
                {"type": "market_status", "market": "KOSPI", "status": "open", "note": "x"},
                {"type": "price_update", "code": "NEW1", "name": "Not This", "price": 1},
            ]
        )
        assert answer == {"accepted": 4, "first_sequence": 2, "last_sequence": 5}
        price = market.last_price("005930")
        assert price is not None
        assert (price.price, price.instrument) == (73100, SAMSUNG)
        book = market.last_book("NEW1")
        new = market.last_price("NEW1")
        assert book is not None
        assert new is not None
        assert new.instrument is book.instrument is market.instrument("NEW1")
        assert new.instrument.name == "NEW1"
        body = market.stock_body("NEW1")
        assert body is not None
        assert json.loads(body)["sequence"] == 5
        topic = server.view.hub.find_topic("market", "KOSPI")
        assert topic is not None
        status = next(channel for channel in topic.channels if channel.name == "market_status").last_payload
        assert encode_screener(status, 0) == (
            b'{"type":"market_status","market":"KOSPI","status":"open","note":"x",'
            b'"timestamp":"1970-01-01T00:00:00.000Z"'
        )


@scenario
async def test_members_are_passed_through_as_they_are_written() -> None:
    async with site() as server:
        await server.publish(
            b' { "type" : "price_update", "code" : "AAPL", "price" : 150.250, "change" : -0.50,\r\n'
            b' "venue": "X", "event_time": "2025-11-11T18:30:00+09:00", "trade_id" : 9223372036854775807,\n'
            b' "big": 18446744073709551616, "meta" : { "a b" : [ 1.10 , null, true ] , "s": " \\" \\u00e9 " },'
            b' "exp": 1E+5, "\xec\x82\xbc": "\xec\x84\xb1"}\n'
        )
        body = server.view.market.stock_body("AAPL")
        assert body is not None
        assert body.startswith(
            b'{"type":"price_update","code":"AAPL","name":"AAPL","price":150.250,"change":-0.50,"venue":"X",'
            b'"event_time":"2025-11-11T09:30:00.000Z","trade_id":9223372036854775807,"big":18446744073709551616,'
            b'"meta":{"a b":[1.10,null,true],"s":" \\" \\u00e9 "},"exp":1E+5,"\xec\x82\xbc":"\xec\x84\xb1",'
            b'"timestamp":"'
        )
        assert body.endswith(b'Z","sequence":1,"seq":1}')


ALERT: dict[str, Any] = {
    "type": "alert",
    "user_id": "user-1",
    "code": "005930",
    "alert_type": "price_above",
    "threshold": 75000,
    "current_price": 75100,
    "message": "Samsung Electronics exceeded 75,000 KRW",
}
BOOK = {"type": "orderbook_update", "code": "NEW2", "bids": [], "asks": []}
NEW = {"type": "price_update", "code": "NEW1", "price": 1}


@pytest.mark.parametrize(
    ("element", "field"),
    [
        ({}, "type"),
        ({"header": {}}, "type"),
        ({**PRICE, "type": None}, "type"),
        ({**PRICE, "type": 1}, "type"),
        ({**PRICE, "type": "trade"}, "type"),
        ({**PRICE, "type": "feed_status"}, "type"),
        ({"type": "price_update", "price": 1}, "code"),
        ({**PRICE, "code": 5930}, "code"),
        ({**PRICE, "code": ""}, "code"),
        ({**PRICE, "code": "a b"}, "code"),
        ({**PRICE, "code": "x" * 65}, "code"),
        ({"type": "price_update", "code": "NEW2"}, "price"),
        ({**PRICE, "price": None}, "price"),
        ({**PRICE, "price": "73000"}, "price"),
        ({**PRICE, "price": True}, "price"),
        ({**PRICE, "price": [1]}, "price"),
        ({**PRICE, "price": 2**63}, "price"),
        ({**PRICE, "volume": 1.5}, "volume"),
        ({**PRICE, "change": "x"}, "change"),
        ({**PRICE, "venue": 1}, "venue"),
        ({**PRICE, "event_time": "2025-11-11T09:30:00"}, "event_time"),
        ({**PRICE, "timestamp": "2025-11-11T09:30:00Z"}, "timestamp"),
        ({**PRICE, "sequence": 1}, "sequence"),
        ({**PRICE, "seq": None}, "seq"),
        ({**PRICE, "snapshot": True}, "snapshot"),
        ({**BOOK, "sequence": 1}, "sequence"),
        ({**BOOK, "bids": None}, "bids"),
        ({"type": "orderbook_update", "code": "NEW2", "bids": []}, "asks"),
        ({**BOOK, "asks": [{"price": 1}]}, "asks[0].quantity"),
        ({**BOOK, "asks": [{"price": 1, "quantity": 1}, []]}, "asks[1]"),
        ({**BOOK, "bids": [{"price": 1, "quantity": 1}, {"price": 1, "quantity": "x"}]}, "bids[1].quantity"),
        ({**BOOK, "bids": [{"price": 1, "quantity": 1}] * 11}, "bids"),
        ({"type": "market_status", "status": "open"}, "market"),
        ({"type": "market_status", "market": "KOSPI"}, "status"),
        ({"type": "market_status", "market": "", "status": "open"}, "market"),
        ({"type": "market_status", "market": "KOPSI", "status": "open"}, "market"),
        ({"type": "market_status", "market": "KOSPI", "status": "open", "seq": 1}, "seq"),
        ([], None),
        ([PRICE], None),
        (None, None),
        (1, None),
    ],
)
@scenario
async def test_a_wrong_element_is_named_and_nothing_is_published(element: object, field: str | None) -> None:
    async with site() as server:
        error = await server.refused([NEW, BOOK, element, {"type": "also wrong"}])
        assert error["details"] == ({"index": 2} if field is None else {"index": 2, "field": field})
        assert error["message"].startswith("element 2: " + (field or ""))
        if isinstance(element, dict):
            error = await server.refused(element)
            assert error["details"] == {"index": 0, "field": field}
        assert server.view.market.instrument("NEW1") is None


@scenario
async def test_a_member_of_the_server_is_found_however_it_is_written() -> None:
    async with site() as server:
        error = await server.refused(b'{"type":"price_update","code":"005930","price":1,"\\u0073equence":7}')
        assert error["details"]["field"] == "sequence"


@scenario
async def test_alerts_are_published_among_the_others() -> None:
    async with site() as server:
        answer = await server.publish(
            b'[{"type":"price_update","code":"005930","price":1},'
            b'{"type":"alert","user_id":"user-1","code":"005930","alert_type":"price_above","threshold":75000.50,'
            b'"current_price":75100,"message":"Samsung \xec\x82\xbc \\"up\\"","news_id":18446744073709551616,'
            b'"meta":{"k":[1.10]}},'
            b'{"\\u0074ype":"alert","user_id":123,"code":"NEW9","alert_type":"halt","threshold":0,'
            b'"current_price":-1.0,"message":"m"},'
            b'{"type":"price_update","code":"005930","price":2}]'
        )
        assert answer == {"accepted": 4, "first_sequence": 1, "last_sequence": 4}
        (user, first), (other, second) = server.view.told
        assert (user, other) == ("user-1", "123")
        assert encode_alert(first, 0) == (
            b'{"type":"alert","code":"005930","alert_type":"price_above","threshold":75000.50,"current_price":75100,'
            b'"message":"Samsung \xec\x82\xbc \\"up\\"","news_id":18446744073709551616,"meta":{"k":[1.10]},'
            b'"timestamp":"1970-01-01T00:00:00.000Z"'
        )
        assert second == Alert("NEW9", "halt", 0, Decimal("-1.0"), "m")
        # It is no instrument for that.
        assert server.view.market.instrument("NEW9") is None
        assert (await server.publish({**ALERT, "user_id": "7"}))["last_sequence"] == 5


@pytest.mark.parametrize(
    ("change", "field"),
    [
        *(({name: None}, name) for name in ("user_id", "code", "alert_type", "message")),
        *(({name: ...}, name) for name in ALERT if name != "type"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": "x" * 256}, "user_id"),
        ({"user_id": "a\nb"}, "user_id"),
        ({"user_id": True}, "user_id"),
        ({"user_id": 1.5}, "user_id"),
        ({"user_id": ["user-1"]}, "user_id"),
        ({"code": 5930}, "code"),
        ({"code": "a b"}, "code"),
        ({"alert_type": ""}, "alert_type"),
        ({"alert_type": 1}, "alert_type"),
        ({"threshold": "75000"}, "threshold"),
        ({"threshold": None}, "threshold"),
        ({"threshold": 1e300}, "threshold"),
        ({"current_price": True}, "current_price"),
        ({"current_price": 2**63}, "current_price"),
        ({"alert_type": "x" * 65}, "alert_type"),
        ({"message": 1}, "message"),
        ({"message": ""}, "message"),
        ({"message": "시" * 1001}, "message"),
        ({"timestamp": "2025-11-11T09:30:00Z"}, "timestamp"),
        ({"sequence": 1}, "sequence"),
    ],
)
@scenario
async def test_a_wrong_alert_is_named_and_nothing_is_published(change: dict[str, Any], field: str) -> None:
    element = {name: value for name, value in {**ALERT, **change}.items() if value is not ...}
    async with site() as server:
        error = await server.refused([NEW, element, PRICE])
        assert error["details"] == {"index": 1, "field": field}
        assert error["message"].startswith(f"element 1: {field}: ")
        assert server.view.told == []


@scenario
async def test_the_message_of_an_alert_is_bounded() -> None:
    async with site() as server:
        await server.publish({**ALERT, "alert_type": "x" * 64, "message": "시" * 1000})
        assert [alert.message for _, alert in server.view.told] == ["시" * 1000]
        error = await server.refused({**ALERT, "message": "m" * 5000})
        assert error["message"].endswith("message: has 5000 characters, at most 1000 fit")


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"[]", b"1", b'"x"', b"null", b"{", b"[{]", b'{"type":"price_update"} {}', b"\xef\xbb\xbf{}",
     b'{"type":"price_update","code":"005930","price":1,"x":"\xff"}', b"[" * 100_000,
     b'{"type":"price_update","code":"005930","price":1,"x":"\\ud800"}',
     b'{"type":"price_update","code":"005930","price":1,"x":NaN}',
     b'{"type":"price_update","code":"005930","price":01}',
     b'{"type":"price_update","code":"005930","price":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"],
    ids=range(16),
)  # fmt: skip
@scenario
async def test_bodies_that_are_no_updates(body: bytes) -> None:
    async with site() as server:
        await server.refused(body)
        assert (await server.publish(PRICE))["accepted"] == 1


@scenario
async def test_the_largest_body_and_a_larger_one() -> None:
    async with site() as server:
        element = json.dumps(PRICE | {"note": "x" * 200}).encode()
        n = (MAX_BODY_SIZE - 2) // (len(element) + 1)
        body = b"[" + b",".join([element] * n) + b"]"
        body += b" " * (MAX_BODY_SIZE - len(body))
        answer = await server.publish(body)
        assert answer == {"accepted": n, "first_sequence": 1, "last_sequence": n}
        error = await server.error("POST", "/v1/publish", body + b" ", headers=bearer(ADMIN), status=413)
        assert error["message"] == f"the body is over {MAX_BODY_SIZE} bytes"
        assert server.view.hub.sequence == n


@scenario
async def test_a_request_has_so_many_elements() -> None:
    async with site() as server:
        assert (await server.publish([PRICE] * MAX_UPDATES))["accepted"] == MAX_UPDATES
        for body, n in (([PRICE] * (MAX_UPDATES + 1), MAX_UPDATES + 1), ([{}] * 300_000, 300_000)):
            compact = json.dumps(body, separators=(",", ":")).encode()
            error = await server.error("POST", "/v1/publish", compact, headers=bearer(ADMIN), status=413)
            assert error["code"] == "LIMIT_EXCEEDED"
            assert error["details"] == {"limit": MAX_UPDATES, "current": n}
            assert str(MAX_UPDATES) in error["message"]
        compact = json.dumps([{}] * 7 + [1] * 400_000, separators=(",", ":")).encode()
        error = await server.error("POST", "/v1/publish", compact, headers=bearer(ADMIN), status=400)
        assert (error["message"], error["details"]) == ("element 7: expected an object", {"index": 7})
        assert server.view.hub.sequence == MAX_UPDATES


@scenario
async def test_publishing_makes_so_many_instruments() -> None:
    async with site() as server:
        server.view.market.instruments.extend(Instrument(f"I{i}") for i in range(MAX_INSTRUMENTS - 2))
        new = [{**PRICE, "code": "N1"}, {**PRICE, "code": "N1"}, PRICE, {**PRICE, "code": "N2"}]
        error = await server.error("POST", "/v1/publish", new, headers=bearer(ADMIN), status=403)
        assert error["code"] == "LIMIT_EXCEEDED"
        assert error["details"] == {"limit": MAX_INSTRUMENTS, "current": MAX_INSTRUMENTS - 1}
        assert server.view.hub.sequence == 0
        # What there is already can be published on.
        await server.publish(new[:3])
        assert len(server.view.market.instruments) == MAX_INSTRUMENTS
        await server.error("POST", "/v1/publish", new, headers=bearer(ADMIN), status=403)
        assert (await server.publish(new[:3]))["last_sequence"] == 6


@scenario
async def test_the_sequences_of_a_request_have_no_gaps_while_others_publish() -> None:
    async with site() as server:
        is_over = False

        async def feed() -> None:
            while not is_over:
                server.view.market.publish_price(PriceUpdate(SAMSUNG, 1))
                await asyncio.sleep(0)

        feeding = asyncio.create_task(feed())
        element = {"type": "price_update", "code": "NEW1", "price": 2}
        answer = await server.publish([element] * 5000)
        is_over = True
        await feeding
        assert answer["last_sequence"] - answer["first_sequence"] == 4999
        assert answer["first_sequence"] > 5  # the feed went on while the request was read


def test_a_status_is_read_with_what_the_server_does_not_know() -> None:
    update = decode_body(
        b'{"type":"market_status","market":"KOSPI","status":"open","venue":"KRX","n":1.10,"sequence":3}',
        Instrument,
    )
    assert isinstance(update, MarketStatus)
    assert update.extra == b'"venue":"KRX","n":1.10'
    assert isinstance(decode_body(json.dumps(BOOK).encode(), Instrument), BookUpdate)
