"""permessage-deflate over real sockets: independent decoders, what it saves, and bombs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate

from tests.certificates import files
from tests.clients import Stream, client
from tests.clients_js.node import require_package
from tests.conftest import StartServer
from tests.rawclient import CONTINUATION, TEXT, RawClient, frame, upgrade_head
from tests.serving import ROOT, Server, require_program

ADMIN_TOKEN = "the administrator"
# Enough targets that both sides have something to compress.
SYMBOLS = ("005930", "000660", "035720", "AAPL", "JPM", "247540", "MSFT", "GOOGL")

PARAMETERS: list[dict[str, Any]] = [
    *({"server_max_window_bits": bits} for bits in range(9, 16)),
    *({"client_max_window_bits": bits} for bits in range(9, 16)),
    {"client_max_window_bits": True},
    {"server_no_context_takeover": True},
    {"client_no_context_takeover": True},
    {
        "server_no_context_takeover": True,
        "client_no_context_takeover": True,
        "server_max_window_bits": 10,
        "client_max_window_bits": 11,
    },
]


def name_of(parameters: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in parameters.items())


@pytest.fixture
def simulated(shared_server: StartServer, over: dict[str, str]) -> Server:
    return shared_server("--feed", "sim", simulator_rate=2000, simulator_opening_burst=1, **over)


@pytest.mark.parametrize("parameters", PARAMETERS, ids=name_of)
async def test_websockets_decodes_it_with_all_parameters(
    simulated: Server, parameters: dict[str, Any]
) -> None:
    factory = ClientPerMessageDeflateFactory(**parameters)
    async with client(simulated.url, compression=None, extensions=[factory]) as connection:
        (agreed,) = connection.connection.protocol.extensions
        assert isinstance(agreed, PerMessageDeflate)
        assert agreed.remote_no_context_takeover
        assert agreed.local_no_context_takeover
        assert agreed.remote_max_window_bits == parameters.get("server_max_window_bits", 15)
        stream = Stream()
        connection.on_message = stream.take
        # It compresses what it sends, too.
        await connection.subscribe("stock", *SYMBOLS)
        answer = await connection.until_type("subscribed")
        assert answer["targets"] == [symbol for symbol in SYMBOLS if symbol in answer["targets"]]
        while stream.n_updates < 200:
            await connection.receive()
        assert stream.n_batches > 0


@pytest.mark.parametrize("path", ["/v1/ws", "/ws/realtime/"])
async def test_a_page_can_decline_it(simulated: Server, path: str) -> None:
    """Browsers offer it always, and no page can keep them from it."""
    offer = {"compression": None, "extensions": [ClientPerMessageDeflateFactory()]}
    async with client(simulated.url_of(path), **offer) as connection:
        assert len(connection.connection.protocol.extensions) == 1
    async with client(simulated.url_of(f"{path}?compression=off"), **offer) as connection:
        assert connection.connection.protocol.extensions == []


NODE_SCRIPT = """
import { text as readAll } from "node:stream/consumers";
import WebSocket from "ws";

