"""Importance sampling with the guide, datum by datum: log p(x), how far it can be trusted, draws of the posterior.

    log w_s = log p(x, z_s | y) - log q(z_s | x, y),   z_s ~ q(z | x, y)

The weights of all draws of a datum tell its ELBO, IWAE bounds, log p(x) plain and Pareto-smoothed, k-hat and
effective sample size. Draws are resampled by them towards the posterior (PSIR).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.diagnostics.importance import effective_sample_size, importance_estimate, iwae_bound
from pyro_vae.diagnostics.psis import pareto_khat, smoothed_estimate
from pyro_vae.latent import collected
from pyro_vae.sites import Batch
from pyro_vae.vae import VAE


class Importance(NamedTuple):
    """What S draws of the guide say of each of N data; nats, float64 on the CPU."""

    log_w: Tensor
    """Log weights (S, N), missing labels summed out."""
    elbo: Tensor
    """(N,): their mean."""
    log_likelihood: Tensor
    """log 1/S sum_s w_s (N,)."""
    standard_error: Tensor
    """Monte Carlo standard error of it (N,)."""
    smoothed: Tensor
    """The same from Pareto-smoothed weights (N,)."""
    khat: Tensor
    """(N,); NaN where undetermined."""
    effective: Tensor
    """Effective sample size of the weights (N,), out of S."""

    def iwae(self, k: int) -> Tensor:
        """The IWAE bound of k particles (N,), nats."""
        return iwae_bound(self.log_w, k)


@torch.no_grad()
def importance_weights(
    vae: VAE, batch: Batch, num_draws: int = 2000, progress: Callable[[int], object] = lambda n: None
) -> Importance:
    """Weigh S draws of the guide for every datum, in chunks over both.

    Args:
        vae: the model, in evaluation mode.
        batch: N data.
        num_draws: S; 2000 to 4000 give k-hat a standard deviation of about 0.1.
        progress: called with the number of data just done.
    """
    (log_w,) = collected(vae, lambda d, _: (d.summed_log_w,), batch, num_draws, progress=progress)
    return weighed(log_w)


def weighed(log_w: Tensor) -> Importance:
    """Everything that log weights (S, N) tell."""
    value, error = importance_estimate(log_w)
    khat = torch.as_tensor(pareto_khat(log_w))
    smoothed = torch.as_tensor(smoothed_estimate(log_w))
    return Importance(log_w, log_w.mean(0), value, error, smoothed, khat, effective_sample_size(log_w))
