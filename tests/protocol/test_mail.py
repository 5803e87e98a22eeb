"""Alerts and other messages to a user, over real sockets: every connection gets each once, also one that was away."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from listening import until

from fastws._market import PriceUpdate
from fastws.market.alert_messages import Alert
from fastws.server.server import Server
from fastws.settings import Settings
from tests.clients import Client, Message, client
from tests.rawclient import RawClient, upgrade_head

SECRET = "a secret of more than thirty-two bytes"
CODE = "005930"


def token(sub: str = "alice") -> str:
    return jwt.encode({"sub": sub, "exp": time.time() + 600}, SECRET, "HS256")


class Site:
    """A server on the loop of the test, whose prices and alerts are numbered by the test."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.mail = server.admission.mail
        self.url = "ws://{}:{}/v1/ws".format(*server.listener.addresses[0])
        self.told: list[int] = []
        self.mail.on_told = lambda alert: self.told.append(alert.threshold)

    def client(self, query: str = "", user: str | None = "alice") -> Any:
        return client(f"{self.url}?{query}" + ("" if user is None else f"&token={token(user)}"))

    def price(self, number: int) -> int:
        market = self.server.market
        instrument = market.instrument(CODE)
        assert instrument is not None
        return market.publish_price(PriceUpdate(instrument, number))

    def alert(self, number: int, user: str = "alice") -> int:
        return self.server.tell(user, Alert(CODE, "price_above", number, number, "m"))

    async def gone(self, connection: Client) -> str:
        """Cut a connection, wait until the server knows, and return the id of its session."""
        n_sessions = len(self.server.sessions)
        connection.connection.transport.abort()
        await until(lambda: len(self.server.sessions) > n_sessions)
        session_id: str = connection.greeting["connection_id"]
        return session_id


@contextlib.asynccontextmanager
async def site(**settings: Any) -> AsyncIterator[Site]:
    server = Server(Settings(port=0, jwt_secret=SECRET, batch_interval_ms=5, shutdown_spread=0, **settings))
    await server.start()
    try:
        yield Site(server)
    finally:
        await server.stop()


async def subscribed(connection: Client) -> None:
    await connection.subscribe("stock", CODE)
    await connection.until_snapshot()


async def heard(connection: Client) -> list[Message]:
    """Everything that was sent before now, with batches taken apart; snapshots stay whole."""
    messages: list[Message] = []
    connection.on_message = messages.append
    await connection.sync()
    # An answer overtakes data: what was under way has come when a later one is answered behind it.
    for _ in range(2):
        await connection.sync()
    connection.on_message = lambda message: None
    flat: list[Message] = []
    for message in messages:
        if message["type"] == "batch" and "snapshot" not in message:
            flat += message["messages"]
        elif message["type"] != "pong":
            flat.append(message)
    return flat


def numbers(messages: list[Message]) -> list[int]:
    """The numbers of alerts, and those of prices with a minus sign, in order."""
    found = []
    last = 0
    for message in messages:
        if message["type"] in ("alert", "price_update"):
            found.append(message["threshold"] if message["type"] == "alert" else -message["price"])
            assert message["sequence"] > last, messages
            last = message["sequence"]
    return found


async def test_what_was_missed_comes_in_its_place() -> None:
    async with site() as made, made.client() as connection:
        await subscribed(connection)
        made.alert(1)
        assert numbers(await heard(connection)) == [1]
        session_id = await made.gone(connection)
        for number in range(2, 12):
            made.alert(number) if number % 3 == 0 else made.price(number)
        made.alert(99, "bob")
        assert made.told == [1]
        async with made.client(f"session_id={session_id}") as again:
            answer = await again.receive()
            assert (answer["type"], answer["recovered"]) == ("reconnected", True)
            assert answer["missed_messages_count"] == 10
            assert numbers(await heard(again)) == [-2, 3, -4, -5, 6, -7, -8, 9, -10, -11]
            made.alert(12)
            made.price(13)
            assert numbers(await heard(again)) == [12, -13]
            assert made.told == [1, 3, 6, 9, 12]


