"""Hooks of MkDocs: what is made of the source goes into the pages, and the page of results comes along.

`<!-- made of: NAME -->` in a page is replaced by what `SECTIONS` makes under that name, with the words right before it
that stand for it where nobody has built the site. `figure SCENARIO: FIGURE` is a figure that was measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from docs.generate import alerts, chaos, commands, messages, results, server, settings, trust

SECTIONS: Final[dict[str, Callable[[], str]]] = {
    "screener messages": messages.screener,
    "realtime messages": messages.realtime,
    "error codes": messages.error_codes,
    "close codes": messages.close_codes,
    "settings": settings.settings,
    "other variables": settings.aliases,
    "commands": commands.commands,
    "endpoints": server.endpoints,
    "metrics": server.metrics,
    "alerts": alerts.alerts,
    "load results": results.load,
    "chaos": chaos.chaos,
    "soak": chaos.soak,
    "load faults": results.faults,
    "machine": results.machine,
    "conformance": trust.conformance,
    "fuzzing": trust.fuzzing,
    "sanitizers": trust.sanitizers,
}

_PLACE: Final = re.compile(r"(?:_Here `make docs` writes it\._ |…)?<!-- made of: (.+?) -->")
_RESULTS: Final = "bench_results"
# In the repository they are beside the documentation, in the site they are part of it.
_LINK: Final = f"](../{_RESULTS}/"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take the page of results in, with its plots."""
    for path in sorted(results.RESULTS.iterdir()):
        if path.suffix in (".md", ".svg") or path.name == "micro.json":
            files.append(File.generated(config, f"{_RESULTS}/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the sections into a page; KeyError for one that nobody makes."""
    text = markdown.replace(_LINK, f"]({_RESULTS}/")
    return _PLACE.sub(lambda place: _made(place[1]), text)


def _made(name: str) -> str:
    kind, _, rest = name.partition(" ")
    return results.figure(rest) if kind == "figure" else SECTIONS[name]()
