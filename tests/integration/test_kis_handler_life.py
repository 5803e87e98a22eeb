"""Connecting, disconnecting and callbacks of the handler in every order that programs come up with."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fastws.kis import KISCallbackError, KISConnectionError, KISWebSocketHandler, Timing
from fastws.kis.testing import FakeKIS
from tests.integration.test_kis_handler import FAST, QUICK, Program, auth
from tests.kis_client import until
from tests.serving import ROOT


@pytest.fixture
async def kis() -> AsyncIterator[FakeKIS]:
    async with FakeKIS(rate=50, pingpong_interval=0.3) as kis:
        yield kis
        assert not kis.journal.n_violations("second_session")
        assert kis.journal.max_sessions() <= 1


def n_threads() -> int:
    return sum(thread.name == "fastws KIS" for thread in threading.enumerate())


async def test_many_tasks_connect_and_disconnect_at_once(kis: FakeKIS) -> None:
    program = Program(kis)
    handler = program.handler
    await asyncio.gather(*(handler.connect() for _ in range(5)))
    assert len(kis.journal.sessions) == 1
    assert n_threads() == 1
    await handler.subscribe_tick(["005930"], "KRX")
    await until(lambda: program.ticks, "ticks")
    await asyncio.gather(*(handler.disconnect() for _ in range(5)))
    assert n_threads() == 0
    await asyncio.gather(handler.connect(), handler.subscribe_tick(["000660"], "KRX"), handler.connect())
    await until(lambda: handler.get_connection_status()["subscriptions"]["active"] == 2, "both again")
    closing = asyncio.create_task(handler.disconnect())
    await asyncio.sleep(0)
    await handler.connect()
    assert closing.done()
    assert handler.get_connection_status()["is_connected"]
    assert len(kis.journal.sessions) == 3
    await handler.disconnect()
    await handler.disconnect()
    assert not program.errors


async def test_disconnecting_ends_a_connect_that_is_under_way(kis: FakeKIS) -> None:
    program = Program(kis, max_retries=None)
    kis.do("refuse_upgrade", times=99)
    tries = [asyncio.create_task(program.handler.connect()) for _ in range(2)]
    await until(lambda: program.errors, "a failure")
    await asyncio.wait_for(program.handler.disconnect(), 5)
    for outcome in await asyncio.wait_for(asyncio.gather(*tries, return_exceptions=True), 5):
        assert isinstance(outcome, KISConnectionError)
        assert str(outcome) == "connection closed: disconnect() was called while it was made"
    kis.do("clear")
    await program.handler.connect()
    await program.handler.disconnect()
    assert n_threads() == 0


async def test_who_gives_up_waiting_does_not_leave_the_connection(kis: FakeKIS) -> None:
    program = Program(kis)
    kis.do("hang_upgrade", seconds=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await program.handler.connect()
    await until(lambda: n_threads() == 0, "the end of the thread")
    kis.do("clear")
    await program.handler.connect()
    await program.handler.subscribe_tick(["005930"], "KRX")
    await until(lambda: program.ticks, "ticks")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await program.handler.disconnect()
    await until(lambda: n_threads() == 0, "the end of the thread")
    assert not program.handler.get_connection_status()["is_running"]


async def test_a_callback_that_waits_for_what_was_cancelled_gets_what_follows(kis: FakeKIS) -> None:
    program = Program(kis)
    n_calls = 0

    async def on_tick(frame: pd.DataFrame) -> None:
        nonlocal n_calls
        n_calls += 1
        cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        cancelled.cancel()
        await cancelled

    program.handler.set_callbacks(on_tick=on_tick, on_error=program.on_error)
    await program.handler.connect()
    await program.handler.subscribe_tick(["005930"], "KRX")
    await until(lambda: n_calls >= 3, "three calls")
    await program.handler.disconnect()
    assert isinstance(program.errors[0], KISCallbackError)
    assert str(program.errors[0]) == "on_tick has raised CancelledError"


async def test_two_callbacks_disconnect_by_way_of_tasks(kis: FakeKIS) -> None:
    program = Program(kis)
    done: list[str] = []

    async def end(name: str) -> None:
        await asyncio.wait_for(program.handler.disconnect(), 10)  # with a task of its own before Python 3.12
        done.append(name)

    program.handler.set_callbacks(
        on_tick=lambda _: end("tick"), on_quote=lambda _: end("quote"), on_error=program.on_error
    )
    await program.handler.subscribe_tick(["005930"], "KRX")
    await program.handler.subscribe_quote(["005930"], "KRX")
    await program.handler.connect()
    await until(lambda: done, "the end")
    await until(lambda: n_threads() == 0, "the end of the thread")
    assert not program.errors


async def test_connecting_again_from_within_on_error(kis: FakeKIS) -> None:
    program = Program(kis, max_retries=0, timing=QUICK._replace(first_delay=0.1, last_delay=0.2))

    async def on_error(error: Exception, message: str | None = None) -> None:
        program.errors.append(error)
        await until(lambda: not program.handler.get_connection_status()["is_running"], "given up")
        await program.handler.connect()

    program.handler.set_callbacks(on_tick=program.ticks.append, on_error=on_error)
    await program.handler.connect()
    await program.handler.subscribe_tick(["005930"], "KRX")
    await until(lambda: program.ticks, "ticks")
    for n in range(2, 4):
        program.ticks.clear()
        kis.do("drop")
        await until(lambda n=n: len(kis.journal.sessions) == n and program.ticks, "ticks again")
    assert sum(task.get_name() == "fastws KIS callbacks" for task in asyncio.all_tasks()) == 6
    await program.handler.disconnect()
    assert n_threads() == 0


async def test_handlers_one_after_the_other_keep_the_pause(kis: FakeKIS) -> None:
    for _ in range(3):
        async with KISWebSocketHandler(auth(kis), timing=Timing()):
            pass
    assert len(kis.journal.sessions) == 3
    assert kis.journal.n_violations("hasty_connect") == 0


async def test_garbage_collection_does_not_end_what_is_connected(kis: FakeKIS) -> None:
    ticks: list[pd.DataFrame] = []
    handlers: list[Any] = [KISWebSocketHandler(auth(kis), limits=FAST, timing=QUICK)]
    handlers[0].set_callbacks(on_tick=ticks.append)
    await handlers[0].connect()
    await handlers[0].subscribe_tick(["005930"], "KRX")
    disconnect = handlers.pop().disconnect
    gc.collect()
    await until(lambda: len(ticks) >= 3, "ticks")
    await disconnect()


LOOPS = {
    "run": "asyncio.run(main())",
    "closed": "loop = asyncio.new_event_loop(); loop.run_until_complete(main()); loop.close()",
    "uvloop": "import uvloop; uvloop.run(main())",
    "policy": "import uvloop; asyncio.set_event_loop_policy(uvloop.EventLoopPolicy()); asyncio.run(main())",
    "debug": "asyncio.run(main(), debug=True)",
    "replaced": (
        "asyncio.run, run = (lambda *_, **__: asyncio.get_running_loop().run_until_complete(_[0])), asyncio.run; "
        "run(main())"
    ),
}
LEFT = """
import asyncio, logging, time
from fastws.kis import KISAuthManager, KISWebSocketHandler
logging.basicConfig(format="%(message)s")
handler = KISWebSocketHandler(KISAuthManager())

