"""Figures as people read them."""

from __future__ import annotations

import math

import pytest

from fastws.top.units import (
    age,
    milliseconds,
    number,
    percent,
    rate,
    size,
    size_rate,
    sparkline,
    text,
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"), (0, "0"), (0.01, "0.01"), (0.5, "0.5"), (9.96, "10.0"), (12.4, "12"), (12345, "12,345"),
        (99_999, "99,999"), (100_000, "100 k"), (999_499, "999 k"), (999_600, "1.00 M"), (1_234_567, "1.23 M"),
        (4.0e9, "4.00 G"), (7e16, "70000 T"),
    ],
)  # fmt: skip
def test_numbers(value: float | None, shown: str) -> None:
    assert number(value) == shown
    assert rate(value) == ("-" if value is None else f"{shown}/s")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1023.9 * 1024, "1.00 MiB"),
        (107e6, "102 MiB"),
    ],
)
def test_sizes(value: float | None, shown: str) -> None:
    assert size(value) == shown
    assert size_rate(value) == ("-" if value is None else f"{shown}/s")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0.0, "0.00 ms"), (0.25, "0.25 ms"), (30, "30 ms"), (31.72, "31.7 ms"), (1500, "1.5 s"),
     (math.inf, "over 10 s")],
)  # fmt: skip
def test_short_times(value: float | None, shown: str) -> None:
    assert milliseconds(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "-"), (0, "0 s"), (59.9, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (7500, "2 h 05 min"),
     (273_600, "3 d 04 h")],
)  # fmt: skip
def test_long_times(seconds: float | None, shown: str) -> None:
    assert age(seconds) == shown


def test_shares() -> None:
    assert [percent(share) for share in (None, 0.0, 0.024, 0.0996, 1.52)] == [
        "-", "0.0 %", "2.4 %", "10 %", "152 %",
    ]  # fmt: skip


def test_what_others_send_stays_on_its_line() -> None:
    assert text("a\x1b[2Jb\nc\u202e") == "a�[2Jb�c�"
    assert text("x" * 70, 8) == "xxxxxxx…"
    assert text(123) == "123"


def test_sparklines() -> None:
    assert sparkline([None, 0, 1, 3, 6], has_blocks=True) == " ▁▂▄▇"
    assert sparkline([0, 0], has_blocks=True) == "▁▁"
    assert sparkline([None, 3.5], has_blocks=False) == " #"
    assert sparkline([], has_blocks=True) == ""
    assert sparkline([-0.02, None, -0.01], has_blocks=True) == "▁ ▁"
    assert sparkline([-0.02, 0, 6], has_blocks=True) == "▁▁▇"
    # What is not 0 is seen.
    assert sparkline([0, 1, 1e9], has_blocks=True) == "▁▂▇"
