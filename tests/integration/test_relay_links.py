"""The two connections to a real Redis: what is sent arrives, and they come back from whatever happens to it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from redis.asyncio import Connection
from redis.exceptions import ConnectionError as RedisConnectionError

from fastws.relay import redis_listening
from fastws.relay.address import parse_address
from fastws.relay.redis_links import RedisLink
from tests.certificates import files
from tests.redis_server import RedisServer
from tests.serving import free_port


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


class End:
    """A link and what it was told."""

    def __init__(self, url: str, queue_limit: int = 1 << 20) -> None:
        self.messages: list[bytes] = []
        self.changes: list[str | None] = []
        self.listening: list[str] = []
        self.link = RedisLink(
            parse_address(url),
            on_message=self.messages.append,
            on_change=self.changes.append,
            on_listening=self.listening.append,
            queue_limit=queue_limit,
        )

    async def until(self, condition: str, seconds: float = 20.0) -> None:
        async with asyncio.timeout(seconds):
            while not eval(condition, {"self": self, "len": len}):
                await asyncio.sleep(0.005)


@asynccontextmanager
async def end(url: str, *channels: str, queue_limit: int = 1 << 20) -> AsyncIterator[End]:
    made = End(url, queue_limit)
    made.link.listen(channels)
    made.link.start()
    try:
        yield made
    finally:
        await made.link.stop(1.0)


async def test_messages_arrive_in_order(redis: RedisServer) -> None:
    async with end(redis.url, "{a}:1") as hearing, end(redis.url, "{a}:2") as sending:
        await hearing.until("self.link.is_up and self.listening")
        sent = [b"%d" % i + b"\0\r\n" * (i % 7) for i in range(2000)]
        for data in sent:
            sending.link.send("{a}:1", data)
        await hearing.until("len(self.messages) >= 2000")
        assert hearing.messages == sent
        assert hearing.changes == [None]
        await sending.until("self.link.queue_size == 0")


async def test_channels_come_and_go(redis: RedisServer) -> None:
    async with end(redis.url, "{a}:1") as made:
        await made.until("self.link.is_up")
        made.link.listen(["{a}:2", "{a}:3"])
        await made.until("self.link.is_listening('{a}:3')")
        made.link.ignore(["{a}:2"])
        assert not made.link.is_listening("{a}:2")
        async with asyncio.timeout(20):
            while "{a}:2" in redis.command("PUBSUB", "CHANNELS"):
                await asyncio.sleep(0.01)
        for channel in ("{a}:2", "{a}:3"):
            made.link.send(channel, channel.encode())
        await made.until("self.messages")
        assert made.messages == [b"{a}:3"]


async def test_it_comes_back_and_brings_what_waited(redis: RedisServer) -> None:
    async with end(redis.url, "{a}:1") as made:
        await made.until("self.link.is_up")
        redis.kill()
        await made.until("not self.link.is_up")
        for i in range(5):
            made.link.send("{a}:1", b"%d" % i)
        redis.start()
        await made.until("self.link.is_up and len(self.messages) == 5")
        assert made.messages == [b"0", b"1", b"2", b"3", b"4"]
        assert [change is None for change in made.changes] == [True, False, True]


async def test_what_waits_is_bounded_and_the_oldest_goes(redis: RedisServer) -> None:
    async with end(redis.url, "{a}:1", queue_limit=1000) as made:
        await made.until("self.link.is_up")
        for i in range(100):
            made.link.send("{a}:1", b"%099d" % i)
        assert made.link.queue_size <= 1000
        await made.until("len(self.messages) >= 10")
        assert [int(data) for data in made.messages] == list(range(90, 100))
        assert made.link.n_dropped == 90


async def test_a_redis_that_stands_still_is_given_up(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_listening, "REDIS_SILENCE_SECONDS", 0.3)
    async with end(redis.url, "{a}:1") as made:
        await made.until("self.link.is_up")
        redis.freeze()
        await made.until("not self.link.is_up")
        redis.thaw()
        await made.until("self.link.is_up")
        assert "nothing was heard" in str(made.changes[1])


async def test_what_has_come_while_it_stood_still_itself_is_heard(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process that is stopped for longer than the silence after which a connection is given up."""
    monkeypatch.setattr(redis_listening, "REDIS_SILENCE_SECONDS", 1.0)
    async with end(redis.url, "{a}:1") as made:
        await made.until("self.link.is_up and self.listening")
        made.link.send("{a}:1", b"before")
        await made.until("self.messages")
        assert redis.command("PUBLISH", "{a}:1", "meanwhile").strip() == ":1"
        time.sleep(redis_listening.REDIS_SILENCE_SECONDS + 0.1)  # noqa: ASYNC251 - the loop is to stand still
        made.link.send("{a}:1", b"after")
        await made.until("len(self.messages) == 3")
        assert made.messages == [b"before", b"meanwhile", b"after"]
        assert (made.changes, made.link.n_connects) == ([None], 1)


