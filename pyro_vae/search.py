"""What a sweep is declared as: an experiment, and a `sweep` section with the space that trials are drawn from.

    base: vae-bernoulli                                  # a named variant or a file; further sections change it
    sweep:
      space:
        variant.latent.dim: {kind: int, low: 2, high: 64, log: true}
        training.optimizer.learning_rate: {kind: float, low: 1e-4, high: 1e-2, log: true}
        variant.prior: {kind: choice, values: [standard_normal, vamp, {kind: flow}]}
      trials: 20
      sampler: tpe
      pruner: median

Ranges, samplers and pruners are Optuna's, under its names. What is drawn becomes `field=value` overrides of the
experiment, so that a trial is an ordinary run.
"""

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from pyro_vae.experiment import Experiment, declaration_from, experiment_from, source_tree
from pyro_vae.files import Tree, override
from pyro_vae.ranges import RANGES, Range, optuna_package
from pyro_vae.specs import Count, DeclarationError, OneOf, Part, Spec, Table

if TYPE_CHECKING:
    import optuna

CORNERS = 100
"""Combinations of the ends of ranges that are checked before the first trial, at most."""
MAX_GRID = 100_000


class Sampler(Part):
    """How the values of a trial are drawn; abstract."""

    def build(self, seed: int) -> "optuna.samplers.BaseSampler":
        """Optuna's sampler for one trial."""
        raise NotImplementedError


class TPE(Sampler):
    """Tree-structured Parzen estimator: values that were good are drawn more often (Bergstra et al., 2011)."""

    kind: Literal["tpe"] = "tpe"
    startup_trials: Count = 10
    """Trials at random before the first that looks at others."""

    def build(self, seed: int) -> "optuna.samplers.BaseSampler":
        """The sampler, seeded."""
        return optuna_package().samplers.TPESampler(n_startup_trials=self.startup_trials, seed=seed)


class RandomSearch(Sampler):
    """Every trial at random."""

    kind: Literal["random"] = "random"

    def build(self, seed: int) -> "optuna.samplers.BaseSampler":
        """The sampler, seeded."""
        return optuna_package().samplers.RandomSampler(seed=seed)


class Grid(Sampler):
    """Every combination once; the last field of the space changes fastest."""

    kind: Literal["grid"] = "grid"

    def build(self, seed: int) -> "optuna.samplers.BaseSampler":
        """A sampler that has nothing to do: the combinations are given to the study as they are."""
        return optuna_package().samplers.RandomSampler(seed=seed)


SAMPLERS: Table[Sampler] = Table("sampler", Sampler, TPE, RandomSearch, Grid)


class Pruner(Part):
    """When a trial is ended early, by the scores of its epochs; abstract."""

    def build(self, epochs: int) -> "optuna.pruners.BasePruner":
        """Optuna's pruner for trainings of at most `epochs`."""
        raise NotImplementedError


class MedianRule(Pruner):
    """Ends a trial whose best score so far is below the median of the others' at the same epoch."""

    kind: Literal["median"] = "median"
    startup_trials: Annotated[int, Field(ge=0)] = 5
    """Trials that are completed before the first is ended."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs of each trial before it can be ended."""

    def build(self, epochs: int) -> "optuna.pruners.BasePruner":
        """The pruner."""
        # Optuna lets pass what is below n_warmup_steps, and the first epoch is 1.
        return optuna_package().pruners.MedianPruner(self.startup_trials, n_warmup_steps=self.warmup_epochs + 1)


class Hyperband(Pruner):
    """Successive halving with several budgets of epochs (Li et al., 2018)."""

    kind: Literal["hyperband"] = "hyperband"
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """One of so many trials goes on at each rung."""

    def build(self, epochs: int) -> "optuna.pruners.BasePruner":
        """The pruner."""
        return optuna_package().pruners.HyperbandPruner(1, epochs, self.reduction_factor)


class NoPruner(Pruner):
    """Every trial is trained to its end."""

    kind: Literal["none"] = "none"

    def build(self, epochs: int) -> "optuna.pruners.BasePruner":
        """The pruner."""
        return optuna_package().pruners.NopPruner()


PRUNERS: Table[Pruner] = Table("pruner", Pruner, MedianRule, Hyperband, NoPruner)


