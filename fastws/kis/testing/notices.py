"""Execution notices: their clear text, and how KIS encrypts them. Sans-IO."""

from __future__ import annotations

import base64
import secrets
import string
from typing import Final

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_ALPHABET: Final = string.ascii_lowercase + string.digits
_BLOCK_BITS: Final = 128


def new_key() -> str:
    """32 ASCII characters, which are the bytes of an AES-256 key."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(32))


def new_iv() -> str:
    """16 ASCII characters."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(16))


def encrypt(text: str, key: str, iv: str) -> bytes:
    """AES-256-CBC with PKCS #7 padding, in base64."""
    padder = padding.PKCS7(_BLOCK_BITS).padder()
    clear = padder.update(text.encode()) + padder.finalize()
    encryptor = Cipher(algorithms.AES(key.encode("ascii")), modes.CBC(iv.encode("ascii"))).encryptor()
    return base64.b64encode(encryptor.update(clear) + encryptor.finalize())


def notice(user: str, code: str, quantity: int, price: int, time: str, *, filled: bool) -> str:
    """An order that was filled (CNTG_YN 2), or accepted (1), in the layout of 26 columns."""
    kind = "2" if filled else "1"
    return (
        f"{user}^1234567801^0000002891^^02^0^00^0^{code}^{quantity:010}^{price:09}^{time}^0^{kind}^{kind}"
        f"^06010^{quantity:09}^TESTER^0^1^N^^10^^{code}^{price:09}"
    )