async def test_a_connection_that_ends_while_it_is_told_what_to_listen_to(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What redis-py raises then is none of its own errors."""
    write = Connection._send_packed_command
    ended: list[bool] = []

    async def end_before(self: Connection, command: Iterable[bytes]) -> None:
        command = list(command)
        if not ended and b"SUBSCRIBE" in b"".join(command):
            ended.append(True)
            await self.disconnect(nowait=True)
        await write(self, command)

    async with end(redis.url, "{a}:1") as made:
        await made.until("self.link.is_listening('{a}:1')")
        monkeypatch.setattr(Connection, "_send_packed_command", end_before)
        made.link.listen(["{a}:2"])
        await made.until("self.link.is_listening('{a}:1') and self.link.is_listening('{a}:2')")
        assert ended
        made.link.send("{a}:2", b"there")
        await made.until("self.messages")
        assert [change is None for change in made.changes] == [True, False, True]


async def test_it_ends_though_redis_py_makes_an_error_of_that(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_tried = 0

    async def connect(self: Connection) -> None:
        nonlocal n_tried
        n_tried += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RedisConnectionError("it was closed") from None

    monkeypatch.setattr(Connection, "connect", connect)
    async with asyncio.timeout(30), end(redis.url, "{a}:1") as made:
        async with asyncio.timeout(20):
            while n_tried < 2:
                await asyncio.sleep(0)
    assert made.changes == ["it was closed"]
    assert n_tried == 2


async def test_it_ends_though_a_cancellation_is_forgotten_while_it_writes(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `asyncio.wait_for` of Python 3.11 does, where what it waits for is done at the same moment."""
    write = Connection.send_command
    begun: list[str] = []

    async def forget(self: Connection, *command: str, **options: object) -> None:
        await write(self, *command, **options)
        if "SUBSCRIBE" in command:
            begun.append(command[0])
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    monkeypatch.setattr(Connection, "send_command", forget)
    async with asyncio.timeout(30), end(redis.url, "{a}:1") as made:
        await made.until("self.link.is_listening('{a}:1')")
    assert begun == ["SUBSCRIBE"]


async def test_a_wrong_password_is_said_without_it(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--requirepass", "right one") as redis:
        async with end(f"redis://:wr0ng@127.0.0.1:{redis.port}", "{a}:1") as made:
            await made.until("self.changes")
            assert made.changes == ["Redis refuses the user or the password of the setting relay"]
        async with end(f"redis://:right%20one@127.0.0.1:{redis.port}", "{a}:1") as made:
            await made.until("self.link.is_up")
        async with end(redis.url, "{a}:1") as made:
            await made.until("self.changes")
            assert made.changes != [None]


async def test_memory_that_is_full_is_not_ours(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--maxmemory", "1") as redis:
        async with end(redis.url, "{a}:1") as made:
            await made.until("self.link.is_up")
            made.link.send("{a}:1", b"x" * 100_000)
            await made.until("self.messages")


async def test_what_redis_refuses_is_left_out_and_all_else_arrives_once(tmp_path: Path) -> None:
    rights = ("on", ">word", "+@all", "allkeys", "resetchannels", "&{a}:1", "&{a}:2")
    with RedisServer(tmp_path, "--user", "some", *rights) as redis:
        async with end(f"redis://some:word@127.0.0.1:{redis.port}", "{a}:1") as made:
            await made.until("self.link.is_up")
            for i in range(300):
                made.link.send("{a}:3" if i % 3 == 0 else "{a}:1", b"%d" % i)
            await made.until("len(self.messages) >= 200 and self.link.queue_size == 0")
            assert made.messages == [b"%d" % i for i in range(300) if i % 3]
            assert made.link.n_refused == 100
            assert made.link.is_up
            assert made.changes == [None]
            # Where everything is refused, it is not there.
            assert "OK" in redis.command("ACL", "SETUSER", "some", "-publish")
            made.link.send("{a}:1", b"to nobody")
            await made.until("len(self.changes) == 2")
            assert "no permissions" in str(made.changes[1])
            assert not made.link.is_up
            assert "OK" in redis.command("ACL", "SETUSER", "some", "+publish")
            await made.until("self.link.is_up")
            made.link.send("{a}:1", b"again")
            await made.until("self.messages[-1] == b'again'")


@pytest.mark.parametrize("more", ["+info +config|get", ""])
async def test_the_rights_that_the_documents_name_suffice(tmp_path: Path, more: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    rights = re.search(r"^user fastws (on .*\n  .*)$", text, re.MULTILINE)
    assert rights is not None
    words = rights[1].replace("PASSWORD", "word").replace("+info +config|get", more).split()
    with RedisServer(tmp_path, "--user", "fastws", *words) as redis:
        async with end(f"redis://fastws:word@127.0.0.1:{redis.port}/0", "{fastws:0}:control") as made:
            await made.until("self.link.is_up")
            made.link.listen(["{fastws:0}:shard:0/4"])
            await made.until("self.link.is_listening('{fastws:0}:shard:0/4')")
            made.link.ignore(["{fastws:0}:shard:0/4"])
            made.link.send("{fastws:0}:control", b"there")
            await made.until("self.messages")
            assert made.changes == [None]
            made.link.send("others", b"nothing else")
            await made.until("self.link.n_refused == 1")


async def test_a_message_that_ends_the_connection_is_left_out(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--proto-max-bulk-len", "1mb") as redis:
        async with end(redis.url, "{a}:1", queue_limit=8 << 20) as made:
            await made.until("self.link.is_up")
            for i in range(40):
                made.link.send("{a}:1", bytes(3 << 20) if i == 20 else b"%d" % i)
            await made.until("self.link.n_refused and b'39' in self.messages and self.link.is_up")
            # What was on its way when the connection ended may have come twice.
            assert sorted(set(map(int, made.messages))) == [i for i in range(40) if i != 20]
            assert made.link.n_refused == 1
            assert made.link.queue_size == 0


async def test_a_redis_that_ends_listeners_for_one_message_is_recognized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = ("--client-output-buffer-limit", "pubsub 100kb 0 0")
    hidden = ("--rename-command", "CONFIG", "")
    for options, said in (
        (limit, "more than 102400 bytes wait"),
        ((*limit, *hidden), "connections in a row"),
    ):
        with RedisServer(tmp_path, *options) as redis:
            async with end(redis.url, "{a}:1") as made:
                await made.until("self.link.is_up")
                for n in range(1, 4):
                    made.link.send("{a}:1", bytes(500_000))
                    await made.until(f"self.link.n_connects > {n}")
                    assert made.link.is_up
                text = str(made.changes[-2])
                assert said in text
                assert "client-output-buffer-limit" in text


async def test_tls(tmp_path: Path) -> None:
    made = files()
    certificate = ("--tls-cert-file", made.certfile, "--tls-key-file", made.certfile)
    options = (*certificate, "--tls-ca-cert-file", made.authority_file, "--tls-auth-clients", "no")
    port = free_port()
    # Beside its plain port, by which it is seen that it has started.
    with RedisServer(tmp_path, "--tls-port", str(port), *map(str, options)):
        url = f"rediss://localhost:{port}/0"
        async with end(f"{url}?ssl_ca_certs={made.authority_file}", "{a}:1") as one:
            await one.until("self.link.is_up")
            one.link.send("{a}:1", b"secret")
            await one.until("self.messages")
        async with end(url, "{a}:1") as two:
            await two.until("self.changes and 'ertificate' in str(self.changes[0])")


async def test_a_cluster_uses_sharded_channels(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf") as redis:
        assert "OK" in redis.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        async with end(redis.url, "{a}:1", "{a}:2") as made:
            await made.until("self.link.is_up and self.link.is_listening('{a}:2')")
            assert "{a}:2" in redis.command("PUBSUB", "SHARDCHANNELS")
            made.link.send("{a}:2", b"there")
            await made.until("self.messages")
            made.link.ignore(["{a}:2"])
            async with asyncio.timeout(20):
                while "{a}:2" in redis.command("PUBSUB", "SHARDCHANNELS"):
                    await asyncio.sleep(0.01)


async def test_sentinels_lead_to_the_master_and_to_the_next_one(tmp_path: Path) -> None:
    with ExitStack() as stack:
        master = stack.enter_context(RedisServer(tmp_path))
        replica = stack.enter_context(RedisServer(tmp_path, "--replicaof", "127.0.0.1", str(master.port)))
        config = tmp_path / "sentinel.conf"
        config.write_text(
            f"sentinel monitor prices 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds prices 300\n"
            "sentinel failover-timeout prices 2000\n"
        )
        sentinel = stack.enter_context(RedisServer(tmp_path, config=config))
        async with asyncio.timeout(30):
            while "slave0" not in sentinel.command("INFO", "sentinel") and "slaves=1" not in sentinel.command(
                "INFO", "sentinel"
            ):
                await asyncio.sleep(0.05)
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/prices"
        async with end(url, "{a}:1") as made:
            await made.until("self.link.is_up")
            made.link.send("{a}:1", b"by the first")
            await made.until("self.messages")
            assert "{a}:1" in master.command("PUBSUB", "CHANNELS")
            master.kill()
            await made.until("not self.link.is_up")
            made.link.send("{a}:1", b"by the second")
            await made.until("self.link.is_up and len(self.messages) == 2", 20.0)
            assert "{a}:1" in replica.command("PUBSUB", "CHANNELS")
            assert made.messages == [b"by the first", b"by the second"]
