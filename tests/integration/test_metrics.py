"""``/metrics`` of a real server under load, read as Prometheus reads it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from typing import get_args

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from websockets.exceptions import ConnectionClosed

from fastws._core import HISTOGRAM_BOUNDS
from fastws.auth.tokens import Reason, sign
from fastws.errors import CloseCode
from fastws.server.metrics import KEPT_SECONDS
from tests.clients import WAIT_SECONDS, Client, client
from tests.conftest import StartServer
from tests.rawclient import frame, upgrade_head
from tests.serving import Server, until

# Every label of fastws and the values that it may have; None: what the server itself is and has.
LABELS: dict[str, set[str] | None] = {
    "version": None,
    "python": None,
    "dialect": {"screener", "realtime"},
    "kind": {"stock", "market", "sector", "user"},
    "channel": {"price", "orderbook", "market_status", "feed_status", "symbol_status", "alert"},
    "outcome": {"delivered", "conflated", "lost", "undelivered"},
    "stage": {"feed", "wait", "send", "total"},
    "le": None,
    "feed": {"simulator"},
    "status": {"live", "stale", "reconnecting", "stopped"},
    "state": {"waiting", "crossed"},
    "limit": {
        "connection_limit",
        "connections_per_ip",
        "handshake_rate",
        "half_open_per_ip",
        "connections_per_user",
    },
    "by": {"server", "client"},
}
CLOSE_REASONS = {code.label for code in CloseCode} | {"no_status", "abnormal", "other", "kicked"}
REASONS = {
    "fastws_connections_closed": CLOSE_REASONS,
    "fastws_auth_failures": set(get_args(Reason)),
    "fastws_handshakes_refused": {
        "bad_request",
        "headers_too_large",
        "http_version_not_supported",
        "limit_exceeded",
        "method_not_allowed",
        "not_found",
        "origin_not_allowed",
        "rate_limit_exceeded",
        "request_timeout",
        "shutting_down",
        "upgrade_required",
        "uri_too_long",
    },
}


class Scrape:
    """One answer of ``/metrics``."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in parse_text(text)}

    def value(self, name: str, **labels: str) -> float:
        """The one sample of that name with these labels, and of others the sum."""
        found = [
            sample.value
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert found, name
        return sum(found)

    @property
    def own(self) -> Iterator[Metric]:
        return (family for name, family in self.families.items() if name.startswith("fastws_"))


def scrape(server: Server) -> Scrape:
    time.sleep(KEPT_SECONDS)  # for so long the answer before is given again
    status, body = server.get("/metrics")
    assert status == 200
    return Scrape(body.decode())


def series(families: Iterable[Metric], kind: str) -> dict[tuple[str, str], float]:
    return {
        (sample.name, json.dumps(sample.labels, sort_keys=True)): sample.value
        for family in families
        if family.type == kind
        for sample in family.samples
    }


def check_names(result: Scrape) -> None:
    """The rules of https://prometheus.io/docs/practices/naming/ and of promtool's linter."""
    helps = re.findall(r"^# HELP (\S+) (.*)$", result.text, re.MULTILINE)
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", result.text, re.MULTILINE))
    assert len(helps) == len(types) == len({name for name, _ in helps})
    for name, text in helps:
        if name.startswith("fastws_"):
            assert len(text) > 10, name
            assert re.fullmatch(r"fastws(_[a-z]+)+", name), name
            assert not re.search(
                r"_(ms|milliseconds|kb|megabytes|gauge|counter|histogram|percent)(_|$)", name
            )
            assert (types[name] == "counter") == name.endswith("_total"), name
            assert types[name] in ("counter", "gauge", "histogram"), name
            if "bytes" in name or "seconds" in name:
                assert name.removesuffix("_total").endswith(("_bytes", "_seconds")), (
                    f"{name}: the unit goes last"
                )


def check_labels(result: Scrape) -> None:
    for family in result.own:
        for sample in family.samples:
            for label, value in sample.labels.items():
                allowed = REASONS[family.name] if label == "reason" else LABELS[label]
                assert allowed is None or value in allowed, sample


def check_histograms(result: Scrape) -> None:
    """Counts rise from bound to bound, the last is the number, and the sum lies between what the bounds allow."""
    for family in result.own:
        if family.type != "histogram":
            continue
        by_labels: dict[str, list[tuple[float, float]]] = {}
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                rest = {name: value for name, value in sample.labels.items() if name != "le"}
                by_labels.setdefault(json.dumps(rest), []).append((float(sample.labels["le"]), sample.value))
        for key, buckets in by_labels.items():
            labels = json.loads(key)
            bounds = [bound for bound, _ in buckets]
            counts = [count for _, count in buckets]
            assert bounds == [*HISTOGRAM_BOUNDS, float("inf")]
            assert counts == sorted(counts)
            assert counts[-1] == result.value(f"{family.name}_count", **labels)
            assert counts[-1] == counts[-2], "nothing here takes ten seconds"
            parts = [after - before for before, after in zip([0, *counts], counts, strict=False)]
            least = sum(n * low for n, low in zip(parts, (0.0, *bounds), strict=False))
            most = sum(n * high for n, high in zip(parts[:-1], bounds, strict=False))
            assert least * 0.999 <= result.value(f"{family.name}_sum", **labels) <= most * 1.001


def check_ledger(result: Scrape) -> None:
    assert result.value("fastws_deliveries_total") == (
        result.value("fastws_deliveries_ended_total") + result.value("fastws_deliveries_waiting")
    )


async def listen(joined: Client) -> None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await joined.receive_text(WAIT_SECONDS)


async def load(target: Server, codes: list[str]) -> list[Scrape]:
    """Scrape a server again and again while eight clients listen and a ninth reads nothing."""
    results = [scrape(target)]

    async def until(condition: Callable[[Scrape], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition(results[-1]):
                results.append(await asyncio.to_thread(scrape, target))

    async with AsyncExitStack() as stack:
        deaf = stack.enter_context(target.raw_client(receive_buffer=4096))
        deaf.send_message(type="subscribe", subscription_type="stock", targets=codes)
        listening = []
        for i in range(8):
            options = {"compression": "deflate" if i % 2 else None}
            joined = await stack.enter_async_context(client(target.url, **options))
            await joined.subscribe("stock", *codes)
            if i == 0:
                await joined.subscribe("market", "KOSPI")
            listening.append(asyncio.create_task(listen(joined)))
        await until(lambda result: result.value("fastws_subscriptions") == 9 * len(codes) + 1)
        await until(lambda result: result.value("fastws_deliveries_total") > 20_000)
        await until(lambda result: result.value("fastws_outbox_bytes") > 0)
    await asyncio.gather(*listening)
    return results


async def test_figures_under_load(server: StartServer) -> None:
    target = server("--feed", "sim", simulator_rate=5000, outbox_soft_bytes=8192, compression_threshold=64)
    target.until_feed_is("live")
    codes = [stock["code"] for stock in target.get_json("/v1/stocks")["stocks"]][:20]
    results = await load(target, codes)
    for result in results:
        check_names(result)
        check_labels(result)
        check_histograms(result)
        check_ledger(result)
    for before, after in itertools.pairwise(results):
        for kind in ("counter", "histogram"):
            old, new = series(before.own, kind), series(after.own, kind)
            assert old.keys() <= new.keys()
            fallen = {key: (old[key], new[key]) for key in old if new[key] < old[key]}
            assert not fallen
    last = results[-1]
    assert last.value("fastws_connections") == 9
    assert last.value("fastws_connections_opened_total", dialect="screener") == 9
    assert last.value("fastws_handshakes_total") == 9
    assert last.value("fastws_subscriptions", kind="stock") == 9 * len(codes)
    assert last.value("fastws_subscriptions", kind="market") == 1
    assert last.value("fastws_updates_published_total") == last.value("fastws_sequence")
    assert last.value("fastws_feed_updates_total") == (
        last.value("fastws_updates_published_total", channel="price")
        + last.value("fastws_updates_published_total", channel="orderbook")
    )
    assert last.value("fastws_feed_status", feed="simulator", status="live") == 1
    assert last.value("fastws_feed_status") == 1
    assert 0 <= last.value("fastws_last_update_age_seconds") < 5
    # Where time goes: a wait of up to the interval, and what is sent to nine clients in no time.
    n = last.value("fastws_stage_seconds_count", stage="wait")
    assert n == last.value("fastws_stage_seconds_count", stage="total") > 1000
    assert 0.0005 < last.value("fastws_stage_seconds_sum", stage="wait") / n < 1.0
    sends = last.value("fastws_stage_seconds_count", stage="send")
    # A flush that is under way has begun and not yet ended.
    assert sends <= last.value("fastws_flush_delay_seconds_count") <= sends + 1
    assert 0 < last.value("fastws_stage_seconds_sum", stage="send") / sends < 0.1
    assert 0 < last.value("fastws_flush_busy_seconds_total") < 10
    assert last.value("fastws_stage_seconds_sum", stage="total") > last.value(
        "fastws_stage_seconds_sum", stage="wait"
    )
    assert last.value("fastws_loop_lag_seconds_count") > 10
    # Compressed once for all that share a frame, and well.
    assert 0 < last.value("fastws_compressions_total") <= 3 * sends
    compressed = last.value("fastws_compression_output_bytes_total")
    assert 0 < compressed < last.value("fastws_compression_input_bytes_total") / 2
    assert last.value("fastws_sent_bytes_total") > 9 * compressed / 4
    # The deaf one.
    assert last.value("fastws_blocks_total") >= 1
    assert last.value("fastws_outbox_largest_bytes") > 0
    assert last.value("fastws_history_updates") > 1000
    assert last.value("process_resident_memory_bytes") > 1 << 20
    # What has ended: its part of the ledger stays.
    until(lambda: scrape(target).value("fastws_connections") == 0, "all clients gone")
    final = scrape(target)
    check_ledger(final)
    assert final.value("fastws_connections_closed_total") == 9
    assert final.value("fastws_deliveries_waiting") == 0
    assert final.value("fastws_deliveries_ended_total", outcome="undelivered") > 0
    assert final.value("fastws_sessions") >= 8


def hostile(target: Server) -> None:
    """Say what no client should, with values that would be labels of their own if anything let them."""
    for n in range(20):
        mark = f"hostile{n}"
        for head in (
            upgrade_head(f"/{mark}"),
            upgrade_head(origin=f"https://{mark}.example"),
            upgrade_head(sec_websocket_version=mark),
            upgrade_head(sec_websocket_extensions=mark),
            f"{mark.upper()} / HTTP/1.1\r\n\r\n".encode(),
            f"GET /{mark} HTTP/9.{n}\r\nHost: a\r\n\r\n".encode(),
        ):
            with target.raw_client(handshake=False) as raw:
                raw.send(head)
                raw.read_some()
        with target.raw_client(handshake=False) as raw:
            raw.send(upgrade_head(f"/v1/ws?token={mark}"))
            raw.read_some()
        with target.raw_client() as raw:
            raw.send_message(type="subscribe", subscription_type="stock", targets=[mark])
            raw.send_message(type="subscribe", subscription_type=mark, targets=[mark])
            raw.send_message(type=mark)
            raw.send(frame(8, (3000 + 97 * n).to_bytes(2, "big") + mark.encode()))
            raw.read_to_end()


async def test_who_has_ended_a_connection(server: StartServer) -> None:
    secret = "a secret of a length that is long enough"
    target = server(
        "--feed", "none", jwt_secret=secret, admin_token=secret, connections_per_user=1, log_level="debug"
    )
    for code in (1011, 4401, 4408, 4429):
        with target.raw_client() as raw:
            raw.send(frame(8, code.to_bytes(2, "big")))
            raw.read_to_end()
    token = sign({"sub": "user-1"}, secret.encode(), "HS256")
    url = f"{target.url}?token={token}"
    async with client(url) as kicked:
        async with client(url, greeted=False) as refused:
            assert await refused.closed() == CloseCode.RATE_ABUSE
        kick = (b'{"user_id": "user-1"}', {"Authorization": f"Bearer {secret}"})
        assert (await asyncio.to_thread(target.get, "/v1/admin/kick", "POST", *kick))[0] == 200
        assert await kicked.closed() == CloseCode.TOKEN_INVALID
    until(lambda: target.stats()["active_connections"] == 0, "all clients gone")
    result = scrape(target)

    def closed(reason: str) -> tuple[float, float]:
        name = "fastws_connections_closed_total"
        return result.value(name, reason=reason, by="server"), result.value(name, reason=reason, by="client")

    assert [closed(reason) for reason in ("internal_error", "token_invalid", "slow_consumer")] == [(0, 1)] * 3
    assert closed("rate_abuse") == (1, 1)
    assert closed("kicked") == (1, 0)
    assert result.value("fastws_limit_refusals_total", limit="connections_per_user") == 1
    assert target.stats()["refused_by_limit"]["connections_per_user"] == 1
    lines = target.log.splitlines()
    ended = [line for line in lines if "connection ended" in line]
    assert len(ended) == 4
    assert all("by=client" in line for line in ended)
    closings = [line for line in lines if "connection closed" in line]
    assert len(closings) == 2
    assert all("by=server" in line and "user=user-1" in line for line in closings)
    (line,) = [line for line in lines if "kicked" in line]
    assert "user=user-1" in line
    assert "closed=1" in line


def test_labels_stay_as_they_are_whatever_clients_send(server: StartServer) -> None:
    target = server("--feed", "sim", unknown_symbols="accept", jwt_secret="s" * 32)
    target.until_feed_is("live")
    hostile(target)
    before = scrape(target)
    hostile(target)
    after = scrape(target)
    for result in (before, after):
        check_labels(result)
        check_names(result)
        assert "hostile" not in result.text.lower()
    assert series(before.own, "counter").keys() == series(after.own, "counter").keys()
    assert series(before.own, "gauge").keys() == series(after.own, "gauge").keys()
    assert after.value("fastws_connections_closed_total", reason="other", by="client") >= 30
    assert after.value("fastws_connections_closed_total", reason="other", by="server") == 0
    assert after.value("fastws_handshakes_refused_total", reason="not_found") == 40
    assert after.value("fastws_handshakes_refused_total", reason="origin_not_allowed") == 40
    assert after.value("fastws_auth_failures_total", reason="malformed") == 40


@pytest.mark.parametrize(
    ("accept", "is_openmetrics"),
    [
        (None, False),
        ("*/*", False),
        ("text/plain;version=0.0.4", False),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", True),
        ('application/openmetrics-text; version=nonsense; escaping="; x', True),
    ],
)
def test_both_formats(server: StartServer, accept: str | None, is_openmetrics: bool) -> None:
    target = server("--feed", "sim")
    connection = target.http_connection()
    connection.request("GET", "/metrics", headers={} if accept is None else {"Accept": accept})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    kind = response.headers["Content-Type"]
    if is_openmetrics:
        assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        families = list(parse_openmetrics(text))
    else:
        assert kind == "text/plain; version=0.0.4; charset=utf-8"
        families = list(parse_text(text))
    assert {"fastws_connections", "fastws_stage_seconds", "python_info"} <= {
        family.name for family in families
    }


def test_answers_are_given_again_for_a_second(server: StartServer) -> None:
    target = server("--feed", "sim")  # whose counters never stand still

    def ask(accept: str = "") -> bytes:
        connection = target.http_connection()
        connection.request("GET", "/metrics", headers={"Accept": accept})
        body = connection.getresponse().read()
        connection.close()
        return body

    began = time.monotonic()
    texts = {ask() for _ in range(20)}
    assert len(texts) <= 1 + math.ceil((time.monotonic() - began) / KEPT_SECONDS)
    # Each format has its own.
    assert ask("application/openmetrics-text").endswith(b"# EOF\n")
    until(lambda: ask() not in texts, "newer figures")
