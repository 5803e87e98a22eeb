"""A picows server whose publisher loops over its connections, on uvloop with the transports that picows picks.

Its handshake takes ``Connection: Upgrade`` only: the ``keep-alive, Upgrade`` that Firefox sends is answered with 400.
The load client sends the former, so nothing is done about it here.
"""

from __future__ import annotations

import asyncio

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

from benchmarks.peers.publication import SUBSCRIBED, announce, publish_evenly

readers: set[WSTransport] = set()


class Reader(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), None)
            transport.disconnect()
        elif frame.msg_type == WSMsgType.TEXT:
            transport.send(WSMsgType.TEXT, SUBSCRIBED.encode())
            readers.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        readers.discard(transport)

    def pause_writing(self) -> None:
        """Nothing: picows would log a warning. What the socket does not take, the transport keeps."""


def publish(text: str) -> None:
    message = text.encode()
    # A copy: a send that fails may end its connection at once.
    for transport in list(readers):
        transport.send(WSMsgType.TEXT, message)


async def main() -> None:
    server = await ws_create_server(lambda request: Reader(), "127.0.0.1", 0)
    announce(server.sockets[0].getsockname()[1])
    publish_evenly(asyncio.get_running_loop(), publish)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
