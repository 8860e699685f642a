"""`diagnose`: every diagnostic of a run in one call, saved and in plain words.

DIR/posterior.nc        the draws, as an ArviZ DataTree: of the guide, resampled, by HMC, of the prior, replicates
DIR/diagnostics.json    every number, and the verdict
DIR/plots/              the figures
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae import diagnosis_figures, inference_data, plots
from pyro_vae.diagnosis.everything import Findings, Material, examine
from pyro_vae.diagnosis.report import Convergence, label_numbers, numbers
from pyro_vae.diagnosis.verdict import Statement, overall, verdict
from pyro_vae.diagnostics.importance import effective_sample_size
from pyro_vae.diagnostics.predictive import Quantity, nearest_neighbour, quantities
from pyro_vae.diagnostics.psis import pareto_khat, resampled
from pyro_vae.distributed import ALONE, World
from pyro_vae.latent import LatentDraws, side_by_side
from pyro_vae.networks import fill
from pyro_vae.posterior import attributes, posterior_draws
from pyro_vae.records import versions, write_json
from pyro_vae.runs import Run
from pyro_vae.specs import DeclarationError

if TYPE_CHECKING:
    import xarray

OBSERVATIONS = 16
"""Data that are looked at one by one, at most, where not said otherwise."""
MOST_OBSERVATIONS = 100
HELD_OUT = 2000
"""Data of the split, at random, behind what is said of all of them."""
REFINED = 32
"""Data of the split, and of the training data, whose guide is refined."""
NEIGHBOURS = 5000
"""Training data, at random, among which the nearest is sought."""
REPLICATED = 2**22
"""Numbers in the replicates that are kept, at most: 16 MB."""
DRAWN = 2**25
"""Latents that are drawn, at most: 128 MB in float32, a few times over."""
RESAMPLED = 1000


@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis:
    """What `diagnose` found; printed, it is the verdict."""

    numbers: dict[str, Any]
    """Every number, as in diagnostics.json."""
    statements: list[Statement]
    """The verdict."""
    tree: "xarray.DataTree"
    """The draws, as in posterior.nc."""
    figures: dict[str, Any]
    """Name -> matplotlib figure, as in plots/."""
    findings: Findings
    """What the numbers were made of."""
    directory: Path | None
    """Where they were saved."""

    @property
    def overall(self) -> str:
        """The verdict in a sentence."""
        return overall(self.statements)

    def __str__(self) -> str:
        lines = []
        for statement in self.statements:
            lines += [f"[{statement.level}] {statement.question}", f"    {statement.text}"]
            lines += [f"    Try: {statement.advice}."] if statement.advice else []
        return "\n".join([*lines, self.overall])

    def __repr__(self) -> str:
        return f"<Diagnosis: {self.overall}>\n{self}"


def diagnose(
    run: Run,
    observations: Iterable[int] | None = None,
    num_draws: int = 1000,
    budget: float = 100.0,
    split: str = "test",
    test_quantities: Mapping[str, Quantity] | None = None,
    save: bool = True,
    progress: Callable[[str], object] = lambda title: None,
    world: World = ALONE,
) -> Diagnosis:
    """Is the posterior of a run any good?

    Args:
        run: a trained run.
        observations: indices of data of the split whose posterior is looked at one by one, at most 100; by default the
            first 16.
        num_draws: S, draws of the guide for each of them, at least 100.
        budget: seconds that the diagnostics may take, together; less time means fewer data and draws, and what does
            not fit at all is left out, and said.
        split: "train", "validation" or "test".
        test_quantities: your own test quantities beside the usual ones: name -> function from data (M, *event) to
            numbers (M,).
        save: whether to write posterior.nc, diagnostics.json and plots/ into the run directory.
        progress: called with the title of each section before it.
        world: the processes that share the work, if several; the first one calls this, the others `assist`.

    Returns:
        `Diagnosis`: print it.

    Raises:
        DeclarationError: an argument is not what it must be.

    Example:
        >>> import pyro_vae as pv
        >>> print(pv.diagnose(pv.load("runs/digits-20260101-120000")))          # doctest: +SKIP
    """
    run.check_split(split)
    size = len(getattr(run.data, split))
    chosen = list(range(min(OBSERVATIONS, size)) if observations is None else observations)
    _check(chosen, num_draws, budget, sum(run.experiment.variant.layers.values()))
    with run.seeded():
        material = _material(run, split, chosen, test_quantities or {})._replace(world=world)
        found = examine(material, budget, progress)
        tree, guide, psir = _tree(run, material, found, chosen, num_draws, split)
    chains = _convergence(found)
    sections = numbers(found, _moments(guide), chains) | _label_numbers(material, found)
    statements = verdict(sections, found.skipped)
    made = _facts(run, chosen, split, budget) | {
        "sizes": found.sizes,
        "seconds": found.seconds,
        "skipped": found.skipped,
        "sections": sections,
        "verdict": {"overall": overall(statements), "statements": [s._asdict() for s in statements]},
    }
    names = [f"{site}_{i}" for site, dim in run.experiment.variant.layers.items() for i in range(dim)]
    title, draws = f"{run.experiment.data.name}, {split}", side_by_side(guide.z).cpu()
    figures = diagnosis_figures.figures(found, sections, draws, names, chosen, title, psir, chains)
    if save:
        inference_data.save(tree, run.directory / "posterior.nc")
        write_json(run.directory / "diagnostics.json", made)
        (run.directory / "plots").mkdir(exist_ok=True)
        for name, figure in figures.items():
            plots.save(figure, run.directory / "plots" / f"{name}.png")
    return Diagnosis(made, statements, tree, figures, found, run.directory if save else None)


def assist(run: Run, observations: Iterable[int], budget: float, split: str, world: World) -> None:
    """The part of another process than the first in a diagnosis; the arguments are those of `diagnose`."""
    with run.seeded(world.seed(run.experiment.seed)):
        examine(_material(run, split, list(observations), {})._replace(world=world), budget)


def _check(observations: list[int], num_draws: int, budget: float, dims: int) -> None:
    problems = []
    if not 1 <= len(observations) <= MOST_OBSERVATIONS:
        problems.append(f"observations: are {len(observations)}; must be 1 to {MOST_OBSERVATIONS} indices.")
    if len(set(observations)) < len(observations):
        problems.append(f"observations={observations}: name one twice; name each once.")
    if not 100 <= num_draws <= 100_000:
        problems.append(f"draws={num_draws}: must be from 100 to 100,000.")
    numbers = num_draws * len(observations) * dims
    if not problems and numbers > DRAWN:
        most = max(100, DRAWN // (len(observations) * dims))
        problems.append(
            f"draws={num_draws}, of {len(observations)} observations with {dims} latent dimensions: do not fit into "
            f"memory; take at most {most} draws, or fewer observations."
        )
    if not 1 <= budget < float("inf"):
        problems.append(f"budget={budget}: must be 1 second or more.")
    if problems:
        raise DeclarationError(problems)


def _material(run: Run, split: str, chosen: list[int], own: Mapping[str, Quantity]) -> Material:
    """The data that are looked at, some of them at random."""
    some = _some(len(getattr(run.data, split)), HELD_OUT, run.experiment.seed)
    held_out = run.batch(split, some)
    attributes = getattr(run.data, split).attributes
    # A label that is never observed is a class of the model's own: it has no name in the data.
    sites = [name for name, label in run.experiment.variant.labels.items() if label.observed != "never"]
    labels = {name: attributes[name][some] for name in sites if name in attributes}
    batches = {split: held_out.map(lambda tensor: tensor[:REFINED])}
    training = len(run.data.train)
    if split != "train" and training:
        batches["train"] = run.batch("train", _some(training, REFINED, run.experiment.seed))
    usual = quantities(tuple(run.vae.shape.x), run.data.support == "counts")
    if split != "train" and training > 1:
        near = run.batch("train", _some(training, NEIGHBOURS, run.experiment.seed + 1))
        usual["nearest_neighbour"] = nearest_neighbour(fill(near.x, near.mask))  # type: ignore[arg-type]
    return Material(run.vae, run.batch(split, chosen), held_out, batches, labels, usual | dict(own))


def _some(size: int, most: int, seed: int) -> list[int]:
    """Numbers of some data, at random."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(size, generator=generator)[:most].tolist()


