"""Priors: p(z_l | z_{l+1}, y, given), one per entry of `latent`.

    prior(above, y, given) -> distribution with event (D_l,)

`above` is the latent of the layer above, None at the top. The distribution broadcasts over (C, K, B).
"""

from pyro_vae.priors.categorical import CategoricalPrior
from pyro_vae.priors.flow import FlowPrior
from pyro_vae.priors.mixture import Mixture, Vamp
from pyro_vae.priors.normal import LearnedNormal, StandardNormal
from pyro_vae.priors.spec import Conditioned, Prior
from pyro_vae.specs import Table

PRIORS = Table("prior", Prior, StandardNormal, LearnedNormal, Mixture, Vamp, FlowPrior, CategoricalPrior)

__all__ = [
    "PRIORS",
    "CategoricalPrior",
    "Conditioned",
    "FlowPrior",
    "LearnedNormal",
    "Mixture",
    "Prior",
    "StandardNormal",
    "Vamp",
]
