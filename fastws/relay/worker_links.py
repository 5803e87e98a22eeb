"""A worker's link to the others, through their parent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastws.relay.address import RedisAddress
from fastws.relay.exchange_ends import SILENCE_SECONDS, ExchangeEnd
from fastws.relay.exchange_links import ExchangeLink

ADDRESS: Final = RedisAddress("", "the parent of the workers", 0)
"""Where the relay of workers is that have no other."""


class WorkerLink(ExchangeLink):
    """The relay's link over a worker's end of the exchange; it is up while the parent is heard."""

    def __init__(
        self,
        end: ExchangeEnd,
        *,
        on_message: Callable[[bytes], None],
        on_change: Callable[[str | None], None],
        on_listening: Callable[[str], None],
    ) -> None:
        super().__init__(end, on_message=on_message, on_change=on_change, on_listening=on_listening)
        self._parent = end

    @property
    def is_up(self) -> bool:
        return self._is_started and self._parent.is_up

    def start(self) -> None:
        super().start()
        self._parent.on_change.append(self._note)
        self._listen_to_all(self._parent)
        if self._parent.is_up:
            self._note(True)

    async def stop(self, seconds: float) -> None:
        if self._is_started:
            self._parent.on_change.remove(self._note)
            await super().stop(seconds)

    def _listener(self) -> ExchangeEnd | None:
        return self._parent if self._is_started else None

    def _note(self, is_up: bool) -> None:
        if is_up:
            self._note_up()
        else:
            self._on_change(f"the parent has said nothing for {SILENCE_SECONDS:g} s")
