"""Normal priors."""

from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.networks import Shape
from pyro_vae.priors.spec import Prior


class StandardNormal(Prior):
    """p(z) = N(z; 0, I).

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014).
    """

    kind: Literal["standard_normal"] = "standard_normal"

    def build(self, dim: int, dim_above: int | None, shape: Shape) -> "StandardNormalPrior":
        """Build N(0, I)."""
        return StandardNormalPrior(dim)


class StandardNormalPrior(nn.Module):
    """N(0, I) with event (D,)."""

    loc: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(dim), persistent=False)  # so that it follows device and dtype

    def forward(self, above: Tensor | None, y: Tensor | None, given: Tensor | None) -> dist.Distribution:
        """p(z)."""
        return dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)
