"""Requests on the socket and their answers, as KIS reads and writes them. Sans-IO.

Codes and texts: KIS developer portal, real-time quotations, and what independent clients have seen.
"""

from __future__ import annotations

import datetime
import json
import re
from importlib.resources import files
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

KST: Final = datetime.timezone(datetime.timedelta(hours=9), "KST")

RESULTS: Final[dict[str, tuple[str, str]]] = {
    "OPSP0000": ("0", "SUBSCRIBE SUCCESS"),
    "OPSP0001": ("0", "UNSUBSCRIBE SUCCESS"),
    "OPSP0002": ("1", "ALREADY IN SUBSCRIBE"),
    "OPSP0003": ("1", "UNSUBSCRIBE ERROR(not found!)"),
    "OPSP0007": ("1", "SUBSCRIBE INTERNAL ERROR"),
    "OPSP0008": ("1", "MAX SUBSCRIBE OVER"),
    "OPSP0009": ("1", "mci send failed"),
    "OPSP0010": ("1", "invalid appkey"),
    "OPSP0011": ("1", "invalid approval : NOT FOUND"),
    "OPSP0017": ("1", "invalid hts id"),
    "OPSP8991": ("9", "invalid tr_id"),
    "OPSP8992": ("9", "invalid tr_key"),
    "OPSP8993": ("9", "invalid tr_key"),
    "OPSP8994": ("9", "personalseckey not found"),
    "OPSP8995": ("9", "appsecret not found"),
    "OPSP8996": ("9", "ALREADY IN USE appkey"),
    "OPSP8997": ("9", "invalid tr_type"),
    "OPSP8998": ("9", "invalid custtype"),
    "OPSP8999": ("9", "resource"),
    "OPSP9990": ("9", "JSON PARSING ERROR : tr_key not found"),
    "OPSP9991": ("9", "JSON PARSING ERROR : input not found"),
    "OPSP9992": ("9", "JSON PARSING ERROR : body not found"),
    "OPSP9993": ("9", "JSON PARSING ERROR : internal"),
    "OPSP9994": ("9", "JSON PARSING ERROR : INVALID appkey"),
    "OPSP9995": ("9", "JSON PARSING ERROR : resource"),
    "OPSP9996": ("9", "JSON PARSING ERROR : appkey not found"),
    "OPSP9997": ("9", "JSON PARSING ERROR : custtype not found"),
    "OPSP9998": ("9", "JSON PARSING ERROR : header not found"),
    "OPSP9999": ("9", "JSON PARSING ERROR : invalid json format"),
}
"""Message code to (rt_cd, text)."""

# They come with "(null)" for the TR, because KIS has not read the request or does not look at it.
_WITHOUT_TR: Final = frozenset({"OPSP8996", *(code for code in RESULTS if code.startswith("OPSP999"))})

TR_IDS: Final = frozenset(
    json.loads(files("fastws.data").joinpath("kis_columns.json").read_text(encoding="utf-8"))["tr"]
) | {"H0STVIC0"}
NOTICE_TRS: Final = frozenset({"H0STCNI0", "H0STCNI9"})
INDEX_TRS: Final = frozenset({"H0UPCNT0", "H0UPANC0", "H0UPPGM0"})

STOCK_KEY: Final = re.compile(r"[0-9A-Z]{6,7}")
_INDEX_KEY: Final = re.compile(r"[0-9]{4}")
_USER_KEY: Final = re.compile(r"[!-~]{1,12}")

Registration: TypeAlias = "tuple[str, str]"
"""TR id and key."""


class Request(NamedTuple):
    """A registration or its end; `is_register` tells which."""

    approval_key: str
    is_register: bool
    tr_id: str
    tr_key: str

    @property
    def registration(self) -> Registration:
        return self.tr_id, self.tr_key


class Refusal(NamedTuple):
    """What is wrong with a request, and as much of the request as could be read."""

    code: str
    tr_id: str = ""
    tr_key: str = ""


class Keepalive(NamedTuple):
    """A PINGPONG of the client: the echo of one of ours, or one of its own."""


