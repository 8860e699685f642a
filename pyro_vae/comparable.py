"""Whether runs measure the same of the same data, and what to call them: what `comparison` asks first."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae.card import density_words
from pyro_vae.data import Data, Split, prepare
from pyro_vae.likelihoods import Mixed
from pyro_vae.records import PARTS
from pyro_vae.runs import Run
from pyro_vae.specs import DeclarationError
from pyro_vae.variant import Variant

ROWS = 1000
"""Data that are checked for being the same at a time."""
CHOICE = 20_001
"""Seed of the choice of some observations: the same ones in every comparison."""


def opened(directories: Iterable[Path | str]) -> list[Run]:
    """Open run directories.

    Raises:
        DeclarationError: some are none, one line each.
    """
    found, problems = list[Run](), list[str]()
    for directory in directories:
        try:
            if Path(directory).suffix == ".nc":
                raise DeclarationError([_no_run(str(directory), directory)])
            found.append(Run(directory))
        except DeclarationError as error:
            problems += error.problems
    if problems:
        raise DeclarationError(problems)
    return found


def named(runs: object) -> dict[str, Run]:
    """The runs by name.

    Raises:
        DeclarationError: something is no run, is given twice, or there are fewer than two.
    """
    if isinstance(runs, Run | str | Path) or _is_tree(runs) or not isinstance(runs, Mapping | Iterable):
        advice = "must be two runs or more, like [pv.load(DIR), pv.load(DIR)]"
        raise DeclarationError([f"runs={runs!r}: {advice}." if isinstance(runs, Run) else _no_run("runs", runs)])
    given = dict(runs) if isinstance(runs, Mapping) else {f"runs[{i}]": run for i, run in enumerate(runs)}
    problems = [_no_run(name, run) for name, run in given.items() if not isinstance(run, Run)]
    if not problems and len(given) < 2:
        problems.append(f"runs: {len(given)} given, and a comparison takes two or more; add another.")
    if problems:
        raise DeclarationError(problems)
    return given if isinstance(runs, Mapping) else _by_directory(list(given.values()))


def _is_tree(value: object) -> bool:
    """Whether it is a DataTree, which is a mapping too."""
    return type(value).__name__ == "DataTree"


def _no_run(name: str, value: object) -> str:
    """What is wrong with something that is given instead of a run, and what to give."""
    if _is_tree(value):
        return f"{name}: is a DataTree of draws, which do not tell log p(x) of held-out data; give the run itself."
    if not isinstance(value, str | Path):
        return f"{name}={value!r}: must be a Run; pyro_vae.load(DIR) opens one."
    at = name if name == str(value) else f"{name}={str(value)!r}"
    if Path(value).suffix == ".nc":
        folder = Path(value).parent
        return f"{at}: holds draws, which do not tell log p(x) of held-out data; give the run directory, {folder}."
    return f"{at}: must be a Run; give pyro_vae.load({str(value)!r})."


def _by_directory(runs: Sequence[Run]) -> dict[str, Run]:
    """The runs, each called by the shortest end of its path that no other has.

    Raises:
        DeclarationError: a directory is given twice.
    """
    parts = [Path(os.path.abspath(run.directory)).parts for run in runs]
    again = sorted({str(run.directory) for run, own in zip(runs, parts, strict=True) if parts.count(own) > 1})
    if again:
        raise DeclarationError([f"{directory}: is given more than once; give it once." for directory in again])

    def shortest(own: tuple[str, ...]) -> str:
        lengths = range(1, len(own) + 1)
        return str(Path(*own[-next(n for n in lengths if sum(other[-n:] == own[-n:] for other in parts) == 1) :]))

    return {shortest(own): run for own, run in zip(parts, runs, strict=True)}


def rows(run: Run, split: str, observations: int | None) -> list[int]:
    """Which data of the split are looked at, rising."""
    if split not in PARTS:
        raise DeclarationError([f"split={split!r}: must be one of {', '.join(PARTS)}."])
    num = len(getattr(run.data, split))
    if num < 2:
        raise DeclarationError([f"split={split!r}: holds {num} data, and a standard error takes two; choose another."])
    if observations is not None and not 2 <= observations <= num:
        raise DeclarationError([f"observations={observations}: must be 2 to {num}, or left out for all {split} data."])
    if observations is None:
        return list(range(num))
    return sorted(torch.randperm(num, generator=torch.Generator().manual_seed(CHOICE))[:observations].tolist())


def misfits(name: str, base: str, runs: Mapping[str, Run], split: str, rows: list[int]) -> list[str]:
    """Why a run does not compare with another, one line each."""
    run, other = runs[name], runs[base]
    variant, likelihood = run.experiment.variant, run.experiment.variant.likelihood
    if not variant.normalized:
        return [f"{name}: {variant.why_unnormalized()}; it has no log p(x) to compare. Leave it out."]
    if name == base or not other.experiment.variant.normalized:
        return []
    found = list[str]()
    ours, theirs = (measured(some.experiment.variant, some.data.conditional_on) for some in (run, other))
    if ours != theirs:
        found.append(f"{name}: measures {ours}, and {base} {theirs}; only like with like compares. Leave one out.")
    kinds, numel = (likelihood, other.experiment.variant.likelihood), math.prod(run.data.shape)
    if run.data.shape == other.data.shape and discrete(kinds[0], numel) != discrete(kinds[1], numel):
        words = [getattr(kind, kind.word) for kind in kinds]
        found.append(
            f"{name}: variant.likelihood={words[0]!r} and {words[1]!r} of {base} are not both probabilities, or both "
            "densities, of every entry of x; their nats do not compare. Train with likelihoods of one kind."
        )
    return found + [f"{name}: {what}" for what in _other_data(run, other, base, split, rows)]


def measured(variant: Variant, conditional_on: tuple[str, ...]) -> str:
    """What log p is of, with the label sites that are given."""
    subject = density_words(variant.density, conditional_on)
    sites = sorted(variant.labels.keys() - variant.missing.keys())
    return f"log p({subject})" + (f" with y = {', '.join(sites)}" if sites else "")


def discrete(likelihood: Any, numel: int) -> tuple[bool, ...]:
    """Whether each entry has a probability and no density."""
    if not isinstance(likelihood, Mixed):
        return (likelihood.discrete,) * numel
    return tuple(part.discrete for part, times in likelihood.groups(numel) for _ in range(times))


def drawn(data: Data) -> str | None:
    """What is drawn at random whenever a datum is looked at.

    `static` binarisation and `missing` have a fixed seed: they are the same in every run.
    """
    if data.binarize == "dynamic":
        return "data.binarize=dynamic"
    return f"data.dequantize=uniform ({data.levels} levels)" if data.dequantize == "uniform" else None


def _other_data(run: Run, other: Run, base: str, split: str, rows: list[int]) -> list[str]:
    """How the data of two runs differ."""
    ours, theirs = getattr(run.data, split), getattr(other.data, split)
    same = f"train both on the same data, treated alike{_seeds(run, other)}."
    if run.data.shape != other.data.shape or len(ours) != len(theirs):
        shapes = [f"{len(part)} of shape {data.shape}" for part, data in ((ours, run.data), (theirs, other.data))]
        return [f"its {split} data are {shapes[0]}, those of {base} {shapes[1]}; {same}"]
    if drawn(run.data) != drawn(other.data):
        words = [drawn(data) or f"data.binarize={data.binarize}" for data in (run.data, other.data)]
        return [f"has {words[0]}, and {base} {words[1]}, which are densities of different x; {same}"]
    unlike = _unlike(run, other, ours, theirs, rows)
    fields = [
        f"data.{field}={a} and {b}"
        for field in ("name", "path", "binarize", "missing", "standardize", "counts", "validation")
        if (a := getattr(run.experiment.data, field, None)) != (b := getattr(other.experiment.data, field, None))
    ]
    why = f" ({', '.join(fields)})" if fields else ""
    return [f"{what} of its {split} data is not that of {base}{why}; {same}" for what in unlike]


def _seeds(run: Run, other: Run) -> str:
    """What the seeds have to do with it: the validation data are drawn with them, and simulated ones."""
    seeds = run.experiment.seed, other.experiment.seed
    return "" if seeds[0] == seeds[1] else f", with the same seed (here {seeds[0]} and {seeds[1]})"


def _unlike(run: Run, other: Run, ours: Split, theirs: Split, rows: list[int]) -> list[str]:
    """What of the data is not the same, exactly: x, what is missing, what is given, labels that are given."""
    found, sites = set[str](), run.experiment.variant.labels.keys() - run.experiment.variant.missing.keys()
    if not _equal(run.data.shown, other.data.shown):
        found.add("the shown part of x")
    for some in torch.tensor(rows).split(ROWS):
        a, b = ours.select(some), theirs.select(some)
        if not torch.equal(_expected(run.data, a.x), _expected(other.data, b.x)):
            found.add("x")
        if not _equal(a.mask, b.mask):
            found.add("what is missing")
        if not _equal(a.given, b.given):
            found.add("what is given (covariates)")
        found |= {f"label {name!r}" for name in sites if not _equal(a.attributes.get(name), b.attributes.get(name))}
    return sorted(found)


def _expected(data: Data, x: Tensor) -> Tensor:
    """x as it is modelled; its mean where it is drawn at random."""
    binarize = "none" if data.binarize == "dynamic" else data.binarize
    return prepare(x, data.levels, binarize, "none", torch.float64)


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two tensors, or their absence, are the same."""
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and torch.equal(a.double(), b.double())
