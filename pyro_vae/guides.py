"""Guides: the amortised encoder Q, a body shared by the heads of all sites.

    body(x, mask, given)                   -> features h (B, F), once per batch
    classifier(h)                          -> q(y | x), where labels can be missing and the rule is `guide`
    head(h, neighbour, y, p_l, offset)     -> q(z_l | ...), event (D_l,)

`neighbour` is the latent sampled just before this one, p_l the model's distribution at this site (None in a
bottom-up guide), `offset` (B, raw outputs) is added to the head's raw output: the handle of refined guides.
"""

from typing import ClassVar, Literal

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae.networks import Activation, Shape, dense, join, linear
from pyro_vae.specs import Count, Part, Seq, Table


class Guide(Part):
    """Abstract spec of a guide."""

    order: ClassVar[Literal["top_down", "bottom_up"]] = "top_down"
    """Order in which the layers are sampled."""
    density: ClassVar[bool] = True
    """Whether q has a density; without one there is no ELBO."""

    def head(self, features: int, neighbour_dim: int | None, dim: int, shape: Shape) -> nn.Module:
        """Build q(z_l | ...) for `dim` latent dimensions."""
        raise TypeError(f"{type(self).__name__} builds no head.")


class Raw(nn.Module):
    """r = W layers([h, neighbour, y]) + b + offset: what every amortised head starts from."""

    def __init__(
        self,
        features: int,
        neighbour_dim: int | None,
        shape: Shape,
        widths: tuple[int, ...],
        activation: str,
        outputs: int,
    ) -> None:
        super().__init__()
        inputs = features + (neighbour_dim or 0) + shape.y
        self.layers = dense(inputs, widths, activation)
        self.output = linear(widths[-1] if widths else inputs, outputs)

    def forward(self, h: Tensor, neighbour: Tensor | None, y: Tensor | None, offset: Tensor | None) -> Tensor:
        """Raw output (..., outputs)."""
        joined = join(h, neighbour, y)
        r = self.output(self.layers(joined)).to(joined.dtype)
        return r if offset is None else r + offset


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

    def head(self, features: int, neighbour_dim: int | None, dim: int, shape: Shape) -> "DiagonalNormalHead":
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

    def head(self, features: int, neighbour_dim: int | None, dim: int, shape: Shape) -> "PointHead":
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


class Classifier(nn.Module):
    """q(y | x) = Categorical(softmax(W h + b))."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.output = linear(features, classes)

    def forward(self, h: Tensor) -> dist.Distribution:
        """q(y | x) with batch (B,)."""
        return dist.Categorical(logits=self.output(h).to(h.dtype))


GUIDES = Table("guide", Guide, DiagonalNormal, Point)
