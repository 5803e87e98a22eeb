"""The dashboard says everything in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import fastws.web

ROOT = Path(fastws.web.__file__).parent
SCRIPTS = sorted((ROOT / "static" / "dashboard").glob("*.js"))
PAGE = (ROOT / "pages" / "dashboard.html").read_text(encoding="utf-8")


def dictionary(name: str) -> dict[str, str]:
    text = (ROOT / "static" / "dashboard" / "texts.js").read_text(encoding="utf-8")
    body = text[text.index(f"const {name} = {{") :]
    return dict(re.findall(r'^  (\w+): "(.*)",$', body[: body.index("\n};")], re.MULTILINE))


def test_both_languages_have_the_same_texts_with_the_same_values() -> None:
    english, korean = dictionary("en"), dictionary("ko")
    assert len(english) > 100
    assert list(english) == list(korean)
    for key, text in english.items():
        assert set(re.findall(r"\{(\w+)\}", text)) == set(re.findall(r"\{(\w+)\}", korean[key])), key


def test_what_the_page_and_its_scripts_ask_for_is_there() -> None:
    english = dictionary("en")
    asked = set(re.findall(r'data-i18n(?:-\w+)?="(\w+)"', PAGE))
    for script in SCRIPTS:
        asked |= set(re.findall(r'\bt\("(\w+)"', script.read_text(encoding="utf-8")))
    assert len(asked) > 80
    assert asked - set(english) == set()
