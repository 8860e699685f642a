r"""Importance sampling: log p(x) and its error from log importance weights.

With draws z_k ~ q(z | x) and log_w_k = log p(x, z_k) - log q(z_k | x),

    p^(x) = 1/K sum_k w_k          is unbiased for p(x), so log p^(x) is below log p(x) on average,
    IWAE_k = E log 1/k sum_k w_k   rises from the ELBO (k = 1) to log p(x).

log_w is (K, N): K draws of each of N data, in nats. -inf is legal (a draw where the model has no mass); NaN
and +inf are refused. All is computed and returned in float64, on the device of log_w, without a gradient.
"""

import math
from typing import Self

import torch
from torch import Tensor


def log_mean_exp(log_w: Tensor, dim: int = 0) -> Tensor:
    """Logarithm of the mean of exp(log_w) over a dimension.

        log 1/K sum_k exp(log_w_k)

    Args:
        log_w: log weights, any shape; nats.
        dim: the dimension K to average over.

    Returns:
        Shape of log_w without `dim`; -inf where every weight is zero.

    Raises:
        ValueError: NaN or +inf among the weights, or none at all.

    >>> log_mean_exp(torch.tensor([0.0, -torch.inf]))
    tensor(-0.6931, dtype=torch.float64)
    """
    log_w = _checked(log_w)
    return torch.logsumexp(log_w, dim) - math.log(log_w.shape[dim])


class RunningLogMeanExp:
    """Everything this module says of (K, N) weights, from chunks over K, without keeping a draw.

    It keeps log sum_k w_k and log sum_k w_k^2 per datum, (N,) each.

    >>> running = RunningLogMeanExp()
    >>> for chunk in torch.zeros(6, 2).split(4):
    ...     _ = running.add(chunk)
    >>> running.num_draws, running.estimate()
    (6, tensor([0., 0.], dtype=torch.float64))
    """

    def __init__(self) -> None:
        """Start without draws."""
        self.num_draws = 0
        self._log_sum = self._log_sum_of_squares = torch.tensor(-math.inf, dtype=torch.float64)

    def add(self, log_w: Tensor) -> Self:
        """Add some draws.

        Args:
            log_w: log weights (k, N), nats; k may differ from call to call.

        Returns:
            Itself.

        Raises:
            ValueError: NaN or +inf among the weights, none at all, or another N than before.
        """
        log_w = _checked(log_w)
        if self.num_draws == 0:
            self._log_sum = self._log_sum_of_squares = log_w.new_full(log_w.shape[1:], -math.inf)
        if log_w.shape[1:] != self._log_sum.shape:
            raise ValueError(f"N is {tuple(log_w.shape[1:])} and was {tuple(self._log_sum.shape)} before.")
        self._log_sum = torch.logaddexp(self._log_sum, log_w.logsumexp(0))
        self._log_sum_of_squares = torch.logaddexp(self._log_sum_of_squares, (2 * log_w).logsumexp(0))
        self.num_draws += len(log_w)
        return self

    def estimate(self) -> Tensor:
        """Importance-sampled log p(x) (N,), nats."""
        self._needs_draws()
        return self._log_sum - math.log(self.num_draws)

    def standard_error(self) -> Tensor:
        """Monte Carlo standard error of log p^(x) (N,), nats; see `importance_estimate`."""
        # sd(w)^2 / (K mean(w)^2), written with ESS = (sum w)^2 / sum w^2; rounding can take K / ESS below 1.
        excess = (self.num_draws / self._effective()).sub(1).clamp(min=0)
        return (excess / (self.num_draws - 1)).sqrt() if self.num_draws > 1 else excess * math.nan

    def effective_sample_size(self) -> Tensor:
        """Effective number of draws (N,), between 1 and K; see `effective_sample_size`."""
        return self._effective().nan_to_num(nan=0.0)

    def _effective(self) -> Tensor:
        """(sum w)^2 / sum w^2; NaN where every weight is zero."""
        self._needs_draws()
        return (2 * self._log_sum - self._log_sum_of_squares).exp()

    def _needs_draws(self) -> None:
        if self.num_draws == 0:
            raise ValueError("No draws yet: call add first.")


