"""What a page is made of: gathered from a run, which stands above this package and is seen only as `Trained`."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from pyro_vae.data import Data
from pyro_vae.experiment import Experiment
from pyro_vae.latent import Draws, Points, Usage
from pyro_vae.records import PARTS, read_json
from pyro_vae.sites import Batch
from pyro_vae.vae import VAE

MOST_DATA = 600
"""Data in the plane of a report."""
FEW_DATA = 200
"""The same in a notebook, which should stay small."""
DATA_NUMBERS = 800_000
"""Entries of all of them, at most."""
SAMPLES, RECONSTRUCTIONS = 64, 12


class Trained(Protocol):
    """What is asked of a run."""

    directory: Path
    experiment: Experiment

    @property
    def data(self) -> Data: ...  # noqa: D102
    @property
    def vae(self) -> VAE: ...  # noqa: D102
    @property
    def environment(self) -> dict[str, Any]: ...  # noqa: D102
    @property
    def result(self) -> dict[str, Any]: ...  # noqa: D102
    @property
    def metrics(self) -> list[dict[str, Any]]: ...  # noqa: D102
    @property
    def columns(self) -> tuple[str, ...]: ...  # noqa: D102
    def batch(self, part: str = ..., observations: Iterable[int] | None = ...) -> Batch: ...  # noqa: D102
    def locate(self, batch: Batch) -> Points: ...  # noqa: D102
    def usage(self, batch: Batch) -> Usage: ...  # noqa: D102
    def sample(self, num: int = ...) -> tuple[Tensor, Tensor, Tensor]: ...  # noqa: D102
    def reconstruct(self, batch: Batch) -> Draws: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class Shown:
    """What the explorer shows: the model, some data and where they lie in its latent space."""

    vae: VAE
    experiment: Experiment
    data: Data
    part: str
    """The split that the data are of."""
    batch: Batch
    """N data as the model sees them; given and mask too."""
    z: Tensor
    """E[z_1 | x, y] (N, D) of the layer next to the data, y the labels below."""
    labels: Tensor | None
    """The classes (N, sites) that the data are decoded with: known, or the most probable ones."""
    spread: Tensor
    """KL per dimension of that layer (D,), nats; or Var E[z_1 | x], where the KL has no such parts."""
    is_kl: bool
    """Which of both."""
    attributes: dict[str, Tensor]
    """Name -> classes (N,), -1 where unknown."""
    columns: tuple[str, ...]
    """Names of the entries of vectors."""
    title: str


@dataclass(frozen=True, eq=False)
class Material:
    """What a report shows."""

    shown: Shown
    directory: Path
    environment: dict[str, Any]
    card: dict[str, Any]
    metrics: list[dict[str, Any]]
    samples: Tensor
    """E[x | z] of draws from the prior (S, *event)."""
    pairs: tuple[Tensor, Tensor]
    """Data and their reconstructions, (R, *event) each."""
    diagnostics: dict[str, Any] | None
    """diagnostics.json, if there is one."""
    figures: dict[str, Path]
    """Name -> PNG of the diagnosis."""


def gather(run: Trained) -> Material:
    """What a report of a run shows."""
    card = run.result  # first: without it there is no report
    found = shown(run, MOST_DATA)
    few = found.batch.map(lambda tensor: tensor[:RECONSTRUCTIONS])
    path, plots = run.directory / "diagnostics.json", run.directory / "plots"
    diagnostics = read_json(path) if path.is_file() else None
    return Material(
        found,
        run.directory,
        run.environment,
        card,
        run.metrics,
        run.sample(SAMPLES)[1].cpu(),
        (cast(Tensor, few.x).cpu(), run.reconstruct(few).x_mean[0].cpu()),
        diagnostics,
        {path.stem: path for path in sorted(plots.glob("*.png"))} if diagnostics else {},
    )


def shown(run: Trained, most: int) -> Shown:
    """What the explorer of a run shows, of at most so many data."""
    data, vae = run.data, run.vae
    part = next(part for part in reversed(PARTS) if len(getattr(data, part)))
    per_datum = math.prod(vae.shape.x) + 2 * vae.shape.given
    num = min(len(getattr(data, part)), most, max(16, DATA_NUMBERS // per_datum))
    batch = run.batch(part, range(num))
    points, kl = run.locate(batch), run.usage(batch.map(lambda tensor: tensor[:FEW_DATA])).kl
    z, widths = points.z, [label.classes for label in vae.variant.labels.values()]
    labels = None if points.y is None else torch.stack([y.argmax(-1) for y in points.y.split(widths, -1)], -1)
    own = None if kl is None else kl.mean(0)[: z.shape[1]]  # the layers stand side by side, that of the decoder first
    is_kl = own is not None and bool(own.isfinite().all())
    return Shown(
        vae=vae,
        experiment=run.experiment,
        data=data,
        part=part,
        batch=batch,
        z=z.cpu(),
        labels=None if labels is None else labels.cpu(),
        spread=(own if own is not None and is_kl else z.var(0, correction=0)).cpu(),
        is_kl=is_kl,
        attributes={name: y[:num].cpu() for name, y in getattr(data, part).attributes.items()},
        columns=run.columns,
        title=f"{run.environment['name']} on {data.name}",
    )
