r"""Is a posterior as wide as it says, and in the right place? Simulation-based calibration and coverage.

Simulate z_n ~ p(z), x_n ~ p(x | z_n), and draw z_n^1, ..., z_n^L from the posterior to be checked given x_n. Where it
is p(z | x), z_n is one of L + 1 exchangeable draws: the rank of f(z_n, x_n) among f(z_n^l, x_n) is uniform on
0, ..., L for any f. Ranks of z alone are uniform too where the "posterior" ignores x and repeats the prior; rank
something that depends on the data as well, like log p(x, z).

What is checked is the posterior against the MODEL, with data from the model; how the model fits real data is another
question.

References:
    Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts et al., 2018).
        https://arxiv.org/abs/1804.06788
    Simulation-Based Calibration Checking for Bayesian Computation: The Choice of Test Quantities Shapes Sensitivity
        (Modrak et al., 2023). https://arxiv.org/abs/2211.02383
    Sampling-Based Accuracy Testing of Posterior Estimators for General Inference (Lemos et al., 2023): TARP.
        https://arxiv.org/abs/2302.03026
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

PROBABILITIES = (0.5, 0.9, 0.99)
"""Probabilities of the intervals whose coverage is reported."""


def ranks(draws: Tensor, truth: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Rank of the truth among the draws, ties broken at random.

        rank_n = #{l : f^l_n < f_n} + a uniform share of the ties

    Args:
        draws: f at L draws for each of N simulations (L, N, ...).
        truth: f at what was simulated (N, ...).
        generator: of the random numbers that break ties.

    Returns:
        Integers from 0 to L (N, ...).

    Raises:
        ValueError: shapes that do not agree, or NaN among the values.

    >>> ranks(torch.tensor([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]]), torch.tensor([2.5, 9.0]))
    tensor([2, 3])
    """
    if draws.shape[1:] != truth.shape or len(draws) == 0:
        raise ValueError(f"draws have shape {tuple(draws.shape)}, the truth {tuple(truth.shape)}; must be (L, N, ...).")
    if bool(draws.isnan().any() or truth.isnan().any()):
        raise ValueError("NaN has no rank: look at the draws first.")
    below, ties = (draws < truth).sum(0), (draws == truth).sum(0)
    share = torch.rand(truth.shape, generator=generator, device=truth.device)
    return below + (share * (ties + 1)).long()


def pit(rank: Tensor, num_draws: int, generator: torch.Generator | None = None) -> Tensor:
    """Ranks spread over [0, 1]: uniform where the ranks are.

        u = (rank + U) / (L + 1),  U ~ uniform(0, 1)

    Args:
        rank: integers from 0 to L, any shape.
        num_draws: L.
        generator: of U.
    """
    spread = torch.rand(rank.shape, generator=generator, dtype=torch.float64, device=rank.device)
    return (rank + spread) / (num_draws + 1)


class Coverage(NamedTuple):
    """How often central intervals hold the truth; one row per probability."""

    nominal: Tensor
    """Probability that they should (P,): with L draws only multiples of 1 / (L + 1) exist."""
    share: Tensor
    """Share of the simulations in which they do (P, ...)."""
    standard_error: Tensor
    """Of that share, were it the nominal one (P,): the z-score of a share is its distance over this."""


def coverage(rank: Tensor, num_draws: int, probabilities: Sequence[float] = PROBABILITIES) -> Coverage:
    """Coverage of the central intervals of L draws.

        the interval between the a-th lowest and the a-th highest draw holds the truth with probability
        1 - 2 a / (L + 1) = nominal,   where a <= rank <= L - a

    Args:
        rank: of N simulations, integers from 0 to L (N, ...).
        num_draws: L.
        probabilities: which intervals.

    Raises:
        ValueError: an interval that so few draws cannot tell.

    >>> found = coverage(torch.arange(100), 99, [0.9])
    >>> float(found.nominal), float(found.share)
    (0.9, 0.9)
    """
    tails = [round((1 - p) / 2 * (num_draws + 1)) for p in probabilities]
    if min(tails) < 1:
        needed = math.ceil(2 / (1 - max(probabilities))) - 1
        raise ValueError(
            f"{num_draws} draws have no central interval of {max(probabilities):g}: take {needed} or more."
        )
    nominal = torch.tensor([1 - 2 * a / (num_draws + 1) for a in tails], dtype=torch.float64)
    share = torch.stack([((rank >= a) & (rank <= num_draws - a)).double().mean(0) for a in tails])
    return Coverage(nominal, share.cpu(), (nominal * (1 - nominal) / len(rank)).sqrt())


def tarp(
    draws: Tensor, truth: Tensor, references: Tensor, scale: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Ranks of the distance from a reference point: all dimensions at once.

        rank_n = rank of |z_n - r_n| among |z_n^l - r_n|,  distances in units of `scale`

    Args:
        draws: (L, N, D).
        truth: (N, D).
        references: r (N, D), chosen without looking at the truth; they must depend on x to see a posterior
            that does not.
        scale: of each dimension (D,), like the prior's sd.
        generator: of the random numbers that break ties.

    Returns:
        Integers from 0 to L (N,), uniform where the posterior is right.
    """
    return ranks(((draws - references) / scale).norm(dim=-1), ((truth - references) / scale).norm(dim=-1), generator)


def uniformity(u: Tensor) -> float:
    """P-value of the Kolmogorov-Smirnov test that u (N,) in [0, 1] is uniform.

    It sees places that are wrong better than widths: report `coverage` beside it.
    """
    from scipy.stats import kstest

    return float(kstest(u.double().cpu().numpy(), "uniform").pvalue)
