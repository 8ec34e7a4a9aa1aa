"""Numbers in tables: files with values between commas, with or without a header."""

import csv
import io
import re
from collections.abc import Iterator, Sequence

from exporter.cli.arrays.sources import Source
from signatures.errors import BindError

# More than these is no table that anybody wrote.
MAX_COLUMNS = 100_000
MAX_CELLS = 20_000_000

_INT = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(
    r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|nan|inf(?:inity)?)", re.IGNORECASE
)
_FLAGS = {"true": True, "false": False}

_MAX_SHOWN_CELL = 40


def read_table(source: Source) -> list[list[complex]] | list[complex]:
    """The rows of a table, or the column whose name stands in brackets.

    A first row in which nothing is a number is the header; where a column is named, one in which
    something is none. Whole numbers stay whole, so the
    type of the input decides what becomes of them.

    Raises:
      BindError: if it cannot be read, is no table of numbers, or has no such column.
    """
    rows = _rows(source)
    first = next(rows, None)
    if first is None:
        raise BindError(f"{source.name} is an empty table; give it a row of numbers")
    words = sum(_number(cell) is None for cell in first)
    is_named = source.suffix is not None and words > 0
    header = first if is_named or words == len(first) else None
    column = _column(source, header)
    wanted = slice(None) if column is None else slice(column, column + 1)
    table = [] if header is not None else [_numbers(source, 1, first, wanted)]
    cells = 0
    for place, row in enumerate(rows, 2):
        cells += len(row)
        if len(row) != len(first):
            raise BindError(
                f"{source.name} is no table: row {place} has {len(row)} values and row 1 has "
                f"{len(first)}; fill it up"
            )
        if cells > MAX_CELLS:
            raise BindError(
                f"{source.name} has more than {MAX_CELLS:,} values; save it with np.save"
            )
        table.append(_numbers(source, place, row, wanted))
    if not table:
        raise BindError(f"{source.name} has a header and nothing else; give it a row of numbers")
    return table if column is None else [row[0] for row in table]


def _rows(source: Source) -> Iterator[list[str]]:
    """The rows, without those that are empty."""
    rows = csv.reader(io.StringIO(source.text(), newline=""), strict=True)
    try:
        for row in rows:
            if len(row) > MAX_COLUMNS:
                raise BindError(
                    f"{source.name} has {len(row):,} columns, and at most {MAX_COLUMNS:,} are "
                    "read; save it with np.save"
                )
            if row:
                yield [cell.strip() for cell in row]
    except csv.Error as error:
        raise BindError(
            f"{source.name} is no table: {error} in line {rows.line_num}; write numbers between "
            "commas"
        ) from error


def _column(source: Source, header: Sequence[str] | None) -> int | None:
    name = source.suffix
    if name is None:
        return None
    if header is None:
        raise BindError(
            f"{source.name} has no header, so no column {name!r}; write the names in its first row"
        )
    if header.count(name) == 1:
        return header.index(name)
    known = ", ".join(map(repr, map(_cut, header[:10]))) + (" ..." if len(header) > 10 else "")
    what = f"several columns {name!r}" if name in header else f"no column {name!r}"
    raise BindError(f"{source.name} has {what}, its columns are: {known}")


def _numbers(source: Source, place: int, row: Sequence[str], wanted: slice) -> list[complex]:
    numbers = []
    for column, cell in enumerate(row[wanted], (wanted.start or 0) + 1):
        number = _number(cell)
        if number is None:
            raise BindError(
                f"{source.name} has {_cut(cell)!r} in row {place}, column {column}, which is no "
                "number; mend it, or name another column: FILE.csv[COLUMN]"
            )
        numbers.append(number)
    return numbers


def _number(cell: str) -> complex | None:
    if _INT.fullmatch(cell):
        return int(cell) if len(cell) <= 40 else None  # no type has as many digits
    if _FLOAT.fullmatch(cell):
        return float(cell)
    return _FLAGS.get(cell.lower())


def _cut(cell: str) -> str:
    return cell if len(cell) <= _MAX_SHOWN_CELL else f"{cell[: _MAX_SHOWN_CELL - 3]}..."
