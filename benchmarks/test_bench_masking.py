"""Masking a payload (unmasking is the same), beside numpy and the usual way in plain Python."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.conftest import Measure
from fastws._frames import mask_payload

KEY = b"\x12\x34\x56\x78"
SIZES = [(64, 500), (1024, 500), (64 * 1024, 20)]
IDS = ["64 B", "1 KiB", "64 KiB"]


def with_numpy(data: bytes, key: bytes) -> bytes:
    return (np.frombuffer(data, np.uint32) ^ np.frombuffer(key, np.uint32)).tobytes()


def with_integers(data: bytes, key: bytes) -> bytes:
    whole = key * (len(data) // 4)
    number = int.from_bytes(data, "little") ^ int.from_bytes(whole, "little")
    return number.to_bytes(len(data), "little")


def by_the_byte(data: bytes) -> bytes:
    return bytes(byte ^ mask for byte, mask in zip(data, itertools.cycle(KEY), strict=False))


def repeat(mask: Callable[[bytes, bytes], bytes], data: bytes, n: int) -> bytes:
    for _ in range(n):
        masked = mask(data, KEY)
    return masked


@pytest.mark.parametrize(("size", "n"), SIZES, ids=IDS)
def test_mask(measure: Measure, size: int, n: int) -> None:
    """mask_payload"""
    data = os.urandom(size)
    masked = measure(repeat, mask_payload, data, n, unit="payloads", items=n, size=n * size)
    assert masked == by_the_byte(data)


@pytest.mark.parametrize("peer", ["numpy", "integers"])
@pytest.mark.parametrize(("size", "n"), SIZES, ids=IDS)
def test_mask_otherwise(measure: Measure, size: int, n: int, peer: str) -> None:
    """numpy by words of 32 bits, and plain Python by large integers"""
    data = os.urandom(size)
    masked = measure(
        repeat,
        with_numpy if peer == "numpy" else with_integers,
        data,
        n,
        unit="payloads",
        items=n,
        size=n * size,
        against=f"masking.mask[{IDS[SIZES.index((size, n))]}]",
        like="python",
    )
    assert masked == by_the_byte(data)
