"""What ``fastws bench`` finds in servers that do wrong."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

if sys.platform != "linux":
    pytest.skip("the load client is built on epoll", allow_module_level=True)

from tests.benching import ONE_STOCK, Here

pytestmark = pytest.mark.plain("the load client speaks no TLS")

LISTED = [
    {"code": "005930", "market": "KOSPI", "sector": "IT"},
    {"code": "035720", "market": "KOSPI", "sector": None},
    {"code": "247540", "market": "KOSDAQ", "sector": "IT"},
]


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Here:
    return Here(capsys, tmp_path)


@contextlib.contextmanager
def server(
    publish: Callable[[ServerConnection], object], listed: object = None, n_requests: int = 1
) -> Iterator[tuple[str, ...]]:
    """One that acknowledges what it is sent and then does as it likes; yields the flags of a short load on it."""

    def on_connection(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(n_requests):
                connection.recv()
                connection.send('{"type":"subscribed"}')
            publish(connection)

    def on_request(connection: ServerConnection, request: Request) -> Response | None:
        if request.path != "/v1/stocks":
            return None
        status = 404 if listed is None else 200
        return Response(status, "as it is", Headers(), json.dumps({"stocks": listed}).encode())

    with serve(
        on_connection, "127.0.0.1", 0, process_request=on_request, compression=None, close_timeout=0.1
    ) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            url = f"ws://127.0.0.1:{listening.socket.getsockname()[1]}/"
            yield "--url", url, "--connections", "2", "--duration", "0.2", "--ramp-up", "0"
        finally:
            listening.shutdown()
            thread.join()


def price(seq: int, *, code: str = "005930", sequence: int | None = None, kind: str = "price_update") -> str:
    return (
        f'{{"type":"{kind}","code":"{code}","price":1,"timestamp":"2025-11-11T00:00:00.000Z",'
        f'"sequence":{sequence or seq},"seq":{seq}}}'
    )


def test_losses_and_repetitions_are_found(here: Here) -> None:
    def publish(connection: ServerConnection) -> None:
        for seq in range(1, 1000):
            for _ in range(0 if seq % 10 == 0 else 2 if seq % 10 == 5 else 1):
                connection.send(price(seq))
        connection.recv()

    with server(publish) as flags:
        printed, _ = here(*flags, *ONE_STOCK, status=1)
    assert "messages were lost without being declared" in printed
    assert "messages came twice" in printed
    assert "ok:" not in printed


def test_a_server_that_says_nothing_is_not_good(here: Here) -> None:
    with server(ServerConnection.recv) as flags:
        printed, _ = here(*flags, *ONE_STOCK, status=1)
    assert "FAULT: no message came" in printed
    assert "ok:" not in printed


def publish_all(connection: ServerConnection) -> None:
    """Numbered as a server would, one of each stock a time, and an order book, which only stocks bring."""
    for seq in itertools.count(1):
        for i, row in enumerate(LISTED):
            connection.send(price(seq, code=str(row["code"]), sequence=10 * seq + i))
        connection.send(price(seq, sequence=10 * seq + 5, kind="orderbook_update"))
        time.sleep(0.01)  # the rate


@pytest.mark.parametrize(
    ("subscribed", "unwanted"),
    [
        (["market:KOSPI"], 2),  # the stock of another market, and the book
        (["sector:IT"], 2),
        (["market:KOSPI,KOSDAQ"], 1),
        (["market:KOSPI", "stock:247540,mode=latest"], 1),
        (["market:KOSPI", "stock:005930,channels=orderbook,mode=latest", "sector:IT"], 0),
    ],
)
def test_what_markets_and_sectors_do_not_bring(
    here: Here, tmp_path: Path, subscribed: list[str], unwanted: int
) -> None:
    path = tmp_path / "out.json"
    with server(publish_all, LISTED, len(subscribed)) as flags:
        named = [word for text in subscribed for word in ("--subscribe", text)]
        printed, _ = here(*flags, *named, "--json", str(path), status=1 if unwanted else 0)
    load = json.loads(path.read_text())["run"]["load"]
    assert load["unwanted"] == pytest.approx(load["numbered"] * unwanted / 4, abs=10)
    assert ("messages were of what the connection had not subscribed to" in printed) is (unwanted > 0)
    assert "is not known" not in printed


@pytest.mark.parametrize(("listed", "flags"), [(None, []), ({}, []), (LISTED, ["--token", "a.b.c"])])
def test_without_a_list_of_stocks_the_report_says_what_it_leaves_out(
    here: Here, listed: object, flags: list[str]
) -> None:
    with server(publish_all, listed) as more:
        printed, _ = here(*more, "--subscribe", "market:KOSPI", *flags)
    assert "which stocks the markets and sectors have is not known" in printed
    assert "had not subscribed to" not in printed
