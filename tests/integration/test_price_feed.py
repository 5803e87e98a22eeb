"""`fastws feed` and `--feed poll:SOURCE` from end to end: processes, files, providers' stand-ins and clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastws.auth.tokens import sign
from fastws.cli import main
from fastws.cli.feed import publish_urls
from fastws.errors import SettingsError
from fastws.kis.testing import FakeKIS
from fastws.settings import Settings
from tests.certificates import files, forced
from tests.clients import client
from tests.conftest import StartServer
from tests.serving import command, environment, require_module, run, until
from tests.yahoo import FakeYahoo, quote

ADMIN = "an admin token of some length"
SECRET = "a secret of at least thirty-two bytes"
FORCE = "/api/realtime/force_price_update/"


def user() -> dict[str, str]:
    """The headers of a user's requests."""
    return {"Authorization": f"Bearer {sign({'sub': 'user-1'}, SECRET.encode(), 'HS256')}"}


def write(file: Path, **prices: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(
        "symbol,price,previous_close\n" + "".join(f"{code},{p},147.75\n" for code, p in prices.items())
    )
    new.rename(file)


def authorities() -> dict[str, str]:
    """What lets the service trust the servers, where they speak TLS."""
    return {"SSL_CERT_FILE": str(files().authority_file)} if forced else {}


class PriceFeed:
    """One ``fastws feed`` or its alias, ended by a signal."""

    def __init__(self, directory: Path, *arguments: str, name: str = "feed", **variables: str) -> None:
        self.log_path = directory / f"feed-{time.monotonic_ns()}.log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command(name, *arguments),
                cwd=directory,
                env=environment({"admin_token": ADMIN}) | authorities() | variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def until_logged(self, text: str) -> None:
        def is_logged() -> bool:
            assert self.process.poll() is None, f"the feed ended with {self.process.returncode}:\n{self.log}"
            return text in self.log

        until(is_logged, f"{text!r} in the log of the feed", 20.0)

    def end(self, status: int = 0) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            found = self.process.wait(15)
        finally:
            self.process.kill()
        assert found == status, self.log
        assert "Traceback" not in self.log
        assert ADMIN not in self.log


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[Callable[..., PriceFeed]]:
    started: list[PriceFeed] = []

    def start(*arguments: str, **options: str) -> PriceFeed:
        started.append(PriceFeed(tmp_path, *arguments, **options))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


def price_of(server: Any, code: str) -> dict[str, Any] | None:
    status, body = server.get(f"/v1/stocks/{code}")
    return json.loads(body, parse_float=str) if status == 200 else None


# The service.


async def test_a_file_is_polled_and_published_to_two_servers(
    server: StartServer, feed: Callable[..., PriceFeed], tmp_path: Path
) -> None:
    write(tmp_path / "prices.csv", AAPL="150.25", MSFT="0", GOOGL="nan")
    one = await asyncio.to_thread(server, admin_token=ADMIN)
    other = await asyncio.to_thread(server, admin_token=ADMIN)
    urls = f"{one.http_url},{other.http_url}"
    async with client(one.url) as viewer:
        await viewer.subscribe("stock", "AAPL", "MSFT")
        polling = feed(
            "--interval", "0.3", "--batch-size", "100", "--verbose", "--source", "csv",
            "--publish-url", urls, "--symbols", "AAPL", "MSFT", "GOOGL",
        )  # fmt: skip
        first = await viewer.until_type("price_update")
        assert (first["code"], str(first["price"]), str(first["change"])) == ("AAPL", "150.25", "2.50")
        assert first["quality"] == "polled"
        write(tmp_path / "prices.csv", AAPL="150.30", MSFT="410.10")
        await viewer.until(lambda message: "410.10" in str(message))
    await asyncio.to_thread(until, lambda: price_of(other, "MSFT"), "the price at the other server")
    assert price_of(other, "AAPL") == price_of(one, "AAPL") | {
        "timestamp": price_of(other, "AAPL")["timestamp"]
    }  # type: ignore[operator,index]
    assert price_of(one, "GOOGL") is None
    await asyncio.to_thread(polling.end)
    log = polling.log
    assert "MSFT not positive: price: 0" in log
    assert "GOOGL malformed: price: 'nan' is no number" in log
    assert "batch polled" in log
    assert "price feed was ended" in log
    assert "not_published=0" in log


async def test_yahoo_by_the_names_that_it_has_elsewhere(
    server: StartServer, feed: Callable[..., PriceFeed], monkeypatch: pytest.MonkeyPatch
) -> None:
    require_module("yfinance")
    serving = await asyncio.to_thread(server, admin_token=ADMIN)
    async with FakeYahoo() as yahoo, client(serving.url) as viewer:
        yahoo.rows = {
            "AAPL": quote("AAPL", 150.2, regularMarketPreviousClose=147.75),
            "MSFT": quote("MSFT", None),
        }
        await viewer.subscribe("stock", "AAPL", "MSFT")
        polling = feed(
            "--source", "yahoo", "--symbols", "AAPL", "MSFT", "--publish-url", serving.http_url,
            name="start_price_feed",
            REALTIME_UPDATE_INTERVAL="1", REALTIME_BATCH_SIZE="1", REALTIME_CACHE_TIMEOUT="600",
            no_proxy="127.0.0.1", **yahoo.variables,
        )  # fmt: skip
        update = await viewer.until_type("price_update")
        assert [str(update[name]) for name in ("code", "price", "change", "change_percent")] == [
            "AAPL",
            "150.20",
            "2.45",
            "1.66",
        ]
        await asyncio.to_thread(polling.until_logged, "MSFT malformed: price: there is none")
        assert set(yahoo.calls) == {"AAPL", "MSFT"}
        await asyncio.to_thread(polling.end)


async def test_kis_is_asked_for_its_stocks_only(server: StartServer, feed: Callable[..., PriceFeed]) -> None:
    serving = await asyncio.to_thread(server, admin_token=ADMIN)
    async with FakeKIS(rate=50, token_interval=0) as kis:
        polling = feed("--source", "kis", "--publish-url", serving.http_url, **kis.variables())
        await asyncio.to_thread(until, lambda: price_of(serving, "005930"), "a price of KIS", 20.0)
        await asyncio.to_thread(polling.end)
        calls = [call for call in kis.journal.calls if "quotations" in call.path]
        assert calls
        assert all(call.status == 200 for call in calls)


def test_a_wrong_token_ends_the_service(server: StartServer, feed: Callable[..., PriceFeed]) -> None:
    serving = server(admin_token="another token, which it does not know", jwt_secret=SECRET)
    # A server without a source of its own has nothing to poll, whoever feeds it.
    status, answer = serving.get(FORCE, "POST", b'{"symbols":["AAPL"]}', user())
    assert (status, json.loads(answer)) == (
        202,
        {"updated": [], "failed": [{"symbol": "AAPL", "reason": "no source"}]},
    )
    polling = feed("--source", "simulator", "--publish-url", serving.http_url)
    assert polling.process.wait(20) == 1
    polling.end(1)
    assert "takes no prices from here: this is not the admin token" in polling.log.splitlines()[-1]


def test_without_a_token_it_does_not_begin(tmp_path: Path) -> None:
    done = run(tmp_path, "feed", "--source", "simulator", admin_token="")
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]
    assert (
        "admin_token: publishing needs the server's admin token, and there is none; set FASTWS_ADMIN_TOKEN"
        in line
    )


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["feed", "--interval", "0"], "argument --interval/--poll-interval: expected more than 0 seconds"),
        (["feed", "--batch-size", "1.5"], "--batch-size"),
        (["update-prices", "--historical", "--days", "0"], "--days: expected a whole number from 1 on"),
        (["update-prices", "--symbols", "--dry-run"], "--symbols: expected at least one argument"),
    ],
)
def test_wrong_flags(capsys: pytest.CaptureFixture[str], arguments: list[str], part: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert part in capsys.readouterr().err


def test_flags_of_other_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["feed", "--port", "1"]) == 2
    assert "--port is a flag of fastws serve, not of fastws feed" in capsys.readouterr().err
    assert main(["update-prices", "--days", "5", "--dry-run"]) == 2
    assert "--days goes with --historical" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "urls"),
    [
        (Settings(), ["http://127.0.0.1:8000"]),
        (Settings(host="0.0.0.0", port=9000), ["http://127.0.0.1:9000"]),
        (Settings(host="::1", certfile="chain.pem"), ["https://[::1]:8000"]),
        (Settings(admin_bind="127.0.0.1:9001"), ["http://127.0.0.1:9001"]),
        (
            Settings(publish_url=("http://a.example", "http://b.example")),
            ["http://a.example", "http://b.example"],
        ),
    ],
)
def test_where_it_publishes_to(settings: Settings, urls: list[str]) -> None:
    assert publish_urls(settings) == urls
    with pytest.raises(SettingsError, match="publish_url: the server's port is not known"):
        publish_urls(Settings(port=0))


