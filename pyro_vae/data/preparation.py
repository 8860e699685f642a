"""From arrays to what is trained on: `load` splits, thins and draws once, `prepare` treats every batch."""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.checks import blocks, by_blocks, checked, extent, is_counts
from pyro_vae.data.containers import Arrays, Binarize, Data, Dequantize, Split, StoredSplit, Support
from pyro_vae.data.sets import ArraysData, in_memory
from pyro_vae.data.spec import DataSpec
from pyro_vae.data.storage import Stored, fits, is_mapped
from pyro_vae.specs import DeclarationError


def prepare(
    x: Tensor,
    levels: int | None,
    binarize: Binarize,
    dequantize: Dequantize,
    dtype: torch.dtype,
    uniform: Tensor | None = None,
) -> Tensor:
    """The x that is modelled, from x as stored; nothing here depends on values, so it can be captured.

    Args:
        x: any shape, as stored in a `Split`.
        levels: number of integer levels; None where x is real-valued, and then nothing is dequantised.
        binarize: "static" has been drawn by `load` and does nothing here.
        dequantize: as in `DataSpec`.
        dtype: of the result, a floating-point type.
        uniform: draws from Uniform(0, 1), shaped like x, to use instead of new ones.

    Returns:
        x prepared, same shape.

    Example:
        >>> prepare(torch.tensor([0, 100, 255], dtype=torch.uint8), 256, "threshold", "none", torch.float32)
        tensor([0., 0., 1.])
    """
    x = x.to(dtype)
    if dequantize == "uniform" and levels is not None:
        u = torch.rand_like(x) if uniform is None else uniform
        # Inside the open interval, where a logit is finite: u can be 0, and 255 + u rounds to 256 in float32.
        least = torch.finfo(dtype).eps / 2
        return ((x + u.clamp(min=least)) / levels).clamp(max=1 - least)
    p = x if levels is None else x / (levels - 1)
    if binarize == "dynamic":
        if uniform is None and levels is not None and levels <= 256 and not x.is_cuda:
            return (_sixteen_bits(x) < x * (2**16 / (levels - 1))).to(dtype)
        return ((torch.rand_like(p) if uniform is None else uniform) < p).to(dtype)
    if binarize == "threshold":
        return (p >= 0.5).to(dtype)
    return p


