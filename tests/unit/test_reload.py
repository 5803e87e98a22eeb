"""Which settings a running server takes over, and that all of them can be."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator
from typing import Any, get_args

import msgspec
import pytest
from msgspec import Meta

import fastws.auth.authenticator
import fastws.auth.configured
import fastws.server.lifecycle
import fastws.server.reload
import fastws.server.server
import fastws.server.tls
from fastws.errors import SettingsError
from fastws.server.conversations import Conversations
from fastws.server.parts import configure_hub
from fastws.server.reload import reload
from fastws.server.server import Server
from fastws.sessions import Session
from fastws.settings import HINTS, SETTINGS, Settings

# What is read where it is needed, whenever it is: at the stop, for a request, for a new connection.
READ_LATE = {
    "shutdown_delay",
    "shutdown_spread",
    "shutdown_timeout",
    "admin_token",
    "force_update_interval",
    "relay_in_ready",
}


def read_in(*code: Any) -> set[str]:
    """Settings that the sources of modules and functions read as ``settings.NAME``, or name in a text."""
    text = "".join(map(inspect.getsource, code))
    names = re.findall(r'settings\.([a-z_]+)|"([a-z_]+)"', text)
    return {name for pair in names for name in pair if name in SETTINGS}


def test_every_setting_is_handed_out_or_takes_a_restart() -> None:
    taken_over = READ_LATE | read_in(
        fastws.server.reload,
        configure_hub,
        Conversations.configure,
        fastws.auth.authenticator,
        fastws.auth.configured,
        fastws.server.tls,
    )
    loaded_again = {"symbols_file", "kis_fixed_symbols"}
    for name, setting in SETTINGS.items():
        is_taken_over = name in taken_over | loaded_again
        assert is_taken_over != setting.needs_restart, name


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server(Settings(port=0))
    await made.start()
    yield made
    await made.stop()


def extremes(name: str) -> list[Any]:
    """The least and the largest value that a setting may have."""
    kind, *metas = get_args(HINTS[name])
    found = []
    for meta in metas:
        if isinstance(meta, Meta):
            found = [bound for bound in (meta.ge, meta.le) if bound is not None]
            if meta.gt is not None:
                found.append(meta.gt + 0.001)
    return [int(bound) if kind is int else float(bound) for bound in found if kind in (int, float)]


async def test_whatever_can_be_set_can_be_taken_over(server: Server) -> None:
    n = 0
    for name, setting in SETTINGS.items():
        if setting.needs_restart:
            continue
        for value in extremes(name):
            try:
                settings = Settings(**{"port": 0, name: value})
            except SettingsError:
                continue  # at odds with the default of another one
            done = await reload(server, settings)
            assert done.kept == []
            assert getattr(server.settings, name) == value
            n += 1
    assert n > 50
    await reload(server, Settings(port=0))


async def test_nothing_is_handed_out_when_something_is_wrong(server: Server) -> None:
    before = server.settings
    for wrong in (
        {"symbols_file": "/no/such/file"},
        {"jwt_algorithm": "RS256"},
        {"jwt_algorithm": "ES256", "jwt_public_key": "/no/such/file"},
    ):
        with pytest.raises(SettingsError):
            await reload(server, Settings(port=0, rate_limit=3, subscription_limit=3, **wrong))  # type: ignore[arg-type]
        assert server.settings is before
        assert server.hub.rate_limit == before.rate_limit
        assert server.targets.limit == before.subscription_limit


async def test_a_certificate_can_be_changed_and_not_begun_with(server: Server) -> None:
    settings = msgspec.structs.replace(
        Settings(port=0), certfile="/no/such/file", keyfile="/no/such/file", rate_limit=3
    )
    done = await reload(server, settings)
    assert done.kept == ["certfile", "keyfile"]
    assert server.settings.certfile is None
    assert server.hub.rate_limit == 3


async def test_lowered_limits_let_go_of_what_is_over_them(server: Server) -> None:
    for i in range(5):
        server.sessions.save(session(str(i)))
    assert len(server.sessions) == 5
    await reload(server, Settings(port=0, session_limit=2))
    server.sessions.save(session("5"))
    assert [isinstance(server.sessions.take(str(i), None, 0.0), Session) for i in range(6)] == [False] * 4 + [
        True
    ] * 2


def session(session_id: str) -> Session:
    return Session(
        session_id=session_id,
        user_key=None,
        subscriptions={},
        is_paused=False,
        cursor=0,
        epoch="e",
        saved_at=0.0,
    )


async def test_other_keys_are_noticed(server: Server) -> None:
    secret = "a secret of a length that is long enough"
    assert (await reload(server, Settings(port=0, jwt_secret=secret))).has_new_keys
    assert not (await reload(server, Settings(port=0, jwt_secret=secret))).has_new_keys
    assert (await reload(server, Settings(port=0, jwt_secret=secret + "r"))).has_new_keys
