"""The screen at every size, in colour and without."""

from __future__ import annotations

import re

import pytest
from rich.cells import cell_len
from top_readings import Listing, connection, history, metrics, reading

from fastws.top.history import History
from fastws.top.screen import HELP, SORTS, Screen, View

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def busy_history() -> History:
    def listing(at: float) -> Listing:
        return Listing(
            at,
            0.1,
            tuple(
                connection(
                    f"{n:08}-0000", int(100 + n * at), user_id=f"사용자-{n}\x1b[2J", dialect="screener"
                )
                for n in range(100)
            ),
        )

    return history(
        reading(0.0, answer=metrics(1), listing=listing(0.0)),
        reading(1.0, answer=metrics(2, n_fast=10), listing=listing(1.0), messages_sent=9000),
    )


def view(found: History, **changes: object) -> View:
    made = View("http://127.0.0.1:8000", found, found.reading.at, "rate", True)
    return made._replace(**changes)  # type: ignore[arg-type]


def plain(lines: list[str]) -> list[str]:
    return [ESCAPE.sub("", line).rstrip() for line in lines]


@pytest.mark.parametrize("columns", [1, 20, 40, 80, 100, 132, 200, 400])
@pytest.mark.parametrize("lines", [1, 2, 10, 24, 40, 60])
def test_every_size_is_filled_and_not_overrun(columns: int, lines: int) -> None:
    found = busy_history()
    for each in (view(found), view(found, has_help=True), view(found, has_token=False, paused_wall=1.7e9)):
        drawn = Screen().render(each, columns, lines)
        assert len(drawn) == lines
        for line in plain(drawn):
            assert cell_len(line) < max(columns, 2)
            assert "\x1b" not in line


def test_a_usual_terminal_has_it_all() -> None:
    drawn = plain(Screen().render(view(busy_history()), 80, 24))
    assert drawn[0].startswith("fastws 1.2.3  http://127.0.0.1:8000  ")
    assert "serving  up 1 min 41 s" in drawn[0]
    assert drawn[1] == "feeds  kis live   last price 0.0 s ago"
    assert drawn[2] == "nothing to be looked after"
    assert re.match(r"messages sent +4,000/s  9,000 in all +▇$", drawn[6])
    (head,) = [n for n, line in enumerate(drawn) if line.startswith("CONNECTION")]
    assert re.match(r"00000099 +사용자-99�\[2J +screener +- +99/s +- +-$", drawn[head + 1]), drawn[head + 1]
    assert drawn[head + 2].startswith("00000098 ")
    assert drawn[-1].strip().startswith("q  quit   p  pause   s  sort   ?  help")
    wide = "\n".join(plain(Screen().render(view(busy_history()), 200, 60)))
    assert "peak 4,000/s" in wide
    assert "receipt to last connection" in wide
    assert re.search(r"CLOSED SINCE ITS START\n.* normal 10\n.*REFUSED BY LIMITS\n +none\n", wide)


def test_the_help_fits_a_usual_terminal() -> None:
    drawn = plain(Screen().render(view(busy_history(), has_help=True), 80, 24))
    assert drawn[2] == "q               quit, as does Ctrl-C"
    named = [line.split(" ")[0] for line in drawn[2:-1] if line]
    assert named == [name.split(" ")[0] for name, _ in HELP if name]


def test_notices_are_as_many_as_fit() -> None:
    found = history(reading(0.0), reading(1.0, loop_lag_ms=300.0, accept_pauses=2, answer=metrics(1)))
    small = plain(Screen().render(view(found), 80, 24))
    assert small[2] == "(1 of 2) the event loop is late by 300 ms"
    assert plain(Screen().render(view(found), 80, 50))[2:4] == [
        "the event loop is late by 300 ms",
        "accepting had to stop for want of file descriptors",
    ]


def test_what_is_old_is_marked() -> None:
    found = busy_history()
    late = Screen().render(view(found, now=6.0), 80, 24)
    assert "no answer for 5 s" in plain(late)[0]
    found.lose(2.0, 1.7e9, "http://127.0.0.1:8000: connection refused")
    away = Screen().render(view(found), 80, 24)
    assert "unreachable since" in plain(away)[0]
    assert plain(away)[2] == "http://127.0.0.1:8000: connection refused"
    assert "\x1b[2m" in away[3]
    found.take(reading(3.0, epoch="second"))
    assert "serving  up 1 min 43 s  restarted " in plain(Screen().render(view(found), 80, 24))[0]


def test_the_sort_is_named_and_held_to() -> None:
    found = busy_history()
    for sort in SORTS:
        drawn = plain(Screen().render(view(found, sort=sort), 80, 24))
        assert " by " in drawn[-1]
    (first,) = [line for line in drawn if line.startswith("00000000 ")]
    assert first  # the oldest first, and of equals the first


def test_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    found = history(reading(feeds={"kis": "reconnecting"}))
    coloured = "".join(Screen().render(view(found), 80, 24))
    assert re.search(r"\x1b\[[0-9;]*3[0-7]m", coloured)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", "".join(Screen().render(view(found), 80, 24)))