async def main():
    done = asyncio.Event()
    def on_tick(df):
        if not done.is_set():
            print(df.iloc[0]["MKSC_SHRN_ISCD"])
        done.set()
    handler.set_callbacks(on_tick=on_tick)
    await handler.connect()
    await handler.subscribe_tick(["005930"])
    await asyncio.wait_for(done.wait(), 20)

RUN
"""


@pytest.mark.parametrize("name", LOOPS)
async def test_a_program_that_ends_without_disconnecting(kis: FakeKIS, tmp_path: Path, name: str) -> None:
    """On every kind of loop: the connection ends with it, with a close frame, and the program is not held up."""
    path = tmp_path / "left.py"
    path.write_text(LEFT.replace("RUN", LOOPS[name]))
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(path),
        env={**os.environ, "PYTHONPATH": str(ROOT), **kis.variables()},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=tmp_path,
    )  # fmt: skip
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, output.decode().split()) == (0, ["005930"]), errors.decode()
    if name != "closed":  # there the loop's own tasks are left, which asyncio says
        lines = errors.decode().strip().splitlines()
        sentence = "the event loop has ended without disconnect(); the connection to KIS is closed"
        assert lines[-1] == sentence
        assert lines.count(sentence) == 1
        assert kis.journal.sessions[0].closed_by == "client"
        assert kis.journal.sessions[0].close_code == 1000
    assert kis.app_secret not in errors.decode()
