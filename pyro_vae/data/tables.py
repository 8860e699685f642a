"""Tables: what the columns of a CSV file are to a model, as `Arrays`; see `ArraysData`."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae.data.containers import Arrays, Data
from pyro_vae.data.delimited import MISSING, SHOWN, Table, listed, parse, scan, shown
from pyro_vae.data.storage import allocate
from pyro_vae.specs import DeclarationError, did_you_mean

if TYPE_CHECKING:
    from pandas import DataFrame, Series
MISTYPED = 0.5
"""Share of the entries of a column up to which text among numbers may be slips."""
MOST_COLUMNS = 30
"""Names of columns that a message lists when one is looked for."""


def read_table(
    path: Path,
    field: str,
    *,
    labels: Sequence[str] = (),
    given: Sequence[str] = (),
    ignore: Sequence[str] = (),
    levels: int | None = None,
) -> Arrays:
    """Read a table as `ArraysData` says.

    Args:
        path: .csv or .tsv, plain or .gz.
        field: where it was named, with its value: what the lines of an error begin with.
        labels: columns that are attributes.
        given: columns that are covariates.
        ignore: columns that are left out.
        levels: number of integer levels of x; None: x is real-valued.

    Returns:
        x (N, D) with `columns`; a mask only where entries are missing; `names` of classes that have names.

    Raises:
        DeclarationError: everything that is wrong with the file, or with the names of columns.
    """
    table, problems = scan(path, field), list[str]()
    for role, names in (("labels", labels), ("given", given), ("ignore", ignore)):
        for name in names:
            if name not in table.names:
                hint = did_you_mean(name, table.names)
                problems.append(
                    f"data.{role}={json.dumps(list(names), ensure_ascii=False)}: {field} has no column {shown(name)!r}."
                    f"{hint} It has: {listed(table.names, MOST_COLUMNS)}."
                )
    columns = [name for name in table.names if name not in {*labels, *given, *ignore}]
    if not columns:
        problems.append(f"{field}: no column is left for x. Name fewer in data.labels, data.given and data.ignore.")
    _refuse(problems)
    frame, comma = parse(table, [*labels, *given, *columns], labels)
    reader = _Reader(table, frame, comma, problems)
    x, mask = reader.entries(columns, levels=levels)
    y = {name: reader.classes(name) for name in labels}
    covariates = reader.covariates(given)
    _refuse(problems)
    return Arrays(
        x,
        {name: integers for name, (integers, _) in y.items()},
        given=covariates,
        mask=mask,
        levels=levels,
        names={name: words for name, (_, words) in y.items() if words},
        columns=tuple(columns),
        given_columns=tuple(given) or None,
    )


def read_table_like(path: Path, field: str, like: Data) -> Arrays:
    """Read a table for a model that was trained on `like`: columns are found by their names, in any order.

    x is the columns that the training data had or, where those had no names, all that are neither attributes nor
    covariates; further columns are ignored. Classes are found by their names. No column is required to hold any
    entry, since a file may be one line.

    Raises:
        DeclarationError: columns are missing, classes are unknown, or the file cannot be read.
    """
    table, problems = scan(path, field), list[str]()
    given, labels = like.given_columns or (), [name for name in like.num_classes if name in table.names]
    columns = like.columns or tuple(name for name in table.names if name not in {*labels, *given})
    for what, names in (("x", columns), ("given", given)):
        if absent := [name for name in names if name not in table.names]:
            problems.append(
                f"{field}: {what}: lacks {len(absent)} of the {len(names)} columns that the model was trained on: "
                f"{listed(absent)}.{did_you_mean(absent[0], table.names)} It has: {listed(table.names, MOST_COLUMNS)}."
            )
    if not columns:
        problems.append(f"{field}: x: no column is left for it. The file has: {listed(table.names)}.")
    _refuse(problems)
    frame, comma = parse(table, [*labels, *given, *columns], labels)
    reader = _Reader(table, frame, comma, problems, trained=like)
    x, mask = reader.entries(columns)
    y = {name: reader.known_classes(name, like) for name in labels}
    covariates = reader.covariates(given)
    _refuse(problems)
    return Arrays(x, y, given=covariates, mask=mask)


def _refuse(problems: list[str]) -> None:
    if problems:
        raise DeclarationError(problems)


class _Reader:
    """The columns of a parsed table as arrays; what is wrong with them joins the problems."""

    def __init__(
        self, table: Table, frame: "DataFrame", comma: bool, problems: list[str], trained: Data | None = None
    ) -> None:
        self.table, self.frame, self.problems, self.trained = table, frame, problems, trained
        self.comma = " (the file has decimal commas)" if comma else ""

    def _at(self, name: str) -> str:
        """What the lines about a column begin with."""
        return f"{self.table.field}: column {shown(name)!r}"

    def _numbers(self, name: str, advice: str) -> np.ndarray | None:
        """A column as float64 (N,), NaN where it is missing; None, and a problem, where it holds anything else."""
        from pandas.api.types import is_numeric_dtype

        column = self.frame[name]
        if not is_numeric_dtype(column):
            # What pandas leaves as text can still be numbers: integers too large for its own.
            words = column[column.notna() & ~column.str.fullmatch("[+-]?[0-9]+").fillna(False)]
            if len(words):
                some = ", ".join(repr(shown(word)) for word in words.unique()[:3])
                few = len(words) <= MISTYPED * len(column)
                row = words.index[0] + 1
                slip = f" If it is a slip, correct row {row} of the data, or leave it empty." if few else ""
                self.problems.append(
                    f"{self._at(name)} holds text in {len(words)} of {len(column)} rows, such as {some}"
                    f"{self.comma}. {advice}{slip}"
                )
                return None
            # Not by pandas.to_numeric, which fails where some of them are missing.
            values = np.array([float(word) if isinstance(word, str) else np.nan for word in column])
        else:
            values = column.to_numpy(np.float64, na_value=np.nan)
        if (infinite := np.isinf(values)).any():
            line = self.table.lines[int(infinite.argmax())]
            self.problems.append(
                f"{self._at(name)} is infinite in {infinite.sum()} of {len(values)} rows, first on line {line}. "
                "Correct them, or leave them empty."
            )
            return None
        return values

    def entries(self, columns: Sequence[str], levels: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """The columns as x (N, D), 0 where entries are missing, and the mask where any is."""
        before, self.problems = self.problems, list[str]()
        shape = (len(self.frame), len(columns))
        x = allocate(shape, self._type(columns) if levels is None else np.uint8)
        mask = allocate(shape, np.bool_)
        advice = (
            "Give numbers."
            if self.trained
            else 'Name it in data.labels if it is an attribute, else in data.ignore: data.ignore=["{}"].'
        )
        for i, name in enumerate(columns):
            values = self._numbers(name, advice.format(shown(name)))
            if values is None:
                continue
            mask[:, i] = exists = ~np.isnan(values)
            if not exists.any() and self.trained is None:
                self.problems.append(f'{self._at(name)} holds no entry. Leave it out: data.ignore=["{shown(name)}"].')
            values = np.where(exists, values, 0)
            if levels is not None:
                self._check_levels(name, values, levels)
            x[:, i] = values if levels is None else values.clip(0, 255)
        more = len(self.problems) - SHOWN
        before += self.problems[:SHOWN]
        if more > 0:
            before.append(f"{self.table.field}: {more} more columns cannot be part of x either.")
        self.problems = before
        return x, None if mask.all() else mask

    def _check_levels(self, name: str, values: np.ndarray, levels: int) -> None:
        """Refuse what is no integer level."""
        wrong = (values < 0) | (values >= levels) | (values % 1 != 0)
        if wrong.any():
            first = int(wrong.argmax())
            self.problems.append(
                f"{self._at(name)} holds {values[first]:g} on line {self.table.lines[first]}; data.levels={levels} "
                f"needs integers from 0 to {levels - 1} in every column of x. Correct them, or leave data.levels out."
            )

    def _type(self, columns: Sequence[str]) -> np.typing.DTypeLike:
        """What the numbers are: for a model of levels 1 is one above black, and 1.0 is white; else all are floats."""
        from pandas.api.types import is_bool_dtype, is_integer_dtype

        like = self.trained
        if like is None or like.levels is None:
            return np.float64
        filled = [self.frame[name] for name in columns if self.frame[name].notna().any()]
        if all(is_bool_dtype(column) for column in filled):
            return np.bool_
        whole = all(is_integer_dtype(column) or is_bool_dtype(column) for column in filled)
        return np.int64 if whole else np.float64

    def covariates(self, columns: Sequence[str]) -> np.ndarray | None:
        """The columns as given (N, G), without gaps; None where there are none."""
        given = np.zeros((len(self.frame), len(columns)))
        for i, name in enumerate(columns):
            values = self._numbers(name, "Covariates are numbers: write classes as columns of 0 and 1.")
            if values is None:
                continue
            if (gaps := np.isnan(values)).any():
                line = self.table.lines[int(gaps.argmax())]
                self.problems.append(
                    f"{self._at(name)} lacks {gaps.sum()} of {len(values)} entries, first on line {line}; "
                    "covariates cannot be missing. Fill them in, or leave the column out of data.given."
                )
            given[:, i] = values
        return given if columns else None

    def classes(self, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """An attribute as integers (N,), -1 where it is missing, and the names of its classes if it needs any."""
        words = _words(self.frame[name])
        known = [str(word) for word in words.dropna().unique()]
        if not known:
            self.problems.append(f"{self._at(name)} holds no entry; it cannot be one of data.labels. Leave it out.")
            return _numbered(words, {}), ()
        integers = {word: integer for word in known if (integer := _integer(word)) is not None}
        if len(integers) == len(known):
            ordered = sorted(set(integers.values()))
            places = {integer: place for place, integer in enumerate(ordered)}
            as_they_are = ordered == list(range(len(ordered)))
            found = {word: places[integer] for word, integer in integers.items()}
            return _numbered(words, found), () if as_they_are else tuple(map(str, ordered))
        fractions = [word for word in known if word not in integers and _is_fraction(word)]
        if len(fractions) + len(integers) == len(known):
            self.problems.append(
                f"{self._at(name)} holds fractions, such as {fractions[0]}; an attribute must be integers, text, or "
                "true and false. Take it out of data.labels; it may be a covariate, in data.given."
            )
            return _numbered(words, {}), ()
        names = sorted({_canonical(word) for word in known} if all(map(_is_bool, known)) else known)
        places_by_name = {word: place for place, word in enumerate(names)}
        found = {word: places_by_name[word if word in places_by_name else _canonical(word)] for word in known}
        return _numbered(words, found), tuple(names)

    def known_classes(self, name: str, like: Data) -> np.ndarray:
        """An attribute as the integers that its classes have in the training data."""
        words, found, unknown = _words(self.frame[name]), dict[str, int](), list[str]()
        places = {word: place for place, word in enumerate(like.names.get(name, ()))}
        for word in map(str, words.dropna().unique()):
            place = places.get(word, places.get(_canonical(word))) if places else _integer(word)
            if place is None:
                unknown.append(word)
            else:
                found[word] = place
        if unknown:
            allowed = listed(places) if places else f"integers from 0 to {like.num_classes[name] - 1}"
            hint = did_you_mean(unknown[0], places)
            self.problems.append(
                f"{self.table.field}: y.{name}: holds {listed(unknown)}, which the model was not trained on.{hint} "
                f"Must be: {allowed}, or empty where it is missing."
            )
        return _numbered(words, found)


def _words(column: "Series[Any]") -> "Series[Any]":
    """A column of text without blanks around it, missing where nothing is left."""
    words = column.str.strip()
    return words.mask(words.isin(MISSING))


def _numbered(words: "Series[Any]", found: dict[str, int]) -> np.ndarray:
    """The integer of each word, -1 where there is none."""
    return np.array([found.get(word, -1) if isinstance(word, str) else -1 for word in words], np.int64)


def _integer(word: str) -> int | None:
    """The integer that is written there; 3.0, as pandas writes it beside missing ones, is one.

    >>> _integer("3.0"), _integer("3.5"), _integer("three")
    (3, None, None)
    """
    return int(word.split(".")[0]) if re.fullmatch(r"[+-]?[0-9]{1,18}(\.0*)?", word) else None


def _is_fraction(word: str) -> bool:
    return re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", word) is not None


def _is_bool(word: str) -> bool:
    return word.casefold() in ("true", "false")


def _canonical(word: str) -> str:
    """A class as it is named: 3.0 is 3, TRUE is True."""
    integer = _integer(word)
    return str(integer) if integer is not None else word.capitalize() if _is_bool(word) else word
