"""When a token has to be replaced. Sans-IO: nothing here checks a signature, which is the server's to do."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode
from datetime import datetime
from typing import Final

import msgspec

# Before the expiry; of a token that lives shorter, a part of what is left.
_MARGIN_SECONDS: Final = 60.0
_MARGIN_SHARE: Final = 0.25
_RETRY_SECONDS: Final = 10.0


class _Claims(msgspec.Struct):
    exp: float | None = None


_decode = msgspec.json.Decoder(_Claims, strict=False).decode


def expiry_of(token: str | None) -> float | None:
    """The claim `exp` of a JWT, Unix time in seconds; None where it has none or is no JWT."""
    parts = (token or "").split(".")
    if len(parts) != 3:
        return None
    try:
        return _decode(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))).exp
    except (msgspec.MsgspecError, binascii.Error, ValueError):
        return None


class TokenClock:
    """Tells when to ask for a new token, by the server's clock and not by this machine's, which may be wrong.

    All times are seconds; `now` is of a clock that only goes forward.
    """

    def __init__(self) -> None:
        self._offset: float | None = None
        self.refresh_at: float | None = None
        self._expires_at: float | None = None

    def set_server_time(self, time: datetime | None, now: float) -> None:
        self._offset = None if time is None else time.timestamp() - now

    def set_token(self, token: str | None, now: float) -> None:
        """This token is in use from now on; `set_server_time` was called before."""
        expiry = expiry_of(token)
        if expiry is None or self._offset is None:
            self.refresh_at = self._expires_at = None
            return
        self._expires_at = expiry - self._offset
        left = max(0.0, self._expires_at - now)
        self.refresh_at = self._expires_at - min(_MARGIN_SECONDS, left * _MARGIN_SHARE)

    def retry(self, now: float) -> float:
        """A new token could not be had: set when to ask again, and return in how many seconds."""
        left = max(0.0, (self._expires_at or now) - now)
        seconds = min(_RETRY_SECONDS, max(1.0, left / 2))
        self.refresh_at = now + seconds
        return seconds