def _tree(
    run: Run, material: Material, found: Findings, chosen: list[int], num_draws: int, split: str
) -> tuple["xarray.DataTree", LatentDraws, Tensor | None]:
    """The draws as an ArviZ tree; those of the guide, and those of the latents resampled by importance (R, B, D)."""
    batch, variant = material.observed, run.experiment.variant
    kept = max(1, REPLICATED // (batch.size * run.vae.numel))
    tree, draws = posterior_draws(
        run.vae, batch, getattr(run.data, split), chosen, num_draws, attributes(run.experiment, split), kept
    )
    extra, psir = dict[str, Any](), None
    if variant.normalized:
        log_w = (draws.log_p - draws.log_q).double().cpu()
        extra |= {"khat": pareto_khat(log_w), "effective": effective_sample_size(log_w)}
        extra["resampled"] = again = _resampled(draws, log_w, min(num_draws, RESAMPLED), run.experiment.seed)
        psir = side_by_side({name: again[name] for name in draws.z}).cpu()
    if found.reference is not None:
        hmc = found.reference.hmc
        extra["hmc"] = {name: z.movedim(0, 1) for name, z in found.reference.z.items()}
        extra["hmc_stats"] = {
            "lp": hmc.log_density.movedim(0, 1),
            "energy": hmc.energy.movedim(0, 1),
            "acceptance_rate": hmc.acceptance.movedim(0, 1),
            "diverging": hmc.divergent.movedim(0, 1),
            "step_size": hmc.step_size[:, None].expand(-1, len(hmc.z), -1),
        }
    if found.calibration is not None:
        extra["calibration"] = found.calibration.pit()
    return inference_data.add_diagnosis(tree, **extra), draws, psir


def _resampled(draws: LatentDraws, log_w: Tensor, num: int, seed: int) -> dict[str, Tensor]:
    """Draws of latents and labels by importance resampling (R, N, ...)."""
    chosen = torch.as_tensor(resampled(log_w, num, seed), device=draws.log_p.device)
    data = torch.arange(chosen.shape[1], device=chosen.device)
    return {name: values[chosen, data] for name, values in {**draws.z, **draws.y}.items()}


def _convergence(found: Findings) -> Convergence | None:
    """What ArviZ says of the HMC draws."""
    if found.reference is None:
        return None
    draws = side_by_side(found.reference.z).double().cpu().movedim(0, 1)
    return Convergence(**{name: torch.as_tensor(v) for name, v in inference_data.convergence(draws).items()})


def _moments(guide: LatentDraws) -> tuple[Tensor, Tensor]:
    """Mean and sd of the guide's draws (B, D)."""
    z = side_by_side(guide.z).double().cpu()
    return z.mean(0), z.std(0)


def _label_numbers(material: Material, found: Findings) -> dict[str, Any]:
    """Reliability of p(y | x) of each label site that some data know."""
    if found.labels is None:
        return {}
    sites = {}
    for site, known in material.labels.items():
        p = found.labels.marginal(site)
        if bool((known[: len(p)] >= 0).any()):
            sites[site] = label_numbers(p, known[: len(p)])
    return {"labels": sites} if sites else {}


def _facts(run: Run, chosen: list[int], split: str, budget: float) -> dict[str, Any]:
    """What the numbers are of."""
    return {
        "variant": run.environment["name"],
        "data": run.data.name,
        "split": split,
        "density": run.experiment.variant.density,
        "conditional_on": list(run.data.conditional_on),
        "observations": chosen,
        "unit": "nats per datum, where not said otherwise; standard errors over data",
        "budget": budget,
        "seed": run.experiment.seed,
        "versions": versions(),
    }
