"""What instances are called."""

from __future__ import annotations

import os
import socket

import pytest

from fastws.relay.naming import instance_name

HERE = socket.gethostname()


@pytest.mark.parametrize(
    ("given", "place", "name"),
    [
        ("prices-1", ("10.0.0.5", 8000), "prices-1"),
        (None, ("10.0.0.5", 8000), "10.0.0.5:8000"),
        (None, ("push.example", 8000), "push.example:8000"),
        (None, ("2001:db8::5", 443), "[2001:db8::5]:443"),
        (None, ("0.0.0.0", 8001), f"{HERE}:8001"),
        (None, ("::", 8001), f"{HERE}:8001"),
        (None, ("127.0.0.1", 8001), f"{HERE}:8001"),
        (None, ("localhost", 8001), f"{HERE}:8001"),
        (None, ("0.0.0.0", 0), f"{HERE}/PID"),
        (None, None, f"{HERE}/PID"),
    ],
)
def test_a_name_tells_where_an_instance_is(
    given: str | None, place: tuple[str, int] | None, name: str
) -> None:
    assert instance_name(given, place) == name.replace("PID", str(os.getpid()))
