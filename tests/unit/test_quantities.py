"""Quantities as whole numbers: exact, or refused."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastws.market.quantities import QuantityError, scaled, scaled_array

UNIT = 10**8
MAX = 2**63 - 1

numbers = st.integers(-MAX, MAX).map(lambda n: Decimal(n).scaleb(-8))


@given(numbers)
def test_every_number_that_fits_is_exact(number: Decimal) -> None:
    with localcontext(prec=60):
        expected = int(number * UNIT)
    assert scaled(number) == scaled(format(number, "f")) == expected


@given(
    st.lists(
        st.one_of(
            numbers.map(lambda number: format(number, "f")),
            st.integers(-(10**6), 10**6).map(str),
            st.decimals(-(10**6), 10**6, places=3, allow_nan=False).map(lambda number: format(number, "f")),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_many_texts_are_read_as_each_alone(texts: list[str]) -> None:
    assert scaled_array(texts).tolist() == [scaled(text) for text in texts]


@given(st.lists(st.text("0123456789.-+ e\x00\uff11", max_size=24), min_size=1, max_size=8))
def test_many_texts_fail_as_the_first_of_them_that_is_none(texts: list[str]) -> None:
    expected: object
    try:
        expected = [scaled(text) for text in texts]
    except QuantityError:
        expected = None
    if expected is not None:
        assert scaled_array(texts).tolist() == expected
        return
    with pytest.raises(QuantityError) as among:
        scaled_array(texts)
    with pytest.raises(QuantityError) as alone:
        scaled(texts[among.value.index])
    assert str(alone.value) == str(among.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, 7 * UNIT),
        (-3, -3 * UNIT),
        ("+1.50", 150_000_000),
        ("0007", 7 * UNIT),
        (Decimal("1E+3"), 1000 * UNIT),
        (Decimal("1.5000000000"), 150_000_000),
        ("0.10000000000", 10_000_000),
        ("92233720368.54775807", MAX),
        ("-92233720368.54775807", -MAX),
        # What SQLite makes of 0.1 and 1234567.89 in a column of another type.
        (0.1, 10_000_000),
        (0.1 + 0.2, 30_000_000),
        (1234567.89, 123_456_789_000_000),
        (1e10, 10**10 * UNIT),
        (np.float64(2.5), 250_000_000),
    ],
)
def test_values_of_all_kinds(value: object, expected: int) -> None:
    assert scaled(value) == expected
    assert scaled_array([value, value]).tolist() == [expected, expected]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("", "expected a plain number such as 100 or 0.25, got ''"),
        ("1,000", "expected a plain number"),
        ("1e3", "expected a plain number"),
        (".5", "expected a plain number"),
        ("5.", "expected a plain number"),
        ("\uff11", "expected a plain number"),
        (" 1", "expected a plain number"),
        (None, "expected a plain number"),
        (True, "expected a plain number"),
        (b"1", "expected a plain number"),
        (float("nan"), "expected a plain number"),
        (float("inf"), "expected a plain number"),
        (1e19, "expected a plain number"),
        (Decimal("NaN"), "expected a plain number"),
        (Decimal("1E+999999999"), "expected a plain number"),
        (Decimal("1E-999999999"), "expected a plain number"),
        (2**63, "expected a plain number"),
        ("0.123456789", "expected at most 8 digits after the point, got 0.123456789"),
        (Decimal("1.000000001"), "expected at most 8 digits"),
        ("92233720368.54775808", "expected a number up to 92233720368, got"),
        (10**11, "expected a number up to 92233720368"),
        (1e12, "expected a number up to 92233720368"),
    ],
)
def test_what_is_no_quantity(value: object, problem: str) -> None:
    with pytest.raises(QuantityError) as caught:
        scaled(value)
    assert problem in str(caught.value)
    with pytest.raises(QuantityError) as among:
        scaled_array(["1", value] if isinstance(value, str) else [1, value])
    assert (str(among.value), among.value.index) == (str(caught.value), 1)
