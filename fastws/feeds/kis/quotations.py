"""What KIS's REST interface is asked for prices and books, and what it answers. Sans-IO.

Sources: KIS developer portal, domestic stock quotations: inquire-price (FHKST01010100), intstock-multprice
(FHKST11300006, real environment only), inquire-asking-price-exp-ccn (FHKST01010200), inquire-daily-itemchartprice
(FHKST03010100).
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from fastws._market import BookUpdate, Instrument, PriceUpdate

SYMBOLS_PER_CALL: Final = 30
POLLED: Final = "polled"
DAYS_PER_CALL: Final = 100

_DIVISIONS: Final = {"KRX": "J", "NXT": "NX", "UN": "UN"}
_QUOTATIONS: Final = "/uapi/domestic-stock/v1/quotations"
_LEVELS: Final = 10
_DATE: Final = "%Y%m%d"
# Names of the same values in the answers for several symbols and for one.
_MULTI: Final = ("inter2_prpr", "inter2_prdy_vrss", "inter2_hgpr", "inter2_lwpr")
_SINGLE: Final = ("stck_prpr", "prdy_vrss", "stck_hgpr", "stck_lwpr")
_FALLING: Final = ("4", "5")


class Call(NamedTuple):
    """A GET: its path, its TR and its parameters."""

    path: str
    tr_id: str
    parameters: dict[str, str]


def price_call(codes: Sequence[str], exchange: str) -> Call:
    """Ask for the prices of up to 30 codes; one goes by the call for one, which paper trading has, too."""
    division = _DIVISIONS[exchange]
    if len(codes) == 1:
        parameters = {"FID_COND_MRKT_DIV_CODE": division, "FID_INPUT_ISCD": codes[0]}
        return Call(f"{_QUOTATIONS}/inquire-price", "FHKST01010100", parameters)
    parameters = {}
    for n, code in enumerate(codes, 1):
        parameters[f"FID_COND_MRKT_DIV_CODE_{n}"] = division
        parameters[f"FID_INPUT_ISCD_{n}"] = code
    return Call(f"{_QUOTATIONS}/intstock-multprice", "FHKST11300006", parameters)


def book_call(code: str, exchange: str) -> Call:
    """Ask for the order book of a code."""
    parameters = {"FID_COND_MRKT_DIV_CODE": _DIVISIONS[exchange], "FID_INPUT_ISCD": code}
    return Call(f"{_QUOTATIONS}/inquire-asking-price-exp-ccn", "FHKST01010200", parameters)


def read_prices(
    answer: Mapping[str, Any],
    codes: Sequence[str],
    exchange: str,
    resolve: Callable[[str], Instrument | None],
    on_refused: Callable[[str, str], object] = lambda code, reason: None,
) -> list[PriceUpdate]:
    """Return the prices of an answer to :func:`price_call`. Symbols without a price are left out, and so is what
    cannot be read: one bad row is no reason to lose the others. `on_refused` is told of each, and why."""
    output = answer.get("output")
    rows = [output] if isinstance(output, dict) else output if isinstance(output, list) else []
    names = _SINGLE if len(codes) == 1 else _MULTI
    updates = []
    for row in rows:
        if not isinstance(row, dict):
            continue
        code = codes[0] if len(codes) == 1 else row.get("inter_shrn_iscd")
        instrument = resolve(code) if isinstance(code, str) and code in codes else None
        if instrument is None:
            continue
        price, change, high, low = (_number(row.get(name)) for name in names)
        if price is None or price in ("0", ""):
            # Never traded, or not of this exchange.
            on_refused(instrument.code, f"not positive: price: {price}")
            continue
        percent = _number(row.get("prdy_ctrt"))
        if row.get("prdy_vrss_sign") in _FALLING:
            change, percent = _negative(change), _negative(percent)
        try:
            updates.append(
                PriceUpdate(
                    instrument,
                    price,
                    change=change,
                    change_percent=percent,
                    volume=_number(row.get("acml_vol")),
                    high=_positive(high),
                    low=_positive(low),
                    venue=exchange,
                    quality=POLLED,
                )
            )
        except ValueError as error:
            on_refused(instrument.code, f"malformed: {error}")
    return updates


def days_call(code: str, exchange: str, first: datetime.date, last: datetime.date) -> Call:
    """Ask for the daily prices of a code, up to a hundred trading days, as they were traded."""
    parameters = {
        "FID_COND_MRKT_DIV_CODE": _DIVISIONS[exchange],
        "FID_INPUT_ISCD": code,
        "FID_INPUT_DATE_1": first.strftime(_DATE),
        "FID_INPUT_DATE_2": last.strftime(_DATE),
        "FID_PERIOD_DIV_CODE": "D",
        "FID_ORG_ADJ_PRC": "1",
    }
    return Call(f"{_QUOTATIONS}/inquire-daily-itemchartprice", "FHKST03010100", parameters)


def read_days(answer: Mapping[str, Any]) -> list[tuple[datetime.date, Mapping[str, Any]]]:
    """Return the rows of an answer to :func:`days_call` with their dates, newest first as KIS has them.

    Their columns are stck_clpr, stck_oprc, stck_hgpr, stck_lwpr and acml_vol. Empty rows, with which KIS fills an
    answer up, are left out.
    """
    rows = answer.get("output2")
    found = []
    for row in rows if isinstance(rows, list) else []:
        text = row.get("stck_bsop_date") if isinstance(row, dict) else None
        try:
            date = datetime.datetime.strptime(text or "", _DATE).date()
        except (ValueError, TypeError):
            continue
        found.append((date, row))
    return found


def read_book(
    answer: Mapping[str, Any], code: str, exchange: str, resolve: Callable[[str], Instrument | None]
) -> BookUpdate | None:
    """Return the book of an answer to :func:`book_call`, None where there is none."""
    output, instrument = answer.get("output1"), resolve(code)
    if not isinstance(output, dict) or instrument is None:
        return None
    try:
        return BookUpdate(
            instrument,
            _levels(output, "bidp"),
            _levels(output, "askp"),
            venue=exchange,
            quality=POLLED,
        )
    except ValueError:
        return None


def _levels(output: Mapping[str, Any], side: str) -> list[tuple[str, str]]:
    levels = []
    for n in range(1, _LEVELS + 1):
        price = _positive(_number(output.get(f"{side}{n}")))
        if price is not None:
            levels.append((price, _number(output.get(f"{side}_rsqn{n}")) or "0"))
    return levels


def _number(value: object) -> str | None:
    text = value.strip() if isinstance(value, str) else ""
    return text or None


def _positive(text: str | None) -> str | None:
    return None if text is None or not text.strip("0.") else text


def _negative(text: str | None) -> str | None:
    """Some answers have the sign in its column only."""
    return text if text is None or text.startswith("-") or not text.strip("0.") else f"-{text}"
