"""What a guide is: the abstract spec, and what amortised heads are made of."""

from typing import ClassVar, Literal

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae.networks import Shape, dense, join, linear
from pyro_vae.specs import Part


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


class Classifier(nn.Module):
    """q(y | x) = Categorical(softmax(W h + b))."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.output = linear(features, classes)

    def forward(self, h: Tensor) -> dist.Distribution:
        """q(y | x) with batch (B,)."""
        return dist.Categorical(logits=self.output(h).to(h.dtype))
