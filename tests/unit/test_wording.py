"""What a client is told of a value that does not fit: the field, and JSON's own words."""

from __future__ import annotations

from typing import Literal

import msgspec
import pytest

from fastws import messages
from fastws.wording import explain


class Level(msgspec.Struct):
    price: int
    quantity: bool | None


class Message(msgspec.Struct):
    levels: list[Level] = []
    kinds: dict[Literal["a", "b"], str | int] = {}


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        ("[]", "", "expected an object, got a list"),
        ("7", "", "expected an object, got an integer"),
        ('"x"', "", "expected an object, got a text"),
        ('{"levels":{}}', "levels", "expected a list, got an object"),
        ('{"levels":[[]]}', "levels[0]", "expected an object, got a list"),
        ('{"levels":[{"price":1}]}', "levels[0].quantity", "is missing"),
        ('{"levels":[{"price":1.5,"quantity":null}]}', "levels[0].price", "expected an integer, got a number"),
        ('{"levels":[{"price":1,"quantity":1}]}', "levels[0].quantity",
         "expected true or false or null, got an integer"),
        ('{"kinds":{"c":1}}', "kinds", "invalid value 'c'"),
        ('{"kinds":{"a":false}}', "kinds[...]", "expected an integer or a text, got true or false"),
        ("{", "", "input data was truncated"),
        ("{]", "", "JSON is malformed: object keys must be strings (byte 1)"),
    ],
)  # fmt: skip
def test_what_is_wrong_where(text: str, field: str, reason: str) -> None:
    with pytest.raises(msgspec.DecodeError) as caught:
        msgspec.json.decode(text, type=Message)
    found, why = explain(str(caught.value))
    assert (found, why) == (field, reason)


@pytest.mark.parametrize("value", ["x` - at `$.y`", "`str`", "", "`"])
def test_what_a_client_sent_is_left_as_it_is(value: str) -> None:
    text = msgspec.json.encode({"type": "subscribe", "subscription_type": value, "targets": ["a"]})
    with pytest.raises(msgspec.ValidationError) as caught:
        messages.decode(text)
    assert explain(str(caught.value)) == ("subscription_type", f"invalid value '{value}'")
