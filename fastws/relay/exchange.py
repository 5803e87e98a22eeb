"""The exchange between the workers of one server: hands on what they say to each other. Runs in their parent.

It does for the processes of one machine what Redis does for several machines, and the relay's protocol is the same.
Nobody else can reach it: each worker inherits one end of a pair of sockets that have no name.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

from fastws.logs import log_limited
from fastws.relay.exchange_frames import (
    IGNORE,
    LISTEN,
    LISTENING,
    MESSAGE,
    Frame,
    FrameError,
    Splitter,
    encode,
    kind_of,
)
from fastws.relay.links import QUEUE_SIZE

_READ_SIZE: Final = 256 << 10
_SEND_AT_ONCE: Final = 64
# The kernel may give less. What does not fit waits here.
_SOCKET_SIZE: Final = 1 << 20

_log = structlog.get_logger("fastws.relay")


class _End:
    """The parent's end of a worker's pair of sockets."""

    def __init__(self, number: int, sock: socket.socket) -> None:
        self.number = number
        self.sock = sock
        self.splitter = Splitter()
        self.channels: set[bytes] = set()
        self.queue: deque[bytes] = deque()
        self.queue_size = 0
        # Of the first in the queue, so much is gone.
        self.n_sent = 0
        self.is_blocked = False
        self.heard_at = time.monotonic()


class Exchange:
    """Hands messages from worker to worker. Belongs to the one thread of the parent, whose `selector` calls it.

    1. A message goes to all who listen to its channel, and not back to who has sent it.
    2. Messages of one worker come in their order.
    3. Nobody waits for a worker that does not read: of more than `queue_limit` bytes for it, the oldest messages are
       dropped and counted, which the relay sees as a gap. What the parent itself tells it is kept.
    4. What workers say to the parent goes to `on_frame`, with their number; `on_lost` is told whose end was closed.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        *,
        on_frame: Callable[[int, Frame], object],
        on_lost: Callable[[int], object],
        queue_limit: int = QUEUE_SIZE,
    ) -> None:
        self.n_dropped = 0
        self._selector = selector
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._queue_limit = queue_limit
        self._ends: dict[int, _End] = {}
        self._listeners: dict[bytes, dict[int, _End]] = {}
        # What is to be sent once all that has come is handed on.
        self._filled: dict[int, _End] = {}

    def connect(self, number: int) -> socket.socket:
        """Make the pair of a worker that is to be started; returns the worker's end, which is the caller's."""
        own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        for sock in (own, other):
            sock.setblocking(False)
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                sock.setsockopt(socket.SOL_SOCKET, option, _SOCKET_SIZE)
        end = self._ends[number] = _End(number, own)
        self._selector.register(own, selectors.EVENT_READ, lambda events: self._on_event(end, events))
        return other

    def silence(self, number: int) -> float:
        """For how many seconds nothing was heard of a worker; 0 for one that is not connected."""
        end = self._ends.get(number)
        return 0.0 if end is None else time.monotonic() - end.heard_at

    def excuse(self) -> None:
        """Give all workers time again: the parent stood still itself, and what they have said is still to be read."""
        now = time.monotonic()
        for end in self._ends.values():
            end.heard_at = now

    def disconnect(self, number: int) -> None:
        """Close the parent's end of a worker, if it is open."""
        end = self._ends.pop(number, None)
        if end is None:
            return
        self._filled.pop(number, None)
        self._selector.unregister(end.sock)
        end.sock.close()
        for channel in end.channels:
            self._forget(channel, number)

    def finish(self, number: int) -> None:
        """Take what a worker that has ended has said last, and close the parent's end."""
        end = self._ends.get(number)
        while end is not None and self._ends.get(number) is end and self._read(end):
            pass
        self._flush()
        self.disconnect(number)

    def close(self) -> None:
        for number in list(self._ends):
            self.disconnect(number)

    def abandon(self) -> None:
        """Close what a fork has inherited of this, without touching what it shares with the parent: its selector."""
        for end in self._ends.values():
            end.sock.close()
        self._ends.clear()

    def tell(self, number: int, kind: int, data: bytes = b"") -> None:
        """Say something to a worker as the parent; to one that is not connected, nothing."""
        end = self._ends.get(number)
        if end is not None:
            self._append(end, encode(kind, b"", data))
            self._flush()

    def tell_all(self, kind: int, data: bytes = b"") -> None:
        for number in list(self._ends):
            self.tell(number, kind, data)

    # Reading.

    def _on_event(self, end: _End, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._send(end)
        if events & selectors.EVENT_READ and self._ends.get(end.number) is end:
            self._read(end)
        self._flush()

    def _read(self, end: _End) -> bool:
        """Hand on what has come; returns whether more may have."""
        try:
            data = end.sock.recv(_READ_SIZE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._lose(end)
            return False
        end.heard_at = time.monotonic()
        try:
            frames = end.splitter.feed(data)
        except FrameError as error:
            _log.error("a worker says what nobody understands", worker=end.number, error=str(error))
            self._lose(end)
            return False
        for frame in frames:
            if self._ends.get(end.number) is not end:
                return False  # closed, by what it has said just now
            if frame.kind == MESSAGE:
                for number, listener in self._listeners.get(frame.channel, {}).items():
                    if number != end.number:
                        self._append(listener, frame.whole)
            elif frame.kind == LISTEN:
                end.channels.add(frame.channel)
                self._listeners.setdefault(frame.channel, {})[end.number] = end
                self._append(end, encode(LISTENING, frame.channel))
            elif frame.kind == IGNORE:
                end.channels.discard(frame.channel)
                self._forget(frame.channel, end.number)
            else:
                self._on_frame(end.number, frame)
        return True

    def _forget(self, channel: bytes, number: int) -> None:
        listeners = self._listeners.get(channel)
        if listeners is not None:
            listeners.pop(number, None)
            if not listeners:
                del self._listeners[channel]

    def _lose(self, end: _End) -> None:
        if self._ends.get(end.number) is end:
            self.disconnect(end.number)
            self._on_lost(end.number)

    # Sending.

    def _append(self, end: _End, frame: bytes) -> None:
        end.queue.append(frame)
        end.queue_size += len(frame)
        if end.queue_size > self._queue_limit:
            self._make_room(end)
        if not end.is_blocked:
            self._filled[end.number] = end

    def _make_room(self, end: _End) -> None:
        queue = end.queue
        # Of the first, a part may be gone.
        at = 1 if end.n_sent else 0
        while end.queue_size > self._queue_limit and at < len(queue):
            if kind_of(queue[at]) != MESSAGE:
                at += 1
                continue
            end.queue_size -= len(queue[at])
            del queue[at]
            self.n_dropped += 1
            log_limited(
                _log,
                "exchange-full",
                "a worker does not keep up, and what others tell it is dropped",
                worker=end.number,
            )

    def _flush(self) -> None:
        while self._filled:
            _, end = self._filled.popitem()
            self._send(end)

    def _send(self, end: _End) -> None:
        queue = end.queue
        while queue:
            parts: list[bytes | memoryview] = [queue[i] for i in range(min(len(queue), _SEND_AT_ONCE))]
            if end.n_sent:
                parts[0] = memoryview(queue[0])[end.n_sent :]
            try:
                n = end.sock.sendmsg(parts)
            except BlockingIOError:
                self._watch(end, is_blocked=True)
                return
            except OSError:
                self._lose(end)
                return
            end.queue_size -= n
            n += end.n_sent
            while queue and n >= len(queue[0]):
                n -= len(queue.popleft())
            end.n_sent = n
        self._watch(end, is_blocked=False)

    def _watch(self, end: _End, *, is_blocked: bool) -> None:
        if end.is_blocked != is_blocked:
            end.is_blocked = is_blocked
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if is_blocked else 0)
            self._selector.modify(end.sock, events, self._selector.get_key(end.sock).data)
