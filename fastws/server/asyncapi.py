"""The contract of the WebSocket endpoint for programs: an AsyncAPI document, made from the message types.

What has a type, a docstring or a table elsewhere stands here only by reference: messages and fields in
:mod:`fastws.messages`, codes in :mod:`fastws.errors`. What remains is who says what to whom.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, Final, get_args

import msgspec

from fastws import messages
from fastws._version import __version__
from fastws.errors import CloseCode, ErrorCode
from fastws.messages.examples import examples

ASYNCAPI_VERSION: Final = "3.0.0"

Json = dict[str, Any]
MessageType = type[msgspec.Struct]

_REQUESTS: Final[tuple[MessageType, ...]] = get_args(messages.ClientMessage)
_ANSWERS: Final[tuple[MessageType, ...]] = get_args(messages.ServerMessage)

# Every request may also be answered by `error`.
_REPLIES: Final[dict[MessageType, tuple[MessageType, ...]]] = {
    messages.Subscribe: (messages.Subscribed, messages.Batch),
    messages.Unsubscribe: (messages.Unsubscribed,),
    messages.Ping: (messages.Pong,),
    messages.ListSubscriptions: (messages.Subscriptions,),
    messages.SetSubscriptions: (messages.Subscriptions, messages.Batch),
    messages.Pause: (messages.Paused,),
    messages.Resume: (messages.Resumed, messages.Batch),
    messages.Auth: (messages.Authenticated,),
    messages.RefreshToken: (messages.TokenRefreshed,),
    messages.Reconnect: (messages.Reconnected, messages.Batch),
}
# What the server says unasked: name of the operation, summary, messages.
_ANNOUNCEMENTS: Final[tuple[tuple[str, str, tuple[MessageType, ...]], ...]] = (
    ("greet", "Begin every connection that is let in.", (messages.Greeting,)),
    (
        "restore",
        "Go on with the session that the handshake named, after the greeting.",
        (messages.Reconnected, messages.Batch),
    ),
    (
        "deliver",
        "Bring what is published, one message bare and several as a batch, in publish order.",
        (
            messages.PriceUpdate,
            messages.OrderbookUpdate,
            messages.MarketStatus,
            messages.FeedStatus,
            messages.Alert,
            messages.Batch,
        ),
    ),
    ("declareLoss", "Say what a client that is too slow has lost.", (messages.Overflow,)),
    ("refuse", "Say why a connection is about to be closed, or a session cannot be had.", (messages.Error,)),
    ("announceStop", "Say when to come back, before a planned stop.", (messages.ServerShutdown,)),
)

_ABOUT: Final = """\
Market data: prices, order books, market statuses and price alerts, over one WebSocket connection.

Every message is a JSON object in a text frame, with its name in `type`. Clients must ignore fields and message types
that they do not know: updates carry members of their source through, and later versions say more.

The highest `sequence` that a client has seen is, with `epoch`, its recovery cursor: a new connection that brings
`session_id`, `last_sequence` and `epoch` gets what was missed, in order and once. Nothing of mode all is lost without
an `overflow` that says what.

