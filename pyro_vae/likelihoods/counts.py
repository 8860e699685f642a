"""Likelihoods of counts 0, 1, 2, ...: Poisson and negative binomial, with more zeros or without."""

import math
from typing import Annotated, ClassVar, Literal

import pyro.distributions as dist
import torch
from pydantic import Field
from torch import Tensor, nn

from pyro_vae.likelihoods.spec import Decoded, Likelihood, Support
from pyro_vae.networks import Network, Shape
from pyro_vae.specs import DeclarationError

Dispersion = Annotated[float, Field(gt=0, le=1e4)] | Literal["learned", "per_entry", "decoded"]

HIGHEST = 20.0
"""Most that the log of a mean can be: exp(20) = 5e8, beyond which float32 holds no counts anyway."""
LEAST_RATE = 1e-8
"""Added to a Poisson rate, so that a count where the rate has vanished has a finite log probability."""
LOG_DISPERSION = (math.log(1e-4), math.log(1e4))
"""Range of log theta: above it the negative binomial is a Poisson, and float32 loses the difference."""


class Counts(Likelihood):
    """Abstract spec of a likelihood of counts."""

    supports: ClassVar[tuple[Support, ...]] = ("counts",)
    discrete: ClassVar[bool] = True

    def accepts(self, support: Support) -> str | None:
        """Counts only."""
        if support == "counts":
            return None
        found = {"real": "real-valued", "unit": "any number in [0, 1]", "levels": "grey levels"}.get(support, support)
        use = {
            "binary": "use 'bernoulli'",
            "levels": "use 'discretized_logistic' or 'categorical'",
            "unit": "use 'continuous_bernoulli'",
        }.get(support, "use 'normal', or leave out data.standardize where these are counts")
        return f"needs counts 0, 1, 2, ..., and these are {found}: {use}."


class Poisson(Counts):
    """Counts: P(x | z) = prod_i m_i^x_i exp(-m_i) / x_i!, m = exp(D(z)) + 1e-8.

    exp(D) is kept below exp(20). With `library: true`, m = library softmax(D(z)) + 1e-8: how much a datum holds
    in all is given, and D says how that is shared out. D starts at the mean of the training data.

    References:
        Deep Exponential Families (Ranganath, Tang, Charlin & Blei, 2015).
    """

    kind: Literal["poisson"] = "poisson"
    library: bool = False
    """The last covariate of a datum is the log of its library size: the total that its entries share out."""

    def build(self, network: Network, latent_dim: int, shape: Shape) -> "CountLikelihood":
        """Build Poisson(m)."""
        return CountLikelihood(network, latent_dim, shape, self.library)


class NegativeBinomial(Counts):
    """Counts that vary more than a Poisson's: P(x | z) = prod_i NB(x_i; m_i, theta), Var[x] = m + m^2 / theta.

        NB(x; m, theta) = Gamma(x + theta) / (Gamma(theta) x!) (theta / (theta + m))^theta (m / (theta + m))^x

    m = exp(D(z)), kept below exp(20). With `library: true`, m = library softmax(D(z)): how much a datum holds in
    all is given, and D says how that is shared out. theta = exp(rho) where it is learned, kept within
    [1e-4, 1e4]. Both start at the moments of the training data.

    References:
        Deep generative modeling for single-cell transcriptomics (Lopez, Regier, Cole, Jordan & Yosef, 2018).
    """

    kind: Literal["negative_binomial"] = "negative_binomial"
    dispersion: Dispersion = "per_entry"
    """theta: a number; `learned`, one for all; `per_entry`, one for each entry; `decoded`, a second output."""
    library: bool = False
    """The last covariate of a datum is the log of its library size: the total that its entries share out."""

    def build(self, network: Network, latent_dim: int, shape: Shape) -> "CountLikelihood":
        """Build NB(m, theta)."""
        return CountLikelihood(network, latent_dim, shape, self.library, self.dispersion)


class ZeroInflatedPoisson(Counts):
    """Counts with more zeros than a Poisson's: P(x | z) = g [x = 0] + (1 - g) Poisson(x; m), for each entry.

    m = exp(D_1(z)) + 1e-8, kept below exp(20), or library softmax(D_1(z)) + 1e-8 with `library: true`;
    g = sigmoid(D_2(z)). Both start at the mean and the share of zeros of the training data.

    References:
        Zero-Inflated Poisson Regression, with an Application to Defects in Manufacturing (Lambert, 1992).
    """

    kind: Literal["zero_inflated_poisson"] = "zero_inflated_poisson"
    library: bool = False
    """The last covariate of a datum is the log of its library size: the total that its entries share out."""

    def build(self, network: Network, latent_dim: int, shape: Shape) -> "CountLikelihood":
        """Build g [x = 0] + (1 - g) Poisson(m)."""
        return CountLikelihood(network, latent_dim, shape, self.library, inflated=True)


