"""What is said on the socket besides data: requests, their answers, and PINGPONG. Sans-IO.

Sources: KIS's sample client (koreainvestment/open-trading-api, examples_llm/kis_auth.py), the developer portal, and for
codes beyond them what clients report.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, Final, NamedTuple

import msgspec

EXCHANGES: Final = ("KRX", "NXT", "UN", "SOR")

QUOTE: Final = {"KRX": "H0STASP0", "NXT": "H0NXASP0", "UN": "H0UNASP0"}
TICK: Final = {"KRX": "H0STCNT0", "NXT": "H0NXCNT0", "UN": "H0UNCNT0"}
OPERATION: Final = {"KRX": "H0STMKO0", "NXT": "H0NXMKO0", "UN": "H0UNMKO0"}
NOTICE: Final = "H0STCNI0"
PAPER_NOTICE: Final = "H0STCNI9"
NOTICES: Final = frozenset({NOTICE, PAPER_NOTICE})
# TRs that keep talking while their market is open.
STREAMS: Final = frozenset({*QUOTE.values(), *TICK.values()})

_CODE: Final = re.compile(r"[0-9A-Z]{6,7}")
_TR_KEY: Final = re.compile(r"[!-~]{1,64}")


class Registration(NamedTuple):
    """What KIS counts as one: a TR and the code, or HTS id, that it is asked for."""

    tr_id: str
    tr_key: str


class Request(NamedTuple):
    """One registration to make, or with `is_removal` to take back."""

    registration: Registration
    is_removal: bool


class Outcome(Enum):
    """What an answer means."""

    REGISTERED = "registered"
    REMOVED = "removed"
    DONE = "done"
    """A success of a code that is not known: whatever was asked has been done."""
    LATER = "later"
    """This registration did not succeed; another try may."""
    REFUSED = "refused"
    """This registration will never succeed as it is."""
    FULL = "full"
    """The session has all the registrations that it may have."""
    KEY_INVALID = "key invalid"
    """The approval key is not known; a new one and a new session are needed."""
    IN_USE = "in use"
    """Another session has the app key."""
    CREDENTIALS = "credentials"
    """The app key is not accepted."""


APP_KEY_WARNING: Final = "OPSP0010"
"""A warning about the app key, which ends nothing: how the request did is in rt_cd."""

# By msg_cd, because texts change. What is not here goes by rt_cd.
_OUTCOMES: Final = {
    "OPSP0000": Outcome.REGISTERED,
    "OPSP0001": Outcome.REMOVED,
    "OPSP0002": Outcome.REGISTERED,
    "OPSP0003": Outcome.REMOVED,
    "OPSP0007": Outcome.LATER,
    "OPSP0008": Outcome.FULL,
    "OPSP0009": Outcome.LATER,
    "OPSP0011": Outcome.KEY_INVALID,
    "OPSP8991": Outcome.REFUSED,
    "OPSP8992": Outcome.REFUSED,
    "OPSP8993": Outcome.REFUSED,
    "OPSP8994": Outcome.REFUSED,
    "OPSP8995": Outcome.REFUSED,
    "OPSP8996": Outcome.IN_USE,
    "OPSP8997": Outcome.REFUSED,
    "OPSP8998": Outcome.REFUSED,
    "OPSP8999": Outcome.LATER,
    "OPSP9990": Outcome.REFUSED,
    "OPSP9991": Outcome.REFUSED,
    "OPSP9992": Outcome.REFUSED,
    "OPSP9993": Outcome.LATER,
    "OPSP9994": Outcome.CREDENTIALS,
    "OPSP9995": Outcome.LATER,
    "OPSP9996": Outcome.CREDENTIALS,
    "OPSP9997": Outcome.REFUSED,
    "OPSP9998": Outcome.REFUSED,
    "OPSP9999": Outcome.REFUSED,
}


class Ack(NamedTuple):
    """The answer to a request.

    `registration` is None where the answer does not name one. `key` and `iv` are the ASCII texts that frames of the TR
    are encrypted with, "" where there are none. `is_repeated` tells that KIS had the registration already.
    """

    registration: Registration | None
    outcome: Outcome
    code: str
    text: str
    key: str
    iv: str

    @property
    def is_repeated(self) -> bool:
        return self.code == "OPSP0002"


class PingPong(NamedTuple):
    """KIS asks whether the client is there."""


class ControlError(Exception):
    """A text that is no control message of KIS."""


def tr_for(exchange: str, table: dict[str, str]) -> str:
    """Return the TR of an exchange, by `QUOTE`, `TICK` or `OPERATION`. SOR routes orders and shares the TRs of UN.

    Raises:
        ValueError: there is no such exchange.
    """
    if exchange not in EXCHANGES:
        raise ValueError(f"exchange must be one of {', '.join(EXCHANGES)}, not {exchange!r}")
    return table["UN" if exchange == "SOR" else exchange]


def check_code(code: str) -> str:
    """Return `code`, the code of a stock (005930, 0074K0) or ETN (Q500001). Raises ValueError for anything else."""
    if not isinstance(code, str) or _CODE.fullmatch(code) is None:
        raise ValueError(
            f"a stock code has six or seven digits and capital letters, like '005930', not {code!r}"
        )
    return code


def check_key(tr_key: str) -> str:
    """Return `tr_key` if it can be sent: up to 64 printable ASCII characters, no blanks. Raises ValueError."""
    if not isinstance(tr_key, str) or _TR_KEY.fullmatch(tr_key) is None:
        raise ValueError("a key to register has 1 to 64 printable ASCII characters and no blanks")
    return tr_key


def encode_request(request: Request, approval_key: str, customer_type: str) -> bytes:
    """Return the text message of a request."""
    return msgspec.json.encode(
        {
            "header": {
                "approval_key": approval_key,
                "custtype": customer_type,
                "tr_type": "2" if request.is_removal else "1",
                "content-type": "utf-8",
            },
            "body": {"input": {"tr_id": request.registration.tr_id, "tr_key": request.registration.tr_key}},
        }
    )


def read_control(message: bytes) -> Ack | PingPong:
    """Read a text message that begins with a brace. Raises ControlError."""
    try:
        tree = msgspec.json.decode(message)
    except (ValueError, RecursionError):  # bad JSON, and bad UTF-8 within good JSON
        raise ControlError("not JSON") from None
    header = _member(tree, "header")
    tr_id = _text(header, "tr_id")
    if tr_id == "PINGPONG":
        return PingPong()
    body = _member(tree, "body")
    code = _text(body, "msg_cd")
    result = _text(body, "rt_cd")
    if not code and not result:
        raise ControlError("neither an answer nor PINGPONG")
    outcome = _OUTCOMES.get(code)
    if outcome is None:
        outcome = Outcome.DONE if result == "0" else Outcome.LATER
    tr_key = _text(header, "tr_key")
    registration = None if tr_id in ("", "(null)") or not tr_key else Registration(tr_id, tr_key)
    output = body.get("output")
    output = output if isinstance(output, dict) else {}
    # The text is shown to people; it comes from outside.
    text = "".join(char for char in _text(body, "msg1")[:200] if char.isprintable()).strip()
    return Ack(registration, outcome, code, text, _text(output, "key"), _text(output, "iv"))


def _member(tree: Any, name: str) -> dict[str, Any]:
    member = tree.get(name) if isinstance(tree, dict) else None
    if not isinstance(member, dict):
        raise ControlError(f"no {name}")
    return member


def _text(tree: dict[str, Any], name: str) -> str:
    value = tree.get(name)
    return value if isinstance(value, str) else ""
