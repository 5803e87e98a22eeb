"""The two credentials that KIS issues for an app key: the approval key (WebSocket) and the access token (REST)."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

import aiohttp
import msgspec

from fastws._version import __version__
from fastws.kis.credentials import Credentials, find_credentials
from fastws.kis.errors import KISConnectionError, KISCredentialsError, KISTokenLimitError

APPROVAL_LIFETIME: Final = 6 * 3600.0
"""Seconds for which an approval key is used. KIS says a day, and looks at it when a session registers."""

_HEADERS: Final = {
    "Accept": "application/json",
    "Content-Type": "application/json; charset=utf-8",
    "User-Agent": f"fastws/{__version__}",
}
_MAX_ANSWER_SIZE: Final = 64 << 10
# KIS issues about one approval key a second, and one access token a minute (EGW00133).
_APPROVAL_INTERVAL: Final = 1.0
_TOKEN_INTERVAL: Final = 60.0
_TOKEN_MARGIN: Final = 600.0
_MEANINGS: Final = {
    "EGW00103": "KIS does not know this app key; check KIS_APP_KEY, and that it is of the {environment} environment",
    "EGW00105": "KIS does not accept this app secret; check KIS_APP_SECRET",
}


class _Issued:
    """What was issued for one app key in one environment, shared by all managers of the process."""

    def __init__(self) -> None:
        self.value = ""
        self.issued_at = -float("inf")
        self.expires_at = -float("inf")
        self.asked_at = -float("inf")
        # A lock belongs to one event loop.
        self.locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    def lock(self) -> asyncio.Lock:
        return self.locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())


_approvals: dict[tuple[str, str, str], _Issued] = {}
_tokens: dict[tuple[str, str, str], _Issued] = {}


class KISAuthManager:
    """The app key of KIS that a program uses, and what KIS issues for it.

    Arguments that are not given come from the environment (KIS_APP_KEY, KIS_APP_SECRET, KIS_PAPER, KIS_HTS_ID,
    KIS_REST_URL, KIS_WS_URL), then from a TOML or YAML file (`config_file`, KIS_CONFIG); see
    :func:`fastws.kis.credentials.find_credentials`. Neither the key nor what is issued for it is ever printed.

    1. From one event loop at most one request for an approval key, and one for a token, is under way per app key.
    2. What was issued is used by every manager of the process with the same environment, host and app key, until it is
       old or :meth:`forget_approval_key` was called.
    3. KIS is asked at most once a second for an approval key and once a minute for a token, however often they fail.

    Used from event loops; `clock` is monotonic and `sleep` waits, both in seconds.
    """

    def __init__(
        self,
        app_key: str | None = None,
        app_secret: str | None = None,
        *,
        paper: bool | None = None,
        hts_id: str | None = None,
        config_file: str | os.PathLike[str] | None = None,
        rest_url: str | None = None,
        ws_url: str | None = None,
        customer_type: str = "P",
        time_limit: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Find the credentials; asks KIS for nothing yet. `time_limit` bounds each request, in seconds.

        Raises:
            KISCredentialsError: there are none, or they cannot be used.
        """
        self.credentials: Credentials = find_credentials(
            app_key=app_key,
            app_secret=app_secret,
            paper=paper,
            hts_id=hts_id,
            config_file=config_file,
            rest_url=rest_url,
            ws_url=ws_url,
            customer_type=customer_type,
        )
        self._time_limit = time_limit
        self._clock = clock
        self._sleep = sleep
        key = (self.credentials.environment, self.credentials.rest_url, self.credentials.app_key)
        # The secret is not part of it: a key has one, and a wrong one must not be served from here.
        self._approval = _approvals.setdefault(
            (*key[:2], key[2] + "\0" + self.credentials.app_secret), _Issued()
        )
        self._token = _tokens.setdefault((*key[:2], key[2] + "\0" + self.credentials.app_secret), _Issued())

    def __repr__(self) -> str:
        return f"KISAuthManager(app_key='{self.credentials.label}', environment={self.credentials.environment!r})"

    async def approval_key(self) -> str:
        """Return an approval key for the WebSocket, a new one when the last one is older than six hours.

        Raises:
            KISCredentialsError: KIS refuses the app key or its secret.
            KISConnectionError: it could not be had for another reason; another try may succeed.
        """
        issued = self._approval
        async with issued.lock():
            if issued.value and self._clock() - issued.issued_at < APPROVAL_LIFETIME:
                return issued.value
            await self._pause(issued, _APPROVAL_INTERVAL)
            body = {
                "grant_type": "client_credentials",
                "appkey": self.credentials.app_key,
                "secretkey": self.credentials.app_secret,
            }
            answer = await self._post("/oauth2/Approval", body)
            issued.value = self._text(answer, "approval_key")
            issued.issued_at = self._clock()
            return issued.value

    def forget_approval_key(self, key: str) -> None:
        """Use `key` no more, after KIS has refused it; one that was issued since stays."""
        if self._approval.value == key:
            self._approval.value = ""

    async def access_token(self) -> str:
        """Return an access token for KIS's REST interface; the errors are those of :meth:`approval_key`, and
        KISTokenLimitError, after which the next call waits until KIS may be asked again."""
        issued = self._token
        async with issued.lock():
            if issued.value and self._clock() < issued.expires_at - _TOKEN_MARGIN:
                return issued.value
            await self._pause(issued, _TOKEN_INTERVAL)
            body = {
                "grant_type": "client_credentials",
                "appkey": self.credentials.app_key,
                "appsecret": self.credentials.app_secret,
            }
            answer = await self._post("/oauth2/tokenP", body)
            issued.value = self._text(answer, "access_token")
            lifetime = answer.get("expires_in")
            issued.issued_at = self._clock()
            issued.expires_at = issued.issued_at + (
                float(lifetime) if isinstance(lifetime, (int, float)) and lifetime > 0 else 86_400.0
            )
            return issued.value

    def forget_access_token(self, token: str) -> None:
        """Use `token` no more, after KIS has refused it; one that was issued since stays."""
        if self._token.value == token:
            self._token.value = ""

    async def _pause(self, issued: _Issued, interval: float) -> None:
        wait = issued.asked_at + interval - self._clock()
        if wait > 0:
            await self._sleep(wait)
        issued.asked_at = self._clock()

    async def _post(self, path: str, body: dict[str, str]) -> dict[str, Any]:
        url = self.credentials.rest_url + path
        host = self.credentials.rest_url.partition("//")[2]
        timeout = aiohttp.ClientTimeout(total=self._time_limit)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=_HEADERS, trust_env=True) as session,
                session.post(url, data=msgspec.json.encode(body), allow_redirects=False) as response,
            ):
                data = await response.content.read(_MAX_ANSWER_SIZE)
                while chunk := await response.content.read(_MAX_ANSWER_SIZE):
                    data += chunk
                    if len(data) > _MAX_ANSWER_SIZE:
                        raise KISConnectionError(
                            f"no connection to KIS: {host} gave an answer that is too big"
                        )
                status = response.status
        except TimeoutError:
            raise KISConnectionError(
                f"no connection to KIS: {host} gave no answer within {self._time_limit:g} s"
            ) from None
        except aiohttp.ClientConnectorDNSError:
            raise KISConnectionError(
                f"no connection to KIS: the host of {host} is not known; check KIS_REST_URL and the network"
            ) from None
        except (aiohttp.ClientError, ValueError) as error:
            raise KISConnectionError(f"no connection to KIS: {host} {_reason(error)}") from None
        return self._answer(status, data, host)

    def _answer(self, status: int, data: bytes, host: str) -> dict[str, Any]:
        try:
            answer = msgspec.json.decode(data)
        except (ValueError, RecursionError):  # bad JSON, and bad UTF-8 within good JSON
            answer = None
        if status == 200:
            if isinstance(answer, dict):
                return answer
            raise KISConnectionError(f"no connection to KIS: {host} gave an answer that is not of KIS")
        code = answer.get("error_code") if isinstance(answer, dict) else None
        code = code if isinstance(code, str) and code.isalnum() and len(code) <= 16 else ""
        if code in _MEANINGS:
            meaning = _MEANINGS[code].format(environment=self.credentials.environment)
            raise KISCredentialsError(f"connection refused: {meaning} ({code})")
        if code == "EGW00133":
            raise KISTokenLimitError(
                "no connection to KIS's REST interface yet: KIS issues one access token a minute, and this app key got "
                f"one just now, in another program or before a restart ({code})",
                _TOKEN_INTERVAL,
            )
        if code and 400 <= status < 500 and status != 429:
            raise KISCredentialsError(
                f"connection refused: KIS does not accept the app key (HTTP {status}, {code})"
            )
        if status == 404:
            raise KISConnectionError(
                f"no connection to KIS: {host} is not KIS's REST host (HTTP 404); check KIS_REST_URL"
            )
        raise KISConnectionError(f"no connection to KIS: {host} answers with HTTP {status} {code}".rstrip())

    def _text(self, answer: dict[str, Any], name: str) -> str:
        value = answer.get(name)
        # It becomes part of JSON texts and HTTP headers.
        if (
            not isinstance(value, str)
            or not value
            or len(value) > 4096
            or not value.isascii()
            or " " in value
        ):
            host = self.credentials.rest_url.partition("//")[2]
            raise KISConnectionError(f"no connection to KIS: {host} gave an answer without {name}")
        return value


def _reason(error: Exception) -> str:
    """Why a host gave no answer, as what follows its name."""
    if isinstance(error, aiohttp.ClientSSLError):
        return "does not speak TLS as it should; check KIS_REST_URL"
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ECONNREFUSED:
        return "cannot be reached: nothing listens there; check KIS_REST_URL"
    if number is not None:
        return f"cannot be reached: {os.strerror(number)}; check the network and KIS_REST_URL"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "ended the connection without an answer"
    return f"cannot be reached: {type(error).__name__}"
