"""One WebSocket of a client, and what to tell when it cannot be opened."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

from fastws.client.errors import ConnectError
from fastws.opening import Cause, OpenError
from fastws.websocket import WebSocket

# A snapshot of all stocks of a market with their books is some ten megabytes.
_MAX_MESSAGE_SIZE: Final = 64 << 20
_ADVICE: Final = {
    Cause.TIMEOUT: "check url, or raise connect_timeout",
    Cause.UNKNOWN_HOST: "check url",
    Cause.NO_LISTENER: "check the port in url, and that the server runs",
    Cause.UNREACHABLE: "check the network",
    Cause.UNTRUSTED: "give ssl= a context that trusts its authority, and use the name in url that it is for",
    Cause.NO_TLS: "for a server without TLS use ws:// in url",
    Cause.NO_WEBSOCKET: "check url",
    Cause.ENDED: "check url, or try again",
}
_STATUS_ADVICE: Final = {
    400: "check url; a server with TLS needs wss:// there",
    401: "give token=",
    403: "the server's setting allowed_origins does not allow the Origin in headers=",
    404: "check the path of url; it is usually /v1/ws",
    503: "the server is stopping, or full; try again later",
}
# What is in the way of the first connection, which is the one to the proxy where there is one.
_WAYS: Final = frozenset({Cause.UNKNOWN_HOST, Cause.NO_LISTENER, Cause.UNREACHABLE})
# What another try does not mend.
_FINAL: Final = frozenset({Cause.UNTRUSTED, Cause.NO_TLS, Cause.NO_WEBSOCKET})


class Socket(WebSocket):
    """One WebSocket, whose texts go to `on_text`."""

    def __init__(self, on_text: Callable[[bytes], None]) -> None:
        super().__init__(max_message_size=_MAX_MESSAGE_SIZE, peer="the server")
        self._on_text = on_text

    @classmethod
    async def open(
        cls,
        url: str,
        on_text: Callable[[bytes], None],
        *,
        time_limit: float,
        headers: Mapping[str, str],
        compression: bool,
        proxy: str | None,
        ssl_context: ssl.SSLContext | None,
    ) -> Socket:
        """Connect within `time_limit` seconds. Raises ConnectError."""
        self = cls(on_text)
        try:
            await self.connect(
                url,
                time_limit=time_limit,
                headers=headers,
                deflate=compression,
                proxy=proxy,
                ssl_context=ssl_context,
            )
        except OpenError as error:
            address = urlsplit(url)
            place = address.netloc
            if proxy is not None and error.cause in _WAYS:
                # Without the password that may stand there.
                place = f"the proxy {urlsplit(proxy).netloc.rpartition('@')[2]}"
            advice = _ADVICE.get(error.cause)
            if error.cause is Cause.STATUS:
                advice = _STATUS_ADVICE.get(error.status, "check url")
            text = error.statement(place, time_limit, address.path) + (f": {advice}" if advice else "")
            may_retry = error.cause not in _FINAL
            if error.cause is Cause.STATUS:
                may_retry = error.status >= 500 or error.status in (408, 429)
            raise ConnectError(text, may_retry=may_retry) from None
        return self

    def on_message(self, message: bytes) -> None:
        self._on_text(message)
