"""Bars and histograms for a terminal."""

from __future__ import annotations

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

if sys.platform != "linux":
    pytest.skip("the load client is built on epoll", allow_module_level=True)

from fastws.bench.plot import bar, can_draw_blocks, histogram


@pytest.mark.parametrize(
    ("share", "blocks", "signs"),
    [(0.0, "", ""), (1.0, "█" * 10, "#" * 10), (0.5, "█" * 5, "#" * 5), (0.05, "▌", "."), (1e-9, "▏", ".")],
)
def test_a_bar_shows_what_there_is(share: float, blocks: str, signs: str) -> None:
    assert bar(share, 10, has_blocks=True) == blocks
    assert bar(share, 10, has_blocks=False) == signs


def test_which_terminals_take_blocks() -> None:
    assert can_draw_blocks("utf-8")
    assert not can_draw_blocks("ascii")
    assert not can_draw_blocks(None)
    assert not can_draw_blocks("no-such-encoding")


def test_a_histogram_of_nothing() -> None:
    assert histogram([]) == []


def test_a_histogram_has_a_line_for_each_step_also_empty_ones() -> None:
    lines = histogram([(0.3, 5.0), (0.9, 5.0), (4.0, 80.0), (10.0, 10.0)], width=60)
    assert [line.split()[1] for line in lines] == ["1", "1.5", "2", "3", "5", "7", "10"]
    assert [line.split()[-2:] for line in lines] == [
        ["10.0%", "10.0%"],
        ["0.0%", "10.0%"],
        ["0.0%", "10.0%"],
        ["0.0%", "10.0%"],
        ["80.0%", "90.0%"],
        ["0.0%", "90.0%"],
        ["10.0%", "100.0%"],
    ]
    longest = max(lines, key=lambda line: line.count("█"))
    assert longest == lines[4]


def test_little_is_neither_nothing_nor_all() -> None:
    first, last = histogram([(1.0, 99_999.0), (1.4, 1.0)])
    assert first.split()[-2:] == [">99.9%", ">99.9%"]
    assert last.split()[-2:] == ["<0.1%", "100.0%"]


@given(
    st.lists(st.tuples(st.floats(0.1, 60_000), st.floats(0.01, 1e9)), min_size=1, max_size=50),
    st.integers(50, 100),
    st.booleans(),
)
def test_every_histogram_fits_and_adds_up(
    buckets: list[tuple[float, float]], width: int, has_blocks: bool
) -> None:
    lines = histogram(sorted(buckets), width=width, has_blocks=has_blocks)
    assert all(len(line) <= width for line in lines)
    edges = [float(re.sub("[, ]", "", line[5:12])) for line in lines]
    assert edges == sorted(set(edges))
    assert edges[-1] * 1.000001 >= max(upper for upper, _ in buckets)
    assert lines[-1].endswith("100.0%")
    assert has_blocks or "█" not in "".join(lines)
