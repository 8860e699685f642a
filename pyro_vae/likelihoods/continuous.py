"""Likelihoods with heavier tails than the normal: Laplace and Student's t."""

import math
from typing import Annotated, Literal

import pyro.distributions as dist
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pyro_vae.likelihoods.location_scale import LocationScale, MinScale, Scale, scale_above_floor
from pyro_vae.likelihoods.spec import Likelihood
from pyro_vae.networks import Network, Shape

MOST_DF = 1000.0
"""Beyond it Student's t is a normal, and float32 loses the difference of two large log-gamma functions."""


class Laplace(Likelihood):
    """p(x | z) = prod_i exp(-|x_i - D_i(z)| / b) / (2 b), b^2 = min_scale^2 + exp(rho) where it is learned.

    The absolute error in place of the squared one: D(z) is the median, and a learned single b is the mean
    absolute residual. It starts at the variance of the training data, 2 b^2, and D at their mean.

    References:
        Loss Functions for Image Restoration with Neural Networks (Zhao, Gallo, Frosio & Kautz, 2017).
    """

    kind: Literal["laplace"] = "laplace"
    scale: Scale = "learned"
    """b: a number; `learned`, one for all entries; `per_pixel`, one per entry; `decoded`, a second output."""
    min_scale: MinScale = 1e-3
    """Lower bound of b: without one, a perfectly reconstructed pixel has an unbounded density."""

    @model_validator(mode="after")
    def _scale_is_above_the_floor(self) -> "Laplace":
        scale_above_floor(self.scale, self.min_scale)
        return self

    def build(self, network: Network, latent_dim: int, shape: Shape) -> LocationScale:
        """Build Laplace(D(z), b)."""
        return LocationScale(network, latent_dim, shape, dist.Laplace, self.scale, self.min_scale, variance=2.0)


class StudentT(Likelihood):
    """p(x | z) = prod_i t(x_i; df, D_i(z), s): a normal whose variance is itself random, for data with outliers.

    t(x; df, m, s) ~ (1 + (x - m)^2 / (df s^2))^(-(df + 1) / 2) / s, with s^2 = min_scale^2 + exp(rho) where it
    is learned. A learned df is 1 + exp(eta), at most 1001, where t is a normal for all that can be measured; it
    starts at 10. s starts where the variance is that of the training data, D at their mean.

    References:
        Student-t Variational Autoencoder for Robust Density Estimation (Takahashi et al., 2018).
    """

    kind: Literal["student_t"] = "student_t"
    df: Annotated[float, Field(gt=1, le=MOST_DF)] | Literal["learned"] = "learned"
    """Degrees of freedom, above 1 so that there is a mean: a number; `learned`, one for all entries."""
    scale: Scale = "learned"
    """s: a number; `learned`, one for all entries; `per_pixel`, one per entry; `decoded`, a second output."""
    min_scale: MinScale = 1e-3
    """Lower bound of s: without one, a perfectly reconstructed pixel has an unbounded density."""

    @model_validator(mode="after")
    def _scale_is_above_the_floor(self) -> "StudentT":
        scale_above_floor(self.scale, self.min_scale)
        return self

    def build(self, network: Network, latent_dim: int, shape: Shape) -> LocationScale:
        """Build t(df, D(z), s)."""
        start = 10.0 if self.df == "learned" else max(float(self.df), 3.0)  # at df <= 2 there is no variance
        noise, variance = StudentTNoise(self.df), start / (start - 2)
        return LocationScale(network, latent_dim, shape, noise, self.scale, self.min_scale, variance)


class StudentTNoise(nn.Module):
    """t(df, location, scale) with df a number or 1 + exp(eta)."""

    df: Tensor

    def __init__(self, df: float | Literal["learned"]) -> None:
        super().__init__()
        self.eta = nn.Parameter(torch.tensor(math.log(9.0))) if df == "learned" else None
        if df != "learned":
            self.register_buffer("df", torch.tensor(float(df)), persistent=False)

    def forward(self, loc: Tensor, scale: Tensor) -> dist.Distribution:
        """The distribution."""
        df = self.df if self.eta is None else 1 + self.eta.clamp_max(math.log(MOST_DF)).exp()
        return dist.StudentT(df, loc, scale)
