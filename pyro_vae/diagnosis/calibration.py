"""Is the guide the posterior of its own model? Simulation-based calibration of q(z | x), and TARP.

Data are simulated with the latents that made them, and the guide draws L latents for each. Where q(z | x) = p(z | x),
what made the datum is one of L + 1 exchangeable draws. Ranked are every latent, and log p(x, z), which depends on
the data: a guide that repeats the prior passes on the former alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.capture import unvalidated
from pyro_vae.diagnosis.simulation import simulate
from pyro_vae.diagnostics.calibration import Coverage, coverage, pit, ranks, tarp, uniformity
from pyro_vae.latent import chunks, data_per_chunk, draw_latents, layered, side_by_side
from pyro_vae.sites import Batch
from pyro_vae.vae import VAE, densities, guide_sites

RIDGE = 1e-2
"""Share of the mean square of x that is added in the regression behind TARP's points of reference."""


class Calibration(NamedTuple):
    """Ranks of what made N simulated data among L draws of the guide for each; float64 or integers on the CPU."""

    num_draws: int
    """L."""
    latent_ranks: dict[str, Tensor]
    """Latent site -> (N, D)."""
    joint_rank: Tensor
    """Of log p(x, z) (N,)."""
    tarp_rank: Tensor
    """Of the distance from a point that depends on x (N,)."""

    def pit(self) -> dict[str, Tensor]:
        """What should be uniform on [0, 1]: latent site -> (N, D), `log_joint` and `distance` -> (N,)."""
        generator = torch.Generator().manual_seed(0)
        every = {**self.latent_ranks, "log_joint": self.joint_rank, "distance": self.tarp_rank}
        return {name: pit(rank, self.num_draws, generator) for name, rank in every.items()}

    def coverage(self) -> Coverage:
        """Of the central intervals of every latent, layers side by side: share (P, D)."""
        return coverage(side_by_side(self.latent_ranks), self.num_draws)

    def p_values(self) -> dict[str, list[float]]:
        """Of the uniformity of each, Kolmogorov-Smirnov: latent site -> D, the others -> 1."""
        return {name: [uniformity(column) for column in u.reshape(len(u), -1).T] for name, u in self.pit().items()}


@torch.no_grad()
def calibrate(
    vae: VAE,
    like: Batch,
    num_simulations: int = 1000,
    num_draws: int = 199,
    progress: Callable[[int], object] = lambda n: None,
) -> Calibration:
    """Check the guide against data that the model makes.

    Args:
        vae: the model, in evaluation mode.
        like: real data, whose labels, covariates and missing entries the simulated ones have.
        num_simulations: N.
        num_draws: L, at least 199 for intervals of 99 %.
        progress: called with the number of data just done.

    References:
        Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts et al., 2018).
        Simulation-Based Calibration Checking for Bayesian Computation (Modrak et al., 2023).
        Sampling-Based Accuracy Testing of Posterior Estimators for General Inference (Lemos et al., 2023).
    """
    simulated = simulate(vae, like, num_simulations)
    truth, x = side_by_side(simulated.z), _seen(vae, simulated.batch)
    references, scale, done = _regressed(x, truth), truth.std(0).clamp(min=1e-12), 0
    latent, joint, distance = list[Tensor](), list[Tensor](), list[Tensor]()
    for part in chunks(simulated.batch, data_per_chunk(vae, num_draws + 1)):
        some = slice(done, done + part.size)
        draws = _draws(vae, part, num_draws)
        every = torch.cat([draws, truth[some][None]])
        log_joint = _log_joint(vae, part, every)
        latent.append(ranks(draws, truth[some]))
        joint.append(ranks(log_joint[:-1], log_joint[-1]))
        distance.append(tarp(draws, truth[some], references[some], scale))
        done += part.size
        progress(part.size)
    return Calibration(
        num_draws, layered(vae, torch.cat(latent).cpu()), torch.cat(joint).cpu(), torch.cat(distance).cpu()
    )


def _draws(vae: VAE, batch: Batch, num_draws: int) -> Tensor:
    """Draws of the guide (L, B, D); the decoder runs only where the labels' weights need it."""
    if vae.variant.missing:
        return side_by_side(draw_latents(vae, batch, num_draws).z)
    with unvalidated():
        q = guide_sites(vae, batch, num_draws, {})
    return side_by_side({name: q[name].value for name in vae.variant.layers})


def _log_joint(vae: VAE, batch: Batch, z: Tensor) -> Tensor:
    """log p(x, z | y) (K, B), nats, missing labels summed out."""
    with unvalidated():
        return densities(vae, batch, len(z), layered(vae, z)).log_model().expand(z.shape[:-1])


def _seen(vae: VAE, batch: Batch) -> Tensor:
    """What a regression may see of the data (N, F): x with 0 for what is missing, and the covariates."""
    x = vae.encoded(batch.x)  # type: ignore[arg-type]
    x = x if batch.mask is None else torch.where(batch.mask, x, 0)
    parts = [x.flatten(1), *([] if batch.given is None else [batch.given])]
    return torch.cat(parts, 1)


def _regressed(x: Tensor, z: Tensor) -> Tensor:
    """Points of reference (N, D): z predicted from x by ridge regression on the other half of the simulations.

    They must not depend on the truth that is ranked, and must depend on x to see a guide that does not.
    """
    half = len(x) // 2
    if half < 2:
        return torch.zeros_like(z)
    x, z = x.double(), z.double()
    found = torch.empty_like(z)
    for fit, to in ((slice(half), slice(half, None)), (slice(half, None), slice(half))):
        a, target = x[fit] - x[fit].mean(0), z[fit] - z[fit].mean(0)
        gram = a @ a.T  # N x N: there may be more entries than data
        ridge = (
            RIDGE * gram.diagonal().mean().clamp(min=1e-12) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        )
        weights = a.T @ torch.linalg.solve(gram + ridge, target)
        found[to] = (x[to] - x[fit].mean(0)) @ weights + z[fit].mean(0)
    return found.to(z.dtype)
