"""Fetches small documents over HTTP, such as the keys of a token issuer."""

from __future__ import annotations

import aiohttp

from fastws._version import __version__

_HEADERS = {
    "Accept": "application/json, application/jwk-set+json;q=0.9",
    # What is compressed could be far bigger than what is counted.
    "Accept-Encoding": "identity",
    "User-Agent": f"fastws/{__version__}",
}


async def fetch(url: str, max_size: int, time_limit: float) -> bytes:
    """Return the body that a GET of `url` brings.

    `max_size` is in bytes, `time_limit` in seconds for everything from the name's resolution to the last
    byte. Proxies of the environment are used. Redirects are not followed: the operator has named one URL,
    and whoever answers for it must not make this server ask others.

    Raises:
        OSError: it could not be had, was too big, took too long, or the answer is not 200.
    """
    timeout = aiohttp.ClientTimeout(total=time_limit)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=_HEADERS, trust_env=True) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise OSError(f"the answer is HTTP status {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > max_size:
                    raise OSError(f"the answer is over {max_size} bytes")
            return bytes(body)
    except TimeoutError:
        raise TimeoutError(f"no complete answer within {time_limit:g} s") from None
    except (aiohttp.ClientError, ValueError) as error:
        raise OSError(str(error) or type(error).__name__) from None
