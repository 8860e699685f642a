"""Priors: p(z_l | z_{l+1}, y, given), one per entry of `latent`.

    prior(above, y, given) -> distribution with event (D_l,)

`above` is the latent of the layer above, None at the top. The distribution broadcasts over (C, K, B).
"""

from pyro_vae.priors.normal import StandardNormal
from pyro_vae.priors.spec import Prior
from pyro_vae.specs import Table

PRIORS = Table("prior", Prior, StandardNormal)

__all__ = ["PRIORS", "Prior", "StandardNormal"]
