"""The files of the pages, read once, each with what HTTP tells of it. Sans-IO but for the reading."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

# mimetypes reads files of the machine, by which .ts is a video and .js may be anything.
_CONTENT_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
# Type declarations, licences and notices.
_OTHER_TYPE: Final = "text/plain; charset=utf-8"
_PACKED_ALREADY: Final = ("image/png", "font/woff2")
# A smaller body fits a segment either way.
_MIN_PACKED_SIZE: Final = 512


class Asset(NamedTuple):
    """A body, and the same as gzip has it (None where that gains nothing), each with its strong entity tag."""

    content_type: str
    body: bytes
    tag: str
    packed: bytes | None
    packed_tag: str


class Page(NamedTuple):
    """A page as it is at its path with the trailing slash, and without."""

    with_slash: Asset
    without_slash: Asset


@cache
def static_files() -> dict[str, Asset]:
    """What is served at ``/static/``, by path; the same for every server of the process, and not to be changed."""
    root = resources.files("fastws.web") / "static"
    return {name: make_asset(name, file.read_bytes()) for name, file in _files_below(root, "")}


@cache
def page(name: str) -> Page:
    """A file of `pages/`.

    All its addresses begin with ``../``. Seen from the path without the slash the directory is one higher, so that
    page has one ``../`` less. A redirect would do as well, where no proxy rewrites its target.
    """
    body = (resources.files("fastws.web") / "pages" / name).read_bytes()
    return Page(make_asset(name, body), make_asset(name, body.replace(b'="../', b'="')))


def make_asset(name: str, body: bytes) -> Asset:
    """Return the asset of a file: its type comes from the name, its tags from the body."""
    suffix = name[name.rfind(".") :] if "." in name else ""
    content_type = _CONTENT_TYPES.get(suffix, _OTHER_TYPE)
    tag = hashlib.sha256(body).hexdigest()[:32]
    packed = None
    if len(body) >= _MIN_PACKED_SIZE and content_type not in _PACKED_ALREADY:
        packed = gzip.compress(body, 6, mtime=0)
    if packed is not None and len(packed) >= len(body):
        packed = None
    return Asset(content_type, body, tag, packed, f"{tag}-gzip")


def accepts_gzip(header: str) -> bool:
    """Whether a client with this ``Accept-Encoding`` takes gzip (RFC 9110 §12.5.3); one that says nothing does not."""
    for_others = False
    for element in header.lower().split(","):
        coding, _, parameter = (part.strip() for part in element.partition(";"))
        name, _, weight = (part.strip() for part in parameter.partition("="))
        is_wanted = not (name == "q" and weight.strip("0") in ("", "."))
        if coding in ("gzip", "x-gzip"):
            return is_wanted
        if coding == "*":
            for_others = is_wanted
    return for_others


def _files_below(directory: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for entry in directory.iterdir():
        if entry.name.startswith("."):
            continue  # what editors and file managers leave in a checkout
        if entry.is_dir():
            yield from _files_below(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry
