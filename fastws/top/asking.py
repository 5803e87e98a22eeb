"""Asks a server over HTTP: a connection that is kept, for one thread that waits for each answer."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import time
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from fastws._version import __version__
from fastws.errors import FastwsError
from fastws.top.exposition import Metrics, read_metrics
from fastws.top.readings import (
    CONNECTIONS_PATH,
    HEALTH_PATH,
    METRICS_PATH,
    STATS_PATH,
    Health,
    Listing,
    Reading,
    read_health,
    read_rows,
    read_stats,
)
from fastws.top.units import text

TIME_LIMIT: Final = 5.0
"""How long one answer may take, in s, until the server counts as not there."""
LISTING_SHARE: Final = 0.05
"""The list of connections is work for the server: getting it may take this share of the time."""

_TLS_HINT: Final = "a server with a certificate is at https://"
_MAX_SIZE: Final = 256 << 20
_HEADERS: Final = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": f"fastws/{__version__}"}
_PATH: Final = re.compile(r"[\w.~!$&'()*+,;=:@%/-]*", re.ASCII)


class AskError(FastwsError):
    """A server did not answer, or not as a fastws server does; the text names it, and says what to do."""


class Address(NamedTuple):
    """Where a server is; `prefix` is the path that a proxy has it under."""

    is_tls: bool
    host: str
    port: int
    prefix: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_tls else 'http'}://{host}:{self.port}{self.prefix}"


def parse_address(url: str) -> Address:
    """Read a URL of a server; raises ValueError with what is wrong."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https") or parts.query or parts.fragment or port == 0:
        raise ValueError(f"{text(url, 200)} is no address of a server; write it as http://127.0.0.1:8000")
    if parts.username is not None:
        raise ValueError(
            "a server takes no name and password; leave them out, and where its admin token is wanted use --token"
        )
    if not _PATH.fullmatch(parts.path):
        raise ValueError(f"{text(url, 200)} has a path with characters that must be written as %XX")
    is_tls = parts.scheme == "https"
    return Address(is_tls, host, port or (443 if is_tls else 80), parts.path.rstrip("/"))


def distrust(error: ssl.SSLCertVerificationError) -> str:
    """What to do about a certificate that is not trusted."""
    return (
        f"its certificate is not trusted ({error.verify_message}); name its authority with --cafile, "
        "or leave it unchecked with --insecure"
    )


class Asker:
    """One server at `address`. `tls` is for https, None takes certificates that the system trusts."""

    def __init__(self, address: Address, *, flag: str = "--url", tls: ssl.SSLContext | None = None) -> None:
        self.address = address
        self._flag = flag
        self._tls = tls
        self._connection: http.client.HTTPConnection | None = None

    def get(self, path: str, token: str | None = None) -> tuple[int, bytes]:
        """Status and body of a GET, which is tried once more on a new connection when a kept one has ended.

        Redirects are not followed and proxies of the environment not used: the token is for the one place that was
        named.

        Raises:
            AskError: there is no answer.
        """
        headers = _HEADERS if token is None else _HEADERS | {"Authorization": f"Bearer {token}"}
        is_kept = self._connection is not None
        try:
            try:
                return self._ask(path, headers)
            except (ConnectionError, http.client.BadStatusLine):
                if not is_kept:
                    raise
                self.close()
                return self._ask(path, headers)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise AskError(f"{self.address}: {self._explain(error)}") from None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = self._connect()
        # http.client would write a text as Latin-1; the server reads UTF-8.
        fields = {name: value.encode() for name, value in headers.items()}
        self._connection.request("GET", self.address.prefix + path, headers=fields)
        response = self._connection.getresponse()
        body = response.read(_MAX_SIZE + 1)
        if len(body) > _MAX_SIZE:
            raise OSError(f"the answer to {path} is over {_MAX_SIZE >> 20} MiB")
        return response.status, body

    def _connect(self) -> http.client.HTTPConnection:
        _, host, port, _ = self.address
        if not self.address.is_tls:
            return http.client.HTTPConnection(host, port, timeout=TIME_LIMIT)
        return http.client.HTTPSConnection(host, port, timeout=TIME_LIMIT, context=self._tls)

    def _explain(self, error: Exception) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            return distrust(error)
        if isinstance(error, ssl.SSLError):
            return f"it does not speak TLS there ({text(error.reason or error)}); try http://"
        if isinstance(error, TimeoutError):
            return f"no answer within {TIME_LIMIT:g} s"
        if isinstance(error, socket.gaierror):
            return f"there is no host of this name ({error.strerror})"
        if isinstance(error, ConnectionRefusedError):
            return f"connection refused; is the server running? {self._flag} names another"
        if isinstance(error, (http.client.HTTPException, ConnectionError)):
            hint = "" if self.address.is_tls else f"; {_TLS_HINT}"
            return f"no answer in HTTP ({type(error).__name__}){hint}"
        return text(getattr(error, "strerror", None) or error, 200)


class Reader:
    """Reads all that is shown of a server: `main` is its port, `admin` where its metrics and connections are.

    Without a token nobody asks for connections. Belongs to one thread.
    """

    def __init__(self, main: Asker, admin: Asker, token: str | None = None) -> None:
        self._main = main
        self._admin = admin
        self._token = token
        self._listing: Listing | str | None = None
        self._listed_at = 0.0

    def read(self) -> Reading:
        """Ask once.

        Raises:
            AskError: there are no statistics.
        """
        status, body = self._main.get(STATS_PATH)
        at, wall = time.monotonic(), time.time()
        stats = read_stats(body) if status == 200 else None
        if stats is None:
            answer = f"is answered with {status}" if status != 200 else "is something else"
            if status == 400 and not self._main.address.is_tls:
                answer += f"; {_TLS_HINT}"
            raise AskError(f"{self._main.address} is no fastws server: {STATS_PATH} there {answer}")
        return Reading(at, wall, stats, self._health(), self._metrics(), self._connections())

    def close(self) -> None:
        self._main.close()
        self._admin.close()

    def _health(self) -> Health | None:
        status, body = self._main.get(HEALTH_PATH)
        return read_health(body) if status == 200 else None

    def _metrics(self) -> Metrics | str:
        try:
            status, body = self._admin.get(METRICS_PATH)
            if status == 200:
                return read_metrics(body.decode())
        except AskError as error:
            return str(error)
        except ValueError:
            status = 200
        return self._missing(METRICS_PATH, status)

    def _connections(self) -> Listing | str | None:
        if self._token is None:
            return None
        began = time.monotonic()
        if isinstance(self._listing, Listing) and began < self._listed_at:
            return self._listing
        try:
            status, body = self._admin.get(f"{CONNECTIONS_PATH}?subscriptions=false", self._token)
        except AskError as error:
            self._listing = str(error)
            return self._listing
        ended = time.monotonic()
        self._listed_at = began + (ended - began) / LISTING_SHARE
        rows = read_rows(body) if status == 200 else None
        if rows is not None:
            self._listing = Listing(ended, ended - began, rows)
        elif status == 401:
            self._listing = (
                f"{self._admin.address}: this is not its admin token; correct --token or FASTWS_ADMIN_TOKEN"
            )
        elif status == 403:
            self._listing = (
                f"{self._admin.address}: the server has no admin token; set admin_token there, or leave --token "
                "and FASTWS_ADMIN_TOKEN out"
            )
        else:
            self._listing = self._missing(CONNECTIONS_PATH, status)
        return self._listing

    def _missing(self, path: str, status: int) -> str:
        if status == 404:
            return (
                f"{self._admin.address} has no {path}; with admin_bind it is on a port of its own, which --admin-url "
                "names"
            )
        answer = f"with {status}" if status != 200 else "and cannot be read"
        return f"{self._admin.address}: {path} is answered {answer}"
