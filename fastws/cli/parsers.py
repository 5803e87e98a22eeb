"""The parsers of the command line: all commands are known by name and purpose, each one's flags when it is called.

What a command needs is imported with its flags: ``fastws --help`` does not wait for a server.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, NoReturn

FAILED: Final = 1
"""Exit status: the command was understood and did not succeed."""
USAGE: Final = 2
"""Exit status: a flag or a setting is wrong, and nothing was begun."""
INTERRUPTED: Final = 130
UNREAD: Final = 141
"""Nobody reads the output any more, as behind ``| head``."""


class Command(NamedTuple):
    """A command; `place` is the ``module:function`` that adds its flags to a parser, and sets `run` as a default."""

    name: str
    purpose: str
    place: str
    aliases: tuple[str, ...] = ()


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line; the usage of a command with many flags would bury it."""
        self.exit(USAGE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


class CommandParser(Parser):
    """The parser of one command, without flags until it has something to parse."""

    def __init__(self, *, place: str, **options: Any) -> None:
        super().__init__(**options)
        self._place: str | None = place

    def parse_known_args(  # type: ignore[override]  # its overloads say no more
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        if self._place is not None:
            module, _, name = self._place.partition(":")
            with _without_rich():
                add_flags: Callable[[argparse.ArgumentParser], None] = getattr(
                    importlib.import_module(module), name
                )
            add_flags(self)
            self._place = None
        return super().parse_known_args(args, namespace)


@contextlib.contextmanager
def _without_rich() -> Iterator[None]:
    """Keep structlog from importing rich where that is installed: it is for tracebacks that our log does not show, and
    3 MiB of every server."""
    if "rich" in sys.modules:
        yield
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # what Python takes for a module that is not there
    try:
        yield
    finally:
        del sys.modules["rich"]


def make_parser(description: str, version: str, commands: Iterable[Command]) -> argparse.ArgumentParser:
    """Return the parser of ``fastws``. What it parses has `run`, and `command`, the parser of the command."""
    parser = Parser(prog="fastws", description=description, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"fastws {version}")
    group = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=CommandParser
    )
    for command in commands:
        made = group.add_parser(
            command.name,
            aliases=command.aliases,
            help=command.purpose,
            description=f"{command.purpose[0].upper()}{command.purpose[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            place=command.place,
        )
        made.set_defaults(command=made)
    return parser
