"""Whether text of others may stand in a message of ours: held against Python's own reader of JSON."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastws._relay import is_json_members

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
_OBJECTS = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        _SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    ),
    min_size=1,
    max_size=4,
)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def by_python(members: bytes) -> bool:
    try:
        found = json.loads(f"{{{members.decode()}}}", parse_constant=_refuse)
    except ValueError:
        return False
    return isinstance(found, dict) and len(found) > 0


@given(_OBJECTS, st.booleans(), st.sampled_from([None, 0, 2]))
def test_members_of_any_object_may_stand(found: dict[str, Any], is_ascii: bool, indent: int | None) -> None:
    try:
        text = json.dumps(found, ensure_ascii=is_ascii, allow_nan=False, indent=indent).encode()
    except UnicodeEncodeError:
        return  # a lone surrogate
    assert is_json_members(text[1:-1])


_WHOLE = rb'"a":"\u00e9\n\"\\","b":[1,-2.5e+3,0,{},[],[{"c":null}]],"d":{"e":true,"f":false}'


@settings(max_examples=600, deadline=None)
@given(
    st.integers(0, len(_WHOLE)),
    st.integers(0, 3),
    st.binary(max_size=3) | st.text('"\\{}[],:0123456789.-+eEtrufalsn \n', max_size=4).map(str.encode),
)
def test_what_is_damaged_is_seen_where_python_sees_it(at: int, n: int, put: bytes) -> None:
    damaged = _WHOLE[:at] + put + _WHOLE[at + n :]
    assert is_json_members(damaged) == by_python(damaged), damaged


@pytest.mark.parametrize(
    "text",
    [
        b"", b" ", b",", b'"a"', b'"a":', b'"a":1,', b'"a":1}', b'"a":1},{"b":2', b'"a":NaN', b'"a":Infinity',
        b'"a":01', b'"a":1.', b'"a":.5', b'"a":+1', b'"a":1e', b'"a":"\x1f"', b'"a":"\\x"', b'"a":"\\u12"', b'"a":"',
        b'"a":[1,]', b'"a":[', b'"a":[1}', b'"a":{"b"}', b'"a":{,}', b'"a":tru', b"a:1", b'"a":"\xff"',
        b'"a":"\xed\xa0\x80"',
    ],
)  # fmt: skip
def test_what_no_message_may_hold(text: bytes) -> None:
    assert not is_json_members(text)


def test_containers_within_each_other_are_bounded() -> None:
    for n, is_fine in ((2048, True), (2049, False)):
        assert is_json_members(b'"a":' + b"[" * n + b"]" * n) is is_fine
    assert not is_json_members(b'"a":' + b"[" * 100_000)
