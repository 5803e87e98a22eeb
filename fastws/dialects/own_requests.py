"""Requests of the program that fastws runs in: messages of types that the screener dialect does not have."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, get_args

import msgspec
from msgspec import UNSET, UnsetType

from fastws import messages
from fastws.errors import ErrorCode
from fastws.messages import RequestId

if TYPE_CHECKING:
    from fastws.dialects.clients import Client
    from fastws.dialects.conversation import Conversation

_TYPES: Final = frozenset(
    message.__struct_config__.tag for message in get_args(messages.ClientMessage) or (messages.ClientMessage,)
)


class Caller:
    """A connection that has asked for something, for as long as the program keeps it."""

    def __init__(self, client: Client) -> None:
        self._connection = client.connection
        self.connection_id = client.connection_id
        self.user_id: str | int | None = None if client.identity is None else client.identity.user_id
        """Who it is; None for one who has not said it."""
        self.address = client.arrival.address

    @property
    def is_open(self) -> bool:
        return self._connection.is_open

    def send(self, message: Mapping[str, Any]) -> bool:
        """Send an object, which should have a `type`; on the thread of the loop. Returns whether it is still open.

        It comes before the prices that are published from then on, and is not part of what a session restores.

        Raises:
            TypeError: it has what JSON does not.
        """
        data = msgspec.json.encode(message)
        if not self._connection.is_open:
            return False
        self._connection.send_control(data)
        return True


Answer = Mapping[str, Any] | None
Handler = Callable[[Caller, dict[str, Any]], Awaitable[Answer] | Answer]
"""Gets who asks and the object that was sent, and returns the object that is answered, if any: plain or async. A
`ValueError` is answered as INVALID_MESSAGE with its text; whatever else it raises ends the connection with 1011."""


class OwnRequests:
    """The handlers by type.

    1. A client's messages are done one after the other: what comes while a handler waits waits for it.
    2. The id of a request is that of its answer.
    3. Who has to bring a token first is not heard before.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._tasks: set[Any] = set()

    def add(self, kind: str, handler: Handler) -> None:
        """Have messages of type `kind` answered by `handler`.

        Raises:
            ValueError: the dialect has that type, or it is taken.
        """
        if not kind or kind in _TYPES or kind in self._handlers:
            raise ValueError(f"type: {kind!r} is one of the dialect's own, or taken, or empty")
        self._handlers[kind] = handler

    def find(self, text: bytes) -> tuple[Handler, dict[str, Any], RequestId | UnsetType] | None:
        """Return who answers a message that the dialect cannot read, the message, and its id; None: nobody."""
        try:
            message = msgspec.json.decode(text, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return None
        kind = message.get("type")
        handler = self._handlers.get(kind) if isinstance(kind, str) else None
        return None if handler is None else (handler, message, messages.request_id(text))

    def run(
        self,
        conversation: Conversation,
        client: Client,
        handler: Handler,
        message: dict[str, Any],
        request_id: RequestId | UnsetType,
    ) -> None:
        """Have a message answered, now or when its handler has waited."""
        caller = Caller(client)

        def answer(found: Answer) -> None:
            if found is not None:
                # Of the program's own `id`, if it has given one.
                own_id = {} if request_id is UNSET else {"id": request_id}
                caller.send({**own_id, **found})

        def refuse(error: ValueError) -> None:
            conversation.refuse(
                client.connection, ErrorCode.INVALID_MESSAGE, str(error)[:200], {}, request_id
            )

        async def finish(waiting: Awaitable[Answer]) -> None:
            try:
                try:
                    answer(await waiting)
                except ValueError as error:
                    refuse(error)
                client.is_delayed = False
                if client.connection.is_open:
                    conversation.obey_waiting(client)
            except Exception:
                conversation.fail(client, str(message["type"])[:64], request_id)

        try:
            found = handler(caller, message)
            if inspect.isawaitable(found):
                client.is_delayed = True
                task = conversation.hub.loop.create_task(finish(found))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                answer(found)
        except ValueError as error:
            refuse(error)
        except Exception:
            conversation.fail(client, str(message["type"])[:64], request_id)
