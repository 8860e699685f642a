"""Categorical variables relaxed to the simplex, for priors and guides: z = softmax((a + g) / T), g standard Gumbel.

For one variable of C classes, with a the logits and T the temperature:

    log p(z) = log (C-1)! + (C-1) log T + sum_c (a_c - (T+1) log z_c) - C log sum_c exp(a_c - T log z_c)

with respect to the first C-1 entries. argmax z is categorical with probabilities softmax(a) at every T, and z is
nearly its indicator where T is small.
"""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import ComposeTransform, ReshapeTransform, StickBreakingTransform, Transform, constraints
from torch.distributions.constraint_registry import biject_to, transform_to
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

FLOOR = -80.0
"""Least log z_c of the density, in every precision: in float32 exp(-80) and 1 / exp(-80) are still numbers."""


class Simplices(constraints.Constraint):
    """Vectors (D * C,) of D points on the simplex of C entries, side by side."""

    event_dim = 1

    def __init__(self, dim: int, classes: int) -> None:
        """D = `dim` points of C = `classes` entries each."""
        self.dim, self.classes = dim, classes

    def check(self, value: Tensor) -> Tensor:
        """Whether each part is nonnegative and adds up to 1."""
        return constraints.simplex.check(value.unflatten(-1, (-1, self.classes))).all(-1)


@biject_to.register(Simplices)
@transform_to.register(Simplices)
def _to_simplices(support: Any) -> Transform:
    """The bijection from R^(D (C-1)) by stick-breaking, for samplers like NUTS."""
    D, C = support.dim, support.classes
    flat, parts, free_flat, free = (torch.Size(size) for size in ((D * C,), (D, C), (D * (C - 1),), (D, C - 1)))
    return ComposeTransform(
        [ReshapeTransform(free_flat, free), StickBreakingTransform(), ReshapeTransform(parts, flat)]
    )


class RelaxedCategoricals(dist.TorchDistribution):
    """D independent relaxed categorical variables of C classes each, side by side: event (D * C,).

    In the density a log z_c below `FLOOR` counts as `FLOOR`, without a gradient: so a z that holds zeros, like an
    indicator, has a finite one too. It is exact where no entry is that small.

    References:
        The Concrete Distribution: A Continuous Relaxation of Discrete Random Variables (Maddison, Mnih & Teh, 2017).
        Categorical Reparameterization with Gumbel-Softmax (Jang, Gu & Poole, 2017).

    Example:
        >>> z = RelaxedCategoricals(0.5, torch.zeros(7, 3 * 4), classes=4).rsample()
        >>> z.shape, bool(torch.allclose(z.unflatten(-1, (3, 4)).sum(-1), torch.ones(7, 3)))
        (torch.Size([7, 12]), True)
    """

    arg_constraints: dict[str, Any] = {}
    has_rsample = True

    def __init__(self, temperature: float, logits: Tensor, classes: int) -> None:
        """Take T, the logits a (..., D * C), which need not be normalised, and C."""
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=False)
        self.temperature, self.raw, self.classes = temperature, logits, classes
        # log z; torch's own relaxed categorical takes the logarithm of a z that is 0
        self.log = ExpRelaxedCategorical(
            logits.new_full((), temperature), logits=logits.unflatten(-1, (-1, classes)), validate_args=False
        )

    @property
    def support(self) -> Simplices:
        """Points on the simplex, side by side."""
        return Simplices(self.event_shape[0] // self.classes, self.classes)

    @property
    def probs(self) -> Tensor:
        """Probability of each class to be the largest (..., D * C): softmax(a)."""
        return self.log.probs.flatten(-2)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "RelaxedCategoricals":
        """The same over a larger batch."""
        logits = self.raw.expand(torch.Size(batch_shape) + self.event_shape)
        return RelaxedCategoricals(self.temperature, logits, self.classes)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - as in torch
        """Draw z, differentiable."""
        return self.log.rsample(sample_shape).exp().flatten(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        """The sum of the densities above over the D variables, nats."""
        z = value.unflatten(-1, (-1, self.classes))
        # The floor before the logarithm: behind it, the gradient at 0 would be 0 times infinity.
        log_z = z.clamp_min(torch.full_like(z, FLOOR).exp()).log()
        return (self.log.log_prob(log_z) - log_z.sum(-1)).sum(-1)
