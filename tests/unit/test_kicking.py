"""Connections that are closed everywhere: how many, and who has not said."""

from __future__ import annotations

import pytest

from fastws.relay import kicking
from fastws.relay.control import Kick, KickAnswer, encode
from tests.relays import until
from tests.unit.session_sites import Site, settle, sites


def closing(site: Site, n: int) -> list[tuple[str | None, str | None, str | None]]:
    """Let a site close `n` connections whenever it is told; returns what it was told."""
    told = []

    def close(kick: Kick) -> int:
        told.append((kick.user_id, kick.jti, kick.connection_id))
        return n

    site.relay.kicking.on_kick = close
    return told


async def test_all_are_told_and_what_they_close_is_counted() -> None:
    async with sites(3) as (_, _, (one, two, three)):
        told = closing(two, 2), closing(three, 3)
        assert await one.relay.kicking.kick(user_id="kim", jti=None, connection_id=None) == (5, [])
        assert await one.relay.kicking.kick(user_id=None, jti="j", connection_id=None) == (5, [])
        assert told == ([("kim", None, None), (None, "j", None)],) * 2


async def test_who_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kicking, "ANSWER_SECONDS", 0.05)
    async with sites(3) as (_, _, (one, two, three)):
        closing(two, 2)
        closing(three, 3)
        three.link.is_held = True
        found = await one.relay.kicking.kick(user_id="kim", jti=None, connection_id=None)
        assert found in ((2, [three.relay.name]), (0, [two.relay.name, three.relay.name]))
        # What comes later counts for nobody.
        three.link.let_go()
        await settle()
        assert one.relay.counts.refused == 0


async def test_nobody_is_waited_for_where_nobody_is_heard() -> None:
    async with sites() as (_, _, (one, two)):
        closing(two, 2)
        one.link.is_up = False
        one.link.is_held = True
        assert await one.relay.kicking.kick(user_id="kim", jti=None, connection_id=None) == (
            0,
            [two.relay.name],
        )
        one.link.is_up = True


async def test_only_who_was_asked_counts_and_once() -> None:
    async with sites(3) as (_, _, (one, two, three)):
        three.link.is_held = True
        closing(two, 2)

        def close(kick: Kick) -> int:
            for origin in (two.relay.origin, two.relay.origin, 99):
                two.link.send(
                    f"{{test:0}}:to:{one.relay.origin:016x}", encode(KickAnswer(origin, kick.id, 7))
                )
            three.link.let_go()
            return 2

        two.relay.kicking.on_kick = close
        assert await one.relay.kicking.kick(user_id="kim", jti=None, connection_id=None) == (7, [])


async def test_one_that_asks_for_no_answer_gets_none() -> None:
    async with sites() as (_, _, (one, two)):
        told = closing(two, 1)
        n = two.link.n_sent
        one.link.send("{test:0}:control", encode(Kick(one.relay.origin, "kim")))
        await until(lambda: told)
        assert two.link.n_sent == n
