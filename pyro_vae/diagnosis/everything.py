"""Every diagnostic of one trained VAE, as much of each as fits a budget.

Each section gets its share of the time that is left; what it does not use goes to the next. What cannot be done, for
this variant or for lack of time, is said.

Several processes share the data of the sections that look at one datum after the other; the first one alone does what
needs all data at once, or little time: calibration, the aggregate posterior, predictive checks, labels.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from pyro_vae.classification import LabelScores, score_labels
from pyro_vae.diagnosis import suboptimality
from pyro_vae.diagnosis.aggregate import Aggregate, aggregate_posterior
from pyro_vae.diagnosis.bounds import Estimate, Sandwich, annealed_log_likelihood, bidirectional
from pyro_vae.diagnosis.calibration import Calibration, calibrate
from pyro_vae.diagnosis.importance import Importance, importance_weights
from pyro_vae.diagnosis.joint import check_continuous
from pyro_vae.diagnosis.pace import Pace, TooLittle, fitting, measured
from pyro_vae.diagnosis.reference import Reference, joined_references, reference_posterior
from pyro_vae.diagnosis.replication import Check, check_predictive
from pyro_vae.diagnosis.simulation import simulate
from pyro_vae.diagnosis.suboptimality import Gaps, inference_gaps
from pyro_vae.diagnostics.predictive import Quantity
from pyro_vae.distributed import ALONE, World
from pyro_vae.latent.usage import PARTICLES
from pyro_vae.sites import Batch
from pyro_vae.specs import DeclarationError
from pyro_vae.vae import VAE

KHAT_DRAWS = 2000
"""Draws behind each k-hat, whose standard deviation is then about 0.11."""
CHAINS = 4
"""HMC chains of each datum."""
LEAPFROGS = 10
"""Steps of a trajectory, reckoned with."""
ANNEALED_CHAINS = 16
"""Chains of each datum in annealed importance sampling."""
ANNEALED_STEPS = 5
"""Leapfrog steps at each temperature."""
SIMULATED = 16
"""Simulated data between the two sides of bidirectional Monte Carlo."""
RANKED = 199
"""Draws among which each simulated latent is ranked."""
REPLICATES = 100
"""Replicates of each datum."""
GENERATED = 1000
"""Data generated from the prior."""
LEAST = 0.02
"""Share of the budget that every section has, even where those before it took longer than they should."""
LABEL_SAMPLES = 100
"""Importance samples behind p(x | y) of each datum and label."""


def side_by_side[T](found: list[T]) -> T:
    """What was found of several parts of the data, one after the other in the last dimension of its tensors."""
    trees = [tree_flatten(part) for part in found]
    leaves = zip(*(leaves for leaves, _ in trees), strict=True)
    joined = [None if parts[0] is None else torch.cat(parts, -1) for parts in leaves]
    return cast(T, tree_unflatten(joined, trees[0][1]))


class Material(NamedTuple):
    """What a diagnosis looks at."""

    vae: VAE
    observed: Batch
    """Data whose posterior is looked at one by one."""
    held_out: Batch
    """Some data of the split, at random: up to some thousands."""
    refined: dict[str, Batch]
    """Split -> a few of its data, at random, whose guide is refined: the split itself and the training data."""
    labels: dict[str, Tensor]
    """Label site -> known classes of `held_out` (N,), -1 where unknown."""
    quantities: Mapping[str, Quantity]
    """Test quantities."""
    world: World = ALONE
    """The processes that look together."""

    def rows(self, num: int) -> int:
        """How many of `num` data this process looks at, at most."""
        return -(-num // self.world.size)

    def shared[T](self, batch: Batch, function: Callable[[Batch], T], join: Callable[[list[T]], T] = side_by_side) -> T:
        """What a function says of data, each process asking about its part of them."""
        part = self.world.part(batch.size)
        mine = function(batch.map(lambda tensor: tensor[part.start : part.stop])) if len(part) else None
        found = [parts for parts in self.world.gather(mine) if parts is not None]
        return found[0] if len(found) == 1 else join(found)


@dataclass
class Findings:
    """What was found; None where nothing could be, see `skipped`."""

    importance: Importance | None = None
    """Of `held_out`, as many as fitted."""
    observed_importance: Importance | None = None
    """Of `observed`."""
    reference: Reference | None = None
    """HMC of `observed`."""
    annealed: Estimate | None = None
    """AIS of `observed`."""
    sandwich: Sandwich | None = None
    """Both sides, of simulated data."""
    gaps: dict[str, Gaps] | None = None
    """Split -> gaps."""
    calibration: Calibration | None = None
    aggregate: Aggregate | None = None
    checks: dict[str, Check] | None = None
    labels: LabelScores | None = None
    """p(y | x) of `held_out`, as many as fitted."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Section -> why it was left out."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Section -> time it took."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Section -> the size that was chosen."""


