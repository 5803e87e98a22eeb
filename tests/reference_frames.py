"""RFC 6455 frames by the plainest reading of it: what the frame reader is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Event = tuple[Any, ...]


def reference_events(
    data: bytes, is_client: bool, limit: int, allow_binary: bool, rsv_allowed: int
) -> list[Event]:
    """The events of `data` by the plainest reading of the RFC, violations without their reason."""
    events: list[Event] = []
    message = b""
    opcode_of_message = 0
    is_compressed = False

    while True:
        if len(data) < 2:
            return events
        fin, rsv, opcode = data[0] >> 7, data[0] & 0x70, data[0] & 0x0F
        is_masked, length = data[1] >> 7, data[1] & 0x7F
        if rsv & ~rsv_allowed or (rsv & 0x40 and opcode not in (1, 2)):
            return [*events, ("violation", 1002)]
        if opcode not in (0, 1, 2, 8, 9, 10) or is_masked == is_client:
            return [*events, ("violation", 1002)]
        if opcode >= 8 and (not fin or length > 125):
            return [*events, ("violation", 1002)]
        if opcode < 8 and (opcode == 0) != (opcode_of_message != 0):
            return [*events, ("violation", 1002)]
        if opcode == 2 and not allow_binary:
            return [*events, ("violation", 1003)]
        position = 2
        if length >= 126:
            width, least = (2, 126) if length == 126 else (8, 65536)
            if len(data) < 2 + width:
                return events
            length = int.from_bytes(data[2 : 2 + width], "big")
            if not least <= length < 1 << 63:
                return [*events, ("violation", 1002)]
            position += width
        if opcode < 8 and len(message) + length > limit:
            return [*events, ("violation", 1009)]
        mask = bytes(4)
        if is_masked:
            if len(data) < position + 4:
                return events
            mask = data[position : position + 4]
            position += 4
        payload = bytes(b ^ mask[i % 4] for i, b in enumerate(data[position : position + length]))
        is_whole = len(payload) == length
        data = data[position + length :]

        if opcode < 8:
            if opcode:
                opcode_of_message, is_compressed = opcode, bool(rsv & 0x40)
            message += payload
            is_end = is_whole and fin
            is_checked = opcode_of_message == 1 and not is_compressed
            if is_checked and not (is_utf8(message) if is_end else is_viable(message)):
                return [*events, ("violation", 1007)]
            if is_end:
                events.append(("message", opcode_of_message, is_compressed, message))
                message, opcode_of_message = b"", 0
        if not is_whole:
            return events
        if opcode == 8:
            if not payload:
                return [*events, ("close", 1005, "")]
            code = int.from_bytes(payload[:2], "big")
            if len(payload) == 1 or not (
                1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
            ):
                return [*events, ("violation", 1002)]
            if not is_utf8(payload[2:]):
                return [*events, ("violation", 1007)]
            return [*events, ("close", code, payload[2:].decode())]
        if opcode == 9:
            events.append(("ping", payload))
        if opcode == 10:
            events.append(("pong", payload))


def without_reasons(events: Sequence[Event]) -> list[Event]:
    return [event[:2] if event[0] == "violation" else event for event in events]


def is_viable(prefix: bytes) -> bool:
    """Whether some valid text begins with `prefix`."""
    return any(
        is_utf8(prefix + rest)
        for rest in (b"", b"\x80", b"\x80\x80", b"\x80\x80\x80", b"\xbf\x80", b"\xbf\x80\x80")
    )


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
