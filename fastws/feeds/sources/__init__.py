"""Sources of polled prices by name: those of fastws, and those of installed packages (group ``fastws.sources``)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Final, cast

from fastws.feeds.sources.base import (
    Answer,
    Day,
    NoPricesError,
    Number,
    Quote,
    Source,
    SourceError,
    SourceLimitError,
    SourceSetupError,
    seconds_of,
)

if TYPE_CHECKING:
    from fastws.settings import Settings

__all__ = [
    "Answer",
    "Day",
    "NoPricesError",
    "Number",
    "Quote",
    "Source",
    "SourceError",
    "SourceLimitError",
    "SourceSetupError",
    "open_source",
    "seconds_of",
    "source_names",
]

GROUP: Final = "fastws.sources"
_OWN: Final = {
    "kis": "fastws.feeds.sources.kis:KISSource",
    "yahoo": "fastws.feeds.sources.yahoo:YahooSource",
    "csv": "fastws.feeds.sources.csv_files:CSVSource",
    "simulator": "fastws.feeds.sources.simulator:SimulatorSource",
}
_EXTRAS: Final = {"yahoo": ("yfinance", 'pip install "yfinance<2"')}


def source_names() -> list[str]:
    """The names of all sources, those of fastws first."""
    others = sorted({point.name for point in entry_points(group=GROUP)} - _OWN.keys())
    return [*_OWN, *others]


def open_source(text: str, settings: Settings) -> Source:
    """Return the source that ``NAME`` or ``NAME:ARGUMENT`` names. Another package cannot replace one of fastws.

    Raises:
        SourceSetupError: there is none of that name, or it cannot be used as it is set up.
    """
    name, _, argument = text.partition(":")
    if name in _OWN:
        make = _load_own(name)
    else:
        found = list(entry_points(group=GROUP, name=name))
        if not found:
            raise SourceSetupError(f"there is no source {name!r}; there are {', '.join(source_names())}")
        make = _load(found[0])
    return make(argument, settings)


def _load_own(name: str) -> Callable[[str, Settings], Source]:
    module, _, attribute = _OWN[name].partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        # What is missing may be a dependency of the dependency: then its own name tells more.
        package, how = _EXTRAS.get(name, (error.name or "", "install it with pip"))
        missing = package if error.name in (None, package) else f"{package} ({error.name} is missing)"
        raise SourceSetupError(
            f"the source {name} needs {missing}, which is not installed: {how}, or name another source"
        ) from None
    return cast("Callable[[str, Settings], Source]", found)


def _load(point: EntryPoint) -> Callable[[str, Settings], Source]:
    package = point.dist.name if point.dist is not None else point.value
    try:
        found = point.load()
    except Exception as error:  # whatever the module of somebody else raises when it is imported
        raise SourceSetupError(
            f"the source {point.name} of {package} cannot be loaded: {type(error).__name__}: {error}"
        ) from None
    if not (isinstance(found, type) and issubclass(found, Source)):
        raise SourceSetupError(f"the source {point.name} of {package} is no class derived from Source")
    return found
