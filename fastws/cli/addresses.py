"""The flags of commands that ask a running server by its URL, and whom they trust there."""

from __future__ import annotations

import argparse
import ssl

from fastws.errors import SettingsError
from fastws.top.asking import Address, parse_address


def add_trust(command: argparse.ArgumentParser) -> None:
    """Add the flags that `trust_of` reads."""
    command.add_argument(
        "--cafile", metavar="FILE", help="certificates of authorities to trust (default: the system's)"
    )
    command.add_argument("--insecure", action="store_true", help="believe any certificate")


def trust_of(options: argparse.Namespace) -> ssl.SSLContext:
    """Raises SettingsError where the flags cannot be used."""
    if options.cafile is not None and options.insecure:
        raise SettingsError("--insecure: not with --cafile, which would not be looked at")
    try:
        context = ssl.create_default_context(cafile=options.cafile)
    except (ssl.SSLError, ValueError):
        raise SettingsError(f"--cafile: {options.cafile} cannot be used: no certificates in PEM") from None
    except OSError as error:
        raise SettingsError(f"--cafile: {options.cafile} cannot be used: {error.strerror}") from None
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def address_of(url: str, flag: str) -> Address:
    """Read what `flag` was given. Raises SettingsError where it is no URL of a server."""
    try:
        return parse_address(url)
    except ValueError as error:
        raise SettingsError(f"{flag}: {error}") from None
