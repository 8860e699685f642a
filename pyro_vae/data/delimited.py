"""Delimited text: CSV and TSV files, found fit to be read line by line, then parsed by pandas.

pandas passes over much that is wrong: lines of another length, names that occur twice. So `scan` reads a file
first, in little memory, and says what is wrong with it and on which line.
"""

import csv
import gzip
import itertools
import zlib
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, cast

from pyro_vae.data.files import existing
from pyro_vae.specs import DeclarationError

if TYPE_CHECKING:
    from pandas import DataFrame

MISSING = ("", "?", "NA", "N/A", "NaN", "nan", "null", "NULL")
"""What a missing entry looks like; the question mark is that of the UCI repository."""
DELIMITERS = {"\t": "tabs", ";": "semicolons", ",": "commas"}
MAX_CHARACTERS = 8 * 2**30
"""Most that a table may hold unpacked; 200 kB of gzip can claim to be any size."""
MAX_LINE = 2**24
"""Most characters that a line may have: about a million columns."""
SHOWN = 10
"""How many lines or names an error shows."""
DECIMAL_COMMA = r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?"


class Table(NamedTuple):
    """What `scan` finds in a file: how to read it, and where its rows are."""

    path: Path
    field: str
    """Where the file was named, with its value: what the lines of an error begin with."""
    delimiter: str
    header: int
    """Number of the line that holds the names, from 1."""
    names: tuple[str, ...]
    lines: Sequence[int]
    """Number of the line on which each row ends."""
    blank: Sequence[int]
    """Which rows, counted with the blank ones, are blank lines."""


def scan(path: Path, field: str) -> Table:
    """Go over a file line by line: it must be text, a line of names and then one field per name in every line.

    Args:
        path: comma, semicolon or tab separated values in UTF-8, plain or .gz.
        field: where it was named, with its value: what the lines of an error begin with.

    Raises:
        DeclarationError: what is wrong with the file.
    """
    existing(path, field)
    try:
        with _opened(path) as file:
            lines = _lines(file, field)
            header, line = next(((i, line) for i, line in enumerate(lines, 1) if line.strip()), (0, ""))
            if not header:
                _refuse(f"{field}: is empty. Its first line must hold the names of the columns.")
            delimiter, names = _header(line, field)
            return _rows(Table(path, field, delimiter, header, names, (), ()), lines)
    except UnicodeDecodeError:
        _refuse(
            f"{field}: is no text in UTF-8. Save the table as CSV UTF-8, not as a spreadsheet or in another encoding."
        )
    except (OSError, EOFError, zlib.error) as error:
        _refuse(f"{field}: cannot be read ({' '.join(str(error).split())}). Write it again.")


def parse(table: Table, columns: Sequence[str], text: Collection[str]) -> tuple["DataFrame", bool]:
    """The columns in pandas' types that know missing entries, those in `text` as text; blank lines are passed over.

    Returns:
        The columns, and whether their numbers have a decimal comma, as may be where no comma separates them.

    Raises:
        DeclarationError: pandas cannot parse the file.
    """
    from pandas.api.types import is_numeric_dtype

    frame = _parsed(table, columns, text, ".")
    if table.delimiter == ",":
        return frame, False
    words = [frame[name] for name in columns if name not in text and not is_numeric_dtype(frame[name])]
    comma = any(column.str.fullmatch(DECIMAL_COMMA).any() for column in words)
    # Of the whole file, so that 1.234 beside 1,5 is not taken for a fraction: it is text then, and refused.
    return (_parsed(table, columns, text, ",") if comma else frame), comma


def listed(names: Iterable[object], most: int = SHOWN) -> str:
    """The first few, and how many more.

    >>> listed(range(12))
    '0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more'
    """
    words = [shown(str(name)) for name in names]
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def shown(word: str) -> str:
    """A text as it is, short and on one line."""
    word = word if word.isprintable() else repr(word)
    return word if len(word) <= 40 else f"{word[:37]}..."


def _refuse(*problems: str) -> NoReturn:
    raise DeclarationError(problems)


