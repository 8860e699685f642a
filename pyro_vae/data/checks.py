"""Checks of arrays as given: every mistake is found, and what passes comes out in one form.

x is (N, D) or (N, C, H, W), in uint8 levels or floats, 0 where its mask is False; labels are int64 (N,).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.containers import Arrays
from pyro_vae.data.storage import allocate, release
from pyro_vae.specs import DeclarationError

MOST_CLASSES = 10**9
"""Larger labels are no numbers of classes but identifiers."""


def checked(raw: Arrays, at: str, *, real: bool = False) -> tuple[list[Arrays], int | None]:
    """The data, and the test data where there are any, as native numpy arrays; and the number of levels.

    Args:
        raw: the data as given.
        at: what the lines of an error begin with.
        real: whether integers are numbers like any other, and no levels.

    Raises:
        DeclarationError: everything that is wrong with the arrays.
    """
    problems: list[str] = []
    parts, levels = checked_parts(raw, at, problems), None
    if not problems and real:
        parts = [replace(part, x=as_floats(part.x)) for part in parts]
    elif not problems:
        xs, levels = _in_levels([part.x for part in parts], raw.levels, at, problems)
        parts = [replace(part, x=x) for part, x in zip(parts, xs, strict=True)]
    if problems:
        raise DeclarationError(problems)
    return parts, levels


def checked_parts(raw: Arrays, at: str, problems: list[str]) -> list[Arrays]:
    """The same with x as its numbers are, before anything is said of levels; what is wrong joins the problems."""
    both = [_checked_part(raw, at, problems)]
    if raw.test is not None:
        both.append(_checked_part(raw.test, f"{at}test.", problems))
    parts = [part for part in both if part is not None]
    return _agreeing(parts[0], parts[1], at, problems) if len(parts) == 2 else parts


def _checked_part(raw: Arrays, at: str, problems: list[str]) -> Arrays | None:
    """One part, checked by itself: x (N, *event), 0 where its mask is False; None where x is no use."""
    x = _numeric(raw.x, f"{at}x", problems)
    if x is None:
        return None
    if x.ndim not in (2, 3, 4) or x.size == 0:
        problems.append(f"{at}x: shape {x.shape}; must be (N, D), (N, H, W) or (N, C, H, W), none of them 0.")
        return None
    mask = None if raw.mask is None else _numeric(raw.mask, f"{at}mask", problems)
    if mask is not None and (mask.dtype != bool or mask.shape != x.shape):
        problems.append(
            f"{at}mask: {mask.dtype} of shape {mask.shape}; must be bool of the shape {x.shape} of x, True "
            "where the entry exists."
        )
    elif mask is not None and not mask.any():
        problems.append(f"{at}mask: is False everywhere, so that nothing is left of x; must be True where it exists.")
    elif mask is not None:
        x = _zero_where_missing(x, mask)
        mask = _channels_first(mask)
    _finite(x, f"{at}x", "Remove them, or give a mask that is False there (numpy.isfinite(x)).", problems)
    given = None if raw.given is None else _numeric(raw.given, f"{at}given", problems)
    if given is not None:
        if given.ndim != 2 or len(given) != len(x):
            problems.append(f"{at}given: shape {given.shape}; must be ({len(x)}, G), one row per datum.")
        given = given if given.dtype.kind == "f" else given.astype(np.float32)
        _finite(given, f"{at}given", "Remove them: covariates cannot be missing.", problems)
    return Arrays(_channels_first(x), _labels(raw.y, len(x), at, problems), given=given, mask=mask)


def _numeric(
    value: Any, name: str, problems: list[str], wanted: str = "bool, integers or floats. Try .astype(float)"
) -> np.ndarray | None:
    """The value as an array of numbers, floats as torch has them; None, and a problem, where it is none."""
    try:
        if isinstance(value, Tensor):
            value = value.detach().cpu()
            value = value.float() if value.dtype is torch.bfloat16 else value
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        problems.append(f"{name}: is no rectangular array ({error}). Give one numeric array.")
        return None
    if array.dtype.kind not in "biuf":
        what = "Python objects" if array.dtype.kind == "O" else f"{array.dtype} values"
        problems.append(f"{name}: holds {what}; must be {wanted}.")
        return None
    if array.dtype.kind != "f":
        return array
    # Of native byte order; half precision is too coarse to train on, and torch has no more than double.
    return converted(array, np.float32 if array.dtype.itemsize <= 4 else np.float64)


def _channels_first(x: np.ndarray) -> np.ndarray:
    """Images as (N, C, H, W); vectors as they are."""
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        return np.moveaxis(x, 3, 1)
    return x


def blocks(x: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of about 2^22 entries at a time, so that temporaries stay small; those of a mapped file are released."""
    num = max(1, 2**22 // max(1, x[0].size))
    for start in range(0, len(x), num):
        rows = x[start : start + num]
        yield rows
        release(rows)


def _zero_where_missing(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return by_blocks(lambda x, mask: np.where(mask, x, 0), x.dtype, x, mask)


def by_blocks(
    function: Callable[..., np.ndarray], dtype: np.typing.DTypeLike, x: np.ndarray, *others: np.ndarray
) -> np.ndarray:
    """An array shaped like x, from the function of rows of x and of others; on disk where it is too large."""
    made = allocate(x.shape, dtype)
    for place, *rows in zip(*map(blocks, (made, x, *others)), strict=True):
        place[:] = function(*rows)
    return made


def converted(x: np.ndarray, dtype: np.typing.DTypeLike) -> np.ndarray:
    """The same numbers as another type; x itself where it is of that type."""
    return x if x.dtype == np.dtype(dtype) else by_blocks(np.asarray, dtype, x)


def _finite(x: np.ndarray, name: str, advice: str, problems: list[str]) -> None:
    """Refuse NaN, infinity, and numbers that float32 does not hold."""
    if x.dtype.kind != "f" or x.size == 0:
        return
    count, first, largest, done = 0, None, 0.0, 0
    for rows in blocks(x):
        bad = ~np.isfinite(rows)
        largest = max(largest, float(np.abs(rows, where=~bad, out=np.zeros(rows.shape, x.dtype)).max()))
        if bad.any():
            count += int(bad.sum())
            where = np.argwhere(bad)[0]
            where[0] += done
            first = first or where.tolist()
        done += len(rows)
    if count:
        problems.append(f"{name}: NaN or infinite in {count} of {x.size} entries, first at {first}. {advice}")
    if largest > float(np.finfo(np.float32).max):
        problems.append(f"{name}: holds {largest:g}, which float32 does not; divide by something.")


def _labels(y: Any, num_data: int, at: str, problems: list[str]) -> dict[str, np.ndarray]:
    """The attributes, int64 (N,) each."""
    named = {} if y is None else dict(y) if isinstance(y, Mapping) else {"label": y}
    labels = {}
    for name, values in named.items():
        field = f"{at}y.{name}" if isinstance(y, Mapping) else f"{at}y"
        wanted = f"integers of shape ({num_data},). Number them: numpy.unique(y, return_inverse=True)"
        array = _numeric(values, field, problems, wanted)
        if array is None:
            continue
        if array.dtype.kind == "f" or array.shape != (num_data,):
            problems.append(
                f"{field}: {array.dtype} of shape {array.shape}; must be integers of shape ({num_data},), "
                "one label per datum, -1 where it is missing."
            )
        elif array.max() > MOST_CLASSES:
            problems.append(f"{field}: holds {array.max()}; must be below {MOST_CLASSES}. Number them 0, 1, ...")
        elif array.min() < -1:
            problems.append(f"{field}: holds {array.min()}; must be 0, 1, ..., or -1 where it is missing.")
        else:
            labels[name] = array.astype(np.int64)
    return labels


def _agreeing(train: Arrays, test: Arrays, at: str, problems: list[str]) -> list[Arrays]:
    """Both parts in the same form: labels that the test set lacks are -1, a mask that one lacks is True."""
    if train.x.shape[1:] != test.x.shape[1:]:
        problems.append(f"{at}test.x: one has shape {test.x.shape[1:]}; in x it is {train.x.shape[1:]}.")
    if (train.x.dtype.kind == "f") != (test.x.dtype.kind == "f"):
        problems.append(f"{at}test.x: {test.x.dtype}, but x is {train.x.dtype}. Give both on one scale.")
    if extra := set(test.y) - set(train.y):
        problems.append(f"{at}test.y: has {', '.join(sorted(extra))}, which the training data lack.")
    widths = [0 if part.given is None else part.given.shape[-1] for part in (train, test)]
    if widths[0] != widths[1]:
        problems.append(f"{at}test.given: {widths[1]} covariates; the training data have {widths[0]}.")
    missing = {name: np.full(len(test.x), -1) for name in train.y if name not in test.y}
    test = replace(test, y={**test.y, **missing})
    if (train.mask is None) != (test.mask is None):
        whole = [
            by_blocks(lambda x: np.ones(x.shape, bool), bool, part.x) if part.mask is None else part.mask
            for part in (train, test)
        ]
        train, test = replace(train, mask=whole[0]), replace(test, mask=whole[1])
    return [train, test]


def _in_levels(
    xs: list[np.ndarray], declared: int | None, at: str, problems: list[str]
) -> tuple[list[np.ndarray], int | None]:
    """Integer and binary x as uint8 and the number of its levels; any other as floats and None."""
    if xs[0].dtype.kind == "f":
        binary = all(is_binary(x) for x in xs)
        if declared is not None:
            problems.append(f"{at}levels={declared}: is for integers, and x is {xs[0].dtype}. Leave it out.")
        return ([converted(x, np.uint8) for x in xs], 2) if binary else (xs, None)
    low, high = extent(xs)
    if declared is None and not 0 <= low <= high <= 255:
        return [as_floats(x) for x in xs], None
    levels = declared if declared is not None else 2 if high <= 1 else 256
    if not 2 <= levels <= 256 or low < 0 or high >= levels:
        problems.append(
            f"{at}levels={levels}: must be from 2 to 256, and above every x; x goes from {low:g} to {high:g}."
        )
    # Where the levels are wrong, the numbers stay as they are: the problem is all that is of use then.
    return ([converted(x, np.uint8) for x in xs] if not problems else xs), levels


def extent(xs: Sequence[np.ndarray]) -> tuple[float, float]:
    """Smallest and largest entry of all the arrays."""
    both = [(rows.min(), rows.max()) for x in xs for rows in blocks(x)]
    return float(min(low for low, _ in both)), float(max(high for _, high in both))


def is_binary(x: np.ndarray) -> bool:
    """Whether every entry is 0 or 1."""
    return all(((rows == 0) | (rows == 1)).all() for rows in blocks(x))


def is_counts(x: np.ndarray) -> bool:
    """Whether every entry is one of 0, 1, 2, ..."""
    return all(((rows >= 0) & (rows == np.floor(rows))).all() for rows in blocks(x))


def as_floats(x: np.ndarray) -> np.ndarray:
    """Integers as floats, exactly: float32 holds those up to 2^24, float64 those up to 2^53. Floats stay."""
    if x.dtype.kind == "f":
        return x
    low, high = extent([x])
    return converted(x, np.float32 if max(-low, high) <= 2**24 else np.float64)
