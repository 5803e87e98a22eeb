"""Tells systemd how the service is doing (sd_notify(3)), where it wants to know."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

import structlog

_log = structlog.get_logger("fastws.notify")


class Notifier:
    """Sends states to the socket that NOTIFY_SOCKET names: services of `Type=notify` and `Type=notify-reload` have one.

    Without one it does nothing. What cannot be sent is logged, and nothing depends on it.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # A name in the abstract namespace of Linux is written with @ for its first byte, which is 0.
        self._address = "\0" + address[1:] if address.startswith("@") else address

    @property
    def is_wanted(self) -> bool:
        """Whether there is a service manager that wants to know."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        """The start is done, or a reload is, whatever came of it."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload has begun."""
        # systemd takes the answer for that of an earlier reload unless it knows when it was given.
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The stop has begun."""
        self._send("STOPPING=1", "STATUS=stopping")

    def hand_to(self, pid: int) -> None:
        """Another process is the service from now on, and tells how it is doing."""
        self._send(f"MAINPID={pid}")
        self._address = ""

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                # One line each: what is in a status may come from a file.
                sender.sendto("\n".join(" ".join(line.split()) for line in lines).encode(), self._address)
        except OSError as error:
            _log.warning("the service manager could not be told", state=lines[0], error=str(error))
