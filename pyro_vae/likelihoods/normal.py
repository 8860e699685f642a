"""The normal likelihood, its variance fixed, learned or decoded."""

from typing import Annotated, Literal

import pyro.distributions as dist
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pyro_vae.likelihoods.spec import Decoded, Likelihood
from pyro_vae.networks import Network, Shape


class Normal(Likelihood):
    """p(x | z) = N(x; D(z), sigma^2), sigma^2 = min_scale^2 + exp(rho) where it is learned.

    A learned single sigma^2 minimises d log sigma^2 + ||x - D(z)||^2 / sigma^2, whose optimum is the mean
    squared residual per entry; it starts at the variance of the training data, D at their mean.

    References:
        Simple and Effective VAE Training with Calibrated Decoders (Rybkin, Daniilidis & Levine, 2021).
    """

    kind: Literal["normal"] = "normal"
    scale: Annotated[float, Field(gt=0)] | Literal["learned", "per_pixel", "decoded"] = "learned"
    """sigma: a number; `learned`, one for all entries; `per_pixel`, one per entry; `decoded`, a second output."""
    min_scale: float = Field(1e-3, ge=0)
    """Lower bound of sigma: without one, a perfectly reconstructed pixel has an unbounded density."""

    @model_validator(mode="after")
    def _scale_is_above_the_floor(self) -> "Normal":
        if isinstance(self.scale, float | int) and self.scale < self.min_scale:
            raise ValueError(f"scale={self.scale} is below min_scale={self.min_scale}: lower min_scale")
        return self

    def build(self, network: Network, latent_dim: int, shape: Shape) -> "NormalLikelihood":
        """Build N(D(z), sigma^2)."""
        outputs = 2 if self.scale == "decoded" else 1
        return NormalLikelihood(Decoded(network, latent_dim, shape, outputs), self, shape)


class NormalLikelihood(nn.Module):
    """N(r_1, sigma^2)."""

    scale: Tensor

    def __init__(self, decoded: Decoded, spec: Normal, shape: Shape) -> None:
        super().__init__()
        self.decoded, self.min_scale = decoded, spec.min_scale
        self.log_variance: nn.Parameter | None = None
        self.is_decoded = spec.scale == "decoded"
        if spec.scale in ("learned", "per_pixel"):
            entries = shape.x if spec.scale == "per_pixel" else ()
            self.log_variance = nn.Parameter(torch.zeros(entries))
        elif not self.is_decoded:
            self.register_buffer("scale", torch.tensor(float(spec.scale)), persistent=False)

    def forward(self, z: Tensor, y: Tensor | None, given: Tensor | None) -> dist.Distribution:
        """p(x | z, y, given)."""
        loc, *rest = self.decoded(z, y, given)
        log_variance = rest[0] if rest else self.log_variance
        if log_variance is None:
            return dist.Normal(loc, self.scale)
        return dist.Normal(loc, (self.min_scale**2 + log_variance.exp()).sqrt())

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Start D at the mean of the data x (N, *event), a learned sigma^2 at their variance about it."""
        mean, variance = x.mean(0), x.var(0, correction=0)
        if self.log_variance is not None and self.log_variance.dim() == 0:
            variance = variance.mean()
        # An entry that never varies must not start so sharp that the first guesses cost thousands of nats.
        least = 0.01 * variance.mean() + self.min_scale**2 + 1e-8
        rho = (variance - self.min_scale**2).clamp_min(least).log()
        if self.log_variance is not None:
            self.log_variance.copy_(rho)
        self.decoded.start_at(*((mean, rho) if self.is_decoded else (mean,)))
