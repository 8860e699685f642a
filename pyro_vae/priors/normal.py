"""Normal priors."""

from typing import ClassVar, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.networks import Activation, Shape
from pyro_vae.priors.spec import Conditioned, Prior
from pyro_vae.specs import Count, Seq


class StandardNormal(Prior):
    """p(z) = N(z; 0, I).

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014).
    """

    kind: Literal["standard_normal"] = "standard_normal"

    normal: ClassVar[bool] = True
    reads_labels: ClassVar[bool] = False

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


class LearnedNormal(Prior):
    """p(z_l | z_{l+1}, y, given) = N(z_l; mu, diag exp(s)), (mu, s) a network of what it conditions on.

    At the top of a model with labels this is one normal per class, with neither labels nor covariates a single
    one of learned mean and variances.

    References:
        Ladder Variational Autoencoders (Soenderby, Raiko, Maaloee, Soenderby & Winther, 2016).
        Variational Deep Embedding (Jiang, Zheng, Tan, Tang & Zhou, 2017), for one normal per class.
    """

    kind: Literal["normal"] = "normal"
    widths: Seq[Count] = ()
    """Hidden layers between the conditions and mu, s."""
    activation: Activation = "relu"
    """Nonlinearity of those layers."""

    reads_above: ClassVar[bool] = True
    normal: ClassVar[bool] = True

    def build(self, dim: int, dim_above: int | None, shape: Shape) -> "LearnedNormalPrior":
        """Build N(mu, diag exp(s))."""
        inputs = (dim_above or 0) + shape.y + shape.given
        return LearnedNormalPrior(Conditioned(inputs, self.widths, self.activation, 2 * dim))


class LearnedNormalPrior(nn.Module):
    """N(mu, diag exp(s)) with (mu, s) = r."""

    def __init__(self, raw: Conditioned) -> None:
        super().__init__()
        self.raw = raw

    def forward(self, above: Tensor | None, y: Tensor | None, given: Tensor | None) -> dist.Distribution:
        """p(z_l | ...)."""
        mu, log_variance = self.raw(above, y, given).chunk(2, -1)
        return dist.Normal(mu, (0.5 * log_variance).exp()).to_event(1)
