"""``fastws health``: whether the server of these settings, or of a URL, answers, for health checks and scripts."""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import ssl
from typing import Final

from fastws.cli.addresses import add_trust, address_of, trust_of
from fastws.cli.arguments import some_duration
from fastws.cli.options import add_config, add_settings, fail, flags_of, load_settings
from fastws.cli.parsers import FAILED
from fastws.errors import SettingsError
from fastws.settings import SETTINGS, Settings
from fastws.settings_checks import serves_tcp
from fastws.top.asking import distrust

HEALTH_FLAGS: Final = ("host", "port", "unix_socket", "certfile", "keyfile")
HEALTH_EXAMPLES: Final = """\
It asks where the settings let a server of this machine listen: the flags, variables
and file are those of the server, whose certificate is not verified. With --url it
asks there and looks at none of them; the certificate counts, as for fastws top.

The exit status is 0; 1 when the server does not answer, or not with 200 in time; 2
when a flag or setting is wrong.

examples:
  fastws health --config fastws.toml
      whether the process serves
  fastws health --ready
      whether clients may be sent to it: not while it stops
  fastws health --url https://ws.example.com
      one that is elsewhere, by the way that its clients take
"""

# What a server listens on, which is no address to connect to.
_ANY: Final = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104


def fill_health(health: argparse.ArgumentParser) -> None:
    health.epilog = HEALTH_EXAMPLES
    add_config(health)
    health.add_argument("--ready", action="store_true", help="ask /ready, and not /health")
    health.add_argument(
        "--timeout",
        type=some_duration,
        default=3.0,
        metavar="SECONDS",
        help="how long the answer may take (default: %(default)s)",
    )
    health.add_argument("--url", help="the server (default: where the settings let it listen)")
    add_trust(health)
    add_settings(health, HEALTH_FLAGS)
    health.set_defaults(run=_health)


def _health(options: argparse.Namespace) -> int:
    path = "/ready" if options.ready else "/health"
    if options.url is not None:
        connection, shown, prefix = _named(options)
    else:
        if options.cafile is not None or options.insecure:
            raise SettingsError(f"{'--insecure' if options.insecure else '--cafile'}: it is for --url only")
        connection, shown = _connection(load_settings(options), options.timeout)
        prefix = ""
    try:
        connection.request("GET", prefix + path, headers={"Connection": "close"})
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        # What else may listen there says anything, over several lines.
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = distrust(error)
        return fail(f"{shown}{path} does not answer: {reason}", FAILED)
    finally:
        connection.close()
    said = _said(body)
    if answer.status != http.client.OK:
        return fail(f"{shown}{path} answers {answer.status}: {said or answer.reason}", FAILED)
    print(said)
    return 0


def _named(options: argparse.Namespace) -> tuple[http.client.HTTPConnection, str, str]:
    """What asks the server that ``--url`` names, how its place is shown, and the path that a proxy has it under."""
    given = ["--config"] if options.config is not None else []
    given += [SETTINGS[name].flag for name in flags_of(options)]
    if given:
        raise SettingsError(f"{given[0]}: not with --url, which says where the server is")
    address = address_of(options.url, "--url")
    host, port, seconds = address.host, address.port, options.timeout
    if address.is_tls:
        secure = http.client.HTTPSConnection(host, port, timeout=seconds, context=trust_of(options))
        return secure, str(address), address.prefix
    return http.client.HTTPConnection(host, port, timeout=seconds), str(address), address.prefix


def _connection(settings: Settings, timeout: float) -> tuple[http.client.HTTPConnection, str]:
    """What asks the server of `settings`, and how its place is shown."""
    if not serves_tcp(settings):
        return _UnixConnection(str(settings.unix_socket), timeout), f"unix:{settings.unix_socket}:"
    if settings.port == 0:
        raise SettingsError(
            "port: 0 lets the server choose one, which is not known here; name it with --port",
            setting="port",
            source=settings.sources.get("port", "default"),
        )
    host = _ANY.get(settings.host, settings.host)
    place = f"{f'[{host}]' if ':' in host else host}:{settings.port}"
    if settings.certfile is None:
        return http.client.HTTPConnection(host, settings.port, timeout=timeout), f"http://{place}"
    # Its certificate is for the name that others know it by; this is about whether it answers at all.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(
        host, settings.port, timeout=timeout, context=context
    ), f"https://{place}"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path
        self._seconds = timeout

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._seconds)
        self.sock.connect(self._path)


def _said(body: bytes) -> str:
    """The status, or the reason of a refusal, in an answer of fastws; empty where it is of something else."""
    try:
        document = json.loads(body)
    except ValueError:
        return ""
    if not isinstance(document, dict):
        return ""
    error = document.get("error")
    said = error.get("message") if isinstance(error, dict) else document.get("status")
    return said if isinstance(said, str) else ""
