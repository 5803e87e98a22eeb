"""One socket to KIS, and what to tell when it cannot be opened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from fastws.kis.errors import KISConnectionError
from fastws.opening import Cause, OpenError
from fastws.websocket import ABNORMAL, NO_CODE, Ending, WebSocket

# Bursts of half a megabyte have been seen.
_MAX_MESSAGE_SIZE: Final = 4 << 20
_MAX_PONG_SIZE: Final = 125  # RFC 6455, section 5.5
# There is somebody, or there was to be, who does not take it.
_REFUSALS: Final = frozenset({Cause.NO_LISTENER, Cause.STATUS, Cause.NO_WEBSOCKET, Cause.ENDED})
_ADVICE: Final = {
    Cause.TIMEOUT: "check the network and KIS_WS_URL",
    Cause.UNKNOWN_HOST: "check KIS_WS_URL and the network",
    Cause.UNREACHABLE: "check the network",
    **dict.fromkeys(
        (Cause.NO_LISTENER, Cause.UNTRUSTED, Cause.NO_TLS, Cause.NO_WEBSOCKET, Cause.ENDED),
        "check KIS_WS_URL",
    ),
}


class KISSocket(WebSocket):
    """One socket. `failure` is set once, when it has ended or is to end, and then `wake` is; no message comes from then
    on.

    It sends no pings of RFC 6455: KIS has no use for them, and has been seen to close because of them.
    """

    def __init__(self, on_message: Callable[[KISSocket, bytes], None], wake: asyncio.Event) -> None:
        super().__init__(max_message_size=_MAX_MESSAGE_SIZE, peer="KIS", takes_binary=True)
        self.failure: KISConnectionError | None = None
        self._take = on_message
        self._wake = wake

    @classmethod
    async def open(
        cls,
        url: str,
        time_limit: float,
        on_message: Callable[[KISSocket, bytes], None],
        wake: asyncio.Event,
    ) -> KISSocket:
        """Connect within `time_limit` seconds; `on_message` gets every message from then on.

        Raises:
            KISConnectionError: it could not be done.
        """
        self = cls(on_message, wake)
        try:
            await self.connect(url, time_limit=time_limit)
        except OpenError as error:
            what = "connection refused" if error.cause in _REFUSALS else "no connection to KIS"
            advice = _ADVICE.get(error.cause)
            text = f"{what}: {error.statement(urlsplit(url).netloc, time_limit)}"
            raise KISConnectionError(f"{text}; {advice}" if advice else text) from None
        return self

    @property
    def is_over(self) -> bool:
        return self.failure is not None

    def fail(self, error: KISConnectionError) -> None:
        if self.failure is None:
            self.failure = error
            self._wake.set()

    def abort(self, reason: str = "") -> None:
        """End the socket without a farewell."""
        if not reason:
            self.fail(KISConnectionError("connection closed"))
        super().abort(reason)

    def answer_pingpong(self, message: bytes) -> None:
        """Answer in both ways that clients do, for it is not known that KIS takes either for ever: the text sent back,
        and a pong of RFC 6455 with it. In this order, the second one is never taken for a PINGPONG of ours."""
        self.send(message)
        if len(message) <= _MAX_PONG_SIZE:
            self.pong(message)

    def on_message(self, message: bytes) -> None:
        if self.failure is None:
            self._take(self, message)

    def on_over(self, ending: Ending) -> None:
        code, reason = ending
        if code == ABNORMAL:
            text = reason
        else:
            detail = "no code" if code == NO_CODE else f"code {code}"
            text = f"KIS closed it ({detail}{', ' + reason if reason else ''})"
        self.fail(KISConnectionError(f"connection lost: {text}"))
