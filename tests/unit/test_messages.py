"""The message types read what they write, and describe what others write."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from fastws import messages
from fastws.errors import ErrorCode
from fastws.market.market import FEED_STATUSES
from fastws.messages.examples import examples
from fastws.messages.fields import FeedState

REQUESTS = get_args(messages.ClientMessage)
ANSWERS = get_args(messages.ServerMessage)


@pytest.mark.parametrize("kind", [*REQUESTS, *ANSWERS], ids=lambda kind: kind.__name__)
def test_every_type_has_texts_and_examples(kind: type[msgspec.Struct]) -> None:
    assert (kind.__doc__ or "").strip()
    tag = kind.__struct_config__.tag
    union: Any = messages.ClientMessage if kind in REQUESTS else messages.ServerMessage
    for example in examples()[str(tag)]:
        text = msgspec.json.encode(example)
        read = msgspec.json.decode(text, type=union)
        assert type(read) is kind
        # Nothing is in an example that no type knows, and the order of its fields is theirs.
        assert list(example) == [
            name
            for name in ("type", *kind.__struct_fields__)
            if example.get(name) is not None or name in example
        ]


def test_examples_are_of_known_types() -> None:
    assert set(examples()) == {kind.__struct_config__.tag for kind in (*REQUESTS, *ANSWERS)}


def test_the_error_of_a_wrong_message_can_name_it() -> None:
    assert messages.request_id(b'{"type":"nonsense","id":"a"}') == "a"
    assert messages.request_id(b'{"id":5}') == 5
    for text in (b"", b"[1]", b'{"id":[]}', b'{"id":1.5}', b"\xff", b"[" * 100_000):
        assert messages.request_id(text) is msgspec.UNSET


def test_unset_fields_are_left_out_and_null_is_not() -> None:
    answer = messages.Authenticated(user_id=7, expires_at=None, timestamp="t")
    assert (
        messages.encode(answer) == b'{"type":"authenticated","user_id":7,"expires_at":null,"timestamp":"t"}'
    )
    error = messages.Error(
        code=ErrorCode.FORBIDDEN, error_code=ErrorCode.FORBIDDEN, message="m", details={}, timestamp="t", id=1
    )
    assert messages.encode(error) == (
        b'{"type":"error","code":"FORBIDDEN","error_code":"FORBIDDEN","message":"m","details":{},"timestamp":"t","id":1}'
    )


def test_the_states_of_feeds_are_those_of_the_market() -> None:
    (meta,) = (item for item in get_args(FeedState) if isinstance(item, msgspec.Meta))
    assert set((meta.extra_json_schema or {})["enum"]) == set(FEED_STATUSES)
