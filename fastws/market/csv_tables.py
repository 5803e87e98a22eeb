"""Tables in CSV files: UTF-8, a header of known columns, and errors that name line and column."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from fastws.errors import TableError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

# What else separates columns; no code has any of them in it.
_SEPARATORS: Final = {";": "';'", "\t": "tabs", "|": "'|'", " ": "spaces"}
# As a file opened with newline="" has them. One after the other: `StringIO` would hold the text four times as large.
_LINE: Final = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


class Columns(NamedTuple):
    """The columns of a table, in any order: those that a file must have, and those that it may have."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def header(self) -> str:
        """As it is shown to people."""
        return ",".join(self.required) + "".join(f"[,{column}]" for column in self.optional)


class TableRow(NamedTuple):
    """A row of a table: `cells` by column, without blanks around them. `shown` names the file."""

    line: int
    shown: str
    cells: dict[str, str]

    @property
    def where(self) -> str:
        """What messages about it begin with."""
        return f"{self.shown}, line {self.line}"


def read_text(path: Traversable, shown: str, error_type: type[TableError] = TableError) -> str:
    """Return the text of a UTF-8 file, without a byte order mark.

    Raises:
        TableError: `error_type`, naming the file as `shown`, and the line.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise error_type(f"{shown}: cannot be read: {error.strerror}; check the path") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise error_type(f"{shown}, line {line}: is not UTF-8; save the file as UTF-8") from None


def read_rows(
    text: str,
    shown: str,
    columns: Columns,
    error_type: type[TableError] = TableError,
    on_problem: Callable[[TableError], object] | None = None,
) -> Iterator[TableRow]:
    """Yield the rows of a CSV text. Blank lines do not count, nor do lines that begin with ``#``: any above the header,
    and below it those without a comma. `on_problem` gets what is wrong with a row that cannot be taken apart, and the
    next one follows.

    Raises:
        TableError: `error_type`, naming the file as `shown`, line and column; nothing after it can be read.
    """
    header: list[str] | None = None
    n_columns = -1
    first = 1  # line of the row that is being read
    reader = csv.reader((match[0] for match in _LINE.finditer(text)), strict=True)
    try:
        for row in reader:
            line = reader.line_num
            first = line + 1
            cells = [cell.strip() for cell in row]
            if len(cells) == n_columns and cells[0] and cells[0][0] != "#":
                yield TableRow(line, shown, dict(zip(header or (), cells, strict=True)))
                continue
            is_comment = cells[:1] != [] and cells[0].startswith("#")
            if not any(cells) or (is_comment and (header is None or len(cells) == 1)):
                continue
            where = f"{shown}, line {line}"
            if header is None:
                header = _check_header(cells, where, columns, error_type)
                n_columns = len(header)
                continue
            if is_comment:
                # It may be meant as either: a row that is not taken over is one that pruning deletes.
                problem = (
                    f"begins with '#' and has {len(cells)} cells; "
                    "delete it if it is a comment, put another column first if it is a row"
                )
            elif len(cells) != len(header):
                problem = (
                    f"has {len(cells)} cells, the header has {len(header)}; "
                    "put a cell that holds a comma in quotes"
                )
            else:
                problem = ""
            if problem:
                wrong = error_type(f"{where}: {problem}")
                if on_problem is None:
                    raise wrong
                on_problem(wrong)
                continue
            yield TableRow(line, shown, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise error_type(f"{shown}, line {first}: {csv_problem(error)}") from None
    if header is None:
        raise error_type(f"{shown}: is empty; the first line must be {columns.header}")


def csv_problem(error: csv.Error) -> str:
    """What an error of a strict reader means, in the words of somebody who has written the file."""
    if str(error) == "unexpected end of data":
        return 'a quote begins a cell and none ends it; end it, or write "" for a quote within quotes'
    return f'{error}; see whether a quote is too many, and write "" for one within quotes'


def _check_header(cells: list[str], where: str, columns: Columns, error_type: type[TableError]) -> list[str]:
    expected = f"expected the header {columns.header}"
    for column in columns.required:
        if column not in cells:
            # Not by spaces: the name of a column may have one.
            check_separator(cells[0].replace(" ", ""), where, error_type=error_type)
            raise error_type(f"{where}: the column {column} is missing; {expected}")
    for i, cell in enumerate(cells):
        if cell not in columns.required and cell not in columns.optional:
            raise error_type(f"{where}: unknown column {cell!r}; {expected}")
        if cell in cells[:i]:
            raise error_type(f"{where}: the column {cell} comes twice; {expected}")
    return cells


def check_separator(
    text: str, where: str, alternative: str = "", error_type: type[TableError] = TableError
) -> None:
    """See that a text which should be one cell is not a row with other separators.

    Raises:
        TableError: `error_type`, naming the separator.
    """
    for character, name in _SEPARATORS.items():
        if character in text:
            raise error_type(
                f"{where}: looks like CSV separated by {name}; separate the columns by commas{alternative}"
            )


def check_new(
    key: object,
    lines_of: dict[object, int],
    line: int,
    where: str,
    error_type: type[TableError] = TableError,
) -> None:
    """See that a key comes only once, and remember its line in `lines_of`.

    Raises:
        TableError: `error_type`, naming the line in which it has come before.
    """
    first = lines_of.setdefault(key, line)
    if first != line:
        raise repeated(key, first, where, error_type)


def repeated(key: object, first: int, where: str, error_type: type[TableError] = TableError) -> TableError:
    """The error of a row whose key has come before, in line `first`."""
    return error_type(f"{where}: {key} stands in line {first} already")
