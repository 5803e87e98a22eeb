"""A fake KIS server, to develop and to test against: :class:`FakeKIS`, or ``python -m fastws.kis.testing``.

It does what is known of the real one: keys, tokens and quotations over HTTP, registrations and data over a WebSocket,
with KIS's limits and KIS's answers to those who break them. Its market is the simulator's, or what was recorded.
Everything that can go wrong can be made to go wrong: see :mod:`fastws.kis.testing.actions`.
"""

from fastws.kis.testing.journal import VIOLATIONS, CallEntry, Journal, RequestEntry, SessionEntry, Violation
from fastws.kis.testing.script import Script, load, parse
from fastws.kis.testing.server import FakeKIS
from fastws.kis.testing.settings import EXAMPLE_HTS_ID, FakeSettings, ScriptError, example_keys

__all__ = [
    "EXAMPLE_HTS_ID",
    "VIOLATIONS",
    "CallEntry",
    "FakeKIS",
    "FakeSettings",
    "Journal",
    "RequestEntry",
    "Script",
    "ScriptError",
    "SessionEntry",
    "Violation",
    "example_keys",
    "load",
    "parse",
]
