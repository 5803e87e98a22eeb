"""Every fault that has been reported of KIS, one row each, on the fake server: in the end the connection is subscribed
and receives, and it has kept KIS's rules.

The rows run beside each other, because they mostly wait; each has a server of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import aiohttp
import pytest

from fastws.kis import KISInUseError
from fastws.kis.connection import Changed, Live, Lost
from fastws.kis.control import Registration
from fastws.kis.registrations import State
from fastws.kis.testing import FakeKIS
from tests.kis_client import TICK, WANTED, Client, keeps_the_rules, until

Check = Callable[[FakeKIS, Client], Awaitable[None]]
IN_USE = (
    '{"header":{"tr_id":"(null)","tr_key":"","encrypt":"N"},'
    '"body":{"rt_cd":"9","msg_cd":"OPSP8996","msg1":"ALREADY IN USE appkey"}}'
)


class Fault(NamedTuple):
    """`actions` are done to a client that receives; with `is_drop` its connection is dropped then.

    `is_lost` tells whether the connection is to be lost by it. `then` is done before the client is waited for, `check`
    afterwards. `allowed` are the violations that lie in the fault itself.
    """

    name: str
    actions: tuple[dict[str, Any], ...] = ()
    is_drop: bool = False
    is_lost: bool = True
    then: Check | None = None
    check: Check | None = None
    allowed: tuple[str, ...] = ()
    settings: dict[str, Any] = {}


async def dropped_again(kis: FakeKIS, client: Client) -> None:
    """In the middle of the second session's registrations."""
    await until(
        lambda: len(kis.journal.sessions) == 2 and kis.journal.sessions[-1].n_requests == 2, "two requests"
    )
    kis.do("drop")
    client.events.clear()


async def another_program(kis: FakeKIS, client: Client) -> None:
    """Another program takes the app key while the connection is away, and gives it back after a while."""
    async with aiohttp.ClientSession() as session, session.ws_connect(kis.ws_url) as socket:
        key = kis.journal.requests[-1].approval_key
        header = {"approval_key": key, "custtype": "P", "tr_type": "1", "content-type": "utf-8"}
        await socket.send_json(
            {"header": header, "body": {"input": {"tr_id": "H0STCNT0", "tr_key": "035720"}}}
        )
        await until(lambda: any(isinstance(error, KISInUseError) for error in client.errors), "refused")


async def in_use_is_waited_for(kis: FakeKIS, client: Client) -> None:
    assert any(isinstance(error, KISInUseError) for error in client.errors)
    delays = [e.retry_in for e in client.events if isinstance(e, Lost) and isinstance(e.error, KISInUseError)]
    assert all(delay is not None and delay >= 1.0 for delay in delays)


async def failures_are_counted(kis: FakeKIS, client: Client) -> None:
    """An upgrade that succeeds and is refused a moment later is no success."""
    assert [e.n_failures for e in client.events if isinstance(e, Lost)] == [1, 2, 3]


async def registered_once_more(kis: FakeKIS, client: Client) -> None:
    requests = [entry for entry in kis.journal.requests if entry.session == 2]
    assert len(requests) > len(WANTED)


async def one_refusal(kis: FakeKIS, client: Client) -> None:
    """What did not fit waits; there is one refusal, no drop, and after the next session it has a place."""
    assert kis.journal.n_violations("over_cap") == 1
    assert client.registrations.cap == 2
    assert client.connection.n_sessions == 2


async def two_of_three(kis: FakeKIS, client: Client) -> None:
    await until(
        lambda: any(isinstance(e, Changed) and e.change.is_full for e in client.events), "the refusal"
    )
    await until(lambda: client.registrations.n_active == 2, "two of three")
    client.frames.clear()
    await until(lambda: len({tr_id for tr_id, _ in client.frames}) == 2, "data of both")
    await one_refusal(kis, client)
    kis.do("set", settings={"cap": 41})
    client.registrations.unwant(TICK)
    client.registrations.want(TICK)
    client.registrations._learned_at = -1e9  # an hour ago
    kis.do("drop")


async def unwanted_for_nothing(kis: FakeKIS, client: Client) -> None:
    """What was never registered is not taken back, and what is taken back is so once."""
    strange = Registration("H0STCNT0", "035720")
    for _ in range(20):
        client.connection.unwant(strange)
        client.connection.want(strange)
        client.connection.unwant(strange)
    for _ in range(20):
        client.connection.unwant(TICK)
    await until(lambda: [e for e in kis.journal.requests if e.tr_type == "2"], "taken back")
    client.connection.want(TICK)
    await client.subscribed()


async def only_one_was_taken_back(kis: FakeKIS, client: Client) -> None:
    removed = [Registration(e.tr_id, e.tr_key) for e in kis.journal.requests if e.tr_type == "2"]
    assert removed == [TICK]


