"""Standardised data: the networks see (x - mean) / sd, and everything that is said of x is in its own units.

    encoder        h = body((x - mean) / sd)
    likelihood     p(x | z) = p_s((x - mean) / sd | z) / prod sd,     E[x | z] = mean + sd E_s[x | z]

Mean and sd are those of the training data, per column of a vector or channel of an image. They are buffers of
the model, so that a checkpoint holds them, and log p(x) is a density of x as it came: in nats that can be
compared with those of a model that was trained without.
"""

from typing import Any, cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions.transforms import AffineTransform


class Standardization(nn.Module):
    """s = (x - mean) / sd and its inverse.

    >>> scale = Standardization((2,))
    >>> scale.set(torch.tensor([100.0, 0.0]), torch.tensor([10.0, 1.0]))
    >>> scale(torch.tensor([[120.0, 2.0]]))
    tensor([[2., 2.]])
    >>> scale.undone(dist.Normal(torch.ones(2), 1.0)).mean
    tensor([110.,   1.])
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, x: tuple[int, ...]) -> None:
        """Start at mean 0 and sd 1.

        Args:
            x: event shape, (D,) or (channels, rows, columns).
        """
        super().__init__()
        per_entry = (x[0], *(1 for _ in x[1:]))
        self.register_buffer("mean", torch.zeros(per_entry))
        self.register_buffer("sd", torch.ones(per_entry))

    def set(self, mean: Tensor, sd: Tensor) -> None:
        """Take mean and sd, (D,) or (channels, 1, 1) each."""
        self.mean.copy_(mean)
        self.sd.copy_(sd)

    def forward(self, x: Tensor) -> Tensor:
        """s of x (..., *event)."""
        return (x - self.mean) / self.sd

    def undone(self, fn: dist.Distribution) -> dist.Distribution:
        """The distribution of x = mean + sd s, given that of s."""
        return Rescaled(fn, [AffineTransform(self.mean, self.sd)])


class Rescaled(dist.TransformedDistribution):
    """mean + sd s, with the moments that torch's transformed distributions leave out."""

    @property
    def mean(self) -> Tensor:
        """E[x]."""
        return self.transforms[0](self.base_dist.mean)

    @property
    def variance(self) -> Tensor:
        """Var[x]."""
        return cast(AffineTransform, self.transforms[0]).scale ** 2 * self.base_dist.variance

    def marginal(self, mask: Tensor) -> "Rescaled":
        """The distribution of the entries where the mask is True, of a distribution of a whole datum."""
        found = Rescaled(cast(Any, self.base_dist).marginal(mask), self.transforms)
        found.missing = ~mask
        return found

    missing: Tensor | None = None
    """Entries that the density says nothing of, so that their change of units does not count."""

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x), nats."""
        log_p = super().log_prob(value)
        if self.missing is None:
            return log_p
        log_sd = cast(Tensor, cast(AffineTransform, self.transforms[0]).scale).log()
        return log_p + torch.where(self.missing, log_sd, 0.0).flatten(-len(self.event_shape)).sum(-1)
