"""The guide of a diffusion model: noise is added, nothing is learned."""

import math
from typing import ClassVar, Literal

import pyro.distributions as dist
import torch
from pydantic import Field
from torch import Tensor, nn

from pyro_vae.guides.spec import Guide
from pyro_vae.networks import Network, Shape
from pyro_vae.networks.layers import fill
from pyro_vae.specs import DeclarationError


class Diffusion(Guide):
    """q(z_1 | x) = N(sqrt(1 - b_1) x, b_1 I), q(z_{l+1} | z_l) = N(sqrt(1 - b_{l+1}) z_l, b_{l+1} I).

    b rises linearly over the layers, each of which has as many dimensions as x has entries. The encoder, labels
    and covariates are not used, missing entries are 0, and with no parameters there is nothing to refine.

    References:
        Denoising Diffusion Probabilistic Models (Ho, Jain & Abbeel, 2020).
    """

    kind: Literal["diffusion"] = "diffusion"
    beta_start: float = Field(0.1, gt=0, le=1)
    """b_1; a model of a thousand layers takes 1e-4."""
    beta_end: float = Field(0.5, gt=0, le=1)
    """b_L; a model of a thousand layers takes 0.02."""

    order: ClassVar[Literal["top_down", "bottom_up"]] = "bottom_up"
    dims_of_x: ClassVar[bool] = True

    def body(self, network: Network, shape: Shape) -> "Flattened":
        """Build the features: x itself."""
        return Flattened(math.prod(shape.x))

    def head(
        self,
        features: int,
        neighbour_dim: int | None,
        dim: int,
        shape: Shape,
        layer: tuple[int, int] = (1, 1),
    ) -> "DiffusionHead":
        """Build one step of noise.

        Raises:
            DeclarationError: the layer's dimensions are not as many as the entries of x.
        """
        entries = math.prod(shape.x)
        if dim != entries:
            raise DeclarationError(
                [
                    f"latent.dim={dim}: guide 'diffusion' adds noise to x itself, so that each layer needs as many "
                    f"dimensions as x has entries; take {entries}."
                ]
            )
        number, layers = layer
        share = (number - 1) / (layers - 1) if layers > 1 else 0.0
        return DiffusionHead(self.beta_start + share * (self.beta_end - self.beta_start))


class Flattened(nn.Module):
    """h = x as a vector; missing entries are 0."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor, mask: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        """Features h (B, entries) of x (B, *event)."""
        return fill(x, mask).flatten(1)


class DiffusionHead(nn.Module):
    """N(sqrt(1 - b) v, b I), v the layer below, or x."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def forward(
        self, h: Tensor, neighbour: Tensor | None, y: Tensor | None, p: dist.Distribution | None, offset: Tensor | None
    ) -> dist.Distribution:
        """q(z_l | ...).

        Raises:
            ValueError: an offset, which has nothing to be added to.
        """
        if offset is not None:
            raise ValueError("A diffusion guide has no raw output that an offset could be added to: it is not refined.")
        loc = math.sqrt(1 - self.beta) * (h if neighbour is None else neighbour)
        return dist.Normal(loc, torch.full_like(loc, math.sqrt(self.beta))).to_event(1)
