"""Quantities of positions as exact whole numbers of their smallest part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

import numpy as np
import numpy.typing as npt

SCALE: Final = 8
"""Digits after the point of every quantity."""

_UNIT: Final = 10**SCALE
_MAX: Final = 2**63 - 1
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{1,30})?")
# What adds and multiplies without passing 2**63.
_MAX_FAST_SIZE: Final = 18
_FACTORS: Final = np.array([10 ** (SCALE - n) for n in range(SCALE + 1)], np.int64)


class QuantityError(ValueError):
    """A value is no quantity; `index` is its place among those that were given."""

    def __init__(self, problem: str, index: int = 0) -> None:
        super().__init__(problem)
        self.index = index


def scaled(value: object) -> int:
    """Return a quantity in units of 10**-8.

    `value` is an int, a `Decimal`, plain decimal text, or a float, which is what SQLite makes of a number in a column
    that is neither text nor whole: it counts as the number of 15 digits that it was written as, to 8 decimals.

    Raises:
        QuantityError: it is something else, has more than 8 decimals, or does not stay under 2**63 such units.
    """
    if isinstance(value, float):
        number = Decimal(f"{value:.15g}") if value == value and abs(value) < _MAX else None
        if number is not None:
            number = round(number, SCALE)
    elif isinstance(value, str) and _NUMBER.fullmatch(value):
        number = Decimal(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        number = Decimal(value) if abs(value) <= _MAX else None
    elif isinstance(value, Decimal) and _is_bounded(value):
        number = value
    else:
        number = None
    if number is None:
        raise QuantityError(f"expected a plain number such as 100 or 0.25, got {value!r:.60}")
    sign, digits, exponent = number.as_tuple()
    # By hand, because arithmetic on Decimal would round to the caller's context.
    mantissa: int = int("".join(map(str, digits)))
    shift = SCALE + int(exponent)
    if shift < 0:
        mantissa, rest = divmod(mantissa, 10**-shift)
        if rest:
            raise QuantityError(f"expected at most {SCALE} digits after the point, got {value!s:.60}")
    else:
        mantissa *= 10**shift
    if mantissa > _MAX:
        raise QuantityError(f"expected a number up to {_MAX // _UNIT}, got {value!s:.60}")
    return -mantissa if sign else mantissa


def _is_bounded(value: Decimal) -> bool:
    """Whether its digits can be written out: 1E+999999999 has more than fit anywhere."""
    return value.is_finite() and value.adjusted() < 20 and int(value.as_tuple().exponent) >= -60


def scaled_array(values: Sequence[object]) -> npt.NDArray[np.int64]:
    """Return many quantities as `scaled` does; those of one type, text or int, at a tenth of its cost.

    Raises:
        QuantityError: as of `scaled`, of the first that is none.
    """
    kinds = set(map(type, values))
    if kinds == {str}:
        return _from_texts(values)  # type: ignore[arg-type]  # it has just been looked at
    return _one_by_one(values)


def _one_by_one(values: Sequence[object]) -> npt.NDArray[np.int64]:
    result = np.empty(len(values), np.int64)
    _fill(result, values, range(len(values)))
    return result


def _fill(result: npt.NDArray[np.int64], values: Sequence[object], places: Sequence[int]) -> None:
    for i in places:
        try:
            result[i] = scaled(values[i])
        except QuantityError as error:
            raise QuantityError(str(error), i) from None


def _from_texts(texts: Sequence[str]) -> npt.NDArray[np.int64]:
    try:
        packed = np.array(texts, "S")
    except UnicodeEncodeError:
        return _one_by_one(texts)
    n, size = len(texts), packed.dtype.itemsize
    # A column of characters at a time, so that each is contiguous.
    columns = np.ascontiguousarray(packed.view(np.uint8).reshape(n, size).T)
    if np.count_nonzero(columns) != sum(map(len, texts)):  # a NUL at the end of one reads like none
        return _one_by_one(texts)
    value = np.zeros(n, np.int64)
    n_decimals = np.zeros(n, np.int64)
    n_digits = np.zeros(n, np.int64)  # since the start, or the point
    has_point = np.zeros(n, bool)
    is_negative = columns[0] == ord("-")
    is_odd = np.zeros(n, bool)  # left to `scaled`
    is_over = np.zeros(n, bool)
    for i in range(min(size, _MAX_FAST_SIZE)):
        column = columns[i]
        is_digit = (column >= ord("0")) & (column <= ord("9"))
        is_end = column == 0
        is_point = column == ord(".")
        is_odd |= is_over & ~is_end
        is_over |= is_end
        if i == 0:
            is_odd |= ~(is_digit | is_negative)
        else:
            is_odd |= ~(is_digit | is_end | (is_point & ~has_point & (n_digits > 0)))
        value = np.where(is_digit, value * 10 + (column - np.uint8(ord("0"))), value)
        n_digits = np.where(is_point, 0, n_digits + is_digit)
        n_decimals += is_digit & has_point
        has_point |= is_point
    if size > _MAX_FAST_SIZE:
        is_odd |= columns[_MAX_FAST_SIZE] != 0
    is_odd |= (n_digits == 0) | (n_decimals > SCALE)
    factors = _FACTORS[np.minimum(n_decimals, SCALE)]
    is_odd |= value > _MAX // factors
    result: npt.NDArray[np.int64] = np.where(is_negative, -value, value) * factors
    if is_odd.any():
        _fill(result, texts, np.flatnonzero(is_odd).tolist())
    return result
