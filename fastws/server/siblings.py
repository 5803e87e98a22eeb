"""Questions of one worker to the others, and their answers, over the exchange."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Final, NamedTuple, TypeAlias

import msgspec
import structlog

from fastws.errors import FastwsError
from fastws.logs import log_limited
from fastws.relay.exchange_ends import ExchangeEnd

ANSWER_SECONDS: Final = 2.0
"""How long a worker may take to answer."""

_ALL: Final = "workers"
# Long answers come in parts, so that nothing that is said meanwhile waits for all of them.
_PART_SIZE: Final = 256 << 10

_log = structlog.get_logger("fastws.workers")

Answer: TypeAlias = Callable[[bytes], Awaitable[bytes]]


class SiblingError(FastwsError):
    """A worker has not answered; the text says which, and why."""


class _Question(msgspec.Struct, frozen=True, tag="question"):
    id: int
    asker: int
    name: str
    data: bytes


class _Part(msgspec.Struct, frozen=True, tag="part"):
    id: int
    worker: int
    data: bytes
    is_last: bool
    error: str | None = None


class Answers(NamedTuple):
    """What was answered, by the worker's number, and who of those that are there has not answered, and why."""

    found: dict[int, bytes]
    failed: dict[int, str]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Question | _Part)


class _Waiting:
    def __init__(self, workers: Collection[int]) -> None:
        self.parts: dict[int, list[bytes]] = {worker: [] for worker in workers}
        self.answers = Answers({}, {})
        self.is_done = asyncio.Event()

    def take(self, part: _Part) -> None:
        parts = self.parts.get(part.worker)
        if parts is None:
            return
        parts.append(part.data)
        if part.error is not None:
            self.fail(part.worker, part.error)
        elif part.is_last:
            self.answers.found[part.worker] = b"".join(self.parts.pop(part.worker))
            self._look()

    def fail(self, worker: int, why: str) -> None:
        if self.parts.pop(worker, None) is not None:
            self.answers.failed[worker] = why
            self._look()

    def _look(self) -> None:
        if not self.parts:
            self.is_done.set()


class Siblings:
    """The other workers of this server, as far as they are `present`. Belongs to the thread of the event loop.

    1. A question goes to those that are present when it is asked. Whoever ends before it has answered has failed, and
       so has who takes longer than the asker waits.
    2. `answers` has what answers each question by its name; what it raises is logged here, and a failure there.
    """

    def __init__(self, end: ExchangeEnd, number: int) -> None:
        self.number = number
        self.present: frozenset[int] = frozenset()
        self.answers: dict[str, Answer] = {}
        self._end = end
        self._last_id = 0
        self._waiting: dict[int, _Waiting] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        for channel in (_ALL, _channel(self.number)):
            self._end.listen(channel, self._on_message)

    async def stop(self) -> None:
        """Answer nothing any more."""
        for channel in (_ALL, _channel(self.number)):
            self._end.ignore(channel)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def note_present(self, present: Collection[int]) -> None:
        """Hear who is there."""
        self.present = frozenset(present) - {self.number}
        for waiting in list(self._waiting.values()):
            for worker in waiting.parts.keys() - self.present:
                waiting.fail(worker, "it has ended")

    async def ask(
        self, worker: int, name: str, data: bytes = b"", *, seconds: float = ANSWER_SECONDS
    ) -> bytes:
        """Return the answer of one worker.

        Raises:
            SiblingError: there is none; whether it was done is not known.
        """
        answers = await self._ask({worker} & self.present, worker, name, data, seconds)
        if worker not in answers.found:
            raise SiblingError(f"worker {worker}: {answers.failed.get(worker, 'it is not there')}")
        return answers.found[worker]

    async def ask_all(self, name: str, data: bytes = b"", *, seconds: float = ANSWER_SECONDS) -> Answers:
        return await self._ask(self.present, None, name, data, seconds)

    async def _ask(
        self, workers: Collection[int], to: int | None, name: str, data: bytes, seconds: float
    ) -> Answers:
        if not workers:
            return Answers({}, {})
        self._last_id += 1
        question = self._last_id
        waiting = self._waiting[question] = _Waiting(workers)
        try:
            self._send(to, _Question(question, self.number, name, data))
            async with asyncio.timeout(seconds):
                await waiting.is_done.wait()
        except TimeoutError:
            for worker in list(waiting.parts):
                waiting.fail(worker, f"no answer within {seconds:g} s")
        finally:
            del self._waiting[question]
        for worker, why in waiting.answers.failed.items():
            log_limited(
                _log,
                "worker-silent",
                "a worker has not answered another",
                silent=worker,
                asked=name,
                error=why,
            )
        return waiting.answers

    def _send(self, worker: int | None, message: _Question | _Part) -> None:
        self._end.send(_ALL if worker is None else _channel(worker), _encoder.encode(message))

    def _on_message(self, data: bytes) -> None:
        message: _Question | _Part = _decoder.decode(data)
        if isinstance(message, _Part):
            if (waiting := self._waiting.get(message.id)) is not None:
                waiting.take(message)
            return
        task = asyncio.get_running_loop().create_task(self._answer(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, question: _Question) -> None:
        error, data = None, b""
        try:
            data = await self.answers[question.name](question.data)
        except Exception as problem:
            error = "it has failed"
            log_limited(
                _log,
                f"answer {question.name}",
                "a question of another worker could not be answered",
                level="error",
                asked=question.name,
                exc_info=problem,
            )
        for at in range(0, max(1, len(data)), _PART_SIZE):
            part = data[at : at + _PART_SIZE]
            is_last = at + _PART_SIZE >= len(data)
            self._send(question.asker, _Part(question.id, self.number, part, is_last, error))


def _channel(number: int) -> str:
    return f"worker:{number}"
