"""What a real server tells of itself: its endpoints and its figures."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from docs.generate.markdown import code, table, words
from fastws import logs
from fastws._market import Instrument, PriceUpdate
from fastws.market.instruments import Instruments
from fastws.server.parts import make_feed
from fastws.server.server import Server
from fastws.settings import Settings
from tests.certificates import files

_SHOWN_VALUES: Final = 14
_TOKEN: Final = "the administrator's token"  # noqa: S105 - of a server that lives for a moment


def endpoints() -> str:
    """Everything that is answered at the port, as ``/`` lists it."""
    rows = (
        [
            code(one["path"]),
            "WebSocket" if one["protocol"] == "websocket" else one["method"],
            words(one["about"]),
        ]
        for one in asked()[0]
    )
    return table(("path", "method", "what"), rows)


def metrics() -> str:
    """Every figure of ``/metrics`` that is fastws's own."""
    return table(("figure", "what"), map(_row, asked()[1]))


def _row(family: Metric) -> list[str]:
    name = family.name + ("_total" if family.type == "counter" else "")
    about = words(family.documentation)
    if labels := _labels(family):
        about += f"<br><small>{labels}</small>"
    return [f"{code(name)}<br><small>{family.type}</small>", about]


def _labels(family: Metric) -> str:
    found: dict[str, dict[str, None]] = {}
    for sample in family.samples:
        for label, value in sample.labels.items():
            if label != "le":
                found.setdefault(label, {}).setdefault(value)
    return "; ".join(f"{code(label)}: {_values(list(values))}" for label, values in found.items())


def _values(values: list[str]) -> str:
    shown = ", ".join(values[:_SHOWN_VALUES])
    return shown + (", …" if len(values) > _SHOWN_VALUES else "")


@cache
def asked() -> tuple[list[dict[str, str]], list[Metric]]:
    """The endpoints that a server lists, and the families of its figures, without those of a relay and of workers."""
    return asyncio.run(_ask())


async def _ask() -> tuple[list[dict[str, str]], list[Metric]]:
    """What a server with TLS and a polled source has; and what KIS would add, which nobody connects to here."""
    logs.configure("warning")
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "fastws.socket")
        server = Server(
            Settings(
                unix_socket=path,
                feed="poll:simulator",
                certfile=str(files().certfile),
                admin_token=_TOKEN,
            )
        )
        await server.start()
        try:
            listed = json.loads(await _get(path, "/"))["endpoints"]
            # How old the last price is is told once there is one.
            server.market.publish_price(PriceUpdate(Instrument("005930"), 73000))
            told = (await _get(path, "/metrics")).decode()
        finally:
            await server.stop()
    families = [each for each in text_string_to_metric_families(told) if each.name.startswith("fastws_")]
    kis = make_feed(Settings(feed="kis", kis_keys={"PSabc": "its-secret"}), Instruments(), dict)
    if kis is None:
        raise RuntimeError("there is no feed kis")
    for figure in kis.figures():
        make = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
        family = make(f"fastws_{figure.name}", figure.about, labels=figure.labels)
        values = figure.values if isinstance(figure.values, Mapping) else {}
        for value, n in values.items():
            family.add_metric([value], n)
        families.append(family)
    return listed, families


async def _get(path: str, target: str) -> bytes:
    """The body of a GET at a Unix socket, for the administrator."""
    reader, writer = await asyncio.open_unix_connection(path)
    head = f"GET {target} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {_TOKEN}\r\n\r\n"
    writer.write(head.encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    first, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in first.partition(b"\r\n")[0]:
        raise RuntimeError(f"{target}: {first.decode()}")
    return body
