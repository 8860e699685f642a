"""Likelihoods: p(x | z, y, given), the decoder and its noise.

    likelihood(z, y, given) -> distribution over entries of x, batch (..., *event of x), event ()

The event is the smallest unit that can be missing; `vae.py` masks entries and sums over the datum. Where entries are
not independent given z the event is the whole datum, and the distribution has `marginal(mask)`.
r = decoder([z, y, given]) has shape (..., outputs, *event of x).
"""

from pyro_vae.likelihoods.bernoulli import Bernoulli, ContinuousBernoulli
from pyro_vae.likelihoods.continuous import Laplace, StudentT
from pyro_vae.likelihoods.counts import (
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)
from pyro_vae.likelihoods.levels import Categorical, DiscretizedLogistic
from pyro_vae.likelihoods.mixed import COLUMNS, Mixed, Several
from pyro_vae.likelihoods.multivariate import MultivariateNormal
from pyro_vae.likelihoods.normal import Normal
from pyro_vae.likelihoods.perceptual import Perceptual
from pyro_vae.likelihoods.spec import Decoded, Likelihood, Support
from pyro_vae.specs import Table

LIKELIHOODS = Table(
    "likelihood",
    Likelihood,
    Bernoulli,
    ContinuousBernoulli,
    Normal,
    Laplace,
    StudentT,
    MultivariateNormal,
    DiscretizedLogistic,
    Categorical,
    Poisson,
    NegativeBinomial,
    ZeroInflatedPoisson,
    ZeroInflatedNegativeBinomial,
    Mixed,
    Perceptual,
)

__all__ = [
    "COLUMNS",
    "LIKELIHOODS",
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "Decoded",
    "DiscretizedLogistic",
    "Laplace",
    "Likelihood",
    "Mixed",
    "MultivariateNormal",
    "NegativeBinomial",
    "Normal",
    "Perceptual",
    "Poisson",
    "Several",
    "StudentT",
    "Support",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
]
