"""Asks the application at `auth_url` over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiohttp

from fastws._version import __version__
from fastws.auth.application import MAX_ASKING

_HEADERS = {
    "Accept": "application/json",
    # What is compressed could be far bigger than what is counted.
    "Accept-Encoding": "identity",
    "User-Agent": f"fastws/{__version__}",
}


class ApplicationClient:
    """Connections to one application, kept open between questions."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self, url: str, headers: Mapping[str, str], max_size: int, time_limit: float
    ) -> tuple[int, bytes]:
        """See :data:`fastws.auth.application.Ask`.

        Redirects are not followed and proxies of the environment not used: credentials are for the one place that the
        operator has named.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_ASKING),
                # What one user is answered must not be sent along with another's question.
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=_HEADERS,
            )
        timeout = aiohttp.ClientTimeout(total=time_limit)
        arguments: dict[str, Any] = {"headers": headers, "timeout": timeout, "allow_redirects": False}
        try:
            async with self._session.get(url, **arguments) as response:
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > max_size:
                        raise OSError(f"the answer is over {max_size} bytes")
                return response.status, bytes(body)
        except TimeoutError:
            raise TimeoutError(f"no complete answer within {time_limit:g} s") from None
        except (aiohttp.ClientError, ValueError) as error:
            # The text of an error about a header may show it.
            raise OSError(error.strerror if isinstance(error, OSError) else type(error).__name__) from None

    async def close(self) -> None:
        """End the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None