async def test_the_cursor_of_the_client_holds() -> None:
    async with site() as made, made.client() as connection:
        await subscribed(connection)
        sequences = [made.alert(number) for number in range(1, 6)]
        assert numbers(await heard(connection)) == [1, 2, 3, 4, 5]
        session_id = await made.gone(connection)
        made.alert(6)
        # The last two were not seen.
        async with made.client(f"session_id={session_id}&last_sequence={sequences[2]}") as again:
            assert again.greeting["sequence"] == sequences[2]
            assert (await again.receive())["missed_messages_count"] == 3
            assert numbers(await heard(again)) == [4, 5, 6]


@pytest.mark.parametrize("query", ["", "&last_sequence=0&epoch=other", "&last_sequence=999999"])
async def test_without_history_it_comes_before_the_snapshot(query: str) -> None:
    async with site(history_bytes=0) as made, made.client() as connection:
        await subscribed(connection)
        made.alert(1)
        assert numbers(await heard(connection)) == [1]
        session_id = await made.gone(connection)
        made.price(2)
        first = made.alert(3)
        made.price(4)
        made.alert(5)
        made.price(6)
        async with made.client(f"session_id={session_id}{query}") as again:
            assert again.greeting["sequence"] < first  # no cursor that goes beyond what follows
            answer = await again.receive()
            assert answer["recovered"] is False
            # Without history only these are known to be missing.
            assert answer["missed_messages_count"] == 2
            *alerts, snapshot = await heard(again)
            assert numbers(alerts) == [3, 5]
            assert list(alerts[0]) == [
                "type", "code", "alert_type", "threshold", "current_price", "message", "timestamp", "sequence",
            ]  # fmt: skip
            assert snapshot["snapshot"] is True
            assert [value["price"] for value in snapshot["messages"]] == [6]
            assert snapshot["sequence"] > alerts[-1]["sequence"]


async def test_each_connection_of_a_user_gets_it_once() -> None:
    async with site() as made, made.client() as stays, made.client() as goes:
        await subscribed(goes)
        session_id = await made.gone(goes)
        made.alert(1)
        assert made.told == [1]
        assert numbers(await heard(stays)) == [1]
        async with made.client(f"session_id={session_id}") as again:
            assert numbers(await heard(again)) == [1]
            session_id = await made.gone(again)
        async with made.client(f"session_id={session_id}") as again:
            answer = await again.receive()
            assert answer["missed_messages_count"] == 0
            assert numbers(await heard(again)) == []
        assert numbers(await heard(stays)) == []


@pytest.mark.parametrize("history_bytes", [0, 1 << 20])
async def test_a_connection_that_takes_a_session_over_hears_nothing_twice(history_bytes: int) -> None:
    async with site(history_bytes=history_bytes) as made, made.client() as connection:
        await subscribed(connection)
        session_id = await made.gone(connection)
        async with made.client() as before:
            made.alert(1)
            assert numbers(await heard(before)) == [1]
        made.alert(0)
        async with made.client() as other, made.client(user=None) as late:
            made.alert(2)
            # What nobody has heard goes to the first one, and what one has heard with the session.
            assert numbers(await heard(other)) == [0, 2]
            await other.send(type="reconnect", session_id=session_id)
            answer = await other.until_type("reconnected")
            assert answer["missed_messages_count"] == 1
            assert [message["threshold"] for message in await heard(other) if "threshold" in message] == [1]
            # A connection that becomes the user's later hears what comes later.
            await late.send(type="auth", token=token())
            await late.until_type("authenticated")
            made.alert(3)
            assert numbers(await heard(late)) == numbers(await heard(other)) == [3]


