r"""Pareto-smoothed importance sampling: can importance sampling with this guide be trusted, datum by datum?

The largest importance weights w = p(x, z) / q(z | x) of a datum follow a generalised Pareto distribution. Its
shape k says how many moments the weights have (finite variance below 1/2, finite mean below 1), and the
estimate k-hat tells a guide that covers the posterior from one that misses its tails:

    k < min(1 - 1 / log10 S, 0.7)    the S draws suffice; otherwise raise S or take a richer guide
    k < 0                            bounded weights
    k = -inf                         equal weights: the guide is the posterior (spread of log_w below 1e-6)
    k = NaN                          undetermined, never good: fewer than 30 positive weights, a tail without
                                     spread or too long for float64, NaN or +inf among the weights

log_w is (S, N): S draws of each of N data, nats, unscaled; one k for a whole batch says nothing.
A weight of zero (log_w = -inf) lies in no upper tail and changes none: k is that of the positive weights.
What the zeros cost shows in `importance.effective_sample_size`.

References:
    Pareto Smoothed Importance Sampling (Vehtari, Simpson, Gelman, Yao & Gabry, 2024).
    Yes, but Did It Work?: Evaluating Variational Inference (Yao, Vehtari, Simpson & Gelman, 2018).
"""

import contextlib
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

EXACT_SPREAD = 1e-6
"""Spread of log_w, in nats, that counts as none: rounding, and no tail that could be fitted."""
FEWEST = 30
"""Positive weights that a fit needs: fewer leave a tail of five or less, which ArviZ does not fit."""

type Array = NDArray[np.float64]


def pareto_khat(log_w: Tensor | ArrayLike) -> Array:
    """Estimated Pareto shape of each datum's importance weights; about 0.3 ms per datum at S = 1000.

    Args:
        log_w: log weights (S, N), nats.

    Returns:
        k-hat (N,): -inf for equal weights, NaN where undetermined. S of 2000 to 4000 gives it a standard
        deviation of about 0.1.

    Raises:
        ValueError: log_w is not (S, N).

    >>> z = 0.5 * np.random.default_rng(0).normal(size=(4000, 1))  # q = N(0, 0.5^2), p = N(0, 1): k = 0.75
    >>> bool(pareto_khat(2 * z**2 - 0.5 * z**2)[0] > 0.5)
    True
    """
    return np.array([_smoothed(column)[1] for column in _columns(log_w)], dtype=np.float64)


def smoothed_log_weights(log_w: Tensor | ArrayLike) -> Array:
    """Log importance weights, normalised, their upper tail replaced by quantiles of the fitted Pareto.

    They sum to one for every datum, so they carry no evidence: log p(x) comes from the raw weights.

    Args:
        log_w: log weights (S, N), nats.

    Returns:
        (S, N), nats; as they were where k-hat is undetermined, NaN where log_w has NaN, +inf or only -inf.

    Raises:
        ValueError: log_w is not (S, N).
    """
    columns = _columns(log_w)
    smoothed = [_smoothed(column)[0] for column in columns]
    return np.stack(smoothed, -1) if smoothed else columns.T


def smoothed_estimate(log_w: Tensor | ArrayLike) -> Array:
    """Log of the mean of the Pareto-smoothed weights: importance-sampled log p(x) with less noise.

        log p^(x) = log 1/S sum_s v_s,   v the weights with their upper tail replaced by quantiles of the Pareto

    Steadier than the plain mean where k-hat lies between 0.5 and 0.7, and no bound any more.

    Args:
        log_w: log weights (S, N), nats.

    Returns:
        (N,), nats; the plain estimate where k-hat is undetermined.

    Raises:
        ValueError: log_w is not (S, N).

    >>> float(smoothed_estimate(np.full((50, 1), -3.0))[0])
    -3.0
    """
    found = []
    for column in _columns(log_w):
        smoothed, finite = _smoothed(column)[0], np.isfinite(column)
        # The smallest positive weight lies in no upper tail: its distance is the constant that was divided out.
        least = np.where(finite, column, np.inf).argmin()
        found.append(column[least] - smoothed[least] - np.log(len(column)))
    return np.array(found, dtype=np.float64)


