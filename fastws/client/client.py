"""The asynchronous client. Its rules are in :mod:`fastws.client.session`, its sockets in :mod:`fastws.client.link`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from msgspec import UNSET

from fastws.client import messages
from fastws.client.backoff import Backoff, Reconnection
from fastws.client.base import Accepted, BaseClient, Options
from fastws.client.held import check_targets, check_wish, parts
from fastws.client.link import refusal
from fastws.client.messages import Message
from fastws.client.session import Session
from fastws.messages import Pause, Resume, Subscribed, Unsubscribe


class Client(BaseClient[Message]):
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
            `ping_timeout` seconds the connection counts as lost. When the machine has slept it is asked within 5 s, and
            given no more than that.
        compression: whether to offer permessage-deflate, which saves three quarters of the bytes and costs the client
            some processor time. The server compresses what is long enough.
        proxy: the URL of a proxy to go through, ``http://``, ``https://`` or ``socks5://``, with a name and a password
            if it wants them. Those of the environment are not heeded.
        ssl: for ``wss://``; default: the system's authorities.
        headers: more headers of the handshake, such as ``Origin``.
    """

    def __init__(self, url: str, *, backoff: Backoff | None = None, **options: Unpack[Options]) -> None:
        self._session = Session(Reconnection(backoff or Backoff()))
        super().__init__(self._session, "/v1/ws", url, **options)

    @property
    def session_id(self) -> str | None:
        greeting = self._session.greeting
        return None if greeting is None else greeting.connection_id

    @property
    def subscriptions(self) -> dict[str, list[str]]:
        """The targets that are held, by subscription type."""
        return self._session.held.by_kind()

    @property
    def is_paused(self) -> bool:
        """Whether the server sends nothing but answers, as it has last said."""
        return self._session.is_paused

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
                accepted.rejected.extend(messages.rejections(answer))
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

    async def pause(self) -> None:
        """Receive nothing more until :meth:`resume`, over all interruptions; targets stay held. What was sent before
        may still come."""
        self._check_open()
        await self._answer(self._session.ask(Pause()))

    async def resume(self) -> None:
        """Receive again, beginning with the last known values, marked `snapshot`. What was published meanwhile is left
        out and not told, also of mode "all"."""
        self._check_open()
        await self._answer(self._session.ask(Resume()))