Connections without a token are served public data, unless the server is set up to serve nobody without one."""

_QUERY: Final[Json] = {
    "type": "object",
    "properties": {
        "token": {
            "type": "string",
            "description": "A JWT. undefined, null and an empty value count as absent.",
        },
        "session_id": {
            "type": "string",
            "description": "`connection_id` of an earlier connection, whose session is to go on.",
        },
        "last_sequence": {
            "type": "integer",
            "minimum": 0,
            "maximum": 999_999_999_999_999_999,
            "description": "The highest `sequence` seen, after which the session is to go on. undefined, null and an "
            "empty value count as absent; what is no such number lets nothing be recovered.",
        },
        "epoch": {
            "type": "string",
            "description": "The `epoch` in which last_sequence counts; without it, the current one.",
        },
    },
}
_HEADERS: Final[Json] = {
    "type": "object",
    "properties": {
        "Authorization": {"type": "string", "description": "`Bearer` and a JWT.", "pattern": "^[Bb]earer "},
        "Sec-WebSocket-Protocol": {
            "type": "string",
            "description": "`fastws, bearer.<JWT>`, for pages, which cannot set other headers; the server "
            "confirms `fastws` only.",
        },
        "Origin": {
            "type": "string",
            "description": "Pages of other origins than the server's own are refused with HTTP 403, unless "
            "they are allowed by its settings.",
        },
    },
}
_SECURITY: Final[Json] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "In the handshake. Looked at first.",
    },
    "subprotocol": {
        "type": "httpApiKey",
        "in": "header",
        "name": "Sec-WebSocket-Protocol",
        "description": "In the handshake, as `fastws, bearer.<JWT>`. Looked at second.",
    },
    "query": {
        "type": "httpApiKey",
        "in": "query",
        "name": "token",
        "description": "In the handshake. Looked at last.",
    },
    "message": {
        "type": "apiKey",
        "in": "password",
        "description": 'After the handshake, as the message `{"type":"auth","token":"<JWT>"}`.',
    },
}


def document() -> Json:
    """Return the AsyncAPI document."""
    _, schemas = msgspec.json.schema_components(
        (*_REQUESTS, *_ANSWERS), ref_template="#/components/schemas/{name}"
    )
    schemas["ErrorCode"]["description"] = "\n".join(f"- `{code}`: {code.meaning}" for code in ErrorCode)
    for schema in schemas.values():
        _tidy(schema)
    return {
        "asyncapi": ASYNCAPI_VERSION,
        "info": {
            "title": "fastws",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {"plain": _server("ws"), "tls": _server("wss")},
        "channels": {"screener": _channel()},
        "operations": _operations(),
        "components": {
            "messages": {_tag(kind): _message(kind) for kind in (*_REQUESTS, *_ANSWERS)},
            "schemas": schemas,
            "securitySchemes": _SECURITY,
            "correlationIds": {
                "id": {
                    "location": "$message.payload#/id",
                    "description": "Optional; an answer has the id of its request, if that had one.",
                }
            },
        },
    }


def _server(protocol: str) -> Json:
    return {
        "host": "{address}",
        "protocol": protocol,
        "protocolVersion": "13",
        "variables": {
            "address": {"default": "localhost:8000", "description": "Where this document comes from."}
        },
        "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in _SECURITY],
    }


def _channel() -> Json:
    return {
        "address": "/v1/ws",
        "title": "Screener",
        "messages": {_tag(kind): _ref("components", "messages", kind) for kind in (*_REQUESTS, *_ANSWERS)},
        "bindings": {
            "ws": {"method": "GET", "query": _QUERY, "headers": _HEADERS, "bindingVersion": "0.1.0"}
        },
        "x-error-codes": [
            {
                "code": code.value,
                "meaning": code.meaning,
                "details": list(code.details),
                "closes": None if code.closes is None else int(code.closes),
            }
            for code in ErrorCode
        ],
        "x-close-codes": [
            {"code": int(code), "meaning": code.meaning, "reconnect": code.should_reconnect}
            for code in CloseCode
        ],
    }


def _operations() -> Json:
    operations: Json = {}
    for kind in _REQUESTS:
        operations[_tag(kind)] = {
            "action": "receive",
            "channel": {"$ref": "#/channels/screener"},
            "summary": _texts(kind)[0],
            "messages": _refs([kind]),
            "reply": {
                "channel": {"$ref": "#/channels/screener"},
                "messages": _refs([*_REPLIES[kind], messages.Error]),
            },
        }
    for name, summary, kinds in _ANNOUNCEMENTS:
        operations[name] = {
            "action": "send",
            "channel": {"$ref": "#/channels/screener"},
            "summary": summary,
            "messages": _refs(kinds),
        }
    return operations


def _message(kind: MessageType) -> Json:
    tag = _tag(kind)
    summary, description = _texts(kind)
    message: Json = {
        "name": tag,
        "title": kind.__name__,
        "summary": summary,
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
        "examples": [{"payload": example} for example in examples()[tag]],
    }
    if description:
        message["description"] = description
    if "id" in kind.__struct_fields__:
        message["correlationId"] = {"$ref": "#/components/correlationIds/id"}
    return message


def _refs(kinds: Iterable[MessageType]) -> list[Json]:
    return [_ref("channels", "screener", "messages", kind) for kind in kinds]


def _ref(*path: str | MessageType) -> Json:
    return {"$ref": "/".join(("#", *(part if isinstance(part, str) else _tag(part) for part in path)))}


def _tag(kind: MessageType) -> str:
    return str(kind.__struct_config__.tag)


def _texts(kind: MessageType) -> tuple[str, str]:
    """The first paragraph of a docstring, and the rest."""
    summary, _, rest = inspect.cleandoc(kind.__doc__ or "").partition("\n\n")
    return _unwrapped(summary), _unwrapped(rest)


def _unwrapped(text: str) -> str:
    """Paragraphs as lines: where a docstring breaks its lines says nothing."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph)


def _tidy(schema: Any) -> None:
    """Make a schema of msgspec one of AsyncAPI, in place."""
    if isinstance(schema, list):
        for item in schema:
            _tidy(item)
    elif isinstance(schema, dict):
        # OpenAPI's form of it, which AsyncAPI knows nothing of; `type` tells the alternatives apart without it.
        schema.pop("discriminator", None)
        if schema.get("type") == "object" and isinstance(schema.get("description"), str):
            schema["description"] = _unwrapped(inspect.cleandoc(schema["description"]))
        for value in schema.values():
            _tidy(value)
