"""The C API, by extensions that are compiled against the header that is installed."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import fastws
from fastws._market import PriceUpdate
from fastws.client import Client
from fastws.client import PriceUpdate as PriceMessage
from tests import capi
from tests.serving import until

OK, FULL, CLOSED, INVALID = 0, -1, -2, -3


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("capi")
    capi.consumer(directory)
    capi.cython_consumer(directory)
    return directory


@pytest.fixture(scope="module")
def consumer(built: Path) -> Any:
    return capi.load(next(built.glob("consumer.*so")))


@pytest.fixture(scope="module")
def cython_consumer(built: Path) -> Any:
    return capi.load(next(built.glob("consumer_cython.*so")))


@pytest.fixture
async def server() -> AsyncIterator[fastws.Server]:
    async with fastws.Server(port=0) as server:
        yield server


def follow(server: fastws.Server) -> list[PriceUpdate]:
    """Every price that the market gets from here on."""
    seen: list[PriceUpdate] = []
    assert server._inner is not None
    server._inner.market.on_price.append(seen.append)
    return seen


async def emptied(server: fastws.Server) -> dict[str, int]:
    """Wait until the ring is empty; its counts."""
    inlet = server.hub.__fastws_inlet__
    async with asyncio.timeout(60):
        while inlet.waiting_bytes:
            await asyncio.sleep(0.005)
    return inlet.counts()


async def publish_from_threads(server: fastws.Server, consumer: Any, n: int) -> None:
    codes = [f"T{i}" for i in range(8)]
    last = dict.fromkeys(codes, 0)
    n_wrong = 0

    def check(update: PriceUpdate) -> None:
        nonlocal n_wrong
        code, i = update.instrument.code, update.price
        whole = (update.volume, update.trade_volume, update.high, update.low)
        n_wrong += i != last[code] + 1 or set(whole) != {i} or update.change != Decimal(i).scaleb(-2)
        last[code] = i

    assert server._inner is not None
    server._inner.market.on_price.append(check)
    done = await asyncio.to_thread(consumer.run, server, codes, n, True)
    counts = await emptied(server)
    assert [(taken, status) for taken, _, status in done] == [(n, 0)] * 8
    assert counts["full"] == sum(full for _, full, _ in done)
    assert counts["taken"] == counts["published"] == 8 * n
    assert (n_wrong, set(last.values())) == (0, {n})


async def test_eight_threads_publish_and_nothing_is_torn(server: fastws.Server, consumer: Any) -> None:
    await publish_from_threads(server, consumer, 10_000)


async def test_without_eventfd_a_pipe_wakes_the_loop(monkeypatch: pytest.MonkeyPatch, consumer: Any) -> None:
    # As on macOS.
    monkeypatch.delattr(os, "eventfd")
    async with fastws.Server(port=0) as server:
        await publish_from_threads(server, consumer, 2000)


@pytest.mark.long
async def test_eight_threads_publish_ten_million(server: fastws.Server, consumer: Any) -> None:
    await publish_from_threads(server, consumer, 1_250_000)


async def test_a_full_ring_says_so_and_takes_the_rest_later(consumer: Any) -> None:
    async with fastws.Server(port=0, inlet_bytes=262_144) as server:
        # On the thread of the loop, so that nobody empties it meanwhile.
        ((taken, full, status),) = consumer.run(server, ["AAA"], 10_000, False)
        assert taken + full == 10_000
        # A price takes 160 bytes.
        assert 262_144 // 160 - 1 <= taken <= 262_144 // 160
        counts = await emptied(server)
        assert counts["published"] == taken
        assert counts["full"] == full
        assert status == OK
        ((again, _, _),) = consumer.run(server, ["AAA"], 1000, False)
        assert again == 1000


async def test_subscribers_see_what_an_extension_publishes(
    server: fastws.Server, cython_consumer: Any
) -> None:
    async with Client(server.url) as client:
        await client.subscribe("stock", ["005930"], mode="all")
        publishing = asyncio.create_task(asyncio.to_thread(cython_consumer.publish, server, "005930", 99))
        prices = []
        async for message in client:
            if isinstance(message, PriceMessage):
                prices.append(message.price)
                if message.price == 100:
                    break
        assert prices == list(range(1, 101))
        assert await publishing == 0


class TestOneByOne:
    """What each function answers, and what becomes of it."""

    @pytest.fixture
    async def kept(self, server: fastws.Server, consumer: Any) -> AsyncIterator[Any]:
        consumer.keep(server.hub)
        yield consumer
        consumer.let_go()

    async def test_a_code_has_one_number(self, kept: Any) -> None:
        first = kept.intern("005930")
        assert kept.intern("AAPL") == first + 1
        assert kept.intern("005930") == first

    @pytest.mark.parametrize("code", ["", "a b", "x" * 65, "\n"])
    async def test_a_code_that_cannot_be_one(self, kept: Any, code: str) -> None:
        with pytest.raises(ValueError, match=r"^code: "):
            kept.intern(code)

    async def test_an_instrument_comes_with_its_first_price(self, kept: Any, server: fastws.Server) -> None:
        topic = kept.intern("NEW1")
        assert server.hub.last_price("NEW1") is None
        assert kept.price(topic, 7150, 2, "KRX", 1_700_000_000_000) == OK
        await emptied(server)
        price = server.hub.last_price("NEW1")
        assert price is not None
        assert (str(price.price), price.venue, price.event_time_ms) == ("71.50", "KRX", 1_700_000_000_000)
        assert (price.change, price.volume, price.quality) == (None, None, None)

    async def test_venues_of_eight_letters_and_of_none(self, kept: Any, server: fastws.Server) -> None:
        topic = kept.intern("AAA")
        prices = follow(server)
        for venue in ("ABCDEFGH", "", "NXT"):
            assert kept.price(topic, 1, 0, venue) == OK
        await emptied(server)
        assert [price.venue for price in prices] == ["ABCDEFGH", None, "NXT"]

    @pytest.mark.parametrize(
        "arguments",
        [
            (99, 1, 0),
            (-1, 1, 0),
            (0, 1, 19),
            (0, 1, -1),
            (0, -(2**63), 0),
            (0, 1, 0, "K\n"),
            (0, 1, 0, "\u00e9"),
            (0, 1, 0, "KRX", -1),
            (0, 1, 0, "KRX", 253_402_300_800_000),
        ],
    )
    async def test_what_no_price_can_be(
        self, kept: Any, server: fastws.Server, arguments: tuple[object, ...]
    ) -> None:
        assert kept.intern("AAA") == 0
        assert kept.price(*arguments) == INVALID
        assert (await emptied(server))["invalid"] == 1

    async def test_books(self, kept: Any, server: fastws.Server) -> None:
        topic = kept.intern("AAA")
        assert kept.book(topic, 2, 10) == OK
        assert kept.book(topic, 2, 11) == INVALID
        assert kept.book(topic, 2, -1) == INVALID
        assert kept.book(topic, 19, 1) == INVALID
        assert kept.book(topic + 1, 2, 1) == INVALID
        await emptied(server)
        book = server.hub.last_book("AAA")
        assert book is not None
        assert book.bids == [(Decimal(1000 - i) / 100, 10 * (i + 1)) for i in range(10)]
        assert book.asks[9] == (Decimal("10.10"), 200)

    async def test_json(self, kept: Any, server: fastws.Server) -> None:
        assert kept.json(b'{"type": "price_update", "code": "AAA", "price": 1.90}') == OK
        assert kept.json(b"") == INVALID
        assert kept.json(b" " * 65_537) == INVALID
        for bad in (b"{", b"[]", b'{"type":"price_update","code":"AAA"}', b'{"type":"?"}', b"\xff" * 65_536):
            assert kept.json(bad) == OK
        counts = await emptied(server)
        assert (counts["published"], counts["rejected"], counts["invalid"]) == (1, 5, 2)
        price = server.hub.last_price("AAA")
        assert price is not None
        assert str(price.price) == "1.90"

    async def test_many_at_once(self, kept: Any, server: fastws.Server) -> None:
        topic = kept.intern("AAA")
        prices = follow(server)
        assert kept.many(topic, 5, -1) == 5
        assert kept.many(topic, 5, 3) == 3
        assert kept.many(topic, 5, 0) == INVALID
        assert kept.many(topic, 0, 0) == 0
        await emptied(server)
        assert [price.price for price in prices] == [1, 2, 3, 4, 5, 1, 2, 3]

    async def test_subscribers_are_counted_once_somebody_asks(self, kept: Any, server: fastws.Server) -> None:
        topic = kept.intern("005930")
        assert kept.subscribers(topic) == -1
        assert kept.subscribers(topic + 1) == -1
        assert kept.price(topic, 1, 0) == OK
        async with Client(server.url) as client, asyncio.timeout(30):
            await client.subscribe("stock", ["005930"])
            await client.subscribe("market", ["KOSPI"])
            while kept.subscribers(topic) != 2:
                await asyncio.sleep(0.01)

    async def test_the_counts(self, kept: Any, server: fastws.Server) -> None:
        topic = kept.intern("AAA")
        for scale in (0, 0, 99):
            kept.price(topic, 1, scale)
        assert await emptied(server) == {
            "taken": 2, "published": 2, "rejected": 0, "undelivered": 0, "full": 0, "invalid": 1,
        }  # fmt: skip
        assert [kept.count(which) for which in range(-1, 7)] == [0, 2, 2, 0, 0, 0, 1, 0]


async def test_what_was_published_before_the_stop_is_delivered(consumer: Any) -> None:
    async with fastws.Server(port=0) as server:
        prices = follow(server)
        consumer.keep(server)
        topic = consumer.intern("AAA")
        assert consumer.many(topic, 5000, -1) == 5000
    assert len(prices) == 5000
    assert consumer.price(topic, 1, 0) == CLOSED
    assert consumer.many(topic, 5, -1) == CLOSED
    with pytest.raises(ValueError, match="the server has ended"):
        consumer.intern("BBB")
    consumer.let_go()


async def test_threads_that_publish_through_the_stop_hear_of_it(consumer: Any) -> None:
    async with fastws.Server(port=0) as server:
        inlet = server.hub.__fastws_inlet__
        running = asyncio.create_task(asyncio.to_thread(consumer.run, server, ["A", "B", "C"], 1 << 40, True))
        async with asyncio.timeout(20):
            while inlet.counts()["taken"] < 1000:
                await asyncio.sleep(0.001)
    async with asyncio.timeout(20):
        done = await running
    assert [status for _, _, status in done] == [CLOSED] * 3
    counts = inlet.counts()
    assert (
        sum(taken for taken, _, _ in done) == counts["taken"] == counts["published"] + counts["undelivered"]
    )


async def test_two_servers_have_a_ring_each(consumer: Any) -> None:
    async with fastws.Server(port=0) as second:
        async with fastws.Server(port=0) as first:
            for server, n in ((first, 10), (second, 20)):
                ((taken, _, _),) = consumer.run(server, ["AAA"], n, False)
                assert taken == n
            assert (await emptied(first))["published"] == 10
            assert (await emptied(second))["published"] == 20
        ((taken, _, status),) = consumer.run(second, ["AAA"], 5, False)
        assert (taken, status) == (5, OK)
        assert (await emptied(second))["published"] == 25


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
async def test_a_child_process_publishes_nothing(server: fastws.Server, consumer: Any) -> None:
    consumer.keep(server)
    topic = consumer.intern("AAA")
    assert consumer.price(topic, 1, 0) == OK
    if (pid := os.fork()) == 0:
        os._exit(-consumer.price(topic, 2, 0))
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(status) == -CLOSED
    assert consumer.price(topic, 3, 0) == OK
    assert (await emptied(server))["published"] == 2
    last = server.hub.last_price("AAA")
    assert last is not None
    assert last.price == 3
    consumer.let_go()


@pytest.mark.parametrize("is_left", [True, False])
def test_the_program_ends_while_threads_publish(tmp_path: Path, built: Path, is_left: bool) -> None:
    """Also where nobody has left the server, whose ring nobody empties then."""
    shutil.copy(next(built.glob("consumer.*so")), tmp_path)
    program = tmp_path / "program.py"
    program.write_text(
        "import asyncio, sys, threading, fastws, consumer\n"
        "async def main():\n"
        "    server = fastws.Server(port=0)\n"
        "    await server.__aenter__()\n"
        "    arguments = (server, ['A', 'B', 'C', 'D'], 1 << 40, True)\n"
        "    threading.Thread(target=consumer.run, args=arguments, daemon=True).start()\n"
        "    while server.hub.last_price('D') is None:\n"
        "        await asyncio.sleep(0.001)\n"
        f"    if {is_left}:\n"
        "        await server.__aexit__(None, None, None)\n"
        "    sys.stdout.write('published')\n"
        "asyncio.run(main())\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(fastws.__file__).parents[1])}
    result = subprocess.run(
        [sys.executable, program], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stdout) == (0, "published"), result.stderr


def test_another_interpreter_of_the_process_is_refused() -> None:
    name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    program = (
        f"import {name} as interpreters, fastws._inlet\n"
        "made = interpreters.create()\n"
        "text = 'try:\\n import fastws._inlet\\nexcept ImportError as error:\\n print(error)'\n"
        "print(getattr(interpreters, 'run_string')(made, text) or '')\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "interpreter" in result.stdout, result.stdout + result.stderr


async def test_what_is_no_server(consumer: Any) -> None:
    with pytest.raises(TypeError, match=r"expected a fastws\.Server or its hub, got int"):
        consumer.keep(5)
    with pytest.raises(RuntimeError, match="does not run yet"):
        consumer.keep(fastws.Server(port=0))


@pytest.mark.parametrize(
    ("line", "doctored", "remedy"),
    [
        ("#define FASTWS_ABI 1u", "#define FASTWS_ABI 2u", "ABI 2 .* has ABI 1: install a newer fastws"),
        ("#define FASTWS_ABI 1u", "#define FASTWS_ABI 0u", "ABI 0 .* has ABI 1: compile the extension again"),
        (
            "#define FASTWS_API_VERSION 1u",
            "#define FASTWS_API_VERSION 2u",
            "version 2 .* has version 1: install a newer fastws",
        ),
    ],
)
def test_another_abi_is_refused_with_the_remedy(
    tmp_path: Path, line: str, doctored: str, remedy: str
) -> None:
    header = (Path(fastws.get_include()) / "fastws.h").read_text()
    assert line in header
    (tmp_path / "fastws.h").write_text(header.replace(line, doctored))
    path = capi.consumer(tmp_path, "doctored", f"-I{tmp_path}")
    with pytest.raises(ImportError, match=remedy):
        capi.load(path)


def test_the_layout_is_what_extensions_were_compiled_with(tmp_path: Path) -> None:
    capi.compile_extension(capi.HERE / "layout.c", tmp_path, "layout", "-std=c11")


def test_the_header_is_cplusplus_too(tmp_path: Path) -> None:
    source = tmp_path / "plus.cpp"
    source.write_text(
        "#include <Python.h>\n#include <fastws.h>\nint main() { return sizeof(fastws_api) == 0; }\n"
    )
    capi.compile_extension(source, tmp_path, "plus", "-std=c++11", "-Wall", "-Wextra", "-Werror")


@pytest.mark.parametrize(
    ("name", "sanitizer", "runs"),
    [
        ("ring_threads", "thread", [("3000", "0"), ("3000", "9999")]),
        ("ring_threads", "address,undefined", [("3000", "0"), ("3000", "9999")]),
        # One thread, which is held up.
        ("ring_held", "address,undefined", [()]),
    ],
)
def test_the_ring_under_a_sanitizer(
    tmp_path: Path, name: str, sanitizer: str, runs: list[tuple[str, ...]]
) -> None:
    program, refused = capi.ring_program(name, tmp_path, sanitizer)
    if "cannot find" in refused:
        pytest.skip(f"the compiler has no library for -fsanitize={sanitizer}")
    assert refused == ""
    for arguments in runs:
        result = capi.run(program, *arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        assert result.stderr == ""


def test_serve_loads_what_it_is_told(tmp_path: Path, built: Path) -> None:
    """``--load``: an extension publishes from its own thread as long as the server runs."""
    from tests.serving import Server  # noqa: PLC0415 - beside the fixture of that name

    shutil.copy(next(built.glob("consumer.*so")), tmp_path)
    (tmp_path / "my_feed.py").write_text(
        "import threading, consumer\n"
        "def setup(hub):\n"
        "    thread = threading.Thread(target=consumer.run, args=(hub, ['005930'], 500, True))\n"
        "    thread.start()\n"
        "    async def ending():\n"
        "        thread.join()\n"
        "        hub.publish_price('005930', 501)\n"
        "    return ending\n"
    )
    server = Server(
        tmp_path, "--load", "my_feed:setup", save_interval=0.1, database=f"sqlite:///{tmp_path}/values.db"
    )
    try:
        until(lambda: b'"price":500,' in server.get("/v1/stocks/005930")[1], "the last price")
        assert b'fastws_inlet_publications_total{what="published"} 500.0' in server.get("/metrics")[1]
    finally:
        server.end()
    again = Server(tmp_path, database=f"sqlite:///{tmp_path}/values.db")
    try:
        assert b'"price":501,' in again.get("/v1/stocks/005930")[1]
    finally:
        again.end()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("no_such_module:setup", "load: No module named 'no_such_module'"),
        ("my_feed:absent", "load: module 'my_feed' has no attribute 'absent'"),
        ("my_feed", "load: "),
        ("my_feed:wrong", "load: my_feed:wrong has returned 5"),
    ],
)
def test_what_cannot_be_loaded(tmp_path: Path, text: str, problem: str) -> None:
    from tests.serving import run  # noqa: PLC0415

    (tmp_path / "my_feed.py").write_text("def wrong(hub):\n    return 5\n")
    result = run(tmp_path, "serve", "--port", "0", "--load", text)
    assert result.returncode == 2, result.stderr
    assert problem in result.stderr
    assert "Traceback" not in result.stderr


def test_get_include_names_the_header() -> None:
    assert (Path(fastws.get_include()) / "fastws.h").is_file()
    assert sys.modules["fastws"] is fastws
