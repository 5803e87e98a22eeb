"""The contract of the WebSocket endpoints for programs: an AsyncAPI document, made from the message types.

What has a type, a docstring or a table elsewhere stands here only by reference: messages and fields in
:mod:`fastws.messages`, codes in :mod:`fastws.errors`. What remains is who says what to whom.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, get_args

import msgspec

from fastws import messages
from fastws._version import __version__
from fastws.errors import CloseCode, ErrorCode
from fastws.messages import realtime
from fastws.messages.examples import examples, realtime_examples

ASYNCAPI_VERSION: Final = "3.0.0"

Json = dict[str, Any]
MessageType = type[msgspec.Struct]

# What the server says unasked: name of the operation, summary, messages.
Announcement = tuple[str, str, tuple[MessageType, ...]]


class _Channel(NamedTuple):
    """One endpoint. `prefix` keeps its operations and messages apart from those of others."""

    name: str
    title: str
    address: str
    prefix: str
    requests: tuple[MessageType, ...]
    answers: tuple[MessageType, ...]
    replies: dict[MessageType, tuple[MessageType, ...]]
    error: MessageType
    announcements: tuple[Announcement, ...]
    query: tuple[str, ...]
    examples: Callable[[], dict[str, list[Json]]]


_GREET: Final = "Begin every connection that is let in."
_DECLARE_LOSS: Final = "Say what a client that is too slow has lost."
_ANNOUNCE_STOP: Final = "Say when to come back, before a planned stop."

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
_ANNOUNCEMENTS: Final[tuple[Announcement, ...]] = (
    ("greet", _GREET, (messages.Greeting,)),
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
            messages.SymbolStatus,
            messages.Alert,
            messages.PortfolioUpdate,
            messages.Batch,
        ),
    ),
    ("declareLoss", _DECLARE_LOSS, (messages.Overflow,)),
    ("refuse", "Say why a connection is about to be closed, or a session cannot be had.", (messages.Error,)),
    ("announceStop", _ANNOUNCE_STOP, (messages.ServerShutdown,)),
)
_REALTIME_REPLIES: Final[dict[MessageType, tuple[MessageType, ...]]] = {
    realtime.RealtimePing: (realtime.RealtimePong,),
    realtime.SubscribeAsset: (realtime.RealtimeSubscribed, realtime.AssetUpdate),
    realtime.UnsubscribeAsset: (realtime.RealtimeUnsubscribed,),
    realtime.SubscribePortfolio: (realtime.RealtimeSubscribed, realtime.RealtimePortfolioUpdate),
    realtime.UnsubscribePortfolio: (realtime.RealtimeUnsubscribed,),
    realtime.RealtimeAuth: (realtime.RealtimeAuthenticated,),
}
_REALTIME_ANNOUNCEMENTS: Final[tuple[Announcement, ...]] = (
    ("greet", _GREET, (realtime.RealtimeGreeting,)),
    (
        "deliver",
        "Bring what is published, each message in a frame of its own.",
        (
            realtime.AssetUpdate,
            realtime.RealtimePortfolioUpdate,
            realtime.RealtimeFeedStatus,
            realtime.RealtimeSymbolStatus,
            realtime.RealtimeAlert,
        ),
    ),
    ("declareLoss", _DECLARE_LOSS, (realtime.RealtimeOverflow,)),
    (
        "refuse",
        "Say why a connection is about to be closed, or what it has no more.",
        (realtime.RealtimeError,),
    ),
    ("announceStop", _ANNOUNCE_STOP, (realtime.RealtimeServerShutdown,)),
)
_CHANNELS: Final = (
    _Channel(
        name="screener",
        title="Screener",
        address="/v1/ws",
        prefix="",
        requests=get_args(messages.ClientMessage),
        answers=get_args(messages.ServerMessage),
        replies=_REPLIES,
        error=messages.Error,
        announcements=_ANNOUNCEMENTS,
        query=("token", "session_id", "last_sequence", "epoch", "compression"),
        examples=examples,
    ),
    _Channel(
        name="realtime",
        title="Realtime",
        address="/ws/realtime/",
        prefix="realtime.",
        requests=get_args(realtime.ClientMessage),
        answers=get_args(realtime.ServerMessage),
        replies=_REALTIME_REPLIES,
        error=realtime.RealtimeError,
        announcements=_REALTIME_ANNOUNCEMENTS,
        query=("token", "compression"),
        examples=realtime_examples,
    ),
)

_ABOUT: Final = """\
Market data: prices, order books, market statuses, portfolio values and price alerts, over one WebSocket connection.