const { url, subscribe, parameters, wanted } = JSON.parse(await readAll(process.stdin));
const results = [];
for (const perMessageDeflate of parameters) {
  results.push(await new Promise((resolve, reject) => {
    const socket = new WebSocket(url, { perMessageDeflate: { ...perMessageDeflate, threshold: 0 } });
    const seqs = {};
    const found = { messages: 0, size: 0, holes: [] };
    const deadline = setTimeout(() => reject(new Error(`too little came: ${JSON.stringify(found)}`)), 15000);
    const take = (update) => {
      if (update.seq === undefined) return;
      const key = `${update.type} ${update.code}`;
      if (update.seq !== (seqs[key] ?? 0) + 1) found.holes.push([key, seqs[key], update.seq]);
      seqs[key] = update.seq;
      found.messages += 1;
    };
    socket.on("error", reject);
    socket.on("open", () => socket.send(subscribe));
    socket.on("message", (data, isBinary) => {
      if (isBinary) return reject(new Error("a binary message"));
      found.size += data.length;
      const message = JSON.parse(data.toString());
      if (message.snapshot) {
        for (const update of message.messages) seqs[`${update.type} ${update.code}`] = update.seq;
      } else if (message.type === "batch") message.messages.forEach(take);
      else take(message);
      if (found.messages >= wanted) {
        clearTimeout(deadline);
        found.extensions = socket.extensions;
        found.received = socket._socket.bytesRead;
        socket.terminate();
        resolve(found);
      }
    });
  }));
}
process.stdout.write(JSON.stringify(results), () => process.exit());
"""


def test_ws_of_node_decodes_it_with_all_parameters(simulated: Server) -> None:
    node = require_program("node")
    require_package("ws")
    given = [
        {
            re.sub("_([a-z])", lambda match: match[1].upper(), key): value
            for key, value in parameters.items()
            # The package takes a number only.
            if value is not True or key.endswith("takeover")
        }
        for parameters in PARAMETERS
    ]
    order = {
        "url": simulated.url,
        "subscribe": json.dumps({"type": "subscribe", "subscription_type": "stock", "targets": SYMBOLS}),
        "parameters": given,
        "wanted": 60,
    }
    result = subprocess.run(
        [node, "--input-type=module", "--eval", f"{NODE_SCRIPT}"],
        input=json.dumps(order),
        cwd=ROOT / "tests",
        env=os.environ | {"NODE_EXTRA_CA_CERTS": str(files().authority_file)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    outcomes = json.loads(result.stdout)
    assert len(outcomes) == len(PARAMETERS)
    for parameters, outcome in zip(PARAMETERS, outcomes, strict=True):
        assert outcome["extensions"] == "permessage-deflate", parameters
        assert outcome["holes"] == [], parameters
        assert outcome["received"] < 0.5 * outcome["size"], parameters


# What it saves.


def test_a_batch_of_twenty_prices_is_a_quarter_on_the_wire(server: StartServer) -> None:
    """Twenty stocks that trade in one interval, each price a step from its last one, as the feed brings them."""
    source = server("--feed", "sim", simulator_rate=2000, simulator_book_share=0, simulator_opening_burst=1)
    prices = _simulated_prices(source, 20)
    target = server("--feed", "none", admin_token=ADMIN_TOKEN)
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(_reader(target, is_deflated=False))
        packed = stack.enter_context(_reader(target, is_deflated=True))
        # What hardly anyone shares may go out plain while the server has no time to spare.
        for _ in range(4):
            stack.enter_context(_reader(target, is_deflated=True))
        saved = []
        for batch in prices:
            _publish(target, batch)
            size, text = _next_batch(plain, is_deflated=False)
            packed_size, unpacked = _next_batch(packed, is_deflated=True)
            assert len(json.loads(text)["messages"]) == 20
            # Each cohort makes its batch at its own moment.
            assert json.loads(unpacked)["messages"] == json.loads(text)["messages"]
            saved.append(1 - packed_size / size)
    assert len(saved) >= 10
    assert min(saved) >= 0.75, saved


def _simulated_prices(source: Server, n: int) -> list[list[dict[str, Any]]]:
    """Batches of `n` updates as a simulated feed made them, without what the server adds."""
    batches: list[list[dict[str, Any]]] = []
    with source.raw_client() as raw:
        raw.send_message(type="subscribe", subscription_type="stock", targets=list(SYMBOLS))
        pending: list[dict[str, Any]] = []
        while len(batches) < 12:
            message = raw.read_message()
            if message["type"] == "batch" and "snapshot" not in message:
                pending += message["messages"]
            elif message["type"] == "price_update":
                pending.append(message)
            while len(pending) >= n:
                batches.append(pending[:n])
                del pending[:n]
    for batch in batches:
        for update in batch:
            for name in ("sequence", "seq", "timestamp"):
                del update[name]
    return batches


def _reader(target: Server, *, is_deflated: bool) -> RawClient:
    raw = target.raw_client(handshake=False)
    raw.send(upgrade_head(sec_websocket_extensions="permessage-deflate" if is_deflated else None))
    status, headers, _ = raw.read_response()
    assert status == 101
    assert ("sec-websocket-extensions" in headers) == is_deflated
    raw.send_message(type="subscribe", subscription_type="stock", targets=list(SYMBOLS))
    while raw.read_message()["type"] != "subscribed":
        pass
    assert raw.read_message()["snapshot"] is True
    return raw


def _next_batch(raw: RawClient, *, is_deflated: bool) -> tuple[int, bytes]:
    """Size on the wire, header included, and text of the next frame."""
    received = raw.read_frame()
    assert received is not None
    assert received.opcode == TEXT
    size = len(received.payload)
    payload = received.payload
    if is_deflated:
        payload = zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")
    return size + (2 if size < 126 else 4), payload


def _publish(target: Server, updates: list[dict[str, Any]]) -> None:
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    status, body = target.get("/v1/publish", "POST", json.dumps(updates).encode(), headers)
    assert status == 202, body


# Bombs.


def bomb(size: int) -> bytes:
    """Zeros, a thousand times smaller than they are; blocks that do not refer back repeat."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = compressor.compress(bytes(1 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return block * (size >> 20)