def test_a_terminal_has_a_line_of_its_own(tmp_path: Path, server: StartServer) -> None:
    serving = server(admin_token=ADMIN)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("feed", "--source", "simulator", "--interval", "0.5", "--publish-url", serving.http_url),
        cwd=tmp_path,
        env=environment({"admin_token": ADMIN}) | authorities(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while b" symbols fresh, " not in shown:
            shown += os.read(ours, 4096)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while data := os.read(ours, 4096):
                shown += data
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    text = shown.decode()
    assert "\r\x1b[K" in text
    assert "price feed was ended" in text.splitlines()[-1]


# Inside the server.


async def test_a_poll_feed_follows_its_file_and_what_clients_want(
    server: StartServer, tmp_path: Path
) -> None:
    file = tmp_path / "prices.csv"
    write(file, AAPL="150.25", MSFT="410.10")
    serving = await asyncio.to_thread(
        server, "--feed", f"poll:csv:{file}", poll_interval=0.5, jwt_secret=SECRET, force_update_interval=3600
    )
    async with client(serving.url) as viewer:
        await viewer.subscribe("stock", "AAPL")
        assert str((await viewer.until_type("price_update"))["price"]) == "150.25"
        await asyncio.to_thread(serving.until_feed_is, "live")
        write(file, AAPL="150.30", MSFT="410.20")
        assert str((await viewer.until_type("price_update"))["price"]) == "150.30"
        # Nobody looks at this one: it is polled because a user says so.
        assert price_of(serving, "MSFT") is None
        body = json.dumps({"symbols": ["MSFT", "GOOGL"]}).encode()
        status, answer = await asyncio.to_thread(serving.get, FORCE, "POST", body, user())
        assert (status, json.loads(answer)) == (
            202,
            {"updated": ["MSFT"], "failed": [{"symbol": "GOOGL", "reason": "missing: not in the answer"}]},
        )
        assert price_of(serving, "MSFT")["price"] == "410.20"  # type: ignore[index]
        status, answer = await asyncio.to_thread(serving.get, FORCE, "POST", body, user())
        assert (status, json.loads(answer)["error"]["code"]) == (429, "RATE_LIMIT_EXCEEDED")
        # Refused values never reach anybody.
        write(file, AAPL="0", MSFT="-1")
        file.with_suffix(".csv").touch()
        await asyncio.to_thread(until, lambda: "AAPL not positive" in serving.log, "the refusal")
        file.unlink()
        assert (await viewer.until_type("feed_status"))["status"] == "reconnecting"
        write(file, AAPL="150.40")
        assert (await viewer.until_type("feed_status"))["status"] == "live"
        assert price_of(serving, "AAPL")["price"] in ("150.30", "150.40")  # type: ignore[index]
        _, figures = await asyncio.to_thread(serving.get, "/metrics")
        assert b'fastws_poll_calls_total{outcome="answered"}' in figures
