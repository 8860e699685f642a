"""Normal guides, and the point that is none."""

from typing import ClassVar, Literal

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae.guides.spec import Guide, Raw
from pyro_vae.networks import Activation, Shape
from pyro_vae.specs import Count, Seq


class DiagonalNormal(Guide):
    """q(z | x) = N(z; mu(x), diag exp(s(x))), s the log variance.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014).
    """

    kind: Literal["diagonal_normal"] = "diagonal_normal"
    widths: Seq[Count] = ()
    """Hidden layers between the encoder's features (with the label and the layer above) and mu, s."""
    activation: Activation = "relu"
    """Nonlinearity of those layers."""

    def head(
        self, features: int, neighbour_dim: int | None, dim: int, shape: Shape, layer: tuple[int, int] = (1, 1)
    ) -> "DiagonalNormalHead":
        """Build N(mu, diag exp(s))."""
        return DiagonalNormalHead(Raw(features, neighbour_dim, shape, self.widths, self.activation, 2 * dim))


class DiagonalNormalHead(nn.Module):
    """N(mu, diag exp(s)) with (mu, s) = r."""

    def __init__(self, raw: Raw) -> None:
        super().__init__()
        self.raw = raw

    def forward(
        self, h: Tensor, neighbour: Tensor | None, y: Tensor | None, p: dist.Distribution | None, offset: Tensor | None
    ) -> dist.Distribution:
        """q(z_l | ...)."""
        mu, log_variance = self.raw(h, neighbour, y, offset).chunk(2, -1)
        return dist.Normal(mu, (0.5 * log_variance).exp()).to_event(1)


class Point(Guide):
    """z = mu(x) with certainty: a plain autoencoder. Not a density, so that no ELBO or log p(x) is reported.

    The loss is -log p(x | z) - beta log p(z); under N(0, I) the latter is beta/2 ||z||^2 and a constant.
    """

    kind: Literal["point"] = "point"
    widths: Seq[Count] = ()
    """Hidden layers between the encoder's features and mu."""
    activation: Activation = "relu"
    """Nonlinearity of those layers."""

    density: ClassVar[bool] = False

    def head(
        self, features: int, neighbour_dim: int | None, dim: int, shape: Shape, layer: tuple[int, int] = (1, 1)
    ) -> "PointHead":
        """Build the point mass at mu."""
        return PointHead(Raw(features, neighbour_dim, shape, self.widths, self.activation, dim))


class PointHead(nn.Module):
    """Delta(z - r)."""

    def __init__(self, raw: Raw) -> None:
        super().__init__()
        self.raw = raw

    def forward(
        self, h: Tensor, neighbour: Tensor | None, y: Tensor | None, p: dist.Distribution | None, offset: Tensor | None
    ) -> dist.Distribution:
        """q(z_l | ...)."""
        return dist.Delta(self.raw(h, neighbour, y, offset), event_dim=1)
