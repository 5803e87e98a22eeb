"""The bounded queue between a socket and who takes messages."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from fastws.client.errors import ClosedError
from fastws.client.socket import Socket

# Reading goes on while a request waits, up to so many times the size: who waits for an answer takes nothing.
_ANSWER_ROOM: Final = 16


class Inbox:
    """Messages in order. What is over `size` is not read from the socket, so that the server's rules for slow clients
    apply; a batch that was read is put in as a whole. Nothing is ever dropped, but by `close`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.socket: Socket | None = None
        """The one to stop reading from."""
        self.n_requests = 0
        """Requests whose answers are waited for; call `balance` after a change."""
        self.n_received = 0
        self.n_pauses = 0
        self.is_over = False
        self.failure: Exception | None = None
        self._messages: deque[Any] = deque()
        self._change = asyncio.Event()

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: object) -> None:
        self.n_received += 1
        self._messages.append(message)
        self._change.set()

    def end(self, failure: Exception | None = None) -> None:
        """Nothing more comes; what is there can still be taken."""
        self.is_over = True
        self.failure = self.failure or failure
        self._change.set()

    def close(self) -> None:
        """Drop what is there, too."""
        self._messages.clear()
        self.end()

    async def get(self) -> Any:
        """The next message; None at the end, or the failure raised that was it."""
        await self._wait()
        if not self._messages:
            return None
        message = self._messages.popleft()
        self._make_room()
        return message

    async def take(self) -> list[Any]:
        """All that are there, at least one; none at the end."""
        await self._wait()
        found = list(self._messages)
        self._messages.clear()
        self._make_room()
        return found

    async def _wait(self) -> None:
        while not self._messages and not self.is_over:
            self._change.clear()
            await self._change.wait()
        if not self._messages and self.failure is not None:
            raise self.failure

    def _make_room(self) -> None:
        if self.socket is not None and self.socket.is_paused and len(self) <= self.size // 2:
            self.socket.resume()

    def balance(self) -> None:
        """Stop to read, or go on, as messages and requests have it."""
        socket = self.socket
        if socket is None:
            return
        most = self.size * (_ANSWER_ROOM if self.n_requests else 1)
        if len(self) >= most and not socket.is_paused:
            self.n_pauses += 1
            socket.pause()
        elif len(self) < most and socket.is_paused and self.n_requests:
            socket.resume()

    def check(self) -> None:
        """Raise why nothing can be asked for any more."""
        if self.is_over:
            raise self.failure or ClosedError("the client is closed")
