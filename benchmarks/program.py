"""What the programs of the benchmarks have in common: their help, and how they begin."""

from __future__ import annotations

import argparse
import resource
import signal
import sys


def make_parser(name: str, text: str | None) -> argparse.ArgumentParser:
    """A parser for ``python -m NAME``, whose help is the text of its module."""
    description, _, epilog = (text or "").partition("\n\n")
    return argparse.ArgumentParser(
        prog=name,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def prepare() -> None:
    """Have the servers that are started allowed all the connections there may be, and ended with this program."""
    # An exception, which passes through the clean-up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # They inherit the limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
