"""Requests, answers and PINGPONG of KIS, and the ciphers of its notices."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastws._kis import KISFrameError, split_records
from fastws.kis import control
from fastws.kis.ciphers import Ciphers
from fastws.kis.control import (
    Ack,
    ControlError,
    Outcome,
    PingPong,
    Registration,
    Request,
    encode_request,
    read_control,
)

KEY, IV = "abcdefghijklmnopabcdefghijklmnop", "0123456789abcdef"
NOTICE = (
    b"1|H0STCNI0|001|/dq4ucRFoB8J/kd9oKJUA/wxl/rF+GGgQB617sGI+xolFqhe/o/NDydM6ozy0Bj8Vre4psk+ybwXMP7z1tLoSzIXP5Eo2aa0"
    b"LIiK7hjPbUl/vsoZypmR8o6YMmbehic6c7lqr3+ceC355biUj7fZEUimvCBoZhXPCiZgY79E1elZM+SerHhhSLJQ3IEO1z3F"
)


def answer(tr_id: str, tr_key: str, result: str, code: str, **output: str) -> bytes:
    body: dict[str, object] = {"rt_cd": result, "msg_cd": code, "msg1": "TEXT\n"}
    if output:
        body["output"] = output
    return json.dumps({"header": {"tr_id": tr_id, "tr_key": tr_key, "encrypt": "N"}, "body": body}).encode()


def test_a_request_is_what_kis_documents() -> None:
    request = Request(Registration("H0UNASP0", "005930"), is_removal=False)
    assert encode_request(request, "0" * 8, "P") == (
        b'{"header":{"approval_key":"00000000","custtype":"P","tr_type":"1","content-type":"utf-8"},'
        b'"body":{"input":{"tr_id":"H0UNASP0","tr_key":"005930"}}}'
    )
    assert b'"tr_type":"2"' in encode_request(request._replace(is_removal=True), "0", "B")


@pytest.mark.parametrize(
    ("code", "result", "outcome"),
    [
        ("OPSP0000", "0", Outcome.REGISTERED),
        ("OPSP0001", "0", Outcome.REMOVED),
        ("OPSP0002", "1", Outcome.REGISTERED),
        ("OPSP0003", "1", Outcome.REMOVED),
        ("OPSP0007", "1", Outcome.LATER),
        ("OPSP0008", "1", Outcome.FULL),
        ("OPSP0009", "1", Outcome.LATER),
        # A warning: how the request did is in the result.
        ("OPSP0010", "1", Outcome.LATER),
        ("OPSP0010", "0", Outcome.DONE),
        ("OPSP0011", "1", Outcome.KEY_INVALID),
        ("OPSP8991", "9", Outcome.REFUSED),
        ("OPSP8993", "9", Outcome.REFUSED),
        ("OPSP8997", "9", Outcome.REFUSED),
        ("OPSP9994", "9", Outcome.CREDENTIALS),
        ("OPSP7777", "0", Outcome.DONE),
        ("OPSP7777", "1", Outcome.LATER),
        ("", "0", Outcome.DONE),
    ],
)
def test_answers_go_by_their_code(code: str, result: str, outcome: Outcome) -> None:
    ack = read_control(answer("H0UNASP0", "005930", result, code))
    assert isinstance(ack, Ack)
    assert ack == (Registration("H0UNASP0", "005930"), outcome, code, "TEXT", "", "")
    assert ack.is_repeated == (code == "OPSP0002")


def test_an_answer_without_a_key_belongs_to_no_registration() -> None:
    message = (
        b'{"header":{"tr_id":"(null)","tr_key":"","encrypt":"N"},'
        b'"body":{"rt_cd":"9","msg_cd":"OPSP8996","msg1":"ALREADY IN USE appkey"}}'
    )
    assert read_control(message) == (None, Outcome.IN_USE, "OPSP8996", "ALREADY IN USE appkey", "", "")


def test_the_keys_of_a_success() -> None:
    ack = read_control(answer("H0STCNI0", "HTSID", "0", "OPSP0000", key=KEY, iv=IV))
    assert isinstance(ack, Ack)
    assert (ack.key, ack.iv) == (KEY, IV)


def test_pingpong() -> None:
    assert read_control(b'{"header":{"tr_id":"PINGPONG","datetime":"20260922140610"}}') == PingPong()


@pytest.mark.parametrize(
    "message",
    [
        b"{",
        b"{}",
        b'{"header":5}',
        b'{"header":{"tr_id":"X"}}',
        b'{"header":{"tr_id":"X"},"body":{}}',
        b"{" * 99_999,
    ],
)
def test_what_is_no_control_message(message: bytes) -> None:
    with pytest.raises(ControlError):
        read_control(message)


@settings(deadline=None)
@given(
    st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_any_json_is_read_or_refused(tree: object) -> None:
    for value in (
        tree,
        {"header": tree},
        {"header": {"tr_id": tree, "tr_key": tree}, "body": {"msg_cd": "OPSP0000"}},
    ):
        with contextlib.suppress(ControlError):
            read_control(json.dumps(value).encode())


def test_exchanges_and_codes() -> None:
    assert [control.tr_for(exchange, control.TICK) for exchange in ("KRX", "NXT", "UN", "SOR")] == [
        "H0STCNT0", "H0NXCNT0", "H0UNCNT0", "H0UNCNT0",
    ]  # fmt: skip
    for code in ("005930", "0074K0", "Q500001"):
        assert control.check_code(code) == code
    for bad in ("5930", "00593a", "005930 ", "", 5930):
        with pytest.raises(ValueError, match="stock code"):
            control.check_code(bad)  # type: ignore[arg-type]
    assert control.check_key("HTSID0001") == "HTSID0001"
    for bad in ("", "a b", "x" * 65, '"한'):
        with pytest.raises(ValueError, match="printable"):
            control.check_key(bad)


def test_a_notice_in_clear() -> None:
    ciphers = Ciphers()
    assert ciphers.set_key("H0STCNI0", KEY, IV)
    flag, tr_id, count, payload = ciphers.decipher(NOTICE).split(b"|", 3)
    assert (flag, tr_id, count) == (b"0", b"H0STCNI0", b"001")
    ((user, account, *_, name, price),) = split_records(payload, 1)
    assert (user, account, name, price) == ("HTSID0001", "1234567801", "SAMSUNG", "000072100")
    assert KEY not in repr(ciphers)
    ciphers.clear()
    with pytest.raises(KISFrameError, match="encrypted"):
        ciphers.decipher(NOTICE)


@pytest.mark.parametrize(
    "message",
    [
        b"1|H0STCNI0|001|not-base64!",
        b"1|H0STCNI0|001|",
        b"1|H0STCNI0|001|AAAA",
        b"1|H0STCNI9|001|AAAA",
        b"1|H0STCNI0|001",
        NOTICE[:-4],
    ],
)
def test_damaged_notices_are_refused(message: bytes) -> None:
    ciphers = Ciphers()
    ciphers.set_key("H0STCNI0", KEY, IV)
    with pytest.raises(KISFrameError):
        ciphers.decipher(message)


@pytest.mark.parametrize(("key", "iv"), [(KEY[:-1], IV), (KEY, IV + "0"), ("", ""), ("한" * 32, IV)])
def test_keys_that_cannot_be_used(key: str, iv: str) -> None:
    assert not Ciphers().set_key("H0STCNI0", key, iv)
