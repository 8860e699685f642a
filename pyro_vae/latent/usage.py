"""What each latent dimension is used for: the KL of every datum by dimension, and where its code lies."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.capture import unvalidated
from pyro_vae.latent.draws import moments, side_by_side
from pyro_vae.latent.particles import chunks, data_per_chunk
from pyro_vae.objectives import split, terms
from pyro_vae.sites import Batch
from pyro_vae.vae import VAE, densities

PARTICLES = 16
"""Draws behind the KL of each datum and the weights of missing labels."""


class Usage(NamedTuple):
    """Of N data, the layers side by side."""

    mean: Tensor
    """E[z | x] (N, D)."""
    kl: Tensor | None
    """KL(q(z_d | x) || p(z_d)) (N, D), nats; None where it has no such parts, or q no density."""


@torch.no_grad()
def usage(
    vae: VAE, batch: Batch, num_particles: int = PARTICLES, progress: Callable[[int], object] = lambda n: None
) -> Usage:
    """How far each dimension of a datum's code is from its prior.

    The KL is in closed form where there is one, so that `num_particles` only matters for what has none, for layers that
    are sampled after others, and for missing labels.

    Args:
        vae: the model, in evaluation mode.
        batch: N data.
        num_particles: K.
        progress: called with the number of data just done.
    """
    means, kl = list[Tensor](), list[Tensor]()
    for part in chunks(batch, data_per_chunk(vae, num_particles)):
        with unvalidated():
            d = densities(vae, part, num_particles)
            parts = terms(*split(vae, d, closed_form=True), d, part, vae.variant.rule).kl_per_dim
            means.append(side_by_side(moments(vae, d)[0]))
        if vae.variant.guide.density and len(parts) == len(vae.variant.layers):
            kl.append(side_by_side({name: parts[name] for name in vae.variant.layers}))
        progress(part.size)
    return Usage(torch.cat(means), torch.cat(kl) if kl else None)