class Memory:
    """Resident memory of a server, from outside."""

    def __init__(self, server: Server) -> None:
        self.directory = Path(f"/proc/{server.process.pid}")

    def reset_peak(self) -> None:
        (self.directory / "clear_refs").write_text("5")

    def peak(self) -> int:
        found = re.search(r"VmHWM:\s+(\d+) kB", (self.directory / "status").read_text())
        assert found is not None
        return int(found[1]) * 1024


def fragments(data: bytes, size: int) -> Iterator[bytes]:
    for first in range(0, len(data), size):
        yield frame(
            CONTINUATION if first else TEXT,
            data[first : first + size],
            rsv=0 if first else 0x40,
            fin=first + size >= len(data),
        )


@pytest.mark.parametrize(
    ("expanded", "fragment", "message_bytes", "extra"),
    [
        # A gigabyte is over the limit already as it comes.
        pytest.param(1 << 30, None, 65_536, 1 << 20, id="1 GB in a frame"),
        pytest.param(1 << 30, 16_384, 65_536, 1 << 20, id="1 GB in fragments"),
        # The largest that is not.
        pytest.param(62 << 20, None, 65_536, 1 << 20, id="62 MB in a frame"),
        pytest.param(62 << 20, 4096, 65_536, 1 << 20, id="62 MB in fragments"),
        # Where messages of 2 MB are allowed, the gigabyte comes in whole: what is kept is what came, and its copy.
        pytest.param(1 << 30, None, 2 << 20, 3 << 20, id="1 GB in a frame within a higher limit"),
        pytest.param(1 << 30, 16_384, 2 << 20, 3 << 20, id="1 GB in fragments within a higher limit"),
    ],
)
def test_a_bomb_is_refused_in_little_memory(
    shared_server: StartServer, expanded: int, fragment: int | None, message_bytes: int, extra: int
) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of a process' memory is read from /proc")
    target = shared_server("--feed", "none", message_bytes=message_bytes)
    memory = Memory(target)
    data = bomb(expanded)
    assert expanded // 1100 < len(data) < expanded // 1000
    for is_measured in (False, True):
        with target.raw_client(handshake=False) as raw:
            raw.send(upgrade_head(sec_websocket_extensions="permessage-deflate"))
            status, headers, _ = raw.read_response()
            assert (status, "permessage-deflate" in headers["sec-websocket-extensions"]) == (101, True)
            raw.send_message(type="ping")
            while raw.read_message()["type"] != "pong":
                pass
            memory.reset_peak()
            before = memory.peak()
            raw.send_as_far_as_possible(
                frame(TEXT, data, rsv=0x40) if fragment is None else b"".join(fragments(data, fragment))
            )
            assert raw.read_close_code() == 1009
            if is_measured:
                # The first one loads what the server needs to refuse at all.
                assert memory.peak() - before < extra