async def every_record_is_there(kis: FakeKIS, client: Client) -> None:
    counts = {int(message.split(b"|")[2]) for _, message in client.frames}
    await until(
        lambda: any(int(m.split(b"|")[2]) == 19 for _, m in client.frames), f"19 records, not {counts}"
    )
    assert client.connection.n_bad == 0


async def nothing_is_dropped(kis: FakeKIS, client: Client) -> None:
    assert client.connection.n_bad == 0
    widths = {
        len(m.split(b"|", 3)[3].split(b"^")) // int(m.split(b"|")[2])
        for t, m in client.frames
        if t == TICK.tr_id
    }
    assert 48 in widths


async def one_is_dropped(kis: FakeKIS, client: Client) -> None:
    await until(lambda: client.connection.n_bad == 1, "counted")


async def a_second_lies_between(kis: FakeKIS, client: Client) -> None:
    assert client.registrations.gaps[1] >= 1.0


async def a_new_key_was_fetched(kis: FakeKIS, client: Client) -> None:
    refused = [entry for entry in kis.journal.requests if entry.answer == "OPSP0011"]
    assert len(refused) == 1
    assert kis.journal.requests[-1].approval_key != refused[0].approval_key


async def silence_is_normal(kis: FakeKIS, client: Client) -> None:
    """Outside trading hours PINGPONG is all there is."""
    kis.do("set", settings={"phase": "closed"})
    n_before = client.connection.n_pingpongs
    await until(
        lambda: client.connection.n_pingpongs >= n_before + 9, "PINGPONGs for longer than the watchdog waits"
    )
    assert client.connection.n_sessions == 1
    kis.do("set", settings={"phase": "regular"})


def say(message: str) -> tuple[dict[str, Any], ...]:
    return ({"do": "say", "message": message},)


REFUSED: dict[str, Any] = {"is_lost": False, "check": one_is_dropped}
REPEATED = ("repeated",)

# The sections are those of the protocol's description: 9.1 what goes wrong, 9.2 reconnecting, 9.3 the app key in use,
# 12.1 to 12.6 bad answers and frames, 12.7 the list of faults.
FAULTS = (
    Fault("9.1 open, but nothing comes", ({"do": "silence", "seconds": 6},)),
    Fault("9.1 acknowledged, but silent after a reconnect", ({"do": "mute", "coming": 1},), True,
          check=registered_once_more, allowed=REPEATED),
    Fault("9.1 neither acknowledged nor data after a reconnect", ({"do": "no_ack", "obey": False},), True,
          check=registered_once_more),
    Fault("9.1 closed without a close frame", ({"do": "drop"},), check=a_second_lies_between),
    Fault("9.1 the connect times out", ({"do": "hang_upgrade", "times": 1},), True),
    Fault("9.1 nothing listens", ({"do": "refuse_connections", "seconds": 2},), True),
    Fault("9.1 the old slot is held", ({"do": "set", "settings": {"slot_hold": 2.5}},), True,
          check=in_use_is_waited_for, allowed=("second_session",)),
    Fault("9.1 another program has the app key", ({"do": "drop"},), then=another_program,
          check=in_use_is_waited_for, allowed=("second_session", "fruitless_connects")),
    Fault("9.1 no room, and then no drops", ({"do": "set", "settings": {"cap": 2}},), True, then=two_of_three,
          allowed=("over_cap",)),
    Fault("9.1 ends of what never began", is_lost=False, then=unwanted_for_nothing, check=only_one_was_taken_back),
    Fault("9.1 many records in a frame", ({"do": "burst", "frames": 3, "records": 19},), is_lost=False,
          check=every_record_is_there),
    Fault("9.1 wider since a Monday", ({"do": "set", "settings": {"widths": {"H0UNCNT0": 48}}},), is_lost=False,
          check=nothing_is_dropped),
    Fault("9.1 data before its acknowledgement", ({"do": "late_ack", "after_data": True, "times": 3},), True),
    Fault("9.1 upgraded, and refused a moment later", ({"do": "answer", "code": "OPSP8996", "times": 2},), True,
          check=failures_are_counted, allowed=("second_session",)),
    Fault("9.1 closed cleanly", ({"do": "close", "code": 1000},), check=a_second_lies_between),
    Fault("9.1 closed with a code of no list", ({"do": "close", "code": 4321, "reason": "own"},)),
    Fault("9.1 three errors, and a fourth", ({"do": "refuse_upgrade", "status": 503, "times": 4},), True),
    Fault("9.2 the approval key is too old", ({"do": "expire_keys"},), True, check=a_new_key_was_fetched,
          allowed=("unknown_approval",)),
    Fault("9.2 the approval key is unknown, and a close", ({"do": "expire_keys"},), True,
          settings={"close_on_unknown_approval": True}, check=a_new_key_was_fetched, allowed=("unknown_approval",)),
    Fault("9.2 a new approval key ends the old one", ({"do": "expire_keys"},), True,
          settings={"approval_replaces": True}, check=a_new_key_was_fetched, allowed=("unknown_approval",)),
    Fault("9.2 put off", ({"do": "answer", "code": "OPSP0007", "times": 2},), True),
    Fault("9.2 silence outside trading hours", is_lost=False, then=silence_is_normal),
    Fault("9.3 refused at once, and closed", (*say(IN_USE), {"do": "close", "code": 1000}),
          check=in_use_is_waited_for),
    Fault("12.1 a request that cannot be read", ({"do": "answer", "code": "OPSP9999"},), True),
    Fault("12.1 a fault within KIS", ({"do": "answer", "code": "OPSP9993"},), True),
    Fault("12.1 approval: HTTP 500", ({"do": "expire_keys"}, {"do": "rest", "of": "approval", "status": 500}), True,
          allowed=("unknown_approval",)),
    Fault("12.1 approval: not JSON", ({"do": "expire_keys"}, {"do": "rest", "of": "approval", "body": "<html>"}), True,
          allowed=("unknown_approval",)),
    Fault("12.1 approval: slow", ({"do": "expire_keys"}, {"do": "rest", "of": "approval", "delay": 1.0}), True,
          allowed=("unknown_approval",)),
    Fault("12.1 approval: unknown app key", ({"do": "expire_keys"},
          {"do": "rest", "of": "approval", "status": 403, "code": "EGW00103"}), True, allowed=("unknown_approval",)),
    Fault("12.6 a wrong width", say("0|H0UNCNT0|002|005930^1^2"), **REFUSED),
    Fault("12.6 a wrong count", say("0|H0UNCNT0|0x1|005930^1^2"), **REFUSED),
    Fault("12.6 cut short", say("0|H0UNCNT0|001"), **REFUSED),
    Fault("12.6 neither data nor JSON", say("hello"), **REFUSED),
    Fault("12.6 JSON cut short", say('{"header":'), **REFUSED),
    Fault("12.6 encrypted without a key", say("1|H0STCNI0|001|not-base64!"), **REFUSED),
    Fault("12.6 an unknown TR", say("0|H0ZZZZZ0|001|005930^1^2"), is_lost=False),
    Fault("12.7 no acknowledgement", ({"do": "no_ack", "times": 2},), True, allowed=REPEATED),
    Fault("12.7 a late acknowledgement", ({"do": "late_ack", "delay": 0.3, "times": 3},), True),
    Fault("12.7 an acknowledgement later than the patience", ({"do": "late_ack", "delay": 0.9, "times": 2},), True,
          allowed=REPEATED),
    Fault("12.7 reordered acknowledgements", ({"do": "reorder_acks", "of": 3},), True),
    Fault("12.7 the upgrade refused with 503", ({"do": "refuse_upgrade", "status": 503, "times": 2},), True),
    Fault("12.7 an abrupt drop", is_drop=True),
    Fault("12.7 silence without a close", ({"do": "silence"},)),
    Fault("12.7 dropped while resubscribing", is_drop=True, then=dropped_again),
    Fault("12.7 a burst of large frames", ({"do": "burst", "frames": 300, "records": 19},), is_lost=False),
    Fault("12.7 acknowledged, but silent", ({"do": "mute", "coming": 3},), True, allowed=REPEATED),
)  # fmt: skip


