"""log p(x) without the guide: annealed importance sampling from below, and from above where the data are simulated.

    ELBO <= IWAE_K <= log p(x)          in expectation, both by draws of the guide
    log 1/C sum_c w_c <= log p(x)       in expectation, C chains annealed from the prior to the posterior
    log p(x) <= -log 1/C sum_c w'_c     in expectation, backwards from an exact draw of the posterior: simulated x alone

A guide that misses part of the posterior makes the first two too small; the chains do not know of it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.diagnosis.joint import check_continuous, prior_and_joint
from pyro_vae.diagnosis.reference import guide_moments
from pyro_vae.diagnosis.simulation import Simulated, prior_draws
from pyro_vae.diagnostics.annealing import Annealed, Ends, Path, anneal, pilot
from pyro_vae.diagnostics.importance import importance_estimate
from pyro_vae.latent import chunks, data_per_chunk, side_by_side
from pyro_vae.sites import Batch
from pyro_vae.vae import VAE

PILOT_CHAINS = 4
"""Chains per datum that find the step sizes and are not used otherwise."""
BASE_DRAWS = 200
"""Draws of the prior that tell its sd."""


class Estimate(NamedTuple):
    """log p(x) per datum, nats, float64 on the CPU."""

    value: Tensor
    """(N,)."""
    standard_error: Tensor
    """Of the Monte Carlo error of each, by the delta method (N,)."""
    acceptance: Tensor
    """Mean acceptance of the chains (N,); far below 0.8 the path is too short."""


class Sandwich(NamedTuple):
    """Both sides for the same simulated data."""

    lower: Estimate
    upper: Estimate


def annealed_log_likelihood(
    vae: VAE,
    batch: Batch,
    num_temperatures: int = 500,
    num_chains: int = 16,
    num_steps: int = 5,
    progress: Callable[[int], object] = lambda n: None,
) -> Estimate:
    """Estimate log p(x | y) by annealed importance sampling from the prior: below it on average.

    Args:
        vae: the model, in evaluation mode.
        batch: N data.
        num_temperatures: T; more bring the estimate closer to log p.
        num_chains: C.
        num_steps: leapfrog steps at each temperature.
        progress: called with the number of data whose chains just passed a temperature (pilot and chains, 2 T each).

    Raises:
        DeclarationError: the latents are not real-valued.

    References:
        On the Quantitative Analysis of Decoder-Based Generative Models (Wu, Burda, Salakhutdinov & Grosse, 2017).
    """
    check_continuous(vae)
    found = []
    for part in chunks(batch, data_per_chunk(vae, num_chains)):
        path = _path(vae, part, num_temperatures, num_steps)
        progress(num_temperatures * part.size)
        start = side_by_side(prior_draws(vae, part, num_chains))
        found.append(_annealed(prior_and_joint(vae, part, num_chains), start, path, progress))
    return _estimate(found, 1)


def bidirectional(
    vae: VAE,
    simulated: Simulated,
    num_temperatures: int = 500,
    num_chains: int = 16,
    num_steps: int = 5,
    progress: Callable[[int], object] = lambda n: None,
) -> Sandwich:
    """Bound log p(x | y) of simulated data from both sides (bidirectional Monte Carlo).

    Args:
        vae: the model, in evaluation mode.
        simulated: data with the latents that made them.
        num_temperatures: T.
        num_chains: C; backwards they all start from the one exact draw.
        num_steps: leapfrog steps at each temperature.
        progress: called with the number of data whose chains just passed a temperature (3 T each).

    Raises:
        DeclarationError: the latents are not real-valued.

    References:
        Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse, Ghahramani & Adams, 2015).
            https://arxiv.org/abs/1511.02543
    """
    check_continuous(vae)
    forwards, backwards, done = list[Annealed](), list[Annealed](), 0
    for part in chunks(simulated.batch, data_per_chunk(vae, num_chains)):
        path = _path(vae, part, num_temperatures, num_steps)
        progress(num_temperatures * part.size)
        ends = prior_and_joint(vae, part, num_chains)
        start = side_by_side(prior_draws(vae, part, num_chains))
        forwards.append(_annealed(ends, start, path, progress))
        exact = side_by_side({name: z[done : done + part.size] for name, z in simulated.z.items()})
        backwards.append(_annealed(ends, exact.repeat(num_chains, 1, 1), path.reversed(), progress))
        done += part.size
    return Sandwich(_estimate(forwards, 1), _estimate(backwards, -1))


def _path(vae: VAE, batch: Batch, num_temperatures: int, num_steps: int) -> Path:
    """Temperatures and step sizes, found by a few chains of their own."""
    base = side_by_side(prior_draws(vae, batch, BASE_DRAWS)).std(0)
    _, sd = guide_moments(vae, batch)
    start = side_by_side(prior_draws(vae, batch, PILOT_CHAINS))
    ends = prior_and_joint(vae, batch, PILOT_CHAINS)
    return pilot(ends, start, base, torch.minimum(sd, base), num_temperatures, num_steps)


def _annealed(ends: Ends, start: Tensor, path: Path, progress: Callable[[int], object]) -> Annealed:
    size = start.shape[1]
    return anneal(ends, start, path, progress=lambda n: progress(n * size))


def _estimate(found: list[Annealed], sign: int) -> Estimate:
    """Log of the mean weight, turned round where the chains went backwards."""
    value, error = importance_estimate(torch.cat([part.log_w for part in found], 1).cpu())
    return Estimate(sign * value, error, torch.cat([part.acceptance.mean(0) for part in found]).double().cpu())