def resampled(log_w: Tensor | ArrayLike, num_draws: int, seed: int = 0) -> NDArray[np.int64]:
    """Numbers of the draws of a posterior by importance resampling, stratified, from the smoothed weights.

        s_r ~ v_s / sum v,   one draw in each of R equal parts of the cumulated weights, then shuffled

    Args:
        log_w: log weights (S, N), nats.
        num_draws: R.
        seed: of the random numbers.

    Returns:
        Indices into the S draws (R, N): a draw comes as often as its weight is worth.

    Raises:
        ValueError: log_w is not (S, N), or holds no weights that could be told (NaN).

    >>> resampled([[0.0], [-np.inf], [0.0]], 4)[:, 0].tolist().count(1)
    0
    """
    weights, generator = np.exp(smoothed_log_weights(log_w)), np.random.default_rng(seed)
    if np.isnan(weights).any():
        raise ValueError("log_w: NaN, +inf, or all weights zero; such a datum cannot be resampled.")
    found = []
    for column in weights.T:
        points = (np.arange(num_draws) + generator.random(num_draws)) / num_draws
        ends = np.cumsum(column)
        chosen = np.searchsorted(ends / ends[-1], points, side="right").clip(max=len(column) - 1)
        found.append(generator.permutation(chosen))
    return np.stack(found, -1).astype(np.int64) if found else np.empty((num_draws, 0), np.int64)


def good_khat(num_draws: int) -> float:
    """Largest k-hat at which this many draws can be trusted.

        min(1 - 1 / log10 S, 0.7)

    Raises:
        ValueError: fewer than two draws.

    >>> good_khat(100), good_khat(4000)
    (0.5, 0.7)
    """
    if num_draws < 2:
        raise ValueError(f"num_draws={num_draws}: must be at least 2.")
    return min(1 - 1 / math.log10(num_draws), 0.7)


def khat_report(khat: ArrayLike, num_draws: int) -> dict[str, float | int]:
    """Share of the data whose importance sampling can be trusted.

    The share and not the worst: k-hat has a standard deviation of 0.13 at S = 1000, so the largest of many is
    high whatever the guide.

    Args:
        khat: k-hat per datum (N,); undetermined (NaN) counts as not good, exact (-inf) as good.
        num_draws: the S it came from.

    Returns:
        {"good_fraction", "standard_error" (of the fraction, binomial), "threshold", "num_draws"}.

    Raises:
        ValueError: no data, or fewer than two draws.

    >>> khat_report([0.2, -np.inf, np.nan, 0.9], num_draws=100)
    {'good_fraction': 0.5, 'standard_error': 0.25, 'threshold': 0.5, 'num_draws': 100}
    """
    values = np.asarray(khat, dtype=np.float64)
    if values.size == 0:
        raise ValueError("khat is empty: there is no share of no data.")
    threshold = good_khat(num_draws)
    good = float((values < threshold).mean())
    error = math.sqrt(good * (1 - good) / values.size)
    return {"good_fraction": good, "standard_error": error, "threshold": threshold, "num_draws": num_draws}


def _columns(log_w: Tensor | ArrayLike) -> Array:
    """The weights with data first (N, S): float32 has ties in the tail that no Pareto has."""
    values = log_w.detach().cpu().double().numpy() if isinstance(log_w, Tensor) else np.asarray(log_w, float)
    if values.ndim != 2:
        raise ValueError(f"log_w has shape {values.shape}: must be (S, N), draws by data.")
    return np.ascontiguousarray(values.T)


def _smoothed(log_w: Array) -> tuple[Array, float]:
    """Smoothed normalised log weights (S,) and k-hat of one datum."""
    from arviz_stats.base.array import array_stats

    largest = log_w.max(initial=-np.inf)
    if not np.isfinite(largest):
        return np.full_like(log_w, np.nan), np.nan
    smoothed, khat = log_w - largest, np.nan
    positive = smoothed > -np.inf
    if smoothed.min() > -EXACT_SPREAD and len(log_w) >= FEWEST:
        khat = -np.inf
    elif positive.sum() >= FEWEST:
        # ArviZ takes a log likelihood and negates it. With the other sign a guide that misses the tails of
        # the posterior is reported as perfect. Its ValueError says that all weights of the tail are equal.
        with np.errstate(all="ignore"), contextlib.suppress(ValueError):
            smoothed[positive], khat = array_stats.psislw(-smoothed[positive])
    return smoothed - np.log(np.exp(smoothed).sum()), float(khat)
