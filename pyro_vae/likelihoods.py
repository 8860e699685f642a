"""Likelihoods: p(x | z, y, given), the decoder and its noise.

    likelihood(z, y, given) -> distribution over entries of x, batch (..., *event of x), event ()

The event is the smallest unit that can be missing; `vae.py` masks entries and sums over the datum.
r = decoder([z, y, given]) has shape (..., outputs, *event of x).
"""

from typing import Annotated, ClassVar, Literal

import pyro.distributions as dist
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pyro_vae.networks import Network, Shape, join
from pyro_vae.specs import Part, Table

type Support = Literal["binary", "unit", "real"]


class Likelihood(Part):
    """Abstract spec of a likelihood."""

    supports: ClassVar[tuple[Support, ...]] = ("binary", "unit", "real")
    """Kinds of data that it is a density on."""
    discrete: ClassVar[bool] = False
    """Whether it gives probabilities, not densities; only of these can binary data have bits per dimension."""

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
        self.axis = -1 - len(shape.x)

    def forward(self, z: Tensor, y: Tensor | None, given: Tensor | None) -> tuple[Tensor, ...]:
        """The decoder's outputs."""
        return self.network(join(z, y, given)).unbind(self.axis)

    def start_at(self, *r: Tensor) -> None:
        """Begin with outputs around r_1, ..., each shaped like x, if the network knows how."""
        start = getattr(self.network, "start_at", None)
        if start is not None:
            start(torch.stack(r))


class Bernoulli(Likelihood):
    """p(x | z) = prod_i D_i(z)^x_i (1 - D_i(z))^(1 - x_i), D = sigmoid of the decoder.

    With `grey: true` x may lie anywhere in [0, 1]: this is then the cross-entropy of grey pixels, not a
    density (it does not integrate to one), so that no ELBO or log p(x) is reported.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014).
    """

    kind: Literal["bernoulli"] = "bernoulli"
    grey: bool = False
    """Allow grey pixels: cross-entropy, unnormalised."""

    supports: ClassVar[tuple[Support, ...]] = ("binary",)
    discrete: ClassVar[bool] = True

    @property
    def normalized(self) -> bool:
        """False for grey pixels."""
        return not self.grey

    def accepts(self, support: Support) -> str | None:
        """Grey data only as a declared cross-entropy."""
        if support == "binary" or (support == "unit" and self.grey):
            return None
        if support == "real":
            return "needs data in {0, 1}, and these are real-valued: use 'normal'."
        return (
            "needs data in {0, 1}, and these are grey: set data.binarize=dynamic, or use "
            "'continuous_bernoulli', or declare the unnormalised cross-entropy with grey=true."
        )

    def build(self, network: Network, latent_dim: int, shape: Shape) -> "BernoulliLikelihood":
        """Build Bernoulli(sigmoid(D(z)))."""
        return BernoulliLikelihood(Decoded(network, latent_dim, shape), self.grey)


class BernoulliLikelihood(nn.Module):
    """Bernoulli(sigmoid(r))."""

    def __init__(self, decoded: Decoded, grey: bool) -> None:
        super().__init__()
        self.decoded, self.grey = decoded, grey

    def forward(self, z: Tensor, y: Tensor | None, given: Tensor | None) -> dist.Distribution:
        """p(x | z, y, given)."""
        (logits,) = self.decoded(z, y, given)
        return dist.Bernoulli(logits=logits, validate_args=False if self.grey else None)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Start every entry at its share of ones in the data x (N, *event), no logit beyond 7.

        References:
            Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2016), whose models start so.
        """
        self.decoded.start_at(x.mean(0).clamp(1e-3, 1 - 1e-3).logit())


class ContinuousBernoulli(Likelihood):
    """p(x | z) = prod_i C(D_i) D_i^x_i (1 - D_i)^(1 - x_i) on [0, 1], normalised by C.

    C grows without bound as D goes to 0 or 1. torch takes it of a D that is kept one rounding unit away from
    both, so that beyond |logit D| = 16 (in float32) the density integrates to a little less than one: log p is
    then bounded, and too low, never too high.

    References:
        The continuous Bernoulli: fixing a pervasive error in variational autoencoders
        (Loaiza-Ganem & Cunningham, 2019).
    """

    kind: Literal["continuous_bernoulli"] = "continuous_bernoulli"

    supports: ClassVar[tuple[Support, ...]] = ("unit",)

    def accepts(self, support: Support) -> str | None:
        """Grey data in [0, 1] only: on binary data the density is unbounded as D goes to 0 or 1."""
        if support == "binary":
            return "is a density on grey data in [0, 1], and these are binary: use 'bernoulli'."
        return "needs data in [0, 1], and these are real-valued: use 'normal'." if support == "real" else None

    def build(self, network: Network, latent_dim: int, shape: Shape) -> "ContinuousBernoulliLikelihood":
        """Build ContinuousBernoulli(sigmoid(D(z)))."""
        return ContinuousBernoulliLikelihood(Decoded(network, latent_dim, shape))


class ContinuousBernoulliLikelihood(nn.Module):
    """ContinuousBernoulli(sigmoid(r))."""

    def __init__(self, decoded: Decoded) -> None:
        super().__init__()
        self.decoded = decoded

    def forward(self, z: Tensor, y: Tensor | None, given: Tensor | None) -> dist.Distribution:
        """p(x | z, y, given)."""
        (logits,) = self.decoded(z, y, given)
        return dist.ContinuousBernoulli(logits=logits)


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


LIKELIHOODS = Table("likelihood", Likelihood, Bernoulli, ContinuousBernoulli, Normal)
