"""What clients of both dialects have in common: how they live, and how their messages are taken."""

from __future__ import annotations

import asyncio
import ssl as tls
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypedDict, TypeVar

import msgspec

from fastws.client import messages
from fastws.client.address import Address, TokenSource, check_proxy, split
from fastws.client.errors import ClosedError, RequestTimeoutError, UsageError
from fastws.client.inbox import Inbox
from fastws.client.link import Conversation, Link, refusal
from fastws.client.messages import Rejected
from fastws.upgrading import check_headers

M = TypeVar("M")


class Options(TypedDict, total=False):
    """The parameters of every client; `fastws.client.Client` tells what they are."""

    token: str | None
    refresh_token: TokenSource | None
    queue_size: int
    connect_timeout: float
    connect_attempts: int
    request_timeout: float
    ping_interval: float
    ping_timeout: float
    compression: bool
    proxy: str | None
    ssl: tls.SSLContext | None
    headers: Mapping[str, str] | None


class SubscribeOptions(TypedDict, total=False):
    """What `fastws.client.Client.subscribe` may be told about targets; it tells what they are."""

    mode: str | None
    max_rate: float | None
    channels: Sequence[str] | None
    snapshot: bool


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


class BaseClient(Generic[M]):
    """A connection to a server that lives on over interruptions, and the messages of type `M` that come out of it.

    `conversation` is what the subclass speaks; the other parameters are those of `fastws.client.Client`.
    """

    def __init__(
        self,
        conversation: Conversation,
        path: str,
        url: str,
        *,
        token: str | None = None,
        refresh_token: TokenSource | None = None,
        queue_size: int = 10_000,
        connect_timeout: float = 10.0,
        connect_attempts: int = 1,
        request_timeout: float = 10.0,
        ping_interval: float = 20.0,
        ping_timeout: float = 20.0,
        compression: bool = False,
        proxy: str | None = None,
        ssl: tls.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        base, query, found = split(url, path)
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
        if proxy is not None:
            check_proxy(proxy)
        try:
            check_headers(headers or {})
        except ValueError as error:
            raise UsageError(f"headers: {error}") from None
        token = found if token is None else token
        if token is not None and not (token.isascii() and token.isprintable()):
            raise UsageError("token: it has characters that no token has; look for a line break at its end")
        self._request_timeout = request_timeout
        self._conversation = conversation
        self._inbox = Inbox(queue_size)
        address = Address(
            url=base,
            query=query,
            token_source=refresh_token,
            connect_timeout=connect_timeout,
            connect_attempts=connect_attempts,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            compression=compression,
            proxy=proxy,
            ssl=ssl,
            headers=dict(headers or {}),
        )
        self._link = Link(address, token, conversation, self._inbox)
        self._runner: asyncio.Task[None] | None = None

    # State.

    @property
    def is_live(self) -> bool:
        """Whether the client is connected now, so that what it knows is not getting old."""
        return self._conversation.is_live

    @property
    def user_id(self) -> str | int | None:
        """The user as the server knows it; None for an anonymous connection."""
        return self._conversation.user_id

    def age(self, code: str) -> float | None:
        """Seconds since the last update of a symbol was published, by the server's clock; None before the first."""
        return self._conversation.ages.age(code, time.monotonic())

    def is_stale(self, code: str) -> bool:
        """Whether the server has said that a symbol is silent for longer than can be while its market trades, or has
        given nothing of it but values from before its last start, which have `stale` themselves.

        Of a symbol that the server does not judge, or not yet, it is False as long as any other value came: look at
        `age` as well."""
        return self._conversation.ages.is_stale(code)

    @property
    def statistics(self) -> Statistics:
        return Statistics(
            self._link.n_connections,
            self._inbox.n_received,
            len(self._inbox),
            self._inbox.n_pauses,
            self._conversation.n_repeated,
            self._conversation.n_unknown,
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
        """Connect; returns when the server has greeted. Raises ConnectError or EndedError when it cannot be done, and
        ClosedError when another task closes the client meanwhile."""
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
        if not self._link.went_live.is_set():
            raise self._inbox.failure or ClosedError("the client was closed before it was connected")

    async def _run(self) -> None:
        try:
            await self._link.run()
        finally:
            self._link.fail_requests(self._inbox.failure or ClosedError("the client was closed"))

    async def close(self) -> None:
        """Say goodbye and end everything: tasks, socket, requests that wait, and the iteration at once.

        Where the loop of the client has been closed before, that has ended it, and nothing is left to do.
        """
        self._link.is_closing = True
        runner = self._runner
        if runner is not None and not runner.done() and not runner.get_loop().is_closed():
            runner.cancel()
            await asyncio.wait((runner,))
        self._inbox.close()

    # Messages.

    def __aiter__(self) -> AsyncIterator[M]:
        return self

    async def __anext__(self) -> M:
        """The next message. Raises EndedError when the server has ended it for good; stops when it was closed."""
        self._check_begun()
        message: M | None = await self._inbox.get()
        if message is None:
            raise StopAsyncIteration
        return message

    async def take(self) -> list[M]:
        """All messages that are there, at least one; none when the client was closed. Raises EndedError."""
        self._check_begun()
        return await self._inbox.take()

    # Requests.

    async def ping(self) -> float:
        """Seconds that the server takes to answer, through everything that waits before it."""
        self._check_open()
        started = time.monotonic()
        await self._answer(self._conversation.ask_ping())
        return time.monotonic() - started

    async def replace_token(self, token: str) -> None:
        """Go on with this token. Raises RequestError when the server does not accept it; the old one stays then."""
        self._check_open()
        await self._answer(self._conversation.ask_token(token))
        self._link.use_token(token)

    def _check_begun(self) -> None:
        if self._runner is None and not self._inbox.is_over:
            raise ClosedError("the client is not open: use `async with` to open it")

    def _check_open(self) -> None:
        self._inbox.check()
        self._check_begun()

    async def _answer(self, number: int) -> Any:
        """The answer to one request. Raises RequestError where that is an error."""
        (answer,) = await self._answers([number])
        if isinstance(answer, messages.Error):
            raise refusal(answer)
        return answer

    async def _answers(self, numbers: Sequence[int]) -> list[Any]:
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
