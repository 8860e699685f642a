"""What a likelihood is: the abstract spec, and the decoder that every one is built around."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from pyro_vae.networks import Network, Shape, join
from pyro_vae.specs import Part

type Support = Literal["binary", "levels", "unit", "real", "counts"]


class Likelihood(Part):
    """Abstract spec of a likelihood."""

    supports: ClassVar[tuple[Support, ...]] = ("binary", "levels", "unit", "real", "counts")
    """Kinds of data that it is a density on: {0, 1}; integer levels as k / (levels - 1); [0, 1]; any; 0, 1, 2, ..."""
    scales: ClassVar[bool] = False
    """Whether it brings x onto one scale for the encoder itself, whatever the units of the data."""
    datum_at_once: ClassVar[bool] = False
    """Whether entries depend on one another given z, so that p(x | z) is of the whole datum."""
    discrete: ClassVar[bool] = False
    """Whether it gives probabilities, not densities; only of these can binary data have bits per dimension."""
    datum: ClassVar[Literal["any", "vector", "image"]] = "any"
    """What a datum must be: a vector (D,), an image (channels, rows, columns), or either."""
    takes_missing: ClassVar[bool] = True
    """Whether entries of x can be missing."""

    @property
    def normalized(self) -> bool:
        """Whether exp(log_prob) integrates (or sums) to one; elbo and log_likelihood are null otherwise."""
        return True

    def accepts(self, support: Support) -> str | None:
        """None if data of that support can be modelled, else what is wrong and what to do."""
        if support in self.supports:
            return None
        return f"is a density on {' or '.join(self.supports)} data, and these are {support}."

    def build(self, network: Network, latent_dim: int, shape: Shape) -> nn.Module:
        """Build p(x | z, y, given) around the decoder that `network` declares."""
        raise TypeError(f"{type(self).__name__} builds no likelihood.")


class Decoded(nn.Module):
    """(r_1, ..., r_outputs) = decoder([z, y, given]), each shaped (..., *event of x)."""

    def __init__(self, network: Network, latent_dim: int, shape: Shape, outputs: int = 1) -> None:
        super().__init__()
        self.network = network.decoder(latent_dim + shape.y + shape.given, shape, outputs)
        self.axis, self.outputs = -1 - len(shape.x), outputs

    def forward(self, z: Tensor, y: Tensor | None, given: Tensor | None) -> tuple[Tensor, ...]:
        """The decoder's outputs."""
        return self.network(join(z, y, given)).unbind(self.axis)

    def stacked(self, z: Tensor, y: Tensor | None, given: Tensor | None) -> Tensor:
        """The outputs side by side in the last dimension, (..., *event of x, outputs)."""
        return self.network(join(z, y, given)).movedim(self.axis, -1)

    def start_at(self, *r: Tensor) -> None:
        """Begin with outputs around r_1, ..., each shaped like x, if the network knows how."""
        start = getattr(self.network, "start_at", None)
        if start is not None:
            start(torch.stack(r))

    def shrink(self, factor: float) -> None:
        """Begin nearer to where `start_at` said, if the network knows how."""
        shrink = getattr(self.network, "shrink", None)
        if shrink is not None:
            shrink(factor)
