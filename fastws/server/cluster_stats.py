"""What joined instances have together, and how far that is known. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from fastws.relay.peers import Peer
    from fastws.relay.relay import Relay

STALE_SECONDS: Final = 3.0
"""From what age on the figures of another instance do not count; a new one is due every second."""

_BY_TYPE: Final = "subscriptions_by_type"
_SUMMABLE: Final = (
    "active_connections",
    "total_subscriptions",
    "messages_sent",
    "saved_sessions",
    "queued_messages",
    "messages_received",
    "queued_bytes",
    "connections_accepted",
    "connections_blocked",
    "overflows",
    "bytes_sent",
    "bytes_received",
)


class Instance(NamedTuple):
    """What one instance has: the figures of :func:`summable`, and its part in each feed, ``owner`` or ``standby``.

    It has told so `seconds_old` ago. One that `is_gone` has ceased without a word.
    """

    name: str
    figures: Mapping[str, int]
    feed_roles: Mapping[str, str] = {}
    seconds_old: float = 0.0
    is_gone: bool = False

    @property
    def is_stale(self) -> bool:
        return self.is_gone or self.seconds_old > STALE_SECONDS


def summable(body: Mapping[str, Any]) -> dict[str, int]:
    """Those figures of ``/v1/ws/stats`` that instances have each of their own."""
    figures = {name: body[name] for name in _SUMMABLE}
    return figures | {f"{_BY_TYPE}.{kind}": n for kind, n in body[_BY_TYPE].items()}


def others(relay: Relay) -> list[Instance]:
    """The other instances that are there, and those that are missed."""
    peers = relay.peers
    return [
        *(_instance(peer, peers.age(peer), is_gone=False) for peer in peers),
        *(_instance(peer, peers.age(peer), is_gone=True) for peer in peers.missed()),
    ]


def relay_state(relay: Relay) -> dict[str, Any]:
    """The member `relay` of ``/v1/ws/stats``: whether the others are heard."""
    found = others(relay)
    return {
        "is_up": relay.is_up,
        "seconds": round(relay.state_seconds, 1),
        "instances": 1 + sum(not each.is_stale for each in found),
        "missing": [each.name for each in found if each.is_stale],
    }


def together(body: Mapping[str, Any], own: Instance, found: Iterable[Instance]) -> dict[str, Any]:
    """The body of ``/v1/ws/stats?scope=cluster``: the sums of `own` and of those of `found` that are not stale.

    `body` is that of ``/v1/ws/stats`` here, of which the state of feeds and of the relay are taken: as seen from here.
    """
    instances = [own, *found]
    sums: dict[str, int] = {}
    for instance in instances:
        if not instance.is_stale:
            for name, n in instance.figures.items():
                sums[name] = sums.get(name, 0) + n
    by_type = dict.fromkeys(body[_BY_TYPE], 0) | {
        name.removeprefix(f"{_BY_TYPE}."): n for name, n in sums.items() if name.startswith(f"{_BY_TYPE}.")
    }
    missing = [each.name for each in instances if each.is_stale]
    seen = {name: body[name] for name in ("relay", "feeds") if name in body}
    return {
        "scope": "cluster",
        "answered_by": own.name,
        "is_complete": not missing and body.get("relay", {}).get("is_up", True),
        "missing": missing,
        **{name: sums.get(name, 0) for name in _SUMMABLE},
        _BY_TYPE: by_type,
        **seen,
        "instances": [_shown(each) for each in instances],
    }


def _instance(peer: Peer, age: float, *, is_gone: bool) -> Instance:
    roles = {
        feed: "owner" if candidacy.is_owner else "standby" for feed, candidacy in peer.candidacies.items()
    }
    return Instance(peer.name, peer.figures, roles, age, is_gone)


def _shown(instance: Instance) -> dict[str, Any]:
    return {
        "name": instance.name,
        "seconds_old": round(instance.seconds_old, 1),
        "is_stale": instance.is_stale,
        "feed_roles": dict(instance.feed_roles),
        **{name: instance.figures.get(name, 0) for name in _SUMMABLE},
    }
