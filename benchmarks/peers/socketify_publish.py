"""socketify (uWebSockets under Python) with its `publish`.

It turns two event loops, asyncio's and libuv's, by polling the second from the first, and sleeps only when nothing
has happened for 10,000 turns: under any steady load it takes a whole core. Its `publish` sends at the end of a turn.
"""

from __future__ import annotations

import os
from typing import Any

from socketify import App, AppListenOptions, OpCode  # type: ignore[import-untyped]

from benchmarks.peers.publication import SUBSCRIBED, announce, publish_evenly

TOPIC = "prices"
# Bytes for a connection that does not read; beyond them messages are dropped without a word. The default is 64 KiB.
MAX_BACKPRESSURE = 16 << 20


def on_message(ws: Any, message: object, opcode: OpCode) -> None:
    ws.send(SUBSCRIBED, OpCode.TEXT)
    ws.subscribe(TOPIC)


def main() -> None:
    app = App()
    app.ws("/*", {"message": on_message, "max_backpressure": MAX_BACKPRESSURE, "idle_timeout": 0})

    def publish(text: str) -> None:
        app.publish(TOPIC, text, OpCode.TEXT)

    def on_listening(options: AppListenOptions) -> None:
        announce(options.port, os.getpid())
        publish_evenly(app.loop.loop, publish)

    app.listen(AppListenOptions(host="127.0.0.1", port=0), on_listening)
    app.run()


if __name__ == "__main__":
    main()
