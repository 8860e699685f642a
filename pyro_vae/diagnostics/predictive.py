r"""Do the data look like what the model generates? Predictive checks with named test quantities T(x).

    posterior predictive    x_rep ~ p(x | z), z ~ q(z | x_n): is datum n like what is generated in its place?
    prior predictive        x_rep ~ p(x | z), z ~ p(z): is the data set like one that is generated?

Take data that were not trained on. A posterior predictive check uses x_n twice, so that its p-values lie nearer
to 1/2 than uniform ones where the model is right: one near 0 or 1 says much, one near 1/2 little.

References:
    Posterior Predictive Assessment of Model Fitness via Realized Discrepancies (Gelman, Meng & Stern, 1996).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from pyro_vae.diagnostics.reliability import refuse, share_error

EXTREME = 0.025
"""A predictive p-value below this, or as near to 1, is extreme: 5 % of the data have one if the model is right."""

type Quantity = Callable[[Tensor], Tensor]
"""A number to say of each of M data: x (M, *event) -> (M,), float64."""

PAIRS = 2**24
"""Distances that are computed at a time: 64 MB in float32."""


def ink(x: Tensor) -> Tensor:
    """Mean pixel of images (M, C, H, W)."""
    return _grey(x).mean((1, 2))


def contrast(x: Tensor) -> Tensor:
    """Standard deviation over the pixels of images (M, C, H, W), their channels averaged."""
    return _grey(x).flatten(1).std(1, correction=0)


def stroke_width(x: Tensor) -> Tensor:
    """Mean width of what images (M, C, H, W) show on a background of 0, in pixels; 0 for an empty one.

        2 area / perimeter,    area = sum of the pixels, perimeter = sum of |differences of neighbours|

    Beyond the border lies background. It is the width of a stroke that runs along rows or columns and is far longer
    than wide; the perimeter of a diagonal one counts sqrt(2) times.

    >>> bar = torch.zeros(1, 1, 28, 28)
    >>> bar[..., 4:24, 10:12] = 1  # 20 by 2: 2 * 40 / 44
    >>> stroke_width(bar)
    tensor([1.8182], dtype=torch.float64)
    """
    grey = _grey(x)
    perimeter = _differences(pad(grey, (1, 1, 1, 1))).sum(1)
    return torch.where(perimeter > 0, 2 * grey.sum((1, 2)) / perimeter, 0.0)


def edges(x: Tensor) -> Tensor:
    """Mean |difference| of neighbours in a row or a column of images (M, C, H, W), their channels averaged."""
    differences = _differences(_grey(x))
    return differences.sum(1) / max(1, differences.shape[1])


def mean(x: Tensor) -> Tensor:
    """Mean of the entries of each datum (M, ...)."""
    return _flat(x).mean(1)


def sd(x: Tensor) -> Tensor:
    """Standard deviation over the entries of each datum (M, ...)."""
    return _flat(x).std(1, correction=0)


def smallest(x: Tensor) -> Tensor:
    """Smallest entry of each datum (M, ...)."""
    return _flat(x).amin(1)


def largest(x: Tensor) -> Tensor:
    """Largest entry of each datum (M, ...)."""
    return _flat(x).amax(1)


def total(x: Tensor) -> Tensor:
    """Sum of the counts of each datum (M, ...)."""
    return _flat(x).sum(1)


def zeros(x: Tensor) -> Tensor:
    """Share of zeros among the counts of each datum (M, ...)."""
    return (_flat(x) == 0).double().mean(1)


def quantities(shape: tuple[int, ...], counts: bool) -> dict[str, Quantity]:
    """Name -> test quantity, for data of a shape.

    Args:
        shape: of one datum; (C, H, W) is an image, any other a vector.
        counts: the entries are counts, whatever the shape.

    >>> list(quantities((1, 28, 28), counts=False)), list(quantities((2000,), counts=True))
    (['ink', 'contrast', 'stroke_width', 'edges'], ['total', 'zeros', 'largest'])
    """
    if counts:
        return {"total": total, "zeros": zeros, "largest": largest}
    if len(shape) == 3:
        return {"ink": ink, "contrast": contrast, "stroke_width": stroke_width, "edges": edges}
    return {"mean": mean, "sd": sd, "smallest": smallest, "largest": largest}


def nearest_neighbour(train: Tensor) -> Quantity:
    """The quantity T(x) = min_t |x - x_t|, the Euclidean distance to the nearest training datum.

    Generated data that lie nearer to the training data than held-out data do are copies.

    Args:
        train: training data x_t (T, *event).

    >>> nearest_neighbour(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))(torch.tensor([[3.0, 5.0], [0.0, 0.5]]))
    tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    kept = train.detach().flatten(1).float()

    def distance(x: Tensor) -> Tensor:
        rows = x.detach().flatten(1).float().to(kept.device).split(max(1, PAIRS // len(kept)))
        # cdist finds the neighbour but not how far a near one is: it subtracts squares that cancel.
        return torch.cat([(r - kept[torch.cdist(r, kept).argmin(1)]).double().norm(dim=1) for r in rows]).cpu()

    return distance


class Tail(NamedTuple):
    """Where each datum lies among its replicates."""

    p: Tensor
    """P(T(x_rep) >= T(x)) (N,), ties counted half: near 0 where T(x) is higher than is generated, near 1 if lower."""
    standard_error: Tensor
    """Monte Carlo standard error of p (N,), never 0."""


def tail_probability(replicated: Tensor, observed: Tensor) -> Tail:
    """Predictive p-value of each datum.

        p_n = 1/R sum_r ( [T(x_rep_rn) > T(x_n)] + 1/2 [T(x_rep_rn) = T(x_n)] )

    With half the ties its mean is 1/2 under the true predictive, for discrete quantities too. Only continuous ones
    are uniform then; ranks with ties broken at random (`calibration.ranks`) are so for both.

    Args:
        replicated: T at R replicates for each of N data (R, N).
        observed: T at the data (N,).

    Raises:
        ValueError: shapes that do not agree, or NaN.

    >>> tail_probability(torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([2.0])).p
    tensor([0.6250], dtype=torch.float64)
    """
    if replicated.shape[1:] != observed.shape or observed.ndim != 1 or len(replicated) == 0:
        given = f"replicated has shape {tuple(replicated.shape)}, observed {tuple(observed.shape)}"
        raise ValueError(f"{given}: must be (R, N) and (N,), with R of at least 1.")
    replicated, observed = (v.detach().double().cpu() for v in (replicated, observed))
    refuse("replicated", replicated.isnan(), "is NaN")
    refuse("observed", observed.isnan(), "is NaN")
    above = (replicated > observed).double().sum(0) + 0.5 * (replicated == observed).double().sum(0)
    return Tail(above / len(replicated), share_error(above, len(replicated)))


class SetCheck(NamedTuple):
    """Whether a data set looks like one that is generated, by one quantity."""

    observed_mean: float
    replicated_mean: float
    z: float
    """(observed mean - replicated mean) / standard error of the difference (Welch); infinite if neither varies."""
    p_value: float
    """Two-sided, of z, by permutation."""
    p_standard_error: float
    """Its Monte Carlo standard error, never 0."""
    ks: float
    """Largest distance between the two distribution functions (Kolmogorov & Smirnov)."""
    ks_p_value: float
    """Of that distance; too high where there are many ties."""


def set_check(
    replicated: Tensor, observed: Tensor, num_sets: int = 1000, generator: torch.Generator | None = None
) -> SetCheck:
    """Prior predictive check: could N data be a random part of N + M, the others generated?

        z = (mean T(x) - mean T(x_rep)) / sqrt(var T(x) / N + var T(x_rep) / M)
        p = (1 + #{s : |z_s| >= |z|}) / (1 + num_sets),    z_s of a random N of the N + M values

    The p-value is exact for any quantity if the model is right: no normality is asked for. With enough data every
    model is rejected: look at the two means as well. The mean sees a shift, `ks` any difference, with less power.

    Args:
        replicated: T at M data that were generated independently, each from a z of its own (M,).
        observed: T at the data (N,).
        num_sets: permutations.
        generator: of them, on the CPU; None: torch's.

    Raises:
        ValueError: fewer than two values, no permutation, NaN or infinite values.

    >>> found = set_check(torch.arange(100.0), torch.arange(100.0) + 50)
    >>> round(found.z, 2), found.p_value < 0.01, found.ks
    (12.19, True, 0.5)
    """
    from scipy.stats import ks_2samp

    if min(replicated.numel(), observed.numel()) < 2 or replicated.ndim != 1 or observed.ndim != 1 or num_sets < 1:
        given = f"{tuple(replicated.shape)}, {tuple(observed.shape)} and {num_sets} sets"
        raise ValueError(f"{given}: must be (M,), (N,) and at least 1 set, M and N of at least 2.")
    replicated, observed = (v.detach().double().cpu() for v in (replicated, observed))
    refuse("replicated", ~replicated.isfinite())
    refuse("observed", ~observed.isfinite())
    pool, n = torch.cat([observed, replicated]), len(observed)
    pool = pool - pool.median()  # an entry: a constant becomes 0 exactly
    z = _welch(pool, n)
    orders = (torch.randperm(len(pool), generator=generator) for _ in range(num_sets))
    sets = torch.stack([_welch(pool.index_select(0, order), n) for order in orders])
    as_far = (sets.abs() >= z.abs() * (1 - 1e-9)).sum()  # ties stay ties where sums round
    # The exact distribution takes a second for 10,000 values and warns where it fails; this one has its finite N.
    ks = ks_2samp(replicated.numpy(), observed.numpy(), method="asymp")
    p, error = (1 + int(as_far)) / (1 + num_sets), share_error(as_far, num_sets).item()
    means = observed.mean().item(), replicated.mean().item()
    return SetCheck(*means, z.item(), p, error, float(ks.statistic), float(ks.pvalue))


def _welch(values: Tensor, n: int) -> Tensor:
    """Welch's statistic of the first n values against the rest."""
    first, rest = values[:n], values[n:]
    difference = first.mean() - rest.mean()
    return torch.where(difference == 0, 0.0, difference / (first.var() / n + rest.var() / len(rest)).sqrt())


def _flat(x: Tensor) -> Tensor:
    """One row per datum (M, D), float64 on the CPU."""
    return x.detach().reshape(len(x), -1).double().cpu()


def _grey(x: Tensor) -> Tensor:
    """Images with their channels averaged (M, H, W), float64 on the CPU."""
    return x.detach().double().mean(1).cpu()


def _differences(grey: Tensor) -> Tensor:
    """|Differences| of all neighbours in a row or a column (M, pairs)."""
    return torch.cat([grey.diff(dim=d).abs().flatten(1) for d in (1, 2)], 1)
