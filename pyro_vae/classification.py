"""Labels and data by Bayes' rule, from the model itself: for any variant that has label sites.

    log p^(x | y) = log 1/K sum_k p(x, z_k | y) / q(z_k | x, y),    z_k ~ q(z | x, y)
    p(y | x) = p(y) p(x | y) / sum_y' p(y') p(x | y')                the labels compete for a datum
    p(n | y) = p(x_n | y) / sum_m p(x_m | y)                         the data compete under a label

The classes of several label sites are taken together: a *cell* is one combination of them.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_vae.diagnostics.importance import RunningLogMeanExp
from pyro_vae.latent import Particles
from pyro_vae.sites import Batch, Densities, total
from pyro_vae.specs import DeclarationError
from pyro_vae.vae import VAE, label_cells
from pyro_vae.variant import MAX_CELLS, Variant


class LabelScores(NamedTuple):
    """What the model says of N data under each of C cells; float64 on the CPU."""

    log_likelihood: Tensor
    """log p^(x | y) (N, C), nats."""
    standard_error: Tensor
    """Monte Carlo standard error of log p^(x | y) (N, C), nats."""
    log_prior: Tensor
    """log p(y) (C,), nats."""
    cells: dict[str, Tensor]
    """Label site -> class of each cell (C,)."""
    guide: dict[str, Tensor]
    """Label site -> q(y | x) (N, classes), of the sites that have a classifier."""

    @property
    def probability(self) -> Tensor:
        """p(y | x) of each cell (N, C); rows sum to 1."""
        return (self.log_likelihood + self.log_prior).softmax(1)

    @property
    def share(self) -> Tensor:
        """p(n | y) (N, C): how much of a label's probability among these data each of them has; columns sum to 1."""
        return self.log_likelihood.softmax(0)

    def marginal(self, site: str) -> Tensor:
        """p(y | x) of one label site (N, classes), the others summed out."""
        return _marginal(self.probability, self.cells[site])


def _marginal(probability: Tensor, classes: Tensor) -> Tensor:
    """Sum the cells (N, C) of the same class."""
    onto = (classes[:, None] == torch.arange(int(classes.max()) + 1)).to(probability.dtype)
    return probability @ onto


@torch.no_grad()
def score_labels(
    vae: VAE, batch: Batch, num_samples: int = 100, progress: Callable[[int], object] = lambda n: None
) -> LabelScores:
    """Score every datum under every label.

    Args:
        vae: the model, in evaluation mode.
        batch: N data; their labels are not looked at.
        num_samples: K importance samples per datum and label.
        progress: called with the number of data just done.

    Returns:
        Scores per datum and cell.

    Raises:
        DeclarationError: the variant has no labels, more than 1000 cells, or no normalised density.
    """
    variant = vae.variant
    _check(variant)
    always = [name for name in variant.labels if name not in variant.missing]
    outer = list(itertools.product(*(range(variant.labels[name].classes) for name in always)))
    values, errors, guides = list[Tensor](), list[Tensor](), list[dict[str, Tensor]]()
    particles = Particles(vae, _log_w, num_samples, batch.size * len(outer))
    for part in particles.parts(batch):
        found = [_score_cell(particles, part, dict(zip(always, classes, strict=True))) for classes in outer]
        values.append(torch.cat([value for value, _ in found], 1))
        errors.append(torch.cat([error for _, error in found], 1))
        guides.append(_classified(vae, part))
        progress(part.size)
    inner = {name: cell.flatten().cpu() for name, cell in label_cells(vae).items()}
    chosen = torch.tensor(outer).T if always else torch.zeros(0, 1)
    cells = {name: chosen[i].repeat_interleave(variant.cells) for i, name in enumerate(always)}
    cells |= {name: cell.repeat(len(outer)) for name, cell in inner.items()}
    return LabelScores(
        torch.cat(values),
        torch.cat(errors),
        total(_log_prior(vae, name)[cells[name]] for name in variant.labels),
        {name: cells[name] for name in variant.labels},
        {name: torch.cat([guide[name] for guide in guides]) for name in guides[0]},
    )


def _check(variant: Variant) -> None:
    if not variant.labels:
        raise DeclarationError(["variant.labels: there is no label site; declare one, like labels.digit.classes=10."])
    cells = math.prod(label.classes for label in variant.labels.values())
    if cells > MAX_CELLS:
        raise DeclarationError([f"variant.labels: {cells} combinations of labels; at most {MAX_CELLS} are scored."])
    if not variant.normalized:
        raise DeclarationError([f"variant: {variant.why_unnormalized()}, so that labels have no probability."])


def _log_prior(vae: VAE, name: str) -> Tensor:
    """log p(y) (classes,) of a label site."""
    prior: torch.distributions.Categorical = vae.label_priors[name]()
    return prior.logits.double().cpu()


def _score_cell(particles: Particles[Tensor], batch: Batch, known: dict[str, int]) -> tuple[Tensor, Tensor]:
    """log p^(x | y) and its standard error (B, cells of the missing labels), the other labels as given."""
    vae, running = particles.vae, RunningLogMeanExp()
    columns = [torch.full((batch.size,), known.get(name, -1)) for name in vae.variant.labels]
    batch = batch._replace(y=torch.stack(columns, -1).to(next(vae.parameters()).device))
    cells = vae.variant.cells
    for k, log_w in particles(batch):
        running.add(log_w.expand(cells, k, batch.size).movedim(0, -1).flatten(1).double().cpu())
    shape = (batch.size, cells)
    return running.estimate().view(shape), running.standard_error().view(shape)


def _log_w(d: Densities, _: Batch) -> Tensor:
    """log p(x, z | y) - log q(z | x, y), broadcasts to (C, K, B)."""
    return d.log_w - total(d.p[name].log_prob for name in d.labels) if d.labels else d.log_w


def _classified(vae: VAE, batch: Batch) -> dict[str, Tensor]:
    """q(y | x) (B, classes) of each label site with a classifier."""
    if not len(vae.classifiers):
        return {}
    h = vae.features(batch)
    return {name: classifier(h).probs.double().cpu() for name, classifier in vae.classifiers.items()}


def accuracy(probability: Tensor, known: ArrayLike) -> tuple[float, float]:
    """Share of data whose most probable class is the known one, and its standard error.

    Args:
        probability: p(y | x) (N, classes).
        known: the classes (N,), -1 where unknown: those data are left out.

    Returns:
        Share and binomial standard error, sqrt(share (1 - share) / n).

    >>> accuracy(torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]), [0, 1, -1])
    (1.0, 0.0)
    """
    y = torch.as_tensor(np.asarray(known))
    right = (probability.argmax(1) == y)[y >= 0].double()
    share = right.mean().item()
    return share, math.sqrt(share * (1 - share) / len(right))
