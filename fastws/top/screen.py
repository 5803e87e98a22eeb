"""Draws what is known of a server for a terminal of any size. The only module that needs rich."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from rich.console import Console
from rich.text import Text

from fastws.top import figures
from fastws.top.figures import Level, Row, Words, clock
from fastws.top.history import WINDOW, Busy, History, sort_busy
from fastws.top.units import NONE, age, number, rate, size, sparkline, text

SORTS: Final = ("rate", "queue", "lost", "subscriptions", "messages", "age")
"""By what connections are put in order, each after the one before at the press of a key."""
SORT_NAMES: Final = {
    "rate": "updates a second",
    "queue": "bytes queued",
    "lost": "updates lost",
    "subscriptions": "subscriptions",
    "messages": "messages received",
    "age": "the oldest first",
}

_STYLES: Final[dict[Level, str]] = {"": "", "good": "green", "warn": "yellow", "bad": "bold red"}
_LABEL: Final = 15
_VALUE: Final = 11
_MIN_DETAIL: Final = 30
_MAX_DETAIL: Final = 58
_MIN_GRAPH: Final = 8
_PEAK: Final = 18
# From so many columns on there is room for the peak of a graph.
_WIDE: Final = 120
# So many lines the connections get before anything else is added.
_MIN_CONNECTIONS: Final = 8

# A line each on the smallest usual screen.
HELP: Final = (
    ("q", "quit, as does Ctrl-C"),
    ("p", "pause the screen; again: go on"),
    ("s", "sort the connections by something else"),
    ("?", "this page; any key leaves it"),
    ("", ""),
    ("published", "updates that feeds and POST /v1/publish brought, each once"),
    ("messages sent", "to all clients together, each of a batch"),
    ("flush interval", "longer than asked for under overload; busy: time in flushes"),
    ("latency", "from receipt to the last client, of the last ten seconds"),
    ("loop lag", "how late the event loop is; 1 or 2 ms are its resolution"),
    ("queue", "waits for slow clients; blocked: they take nothing just now"),
    ("lost", "updates of mode all that slow clients did not get"),
    ("closed", "connections ended; slow consumer: over its hard limit"),
    ("processor", "of the server's process, which can use little more than one"),
    ("times", "receipt of an update, its publication, flush, last client"),
)


class View(NamedTuple):
    """What is to be drawn. `now` is monotonic; `paused_wall` is when it was paused, None: it is not."""

    url: str
    history: History
    now: float
    sort: str
    has_token: bool
    has_help: bool = False
    paused_wall: float | None = None


class _Column(NamedTuple):
    """A column of the connections; `rank` is the order in which there is room for them."""

    title: str
    width: int
    show: Callable[[Busy, float], str]
    rank: int
    is_number: bool = False


def _since(timestamp: str, wall: float) -> str:
    """How long before `wall`, as the two clocks have it; "-" for what is no time."""
    try:
        return age(max(0.0, wall - datetime.fromisoformat(timestamp).timestamp()))
    except ValueError:
        return NONE


_COLUMNS: Final = (
    _Column("CONNECTION", 10, lambda busy, wall: text(busy.row.connection_id[:8]), 0),
    _Column("USER", 16, lambda busy, wall: NONE if busy.row.user_id is None else text(busy.row.user_id), 1),
    _Column("PEER", 21, lambda busy, wall: text(busy.row.peer, 21), 7),
    _Column("DIALECT", 9, lambda busy, wall: text(busy.row.dialect, 9), 5),
    _Column("OPEN FOR", 11, lambda busy, wall: _since(busy.row.connected_at, wall), 8, True),
    _Column("HEARD", 15, lambda busy, wall: f"{_since(busy.row.last_activity, wall)} ago", 9, True),
    _Column("RECEIVED", 8, lambda busy, wall: number(busy.row.message_count), 6, True),
    _Column("SUBS", 6, lambda busy, wall: number(busy.row.subscription_count), 3, True),
    _Column("UPDATES", 10, lambda busy, wall: rate(busy.rate), 0, True),
    _Column("LOST", 8, lambda busy, wall: number(busy.row.updates_lost), 4, True),
    _Column("QUEUE", 9, lambda busy, wall: size(busy.row.queued_bytes), 2, True),
)


class Screen:
    """Makes lines of a view, with the colours that the terminal has; NO_COLOR and TERM are respected."""

    def __init__(self) -> None:
        self._console = Console(
            file=sys.stdout,
            force_terminal=True,
            highlight=False,
            markup=False,
            emoji=False,
            legacy_windows=False,
        )
        encoding = sys.stdout.encoding or "ascii"
        self._has_blocks = encoding.lower().replace("-", "").startswith("utf")

    def render(self, view: View, columns: int, lines: int) -> list[str]:
        """Return `lines` lines at most, which take up less than `columns`."""
        # A full line would leave the cursor behind its end, where terminals differ in what they do next.
        width = max(columns - 1, 1)
        drawn = self._help(width) if view.has_help else self._body(view, width, lines - 1)
        drawn = drawn[: max(lines - 1, 0)]
        drawn += [Text()] * (lines - 1 - len(drawn))
        drawn.append(self._footer(view, width))
        self._console.size = (columns, max(lines, 1))
        with self._console.capture() as capture:
            for line in drawn:
                line.truncate(width, overflow="ellipsis")
                self._console.print(line, no_wrap=True, overflow="crop", crop=True)
        return capture.get().split("\n")[:-1]

    def _body(self, view: View, width: int, lines: int) -> list[Text]:
        history = view.history
        drawn = [self._header(view, width), self._feeds(history)]
        drawn += self._notices(history, 1 if lines < 34 else 4)
        is_old = history.away_since is not None
        drawn += [self._row(row, history, width, is_old) for row in figures.rows(history)]
        left = lines - len(drawn)
        more = self._more(history, width)
        if not view.has_token or left - len(more) >= _MIN_CONNECTIONS:
            drawn += more[: max(left - 2, 0)]
        return drawn + self._connections(view, width, lines - len(drawn))

    def _header(self, view: View, width: int) -> Text:
        history = view.history
        stats = history.reading.stats
        word = figures.state(history)
        late = view.now - history.reading.at
        if history.away_since is None and view.paused_wall is None and late > 3 * history.interval + 1:
            word = Words(f"no answer for {age(late)}", "warn")
        right = Text()
        right.append(word.text, _STYLES[word.level])
        right.append(f"  up {age(stats.uptime_seconds)}" if history.away_since is None else "")
        if history.restarted_wall is not None and history.away_since is None and not history.is_several:
            right.append(f"  restarted {clock(history.restarted_wall)}", "yellow")
        if view.paused_wall is not None:
            right.append(f"  paused {clock(view.paused_wall)}", "reverse")
        else:
            right.append(f"  {clock(history.reading.wall)}")
        left = Text.assemble((f"fastws {text(stats.version or '', 16)}", "bold"), "  ", text(view.url, 200))
        return _between(left, right, width)

    def _feeds(self, history: History) -> Text:
        is_old = history.away_since is not None
        line = Text("feeds  ", "dim" if is_old else "")
        for n, words in enumerate(figures.feeds(history.reading.stats)):
            line.append(" · " if n else "").append(words.text, "dim" if is_old else _STYLES[words.level])
        then = " then" if is_old else ""
        line.append(
            f"   last price {figures.last_price(history.reading.stats)}{then}", "dim" if is_old else ""
        )
        relay = figures.relay(history.reading.stats)
        if relay is not None:
            line.append("   relay ", "dim" if is_old else "")
            line.append(relay.text, "dim" if is_old else _STYLES[relay.level])
        return line

    def _notices(self, history: History, room: int) -> list[Text]:
        found = figures.notices(history)
        if not found:
            return [Text("nothing to be looked after", "green")]
        shown = [Text(words.text, _STYLES[words.level]) for words in found[:room]]
        if len(found) > room:
            shown[-1] = Text.assemble((f"(1 of {len(found)}) " if room == 1 else "… "), shown[-1])
        return shown

    def _row(self, row: Row, history: History, width: int, is_old: bool) -> Text:
        left = width - _LABEL - _VALUE - 2
        peak = _PEAK if width >= _WIDE else 0
        detail = max(_MIN_DETAIL, min(_MAX_DETAIL, (left - peak) // 2))
        graph = left - detail - 1 - peak
        style = "dim" if is_old else _STYLES[row.level]
        line = Text(f"{row.label:<{_LABEL}}", "dim" if is_old else "")
        line.append(f"{row.value:>{_VALUE}}  ", style or "bold")
        words = Text(row.detail, "dim")
        words.truncate(detail, overflow="ellipsis", pad=True)
        line.append_text(words)
        if graph < _MIN_GRAPH:
            return line
        values = history.series(row.series, graph)
        line.append(" ")
        if peak:
            most = history.peak(row.series)
            line.append(f"{'' if most is None else 'peak ' + row.show(most):<{peak}}", "dim")
        is_flat = is_old or not any(values)
        line.append(
            f"{sparkline(values, has_blocks=self._has_blocks):>{graph}}", "dim" if is_flat else "cyan"
        )
        return line

    def _more(self, history: History, width: int) -> list[Text]:
        """What there is no row for: which stage takes how long, and why connections ended or did not begin."""
        stats = history.reading.stats
        times = [Text.assemble((f"{'TIMES':<28}{'P50':>9}{'P90':>9}{'P99':>9}", "bold"))]
        times += [
            Text(f"{name:<28}{p50:>9}{p90:>9}{p99:>9}") for name, p50, p90, p99 in figures.stages(history)
        ]
        ended = [Text("CLOSED SINCE ITS START", "bold")]
        ended += [Text(f"  {words}") for words in figures.closes(stats) or ["none"]]
        refused = figures.refusals(stats)
        ended += [Text("REFUSED BY LIMITS", "bold"), *(Text(f"  {words}") for words in refused or ["none"])]
        if width < 100:
            return [Text(), *times] if len(times) > 1 else []
        n = max(len(times), len(ended))
        times += [Text() for _ in range(n - len(times))]
        ended += [Text() for _ in range(n - len(ended))]
        lines = []
        for first, second in zip(times, ended, strict=True):
            first.truncate(64, pad=True)
            lines.append(first.append_text(second))
        return [Text(), *lines]

    def _connections(self, view: View, width: int, lines: int) -> list[Text]:
        history = view.history
        if lines < 2:
            return []
        if not view.has_token:
            return [Text(), Text("--token, or FASTWS_ADMIN_TOKEN, shows the busiest connections", "dim")]
        columns = _fitting(width)
        head = " ".join(_cell(column.title, column) for column in columns)
        wall = history.reading.wall
        ordered = sort_busy(history.busy, view.sort)
        drawn = [Text(f"{head:<{width}}", "reverse")]
        if lines > _MIN_CONNECTIONS:
            drawn.insert(0, Text())
        n_shown = lines - len(drawn)
        style = "dim" if history.away_since is not None else ""
        for busy in ordered[:n_shown]:
            drawn.append(Text(" ".join(_cell(column.show(busy, wall), column) for column in columns), style))
        return drawn

    def _help(self, width: int) -> list[Text]:
        lines = [Text("fastws top", "bold"), Text()]
        for name, about in HELP:
            for n, part in enumerate(_wrapped(about, width - 16)):
                lines.append(Text.assemble((f"{'' if n else name:<16}", "bold"), part))
        return lines

    def _footer(self, view: View, width: int) -> Text:
        line = Text()
        pause = "pause" if view.paused_wall is None else "go on"
        for key, what in (("q", "quit"), ("p", pause), ("s", "sort"), ("?", "help")):
            line.append(f" {key} ", "reverse").append(f" {what}  ")
        words = [f"every {view.history.interval:g} s", f"graphs of {WINDOW / 60:g} min"]
        if view.has_token:
            words.insert(0, f"by {SORT_NAMES[view.sort]}")
        while words and len(", ".join(words)) + 2 > width - line.cell_len:
            words.pop()
        return _between(line, Text(", ".join(words), "dim"), width)


def _between(left: Text, right: Text, width: int) -> Text:
    """`left` and `right` at the two ends; what there is no room for is taken from the left one."""
    room = max(width - right.cell_len - 2, 0)
    left.truncate(room, overflow="ellipsis", pad=True)
    return left.append("  ").append_text(right)


def _fitting(width: int) -> Sequence[_Column]:
    """The columns that fit, those with the lowest rank first."""
    chosen: list[_Column] = []
    left = width + 1
    for column in sorted(_COLUMNS, key=lambda column: column.rank):
        if column.width + 1 > left:
            break
        chosen.append(column)
        left -= column.width + 1
    # Names are what takes more room.
    return [
        column._replace(width=column.width + left) if column.title == "USER" else column
        for column in _COLUMNS
        if column in chosen
    ]


def _cell(shown: str, column: _Column) -> str:
    # Names may be in scripts of which a letter takes two columns.
    cell = Text(shown, no_wrap=True)
    cell.truncate(column.width, overflow="ellipsis")
    blank = " " * (column.width - cell.cell_len)
    return blank + cell.plain if column.is_number else cell.plain + blank


def _wrapped(words: str, width: int) -> list[str]:
    lines = [""]
    for word in words.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines
