"""App keys, approval keys and tokens, and the app keys that are blocked. Sans-IO; `now` is monotonic, in seconds."""

from __future__ import annotations

import secrets
import uuid
from collections import deque
from typing import Final

from fastws.kis.testing.settings import FakeSettings

# Error codes of the token and quotation services, with their texts.
ERRORS: Final = {
    "EGW00003": "접근이 거부되었습니다.",
    "EGW00101": "유효하지 않은 요청입니다.",
    "EGW00102": "AppKey는 필수입니다.",
    "EGW00103": "유효하지 않은 AppKey입니다.",
    "EGW00104": "AppSecret은 필수입니다.",
    "EGW00105": "유효하지 않은 AppSecret입니다.",
    "EGW00121": "유효하지 않은 token 입니다.",
    "EGW00123": "기간이 만료된 token 입니다.",
    "EGW00133": "접근토큰 발급 잠시 후 다시 시도하세요(1분당 1회)",
    "EGW00201": "초당 거래건수를 초과하였습니다.",
    "OPSQ0002": "없는 서비스 코드 입니다.",
    "OPSQ2001": "ERROR : INPUT FIELD NOT FOUND",
}

_MINUTE: Final = 60.0


class Window:
    """Counts what happened in the last `seconds`, by key."""

    def __init__(self, seconds: float = _MINUTE) -> None:
        self._seconds = seconds
        self._times: dict[object, deque[float]] = {}

    def add(self, key: object, now: float) -> int:
        """Count one more and return how many there are now."""
        times = self._times.setdefault(key, deque())
        times.append(now)
        return self.count(key, now)

    def count(self, key: object, now: float) -> int:
        times = self._times.get(key)
        if times is None:
            return 0
        while times and times[0] <= now - self._seconds:
            times.popleft()
        return len(times)

    def forget(self, *keys: object) -> None:
        for key in keys:
            self._times.pop(key, None)


class Credentials:
    """Issues keys and tokens, and knows whose they are.

    An approval key is looked at when a session registers, never afterwards: a session that is up lives on when
    its key ages or is replaced.
    """

    def __init__(self) -> None:
        self._approvals: dict[str, tuple[str, float]] = {}  # key -> app key and end
        self._tokens: dict[str, tuple[str, float]] = {}
        self._last_approval: dict[str, float] = {}
        self._last_token: dict[str, float] = {}
        self._blocked: dict[str, float] = {}
        self._calls = Window(1.0)

    def refused(self, settings: FakeSettings, app_key: object, secret: object) -> str:
        """The error code that these get, "" when they are right."""
        if not app_key or not isinstance(app_key, str):
            return "EGW00102"
        if not secret or not isinstance(secret, str):
            return "EGW00104"
        if settings.any_app_key:
            return ""
        if app_key not in settings.app_keys:
            return "EGW00103"
        return (
            "" if secrets.compare_digest(settings.app_keys[app_key].encode(), secret.encode()) else "EGW00105"
        )

    def issue_approval(self, settings: FakeSettings, app_key: str, now: float) -> str | None:
        """A new approval key; None when the last one was issued too short a time ago."""
        if now - self._last_approval.get(app_key, float("-inf")) < settings.approval_interval:
            return None
        self._last_approval[app_key] = now
        if settings.approval_replaces:
            self.expire_approvals(app_key)
        key = str(uuid.uuid4())
        self._approvals[key] = app_key, now + settings.approval_seconds
        return key

    def issue_token(self, settings: FakeSettings, app_key: str, now: float) -> str | None:
        """A new access token; None when the last one was issued too short a time ago."""
        if now - self._last_token.get(app_key, float("-inf")) < settings.token_interval:
            return None
        self._last_token[app_key] = now
        token = secrets.token_urlsafe(64)
        self._tokens[token] = app_key, now + settings.token_seconds
        return token

    def approved(self, approval_key: str, now: float) -> str | None:
        """The app key of an approval key that is good."""
        app_key, end = self._approvals.get(approval_key, (None, 0.0))
        return app_key if now < end else None

    def token_refused(self, token: str, app_key: str, now: float) -> str:
        """The error code that a call with this token gets, "" when it is right."""
        owner, end = self._tokens.get(token, (None, 0.0))
        if owner is None or owner != app_key:
            return "EGW00121"
        return "" if now < end else "EGW00123"

    def expire_approvals(self, app_key: str | None = None) -> int:
        gone = [key for key, (owner, _) in self._approvals.items() if app_key in (None, owner)]
        for key in gone:
            del self._approvals[key]
        return len(gone)

    def expire_tokens(self, app_key: str | None = None) -> int:
        """Let tokens be too old; a new one may be issued at once."""
        gone = [token for token, (owner, _) in self._tokens.items() if app_key in (None, owner)]
        for token in gone:
            owner = self._tokens[token][0]
            self._tokens[token] = owner, float("-inf")
            self._last_token.pop(owner, None)
        return len(gone)

    def call(self, settings: FakeSettings, app_key: str, now: float) -> bool:
        """Count a quotation; False when there are too many in this second."""
        if self._calls.count(app_key, now) >= settings.rest_limit:
            return False
        self._calls.add(app_key, now)
        return True

    def block(self, app_key: str, until: float) -> None:
        self._blocked[app_key] = until

    def unblock(self, app_key: str | None = None) -> int:
        gone = [key for key in self._blocked if app_key in (None, key)]
        for key in gone:
            del self._blocked[key]
        return len(gone)

    def is_blocked(self, app_key: str, now: float) -> bool:
        return now < self._blocked.get(app_key, 0.0)

    def blocked(self, now: float) -> list[str]:
        return [key for key, until in self._blocked.items() if now < until]