There are two dialects on two endpoints: the screener's, and realtime, whose messages have their members in `data`. An
update goes to the clients of both.

Every message is a JSON object in a text frame, with its name in `type`. Clients must ignore fields and message types
that they do not know: updates carry members of their source through, and later versions say more.

In the screener's, the highest `sequence` that a client has seen is, with `epoch`, its recovery cursor: a new
connection that brings `session_id`, `last_sequence` and `epoch` gets what was missed, in order and once. Nothing of
mode all is lost without an `overflow` that says what.

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
        "compression": {
            "type": "string",
            "description": "`off` keeps permessage-deflate from being agreed on, which browsers offer always.",
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
        "description": 'After the handshake, as the message `{"type":"auth","token":"<JWT>"}`, or in realtime '
        '`{"type":"auth","data":{"token":"<JWT>"}}`.',
    },
    "session": {
        "type": "httpApiKey",
        "in": "header",
        "name": "Cookie",
        "description": "In the handshake, where the server asks the application who its sessions belong to.",
    },
}


def document() -> Json:
    """Return the AsyncAPI document."""
    _, schemas = msgspec.json.schema_components(_kinds(), ref_template="#/components/schemas/{name}")
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
        "channels": {channel.name: _channel(channel) for channel in _CHANNELS},
        "operations": {
            name: operation for channel in _CHANNELS for name, operation in _operations(channel).items()
        },
        "components": {
            "messages": {
                channel.prefix + _tag(kind): _message(channel, kind)
                for channel in _CHANNELS
                for kind in (*channel.requests, *channel.answers)
            },
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


def _kinds() -> tuple[MessageType, ...]:
    return tuple(kind for channel in _CHANNELS for kind in (*channel.requests, *channel.answers))


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


def _channel(channel: _Channel) -> Json:
    query = {**_QUERY, "properties": {name: _QUERY["properties"][name] for name in channel.query}}
    return {
        "address": channel.address,
        "title": channel.title,
        "messages": {
            _tag(kind): {"$ref": f"#/components/messages/{channel.prefix}{_tag(kind)}"}
            for kind in (*channel.requests, *channel.answers)
        },
        "bindings": {"ws": {"method": "GET", "query": query, "headers": _HEADERS, "bindingVersion": "0.1.0"}},
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


def _operations(channel: _Channel) -> Json:
    place = {"$ref": f"#/channels/{channel.name}"}
    operations: Json = {}
    for kind in channel.requests:
        operations[channel.prefix + _tag(kind)] = {
            "action": "receive",
            "channel": place,
            "summary": _texts(kind)[0],
            "messages": _refs(channel, [kind]),
            "reply": {
                "channel": place,
                "messages": _refs(channel, [*channel.replies[kind], channel.error]),
            },
        }
    for name, summary, kinds in channel.announcements:
        operations[channel.prefix + name] = {
            "action": "send",
            "channel": place,
            "summary": summary,
            "messages": _refs(channel, kinds),
        }
    return operations


def _message(channel: _Channel, kind: MessageType) -> Json:
    tag = _tag(kind)
    summary, description = _texts(kind)
    message: Json = {
        "name": tag,
        "title": kind.__name__,
        "summary": summary,
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
        "examples": [{"payload": example} for example in channel.examples()[tag]],
    }
    if description:
        message["description"] = description
    if "id" in kind.__struct_fields__:
        message["correlationId"] = {"$ref": "#/components/correlationIds/id"}
    return message


def _refs(channel: _Channel, kinds: Iterable[MessageType]) -> list[Json]:
    return [{"$ref": f"#/channels/{channel.name}/messages/{_tag(kind)}"} for kind in kinds]


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
