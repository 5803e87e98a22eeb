"""Behind a real nginx, set up as its users do: whom the server sees, and what clients can do about it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from fastws.errors import CloseCode
from tests.clients import client
from tests.conftest import StartServer
from tests.nginx import proxying
from tests.serving import Server, until

SETTINGS = {"connections_per_ip": 1}


class Proxied:
    """A server, and the port of the nginx in front of it."""

    def __init__(self, server: Server, port: int) -> None:
        self.server = server
        self.port = port
        self.url = f"ws://127.0.0.1:{port}/v1/ws"

    def client(self, address: str, *, origin: str | None = None, greeted: bool = True, **headers: str) -> Any:
        """Connect from an address of the loopback network, of which the proxy's own is 127.0.0.1."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return client(
            self.url, local_addr=(address, 0), origin=origin, additional_headers=fields, greeted=greeted
        )

    async def is_refused(self, address: str, **headers: str) -> bool:
        """Whether another connection of the address is one too many; fails if it is neither that nor greeted."""
        async with self.client(address, greeted=False, **headers) as one:
            first = await one.receive()
            if first["type"] == "connection":
                return False
            assert first["code"] == "LIMIT_EXCEEDED"
            assert await one.closed() == CloseCode.RATE_ABUSE
            return True


@pytest.fixture(params=["tcp", "unix"])
def proxied(request: pytest.FixtureRequest, server: StartServer, tmp_path: Path) -> Iterator[Proxied]:
    if request.param == "tcp":
        target = server("--feed", "none", trusted_proxies="127.0.0.1", **SETTINGS)
        upstream = target.http_url
    else:
        path = tmp_path / "fastws.socket"
        target = server("--feed", "none", trusted_proxies="unix", unix_socket=path, **SETTINGS)
        upstream = f"http://unix:{path}:"
    with proxying(tmp_path, upstream) as port:
        yield Proxied(target, port)


async def test_clients_are_told_apart_and_stay_who_they_are(proxied: Proxied) -> None:
    async with proxied.client("127.0.0.2", x_forwarded_for="198.51.100.1"), proxied.client("127.0.0.3"):
        assert proxied.server.stats()["addresses"] == 2
        for claim in ("198.51.100.2", "127.0.0.1", "unknown", '"', ", ,"):
            assert await proxied.is_refused("127.0.0.2", x_forwarded_for=claim)
        assert not await proxied.is_refused("127.0.0.4", x_forwarded_for="127.0.0.2")


async def test_a_header_that_nginx_hands_on_is_not_believed(proxied: Proxied) -> None:
    until(lambda: proxied.server.stats()["active_connections"] == 0, "nobody")
    async with (
        # It has the place of the proxy itself now, and there is but one.
        proxied.client("127.0.0.2", forwarded="for=198.51.100.1"),
        proxied.client("127.0.0.2"),
        proxied.client("127.0.0.3"),
    ):
        assert proxied.server.stats()["addresses"] == 3
        assert await proxied.is_refused("127.0.0.4", forwarded="for=198.51.100.2")
    until(lambda: "neither is believed" in proxied.server.log, "a line about the proxy")


async def test_the_own_origin_is_the_proxys(proxied: Proxied) -> None:
    async with proxied.client("127.0.0.2", origin=f"http://127.0.0.1:{proxied.port}") as one:
        await one.sync()
    with pytest.raises(InvalidStatus) as refused:
        async with proxied.client("127.0.0.2", origin="http://127.0.0.1:1"):
            pass
    assert refused.value.response.status_code == 403
