"""What an instance is called in the logs and statistics of all."""

from __future__ import annotations

import ipaddress
import os
import socket


def instance_name(given: str | None, place: tuple[str, int] | None = None) -> str:
    """Return the name that was `given`, else where clients reach the instance, else whose process it is.

    `place` is the host and the port that it listens at. A host that means this machine wherever one is, or all of its
    addresses, is told by the machine's name. Names are for people: nothing is found by them, and two may be alike.
    """
    if given is not None:
        return given
    if place is None or not place[1]:
        return f"{socket.gethostname()}/{os.getpid()}"
    host, port = place
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        is_everywhere = host in ("", "localhost")
    else:
        is_everywhere = address.is_unspecified or address.is_loopback
        host = f"[{host}]" if address.version == 6 else host
    return f"{socket.gethostname() if is_everywhere else host}:{port}"
