"""What the commands say of themselves."""

from __future__ import annotations

import contextlib
import io
import os
import re
from unittest import mock

from docs.generate.markdown import fence
from fastws import cli

_COMMAND = re.compile(r"^    ([a-z-]+) ", re.MULTILINE)


def commands() -> str:
    """The help of every command, in the order in which ``fastws --help`` names them."""
    names = _COMMAND.findall(_help())
    if "serve" not in names:
        raise RuntimeError(f"fastws --help names no command serve:\n{_help()}")
    text = [fence(_help(), "text"), ""]
    for name in names:
        text += [f"## `fastws {name}` {{ #{name} }}", "", fence(_help(name), "text"), ""]
    return "\n".join(text)


def _help(*arguments: str) -> str:
    """The help as on a terminal of 90 columns, without colours."""
    out = io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "90", "NO_COLOR": "1"}),
        contextlib.redirect_stdout(out),
        contextlib.suppress(SystemExit),
    ):
        cli.main([*arguments, "--help"])
    return out.getvalue()