async def test_a_paused_connection_gets_it_when_it_is_resumed() -> None:
    async with site() as made, made.client() as connection:
        await subscribed(connection)
        await connection.send(type="pause")
        await connection.until_type("paused")
        made.alert(1)
        made.price(2)
        made.alert(3)
        assert await heard(connection) == []
        assert made.told == []
        await connection.send(type="resume")
        resumed, first, second, snapshot = await heard(connection)
        assert resumed["type"] == "resumed"
        assert numbers([first, second]) == [1, 3]
        assert snapshot["snapshot"] is True
        assert made.told == [1, 3]


@pytest.mark.parametrize("history_bytes", [0, 1 << 20])
async def test_a_paused_session_goes_on_paused(history_bytes: int) -> None:
    async with site(history_bytes=history_bytes) as made, made.client() as connection:
        await subscribed(connection)
        await connection.send(type="pause")
        await connection.until_type("paused")
        made.alert(1)
        session_id = await made.gone(connection)
        made.alert(2)
        async with made.client(f"session_id={session_id}") as again:
            assert (await again.receive())["missed_messages_count"] == 2
            made.alert(3)
            assert await heard(again) == []
            await again.send(type="resume")
            assert numbers(await heard(again)) == [1, 2, 3]
            assert numbers(await heard(again)) == []


async def test_a_session_without_subscriptions_is_kept_for_its_user_only() -> None:
    async with site() as made, made.client() as connection, made.client(user=None) as nobody:
        nobody.connection.transport.abort()
        session_id = await made.gone(connection)
        assert len(made.server.sessions) == 1
        made.alert(1)
        async with made.client(f"session_id={session_id}") as again:
            answer = await again.receive()
            assert answer["restored_subscriptions"] == {}
            assert numbers(await heard(again)) == [1]


async def test_only_so_many_are_kept() -> None:
    async with site(kept_messages_per_user=3) as made, made.client() as connection:
        session_id = await made.gone(connection)
        for number in range(1, 6):
            made.alert(number)
        assert len(made.mail.mailboxes) == 3
        assert made.told == []
        async with made.client(f"session_id={session_id}") as again:
            assert (await again.receive())["missed_messages_count"] == 3
            assert numbers(await heard(again)) == [3, 4, 5]
            assert made.told == [3, 4, 5]


@pytest.mark.parametrize("has_session", [False, True])
async def test_what_told_nobody_goes_to_the_first_connection(has_session: bool) -> None:
    async with site() as made:
        session_id = ""
        if has_session:
            async with made.client() as connection:
                session_id = await made.gone(connection)
        for number in (1, 2):
            made.alert(number)
        made.alert(3, "bob")
        assert made.told == []
        async with made.client(user=None) as stranger, made.client() as first, made.client() as second:
            assert numbers(await heard(first)) == [1, 2]
            assert numbers(await heard(second)) == numbers(await heard(stranger)) == []
            assert made.told == [1, 2]
            if has_session:
                async with made.client(f"session_id={session_id}") as again:
                    assert numbers(await heard(again)) == [1, 2]
        async with made.client() as late:
            assert numbers(await heard(late)) == []


async def test_what_a_paused_connection_has_not_heard_goes_to_one_that_can_hear() -> None:
    async with site() as made, made.client() as paused:
        await paused.send(type="pause")
        await paused.until_type("paused")
        made.alert(1)
        async with made.client() as other:
            assert numbers(await heard(other)) == [1]
            await paused.send(type="resume")
            assert numbers(await heard(paused)) == [1]
            assert numbers(await heard(other)) == []


async def test_what_told_nobody_is_not_told_after_its_time() -> None:
    async with site(session_ttl=1e-6) as made:
        made.alert(1)
        async with made.client() as connection:
            assert numbers(await heard(connection)) == []
    async with site(kept_messages_per_user=0) as made:
        made.alert(1)
        assert made.told == [1]  # nobody will be
        async with made.client() as connection:
            assert numbers(await heard(connection)) == []


