"""The app keys of a server: several of a table, or the one that the environment names."""

from __future__ import annotations

from collections.abc import Mapping

from fastws.kis.auth import KISAuthManager


def find_keys(table: Mapping[str, str]) -> list[KISAuthManager]:
    """Return a manager for each app key of `table` (app key: app secret), or where it is empty for that of KIS_APP_KEY
    or of the file that KIS_CONFIG names. KIS_PAPER, KIS_REST_URL and KIS_WS_URL hold for all of them.

    Raises:
        KISCredentialsError: there are none, or they cannot be used.
    """
    if not table:
        return [KISAuthManager()]
    return [KISAuthManager(app_key, app_secret) for app_key, app_secret in table.items()]
