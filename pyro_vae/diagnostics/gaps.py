r"""The best normal for each datum, and so what a guide loses to its family and what to amortisation.

    log p(x) - ELBO(q_phi) = [log p(x) - ELBO(q*)]     approximation gap: no member of the family is better
                           + [ELBO(q*) - ELBO(q_phi)]  amortisation gap: the encoder could not tell x apart well enough

q* is the normal, diagonal or with a full covariance, with the highest ELBO for that x alone, found by stochastic
gradients from the guide's own mean and sd. Its ELBO is estimated by draws of its own.

References:
    Inference Suboptimality in Variational Autoencoders (Cremer, Li & Duvenaud, 2018). https://arxiv.org/abs/1801.03558
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyro_vae.diagnostics.hmc import Scored

DRAWS = 16
"""Draws behind each gradient."""
EVALUATION_DRAWS = 1000
"""Draws behind the ELBO at the end."""
CHUNK = 100
"""Of those, how many at a time."""


class Fitted(NamedTuple):
    """The best normal for each of N data."""

    mean: Tensor
    """(N, D)."""
    scale_tril: Tensor
    """Cholesky factor of the covariance (N, D, D)."""
    log_w: Tensor
    """log p(x, z) - log q*(z) at draws of q* (K, N), nats, float64; their mean is the ELBO."""

    @property
    def elbo(self) -> Tensor:
        """E_q*[log p(x, z) - log q*(z)] (N,), nats."""
        return self.log_w.mean(0)

    @property
    def standard_error(self) -> Tensor:
        """Monte Carlo standard error of the ELBO (N,), nats."""
        return self.log_w.std(0) / math.sqrt(len(self.log_w))


def fit_normal(
    scored: Scored,
    mean: Tensor,
    sd: Tensor,
    family: Literal["diagonal", "full"] = "diagonal",
    num_steps: int = 500,
    learning_rate: float = 0.05,
    generator: torch.Generator | None = None,
    progress: Callable[[int], object] = lambda n: None,
) -> Fitted:
    """Find the normal with the highest ELBO for each datum.

        u = m + L eps,  z = mean + sd u,   dELBO/dm = E[slope],   dELBO/dL = E[slope eps'] + diag(1 / L_ii)

    Args:
        scored: log p(x, z) and its slope along z, (K, N, D) -> (K, N), (K, N, D).
        mean: where to start (N, D), like the guide's.
        sd: scale to start at (N, D), positive, like the guide's.
        family: independent dimensions, or a full covariance.
        num_steps: of Adam.
        learning_rate: of its first step, in units of sd; it falls to zero.
        generator: of the random numbers; None: torch's.
        progress: called with 1 after each step.

    Returns:
        `Fitted`.

    >>> from pyro_vae.diagnostics.hmc import with_slope
    >>> _ = torch.manual_seed(0)
    >>> log_joint = with_slope(lambda z: -0.5 * ((z - 1) / 0.5).square().sum(-1))
    >>> found = fit_normal(log_joint, torch.zeros(1, 1), torch.ones(1, 1))
    >>> bool((found.mean - 1).abs() < 0.05), bool((found.scale_tril - 0.5).abs() < 0.05)
    (True, True)
    """
    (n, d), full = mean.shape, family == "full"
    m, log_diagonal = torch.zeros_like(mean), torch.zeros_like(mean)
    below = mean.new_zeros(n, d, d)
    lower = torch.ones(d, d, dtype=torch.bool, device=mean.device).tril(-1)
    optimizer = torch.optim.Adam([m, log_diagonal, *([below] if full else [])], learning_rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        factor = torch.diag_embed(log_diagonal.exp()) + below * lower
        half = _normal(m, DRAWS // 2, generator)
        eps = torch.cat([half, -half])  # pairs of opposite sign: the mean's part of the gradient is steadier
        slope = sd * scored(mean + sd * _placed(m, factor, eps))[1]
        m.grad = -slope.mean(0)
        outer = (slope[..., :, None] * eps[..., None, :]).mean(0)
        log_diagonal.grad = -(outer.diagonal(dim1=-2, dim2=-1) * log_diagonal.exp() + 1)
        below.grad = -(outer * lower)
        optimizer.step()
        schedule.step()
        progress(1)
    factor = torch.diag_embed(log_diagonal.exp()) + below * lower
    scale_tril = sd[..., None] * factor
    log_volume = scale_tril.diagonal(dim1=-2, dim2=-1).double().log().sum(-1)
    log_w = []
    for _ in range(EVALUATION_DRAWS // CHUNK):
        eps = _normal(m, CHUNK, generator)
        log_q = -0.5 * (eps.double().square() + math.log(2 * math.pi)).sum(-1) - log_volume
        log_w.append(scored(mean + sd * _placed(m, factor, eps))[0].double() - log_q)
    return Fitted(mean + sd * m, scale_tril, torch.cat(log_w))


def _normal(like: Tensor, num: int, generator: torch.Generator | None) -> Tensor:
    """eps ~ N(0, I) (K, N, D)."""
    return torch.empty(num, *like.shape, dtype=like.dtype, device=like.device).normal_(generator=generator)


def _placed(m: Tensor, factor: Tensor, eps: Tensor) -> Tensor:
    """u = m + L eps (K, N, D)."""
    return m + torch.einsum("nij,knj->kni", factor, eps)
