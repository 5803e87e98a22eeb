"""What flags take as a number, and what they say of anything else."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from fastws.cli.arguments import count, duration, positive, some_duration


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (count, "1", 1),
        (count, "007", 7),
        (count, "2147483647", 2**31 - 1),
        (positive, "0.001", 0.001),
        (positive, "1e9", 1e9),
        (duration, "0", 0.0),
        (duration, "2.5", 2.5),
        (some_duration, "0.5", 0.5),
        (some_duration, "999999", 999_999.0),
    ],
)
def test_numbers(read: Callable[[str], float], text: str, value: float) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "texts", "words"),
    [
        (
            count,
            ["0", "-1", "1.5", "", "one", "2147483648", "٣", "²", "9" * 5000],
            "expected a whole number from 1 on, not ",
        ),
        (positive, ["0", "-1", "nan", "inf", "", "much"], "expected a number above 0, not "),
        (duration, ["-1", "nan", "inf", "1e6", "", "soon"], "expected seconds, not "),
        (some_duration, ["-1", "nan", "inf", "1e6", ""], "expected seconds, not "),
        (some_duration, ["0", "-0.0"], "expected more than 0 seconds"),
    ],
)
def test_what_is_none(read: Callable[[str], float], texts: list[str], words: str) -> None:
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError, match=f"^{words}"):
            read(text)
