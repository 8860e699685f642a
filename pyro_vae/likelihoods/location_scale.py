"""Noise about D(z) with one width per entry: what the normal, Laplace and Student-t likelihoods share."""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pyro_vae.likelihoods.spec import Decoded
from pyro_vae.networks import Network, Shape

Scale = Annotated[float, Field(gt=0)] | Literal["learned", "per_pixel", "decoded"]
"""A number; `learned`, one for all entries; `per_pixel`, one per entry; `decoded`, a second output."""
MinScale = Annotated[float, Field(ge=0)]


def scale_above_floor(scale: Scale, min_scale: float) -> None:
    """Refuse a number below the floor.

    Raises:
        ValueError: what a spec says of it.
    """
    if isinstance(scale, float | int) and scale < min_scale:
        raise ValueError(f"scale={scale} is below min_scale={min_scale}: lower min_scale")


class LocationScale(nn.Module):
    """noise(r_1, sigma), sigma a number or sqrt(min_scale^2 + exp(rho)) with rho learned or r_2."""

    scale: Tensor

    def __init__(
        self,
        network: Network,
        latent_dim: int,
        shape: Shape,
        noise: Callable[[Tensor, Tensor], torch.distributions.Distribution],
        scale: Scale,
        min_scale: float,
        variance: float = 1.0,
    ) -> None:
        """Build the decoder and the scale.

        Args:
            network: declares the decoder.
            latent_dim: dimension of z.
            shape: of the data.
            noise: (location, scale) -> distribution.
            scale: where sigma comes from.
            min_scale: its floor.
            variance: that of the noise at scale 1, for the start.
        """
        super().__init__()
        self.is_decoded = scale == "decoded"
        self.decoded = Decoded(network, latent_dim, shape, 2 if self.is_decoded else 1)
        self.noise, self.min_scale, self.unit_variance = noise, min_scale, variance
        self.log_variance: nn.Parameter | None = None  # rho
        if scale in ("learned", "per_pixel"):
            self.log_variance = nn.Parameter(torch.zeros(shape.x if scale == "per_pixel" else ()))
        elif not self.is_decoded:
            self.register_buffer("scale", torch.tensor(float(scale)), persistent=False)

    def forward(self, z: Tensor, y: Tensor | None, given: Tensor | None) -> torch.distributions.Distribution:
        """p(x | z, y, given)."""
        loc, *rest = self.decoded(z, y, given)
        rho = rest[0] if rest else self.log_variance
        return self.noise(loc, self.scale if rho is None else (self.min_scale**2 + rho.exp()).sqrt())

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Start D at the mean of the data x (N, *event), a learned variance at theirs about it."""
        mean, variance = x.mean(0), x.var(0, correction=0) / self.unit_variance
        if self.log_variance is not None and self.log_variance.dim() == 0:
            variance = variance.mean()
        # An entry that never varies must not start so sharp that the first guesses cost thousands of nats.
        least = 0.01 * variance.mean() + self.min_scale**2 + 1e-8
        rho = (variance - self.min_scale**2).clamp_min(least).log()
        if self.log_variance is not None:
            self.log_variance.copy_(rho)
        self.decoded.start_at(*((mean, rho) if self.is_decoded else (mean,)))
