"""Which price fires which alert rule, that it fires once, and what users are told."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alert_desk import APPLE, MS, SAMSUNG, Desk, price, until
from hypothesis import given, settings
from hypothesis import strategies as st

from fastws._alerts import ALERT_TYPES, AlertIndex
from fastws._market import Instrument, PriceUpdate
from fastws.clock import wall_ms
from fastws.market import alert_messages
from fastws.market.alert_messages import Alert, alert_message, encode_alert, encode_rule
from fastws.market.alert_store import Firing, Rule
from fastws.market.alerts import AlertError, AlertLimitError


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = await Desk().open()
    yield desk
    await desk.close()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/fastws.db"


# Which price fires which rule.

CASES = [
    ("price_above", 75000, {"price": 75000}, False),
    ("price_above", 75000, {"price": 75001}, True),
    ("price_above", 75000, {"price": -75001}, False),
    ("price_above", "75000.50", {"price": "75000.5"}, False),
    ("price_above", "75000.50", {"price": "75000.500000000000"}, False),
    ("price_above", "75000.50", {"price": "75000.5000000000001"}, True),
    ("price_above", "0.1", {"price": "0.100000000000000001"}, True),
    ("price_above", "9223372036854775806", {"price": "9223372036854775807"}, True),
    ("price_above", "9223372036854775807", {"price": "9.223372036854775807"}, False),
    ("price_below", 75000, {"price": 75000}, False),
    ("price_below", 75000, {"price": 74999}, True),
    ("price_below", 75000, {"price": "74999.99"}, True),
    ("price_below", "0.000000000000000001", {"price": 0}, True),
    ("price_below", "0.000000000000000001", {"price": "-0.000000000000000001"}, True),
    ("change_percent_above", 5, {"price": 1, "change_percent": "5.00"}, False),
    ("change_percent_above", 5, {"price": 1, "change_percent": "5.01"}, True),
    ("change_percent_above", "-0.3", {"price": 1, "change_percent": "-0.30"}, False),
    ("change_percent_above", "-0.3", {"price": 1, "change_percent": "-0.29"}, True),
    ("change_percent_above", "-0.3", {"price": 1, "change_percent": "-1.29"}, False),
    ("change_percent_above", "-0.3", {"price": 1, "change_percent": "0.00"}, True),
    ("change_percent_above", 5, {"price": 100}, False),
    ("change_percent_below", "-2.5", {"price": 1, "change_percent": "-2.50"}, False),
    ("change_percent_below", "-2.5", {"price": 1, "change_percent": "-2.51"}, True),
    ("change_percent_below", "-2.5", {"price": 1, "change_percent": "-3"}, True),
    ("change_percent_below", "-2.5", {"price": 1, "change_percent": "2.60"}, False),
    ("change_percent_below", "2.5", {"price": 1, "change_percent": "-0.01"}, True),
    ("change_percent_below", 5, {"price": 1}, False),
    ("volume_above", 1_000_000, {"price": 1, "volume": 1_000_000}, False),
    ("volume_above", 1_000_000, {"price": 1, "volume": 1_000_001}, True),
    ("volume_above", 1_000_000, {"price": 1, "trade_volume": 1_000_001}, False),
    ("volume_above", 0, {"price": 1, "volume": 1}, True),
    ("volume_above", 0, {"price": 1}, False),
]


@pytest.mark.parametrize(("alert_type", "threshold", "members", "fires"), CASES)
async def test_what_fires(
    desk: Desk, alert_type: str, threshold: Any, members: dict[str, Any], fires: bool
) -> None:
    rule = await desk.book.add("kim", "005930", alert_type, threshold)
    update = PriceUpdate(SAMSUNG, **members)
    desk.book.on_price(update)
    assert desk.book.n_waiting == (0 if fires else 1)
    told = await desk.settle()
    assert [(user_id, alert.alert_type) for user_id, alert in told] == (
        [("kim", alert_type)] if fires else []
    )
    (stored,) = await desk.book.list("kim")
    if fires:
        assert (stored.fired_price, str(stored.fired_price)) == (update.price, str(update.price))
        assert stored.fired_ms is not None
        assert abs(stored.fired_ms - wall_ms()) < 60_000
        assert stored.threshold == rule.threshold
    else:
        assert stored == rule


async def test_a_rule_fires_once(desk: Desk) -> None:
    await desk.book.add("kim", "005930", "price_above", 75000)
    for number in (75100, 75200, 74000, 75300):
        desk.book.on_price(price(number))
    (told,) = await desk.settle()
    assert told == (
        "kim",
        Alert("005930", "price_above", 75000, 75100, "Samsung Electronics exceeded 75,000 KRW", rule_id=1),
    )
    desk.book.on_price(price(76000))
    assert await desk.settle() == []
    assert (desk.book.n_waiting, desk.book.n_crossed, desk.book.n_fired) == (0, 0, 1)


async def test_a_condition_that_holds_already_fires_on_the_next_price(desk: Desk) -> None:
    desk.book.on_price(price(80000))
    await desk.book.add("kim", "005930", "price_above", 75000)
    assert await desk.settle() == []
    desk.book.on_price(price(80000))
    assert len(await desk.settle()) == 1


async def test_other_instruments_and_other_types_are_left_alone(desk: Desk) -> None:
    for alert_type in ALERT_TYPES:
        await desk.book.add("kim", "AAPL", alert_type, 100)
    desk.book.on_price(price(1_000_000, change_percent=1000, volume=10**9))
    desk.book.on_price(price(1, change_percent=-1000))
    assert desk.book.n_waiting == 5
    desk.book.on_price(price("100.01", APPLE, change_percent="100.00", volume=100))
    assert [alert.alert_type for _, alert in await desk.settle()] == ["price_above"]


async def test_everyone_is_told_the_nearest_first(desk: Desk) -> None:
    for user_id, threshold in (("a", 300), ("b", 100), ("c", 200), ("d", 100), ("e", 301), ("a", "100.5")):
        await desk.book.add(user_id, "005930", "price_above", threshold)
    desk.book.on_price(price(301))
    assert [(user_id, alert.threshold) for user_id, alert in await desk.settle()] == [
        ("b", 100),
        ("d", 100),
        ("a", Decimal("100.5")),
        ("c", 200),
        ("a", 300),
    ]
    assert desk.book.n_waiting == 1


# The same against an evaluation of every rule on every price.

# Few numbers and several scales, so that many are close or equal.
PRICES = st.builds(
    lambda digits, scale: f"{Decimal(digits).scaleb(-scale):f}", st.integers(1, 4000), st.integers(0, 3)
)
PERCENTS = st.decimals(-9, 9, places=2, allow_nan=False).map(str)
VOLUMES = st.integers(0, 50)
THRESHOLDS = {"price": PRICES, "change_percent": PERCENTS, "volume": VOLUMES}


def what(alert_type: str) -> str:
    return alert_type.rpartition("_")[0]


RULES = st.sampled_from(ALERT_TYPES).flatmap(
    lambda alert_type: st.tuples(
        st.sampled_from([SAMSUNG, APPLE]), st.just(alert_type), THRESHOLDS[what(alert_type)]
    )
)
UPDATES = st.builds(
    price,
    PRICES,
    st.sampled_from([SAMSUNG, APPLE]),
    change_percent=st.none() | PERCENTS,
    volume=st.none() | VOLUMES,
)


def holds(alert_type: str, threshold: object, update: PriceUpdate) -> bool:
    value = getattr(update, what(alert_type))
    if value is None:
        return False
    difference = Fraction(value) - Fraction(str(threshold))
    return difference > 0 if alert_type.endswith("above") else difference < 0


STEPS = st.lists(
    st.tuples(st.just("add"), RULES)
    | st.tuples(st.just("price"), UPDATES)
    | st.tuples(st.just("delete"), VOLUMES),
    min_size=20,
    max_size=200,
)


@given(STEPS)
@settings(max_examples=200, deadline=None)
def test_the_index_takes_what_an_evaluation_of_every_rule_takes(steps: list[tuple[str, Any]]) -> None:
    index = AlertIndex()
    waiting: dict[int, tuple[Instrument, str, object]] = {}
    for rule_id, (step, item) in enumerate(steps):
        if step == "add":
            instrument, alert_type, threshold = item
            index.add(instrument.code, alert_type, str(threshold), rule_id)
            waiting[rule_id] = item
        elif step == "price":
            expected = [
                (
                    ALERT_TYPES.index(alert_type),
                    (-1) ** alert_type.endswith("below") * Fraction(str(threshold)),
                    i,
                )
                for i, (instrument, alert_type, threshold) in waiting.items()
                if instrument is item.instrument and holds(alert_type, threshold, item)
            ]
            assert (index.take(item) or []) == [i for *_, i in sorted(expected)]
            for *_, i in expected:
                del waiting[i]
        elif waiting:
            chosen = sorted(waiting)[item % len(waiting)]
            instrument, alert_type, _ = waiting.pop(chosen)
            assert index.remove(instrument.code, alert_type, chosen)
            assert not index.remove(instrument.code, alert_type, chosen)
        assert len(index) == len(waiting)


@given(st.lists(RULES, min_size=1, max_size=25), st.lists(UPDATES, min_size=1, max_size=25), st.randoms())
@settings(max_examples=40, deadline=None)
def test_every_rule_fires_at_the_price_at_which_it_holds_first(
    rules: list[tuple[Instrument, str, Any]], updates: list[PriceUpdate], chance: random.Random
) -> None:
    async def scenario() -> None:
        desk = await Desk().open()
        ids = []
        for number, (instrument, alert_type, threshold) in enumerate(rules):
            rule = await desk.book.add(f"user{number}", instrument.code, alert_type, threshold)
            ids.append(rule.id)
        expected: dict[str, PriceUpdate] = {}
        for update in updates:
            for number, (instrument, alert_type, threshold) in enumerate(rules):
                is_about = instrument is update.instrument
                if is_about and f"user{number}" not in expected and holds(alert_type, threshold, update):
                    expected[f"user{number}"] = update
            desk.book.on_price(update)
            if chance.random() < 0.3:
                await desk.book.list(
                    "user0"
                )  # a turn or two of the database, so that firings mix with prices
        told = await desk.settle()
        assert desk.book.n_waiting == len(rules) - len(expected)
        await desk.close()
        assert {user_id: alert.current_price for user_id, alert in told} == {
            user_id: update.price for user_id, update in expected.items()
        }
        assert len(told) == len(expected)

    asyncio.run(scenario())


# Requests.


async def test_adding_listing_deleting(desk: Desk) -> None:
    before = wall_ms()
    first = await desk.book.add("kim", "005930", "price_above", 75000)
    second = await desk.book.add("kim", "AAPL", "price_below", "200.50")
    other = await desk.book.add("lee", "AAPL", "volume_above", 1e6)
    assert first == Rule(first.id, "kim", "005930", "price_above", 75000, first.created_ms)
    assert before <= first.created_ms <= wall_ms()
    assert (second.threshold, other.threshold) == (Decimal("200.50"), 1_000_000)
    assert await desk.book.list("kim") == (first, second)
    assert await desk.book.list("lee") == (other,)
    assert await desk.book.list("nobody") == ()
    assert not await desk.book.delete("lee", first.id)
    assert not await desk.book.delete("kim", 999)
    assert await desk.book.delete("kim", first.id)
    assert not await desk.book.delete("kim", first.id)
    assert await desk.book.list("kim") == (second,)
    desk.book.on_price(price(80000))
    assert await desk.settle() == []
    desk.book.on_price(price(200, APPLE))
    assert len(await desk.settle()) == 1
    (fired,) = await desk.book.list("kim")
    assert fired.fired_price == 200
    assert await desk.book.delete("kim", second.id)
    assert await desk.book.list("kim") == ()


@pytest.mark.parametrize(
    ("arguments", "field", "text"),
    [
        (("", "005930", "price_above", 1), "user_id", "expected 1 to 255 printable characters, got ''"),
        (("k" * 256, "005930", "price_above", 1), "user_id", "255"),
        (("a\0b", "005930", "price_above", 1), "user_id", "printable"),
        (("kim", "999999", "price_above", 1), "code", "unknown symbol '999999'"),
        (("kim", "", "price_above", 1), "code", "unknown symbol ''"),
        (("kim", "005930", "price", 1), "alert_type", "expected one of price_above, price_below, change"),
        (("kim", "005930", "PRICE_ABOVE", 1), "alert_type", "got 'PRICE_ABOVE'"),
        (("kim", "005930", "price_above", "soon"), "threshold", "expected a plain decimal number"),
        (("kim", "005930", "price_above", ""), "threshold", "expected a plain decimal number"),
        (("kim", "005930", "price_above", "1e5"), "threshold", "expected a plain decimal number"),
        (("kim", "005930", "price_above", float("nan")), "threshold", "got nan"),
        (("kim", "005930", "change_percent_above", float("inf")), "threshold", "got inf"),
        (("kim", "005930", "price_above", Decimal("NaN")), "threshold", "expected a plain decimal number"),
        (("kim", "005930", "price_above", 2**63), "threshold", "under 2**63"),
        (("kim", "005930", "price_above", True), "threshold", "expected a number, got True"),
        (("kim", "005930", "price_above", None), "threshold", "got NoneType"),
        (("kim", "005930", "volume_above", None), "threshold", "got null"),
        (("kim", "005930", "price_above", [1]), "threshold", "got list"),
        (("kim", "005930", "price_above", 0), "threshold", "expected a price above 0, got 0"),
        (("kim", "005930", "price_below", "-0.5"), "threshold", "expected a price above 0, got -0.5"),
        (("kim", "005930", "volume_above", -1), "threshold", "expected a volume of 0 or more, got -1"),
        (("kim", "005930", "volume_above", 1.5), "threshold", "expected a whole number, got 1.5"),
    ],
)
async def test_what_makes_no_rule(
    desk: Desk, arguments: tuple[str, str, str, Any], field: str, text: str
) -> None:
    with pytest.raises(AlertError) as caught:
        await desk.book.add(*arguments)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    assert text in str(caught.value)
    assert desk.book.n_waiting == 0
    assert await desk.rules.waiting_rules() == []


async def test_the_limit_of_a_user() -> None:
    desk = await Desk(alerts_per_user=2).open()
    rules = [await desk.book.add("kim", "005930", "price_above", i) for i in (1, 2)]
    with pytest.raises(
        AlertLimitError, match="you have 2 alerts, fired ones included; delete some"
    ) as caught:
        await desk.book.add("kim", "005930", "price_above", 3)
    assert caught.value.limit == 2
    await desk.book.add("lee", "005930", "price_above", 3)
    assert desk.book.n_waiting == 3
    assert await desk.book.delete("kim", rules[0].id)
    await desk.book.add("kim", "005930", "price_above", 3)
    await desk.close()


async def test_a_request_is_finished_for_an_asker_who_is_gone(desk: Desk) -> None:
    asking = asyncio.ensure_future(desk.book.add("kim", "005930", "price_above", 75000))
    await asyncio.sleep(0)
    asking.cancel()
    await until(lambda: desk.book.n_waiting == 1, "the rule waits")
    assert asking.cancelled()
    (rule,) = await desk.book.list("kim")
    deleting = asyncio.ensure_future(desk.book.delete("kim", rule.id))
    await asyncio.sleep(0)
    deleting.cancel()
    await until(lambda: desk.book.n_waiting == 0, "the rule is gone")
    assert await desk.book.list("kim") == ()


async def test_a_rule_deleted_after_it_was_crossed_tells_nobody(desk: Desk) -> None:
    rule = await desk.book.add("kim", "005930", "price_above", 75000)
    deleting = asyncio.ensure_future(desk.book.delete("kim", rule.id))
    await asyncio.sleep(0)  # the request is in the store's hands
    await asyncio.sleep(0)
    desk.book.on_price(price(75100))
    assert desk.book.n_crossed == 1
    assert await deleting
    assert await desk.settle() == []
    assert (desk.book.n_waiting, desk.book.n_fired) == (0, 0)


# Bodies.


def test_the_message_of_the_contract() -> None:
    alert = Alert("005930", "price_above", 75000, 75100, alert_message(SAMSUNG, "price_above", 75000))
    assert encode_alert(alert, MS) + b',"sequence":12348}' == (
        b'{"type":"alert","code":"005930","alert_type":"price_above","threshold":75000,"current_price":75100,'
        b'"message":"Samsung Electronics exceeded 75,000 KRW","timestamp":"2025-11-11T09:30:00.000Z",'
        b'"sequence":12348}'
    )


def test_bodies_keep_digits_and_escape_texts() -> None:
    strange = Instrument('A"B', 'Tom & "Jerry"\\ 김', currency="USD")
    threshold = Decimal("1234567.90")
    alert = Alert(
        strange.code,
        "price_below",
        threshold,
        Decimal("0.000000000000000001"),
        alert_message(strange, "price_below", threshold),
        b'"note":1.10',
    )
    body = encode_alert(alert, MS) + b"}"
    assert b'"threshold":1234567.90,"current_price":0.000000000000000001,' in body
    assert body.endswith(b',"note":1.10,"timestamp":"2025-11-11T09:30:00.000Z"}')
    assert json.loads(body)["message"] == 'Tom & "Jerry"\\ 김 fell below 1,234,567.90 USD'
    assert json.loads(body)["code"] == 'A"B'
    with pytest.raises(ValueError, match="9999"):
        encode_alert(alert, -1)


@pytest.mark.parametrize(
    ("instrument", "alert_type", "threshold", "text"),
    [
        (SAMSUNG, "price_above", 75000, "Samsung Electronics exceeded 75,000 KRW"),
        (SAMSUNG, "price_below", 999, "Samsung Electronics fell below 999 KRW"),
        (APPLE, "price_above", Decimal("1000.50"), "Apple exceeded 1,000.50 USD"),
        (Instrument("X{0}"), "price_above", 1000, "X{0} exceeded 1,000"),
        (APPLE, "change_percent_above", Decimal("5.0"), "Apple change exceeded 5.0%"),
        (APPLE, "change_percent_below", -5, "Apple change fell below -5%"),
        (SAMSUNG, "volume_above", 1_000_000, "Samsung Electronics volume exceeded 1,000,000"),
        (SAMSUNG, "price_above", 2**63 - 1, "Samsung Electronics exceeded 9,223,372,036,854,775,807 KRW"),
    ],
)
def test_sentences(instrument: Instrument, alert_type: str, threshold: int | Decimal, text: str) -> None:
    assert alert_message(instrument, alert_type, threshold) == text


def test_every_type_has_a_sentence() -> None:
    assert set(alert_messages._SENTENCES) == set(ALERT_TYPES)


def test_rules_as_json() -> None:
    waiting = Rule(7, "kim", "005930", "price_above", Decimal("1.90"), MS)
    assert encode_rule(waiting) == (
        b'{"id":7,"code":"005930","alert_type":"price_above","threshold":1.90,'
        b'"created_at":"2025-11-11T09:30:00.000Z","fired_at":null,"fired_price":null}'
    )
    fired = Rule(7, "kim", "005930", "price_above", 75000, MS, MS + 1500, 75100)
    assert encode_rule(fired).endswith(b'"fired_at":"2025-11-11T09:30:01.500Z","fired_price":75100}')


# The index.


def test_the_index_refuses_what_is_no_rule() -> None:
    index = AlertIndex()
    with pytest.raises(ValueError, match=r"^alert_type: expected one of .*volume_above, got 'x'"):
        index.add("A", "x", "1", 1)
    for text in ("", "x", "1e5", "nan", "9223372036854775808", "0." + "0" * 19):
        with pytest.raises(ValueError, match=r"^threshold: expected a plain decimal number"):
            index.add("A", "price_above", text, 1)
    with pytest.raises(ValueError, match=r"^alert_type"):
        index.remove("A", "x", 1)
    for wrong in (None, 1, b"A"):
        with pytest.raises(TypeError):
            index.add(wrong, "price_above", "1", 1)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            index.take(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^instrument: the PriceUpdate was never initialised"):
        index.take(PriceUpdate.__new__(PriceUpdate))
    assert len(index) == 0
    assert not index.remove("A", "price_above", 1)


def test_many_thresholds_come_out_in_order() -> None:
    index = AlertIndex()
    numbers = list(range(1, 10_001))
    random.Random(5).shuffle(numbers)
    for number in numbers:
        index.add("005930", "price_above", str(number), number)
        index.add("005930", "price_below", str(number), 100_000 + number)
    for number in numbers[::7]:
        assert index.remove("005930", "price_below", 100_000 + number)
    assert index.take(price(10_001)) == sorted(numbers)
    assert index.take(price(0)) == sorted(
        (100_000 + n for n in set(numbers) - set(numbers[::7])), reverse=True
    )
    assert len(index) == 0
    assert index.take(price(0)) is None


async def test_ten_thousand_rules_fire_on_one_price(url: str) -> None:
    desk = await Desk(url).open()

    def job(connection: sa.Connection) -> None:
        row = {"code": "005930", "alert_type": "price_above", "created_at": MS}
        rows = [row | {"user_id": f"user{i}", "threshold": str(i + 1)} for i in range(10_000)]
        table = sa.table("alert_rules", *map(sa.column, rows[0]))
        connection.execute(sa.insert(table), rows)

    await desk.store.run(job)
    assert await desk.book.load() == 10_000
    desk.book.on_price(price(20_000))
    told = await desk.settle()
    assert [user_id for user_id, _ in told] == [f"user{i}" for i in range(10_000)]
    assert await desk.rules.waiting_rules() == []
    firing = await desk.store.run(
        lambda connection: connection.execute(
            sa.text("SELECT count(*), count(DISTINCT fired_at), min(fired_price) FROM alert_rules")
        ).one()
    )
    assert tuple(firing) == (10_000, 1, "20000")
    assert await desk.rules.fire_rules([Firing(1, MS, 1)], "someone else") == set()
    await desk.close()
