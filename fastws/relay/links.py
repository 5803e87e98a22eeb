"""What a relay needs of what its messages go over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

QUEUE_SIZE: Final = 16 << 20
"""Bytes that wait for whoever is slow or away, of one instance; of more, the oldest messages are dropped."""


class AnyLink(Protocol):
    """Sends messages to channels and hears those of channels that are listened to.

    It is made with `on_message`, called with each message that is heard; `on_change`, called with None when others can
    be reached, and with a reason when they cannot; and `on_listening`, called with a channel once nothing of it is
    missed any more. Of what was sent, more than `QUEUE_SIZE` does not wait: the oldest messages are dropped and
    counted as `n_dropped`, `n_refused` are those that were not taken. Positions of envelopes and numbers of other
    messages show their receivers that something is missing.
    """

    @property
    def is_up(self) -> bool: ...

    @property
    def is_detoured(self) -> bool:
        """Whether it is up only as far as to another process of this server."""

    @property
    def n_connects(self) -> int: ...

    @property
    def n_dropped(self) -> int: ...

    @property
    def n_refused(self) -> int: ...

    @property
    def queue_size(self) -> int: ...

    def start(self) -> None: ...

    async def stop(self, seconds: float, /) -> None: ...

    def send(self, channel: str, data: bytes, /) -> None: ...

    def listen(self, channels: Iterable[str], /) -> None: ...

    def ignore(self, channels: Iterable[str], /) -> None: ...

    def is_listening(self, channel: str, /) -> bool: ...
