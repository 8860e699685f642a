r"""What the aggregate posterior says, q(z) = 1/N sum_n q(z | x_n): is it the prior, and does z know x?

    E_n KL(q(z | x_n) || p(z)) = I(n; z) + KL(q(z) || p(z))

What the ELBO pays is spent on telling data apart, I, and on codes that the prior would not generate, the rest.

References:
    ELBO Surgery: Yet Another Way to Carve Up the Variational Evidence Lower Bound (Hoffman & Johnson, 2016).
    A Kernel Two-Sample Test (Gretton, Borgwardt, Rasch, Schoelkopf & Smola, 2012).
    Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2016): active units.
    Don't Blame the ELBO! A Linear VAE Perspective on Posterior Collapse (Lucas, Tucker, Grosse & Norouzi, 2019).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.diagnostics.importance import mean_and_standard_error
from pyro_vae.diagnostics.reliability import refuse, share_error

MOST = 5000
"""Draws of each kind that a test of discrepancy takes: its time grows with their square, a few seconds here."""
AT_ONCE = 1000
"""Rows of the kernel matrix that exist at a time: 80 MB; and rows behind the median distance."""


class Surgery(NamedTuple):
    """The three terms, nats; each a mean over data and its standard error."""

    kl: tuple[float, float]
    """E_n KL(q(z | x_n) || p(z)): the sum of the next two."""
    mutual_information: tuple[float, float]
    """Between the number of a datum and z, at most `log_num_data`."""
    kl_to_prior: tuple[float, float]
    """KL(q(z) || p(z))."""
    log_num_data: float
    """log M: no more can be told of M data, so that values near it say "at least"."""


def surgery(log_q_own: Tensor, log_q_aggregate: Tensor, log_prior: Tensor, num_data: int | None = None) -> Surgery:
    """Split the KL of the ELBO into mutual information and the KL of the aggregate.

        I(n; z)          = E[log q(z | x_n) - log q(z)]
        KL(q(z) || p(z)) = E[log q(z) - log p(z)],    z ~ q(z | x_n)

    Of what the data were drawn from, I is estimated too low and the other too high: M data have I of at most log M.
    Take thousands. The standard errors are of the data and the draws, not of that bias.

    Args:
        log_q_own: log q(z_n^s | x_n) at S draws for each of N data, z_n^s ~ q(z | x_n) (S, N), nats.
        log_q_aggregate: log 1/M sum_m q(z_n^s | x_m) at the same draws (S, N), nats. n must be among the m.
        log_prior: log p(z_n^s) (S, N), nats.
        num_data: M; None: N.

    Returns:
        `Surgery`.

    Raises:
        ValueError: shapes that differ, NaN or infinite values, or draws whose own datum the aggregate lacks.

    >>> own, prior = torch.zeros(1, 4), torch.full((1, 4), -3.0)
    >>> surgery(own, own - math.log(2), prior)[:3]  # two pairs of data, far apart: log 2, and 3 - log 2
    ((3.0, 0.0), (0.693..., 0.0), (2.306..., 0.0))
    """
    if not log_q_own.shape == log_q_aggregate.shape == log_prior.shape or log_q_own.ndim != 2:
        shapes = [tuple(v.shape) for v in (log_q_own, log_q_aggregate, log_prior)]
        raise ValueError(f"The shapes are {shapes}: must be one (S, N).")
    for name, values in (("log_q_own", log_q_own), ("log_q_aggregate", log_q_aggregate), ("log_prior", log_prior)):
        refuse(name, ~values.isfinite())
    own, aggregate, prior = (v.detach().double().cpu() for v in (log_q_own, log_q_aggregate, log_prior))
    log_m = math.log(num_data or own.shape[1])
    # q(z) >= q(z | x_n) / M where n is among the m; 0.01 nats for rounding in float32.
    without = own - aggregate > log_m + 0.01
    refuse(
        "log_q_aggregate", without, f"is below log_q_own - log {num_data or own.shape[1]}, so lacks the datum itself"
    )
    information, marginal = (mean_and_standard_error(v.mean(0)) for v in (own - aggregate, aggregate - prior))
    error = mean_and_standard_error((own - prior).mean(0))[1]
    return Surgery((information[0] + marginal[0], error), information, marginal, log_m)


class Discrepancy(NamedTuple):
    """Whether two sets of draws are from one distribution."""

    mmd2: float
    """Squared maximum mean discrepancy, unbiased: 0 on average for one distribution, so often below."""
    p_value: float
    """Of its being as high for one distribution."""
    p_standard_error: float
    """Monte Carlo standard error of the p-value, never 0."""


def mmd_test(
    z: Tensor, prior: Tensor, num_permutations: int = 200, generator: torch.Generator | None = None
) -> Discrepancy:
    """Test whether draws of the aggregate posterior could be draws of the prior.

        MMD^2 = E k(z, z') + E k(u, u') - 2 E k(z, u),    k(a, b) = exp(-|a - b|^2 / (2 h^2)),  pairs of distinct draws
        p = (1 + #{permutations with MMD^2 >= the observed}) / (1 + num_permutations)

    h is the median distance of the pooled draws (of 1000 at random, if there are more). A high p-value says that so
    many draws do not tell the two apart, which in many dimensions is soon the case.

    Args:
        z: one draw of q(z | x_n) for each datum (N, D), N at most 5000.
        prior: draws of p(z) (M, D), M at most 5000.
        num_permutations: the p-value is at least 1 / (1 + num_permutations).
        generator: of the permutations, on the CPU; None: torch's.

    Returns:
        `Discrepancy`.

    Raises:
        ValueError: shapes, fewer than two draws or too many, no permutation, NaN or infinite draws, or most of them
            alike.

    >>> eps = torch.randn(2, 100, 1, generator=torch.Generator().manual_seed(0))
    >>> mmd_test(eps[0] + 1, eps[1]).p_value < 0.01
    True
    """
    n, m = len(z), len(prior)
    if z.ndim != 2 or z.shape[1:] != prior.shape[1:] or min(n, m) < 2 or num_permutations < 1:
        given = f"z has shape {tuple(z.shape)}, prior {tuple(prior.shape)}, with {num_permutations} permutations"
        raise ValueError(f"{given}: must be (N, D) and (M, D), N and M of at least 2, and 1 permutation or more.")
    if max(n, m) > MOST:
        raise ValueError(f"{max(n, m)} draws are more than {MOST}: thin them, like z[:{MOST}].")
    refuse("z", ~z.isfinite())
    refuse("prior", ~prior.isfinite())
    pool = torch.cat([z, prior.to(z.device)]).detach().double()
    some = torch.randperm(n + m, generator=generator)[:AT_ONCE]
    bandwidth = torch.pdist(pool[some.to(z.device)]).median()
    if bandwidth == 0:
        raise ValueError("Most of the draws are alike: their median distance is 0, and no bandwidth.")
    # Column j marks the draws that permutation j takes for those of z; column 0 is what was observed.
    orders = [torch.arange(n + m)] + [torch.randperm(n + m, generator=generator) for _ in range(num_permutations)]
    marks = torch.zeros(n + m, len(orders), dtype=torch.float64)
    marks.scatter_(0, torch.stack([order[:n] for order in orders], 1), 1.0)
    mmd2 = _mmd2(pool, marks.to(z.device), bandwidth).cpu()
    above = (mmd2[1:] >= mmd2[0]).sum()
    p = (1 + int(above)) / (1 + num_permutations)
    return Discrepancy(mmd2[0].item(), p, share_error(above, num_permutations).item())


def _mmd2(pool: Tensor, marks: Tensor, bandwidth: Tensor) -> Tensor:
    """Unbiased MMD^2 (J,) of the rows of a pool (T, D) that are marked 1 against those marked 0 (T, J)."""
    within = pool.new_zeros(marks.shape[1])  # sum of k over the pairs of marked rows
    touching = torch.zeros_like(within)  # over a marked row and any
    everything = pool.new_zeros(())
    for rows in torch.arange(len(pool), device=pool.device).split(AT_ONCE):
        kernel = (-0.5 * (torch.cdist(pool[rows], pool) / bandwidth).square()).exp()
        kernel[torch.arange(len(rows), device=pool.device), rows] = 0  # no pairs of a draw with itself
        within += (marks[rows] * (kernel @ marks)).sum(0)
        touching += kernel.sum(1) @ marks[rows]
        everything += kernel.sum()
    n = marks[:, 0].sum()
    m, between = len(pool) - n, touching - within
    return within / (n * (n - 1)) + (everything - touching - between) / (m * (m - 1)) - 2 * between / (n * m)


def collapsed(
    kl_per_dim: Tensor, variance_of_means: Tensor, kl_below: float = 0.01, variance_below: float = 0.01
) -> Tensor:
    """Latent dimensions that carry nothing: q(z_d | x) is the prior, whatever x.

        KL_d < kl_below  and  Var_n E_q[z_d | x_n] < variance_below

    Args:
        kl_per_dim: E_n KL(q(z_d | x_n) || p(z_d)) (D,), nats.
        variance_of_means: over data (D,), squared units of z.
        kl_below: limit, nats.
        variance_below: limit; a dimension above it is what Burda et al. call active.

    Returns:
        Booleans (D,).

    Raises:
        ValueError: shapes that differ, or NaN.

    >>> collapsed(torch.tensor([0.001, 2.0, 0.5]), torch.tensor([0.0, 0.9, 0.001]))
    tensor([ True, False, False])
    """
    if kl_per_dim.shape != variance_of_means.shape or kl_per_dim.ndim != 1:
        given = f"kl_per_dim has shape {tuple(kl_per_dim.shape)}, variance_of_means {tuple(variance_of_means.shape)}"
        raise ValueError(f"{given}: must both be (D,).")
    refuse("kl_per_dim", kl_per_dim.isnan(), "is NaN")
    refuse("variance_of_means", variance_of_means.isnan(), "is NaN")
    return ((kl_per_dim < kl_below) & (variance_of_means < variance_below)).cpu()
