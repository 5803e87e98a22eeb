"""What flags take: numbers, and what is said of a text that is none."""

from __future__ import annotations

import argparse
import math
from typing import Final

# What fits whatever counts, also below Python.
_MAX_COUNT: Final = (1 << 31) - 1
# Eleven days. Nothing that is run from a command line takes longer, and timers do not overflow.
_MAX_SECONDS: Final = 1e6


def count(text: str) -> int:
    """A whole number from 1 on."""
    # int() reads the digits of every script, and has words of its own for thousands of them.
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and 0 < int(text) <= _MAX_COUNT):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, not {text!r}")
    return int(text)


def positive(text: str) -> float:
    """A number above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, not {text!r}")
    return value


def duration(text: str) -> float:
    """A time that may be none."""
    value = _number(text)
    if not 0 <= value < _MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"expected seconds, not {text!r}")
    return value


def some_duration(text: str) -> float:
    """A time that is not none."""
    value = duration(text)
    if not value:
        raise argparse.ArgumentTypeError("expected more than 0 seconds")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