def importance_estimate(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """Importance-sampled log p(x) and its Monte Carlo standard error.

        log p^(x) = log 1/K sum_k w_k          se = sd(w) / (sqrt(K) mean(w))

    The error is the delta method's. Where the weights have a heavy tail (k-hat above 0.7, see `psis`) both
    numbers are too small, and the error does not show it.

    Args:
        log_w: log weights (K, N), nats.

    Returns:
        log p^(x) (N,) and its standard error (N,), nats; the error is NaN for K = 1 or weights all zero.

    Raises:
        ValueError: NaN or +inf among the weights, or none at all.

    References:
        Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2016).

    >>> importance_estimate(torch.tensor([[1.0], [3.0]]).log())
    (tensor([0.6931], dtype=torch.float64), tensor([0.5000], dtype=torch.float64))
    """
    running = RunningLogMeanExp().add(log_w)
    return running.estimate(), running.standard_error()


def effective_sample_size(log_w: Tensor) -> Tensor:
    """Number of equally weighted draws that are worth as much as these.

        ESS = 1 / sum_k v_k^2,   v_k = w_k / sum_j w_j

    Args:
        log_w: log weights (K, N), nats.

    Returns:
        (N,) between 1 and K; 0 where every weight is zero.

    Raises:
        ValueError: NaN or +inf among the weights, or none at all.

    References:
        A Note on Importance Sampling Using Standardized Weights (Kong, 1992).

    >>> effective_sample_size(torch.tensor([[0.0], [0.0], [-torch.inf]]))
    tensor([2.], dtype=torch.float64)
    """
    return RunningLogMeanExp().add(log_w).effective_sample_size()


def iwae_bound(log_w: Tensor, k: int) -> Tensor:
    """The importance-weighted bound with k particles, from K draws in K // k groups.

        IWAE_k = E log 1/k sum_{j=1}^k w_j

    Args:
        log_w: log weights (K, N), nats; the K % k draws that fill no group are left out.
        k: particles per group; 1 gives the ELBO.

    Returns:
        Mean over the groups (N,), nats.

    Raises:
        ValueError: k is not in 1..K; NaN or +inf among the weights.

    References:
        Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2016).

    >>> iwae_bound(torch.tensor([[0.0], [2.0]]), k=1)
    tensor([1.], dtype=torch.float64)
    """
    log_w = _checked(log_w)
    if not 1 <= k <= len(log_w):
        raise ValueError(f"k={k}: must be between 1 and the number of draws, {len(log_w)}.")
    groups = log_w[: len(log_w) // k * k].unflatten(0, (-1, k))
    return log_mean_exp(groups, dim=1).mean(0)


def mean_and_standard_error(values: Tensor) -> tuple[float, float]:
    """Mean over data and its standard error, sd / sqrt(N).

    Args:
        values: one number per datum (N,).

    Returns:
        Mean and standard error; the error is NaN for a single datum or an infinite mean.

    Raises:
        ValueError: NaN or +inf among the values, or none at all.

    >>> mean_and_standard_error(torch.tensor([1.0, 3.0]))
    (2.0, 1.0)
    """
    values = _checked(values)
    if values.ndim != 1:
        raise ValueError(f"values has shape {tuple(values.shape)}: must be (N,), one number per datum.")
    if len(values) == 1:
        return values.item(), math.nan
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


def _checked(values: Tensor) -> Tensor:
    """Float64 values that are finite or -inf."""
    if values.numel() == 0:
        raise ValueError(f"There is nothing to average: the values have shape {tuple(values.shape)}.")
    values = values.detach().double()  # detached, so that running sums do not keep every draw's graph
    illegal = values.isnan() | (values == math.inf)
    if illegal.any():
        first = tuple(illegal.nonzero()[0].tolist())
        raise ValueError(
            f"{int(illegal.sum())} of {values.numel()} values are NaN or +inf, the first at {first}: must be "
            "finite, or -inf for a weight of zero. Check the log densities of the model and the guide there."
        )
    return values