class Section(NamedTuple):
    """One question."""

    name: str
    title: str
    share: float
    """Of the time, relative to the others."""
    why_not: Callable[[Material], str | None]
    """Why it has no answer for a variant; empty where it has one, None where there is nothing to ask."""
    answer: Callable[[Material, Pace, float], tuple[int, dict[str, Any]]]
    """(material, pace, seconds) -> the size chosen, and fields of `Findings`."""
    together: bool = True
    """Whether several processes share the data; otherwise the first one does it alone."""


def examine(
    material: Material,
    budget: float,
    progress: Callable[[str], object] = lambda title: None,
    pace: Pace | None = None,
) -> Findings:
    """Ask everything that fits.

    Args:
        material: the model and data.
        budget: seconds for all sections together; a section that has begun is finished.
        progress: called with the title of each section before it.
        pace: what the model is reckoned to take, timed by default.

    Returns:
        `Findings`.
    """
    start, found, world = time.perf_counter(), Findings(), material.world
    pace = pace or world.once(lambda: measured(material.vae, material.observed))
    left = sum(section.share for section in SECTIONS)
    found.seconds["timing"] = time.perf_counter() - start
    for section in SECTIONS:
        began = time.perf_counter()
        why_not = section.why_not(material)
        # Clocks differ, and all shall choose the same sizes.
        seconds = world.gather(max(LEAST * budget, (budget - (began - start)) * section.share / left))[0]
        left -= section.share
        if why_not is None or not (section.together or world.first):
            continue
        if not why_not:
            progress(section.title)
            try:
                found.sizes[section.name], answers = section.answer(material, pace, seconds)
                for name, value in answers.items():
                    setattr(found, name, value)
            except TooLittle as little:
                why_not = str(little)
        if why_not:
            found.skipped[section.name] = why_not
        else:
            found.seconds[section.name] = time.perf_counter() - began
    return found


def _first(batch: Batch, num: int) -> Batch:
    return batch.map(lambda tensor: tensor[:num])


def _always(_: Material) -> str:
    return ""


def _without_density(m: Material) -> str:
    variant = m.vae.variant
    return "" if variant.normalized else f"{variant.why_unnormalized()}: there is no log p(x)"


def _without_posterior(m: Material) -> str:
    if not m.vae.variant.likelihood.normalized:
        return "its likelihood is declared unnormalised: there is no posterior"
    return _refusal(lambda: check_continuous(m.vae))


def _without_gaps(m: Material) -> str:
    return _refusal(lambda: suboptimality.check_refinable(m.vae))


def _refusal(check: Callable[[], None]) -> str:
    """What a check says, without the field that it names."""
    try:
        check()
    except DeclarationError as error:
        return error.problems[0].partition(": ")[2]
    return ""


def _without_labels(m: Material) -> str | None:
    if not m.vae.variant.labels:
        return None
    if not any(bool((known >= 0).any()) for known in m.labels.values()):
        return "no label is known"
    return _without_density(m)


def _importance(m: Material, pace: Pace, seconds: float) -> tuple[int, dict[str, Any]]:
    size, few = m.held_out.size, m.observed.size
    num = fitting(seconds, lambda n: 1.2 * pace.density(m.rows(n + few) * KHAT_DRAWS), min(50, size), min(1000, size))

    def weights(part: Batch) -> Importance:
        return importance_weights(m.vae, part, KHAT_DRAWS)

    some = _first(m.held_out, num)
    return num, {"observed_importance": m.shared(m.observed, weights), "importance": m.shared(some, weights)}


