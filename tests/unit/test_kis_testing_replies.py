from __future__ import annotations

import base64
import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from fastws._kis import KISFrameError, split_frame
from fastws.kis.testing import notices, replies
from fastws.kis.testing.replies import Keepalive, Refusal, Request, read_request

GOLDEN = (Path(__file__).parent / "kis_testing_messages.txt").read_text().splitlines()
KEY, IV = "abcdefghijklmnopabcdefghijklmnop", "0123456789abcdef"


def golden(name: str) -> str:
    """The message of that name."""
    return next(GOLDEN[i + 1] for i, line in enumerate(GOLDEN) if line.partition(" (")[0] == f"# {name}")


def request(**changes: Any) -> str:
    """A registration with members changed, or left out where they are None."""
    header = {"approval_key": "k", "custtype": "P", "tr_type": "1", "content-type": "utf-8"}
    given = {"tr_id": "H0STCNT0", "tr_key": "005930"}
    for name, value in changes.items():
        part = given if name in given else header
        part[name.replace("content_type", "content-type")] = value
    header = {name: value for name, value in header.items() if value is not None}
    return json.dumps(
        {"header": header, "body": {"input": {k: v for k, v in given.items() if v is not None}}}
    )


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("registered", replies.answer("OPSP0000", "H0UNASP0", "005930", key=KEY, iv=IV)),
        ("notices_registered", replies.answer("OPSP0000", "H0STCNI0", "HTSID0001", key=KEY, iv=IV)),
        ("unregistered", replies.answer("OPSP0001", "H0UNASP0", "005930", key=KEY, iv=IV)),
        ("already", replies.answer("OPSP0002", "H0UNASP0", "005930")),
        ("not_found", replies.answer("OPSP0003", "H0UNASP0", "005930")),
        ("over_cap", replies.answer("OPSP0008", "H0UNASP0", "005930")),
        ("unknown_approval", replies.answer("OPSP0011", "H0UNASP0", "005930")),
        ("in_use", replies.answer("OPSP8996", "H0UNASP0", "005930")),
        ("not_json", replies.answer("OPSP9999")),
        ("pingpong", replies.pingpong(datetime.datetime(2026, 10, 6, 1, 0, 10, tzinfo=datetime.UTC))),
    ],
)
def test_answers_are_written_as_kis_writes_them(name: str, made: bytes) -> None:
    assert made.decode() == golden(name)


def test_requests_are_read() -> None:
    key = "00000000-0000-0000-0000-000000000000"
    assert read_request(golden("register")) == Request(key, True, "H0UNASP0", "005930")
    assert read_request(golden("unregister")) == Request(key, False, "H0UNASP0", "005930")
    assert read_request(golden("pingpong")) == Keepalive()
    for tr_id, tr_key in (("H0UPCNT0", "0001"), ("H0STCNI0", "HTSID0001"), ("H0STCNT0", "Q500001")):
        assert isinstance(read_request(request(tr_id=tr_id, tr_key=tr_key, custtype="B")), Request)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("hello", "OPSP9999"),
        ("[1]", "OPSP9999"),
        ("{}", "OPSP9998"),
        ('{"header": {}}', "OPSP9992"),
        ('{"header": {}, "body": {}}', "OPSP9991"),
        (request(approval_key=None), "OPSP9996"),
        (request(custtype=None), "OPSP9997"),
        (request(tr_key=None), "OPSP9990"),
        (request(content_type=None), "OPSP9993"),
        (request(custtype="X"), "OPSP8998"),
        (request(tr_type=None), "OPSP8997"),
        (request(tr_type="0"), "OPSP8997"),
        (request(tr_type=1), "OPSP8997"),
        (request(tr_id=None), "OPSP8991"),
        (request(tr_id="H0ZZZZZ0"), "OPSP8991"),
        (request(tr_key="5930"), "OPSP8992"),
        (request(tr_key="00593O0930"), "OPSP8992"),
        (request(tr_id="H0UPCNT0"), "OPSP8992"),
    ],
)
def test_what_is_wrong_has_its_code(text: str, code: str) -> None:
    refusal = read_request(text)
    assert isinstance(refusal, Refusal)
    assert refusal.code == code
    answer = json.loads(replies.answer(*refusal))
    assert answer["body"]["msg_cd"] == code
    assert answer["body"]["rt_cd"] == "9"


@given(st.text() | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["header", "body", "input", "tr_id", "tr_key", "approval_key", "tr_type"]), inner
    ),
).map(json.dumps))  # fmt: skip
def test_nothing_that_is_sent_raises(text: str) -> None:
    assert isinstance(read_request(text), Request | Refusal | Keepalive)


def test_malformed_messages_are_malformed() -> None:
    for kind, message in replies.MALFORMED.items():
        if kind == "unknown_tr":
            assert split_frame(message).tr_id not in replies.TR_IDS
        elif kind == "base64":
            assert split_frame(message).encrypted
        else:
            with pytest.raises(KISFrameError):
                split_frame(message)


def test_notices_are_encrypted_as_in_the_golden() -> None:
    message = replies.frame("H0STCNI0", 1, notices.encrypt(golden("notice_text"), KEY, IV), encrypted=True)
    assert message.decode() == golden("notice")


def test_a_notice_has_the_values_of_its_order() -> None:
    text = notices.notice("USER1", "005930", 10, 72_100, "100001", filled=True)
    key, iv = notices.new_key(), notices.new_iv()
    assert (len(key), len(iv)) == (32, 16)
    assert key != notices.new_key()
    decryptor = Cipher(algorithms.AES(key.encode()), modes.CBC(iv.encode())).decryptor()
    padded = decryptor.update(base64.b64decode(notices.encrypt(text, key, iv))) + decryptor.finalize()
    assert padded[: -padded[-1]].decode() == text
    values = text.split("^")
    assert len(values) == 26
    assert (values[0], values[8], int(values[9]), int(values[10]), values[13]) == (
        "USER1", "005930", 10, 72_100, "2",
    )  # fmt: skip