async def test_what_came_while_a_client_catches_up_is_in_its_place() -> None:
    rng = random.Random(5)
    async with site() as made, made.client() as connection:
        await subscribed(connection)
        session_id = await made.gone(connection)
        expected = []
        for number in range(1, 30_000):
            if number % 5000 == 0:
                made.alert(number)
                expected.append(number)
            else:
                made.price(number)
                expected.append(-number)
        async with made.client(f"session_id={session_id}") as again:
            assert (await again.receive())["missed_messages_count"] == len(expected)
            (server_side,) = [client.connection for client in made.server.admission.presence.by_id.values()]
            assert server_side.is_restoring
            number = 30_000
            messages: list[Message] = []
            again.on_message = messages.append
            while len(messages) < 20 or server_side.is_restoring:
                number += 1
                if rng.random() < 0.5:
                    made.alert(number)
                    expected.append(number)
                else:
                    made.price(number)
                    expected.append(-number)
                await again.receive()
            await again.until(lambda message: json.dumps(message, default=str).count(str(number)))
            flat = [each for message in messages for each in message.get("messages", [message])]
            assert numbers(flat) == expected


async def test_what_a_client_did_not_take_comes_with_its_session() -> None:
    """A client that reads nothing: what was sent to it and not taken by the kernel is not lost with it."""
    async with site(outbox_hard_bytes=8 << 20, outbox_soft_bytes=4 << 20) as made:
        raw = RawClient(made.server.listener.addresses[0][1], receive_buffer=4096, handshake=False)
        try:
            raw.send(upgrade_head(f"/v1/ws?token={token()}"))
            await made.server.hub.loop.run_in_executor(None, raw.read_response)
            greeting = await read(made, raw)
            raw.send_message(type="subscribe", subscription_type="stock", targets=[CODE])
            while "snapshot" not in await read(made, raw):
                pass
            (server_side,) = [client.connection for client in made.server.admission.presence.by_id.values()]
            number = 0
            while server_side.queued_messages < 1000:
                for _ in range(50):
                    number += 1
                    made.price(number)
                await until(lambda: made.server.hub.flusher.is_idle)
            last = made.alert(number + 1)
            # It also counts what is published after the alert as not yet there.
            made.price(number + 2)
        finally:
            raw.close()
        await until(lambda: len(made.server.sessions) == 1)
        async with made.client(f"session_id={greeting['connection_id']}") as again:
            answer = await again.receive()
            assert answer["recovered"] is True
            assert answer["missed_messages_count"] > 1000
            messages: list[Message] = []
            again.on_message = messages.append
            await again.until(lambda message: message.get("sequence", 0) > last)
            flat = [each for message in messages for each in message.get("messages", [message])]
            found = numbers(flat)
            assert len(found) == answer["missed_messages_count"]
            assert found[-2:] == [number + 1, -number - 2]
            assert found[:-2] == [-each for each in range(number - len(found) + 3, number + 1)]


async def read(made: Site, raw: RawClient) -> Message:
    """The next message of a blocking client, while the server of this loop runs."""
    loop = made.server.hub.loop
    message: Message = await loop.run_in_executor(None, raw.read_message)
    return message


async def test_what_an_earlier_process_left_untold_goes_to_the_first_connection() -> None:
    async with site() as made:
        made.mail.claim_later([("alice", Alert(CODE, "price_above", n, n, "m")) for n in (1, 2)])
        made.mail.claim_later([("bob", Alert(CODE, "price_above", 3, 3, "m"))])
        async with made.client(user=None) as stranger, made.client() as first, made.client() as second:
            assert numbers(await heard(first)) == [1, 2]
            assert numbers(await heard(second)) == numbers(await heard(stranger)) == []
            await stranger.send(type="auth", token=token("bob"))
            assert numbers((await heard(stranger))[1:]) == [3]
        assert made.told == [1, 2, 3]
