"""Pieces of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a cell may hold Markdown, but no table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def code(text: object) -> str:
    """`text` as code within a line."""
    return f"`{text}`"


def fence(text: str, language: str = "") -> str:
    return f"```{language}\n{text.strip(chr(10))}\n```"


def words(text: str) -> str:
    """A text of the source for people: no character of it is markup, but for backticks."""
    parts = text.split("`")
    for i in range(0, len(parts), 2):
        for character in "\\*_<[]":
            parts[i] = parts[i].replace(character, "\\" + character)
    return "`".join(parts)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
