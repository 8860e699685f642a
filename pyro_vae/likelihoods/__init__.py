"""Likelihoods: p(x | z, y, given), the decoder and its noise.

    likelihood(z, y, given) -> distribution over entries of x, batch (..., *event of x), event ()

The event is the smallest unit that can be missing; `vae.py` masks entries and sums over the datum.
r = decoder([z, y, given]) has shape (..., outputs, *event of x).
"""

from pyro_vae.likelihoods.bernoulli import Bernoulli, ContinuousBernoulli
from pyro_vae.likelihoods.normal import Normal
from pyro_vae.likelihoods.spec import Decoded, Likelihood, Support
from pyro_vae.specs import Table

LIKELIHOODS = Table("likelihood", Likelihood, Bernoulli, ContinuousBernoulli, Normal)

__all__ = ["LIKELIHOODS", "Bernoulli", "ContinuousBernoulli", "Decoded", "Likelihood", "Normal", "Support"]
