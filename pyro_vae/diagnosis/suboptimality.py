r"""How much the guide loses, datum by datum, and to what: its family, or amortisation.

    log p(x) - ELBO(q_phi) = [log p(x) - ELBO(q*)]     approximation gap: no member of the family is better
                           + [ELBO(q*) - ELBO(q_phi)]  amortisation gap: the encoder could not tell x apart well enough

q* is the guide's own family at that datum's best raw outputs: offsets are added to what the encoder says, and follow
the gradient of the datum's ELBO. Beside it, the best normal with a full covariance shows what a richer family would
give. log p(x) is importance-sampled from the better one of the two.

References:
    Inference Suboptimality in Variational Autoencoders (Cremer, Li & Duvenaud, 2018). https://arxiv.org/abs/1801.03558
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from pyro_vae.capture import record, simplify
from pyro_vae.diagnosis.joint import log_joint
from pyro_vae.diagnosis.reference import guide_moments
from pyro_vae.diagnostics import gaps
from pyro_vae.diagnostics.importance import importance_estimate
from pyro_vae.guides import Refined
from pyro_vae.latent import chunks, collected, data_per_chunk
from pyro_vae.sites import Batch, without_labels
from pyro_vae.specs import DeclarationError
from pyro_vae.vae import VAE, densities

DRAWS = 16
"""Draws behind each gradient."""
EVALUATION_DRAWS = 1000
"""Draws behind each ELBO that is reported."""

type Offsets = dict[str, Tensor]


class Gaps(NamedTuple):
    """Per datum (N,), nats, float64 on the CPU."""

    elbo: Tensor
    """ELBO(q_phi): of the encoder."""
    best_elbo: Tensor
    """ELBO(q*): of the best member of the guide's family."""
    full_elbo: Tensor | None
    """ELBO of the best normal with a full covariance; None where latents are not real-valued."""
    log_likelihood: Tensor
    """log p^(x)."""
    standard_error: dict[str, Tensor]
    """Monte Carlo standard error of each of these, (N,)."""

    @property
    def approximation(self) -> Tensor:
        """log p(x) - ELBO(q*)."""
        return self.log_likelihood - self.best_elbo

    @property
    def amortisation(self) -> Tensor:
        """ELBO(q*) - ELBO(q_phi)."""
        return self.best_elbo - self.elbo


def check_refinable(vae: VAE) -> None:
    """Refuse a guide without a density or without raw outputs that an offset could be added to.

    Raises:
        DeclarationError: there is no q*.
    """
    if not vae.variant.normalized:
        raise DeclarationError([f"variant: {vae.variant.why_unnormalized()}; there is no gap to log p(x)."])
    if not all(hasattr(head, "raw") for head in vae.heads.values()):
        raise DeclarationError(
            ["variant.guide: has no parameters for a datum that could be improved, so that its gap has no two parts."]
        )


def inference_gaps(
    vae: VAE,
    batch: Batch,
    num_steps: int = 500,
    learning_rate: float = 0.05,
    progress: Callable[[int], object] = lambda n: None,
) -> Gaps:
    """Split what the guide loses into approximation and amortisation gap.

    Args:
        vae: the model, in evaluation mode.
        batch: N data.
        num_steps: gradient steps for each datum, of each family.
        learning_rate: of the first of them; it falls to zero.
        progress: called with the number of data that just made one step (2 x num_steps each).

    Raises:
        DeclarationError: there is no q*; see `check_refinable`.
    """
    check_refinable(vae)
    found = []
    for part in chunks(batch, data_per_chunk(vae, DRAWS)):
        found.append(_gaps(vae, part, num_steps, learning_rate, progress))
    columns = zip(*(part[:4] for part in found), strict=True)
    elbo, best, full, log_p = (None if column[0] is None else torch.cat(cast(Any, column)) for column in columns)
    errors = {name: torch.cat([part.standard_error[name] for part in found]) for name in found[0].standard_error}
    return Gaps(cast(Tensor, elbo), cast(Tensor, best), full, cast(Tensor, log_p), errors)


