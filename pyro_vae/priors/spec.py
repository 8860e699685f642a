"""What a prior is: the abstract spec, and what conditional ones are made of."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from pyro_vae.networks import Shape, dense, join, linear
from pyro_vae.specs import Part


class Prior(Part):
    """Abstract spec of a prior."""

    reads_above: ClassVar[bool] = False
    """Whether it conditions on the layer above; every layer below the top must."""
    reads_labels: ClassVar[bool] = True
    """Whether labels that condition the prior change it."""
    normal: ClassVar[bool] = False
    """Whether it is a diagonal normal, `Normal(...).to_event(1)`: what a ladder guide combines its own with."""
    of_guide: ClassVar[bool] = False
    """Whether it is made of the guide: its module's `attach(body, head)` gets the guide's body and own head."""

    simplex: ClassVar[bool] = False
    """Whether it is of categorical latents: D points on the simplex of `shape.classes` entries, side by side."""

    def build(self, dim: int, dim_above: int | None, shape: Shape) -> nn.Module:
        """Build p(z_l | ...) for `dim` latent dimensions; `dim_above` is None at the top."""
        raise TypeError(f"{type(self).__name__} builds no prior.")


class Conditioned(nn.Module):
    """r = W layers([above, y, given]) + b; where there is nothing to condition on, r = b from 0."""

    def __init__(self, inputs: int, widths: tuple[int, ...], activation: str, outputs: int) -> None:
        super().__init__()
        self.constant = None if inputs else nn.Parameter(torch.zeros(outputs))
        if inputs:
            self.layers = dense(inputs, widths, activation)
            self.output = linear(widths[-1] if widths else inputs, outputs)

    def forward(self, *conditions: Tensor | None) -> Tensor:
        """Numbers (..., outputs)."""
        if self.constant is not None:
            return self.constant
        joined = join(*conditions)
        return self.output(self.layers(joined)).to(joined.dtype)