def _sixteen_bits(x: Tensor) -> Tensor:
    """Draws from Uniform{0.5, 1.5, ..., 65535.5} in the shape and type of x.

    A random number in 24 bits for every pixel is what takes longest after the matrix products of a small step on
    a CPU, whose generator makes one after the other. One of 64 bits serves four pixels. The probability of a one is
    then k / (levels - 1) rounded to a multiple of 2^-16, and exact at 0 and 1.
    """
    words = torch.randint(-(2**63), 2**63 - 1, (-(-x.numel() // 4),), device=x.device)
    return words.view(torch.int16)[: x.numel()].view(x.shape).to(x.dtype) + (2**15 + 0.5)


def load(spec: DataSpec, seed: int = 0, arrays: Arrays | None = None) -> Data:
    """Read, check and split a data set; the same spec and seed give the same data.

    Args:
        spec: the declaration.
        seed: of the split and of simulated data.
        arrays: data in memory instead of those that `spec` names; its other fields hold.

    Raises:
        DeclarationError: everything that is wrong with the data.
    """
    if arrays is None:
        raw, at = spec.read(seed), f"{spec.where()}: "
    else:
        if isinstance(spec, ArraysData) and spec.path is not None:
            raise DeclarationError([f'data.path="{spec.path}": arrays are given in memory too. Leave one out.'])
        raw, spec, at = arrays, in_memory(spec), "data."
    parts, levels = checked(raw, at, real=spec.standardize or spec.counts)
    train = parts[0]
    low, high = (0.0, 1.0) if levels else extent([part.x for part in parts])
    unit = low >= 0 and high <= 1 and not spec.standardize

    problems = _no_counts(parts, spec) if spec.counts else list[str]()
    if (spec.library or spec.shown is not None) and any(part.mask is not None for part in parts):
        field = "data.library=true" if spec.library else "data.shown"
        problems.append(f"{field}: needs data of which no entry is missing; leave it out, or the mask.")
    if spec.binarize != "none" and not unit:
        problems.append(
            f'data.binarize="{spec.binarize}": needs integer levels or values in [0, 1]; x goes from '
            f"{low:g} to {high:g}. Rescale x, or set data.binarize=none."
        )
    if spec.dequantize != "none" and levels is None:
        problems.append(
            f'data.dequantize="{spec.dequantize}": needs integer levels; x is real-valued. Give x as uint8, '
            "or set data.dequantize=none."
        )
    kept, validation, held_out = split_indices(len(train.x), spec, seed, problems, hold_out=len(parts) == 1)
    labels = _thinned({name: labels[kept] for name, labels in train.y.items()}, spec.labels_kept, problems)
    num_classes = {name: 1 + int(max(part.y[name].max() for part in parts)) for name in train.y}
    problems += [f"{at}y.{name}: every label is -1. Leave it out." for name, num in num_classes.items() if num == 0]
    if problems:
        raise DeclarationError(problems)

    grey_levels = levels if spec.binarize == "static" else None
    if spec.binarize == "static":
        parts = [replace(part, x=drawn(part.x, levels, stream)) for stream, part in enumerate(parts)]
        levels = 2
    parts = [hidden(part, spec.missing, stream) for stream, part in enumerate(parts)]
    binary = spec.binarize != "none" or (levels == 2 and spec.dequantize == "none")
    training = replace(taken(parts[0], kept), attributes=labels)
    return Data(
        name=spec.name,
        train=training,
        validation=taken(parts[0], validation),
        test=taken(parts[-1], held_out if len(parts) == 1 else np.arange(len(parts[1].x))),
        shape=train.x.shape[1:],
        levels=levels,
        binarize=spec.binarize,
        dequantize=spec.dequantize,
        support="counts" if spec.counts else _support(binary, unit, levels if spec.dequantize == "none" else None),
        num_classes=num_classes,
        truth=raw.truth,
        names={name: tuple(raw.names[name]) for name in num_classes if name in raw.names},
        columns=None if raw.columns is None else tuple(raw.columns),
        given_columns=None if raw.given_columns is None else tuple(raw.given_columns),
        scaling=moments(training) if spec.standardize else None,
        grey_levels=grey_levels,
        shown=None if spec.shown is None else spec.shown.entries(train.x.shape[1:]),
        library=spec.library,
    )


def _no_counts(parts: list[Arrays], spec: DataSpec) -> list[str]:
    """What is wrong with x if it shall be counts."""
    if not all(is_counts(part.x) for part in parts):
        low, high = extent([part.x for part in parts])
        return [
            f"data.counts=true: x must hold counts 0, 1, 2, ..., and goes from {low:g} to {high:g}"
            f"{'' if low < 0 else ' with fractions'}. Leave counts out, or give other data."
        ]
    empty = [int((by_datum(part.x) == 0).sum()) for part in parts] if spec.library else []
    return (
        [f"data.library=true: {sum(empty)} data have no count at all, so that their library size is 0. Remove them."]
        if sum(empty)
        else []
    )


def by_datum(x: np.ndarray) -> np.ndarray:
    """Sum of the entries of each datum (N,)."""
    return np.concatenate([some.reshape(len(some), -1).sum(1) for some in blocks(x)])


def hidden(part: Arrays, share: float, stream: int) -> Arrays:
    """The data with a share of their entries hidden at random, from a fixed seed: the same ones in every run."""
    if not share:
        return part
    rng = np.random.default_rng([2, stream])
    keep = by_blocks(lambda x: rng.random(x.shape) >= share, bool, part.x)
    mask = keep if part.mask is None else by_blocks(np.logical_and, bool, keep, part.mask)
    return replace(part, x=by_blocks(np.multiply, part.x.dtype, part.x, mask), mask=mask)


def _support(binary: bool, unit: bool, levels: int | None) -> Support:
    """Where the prepared x lies."""
    if binary or not unit:
        return "binary" if binary else "real"
    return "unit" if levels is None else "levels"


TEST_SEED = 20_000
"""Seed of the held-out test data."""


def split_indices(
    num_data: int, spec: DataSpec, seed: int, problems: list[str], *, hold_out: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the training, validation and held-out test data, each rising: files are read in sequence."""
    num_test = max(1, round(num_data / 10)) if hold_out else 0
    rest = num_data - num_test
    part = spec.validation
    num_validation = part if isinstance(part, int) else max(1, round(part * rest)) if part else 0
    if num_validation >= rest:
        problems.append(
            f"data.validation={part}: of {num_data} data, {num_test} are held out for testing and "
            f"{num_validation} for validation, which leaves none to train on. "
            "Give more data, or a smaller data.validation."
        )
    # The test set is the same for every seed: results can be compared, and a run that starts from another's
    # parameters is never tested on what those were trained on.
    held_out, others = np.split(np.random.default_rng(TEST_SEED).permutation(num_data), [num_test])
    order = np.random.default_rng([seed, 1]).permutation(np.sort(others))
    validation, train = np.split(order, [num_validation])
    return np.sort(train), np.sort(validation), np.sort(held_out)


def _thinned(labels: dict[str, np.ndarray], num_kept: int | None, problems: list[str]) -> dict[str, Tensor]:
    """Labels of which only `num_kept` data keep theirs, evenly over the classes.

    With several attributes a datum keeps all or none, evenly over their combinations. The choice has a fixed
    seed, and a smaller number keeps a subset of a larger one.
    """
    if num_kept is not None:
        table = np.stack(list(labels.values()), 1) if labels else np.zeros((0, 0), np.int64)
        known = np.flatnonzero((table >= 0).any(1))
        if num_kept > len(known):
            problems.append(
                f"data.labels_kept={num_kept}: only {len(known)} training data have labels. "
                + ("Give a smaller number." if labels else "Leave it out: these data have no labels.")
            )
        order = np.random.default_rng(0).permutation(known)
        group = np.unique(table[order], axis=0, return_inverse=True)[1].reshape(-1) if len(order) else order
        # Each datum's place in its own class: all the first ones come first, then all the second ones.
        sorted_by_group = np.argsort(group, kind="stable")
        first = np.searchsorted(group[sorted_by_group], group)
        place = np.empty_like(group)
        place[sorted_by_group] = np.arange(len(group))
        chosen = order[np.argsort(place - first, kind="stable")[:num_kept]]
        keep = np.isin(np.arange(len(table)), chosen)
        labels = {name: np.where(keep, values, -1) for name, values in labels.items()}
    return {name: torch.from_numpy(values) for name, values in labels.items()}


def drawn(x: np.ndarray, levels: int | None, stream: int) -> np.ndarray:
    """Bernoulli draws with probabilities x / (levels - 1), from a fixed seed: the same data in every run."""
    rng = np.random.default_rng([1, stream])
    return by_blocks(lambda some: rng.random(some.shape) * ((levels or 2) - 1) < some, np.uint8, x)


def taken(part: Arrays, indices: np.ndarray) -> Split | StoredSplit:
    """The data at `indices` as tensors; copied, so that neither a caller's array nor a file is shared.

    Only what is on disk and does not fit in memory is left there.
    """

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array[indices]))

    labels = {name: tensor(values) for name, values in part.y.items()}
    given = None if part.given is None else tensor(part.given)
    stays = is_mapped(part.x) and not fits(part.x.nbytes)
    if not stays:
        return Split(tensor(part.x), labels, given, None if part.mask is None else tensor(part.mask))
    mask = None if part.mask is None else Stored(part.mask)
    return StoredSplit(Stored(part.x), labels, given, mask, torch.from_numpy(indices.astype(np.int64)))


def moments(split: Split | StoredSplit) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column or channel over the entries that exist, in float64.

    A column that never varies has the standard deviation 1: it is shifted and not scaled.
    """
    shape = split.x.shape[1:]
    axes = (0,) if len(shape) == 1 else (0, 2, 3)
    kept = torch.Size(n if i == 0 else 1 for i, n in enumerate(shape))
    counts, mean, squares = (torch.zeros(kept, dtype=torch.float64) for _ in range(3))
    for rows in torch.arange(len(split)).split(max(1, 2**20 // math.prod(shape))):
        part = split.select(rows)
        x = part.x.double()
        exists = torch.ones_like(x) if part.mask is None else part.mask.double()
        more = exists.sum(axes).reshape(kept)
        # Welford's update, a block at a time: sums of squares would lose a small spread about a large mean.
        total = (counts + more).clamp_min(1)
        shift = (x * exists).sum(axes).reshape(kept) / more.clamp_min(1) - mean
        within = ((x - mean - shift) * exists).square().sum(axes).reshape(kept)
        mean, squares = mean + shift * more / total, squares + within + shift.square() * counts * more / total
        counts += more
    sd = (squares / counts.clamp_min(1)).sqrt()
    return mean, torch.where(sd > 0, sd, torch.ones_like(sd))