class ZeroInflatedNegativeBinomial(Counts):
    """Counts with more zeros than a negative binomial's: P(x | z) = g [x = 0] + (1 - g) NB(x; m, theta).

    m = exp(D_1(z)), kept below exp(20), or library softmax(D_1(z)) with `library: true`; g = sigmoid of the last
    output; theta = exp(rho) where it is learned, kept within [1e-4, 1e4]. All start at the moments and the share
    of zeros of the training data.

    References:
        Deep generative modeling for single-cell transcriptomics (Lopez, Regier, Cole, Jordan & Yosef, 2018).
    """

    kind: Literal["zero_inflated_negative_binomial"] = "zero_inflated_negative_binomial"
    dispersion: Dispersion = "per_entry"
    """theta: a number; `learned`, one for all; `per_entry`, one for each entry; `decoded`, a second output."""
    library: bool = False
    """The last covariate of a datum is the log of its library size: the total that its entries share out."""

    def build(self, network: Network, latent_dim: int, shape: Shape) -> "CountLikelihood":
        """Build g [x = 0] + (1 - g) NB(m, theta)."""
        return CountLikelihood(network, latent_dim, shape, self.library, self.dispersion, inflated=True)


class CountLikelihood(nn.Module):
    """Poisson or negative binomial (where there is a dispersion) of mean m, with a gate where it is inflated."""

    log_theta: Tensor | nn.Parameter

    def __init__(
        self,
        network: Network,
        latent_dim: int,
        shape: Shape,
        library: bool,
        dispersion: Dispersion | None = None,
        inflated: bool = False,
    ) -> None:
        """Build the decoder and the dispersion.

        Args:
            network: declares the decoder; it does not see the library size.
            latent_dim: dimension of z.
            shape: of the data.
            library: whether the last covariate is the log of the library size.
            dispersion: where theta comes from; None for a Poisson.
            inflated: whether there is a gate.

        Raises:
            DeclarationError: a library size without covariates.
        """
        super().__init__()
        if library and not shape.given:
            raise DeclarationError(
                [
                    "library=true: the data have no covariates; add the log of each datum's library size as the "
                    "last one (data.given), or leave out library."
                ]
            )
        self.library, self.dispersion, self.inflated = library, dispersion, inflated
        self.entries = len(shape.x)
        outputs = 1 + (dispersion == "decoded") + inflated
        self.decoded = Decoded(network, latent_dim, shape._replace(given=shape.given - library), outputs)
        if dispersion in ("learned", "per_entry"):
            self.log_theta = nn.Parameter(torch.zeros(shape.x if dispersion == "per_entry" else ()))
        elif isinstance(dispersion, float | int):
            self.register_buffer("log_theta", torch.tensor(math.log(dispersion)), persistent=False)

    def forward(self, z: Tensor, y: Tensor | None, given: Tensor | None) -> dist.Distribution:
        """p(x | z, y, given)."""
        library = None
        if self.library:
            if given is None:
                raise ValueError("the library size is missing: give its logarithm as the last covariate.")
            library = given[..., -1].reshape(*given.shape[:-1], *(1 for _ in range(self.entries)))
            given = given[..., :-1] if given.shape[-1] > 1 else None
        r, *rest = self.decoded(z, y, given)
        log_mean = r.clamp_max(HIGHEST)
        if library is not None:
            shares = r.flatten(-self.entries).log_softmax(-1)
            log_mean = library + shares.unflatten(-1, r.shape[-self.entries :])
        gate = rest[-1] if self.inflated else None
        p: dist.Distribution
        if self.dispersion is None:
            p = dist.Poisson(log_mean.exp() + LEAST_RATE)
        else:
            log_theta = (rest[0] if self.dispersion == "decoded" else self.log_theta).clamp(*LOG_DISPERSION)
            p = dist.NegativeBinomial(log_theta.exp(), logits=log_mean - log_theta)
        return p if gate is None else dist.ZeroInflatedDistribution(p, gate_logits=gate)

    @staticmethod
    def for_encoder(x: Tensor) -> Tensor:
        """log(1 + x): raw counts of some hundreds drive a guide, and so exp(D(z)), out of every bound."""
        return x.clamp_min(0).log1p()

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Start at the mean, the variance and the share of zeros of the data x (N, *event)."""
        mean, variance = x.mean(0).clamp_min(1e-2), x.var(0, correction=0)
        start = []
        if self.inflated:  # g = the zeros beyond a Poisson's; (1 - g) m stays the mean
            gate = ((x == 0).to(x.dtype).mean(0) - (-mean).exp()).clamp(0.01, 0.9)
            start, mean = [gate.logit()], mean / (1 - gate)
        if self.dispersion is not None:
            theta = mean.square() / (variance - mean).clamp_min(1e-2 * mean)
            rho = theta.clamp(0.1, 100).log()
            if self.dispersion == "decoded":
                start.insert(0, rho)
            elif isinstance(self.log_theta, nn.Parameter):
                self.log_theta.copy_(rho if self.dispersion == "per_entry" else rho.mean())
        self.decoded.start_at(mean.log(), *start)
