"""Subscriptions of a load as they are written on the command line."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("the load client is built on epoll", allow_module_level=True)

from fastws.bench.subscriptions import parse, parse_lines, parse_random, requests


def request(text: str) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(parse(text).request())
    return decoded


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("stock:005930", {"subscription_type": "stock", "targets": ["005930"]}),
        (" market:KOSPI ", {"subscription_type": "market", "targets": ["KOSPI"]}),
        ("stock:A, B", {"subscription_type": "stock", "targets": ["A", "B"]}),
        (
            "sector:IT,mode=latest,max_rate=0.5",
            {"subscription_type": "sector", "targets": ["IT"], "mode": "latest", "max_rate": 0.5},
        ),
        (
            "stock:A,channels=price+orderbook,mode=all,B",
            {
                "subscription_type": "stock",
                "targets": ["A", "B"],
                "mode": "all",
                "channels": ["price", "orderbook"],
            },
        ),
    ],
)
def test_a_subscription_becomes_its_request(text: str, members: dict[str, Any]) -> None:
    assert request(text) == {"type": "subscribe"} | members


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("005930", "is no subscription; write KIND:TARGET"),
        ("portfolio:1", "where KIND is stock, market, sector"),
        ("stock:", "has an empty name"),
        ("stock:A,,B", "has an empty name"),
        ("stock:mode=all", "names no stock"),
        ("stock:A,speed=3", "speed is no option; there are mode, max_rate and channels"),
        ("stock:A,mode=some", "mode is all or latest, not 'some'"),
        ("stock:A,mode=all,mode=all", "gives mode twice"),
        ("stock:A,max_rate=x", "max_rate is a number above 0, not 'x'"),
        ("stock:A,max_rate=inf", "max_rate is a number above 0"),
        ("stock:A,max_rate=nan", "max_rate is a number above 0"),
        ("stock:A,max_rate=5,mode=all", "leave mode=all out"),
        ("stock:A,channels=trades", "channels are price, orderbook or price+orderbook"),
        ("stock:A,channels=price+price", "channels are"),
    ],
)
def test_what_is_no_subscription_says_why(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=text.strip()[:3] or "names") as caught:
        parse(text)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "is_conflated"),
    [
        ("stock:A", False),
        ("market:M", True),
        ("sector:S", True),
        ("market:M,mode=all", False),
        ("stock:A,mode=latest", True),
        ("stock:A,max_rate=2", True),
    ],
)
def test_whether_holes_are_losses(text: str, is_conflated: bool) -> None:
    assert parse(text).is_conflated is is_conflated


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("stock:A,channels=price", True),
        ("stock:A,channels=orderbook", True),
        ("stock:A", False),
        ("stock:A,B,channels=price", False),
        ("stock:A,channels=price+orderbook", False),
        ("market:M,channels=price", False),
    ],
)
def test_whether_one_number_counts_all(text: str, is_one: bool) -> None:
    assert parse(text).is_one_stream is is_one


def test_a_file_has_one_on_a_line() -> None:
    found = parse_lines(["# two", "", "stock:A", "  market:M,mode=all  "])
    assert [str(subscription) for subscription in found] == ["stock:A", "market:M,mode=all"]
    with pytest.raises(ValueError, match=r"^line 3: 'stock' is no subscription"):
        parse_lines(["stock:A", "#", "stock"])


@pytest.mark.parametrize("text", ["", "0", "-1", "five", "5,5", "٣"])
def test_what_is_no_number_of_stocks(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no number of stocks|has an empty name"):
        parse_random(text)


def test_each_connection_draws_its_own_stocks_and_the_same_ones_again() -> None:
    codes = [f"{i:06d}" for i in range(100)]
    drawn = parse_random("5,mode=latest,channels=price")
    fixed = [parse("market:KOSPI")]
    first, again, other = (requests(fixed, drawn, codes, seed) for seed in (1, 1, 2))
    rows = [first(i) for i in range(20)]
    assert [again(i) for i in range(20)] == rows
    assert [other(i) for i in range(20)] != rows
    own = [json.loads(row[1]) for row in rows]
    assert all(len(set(row["targets"])) == 5 and set(row["targets"]) <= set(codes) for row in own)
    assert len({tuple(sorted(row["targets"])) for row in own}) == 20
    assert own[0]["mode"] == "latest"
    assert own[0]["channels"] == ["price"]
    assert {row[0] for row in rows} == {fixed[0].request()}


def test_how_it_is_told() -> None:
    assert str(parse("stock:A,B,C,D,mode=latest,max_rate=5")) == "stock:4 targets,mode=latest,max_rate=5"
    assert str(parse_random("50,channels=price+orderbook")) == (
        "50 random stocks each,channels=price+orderbook"
    )