def _opened(path: Path) -> TextIOWrapper:
    """The file as text, unpacked; a byte order mark is passed over."""
    if path.suffix.lower() == ".gz":
        return cast(TextIOWrapper, gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")


def _lines(file: TextIOWrapper, field: str) -> Iterator[str]:
    """The lines, while they look like those of a table."""
    characters = 0
    for number in itertools.count(1):
        line = file.readline(MAX_LINE)
        if not line:
            return
        characters += len(line)
        if "\0" in line:
            _refuse(f"{field}: line {number} holds bytes that are no text. Save the table as CSV UTF-8.")
        if len(line) == MAX_LINE:
            _refuse(f"{field}: line {number} has {MAX_LINE} characters or more. Is this a table, a line per datum?")
        if characters > MAX_CHARACTERS:
            _refuse(f"{field}: holds more than {MAX_CHARACTERS} characters. Save x with numpy.save, as .npy.")
        yield line


def _header(line: str, field: str) -> tuple[str, tuple[str, ...]]:
    """The delimiter, a tab or semicolon where there is one, else the comma; and the names."""
    readings: dict[str, list[str]] = {}
    for delimiter in DELIMITERS:
        try:
            readings[delimiter] = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True))
        except csv.Error:  # quotation marks that fit another delimiter, or none
            continue
    # A comma may be part of a name, as in "length, cm"; a name with a semicolon is rarer, and refused below.
    delimiter = next((d for d, names in readings.items() if len(names) > 1), ",")
    if delimiter not in readings:
        _refuse(f"{field}: the quotation marks of its first line do not match. Write each name within two, or none.")
    names = tuple(name.strip() for name in readings[delimiter])
    if all(_is_number(name) or name in MISSING for name in names):
        _refuse(
            f"{field}: its first line holds numbers ({listed(names[:3])}) and must hold the names of the columns. "
            "Put a line of names above it."
        )
    problems = []
    if garbage := [name for name in names if not name.isprintable()]:
        problems.append(f"{field}: its first line holds characters that are no text: {listed(garbage)}. Write names.")
    if nameless := [i for i, name in enumerate(names, 1) if not name]:
        problems.append(
            f"{field}: no name in the first line for column {listed(nameless)}. Give each column one; an index that "
            "pandas or R wrote is left out by index=False or row.names=FALSE."
        )
    if twice := sorted(name for name, count in Counter(names).items() if name and count > 1):
        problems.append(f"{field}: names that several columns have: {listed(twice)}. Give each column its own.")
    if problems:
        _refuse(*problems)
    return delimiter, names


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def _rows(table: Table, lines: Iterator[str]) -> Table:
    """The table with its rows, each of one field per name."""
    field, width = table.field, len(table.names)
    reader = csv.reader(lines, delimiter=table.delimiter, skipinitialspace=True, strict=True)
    ends, blank, ragged, empty = array("q"), array("q"), list[str](), list[int]()
    try:
        for row in reader:
            line = table.header + reader.line_num
            if not row or (row == [""] and width > 1):
                blank.append(len(ends) + len(blank))
                continue
            ends.append(line)
            if len(row) != width:
                ragged.append(f"line {line} has {len(row)}")
            elif not any(row):
                empty.append(line)
    except csv.Error as error:
        _refuse(
            f"{field}: line {table.header + reader.line_num}: {error}. Is a quotation mark left open, or one within a "
            "text not written twice?"
        )
    problems = []
    if ragged:
        separator = DELIMITERS[table.delimiter]
        problems.append(
            f"{field}: the line of names has {width} fields, separated by {separator}, and {len(ragged)} of "
            f"{len(ends)} other lines have more or fewer: {listed(ragged)}. Give each name a field, even an empty one."
        )
    if empty:
        problems.append(f"{field}: lines without any entry: {listed(empty)}. Delete them.")
    if not ends:
        problems.append(f"{field}: holds a line of names and no data. Give one line per datum.")
    if problems:
        _refuse(*problems)
    return table._replace(lines=ends, blank=blank)


def _parsed(table: Table, columns: Sequence[str], text: Collection[str], decimal: str) -> "DataFrame":
    """The columns, with pandas."""
    import pandas

    try:
        with _opened(table.path) as file:
            for _ in range(table.header):
                file.readline()
            frame = pandas.read_csv(
                file,
                sep=table.delimiter,
                header=None,
                names=list(table.names),
                usecols=list(columns),
                index_col=False,
                dtype=cast(Any, dict.fromkeys(text, "string")),
                dtype_backend="numpy_nullable",
                keep_default_na=False,
                na_values=list(MISSING),
                skipinitialspace=True,
                skip_blank_lines=False,
                low_memory=False,
                decimal=decimal,
            )
    except MemoryError:
        _refuse(f"{table.field}: does not fit in memory as a table. Save x with numpy.save, as .npy, which is mapped.")
    except (ValueError, OSError, EOFError, zlib.error) as error:
        _refuse(f"{table.field}: cannot be parsed ({' '.join(str(error).split())}). Write it again.")
    if len(table.blank):
        frame = frame.drop(index=list(table.blank)).reset_index(drop=True)
    if len(frame) != len(table.lines):  # the two readers disagree about what a line is
        _refuse(f"{table.field}: its quotation marks can be read in two ways. Write it again, with pandas or Excel.")
    return frame