def _reference(m: Material, pace: Pace, seconds: float) -> tuple[int, dict[str, Any]]:
    step = pace.slope(CHAINS * m.rows(m.observed.size))
    num = fitting(seconds, lambda n: 1.5 * n * LEAPFROGS * step, 150, 1000)

    def reference(part: Batch) -> Reference:
        return reference_posterior(m.vae, part, num, num // 2, CHAINS)

    return num, {"reference": m.shared(m.observed, reference, lambda found: joined_references(m.vae, found))}


def _annealed(m: Material, pace: Pace, seconds: float) -> tuple[int, dict[str, Any]]:
    num = fitting(seconds, lambda n: _annealing_cost(n, pace, m.rows(m.observed.size), 1), 50, 1000)

    def annealed(part: Batch) -> Estimate:
        return annealed_log_likelihood(m.vae, part, num, ANNEALED_CHAINS, ANNEALED_STEPS)

    return num, {"annealed": m.shared(m.observed, annealed)}


def _sandwich(m: Material, pace: Pace, seconds: float) -> tuple[int, dict[str, Any]]:
    num = fitting(seconds, lambda n: _annealing_cost(n, pace, m.rows(SIMULATED), 2), 50, 1000)

    def sandwich(part: Batch) -> Sandwich:
        simulated = simulate(m.vae, part, part.size)
        return bidirectional(m.vae, simulated, num, ANNEALED_CHAINS, ANNEALED_STEPS)

    turn = torch.arange(SIMULATED) % m.held_out.size
    like = m.held_out.map(lambda tensor: tensor[turn.to(tensor.device)])
    return num, {"sandwich": m.shared(like, sandwich)}


def _annealing_cost(temperatures: int, pace: Pace, data: int, ways: int) -> float:
    """Seconds of a pilot and `ways` runs."""
    once = pace.slope(4 * data) + ways * pace.slope(ANNEALED_CHAINS * data)
    return 1.3 * temperatures * ANNEALED_STEPS * once


def _gaps(m: Material, pace: Pace, seconds: float) -> tuple[int, dict[str, Any]]:
    rows = max(m.rows(batch.size) for batch in m.refined.values())
    draws, step = 3 * suboptimality.EVALUATION_DRAWS * pace.forward[1], 2.5 * pace.slope(suboptimality.DRAWS * rows)
    num = fitting(seconds, lambda n: len(m.refined) * (n * step + draws * rows), 100, 500)

    def gaps(part: Batch) -> Gaps:
        return inference_gaps(m.vae, part, num)

    return num, {"gaps": {name: m.shared(batch, gaps) for name, batch in m.refined.items()}}


def _calibration(m: Material, pace: Pace, seconds: float) -> tuple[int, dict[str, Any]]:
    num = fitting(seconds, lambda n: 1.5 * pace.density(2 * n * RANKED), 200, 1000)
    return num, {"calibration": calibrate(m.vae, m.held_out, num, RANKED)}


def _aggregate(m: Material, pace: Pace, seconds: float) -> tuple[int, dict[str, Any]]:
    size, b = m.held_out.size, pace.forward[1]
    num = fitting(seconds, lambda n: b * n * PARTICLES * 2 + 0.25 * b * n * n, min(200, size), min(2000, size))
    return num, {"aggregate": aggregate_posterior(m.vae, _first(m.held_out, num))}


def _checks(m: Material, pace: Pace, seconds: float) -> tuple[int, dict[str, Any]]:
    size = m.held_out.size
    num = fitting(seconds, lambda n: 2 * pace.density(n * REPLICATES + GENERATED), min(20, size), min(200, size))
    some = _first(m.held_out, num)
    return num, {"checks": check_predictive(m.vae, some, m.quantities, REPLICATES, GENERATED)}


def _labels(m: Material, pace: Pace, seconds: float) -> tuple[int, dict[str, Any]]:
    size, cells = m.held_out.size, 1
    for label in m.vae.variant.labels.values():
        cells *= label.classes
    rows = LABEL_SAMPLES * cells // m.vae.variant.cells
    num = fitting(seconds, lambda n: 1.5 * pace.density(n * rows), min(50, size), min(1000, size))
    return num, {"labels": score_labels(m.vae, _first(m.held_out, num), LABEL_SAMPLES)}


SECTIONS = (
    Section("importance", "k-hat and log p(x) by importance sampling", 5, _without_density, _importance),
    Section("reference", "reference posterior by HMC", 5, _without_posterior, _reference),
    Section("annealing", "log p(x) by annealed importance sampling", 4, _without_posterior, _annealed),
    Section("bidirectional", "log p(x) of simulated data from both sides", 3, _without_posterior, _sandwich),
    Section("gaps", "approximation and amortisation gap", 5, _without_gaps, _gaps),
    Section("calibration", "simulation-based calibration", 3, _without_density, _calibration, together=False),
    Section("aggregate", "aggregate posterior", 2, _always, _aggregate, together=False),
    Section("predictive", "predictive checks", 2, _always, _checks, together=False),
    Section("labels", "reliability of p(y | x)", 1, _without_labels, _labels, together=False),
)
"""In this order, the most telling first."""
