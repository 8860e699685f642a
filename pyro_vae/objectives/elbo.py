"""The ELBO."""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from pyro_vae.objectives.spec import Objective, Terms
from pyro_vae.objectives.terms import split, terms
from pyro_vae.specs import Count
from pyro_vae.vae import VAE, Batch, densities


class ELBO(Objective):
    """-loss = E_q[log p(x | z)] - beta KL(q(z | x) || p(z)), beta rising linearly over the warm-up.

    With missing labels the KL is that of (y, z) jointly.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014).
        beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework (Higgins et al., 2017).
        Ladder Variational Autoencoders (Soenderby et al., 2016), for the warm-up.
    """

    kind: Literal["elbo"] = "elbo"
    beta: float = Field(1.0, ge=0)
    """Weight of the KL; the ELBO at beta = 1 is logged beside the loss whatever it is."""
    warmup_epochs: float = Field(0.0, ge=0)
    """Epochs over which beta rises linearly from 0."""
    num_particles: Count = 1
    """Draws of z per datum and step, K."""
    kl: Literal["closed_form", "sampled"] = "closed_form"
    """`closed_form` where the pair of q and p has one and labels are not summed out, or always `sampled`."""

    def build(self, vae: VAE) -> "ELBOLoss":
        """Build the loss."""
        return ELBOLoss(vae, self)

    def weights(self, epoch: float) -> dict[str, float]:
        """{"beta": beta at this point}."""
        share = min(epoch / self.warmup_epochs, 1.0) if self.warmup_epochs else 1.0
        return {"beta": self.beta * share}

    def longest(self) -> float:
        """Epochs of warm-up."""
        return self.warmup_epochs


class ELBOLoss(nn.Module):
    """-(1/B) sum_b [E_q log p(x | z) - beta KL], with the ELBO at beta = 1 in the terms."""

    def __init__(self, vae: VAE, spec: ELBO) -> None:
        super().__init__()
        self.vae, self.spec = vae, spec

    def forward(self, batch: Batch, weights: dict[str, Tensor]) -> tuple[Tensor, Terms]:
        """Loss (nats per datum) and terms."""
        d = densities(self.vae, batch, self.spec.num_particles)
        reconstruction, rest, kl_per_dim = split(self.vae, d, self.spec.kl == "closed_form")
        t, beta = terms(reconstruction, rest, kl_per_dim, d, batch, self.vae.variant.rule), weights["beta"]
        return -((1 - beta) * t.reconstruction + beta * t.elbo).mean(), t  # reconstruction - beta kl
