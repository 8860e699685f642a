"""Disentanglement: does each factor of variation that is known have a latent dimension of its own?

q(z_d) = 1/N sum_n q(z_d | x_n) is the aggregate posterior of a dimension, q(z_d | v) that of the data whose factor
is v.
"""

import math

import torch
from torch import Tensor

PAIRS = 2**24
"""Densities (draws x data x dimensions) that are evaluated at a time: 128 MB."""


def mutual_information(mean: Tensor, sd: Tensor, factor: Tensor, num_draws: int = 1, seed: int = 0) -> Tensor:
    """Mutual information of each latent dimension with a known factor of the data, under q.

        I(z_d; v) = E[log q(z_d | v) - log q(z_d)],    z_d ~ q(z_d | x_n), v = v_n

    Both aggregates are the mixtures over all N data, not over a batch; the only error is that of the draws.

    Args:
        mean: of q(z | x) (N, D).
        sd: of q(z | x) (N, D), of a factorised normal.
        factor: integers (N,), -1 where it is not known: those data are left out.
        num_draws: draws of z per datum.
        seed: of the draws.

    Returns:
        (D,), nats, float64.

    References:
        Isolating Sources of Disentanglement in Variational Autoencoders (Chen, Li, Grosse & Duvenaud, 2018).

    >>> mean, factor = torch.tensor([[0.0, 1.0], [9.0, 1.0]]), torch.tensor([0, 1])
    >>> mutual_information(mean, torch.ones(2, 2), factor, num_draws=1000)[0].item() > 0.69
    True
    """
    known = factor >= 0
    mean, sd, factor = mean[known].double(), sd[known].double(), factor[known]
    generator = torch.Generator().manual_seed(seed)
    eps = torch.randn(num_draws, *mean.shape, generator=generator, dtype=torch.float64)
    q, found = torch.distributions.Normal(mean, sd), torch.zeros(mean.shape[1], dtype=torch.float64)
    at_once = max(1, PAIRS // mean.numel())
    for draw in mean + sd * eps:
        for some, value in zip(draw.split(at_once), factor.split(at_once), strict=True):
            log_q = q.log_prob(some[:, None])  # (n, N, D): each draw under the posterior of every datum
            same = (value[:, None] == factor)[..., None]
            conditional = log_q.masked_fill(~same, -math.inf).logsumexp(1) - same.sum(1).log()
            found += (conditional - log_q.logsumexp(1) + math.log(len(mean))).sum(0)
    return found / (num_draws * len(mean))


def entropy(factor: Tensor) -> float:
    """Entropy of a factor over the data, nats.

    >>> round(entropy(torch.tensor([0, 0, 1, 1])), 4)
    0.6931
    """
    factor = factor[factor >= 0]
    p = factor.bincount().double() / len(factor)
    return float(-(p * p.clamp_min(1e-300).log()).sum())


def mutual_information_gap(mean: Tensor, sd: Tensor, factors: dict[str, Tensor], seed: int = 0) -> dict[str, float]:
    """How far the best dimension for a factor is ahead of the second best, in shares of the factor's entropy.

        MIG(v) = (I(z_a; v) - I(z_b; v)) / H(v),    a, b the dimensions with the largest and second largest I

    1 where one dimension knows the factor and no other anything of it; 0 where two know it equally well, or none.

    Args:
        mean: of q(z | x) (N, D), D at least 2.
        sd: of q(z | x) (N, D), of a factorised normal.
        factors: name -> integers (N,), each with two values or more.
        seed: of the draws.

    Returns:
        Name of the factor -> gap; "mean" -> their mean, which is what is called MIG.

    Raises:
        ValueError: one dimension, no factor, or a factor that never varies.

    References:
        Isolating Sources of Disentanglement in Variational Autoencoders (Chen, Li, Grosse & Duvenaud, 2018).
    """
    if mean.dim() != 2 or mean.shape[1] < 2:
        raise ValueError(f"mean has shape {tuple(mean.shape)}: must be (N, D) with D of at least 2.")
    if not factors:
        raise ValueError("factors is empty: give at least one known factor of the data.")
    found = {}
    for name, factor in factors.items():
        total = entropy(factor)
        if total == 0:
            raise ValueError(f"factors[{name!r}]: never varies; leave it out.")
        first, second = mutual_information(mean, sd, factor, seed=seed).topk(2).values
        found[name] = float(first - second) / total
    return found | {"mean": sum(found.values()) / len(found)}
