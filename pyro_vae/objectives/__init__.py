"""Objectives: what training minimises, over the one density function.

    objective(vae).forward(batch, weights) -> (loss, terms)

`loss` is in nats per datum. `weights` are tensors, because numbers that change are baked into a recorded
graph. `terms` holds, per datum (B,): the ELBO at beta = 1, its two halves (elbo = reconstruction - kl), log p
and log q of each site, the KL of each layer, and of each latent dimension (B, D).

Objectives are of two kinds. Those with `bound = True` bound log p per datum, whatever the batch; the others
regularise the aggregate posterior, depend on the batch as a whole, and bound nothing.
"""

from pyro_vae.objectives.aggregate import MMD, BetaTC
from pyro_vae.objectives.elbo import ELBO, Capacity
from pyro_vae.objectives.factor import Factor
from pyro_vae.objectives.importance import IWAE, DReG
from pyro_vae.objectives.renyi import Renyi
from pyro_vae.objectives.spec import Objective, Terms
from pyro_vae.objectives.terms import split, terms
from pyro_vae.objectives.wake_sleep import ReweightedWakeSleep
from pyro_vae.specs import Table

OBJECTIVES = Table("objective", Objective, ELBO, IWAE, DReG, Renyi, ReweightedWakeSleep, BetaTC, Factor, MMD)

__all__ = [
    "ELBO",
    "IWAE",
    "MMD",
    "OBJECTIVES",
    "BetaTC",
    "Capacity",
    "DReG",
    "Factor",
    "Objective",
    "Renyi",
    "ReweightedWakeSleep",
    "Terms",
    "split",
    "terms",
]
