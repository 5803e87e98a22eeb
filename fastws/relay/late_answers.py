"""Answers that come when those who asked have gone on without them. Sans-IO; times are given."""

from __future__ import annotations

from typing import Final

from fastws.dialects.clients import Client
from fastws.dialects.mail import Mail
from fastws.dialects.restoration import unheard
from fastws.relay.expiring import Expiring
from fastws.relay.moved_sessions import alerts_of
from fastws.relay.session_messages import SessionAnswer

# For how long an answer that comes too late still has what is addressed to a user, and of how many claims.
_LATE_SECONDS: Final = 60.0
_LATE_BYTES: Final = 1 << 20
_LATE_SIZE: Final = 250


class LateAnswers:
    """Tells clients that did not wait for an answer what it has for their users; the rest of it is of no use any more.

    Times are those of any one monotonic clock, in seconds.
    """

    def __init__(self, mail: Mail) -> None:
        self._mail = mail
        # By the number of their claims: who is to answer, and since which number of the hub their users' messages were
        # heard here.
        self._clients: Expiring[int, tuple[int, Client, int]] = Expiring(
            seconds=_LATE_SECONDS, limit=_LATE_BYTES
        )

    def expect(self, claim: int, holder: int, client: Client, heard: int, now: float) -> None:
        """A client goes on without `holder`, an origin.

        Messages of its user that came here after number `heard` of the hub are not told again.
        """
        self._clients.put(claim, (holder, client, heard), _LATE_SIZE, now)

    def hear(self, answer: SessionAnswer, now: float) -> None:
        """Take the answer to a claim that nobody waits for any more."""
        found = self._clients.get(answer.claim, now)
        if answer.what == "given" and found is not None and found[0] == answer.origin:
            self._clients.pop(answer.claim, now)
            _, client, heard = found
            client.guarded(self._hand, client, heard, answer)

    def expire(self, now: float) -> None:
        self._clients.expire(now)

    def _hand(self, client: Client, heard: int, answer: SessionAnswer) -> None:
        if client.is_admitted:
            self._mail.hand(client, unheard(self._mail, client, heard, alerts_of(answer.alerts)))