def _gaps(vae: VAE, batch: Batch, num_steps: int, learning_rate: float, progress: Callable[[int], object]) -> Gaps:
    def step(_: int) -> None:
        progress(batch.size)

    offsets = refine(vae, batch, num_steps, learning_rate, step)
    elbos, weights = {"elbo": _weights(vae, batch, None)[0]}, dict[str, Tensor]()
    elbos["best_elbo"], weights["best_elbo"] = _weights(vae, batch, offsets)
    if not vae.variant.guide.simplex:
        mean, sd = guide_moments(vae, batch)
        scored = {num: log_joint(vae, batch, num) for num in (gaps.DRAWS, gaps.CHUNK)}
        fitted = gaps.fit_normal(lambda z: scored[len(z)](z), mean, sd, "full", num_steps, learning_rate, progress=step)
        elbos["full_elbo"] = weights["full_elbo"] = fitted.log_w.cpu()
    means = {name: values.mean(0) for name, values in elbos.items()}
    errors = {name: values.std(0) / math.sqrt(len(values)) for name, values in elbos.items()}
    # Each estimate is below log p on average; of two, the one with the smaller error is the nearer.
    estimates = [importance_estimate(log_w) for log_w in weights.values()]
    values, spread = (torch.stack(column) for column in zip(*estimates, strict=True))
    chosen = spread.argmin(0, keepdim=True)
    errors["log_likelihood"] = spread.gather(0, chosen)[0]
    return Gaps(means["elbo"], means["best_elbo"], means.get("full_elbo"), values.gather(0, chosen)[0], errors)


def refine(
    vae: VAE,
    batch: Batch,
    num_steps: int = 500,
    learning_rate: float = 0.05,
    progress: Callable[[int], object] = lambda n: None,
) -> Offsets:
    """The offsets of the raw outputs with the highest ELBO for each datum: site -> (B, raw outputs).

    Args:
        vae: the model, in evaluation mode.
        batch: B data.
        num_steps: of Adam; an entry of it moves for one datum only, so that data do not disturb each other.
        learning_rate: of its first step; it falls to zero.
        progress: called with 1 after each step.
    """
    if isinstance(vae.variant.guide, Refined):
        offsets = {name: offset.clone() for name, offset in vae.refined(batch).items()}
    else:
        h = next(vae.parameters())
        offsets = {
            name: h.new_zeros(batch.size, cast(Any, head).raw.output.out_features) for name, head in vae.heads.items()
        }
    names, values = list(offsets), [offset.detach() for offset in offsets.values()]
    recorded = simplify(record(_ascent(vae, batch, names), values))
    optimizer = torch.optim.Adam(values, learning_rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        with torch.no_grad():
            gradients = recorded(values)
        for value, gradient in zip(values, gradients, strict=True):
            value.grad = -gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        optimizer.step()
        schedule.step()
        progress(1)
    return dict(zip(names, values, strict=True))


def _ascent(vae: VAE, batch: Batch, names: list[str]) -> Callable[[list[Tensor]], list[Tensor]]:
    """The gradient of each datum's ELBO along its offsets, as a function to record."""

    def ascent(values: list[Tensor]) -> list[Tensor]:
        with torch.enable_grad():
            leaves = [value.detach().requires_grad_() for value in values]
            d = densities(vae, batch, DRAWS, offsets=dict(zip(names, leaves, strict=True)))
            elbo = without_labels(d.log_w, d, batch, vae.variant.rule).mean(0)
            return list(torch.autograd.grad(elbo.sum(), leaves))

    return ascent


@torch.no_grad()
def _weights(vae: VAE, batch: Batch, offsets: Offsets | None) -> tuple[Tensor, Tensor]:
    """Draws behind the ELBO and log weights, both (K, B), nats, of the guide with these offsets.

    They are the same, but where missing labels are left to q(y | x).
    """
    return cast(
        tuple[Tensor, Tensor],
        collected(
            vae,
            lambda d, part: (without_labels(d.log_w, d, part, vae.variant.rule), d.summed_log_w),
            batch,
            EVALUATION_DRAWS,
            offsets,
        ),
    )
