"""What clients bring in their handshakes, told from what pages send for want of a value. Sans-IO."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl

from fastws.auth import Authenticator, AuthRequest, token_of
from fastws.dialects.clients import Arrival
from fastws.server.handshake import Request

_ABSENT: Final = (None, "", "undefined", "null")
# What certainly has 64 bits, and what int() reads in no time.
_MAX_SEQUENCE_DIGITS: Final = 18


def arrival_of(request: Request, authenticator: Authenticator, *, has_sessions: bool) -> Arrival:
    """What a client brings in its handshake; literals that pages send for want of a value count as absent.

    What somebody else is asked with who it is is part of it where `authenticator` needs that.
    """
    query = dict(parse_qsl(request.query, keep_blank_values=True)) if request.query else {}
    token = token_of(request.headers, query)
    address, address_key = request.peer.address, request.peer.key
    asked_with = (
        authenticator.question(AuthRequest(token, request.headers, query, request.path, address))
        if authenticator.asks(token)
        else None
    )
    if not has_sessions:
        return Arrival(token, asked_with, address=address, address_key=address_key)
    session_id = query.get("session_id")
    last_sequence, epoch = query.get("last_sequence"), query.get("epoch") or None
    cursor: int | None
    if last_sequence in _ABSENT:
        cursor = None
    elif last_sequence.isascii() and last_sequence.isdigit() and len(last_sequence) <= _MAX_SEQUENCE_DIGITS:
        cursor = int(last_sequence)
    else:
        # What the client has is not known: what it has missed is lost, and it is to hear so. No epoch is named "".
        cursor, epoch = 0, ""
    return Arrival(
        token=token,
        asked_with=asked_with,
        session_id=None if session_id in _ABSENT else session_id,
        last_sequence=cursor,
        epoch=epoch,
        address=address,
        address_key=address_key,
    )
