"""The files of the pages: what HTTP tells of them, and what pages under a strict policy may have in them."""

from __future__ import annotations

import gzip
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin

import pytest

from fastws.web.assets import accepts_gzip, make_asset, page, static_files
from tests.serving import ROOT

WEB = ROOT / "fastws" / "web"
PAGES = sorted(path.name for path in (WEB / "pages").glob("*.html"))


@pytest.mark.parametrize(
    ("header", "is_accepted"),
    [
        ("", False),
        ("identity", False),
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("gzip, deflate, br, zstd", True),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("gzip ; q = 0.001", True),
        ("*", True),
        ("*;q=0", False),
        ("*;q=0, gzip", True),
        ("gzip;q=0, *", False),
        ("notgzip", False),
        (";;,=,", False),
    ],
)
def test_who_takes_gzip(header: str, is_accepted: bool) -> None:
    assert accepts_gzip(header) is is_accepted


def test_an_asset_is_packed_where_that_gains_something() -> None:
    text = make_asset("a.js", b"const a = 1;\n" * 100)
    assert text.packed is not None
    assert gzip.decompress(text.packed) == text.body
    assert len(text.packed) < len(text.body)
    assert text.tag != text.packed_tag
    assert make_asset("a.js", b"const a = 2;\n" * 100).tag != text.tag
    # The same wherever and whenever it is made: instances behind one balancer agree on the tags.
    assert make_asset("a.js", text.body) == text
    assert make_asset("small.js", b"const a = 1;").packed is None
    assert make_asset("a.png", text.body).packed is None


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("fastws.js", "text/javascript; charset=utf-8"),
        ("fastws.d.ts", "text/plain; charset=utf-8"),
        ("common/theme.css", "text/css; charset=utf-8"),
        ("common/icon.svg", "image/svg+xml"),
    ],
)
def test_types_come_from_names(name: str, content_type: str) -> None:
    assert static_files()[name].content_type == content_type


def test_every_file_below_static_is_served_and_no_other() -> None:
    files = {
        path.relative_to(WEB / "static").as_posix(): path
        for path in (WEB / "static").rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
    assert {name: asset.body for name, asset in static_files().items()} == {
        name: path.read_bytes() for name, path in files.items()
    }


def test_the_client_library_is_the_one_of_the_npm_package() -> None:
    for name in ("fastws.js", "fastws.d.ts", "react.js", "react.d.ts"):
        source = ROOT / "clients" / "js" / name
        assert static_files()[name].body == source.read_bytes()
        # A copy would grow old.
        assert (WEB / "static" / name).resolve() == source


class Elements(HTMLParser):
    """What a page consists of: tags with their attributes, and the text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] in ("script", "style"):
            self.inline += data.strip()


@pytest.mark.parametrize("name", PAGES)
def test_pages_have_no_inline_script_or_style(name: str) -> None:
    elements = Elements((WEB / "pages" / name).read_text(encoding="utf-8"))
    assert elements.inline == ""
    for tag, attributes in elements.found:
        assert tag != "style"
        assert tag != "base"
        for attribute in attributes:
            assert not attribute.startswith("on"), (tag, attribute)
            assert attribute != "style", tag


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("prefix", ["/", "/a/prefix/"])
@pytest.mark.parametrize("slash", ["/", ""])
def test_addresses_lead_to_files_and_pages_whatever_the_prefix(name: str, prefix: str, slash: str) -> None:
    shown = page(name).with_slash if slash else page(name).without_slash
    own = f"{prefix}realtime/{name.removesuffix('.html')}{slash}"
    pages = {f"{prefix}realtime/dashboard/", f"{prefix}realtime/test/"}
    static = f"{prefix}static/"
    n = 0
    for _, attributes in Elements(shown.body.decode()).found:
        for attribute in ("src", "href"):
            if (address := attributes.get(attribute)) is None or address.startswith("#"):
                continue
            assert not re.match(r"/|[a-z]+:", address), address
            target = urljoin(f"http://h{own}", address).removeprefix("http://h")
            assert target in pages or target.removeprefix(static) in static_files(), (own, address)
            n += 1
    assert n > 3


def test_every_style_sheet_is_one_of_a_page() -> None:
    linked = {
        (attributes["href"] or "").partition("static/")[2]
        for name in PAGES
        for tag, attributes in Elements((WEB / "pages" / name).read_text(encoding="utf-8")).found
        if tag == "link" and attributes["rel"] == "stylesheet"
    }
    assert linked == {name for name in static_files() if name.endswith(".css")}


@pytest.mark.parametrize("name", PAGES)
def test_fields_and_buttons_have_names(name: str) -> None:
    """What a screen reader says of them: a label, or text inside."""
    text = (WEB / "pages" / name).read_text(encoding="utf-8")
    elements = Elements(text)
    labelled = {
        attributes["for"] for tag, attributes in elements.found if tag == "label" and "for" in attributes
    }
    wrapped = re.findall(r"<label[^>]*>\s*<(?:input|select|textarea)\b([^>]*)>", text)
    for tag, attributes in elements.found:
        if tag not in ("input", "select", "textarea"):
            continue
        is_wrapped = any(
            f'value="{attributes.get("value")}"' in one for one in wrapped if "radio" in one
        ) or any(f'id="{attributes.get("id")}"' in one for one in wrapped)
        assert "aria-label" in attributes or attributes.get("id") in labelled or is_wrapped, attributes
    assert '<html lang="' in text
    assert 'name="viewport"' in text


def colors(is_dark: bool) -> dict[str, tuple[float, float, float]]:
    """The colours of the theme, each channel from 0 to 1."""
    text = (WEB / "static" / "common" / "theme.css").read_text(encoding="utf-8")
    found = re.findall(r"^  (--[\w-]+): light-dark\((#\w{6}), (#\w{6})\);", text, re.MULTILINE)
    chosen = {name: dark if is_dark else light for name, light, dark in found}
    return {
        name: (int(value[1:3], 16) / 255, int(value[3:5], 16) / 255, int(value[5:7], 16) / 255)
        for name, value in chosen.items()
    }


def contrast(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    """The contrast ratio of WCAG 2.2."""

    def luminance(color: tuple[float, float, float]) -> float:
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("is_dark", [False, True])
def test_the_colours_can_be_told_apart(is_dark: bool) -> None:
    theme = colors(is_dark)
    for ground in ("--page", "--panel", "--field"):
        for text in (
            "--text",
            "--muted",
            "--accent",
            "--good",
            "--warn",
            "--bad",
            "--red",
            "--green",
            "--blue",
        ):
            assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
        assert contrast(theme["--edge"], theme[ground]) >= 3, ground
    assert contrast(theme["--on-accent"], theme["--accent"]) >= 4.5


def test_hidden_files_are_not_served(tmp_path: Path) -> None:
    assert not any(part.startswith(".") for name in static_files() for part in name.split("/"))
