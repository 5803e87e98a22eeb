"""Control messages of KIS, and notices that are deciphered."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from fastws._kis import KISFrameError
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
from tests.fuzz.source import Source
from tests.fuzz.targets.kis_records import SAMPLES

TOKENS = (
    *(
        b'"header":{',
        b'"body":{',
        b'"tr_id":"',
        b'"tr_key":"',
        b'"PINGPONG"',
        b'"msg_cd":"OPSP0000"',
        b'"rt_cd":"0"',
    ),
    *(
        b'"msg1":"',
        b'"output":{',
        b'"iv":"',
        b'"key":"',
        b'"encrypt":"N"',
        b"(null)",
        b"OPSP8996",
        b"1|H0STCNI0|001|",
    ),
)
KEY, IV = "k" * 32, "i" * 16
TR = "H0STCNI0"


def check(data: bytes) -> None:
    source = Source(data)
    if source.whole(1) & 1:
        check_notice(source.rest())
        return
    message = source.rest()
    try:
        control = read_control(message)
    except ControlError as error:
        assert str(error)
        return
    if isinstance(control, PingPong):
        return
    assert isinstance(control, Ack)
    assert isinstance(control.outcome, Outcome)
    assert len(control.text) <= 200
    assert control.text.isprintable()
    if control.registration is not None:
        assert control.registration.tr_id and control.registration.tr_key
    # What comes back is asked for again where the answer was lost.
    if control.registration is not None:
        request = json.loads(encode_request(Request(control.registration, False), "key", "P"))
        assert Registration(**request["body"]["input"]) == control.registration


def check_notice(message: bytes) -> None:
    ciphers = Ciphers()
    assert ciphers.set_key(TR, KEY, IV)
    try:
        clear = ciphers.decipher(message)
    except KISFrameError as error:
        assert error.kind in ("truncated", "encrypted")
        return
    flag, tr_id, count, text = clear.split(b"|", 3)
    assert flag == b"0"
    # Enciphered again it is the same message: nothing of it was left out.
    *before, cipher = message.split(b"|", 3)
    assert before == [b"1", tr_id, count]
    assert base64.b64decode(cipher) == encipher(text)


def encipher(text: bytes) -> bytes:
    padder = PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES256(KEY.encode()), modes.CBC(IV.encode())).encryptor()
    return encryptor.update(padder.update(text) + padder.finalize()) + encryptor.finalize()


def seeds() -> Iterator[bytes]:
    for message in SAMPLES:
        if message[:1] == b"{":
            yield b"\0" + message
    yield b'\0{"header":{"tr_id":"PINGPONG","datetime":"20261006120000"}}'
    yield b'\0{"header":{"tr_id":"(null)","tr_key":"x"},"body":{"rt_cd":"1","msg_cd":"OPSP8996","msg1":"IN USE"}}'
    for text in (b"a^b^c", b"", "삼성전자^1".encode()):
        yield b"\1" + b"|".join((b"1", TR.encode(), b"001", base64.b64encode(encipher(text))))
    yield b"\1" + b"|".join((b"1", TR.encode(), b"001", b"AAAA"))