def read_request(text: str) -> Request | Refusal | Keepalive:
    """Take a text message of a client apart. What KIS would refuse without looking further is a `Refusal`.

    Every member has to be there and of the right value: in the header approval_key, custtype (P or B), tr_type
    (1 or 2) and content-type, in body.input tr_id and tr_key.
    """
    try:
        message: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return Refusal("OPSP9999")
    if not isinstance(message, dict):
        return Refusal("OPSP9999")
    header = message.get("header")
    if not isinstance(header, dict):
        return Refusal("OPSP9998")
    if header.get("tr_id") == "PINGPONG":
        return Keepalive()
    body = message.get("body")
    if not isinstance(body, dict):
        return Refusal("OPSP9992")
    given = body.get("input")
    if not isinstance(given, dict):
        return Refusal("OPSP9991")
    return _check(header, given)


def _check(header: dict[str, Any], given: dict[str, Any]) -> Request | Refusal:
    approval_key, custtype, tr_type, content_type = (
        header.get(name) for name in ("approval_key", "custtype", "tr_type", "content-type")
    )
    tr_id, tr_key = given.get("tr_id"), given.get("tr_key")
    if not isinstance(approval_key, str) or not approval_key:
        return Refusal("OPSP9996")
    if not isinstance(custtype, str):
        return Refusal("OPSP9997")
    if not isinstance(tr_key, str):
        return Refusal("OPSP9990")
    if not isinstance(content_type, str):
        return Refusal("OPSP9993")  # no code is known for this member
    if not isinstance(tr_id, str):
        return Refusal("OPSP8991", "", tr_key)
    if custtype not in ("P", "B"):
        return Refusal("OPSP8998", tr_id, tr_key)
    if tr_type not in ("1", "2"):
        return Refusal("OPSP8997", tr_id, tr_key)
    if tr_id not in TR_IDS:
        return Refusal("OPSP8991", tr_id, tr_key)
    if key_pattern(tr_id).fullmatch(tr_key) is None:
        return Refusal("OPSP8992", tr_id, tr_key)
    return Request(approval_key, tr_type == "1", tr_id, tr_key)


def key_pattern(tr_id: str) -> re.Pattern[str]:
    """What the key of a registration has to look like."""
    return _USER_KEY if tr_id in NOTICE_TRS else _INDEX_KEY if tr_id in INDEX_TRS else STOCK_KEY


def answer(
    code: str, tr_id: str = "", tr_key: str = "", *, key: str = "", iv: str = "", text: str | None = None
) -> bytes:
    """The answer to a request. `key` and `iv` are for successes, which carry them; `text` replaces the usual one."""
    rt_cd, usual = RESULTS.get(code, ("1", "unknown"))
    if code in _WITHOUT_TR:
        tr_id, tr_key = "(null)", ""
    body: dict[str, Any] = {"rt_cd": rt_cd, "msg_cd": code, "msg1": usual if text is None else text}
    if rt_cd == "0":
        body["output"] = {"iv": iv, "key": key}
    encrypt = "Y" if tr_id in NOTICE_TRS else "N"
    header = {"tr_id": tr_id or "(null)", "tr_key": tr_key, "encrypt": encrypt}
    return msgspec.json.encode({"header": header, "body": body})


def pingpong(now: datetime.datetime) -> bytes:
    """The keep-alive of the server; `now` is aware of its time zone."""
    stamp = now.astimezone(KST).strftime("%Y%m%d%H%M%S")
    return b'{"header":{"tr_id":"PINGPONG","datetime":"%b"}}' % stamp.encode("ascii")


def frame(tr_id: str, count: int, payload: bytes, *, encrypted: bool = False) -> bytes:
    """A data frame; `payload` holds the values of `count` records, or base64 text."""
    return b"%d|%b|%03d|%b" % (encrypted, tr_id.encode("ascii"), count, payload)


Malformation: TypeAlias = Literal["count", "width", "truncated", "unknown_tr", "base64", "text", "json"]

MALFORMED: Final[dict[Malformation, bytes]] = {
    "count": b"0|H0UNCNT0|0x2|005930^100000^72100",
    # 47 values that are said to be two records.
    "width": frame("H0UNCNT0", 2, b"005930^100000^72100" + b"^1" * 44),
    "truncated": b"0|H0UNCNT0|001",
    "unknown_tr": b"0|H0ZZZZZ0|001|005930^1^2",
    "base64": b"1|H0STCNI0|001|not-base64!",
    "text": b"hello",
    "json": b'{"header":{"tr_id":"H0UNCNT0"',
}
"""Messages that a client has to drop and to survive."""
