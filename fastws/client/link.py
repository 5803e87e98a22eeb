"""Keeps a session connected: sockets one after the other, signs of life, tokens."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import Any, Final, Protocol
from urllib.parse import urlencode

from fastws.client import messages
from fastws.client.address import NO_TOKEN, Address
from fastws.client.ages import Ages
from fastws.client.backoff import ENDS, NEW_TOKEN, Reconnection
from fastws.client.errors import ConnectError, EndedError, RequestError, TokenError, UsageError
from fastws.client.inbox import Inbox
from fastws.client.messages import Interrupted, RefreshFailed
from fastws.client.socket import Socket
from fastws.client.tokens import TokenClock

# The machine has slept where its two clocks have run apart by so many seconds, and then the connection may be gone. It
# is looked at as often as the second says, and given as long to show that it lives.
_CLOCK_STEP: Final = 2.0
_LOOK_SECONDS: Final = 5.0
# Seconds after the server has dropped requests for their rate.
_ASK_AGAIN_SECONDS: Final = 1.1


class Conversation(Protocol):
    """What is said on the connections of a client, one after the other, in one of the dialects. Sans-IO.

    `outgoing` and `answers` are taken, and emptied, after each call.
    """

    reconnection: Reconnection
    outgoing: list[bytes]
    answers: list[tuple[int, Any]]
    """The number of a request, and what it was answered: `messages.Error`, or what the dialect has for it."""
    is_live: bool
    """Whether requests are sent, and not kept for later."""
    last_error: messages.Error | None
    """Of this connection, about no request: what it ends of, if it ends."""
    must_ask_again: bool
    """The server has dropped a request, it does not say which: `ask_again` is called a second later."""
    n_repeated: int
    n_unknown: int
    ages: Ages

    @property
    def server_time(self) -> datetime | None:
        """When the greeting of the last live connection was written."""

    @property
    def user_id(self) -> str | int | None:
        """The user as the last greeting had it."""

    def parameters(self) -> dict[str, str]:
        """What to add to the query of the URL."""

    def receive(self, text: bytes, now: float) -> list[Any]:
        """Take a text message; returns what it has for the user, in order."""

    def connection_lost(self) -> None:
        """Nothing more comes from this connection, and nothing goes."""

    def ask_ping(self) -> int:
        """Ask for a sign of life; returns the number of the request."""

    def ask_token(self, token: str) -> int:
        """Ask to go on with this token; returns the number of the request."""

    def ask_again(self) -> None:
        """Send what waits for an answer once more."""

    def abandon(self, number: int) -> None:
        """Nobody waits for this answer any more."""


class Link:
    """One session's connections.

    1. At most one socket is open. What comes on it goes through the session into `inbox`; answers go to `futures`.
    2. :meth:`run` ends when connecting again cannot help, with the failure given to `inbox`, or by being cancelled.
       Then the socket is closed, with a farewell, and nothing is left running.
    3. Before the first connection was live, failures are raised; from then on they are `Interrupted`.
    """

    def __init__(self, address: Address, token: str | None, session: Conversation, inbox: Inbox) -> None:
        self.token = token
        self.went_live = asyncio.Event()
        """Set with the first connection that is live."""
        self.futures: dict[int, asyncio.Future[Any]] = {}
        self.n_connections = 0
        self.is_closing = False
        self._address = address
        self._session = session
        self._inbox = inbox
        self._clock = TokenClock()
        self._token_changed = asyncio.Event()
        self._socket: Socket | None = None
        # Of the last connection: why this client has ended it, and the fault if it was one.
        self._ends_for = ""
        self._fault: Exception | None = None
        self._asks_again: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        try:
            await self._stay_connected()
        except Exception as failure:
            # Whoever takes messages, or asks for something, gets it.
            self._inbox.end(failure)
        finally:
            self._inbox.end()

    async def _stay_connected(self) -> None:
        n_failed = 0
        wants_token = self.token is None and self._address.token_source is not None
        while True:
            code, said = 1006, ""
            is_fresh = wants_token
            if wants_token:
                said = await self._fetch_token()
                wants_token = bool(said)
            if not wants_token:
                may_retry = True
                try:
                    code, said = await self._connect_once()
                except ConnectError as failure:
                    may_retry, said = failure.may_retry, str(failure)
                verdict = self._session.reconnection.verdict(code)
                if verdict == "end":
                    raise EndedError(
                        f"the server closed the connection with {code}: {ENDS[code]} ({said})", code
                    )
                if verdict == "token":
                    # A new one that is refused, too, may have expired on the way: after good ones others will come. At
                    # first it is a mistake, and is told.
                    may_be_late = self.went_live.is_set() or not is_fresh
                    wants_token = self._address.token_source is not None and may_be_late
                    if not wants_token:
                        text = f"the server closed the connection with {code}: {NEW_TOKEN[code]} ({said})"
                        advice = "give a valid token=, or refresh_token= to have it replaced"
                        raise TokenError(f"{text}; {advice}", code)
                elif not self.went_live.is_set():
                    n_failed += 1
                    if not may_retry or 0 < self._address.connect_attempts <= n_failed:
                        raise ConnectError(said, may_retry=may_retry)
            is_planned = self._session.reconnection.is_announced
            delay = self._session.reconnection.delay(time.monotonic(), code)
            if self.went_live.is_set():
                self._inbox.put(Interrupted(code, said, delay, is_planned))
            await asyncio.sleep(delay)

    async def _fetch_token(self) -> str:
        """Ask for a token before connecting. Returns why there is none, or nothing."""
        try:
            self.token = await self._new_token()
        except Exception as failure:
            if not self.went_live.is_set():
                raise TokenError(f"refresh_token gave no token: {failure!r}", 4401) from failure
            return f"refresh_token gave no token: {failure!r}"
        return ""

    async def _new_token(self) -> str:
        token = "" if self._address.token_source is None else await self._address.token_source()
        if not isinstance(token, str) or token in NO_TOKEN or not (token.isascii() and token.isprintable()):
            raise UsageError("refresh_token: expected it to return the text of a JWT")
        return token

    async def _connect_once(self) -> tuple[int, str]:
        """Connect, and stay until the connection ends; returns its close code, and why it has ended. Raises
        ConnectError."""
        started = time.monotonic()
        headers = dict(self._address.headers)
        if self.token is not None:
            headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            headers["Authorization"] = f"Bearer {self.token}"
        query = urlencode([*self._address.query, *self._session.parameters().items()])
        self._fault = None
        self._ends_for = ""
        socket = self._socket = self._inbox.socket = await Socket.open(
            f"{self._address.url}?{query}" if query else self._address.url,
            self._on_text,
            time_limit=self._address.connect_timeout,
            headers=headers,
            compression=self._address.compression,
            proxy=self._address.proxy,
            ssl_context=self._address.ssl,
        )
        # The greeting may have come with the end of the handshake.
        self.flush()
        if self._ends_for:
            socket.abort(self._ends_for)
        keeper = asyncio.create_task(self._keep_token(), name="fastws client: token")
        try:
            await self._watch(socket, started + self._address.connect_timeout)
        finally:
            keeper.cancel()
            if self._asks_again is not None:
                self._asks_again.cancel()
                self._asks_again = None
            try:
                if self.is_closing:
                    await socket.close()
            finally:
                socket.abort()
                error = self._session.last_error
                self._socket = self._inbox.socket = None
                self._session.connection_lost()
        if self._fault is not None:
            raise self._fault
        code, reason = socket.ended.result()
        if error is not None:
            reason = f"{error.code}: {error.message}"
        return code, reason or "it gave no reason"

    async def _watch(self, socket: Socket, greeted_by: float) -> None:
        """Until the socket has ended: see that it lives."""
        pinged_at: float | None = None
        patience = self._address.ping_timeout
        apart = time.time() - time.monotonic()
        while not socket.ended.done():
            now = time.monotonic()
            apart, before = time.time() - now, apart
            has_slept = abs(apart - before) > _CLOCK_STEP
            # Before the first greeting nobody takes messages, so a pause has no end but this one.
            if socket.is_paused and self.went_live.is_set():
                # It hears nothing because it does not listen.
                pinged_at, due = None, now + self._address.ping_interval
                greeted_by = now + self._address.connect_timeout
            elif not self._session.is_live:
                due = greeted_by
                if now >= due:
                    socket.abort(
                        f"it did not greet within {self._address.connect_timeout:g} s; check the path of url"
                    )
            elif pinged_at is not None and socket.heard_at < pinged_at:
                due = pinged_at + patience
                if now >= due:
                    socket.abort(f"no sign of life within {patience:g} s")
            else:
                pinged_at, due = None, socket.heard_at + self._address.ping_interval
                if now >= due or has_slept:
                    socket.ping()
                    patience = self._address.ping_timeout
                    if has_slept:
                        patience = min(patience, _LOOK_SECONDS)
                    pinged_at, due = now, now + patience
            # While it is not live yet that may change at any time.
            limit = min(due - now, _LOOK_SECONDS if self._session.is_live else 0.5)
            await asyncio.wait((socket.ended,), timeout=max(0.0, limit))

    def _on_text(self, text: bytes) -> None:
        now = time.monotonic()
        try:
            was_live = self._session.is_live
            for message in self._session.receive(text, now):
                if isinstance(message, messages.Unreadable) and not (was_live or self._session.is_live):
                    self._abort(f"its greeting cannot be read ({message.reason}); check the path of url")
                else:
                    self._inbox.put(message)
            if self._session.is_live and not was_live:
                self._note_live(now)
        except Exception as fault:
            # The loop would only log it.
            self._fault = fault
            self._abort("a fault of the client")
        for number, answer in self._session.answers:
            future = self.futures.get(number)
            if future is not None and not future.done():
                future.set_result(answer)
        self._session.answers.clear()
        if self._session.must_ask_again:
            self._session.must_ask_again = False
            if self._asks_again is None:
                # However many were dropped, everything that waits is sent once.
                self._asks_again = asyncio.get_running_loop().call_later(_ASK_AGAIN_SECONDS, self._ask_again)
        self.flush()
        self._inbox.balance()

    def _note_live(self, now: float) -> None:
        self.n_connections += 1
        self._clock.set_server_time(self._session.server_time, now)
        self._clock.set_token(self.token, now)
        self._token_changed.set()
        self.went_live.set()

    def _ask_again(self) -> None:
        self._asks_again = None
        self._session.ask_again()
        self.flush()

    def _abort(self, reason: str) -> None:
        self._ends_for = reason
        if self._socket is not None:
            self._socket.abort(reason)

    def flush(self) -> None:
        """Send what the session has to send; what there is before it is live stays with the session."""
        if self._socket is not None:
            for text in self._session.outgoing:
                self._socket.send(text)
            self._session.outgoing.clear()

    async def _keep_token(self) -> None:
        """Replace the token before it expires, as long as the connection lasts."""
        while self._address.token_source is not None:
            self._token_changed.clear()
            due = self._clock.refresh_at
            try:
                async with asyncio.timeout(None if due is None else max(0.0, due - time.monotonic())):
                    await self._token_changed.wait()
            except TimeoutError:
                pass
            else:
                continue
            try:
                await self._replace_token(await self._new_token())
            except Exception as failure:
                retry_in = self._clock.retry(time.monotonic())
                self._inbox.put(RefreshFailed(str(failure) or repr(failure), retry_in))

    async def _replace_token(self, token: str) -> None:
        """As `Client.replace_token`, for as long as the connection lasts."""
        number = self._session.ask_token(token)
        future = self.expect(number)
        try:
            self.flush()
            answer = await future
        finally:
            self.forget(number)
        if isinstance(answer, messages.Error):
            raise refusal(answer)
        self.use_token(token)

    def use_token(self, token: str) -> None:
        """The server has accepted this token."""
        self.token = token
        self._clock.set_token(token, time.monotonic())
        self._token_changed.set()

    # Answers.

    def expect(self, number: int) -> asyncio.Future[Any]:
        """What the answer to a request comes in; `forget` it when it has come, or is waited for no more."""
        future = self.futures[number] = asyncio.get_running_loop().create_future()
        self._count_requests()
        return future

    def forget(self, number: int) -> None:
        if self.futures.pop(number, None) is not None:
            self._session.abandon(number)
            self._count_requests()

    def fail_requests(self, failure: Exception) -> None:
        for future in self.futures.values():
            if not future.done():
                future.set_exception(failure)
                # Whoever asked may have gone.
                future.exception()
        self.futures.clear()
        self._count_requests()

    def _count_requests(self) -> None:
        self._inbox.n_requests = len(self.futures)
        self._inbox.balance()


def refusal(error: messages.Error) -> RequestError:
    return RequestError(error.code, error.message, error.details)
