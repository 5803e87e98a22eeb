"""Prices that somebody wants polled at once, asked of the instance that runs the feed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeAlias

from fastws.errors import FeedAwayError
from fastws.relay.channels import Channels
from fastws.relay.control import ForceAnswer, ForceRequest, encode
from fastws.relay.failures import log_failure
from fastws.relay.links import AnyLink
from fastws.relay.peers import Peer, Peers

ANSWER_SECONDS: Final = 15.0
"""How long the other instance may take; its poll feed gives up after 10 s."""

# Of requests of others at a time: they wait for the turn of the source, which gives each of them 10 s.
_MAX_RUNNING: Final = 256

Forced: TypeAlias = tuple[list[str], dict[str, str]]
"""Whose price is current, and by code why others are not."""


async def _no_source(codes: Sequence[str]) -> Forced:
    return [], dict.fromkeys(codes, "the process that brings the prices takes no requests")


class Forcing:
    """Asks others, and answers them with what `on_request` does. Belongs to the thread of the event loop.

    `patience`: for how many seconds an answer is waited for.
    """

    def __init__(
        self,
        link: AnyLink,
        channels: Channels,
        peers: Peers,
        *,
        origin: int,
        patience: float = ANSWER_SECONDS,
    ) -> None:
        self.patience = patience
        self.on_request: Callable[[Sequence[str]], Awaitable[Forced]] = _no_source
        self._link = link
        self._channels = channels
        self._peers = peers
        self._origin = origin
        self._ids = itertools.count(1)
        self._asked: dict[int, tuple[int, asyncio.Future[Forced]]] = {}
        self._running: set[asyncio.Task[None]] = set()

    def owners(self, feed: str | None) -> list[Peer]:
        """The others that run `feed`, or any feed where it is None."""
        return [
            peer
            for peer in self._peers
            if any(
                candidacy.is_owner and feed in (None, name) for name, candidacy in peer.candidacies.items()
            )
        ]

    async def ask(self, feed: str | None, codes: Sequence[str]) -> Forced:
        """Have prices polled by whoever runs `feed`; of several feeds, by all that there are.

        Raises:
            FeedAwayError: nobody who runs it is heard, or one of them has not answered.
        """
        if not codes:
            return [], {}
        what = "the feed" if feed is None else f"the feed {feed}"
        if not self._link.is_up:
            raise FeedAwayError(f"{what} may run at another server, and the relay is away")
        owners = self.owners(feed)
        if not owners:
            raise FeedAwayError(f"{what} runs at no server just now")
        answers = await asyncio.gather(*(self._ask(peer, codes) for peer in owners), return_exceptions=True)
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        if failures:
            raise failures[0]
        return _joined(codes, [answer for answer in answers if not isinstance(answer, BaseException)])

    async def _ask(self, peer: Peer, codes: Sequence[str]) -> Forced:
        number = next(self._ids)
        future: asyncio.Future[Forced] = asyncio.get_running_loop().create_future()
        self._asked[number] = (peer.origin, future)
        try:
            self._link.send(
                self._channels.inbox(peer.origin), encode(ForceRequest(self._origin, number, list(codes)))
            )
            async with asyncio.timeout(self.patience):
                return await future
        except TimeoutError:
            raise FeedAwayError(f"{peer.name}, which runs the feed, has not answered") from None
        finally:
            del self._asked[number]

    def hear_answer(self, answer: ForceAnswer) -> None:
        origin, future = self._asked.get(answer.id, (0, None))
        if future is not None and origin == answer.origin and not future.done():
            future.set_result((answer.updated, answer.failed))

    def hear_request(self, request: ForceRequest) -> None:
        if len(self._running) >= _MAX_RUNNING:
            self._answer(request, [], dict.fromkeys(request.codes, "source busy"))
            return
        task = asyncio.get_running_loop().create_task(self._run(request))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def stop(self) -> None:
        """End what others still wait for; they hear nothing more of it."""
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, request: ForceRequest) -> None:
        try:
            updated, failed = await self.on_request(request.codes)
        except Exception:
            log_failure()
            updated, failed = [], dict.fromkeys(request.codes, "the feed has failed")
        self._answer(request, updated, failed)

    def _answer(self, request: ForceRequest, updated: list[str], failed: dict[str, str]) -> None:
        self._link.send(
            self._channels.inbox(request.origin),
            encode(
                ForceAnswer(
                    self._origin,
                    request.id,
                    updated,
                    {code: reason[:1000] for code, reason in failed.items()},
                )
            ),
        )


def _joined(codes: Iterable[str], answers: Sequence[Forced]) -> Forced:
    """One answer: a code that any of them has updated is, and of reasons the first counts."""
    updated = {code for found, _ in answers for code in found}
    failed = {code: reason for _, each in reversed(answers) for code, reason in each.items()}
    return (
        [code for code in codes if code in updated],
        {code: failed[code] for code in codes if code in failed and code not in updated},
    )