class Search(Spec):
    """The section `sweep` of a file: what is varied, how often, and how."""

    space: dict[str, Annotated[Range, OneOf(RANGES, "choice")]]
    """Dotted field of the experiment -> range of its values."""
    trials: Count | None = None
    """Trials in all, by all workers; 20 by default, all combinations of a grid."""
    sampler: Annotated[Sampler, OneOf(SAMPLERS, "tpe")] = TPE()
    """How the values of a trial are drawn."""
    pruner: Annotated[Pruner, OneOf(PRUNERS, "median")] = MedianRule()
    """When a trial is ended early."""

    @model_validator(mode="after")
    def _fits(self) -> "Search":
        if not self.space:
            raise ValueError("space: is empty; name a field, like variant.latent.dim: {kind: int, low: 2, high: 64}")
        found, paths = [], [self.path(name) for name in self.space]
        for name, path in zip(self.space, paths, strict=True):
            if paths.count(path) > 1 and name != ".".join(path):
                found.append(f"space.{name}: is {'.'.join(path)}, which is there too; leave one out")
            if path[0] in FIXED:
                found.append(f"space.{name}: {FIXED[path[0]]}")
        if isinstance(self.sampler, Grid):
            found += self._grid_misfits()
        if found:
            raise ValueError("\n".join(found))
        return self

    def _grid_misfits(self) -> list[str]:
        advice = "a grid takes steps: a choice, or an int or float with a step and without log"
        found = [f"space.{name}: has no steps; {advice}" for name, some in self.space.items() if some.grid() is None]
        if self.trials is not None:
            found.append(
                f"trials={self.trials}: has no effect on a grid, which takes every combination once; leave it out"
            )
        if not found and self.size > MAX_GRID:
            found.append(
                f"sampler: {self.size} combinations of the grid, at most {MAX_GRID}; take fewer values, or random"
            )
        return found

    @staticmethod
    def path(name: str) -> list[str]:
        """The keys of a field, with `variant` where that was left out."""
        path = name.split(".")
        return path if path[0] in Experiment.model_fields else ["variant", *path]

    @property
    def size(self) -> int:
        """Number of combinations of a grid."""
        return math.prod(len(some.grid() or ()) for some in self.space.values())

    @property
    def number(self) -> int:
        """Trials in all."""
        if isinstance(self.sampler, Grid):
            return self.size
        return self.trials or 20

    def combination(self, number: int) -> dict[str, Any]:
        """The values of trial `number` of a grid, as Optuna keeps them.

        >>> space = {"latent.dim": {"values": [1, 2]}, "latent.kind": {"values": ["continuous", "categorical"]}}
        >>> Search(space=space, sampler="grid").combination(1)
        {'latent.dim': '1', 'latent.kind': 'categorical'}
        """
        found = {}
        for name, some in reversed(self.space.items()):
            values = some.grid() or []
            number, i = divmod(number, len(values))
            found[name] = some.stored(values[i])
        return dict(reversed(found.items()))

    def suggest(self, trial: "optuna.Trial") -> dict[str, Any]:
        """A value for each field, drawn by the sampler of the study; the same values whenever it is asked again."""
        return {name: some.suggest(trial, name) for name, some in self.space.items()}

    def corners(self) -> Iterator[dict[str, Any]]:
        """Combinations of the ends of the ranges: all of them where these are few, otherwise some with each end."""
        ends = {name: some.ends() for name, some in self.space.items()}
        if math.prod(map(len, ends.values())) <= CORNERS:
            for values in itertools.product(*ends.values()):
                yield dict(zip(ends, values, strict=True))
            return
        generator = random.Random(0)
        some = [(name, value) for name, values in ends.items() for value in values]
        for i in range(max(CORNERS, len(some))):
            name, value = some[i % len(some)]
            yield {other: generator.choice(values) for other, values in ends.items()} | {name: value}


class Sweep(Experiment):
    """An experiment and what of it is varied: everything a sweep needs."""

    sweep: Search
    """What is varied, how often, and how."""

    @model_validator(mode="after")
    def _every_trial_is_an_experiment(self) -> "Sweep":
        problems: dict[str, None] = {}
        for values in self.sweep.corners():
            try:
                self.experiment(values)
            except DeclarationError as error:
                problems |= dict.fromkeys(f"sweep.space: {problem}" for problem in error.problems)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @cached_property
    def _fixed(self) -> Tree:
        """The experiment alone, as a tree."""
        return Experiment(**{name: getattr(self, name) for name in Experiment.model_fields}).tree()

    def experiment(self, values: Mapping[str, Any]) -> Experiment:
        """The experiment of a trial.

        Args:
            values: field of the space -> value.

        Raises:
            DeclarationError: it is none, with the values that make it so.
        """
        # A field that holds others comes before them: `variant.prior`, then `variant.prior.components`.
        order = sorted(values, key=lambda name: len(Search.path(name)))
        return experiment_from(self._fixed, [f"{name}={json.dumps(values[name])}" for name in order])


FIXED = {
    "data": "a sweep picks by the score of the same data, treated alike; set data for all, and make a sweep for each",
    "seed": "a sweep picks by the score of the same data, and the validation data depend on the seed; set it for all. "
    "How much a result depends on the seed, runs of the same experiment with several seeds tell",
}
"""Fields that are the same in all trials, and why."""


def load_sweep(source: str, overrides: Sequence[str] = ()) -> Sweep:
    """A sweep from a YAML file, with `key=value` overrides.

    Args:
        source: path of the file.
        overrides: assignments like "training.epochs=20" or "sweep.trials=50".

    Raises:
        DeclarationError: everything that is wrong with it.
    """
    tree = source_tree(source)
    base = tree.pop("base", None)
    if base is not None:
        tree = _based(tree, base, source)
    return declaration_from(Sweep, tree, overrides)


def _based(tree: Tree, base: Any, source: str) -> Tree:
    """The tree of `base`, changed by what the file says itself."""
    if not isinstance(base, str):
        raise DeclarationError([f"{source}: base={json.dumps(base)}: must be a named variant or the path of a file."])
    beside = Path(source).parent / base
    under = source_tree(str(beside) if beside.is_file() else base)
    if {"base", "sweep"} & under.keys():
        raise DeclarationError([f"{source}: base={base}: is a sweep itself; name an experiment."])
    section = {"sweep": tree.pop("sweep")} if "sweep" in tree else {}
    return override(under, _assignments(tree), Sweep) | section


def _assignments(tree: Tree, path: str = "") -> Iterator[str]:
    """A tree as overrides, the word of a part before its other keys."""
    for key in sorted(tree, key=lambda key: key not in ("kind", "name")):
        value = tree[key]
        if isinstance(value, dict) and value:
            yield from _assignments(value, f"{path}{key}.")
        else:
            yield f"{path}{key}={json.dumps(value)}"
