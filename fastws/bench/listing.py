"""The stocks that a server lists, as the connections of a load choose from them."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Mapping
from typing import Final

from fastws.bench._client import LoadError
from fastws.bench.subscriptions import Stock

_TIMEOUT_S: Final = 10.0
_NAME_THEM: Final = "name what to subscribe to with --subscribe"


def stocks(url: str, headers: Mapping[str, str]) -> list[Stock]:
    """Return those of the server whose WebSocket is at `url`, one at least.

    :raises LoadError: it lists none; the text says why, and what to do.
    """
    parts = urllib.parse.urlsplit(url)
    where = f"http://{parts.netloc}/v1/stocks"
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/v1/stocks", headers=dict(headers))
        response = connection.getresponse()
        body = response.read()
        if response.status == 401:
            raise LoadError(f"{where} answered 401 {response.reason}: the token is wrong or has expired")
        if response.status == 400:
            raise LoadError(
                f"{where} answered 400 {response.reason} (does it speak TLS? the load client does not)"
            )
        if response.status != 200:
            raise LoadError(f"{where} answered {response.status} {response.reason}; {_NAME_THEM}")
        rows = json.loads(body)["stocks"]
        listed = [Stock(row["code"], row.get("market"), row.get("sector")) for row in rows]
    except ConnectionRefusedError:
        raise LoadError(f"cannot connect to {where}: is the server running there?") from None
    except OSError as error:
        raise LoadError(f"cannot read {where}: {error.strerror or error}") from None
    except (http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError):
        raise LoadError(f"{where} answered no list of stocks; {_NAME_THEM}") from None
    finally:
        connection.close()
    if not listed:
        raise LoadError(f"{where} lists no stocks; {_NAME_THEM}")
    return listed
