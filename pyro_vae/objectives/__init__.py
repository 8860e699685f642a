"""Objectives: what training minimises, over the one density function.

    objective(vae).forward(batch, weights) -> (loss, terms)

`loss` is in nats per datum. `weights` are tensors, because numbers that change are baked into a recorded
graph. `terms` holds, per datum (B,): the ELBO at beta = 1, its two halves (elbo = reconstruction - kl), log p
and log q of each site, and the KL of each latent dimension (B, D).
"""

from pyro_vae.objectives.elbo import ELBO
from pyro_vae.objectives.spec import Objective, Terms
from pyro_vae.objectives.terms import split, terms
from pyro_vae.specs import Table

OBJECTIVES = Table("objective", Objective, ELBO)

__all__ = ["ELBO", "OBJECTIVES", "Objective", "Terms", "split", "terms"]
