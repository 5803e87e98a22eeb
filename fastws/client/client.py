"""The asynchronous client. Its rules are in :mod:`fastws.client.session`, its sockets in :mod:`fastws.client.link`."""

from __future__ import annotations

import asyncio
import ssl as tls
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, Self

import msgspec
from msgspec import UNSET

from fastws.client import messages
from fastws.client.backoff import Backoff, Reconnection
from fastws.client.errors import ClosedError, RequestTimeoutError, UsageError
from fastws.client.held import check_targets, check_wish, parts
from fastws.client.inbox import Inbox
from fastws.client.link import Address, Link, TokenSource, refusal, split
from fastws.client.messages import Message, Rejected
from fastws.client.session import Answer, Request, Session
from fastws.messages import Ping, RefreshToken, Subscribed, Unsubscribe


class Accepted(NamedTuple):
    """The targets that are held now, and those that the server refused, with its reasons."""

    targets: list[str]
    rejected: list[Rejected]


class Statistics(msgspec.Struct, frozen=True):
    """Counts since the client was made."""

    connections: int
    received: int
    """Messages put into the queue."""
    waiting: int
    """Messages in the queue now."""
    pauses: int
    """How often the consumer was so slow that the client stopped to read."""
    repeated: int
    """Updates left out because they had come before; 0 with a server that keeps its contract."""
    unknown: int
    """Messages of types that this client does not know."""


