"""Data simulated from a model with the latents that made them: exact draws of its posterior, one for each datum.

What a model is given and does not draw (labels that are always there, covariates, which entries are missing) is taken
from real data, in turn.
"""

from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.capture import unvalidated
from pyro_vae.latent import chunks, data_per_chunk
from pyro_vae.sites import Batch
from pyro_vae.vae import VAE


class Simulated(NamedTuple):
    """N data from the model, as it sees them, and their latents."""

    batch: Batch
    z: dict[str, Tensor]
    """Latent site -> (N, D)."""


@torch.no_grad()
def simulate(vae: VAE, like: Batch, num: int) -> Simulated:
    """Draw z ~ p(z | y), x ~ p(x | z, y).

    Args:
        vae: the model, in evaluation mode.
        like: data whose labels, covariates and missing entries the simulated ones have, in turn.
        num: N.

    Returns:
        `Simulated`; missing labels stay unknown.
    """
    device = next(vae.parameters()).device
    turn = torch.arange(num, device=device) % like.size
    given = like.map(lambda tensor: tensor[turn])
    parts = [_simulated(vae, part) for part in chunks(given, data_per_chunk(vae, 1))]
    x, *latents = (torch.cat([part[name] for part in parts]) for name in ("x", *vae.variant.layers))
    return Simulated(given._replace(x=x), dict(zip(vae.variant.layers, latents, strict=True)))


def _simulated(vae: VAE, given: Batch) -> dict[str, Tensor]:
    """A draw of x and of every layer for each datum."""
    with unvalidated():
        trace: Any = poutine.trace(vae.model).get_trace(given._replace(x=None, mask=None, n=given.size))
    return {name: trace.nodes[name]["value"] for name in ("x", *vae.variant.layers)}


@torch.no_grad()
def prior_draws(vae: VAE, batch: Batch, num: int) -> dict[str, Tensor]:
    """Latents drawn from p(z | y) for each datum: site -> (num, B, D)."""
    found: list[dict[str, Tensor]] = []
    for part in chunks(batch, data_per_chunk(vae, num)):
        repeated = part.map(lambda tensor: tensor.repeat(num, *[1] * (tensor.dim() - 1)))
        drawn = _simulated(vae, repeated)
        found.append({name: drawn[name].unflatten(0, (num, part.size)) for name in vae.variant.layers})
    return {name: torch.cat([z[name] for z in found], 1) for name in vae.variant.layers}