async def run(fault: Fault) -> None:
    settings = {"rate": 30, "pingpong_interval": 0.3, "pong_timeout": 1.5, "approval_interval": 0.0}
    async with FakeKIS(**(settings | fault.settings)) as kis:
        client = Client(kis)
        client.connection.start()
        try:
            await client.subscribed()
            await client.receiving()
            client.events.clear()
            for action in fault.actions:
                fields = dict(action)
                kis.do(fields.pop("do"), **fields)
            if fault.is_drop:
                kis.do("drop")
            if fault.then is not None:
                await fault.then(kis, client)
            if fault.is_lost:
                await until(lambda: any(isinstance(event, Live) for event in client.events), "live again", 30)
            await client.subscribed(30)
            await client.receiving()
            if fault.check is not None:
                await fault.check(kis, client)
            assert client.connection.n_failures == 0
            assert (client.connection.n_sessions > 1) is fault.is_lost
            assert all(client.registrations.state(item) is State.ACTIVE for item in WANTED)
        finally:
            await client.connection.close(is_quick=True)
        keeps_the_rules(client, also=fault.allowed)


async def run_all() -> list[BaseException | None]:
    room = asyncio.Semaphore(6)

    async def run_one(fault: Fault) -> None:
        async with room:
            await asyncio.wait_for(run(fault), 60)

    return await asyncio.gather(*(run_one(fault) for fault in FAULTS), return_exceptions=True)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, BaseException | None]:
    return {fault.name: outcome for fault, outcome in zip(FAULTS, asyncio.run(run_all()), strict=True)}


@pytest.mark.parametrize("name", [fault.name for fault in FAULTS])
def test_subscribed_and_receiving_after(name: str, outcomes: dict[str, BaseException | None]) -> None:
    outcome = outcomes[name]
    if outcome is not None:
        raise outcome
