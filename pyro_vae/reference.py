"""The reference posterior of a variant: p(z | x) by Hamiltonian Monte Carlo, for many data at once.

What is sampled is the model alone, log p(x, z | y), missing labels summed out, missing entries left out, every
layer of latents. The guide only tells where to start and on what scale to move; a wrong one costs time, not truth.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor

from pyro_vae.capture import record
from pyro_vae.diagnostics.hmc import Draws, Scored, hmc
from pyro_vae.latent import chunks, data_per_chunk, draw_posterior
from pyro_vae.sites import Batch, total
from pyro_vae.specs import DeclarationError
from pyro_vae.vae import VAE, densities

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
        num_chains: C.
        progress: called with the number of data whose chains just made one trajectory more.

    Raises:
        DeclarationError: the latents are not real-valued.

    References:
        MCMC using Hamiltonian dynamics (Neal, 2011). https://arxiv.org/abs/1206.1901
    """
    if vae.variant.guide.simplex:
        raise DeclarationError(
            [
                "variant.latent.kind=categorical: a relaxed code lives on a simplex, where Hamiltonian Monte Carlo has "
                "no place; declare it as a label that is observed never, which is summed out exactly."
            ]
        )
    found = []
    for part in chunks(batch, data_per_chunk(vae, num_chains)):
        start, mean, sd = _start(vae, part, num_chains)
        scored = _log_joint(vae, part, start)
        found.append(
            hmc(scored, start, mean, sd, num_draws, num_warmup, progress=lambda n, b=part.size: progress(n * b))
        )
    joined = Draws(
        z=torch.cat([part.z for part in found], 2),
        log_density=torch.cat([part.log_density for part in found], -1),
        energy=torch.cat([part.energy for part in found], -1),
        acceptance=torch.cat([part.acceptance for part in found], -1),
        divergent=torch.cat([part.divergent for part in found], -1),
        step_size=torch.cat([part.step_size for part in found], -1),
        num_steps=max(part.num_steps for part in found),
    )
    sizes = list(vae.variant.layers.values())
    return Reference(dict(zip(vae.variant.layers, joined.z.split(sizes, -1), strict=True)), joined)


def _start(vae: VAE, batch: Batch, num_chains: int) -> tuple[Tensor, Tensor, Tensor]:
    """Overdispersed starts (C, B, D), and the guide's m and s (B, D), layers side by side."""
    with torch.no_grad():
        z = torch.cat(list(draw_posterior(vae, batch, START_DRAWS).z.values()), -1)
    mean, sd = z.mean(0), z.std(0)
    sd = torch.where(sd > 0, sd, 1.0)  # a point guide
    return mean + OVERDISPERSED * (z[:num_chains] - mean), mean, sd


def _log_joint(vae: VAE, batch: Batch, example: Tensor) -> Scored:
    """log p(x, z | y) of z (C, B, D) and its slope, recorded once: the programs' effect handlers run no more."""
    sizes = list(vae.variant.layers.values())

    def scored(z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            latents = dict(zip(vae.variant.layers, z.split(sizes, -1), strict=True))
            d = densities(vae, batch, len(z), latents)
            log_p = total(site.log_prob for site in d.p.values())
            log_p = (log_p.logsumexp(0) if d.labels else log_p).expand(z.shape[:-1])
            (slope,) = torch.autograd.grad(log_p.sum(), z)
        return log_p.detach(), slope

    recorded = record(scored, example)
    recorded.graph.eliminate_dead_code()  # the guide, which is conditioned on z
    recorded.recompile()

    def replayed(z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return cast(tuple[Tensor, Tensor], recorded(z))

    return replayed
