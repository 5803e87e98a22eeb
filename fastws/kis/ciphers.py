"""Execution notices in clear: AES-256-CBC with the key and iv that came with the registration of their TR. Sans-IO."""

from __future__ import annotations

import binascii

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from fastws._kis import KISFrameError


class Ciphers:
    """The keys of one session. A new session has new ones, so they are forgotten with it."""

    def __init__(self) -> None:
        self._ciphers: dict[str, Cipher[modes.CBC]] = {}

    def __repr__(self) -> str:
        return f"Ciphers({sorted(self._ciphers)})"

    def clear(self) -> None:
        """Forget all keys."""
        self._ciphers.clear()

    def set_key(self, tr_id: str, key: str, iv: str) -> bool:
        """Use these, 32 and 16 ASCII characters that are taken as bytes, for a TR; whether they can be used."""
        if not (key.isascii() and iv.isascii() and len(key) == 32 and len(iv) == 16):
            return False
        self._ciphers[tr_id] = Cipher(algorithms.AES256(key.encode()), modes.CBC(iv.encode()))
        return True

    def decipher(self, message: bytes) -> bytes:
        """Return an encrypted frame as the frame in clear that it stands for.

        Raises:
            KISFrameError: "truncated", or "encrypted" when there is no key for its TR or the text is damaged.
        """
        parts = message.split(b"|", 3)
        if len(parts) != 4 or parts[0] != b"1":
            raise KISFrameError("truncated")
        cipher = self._ciphers.get(parts[1].decode("ascii", "replace"))
        if cipher is None:
            raise KISFrameError("encrypted")
        try:
            decryptor, unpadder = cipher.decryptor(), PKCS7(128).unpadder()
            padded = decryptor.update(binascii.a2b_base64(parts[3], strict_mode=True)) + decryptor.finalize()
            text = unpadder.update(padded) + unpadder.finalize()
        except ValueError:  # binascii.Error is one
            raise KISFrameError("encrypted") from None
        return b"|".join((b"0", parts[1], parts[2], text))
