"""What an operator should know of settings that work and may yet not be meant."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from fastws.server.acceptor import capacity
from fastws.settings import Settings
from fastws.settings_checks import serves_tcp

MIN_TOKEN_SIZE: Final = 16
"""An administrator's token that is shorter can be guessed by trying."""
FEW_CONNECTIONS: Final = 1000


def warnings(settings: Settings) -> list[str]:
    """Return a line for each thing that deserves a warning at the start, with what to do about it."""
    lines = []
    n = settings.workers * capacity()
    raise_limit = "raise the limit of file descriptors (ulimit -n, LimitNOFILE= of systemd)"
    if settings.connection_limit > n:
        lines.append(
            f"connection_limit is {settings.connection_limit} and only {n} connections fit; {raise_limit}"
        )
    elif n < FEW_CONNECTIONS and not settings.connection_limit:
        lines.append(f"only {n} connections fit; {raise_limit}")
    if settings.feed_standby and settings.feed == "none":
        lines.append(
            "feed_standby is set and there is no feed to run; name it with feed as the first server does"
        )
    if settings.workers > 1 and settings.handshake_rate:
        lines.append(
            f"each of the {settings.workers} workers has a handshake_rate of its own, and an address up to "
            f"{settings.workers * settings.handshake_rate} handshakes a second with all of them"
        )
    token = settings.admin_token
    if token is not None and len(token) < MIN_TOKEN_SIZE:
        lines.append(
            f"admin_token is short and can be guessed; choose {MIN_TOKEN_SIZE} random characters or more"
        )
    if settings.admin_bind is None and serves_tcp(settings) and not is_loopback(settings.host):
        what = "/metrics" if token is None else "/metrics and the administrator's endpoints"
        lines.append(
            f"{what} can be reached wherever clients can; "
            "admin_bind = 127.0.0.1:9000 gives them an address of their own"
        )
    return lines


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host; of names, that is known of localhost only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
