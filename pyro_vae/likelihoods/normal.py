"""The normal likelihood, its variance fixed, learned or decoded."""

from typing import Literal

import pyro.distributions as dist
from pydantic import model_validator

from pyro_vae.likelihoods.location_scale import LocationScale, MinScale, Scale, scale_above_floor
from pyro_vae.likelihoods.spec import Likelihood
from pyro_vae.networks import Network, Shape


class Normal(Likelihood):
    """p(x | z) = N(x; D(z), sigma^2), sigma^2 = min_scale^2 + exp(rho) where it is learned.

    A learned single sigma^2 minimises d log sigma^2 + ||x - D(z)||^2 / sigma^2, whose optimum is the mean
    squared residual per entry; it starts at the variance of the training data, D at their mean.

    References:
        Simple and Effective VAE Training with Calibrated Decoders (Rybkin, Daniilidis & Levine, 2021).
    """

    kind: Literal["normal"] = "normal"
    scale: Scale = "learned"
    """sigma: a number; `learned`, one for all entries; `per_pixel`, one per entry; `decoded`, a second output."""
    min_scale: MinScale = 1e-3
    """Lower bound of sigma: without one, a perfectly reconstructed pixel has an unbounded density."""

    @model_validator(mode="after")
    def _scale_is_above_the_floor(self) -> "Normal":
        scale_above_floor(self.scale, self.min_scale)
        return self

    def build(self, network: Network, latent_dim: int, shape: Shape) -> LocationScale:
        """Build N(D(z), sigma^2)."""
        return LocationScale(network, latent_dim, shape, dist.Normal, self.scale, self.min_scale)
