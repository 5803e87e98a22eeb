"""Last values on real files and, where it is installed, on a real PostgreSQL server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fastws.market import value_store
from fastws.market.store import Store, StoreError
from fastws.market.value_store import SavedValue, ValueStore

MS = 1_762_853_400_000


def value(code: str, number: int, kind: str = "price_update") -> SavedValue:
    return SavedValue(code, kind, MS + number, b'{"price":%d,"note":"\\u0000\xea\xb0\x80"}' % number)


async def test_the_newest_of_each_code_and_kind_is_kept(store: Store) -> None:
    values = ValueStore(store)
    assert await values.load() == []
    await values.save([])
    first = [value("B", 1), value("A", 2), value("A", 3, "orderbook_update"), value("a", 4)]
    await values.save(first)
    assert sorted(await values.load()) == sorted(first)
    await values.save([value("C", 5), value("A", 6)])
    assert sorted(await values.load()) == sorted(
        [value("A", 6), value("A", 3, "orderbook_update"), value("B", 1), value("C", 5), value("a", 4)]
    )


async def test_thousands_at_once(store: Store) -> None:
    values = ValueStore(store)
    for round_ in range(2):
        saved = [value(f"{i:06}", i + round_) for i in range(3000)]
        await values.save(saved)
        assert sorted(await values.load()) == saved


async def test_an_older_one_replaces_no_newer_one(lasting_url: str) -> None:
    store = Store(lasting_url)
    await store.open()
    values = ValueStore(store)
    await values.save([value("A", 5), value("B", 5)])
    # As of an instance that has got nothing lately.
    await values.save([value("A", 4), value("B", 6)])
    assert sorted(await values.load()) == [value("A", 5), value("B", 6)]
    await store.close()


async def test_a_database_that_cannot_replace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_store, "_INSERTS", {})
    store = Store(f"sqlite:///{tmp_path}/fastws.db")
    await store.open()
    values = ValueStore(store)
    await values.save([value("A", 1), value("B", 1)])
    await values.save([value("A", 2), value("A", 2, "orderbook_update")])
    kept = [value("A", 2), value("A", 2, "orderbook_update"), value("B", 1)]
    assert sorted(await values.load()) == sorted(kept)
    # All or nothing.
    with pytest.raises(StoreError):
        await values.save([value("A", 3), value("C", 3), value("C", 4)])
    assert sorted(await values.load()) == sorted(kept)
    await store.close()


async def test_instances_that_share_a_database(lasting_url: str) -> None:
    stores = [Store(lasting_url) for _ in range(3)]
    for store in stores:
        await store.open()

    async def save(number: int, store: Store) -> None:
        for round_ in range(5):
            await ValueStore(store).save([value(f"{i:03}", 100 * number + round_) for i in range(200)])

    await asyncio.gather(*(save(number, store) for number, store in enumerate(stores)))
    for store in stores:
        loaded = await ValueStore(store).load()
        assert sorted(loaded) == [value(f"{i:03}", 204) for i in range(200)]
        await store.close()
