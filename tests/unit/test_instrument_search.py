"""What is found by what somebody types."""

from __future__ import annotations

import asyncio
import random

import pytest

from fastws._market import Instrument
from fastws.market.instrument_search import search
from fastws.market.instruments import Instruments

TABLE = Instruments(
    [
        Instrument("005930", "Samsung Electronics", "KOSPI"),
        Instrument("028260", "Samsung C&T", "KOSPI"),
        Instrument("ELEC", "Company of that code", "NYSE"),
        Instrument("ELECTRO", "Another", "NYSE"),
        Instrument("006400", "Electric Samsung", "KOSPI"),
        Instrument("035420", "네이버", "KOSPI"),
        Instrument("X1", "Nonelectric", "NYSE"),
    ]
)


async def codes(query: str, limit: int = 10) -> list[str]:
    return [found.code for found in (await search(TABLE, query, limit, lambda one: True)).instruments]


async def test_the_best_come_first() -> None:
    # The code itself, what begins with it, names that do, words that do, and what has it anywhere.
    assert await codes("elec") == ["ELEC", "ELECTRO", "006400", "005930", "X1"]
    assert await codes("samsung") == ["005930", "028260", "006400"]
    assert await codes("0059") == ["005930"]
    assert await codes("네이") == ["035420"]


async def test_all_words_have_to_be_there_in_any_order() -> None:
    assert await codes("samsung elec") == ["005930", "006400"]
    assert await codes("electronics 005930") == ["005930"]
    assert await codes("samsung naver") == []


@pytest.mark.parametrize("query", ["", "  "])
async def test_no_words_find_everything_in_the_order_of_the_table(query: str) -> None:
    assert await codes(query) == [instrument.code for instrument in TABLE]


async def test_the_total_counts_what_is_over_the_limit_and_not_what_is_hidden() -> None:
    found = await search(TABLE, "samsung", 1, lambda one: True)
    assert ([one.code for one in found.instruments], found.total) == (["005930"], 3)
    found = await search(TABLE, "samsung", 2, lambda one: one.code != "005930")
    assert ([one.code for one in found.instruments], found.total) == (["028260", "006400"], 2)


async def test_the_loop_runs_on_while_a_large_table_is_searched_and_grows() -> None:
    rng = random.Random(3)
    table = Instruments([Instrument(f"{number:06}", f"Number {rng.random()}") for number in range(20_000)])
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            table.add(Instrument(f"NEW{turns}", f"Number new {turns}"))
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    found = await search(table, "number", 20, lambda one: True)
    task.cancel()
    assert found.total == 20_000
    assert [one.code for one in found.instruments] == [f"{number:06}" for number in range(20)]
    assert turns >= 9
