"""Whose portfolios are whose."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from fastws.market.portfolio_owners import PortfolioOwners
from fastws.market.portfolio_reader import NOTHING
from fastws.market.portfolio_store import Loaded


def loaded(*owners: str) -> Loaded:
    return msgspec.structs.replace(
        NOTHING,
        ids=np.arange(len(owners)) * 10,
        owners=list(owners),
        names=[f"portfolio {number}" for number in range(len(owners))],
        currencies=[None] * len(owners),
    )


def test_those_of_an_owner_come_by_id() -> None:
    owners = PortfolioOwners(loaded("b", "a", "b", "c", "a", "b"))
    assert owners.places_of("b") == [0, 2, 5]
    assert owners.places_of("a") == [1, 4]
    assert owners.places_of("nobody") == []
    assert PortfolioOwners(NOTHING).places_of("a") == []


def test_they_are_told_apart_by_the_owner_and_not_by_its_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    # Texts with the same hash cannot be made at will.
    monkeypatch.setattr("fastws.market.portfolio_owners.hash", len, raising=False)
    owners = PortfolioOwners(loaded("mine", "his", "hers", "mine", "hers"))
    assert owners.places_of("mine") == [0, 3]
    assert owners.places_of("hers") == [2, 4]
    assert owners.places_of("ours") == []


def test_many_are_sorted_as_few_are() -> None:
    names = [f"user-{number % 7_001}" for number in range(25_000)]
    owners = PortfolioOwners(loaded(*names))
    for name in ("user-0", "user-6999", "user-3"):
        assert owners.places_of(name) == [place for place, owner in enumerate(names) if owner == name]
