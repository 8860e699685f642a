"""The reference posterior of a variant: p(z | x) by Hamiltonian Monte Carlo, for many data at once.

What is sampled is the model alone, log p(x, z | y). The guide only tells where to start and on what scale to move; a
wrong one costs time, not truth. Nothing else of it comes in, so that the draws can judge it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.diagnosis.joint import check_continuous, log_joint
from pyro_vae.diagnostics.hmc import Draws, hmc
from pyro_vae.latent import chunks, data_per_chunk, draw_latents, layered, side_by_side
from pyro_vae.sites import Batch
from pyro_vae.vae import VAE

START_DRAWS = 200
"""Draws of the guide that tell m and s of every latent."""
OVERDISPERSED = 2.0
"""Chains start at so many times the distance from the guide's mean that one of its draws has."""


class Reference(NamedTuple):
    """Draws from p(z | x, y) for each of B data, and how they were made."""

    z: dict[str, Tensor]
    """Latent site -> (S, C, B, D)."""
    hmc: Draws
    """The same with the layers side by side, their log p(x, z | y), and what tells whether the chains did well."""


def reference_posterior(
    vae: VAE,
    batch: Batch,
    num_draws: int = 500,
    num_warmup: int = 300,
    num_chains: int = 4,
    progress: Callable[[int], object] = lambda n: None,
) -> Reference:
    """Draw from p(z | x, y) by HMC.

    Args:
        vae: the model, in evaluation mode.
        batch: B data.
        num_draws: S, draws kept of each chain.
        num_warmup: draws before them, in which the sampler adapts.
        num_chains: C, at most 200.
        progress: called with the number of data whose chains just made one trajectory more.

    Raises:
        DeclarationError: the latents are not real-valued.

    References:
        MCMC using Hamiltonian dynamics (Neal, 2011). https://arxiv.org/abs/1206.1901
    """
    check_continuous(vae)
    found = []
    for part in chunks(batch, data_per_chunk(vae, num_chains)):
        start, sd = _start(vae, part, num_chains)
        scored, size = log_joint(vae, part, num_chains), part.size

        def done(n: int, size: int = size) -> None:
            progress(n * size)

        found.append(hmc(scored, start, sd, num_draws, num_warmup, progress=done))
    draws = _joined(found)
    return Reference(layered(vae, draws.z), draws)


def joined_references(vae: VAE, found: list[Reference]) -> Reference:
    """References of several parts of the data, one after the other."""
    draws = _joined([reference.hmc for reference in found])
    return Reference(layered(vae, draws.z), draws)


def guide_moments(vae: VAE, batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean and sd of the guide's draws (B, D), layers side by side; the sd of a point guide is taken as 1."""
    z = side_by_side(draw_latents(vae, batch, START_DRAWS).z)
    sd = z.std(0)
    return z.mean(0), torch.where(sd > 0, sd, 1.0)


def _start(vae: VAE, batch: Batch, num_chains: int) -> tuple[Tensor, Tensor]:
    """Overdispersed starts (C, B, D), and the guide's sd (B, D)."""
    mean, sd = guide_moments(vae, batch)
    z = side_by_side(draw_latents(vae, batch, num_chains).z)
    return mean + OVERDISPERSED * (z - mean), sd


def _joined(found: list[Draws]) -> Draws:
    """Draws for several parts of a batch, one after the other."""
    at = {"z": 2, "step_size": 1} | dict.fromkeys(("log_density", "energy", "acceptance", "divergent"), 2)
    columns = {name: torch.cat([getattr(part, name) for part in found], dim) for name, dim in at.items()}
    return Draws(**columns, num_steps=max(part.num_steps for part in found))
