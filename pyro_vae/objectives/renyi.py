"""Renyi's divergence in place of the KL."""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from pyro_vae.objectives.bounds import per_datum, power_mean
from pyro_vae.objectives.spec import Objective, Terms
from pyro_vae.objectives.terms import plain_terms
from pyro_vae.sites import Batch
from pyro_vae.specs import Count
from pyro_vae.vae import VAE, densities


class Renyi(Objective):
    """-loss = 1/(1 - alpha) log (1/K) sum_k w_k^(1 - alpha), per datum, w = p(x, z) / q(z | x).

    alpha = 0 is the IWAE, alpha = 1 the ELBO; between them and beyond, the bound falls as alpha grows. Negative
    alpha is not offered: with a finite number of draws it bounds log p from no side.

    References:
        Renyi Divergence Variational Inference (Li & Turner, 2016).
    """

    kind: Literal["renyi"] = "renyi"
    alpha: float = Field(0.5, ge=0)
    """Order of the divergence."""
    num_particles: Count = 50
    """Draws of z per datum and step, K."""

    def build(self, vae: VAE, num_data: int | None = None) -> "RenyiLoss":
        """Build the loss."""
        return RenyiLoss(vae, self)


class RenyiLoss(nn.Module):
    """-(1/B) sum_b of the bound; labels as in the IWAE."""

    def __init__(self, vae: VAE, spec: Renyi) -> None:
        super().__init__()
        self.vae, self.spec = vae, spec

    def forward(self, batch: Batch, weights: dict[str, Tensor]) -> tuple[Tensor, Terms]:
        """Loss (nats per datum) and terms."""
        d = densities(self.vae, batch, self.spec.num_particles)
        alpha = self.spec.alpha
        found = per_datum(d.log_w, d, batch, self.vae.variant.rule, lambda log_w: power_mean(log_w, alpha))
        return -found.mean(), plain_terms(self.vae, d, batch)
