"""What a client is subscribed to, as it has to ask for it again. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, cast

from msgspec import UNSET

from fastws.client.errors import UsageError
from fastws.client.numbers import Modes
from fastws.messages.client import Channel, Subscribe, SubscriptionType

Target = tuple[str, str]
"""A subscription type and one of its targets."""

# Of the server's `message_bytes`, which may be as low as this many of the longest names.
_TARGETS_PER_REQUEST: Final = 200
_CHANNELS: Final = ("price", "orderbook")


class Wish(NamedTuple):
    """How targets are wanted, None where it is the server's to choose."""

    mode: str | None = None
    max_rate: float | None = None
    channels: tuple[str, ...] | None = None

    def is_all(self, kind: str) -> bool:
        """Whether the server sends every update."""
        if self.max_rate is not None or self.mode is not None:
            return self.mode == "all"
        return kind == "stock"


UNSAID: Final = Wish()


def check_wish(
    kind: str,
    targets: Sequence[str],
    mode: str | None,
    max_rate: float | None,
    channels: Sequence[str] | None,
) -> Wish:
    """Return the wish. Raises UsageError, naming the argument, where the server would refuse it."""
    check_targets(kind, targets)
    if mode not in (None, "all", "latest"):
        raise UsageError(f'mode: expected "all" or "latest", not {mode!r}')
    if max_rate is not None and not 0.001 <= max_rate <= 1000:
        raise UsageError(f"max_rate: expected values per second from 0.001 to 1000, not {max_rate!r}")
    if max_rate is not None and mode == "all":
        raise UsageError('max_rate: it implies mode "latest", and mode is "all": leave out one')
    if isinstance(channels, str) or (channels is not None and not set(channels) & set(_CHANNELS)):
        raise UsageError('channels: expected a list of "price" and "orderbook"; leave it out for both')
    if channels is not None and (wrong := set(channels) - set(_CHANNELS)):
        raise UsageError(f'channels: expected "price" and "orderbook", not {min(wrong)!r}')
    return Wish(mode, max_rate, None if channels is None else tuple(channels))


def check_targets(kind: str, targets: Sequence[str]) -> None:
    if kind not in ("stock", "market", "sector", "portfolio"):
        raise UsageError(
            f'subscription_type: expected "stock", "market", "sector" or "portfolio", not {kind!r}'
        )
    if isinstance(targets, (str, bytes)):
        raise UsageError(f"targets: expected a list; write [{targets!r}]")
    if not targets:
        raise UsageError("targets: it is empty; name at least one")
    for target in targets:
        if not isinstance(target, str) or not 1 <= len(target) <= 64:
            raise UsageError(f"targets: expected texts of 1 to 64 characters, not {target!r}")


def parts(targets: Iterable[str]) -> Iterator[list[str]]:
    """Targets as requests may name them at once, each one once."""
    names = list(dict.fromkeys(targets))
    for start in range(0, len(names), _TARGETS_PER_REQUEST):
        yield names[start : start + _TARGETS_PER_REQUEST]


def subscribe_request(kind: str, targets: list[str], wish: Wish, snapshot: bool = True) -> Subscribe:
    channels = UNSET if wish.channels is None else cast(list[Channel], list(wish.channels))
    return Subscribe(
        subscription_type=cast(SubscriptionType, kind),
        targets=targets,
        mode=UNSET if wish.mode is None else wish.mode,  # type: ignore[arg-type]  # it was checked
        max_rate=UNSET if wish.max_rate is None else wish.max_rate,
        snapshot=snapshot,
        channels=channels,
    )


class Held:
    """The targets that the server has accepted, with what was asked for them, in the order of asking."""

    def __init__(self) -> None:
        self.wishes: dict[Target, Wish] = {}

    def accept(self, kind: str, targets: Iterable[str], wish: Wish) -> None:
        for target in targets:
            # Said again without options, a subscription stays as it is.
            if wish != UNSAID or (kind, target) not in self.wishes:
                self.wishes[kind, target] = wish

    def drop(self, kind: str, targets: Iterable[str]) -> None:
        for target in targets:
            self.wishes.pop((kind, target), None)

    def by_kind(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for kind, target in self.wishes:
            found.setdefault(kind, []).append(target)
        return found

    def requests(self, wanted: Iterable[Target]) -> list[Subscribe]:
        """What to send to hold `wanted` again."""
        groups: dict[tuple[str, Wish], list[str]] = {}
        for kind, target in wanted:
            groups.setdefault((kind, self.wishes[kind, target]), []).append(target)
        return [
            subscribe_request(kind, part, wish)
            for (kind, wish), targets in groups.items()
            for part in parts(targets)
        ]

    def modes(self, unsettled: set[Target]) -> Modes:
        """What numbers need; of `unsettled` targets it is not known yet when their mode begins."""
        groups = [key for key in self.wishes if key[0] in ("market", "sector")]
        return Modes(
            {
                target: wish.is_all(kind) and (kind, target) not in unsettled
                for (kind, target), wish in self.wishes.items()
                if kind == "stock"
            },
            bool(groups) and all(self.wishes[key].is_all(key[0]) and key not in unsettled for key in groups),
        )
