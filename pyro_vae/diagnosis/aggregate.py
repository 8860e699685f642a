"""The aggregate posterior of a guide, q(z) = 1/N sum_n q(z | x_n): is it the prior, and what does it know of x?

    E_n KL(q(z | x_n) || p(z)) = I(n; z) + KL(q(z) || p(z))

A model that generates well needs the second term small: the decoder is trained where q(z) is, and samples start from
p(z). A model whose first term is zero has collapsed: z knows nothing of x.
"""

from collections.abc import Callable
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.capture import unvalidated
from pyro_vae.diagnosis.simulation import prior_draws
from pyro_vae.diagnostics.aggregate import Discrepancy, Surgery, collapsed, mmd_test, surgery
from pyro_vae.latent import data_per_chunk, draw_latents, layered, side_by_side, usage
from pyro_vae.latent.usage import PARTICLES
from pyro_vae.sites import Batch, label_weights, total
from pyro_vae.vae import VAE, densities, guide_sites

PAIRS = 2**22
"""Numbers in a block of log q(z_n | x_m), times the dimensions."""
MMD_DATA = 2000
"""Draws of each side that the MMD test compares."""


class Aggregate(NamedTuple):
    """What the draws of N data say together; float64 on the CPU."""

    z: Tensor
    """One draw of q(z | x_n) for each datum, layers side by side (N, D)."""
    prior: Tensor
    """As many draws of p(z | y_n) (N, D)."""
    kl_per_dim: Tensor | None
    """E_n KL(q(z_d | x_n) || p(z_d)) (D,), nats; None where it has no such parts, or q no density."""
    variance_of_means: Tensor
    """Var_n E_q[z_d | x_n] (D,)."""
    discrepancy: Discrepancy
    """MMD test of q(z) against p(z)."""
    surgery: Surgery | None
    """None where it is not defined: see `no_surgery`."""

    @property
    def collapsed(self) -> Tensor | None:
        """Dimensions that know nothing of x (D,): no variance of the means and no KL."""
        return None if self.kl_per_dim is None else collapsed(self.kl_per_dim, self.variance_of_means)


def no_surgery(vae: VAE) -> str:
    """Why the KL of a variant has no two such parts; empty where it has."""
    variant = vae.variant
    if not variant.guide.density:
        return "q(z | x) is a point, not a density"
    if not variant.guide.repeatable:
        return "q(z | x) is found by draws at random, so that it is another one at each look"
    given = [
        name for name, label in variant.labels.items() if label.observed == "always" and "prior" in label.conditions
    ]
    if (given or vae.shape.given) and any(prior.reads_labels for prior in variant.priors.values()):
        return "p(z) depends on what is given with a datum, so that there is one aggregate for each of its values"
    return ""


@torch.no_grad()
def aggregate_posterior(vae: VAE, batch: Batch, progress: Callable[[int], object] = lambda n: None) -> Aggregate:
    """Compare the aggregate posterior of these data with the prior.

    Args:
        vae: the model, in evaluation mode.
        batch: N data, best some thousands: I(n; z) is at most log N.
        progress: called with the number of data just done, twice for each.

    References:
        ELBO surgery (Hoffman & Johnson, 2016).
        Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2016): active units.
    """
    z, prior = side_by_side(draw_latents(vae, batch, 1).z)[0], side_by_side(prior_draws(vae, batch, 1))[0]
    used = usage(vae, batch, progress=progress)
    if no_surgery(vae):
        surgeon = None
        progress(batch.size)
    else:
        own, of_aggregate = _log_aggregate(vae, batch, z, progress)
        surgeon = surgery(own[None], of_aggregate[None], _log_prior(vae, batch, z)[None])
    generator = torch.Generator().manual_seed(0)
    z, prior = z.double().cpu(), prior.double().cpu()
    return Aggregate(
        z,
        prior,
        None if used.kl is None else used.kl.double().mean(0).cpu(),
        used.mean.double().var(0).cpu(),
        mmd_test(z[:MMD_DATA], prior[:MMD_DATA], generator=generator),
        surgeon,
    )


def _log_aggregate(vae: VAE, batch: Batch, z: Tensor, progress: Callable[[int], object]) -> tuple[Tensor, Tensor]:
    """log q(z_n | x_n) and log 1/N sum_m q(z_n | x_m) (N,), nats, of z (N, D)."""
    n, size = batch.size, max(1, PAIRS // (len(z) * z.shape[1] * vae.variant.cells))
    own, running = torch.empty(n, dtype=torch.float64), torch.full((n,), -torch.inf, dtype=torch.float64)
    for start in range(0, n, size):
        part = batch.map(itemgetter(slice(start, start + size)))
        log_q = _log_guide(vae, part, z).double().cpu()  # (N, size)
        rows = torch.arange(part.size)
        own[start : start + part.size] = log_q[start + rows, rows]
        running = torch.logaddexp(running, log_q.logsumexp(1))
        progress(part.size)
    return own, running - torch.tensor(float(n)).log()


def _log_guide(vae: VAE, batch: Batch, z: Tensor) -> Tensor:
    """log q(z_k | x_m) (K, B) for z (K, D), missing labels averaged out."""
    latents = layered(vae, z[:, None].expand(-1, batch.size, -1))
    with unvalidated():
        q = guide_sites(vae, batch, len(z), latents)
        log_q = total(q[name].log_prob for name in vae.variant.layers)
        if not vae.variant.missing:
            return log_q.expand(len(z), batch.size)
        d = densities(vae, batch, PARTICLES)
        pi = label_weights(d.log_w, d, vae.variant.rule).expand(vae.variant.cells, PARTICLES, batch.size)
    return (log_q + pi.mean(1, keepdim=True).log()).logsumexp(0)


def _log_prior(vae: VAE, batch: Batch, z: Tensor) -> Tensor:
    """log p(z) (N,) of z (N, D): the latents of all layers, missing labels summed out; any datum serves."""
    found, first = [], batch.map(itemgetter(slice(1)))
    for some in z.split(data_per_chunk(vae, 1)):
        with unvalidated():
            d = densities(vae, first, len(some), layered(vae, some[:, None]))
        found.append(d.log_model("x").expand(len(some), 1)[:, 0])
    return torch.cat(found)
