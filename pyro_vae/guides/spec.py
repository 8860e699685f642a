"""What a guide is: the abstract spec, and what amortised heads are made of."""

from typing import ClassVar, Literal

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae.networks import Network, Shape, dense, join, linear
from pyro_vae.priors import Prior
from pyro_vae.specs import Part


class Guide(Part):
    """Abstract spec of a guide."""

    order: ClassVar[Literal["top_down", "bottom_up"]] = "top_down"
    """Order in which the layers are sampled."""
    dims_of_x: ClassVar[bool] = False
    """Whether every layer needs as many dimensions as x has entries."""
    factorized: ClassVar[bool] = True
    """Whether q(z_l | ...) is a product over its dimensions."""
    density: ClassVar[bool] = True
    """Whether q has a density; without one there is no ELBO."""

    repeatable: ClassVar[bool] = True
    """Whether a second run on the same data gives the same q; not where it draws at random to find q."""
    moments: ClassVar[bool] = True
    """Whether q(z_l | ...) knows its mean and variance in closed form."""
    simplex: ClassVar[bool] = False
    """Whether it is of categorical latents: D points on the simplex of `shape.classes` entries, side by side."""

    def body(self, network: Network, shape: Shape) -> nn.Module:
        """Build the encoder body that the heads of all sites share."""
        return network.body(shape)

    def combines(self, top: bool) -> bool:
        """Whether the head of a layer (the top one, or one below) uses p_l there, which must then be normal."""
        return False

    def head(
        self, features: int, neighbour_dim: int | None, dim: int, shape: Shape, layer: tuple[int, int] = (1, 1)
    ) -> nn.Module:
        """Build q(z_l | ...) for `dim` latent dimensions; `layer` is (l, L), counted from z_1, next to the data."""
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

    def forward(self, h: Tensor | None, neighbour: Tensor | None, y: Tensor | None, offset: Tensor | None) -> Tensor:
        """Raw output (..., outputs); None is left out."""
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


def mismatches(guide: Guide, priors: tuple[Prior, ...]) -> list[str]:
    """What of the priors (from z_1 to the top) a guide cannot serve, one line each."""
    found = []
    for i, prior in enumerate(priors, 1):
        words = [part.tree()[part.word] for part in (prior, guide)]
        top, field = i == len(priors), f"prior={words[0]!r}" if len(priors) == 1 else f"prior[{i - 1}]={words[0]!r}"
        combines = guide.combines(top)
        if combines and not prior.normal:
            found.append(
                f"{field}: guide {words[1]!r} combines its own normal with the prior's, and this is none; take 'normal'"
            )
        if prior.of_guide and (combines or not guide.density or (guide.order == "bottom_up" and len(priors) > 1)):
            found.append(
                f"{field}: is made of the guide's q(z | x) at the top layer, and that of {words[1]!r} "
                f"{'needs more than x' if guide.density else 'is no density'}; take another guide or prior"
            )
    return found