class Client:
    """A connection to a fastws server that lives on over interruptions.

    ::

        async with Client("ws://127.0.0.1:8000", token=token) as client:
            await client.subscribe("stock", ["005930"])
            async for message in client:
                match message:
                    case PriceUpdate(): ...
                    case Restored(recovered=False) | Gap() | Overflow(): ...  # something is lost

    What comes out is of :mod:`fastws.client.messages`; nothing is lost without a message that says so. One task may
    take messages; requests may come from any task of the same loop, also from the one that takes. Nothing here is for
    other threads: see :class:`fastws.client.sync.SyncClient`.

    Parameters:
        url: ``ws://`` or ``wss://``; without a path, that of the screener dialect. A ``token`` in its query counts.
        token: a JWT; None for an anonymous connection, or to begin with one of `refresh_token`.
        refresh_token: asked for a new token a while before the old one expires, by the server's clock, and when the
            server no longer accepts it.
        backoff: how long to wait between attempts.
        queue_size: messages between the socket and the consumer. Beyond, the client stops to read, and the server's
            rules for slow clients apply: mode ``latest`` conflates, mode ``all`` declares what it drops.
        connect_timeout: seconds for an attempt, from the name to the restored session.
        connect_attempts: how often to try at first, before the first connection; 0: for ever. Later there is no end.
        request_timeout: seconds for the answer to a request, over all interruptions.
        ping_interval: seconds of silence after which the server is asked for a sign of life; without one within
            `ping_timeout` seconds the connection counts as lost.
        ssl: for ``wss://``; default: the system's authorities.
        headers: more headers of the handshake, such as ``Origin``.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        refresh_token: TokenSource | None = None,
        backoff: Backoff | None = None,
        queue_size: int = 10_000,
        connect_timeout: float = 10.0,
        connect_attempts: int = 1,
        request_timeout: float = 10.0,
        ping_interval: float = 20.0,
        ping_timeout: float = 20.0,
        ssl: tls.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        base, query, found = split(url)
        for name, value in (
            ("queue_size", queue_size),
            ("connect_timeout", connect_timeout),
            ("request_timeout", request_timeout),
            ("ping_interval", ping_interval),
            ("ping_timeout", ping_timeout),
        ):
            if value <= 0:
                raise UsageError(f"{name}: expected a number over 0, not {value!r}")
        if connect_attempts < 0:
            raise UsageError(f"connect_attempts: expected 0 (no end) or more, not {connect_attempts!r}")
        token = found if token is None else token
        if token is not None and not (token.isascii() and token.isprintable()):
            raise UsageError("token: it has characters that no token has; look for a line break at its end")
        self._request_timeout = request_timeout
        self._session = Session(Reconnection(backoff or Backoff()))
        self._inbox = Inbox(queue_size)
        address = Address(
            url=base,
            query=query,
            token_source=refresh_token,
            connect_timeout=connect_timeout,
            connect_attempts=connect_attempts,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            ssl=ssl,
            headers=dict(headers or {}),
        )
        self._link = Link(address, token, self._session, self._inbox)
        self._runner: asyncio.Task[None] | None = None

    # State.

    @property
    def is_live(self) -> bool:
        """Whether the client is connected now, so that what it knows is not getting old."""
        return self._session.is_live

    @property
    def session_id(self) -> str | None:
        greeting = self._session.greeting
        return None if greeting is None else greeting.connection_id

    @property
    def user_id(self) -> str | int | None:
        """The user as the server knows it; None for an anonymous connection."""
        greeting = self._session.greeting
        return None if greeting is None else greeting.user_id

    @property
    def subscriptions(self) -> dict[str, list[str]]:
        """The targets that are held, by subscription type."""
        return self._session.held.by_kind()

    @property
    def statistics(self) -> Statistics:
        return Statistics(
            self._link.n_connections,
            self._inbox.n_received,
            len(self._inbox),
            self._inbox.n_pauses,
            self._session.n_repeated,
            self._session.n_unknown,
        )

    # Life.

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect; returns when the server has greeted. Raises ConnectError or EndedError when it cannot be done."""
        if self._runner is not None or self._inbox.is_over:
            raise ClosedError("a client is opened once; make another one")
        self._runner = asyncio.create_task(self._run(), name="fastws client")
        live = asyncio.create_task(self._link.went_live.wait())
        try:
            await asyncio.wait((live, self._runner), return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            await self.close()
            raise
        finally:
            live.cancel()
        if self._inbox.failure is not None and not self._link.went_live.is_set():
            raise self._inbox.failure

    async def _run(self) -> None:
        try:
            await self._link.run()
        finally:
            self._link.fail_requests(self._inbox.failure or ClosedError("the client was closed"))

    async def close(self) -> None:
        """Say goodbye and end everything: tasks, socket, requests that wait, and the iteration at once."""
        self._link.is_closing = True
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait((self._runner,))
        self._inbox.close()

    # Messages.

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        """The next message. Raises EndedError when the server has ended it for good; stops when it was closed."""
        self._check_begun()
        message = await self._inbox.get()
        if message is None:
            raise StopAsyncIteration
        return message

    async def take(self) -> list[Message]:
        """All messages that are there, at least one; none when the client was closed. Raises EndedError."""
        self._check_begun()
        return await self._inbox.take()

    # Requests.

    async def subscribe(
        self,
        subscription_type: str,
        targets: Sequence[str],
        *,
        mode: str | None = None,
        max_rate: float | None = None,
        channels: Sequence[str] | None = None,
        snapshot: bool = True,
    ) -> Accepted:
        """Begin to receive what is published about targets; their last known values come first, marked `snapshot`.

        Parameters:
            subscription_type: stock, market, sector or portfolio.
            mode: "all" for every update (default of stock), "latest" for newest values only.
            max_rate: values per second and symbol, at most; implies "latest".
            channels: of "price" and "orderbook"; default both.
            snapshot: False to leave the last known values out, of targets that are not held yet.

        Raises UsageError, RequestError when none of the targets was accepted, RequestTimeoutError, ClosedError.
        """
        wish = check_wish(subscription_type, targets, mode, max_rate, channels)
        self._check_open()
        numbers = self._session.subscribe(subscription_type, targets, wish, snapshot=snapshot)
        accepted = Accepted([], [])
        refusals = []
        for answer in await self._answers(numbers):
            if isinstance(answer, Subscribed):
                accepted.targets.extend(answer.targets)
                accepted.rejected.extend([] if answer.rejected is UNSET else answer.rejected)
            elif isinstance(answer, messages.Error):
                refusals.append(answer)
                rejected = answer.details.get("rejected", [])
                accepted.rejected.extend(Rejected(item["target"], item["reason"]) for item in rejected)
        if refusals and not accepted.targets:
            raise refusal(refusals[0])
        return accepted

    async def unsubscribe(self, subscription_type: str, targets: Sequence[str]) -> None:
        """Receive nothing more about targets; those not held count as done. Raises as `subscribe`."""
        check_targets(subscription_type, targets)
        self._check_open()
        numbers = [
            self._session.ask(Unsubscribe(subscription_type=subscription_type, targets=part))  # type: ignore[arg-type]
            for part in parts(targets)
        ]
        for answer in await self._answers(numbers):
            if isinstance(answer, messages.Error):
                raise refusal(answer)

    async def ping(self) -> float:
        """Seconds that the server takes to answer, through everything that waits before it."""
        started = time.monotonic()
        await self._request(Ping())
        return time.monotonic() - started

    async def replace_token(self, token: str) -> None:
        """Go on with this token. Raises RequestError when the server does not accept it; the old one stays then."""
        answer = await self._request(RefreshToken(token=token))
        if isinstance(answer, messages.Error):
            raise refusal(answer)
        self._link.use_token(token)

    async def _request(self, request: Request) -> Answer:
        self._check_open()
        (answer,) = await self._answers([self._session.ask(request)])
        return answer

    def _check_begun(self) -> None:
        if self._runner is None and not self._inbox.is_over:
            raise ClosedError("the client is not open: use `async with Client(…) as client`")

    def _check_open(self) -> None:
        self._inbox.check()
        self._check_begun()

    async def _answers(self, numbers: Sequence[int]) -> list[Answer]:
        futures = [self._link.expect(number) for number in numbers]
        self._link.flush()
        try:
            async with asyncio.timeout(self._request_timeout):
                return [await future for future in futures]
        except TimeoutError:
            raise RequestTimeoutError(
                f"no answer within {self._request_timeout:g} s; the connection may be interrupted, or messages taken "
                "too slowly: raise request_timeout, or take them in a task of their own"
            ) from None
        finally:
            for number in numbers:
                self._link.forget(number)
