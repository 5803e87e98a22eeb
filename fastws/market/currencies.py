"""Codes of currencies, as files and databases have them. Sans-IO."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

# The last letter of some that are hundredths is a small one: GBp, ZAc.
_CODE: Final = re.compile(r"[A-Z]{2}[A-Za-z]")
_SMALL: Final = re.compile(r"[a-z]{3}")


@lru_cache(maxsize=1024)
def currency_code(text: str) -> str:
    """Return the code of a currency: three letters; those that are all small are made capitals.

    Raises:
        ValueError: it is none.
    """
    if _SMALL.fullmatch(text):
        return text.upper()
    if not _CODE.fullmatch(text):
        raise ValueError(f"expected the three letters of a currency such as USD, got {text!r:.60}")
    return text
