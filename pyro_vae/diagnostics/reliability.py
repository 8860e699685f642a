r"""Are p(y | x) probabilities? Of the data that are given a class with probability p, a share of p should have it.

References:
    On Calibration of Modern Neural Networks (Guo, Pleiss, Sun & Weinberger, 2017).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.diagnostics.importance import mean_and_standard_error

RESAMPLED = 200
"""Bootstrap sets behind the standard error of the ECE."""


class Reliability(NamedTuple):
    """The reliability diagram and what sums it up; one row per bin, from the least confident on."""

    confidence: Tensor
    """Mean probability of the most probable class (bins,)."""
    share: Tensor
    """Share of the data that have that class (bins,)."""
    standard_error: Tensor
    """Of that share (bins,), never 0."""
    size: Tensor
    """Data in the bin (bins,)."""
    ece: float
    """Expected calibration error, biased upwards."""
    ece_standard_error: float
    """Its standard error, by bootstrap, without the bias; a quarter too high where the ECE is nothing but bias."""
    log_loss: tuple[float, float]
    """-log p(y | x), nats: mean and standard error over data; infinity and NaN where a class had probability 0."""
    brier: tuple[float, float]
    """sum_c (p(c | x) - [c = y])^2, between 0 and 2: mean and standard error over data."""


def reliability(probability: Tensor, known: Tensor, num_bins: int = 10) -> Reliability:
    """Compare the probabilities of a classifier with how often it is right.

        ECE = sum_b N_b / N |share_b - confidence_b|,    bins b of equal count by the most probable class's probability

    The ECE is biased upwards: an absolute value is never below 0, so that the noise of the shares counts as error.
    Calibrated probabilities too have one of about sum_b N_b / N sqrt(2 / pi) standard_error_b. Nothing is subtracted;
    compare classifiers on the same data with the same bins.

    Args:
        probability: p(c | x) (N, C), its rows sum to 1.
        known: classes (N,), -1 where not known: those data are left out.
        num_bins: fewer if there are fewer data.

    Returns:
        `Reliability`, on the CPU.

    Raises:
        ValueError: no known class or one beyond C, rows that are no probabilities, or less than one bin.

    >>> found = reliability(torch.tensor([[0.9, 0.1], [0.4, 0.6]]), torch.tensor([0, 0]), num_bins=2)
    >>> found.confidence, found.share, round(found.ece, 4)  # |0 - 0.6| / 2 + |1 - 0.9| / 2
    (tensor([0.6000, 0.9000], dtype=torch.float64), tensor([0., 1.], dtype=torch.float64), 0.35)
    """
    p, y = _checked(probability, known)
    if num_bins < 1:
        raise ValueError(f"num_bins={num_bins}: must be at least 1.")
    num, num_bins = len(y), min(num_bins, len(y))
    confidence, guess = p.max(1)
    order = confidence.argsort(stable=True)
    confidence, right = confidence[order], (guess == y)[order].double()
    place = torch.arange(num) * num_bins // num
    size = place.bincount(minlength=num_bins)

    def summed(values: Tensor) -> Tensor:
        """Sum in each bin (bins,)."""
        return values.new_zeros(num_bins).index_add(0, place, values)

    hits, gap = summed(right), right - confidence
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.randint(num, (num,), generator=generator) for _ in range(RESAMPLED))
    resampled = torch.stack([summed(gap * d.bincount(minlength=num)).abs().sum() / num for d in drawn])
    log_p, error = mean_and_standard_error(p[torch.arange(num), y].log())
    brier = (p - torch.nn.functional.one_hot(y, p.shape[1])).square().sum(1)
    return Reliability(
        confidence=summed(confidence) / size,
        share=hits / size,
        standard_error=share_error(hits, size),
        size=size,
        ece=summed(gap).abs().sum().item() / num,
        ece_standard_error=resampled.std().item(),
        log_loss=(-log_p, error),
        brier=mean_and_standard_error(brier),
    )


def share_error(count: Tensor, num: Tensor | int) -> Tensor:
    """Standard error of the share count / num, not 0 where the share is 0 or 1 by chance.

        sqrt(p (1 - p) / num),    p = (count + 1) / (num + 2)

    >>> share_error(torch.tensor([0, 50]), 100)
    tensor([0.0099, 0.0500], dtype=torch.float64)
    """
    p = (count.double() + 1) / (num + 2)
    return (p * (1 - p) / num).sqrt()


def refuse(name: str, bad: Tensor, what: str = "is NaN or infinite") -> None:
    """Raise ValueError where any entry is marked bad, with the first place.

    >>> refuse("x", torch.tensor([False, True]))
    Traceback (most recent call last):
    ValueError: x[1] is NaN or infinite, the first of 1 among 2.
    """
    if bad.any():
        first = ", ".join(str(i) for i in bad.nonzero()[0].tolist())
        raise ValueError(f"{name}[{first}] {what}, the first of {int(bad.sum())} among {bad.numel()}.")


def _checked(probability: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (n, C) and classes (n,) of the data whose class is known, float64 and on the CPU."""
    if probability.ndim != 2 or known.shape != probability.shape[:1]:
        given = f"probability has shape {tuple(probability.shape)}, known {tuple(known.shape)}"
        raise ValueError(f"{given}: must be (N, C) and (N,).")
    p, y = probability.detach().double().cpu(), known.cpu()
    refuse("known", y >= p.shape[1], f"is beyond the {p.shape[1]} classes")
    p, y = p[y >= 0], y[y >= 0].long()
    if len(y) == 0:
        raise ValueError("No class is known: there is nothing to compare the probabilities with.")
    # NaN is neither; 1e-3 is what a softmax in half precision leaves.
    wrong = ~((p >= 0).all(1) & ((p.sum(1) - 1).abs() < 1e-3))
    refuse("probability", wrong, "is negative, NaN or does not sum to 1")
    return p, y
