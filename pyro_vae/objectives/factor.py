"""FactorVAE: the total correlation by a discriminator."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus

from pyro_vae.networks import Activation, dense, linear
from pyro_vae.objectives.aggregate import top_draws
from pyro_vae.objectives.bounds import standing_in
from pyro_vae.objectives.spec import Objective, Terms
from pyro_vae.objectives.terms import split, terms
from pyro_vae.sites import Batch
from pyro_vae.specs import Count, Seq
from pyro_vae.vae import VAE, densities
from pyro_vae.variant import Variant


class Factor(Objective):
    """-loss = ELBO - gamma TC(z), where TC(z) = KL(q(z) || prod_d q(z_d)) = E_q(z)[r(z)].

    r is a network that learns log q(z) / prod_d q(z_d) by telling draws of the batch from the same draws with each
    dimension permuted over the batch; it learns in the same step, and neither trains the other. The loss
    has the value of the equation alone.

    References:
        Disentangling by Factorising (Kim & Mnih, 2018).
    """

    kind: Literal["factor"] = "factor"
    bound: ClassVar[bool] = False
    gamma: float = Field(10.0, ge=0)
    """Weight of the total correlation."""
    widths: Seq[Count] = (1000, 1000, 1000, 1000, 1000, 1000)
    """Hidden layers of the discriminator."""
    activation: Activation = "leaky_relu"
    """Nonlinearity of those layers."""
    discriminator_learning_rate: float = Field(1.0, gt=0)
    """Learning rate of the discriminator, as a multiple of that of the training."""

    def misfits(self, variant: Variant) -> list[str]:
        """Categorical latents: what permutes their entries one by one leaves the simplex."""
        if not variant.guide.simplex:
            return []
        return ["objective.kind=factor: permutes each entry of z, and needs continuous latents; take another one."]

    def build(self, vae: VAE, num_data: int | None = None) -> "FactorLoss":
        """Build the loss and its discriminator."""
        return FactorLoss(vae, self)

    def learning_rates(self) -> dict[str, float]:
        """The discriminator's factor."""
        return {"discriminator.": self.discriminator_learning_rate}


class FactorLoss(nn.Module):
    """-ELBO + gamma r(z), and the gradient of the discriminator's cross-entropy."""

    def __init__(self, vae: VAE, spec: Factor) -> None:
        super().__init__()
        self.vae, self.spec = vae, spec
        dim = list(vae.variant.layers.values())[-1]
        layers, last = dense(dim, spec.widths, spec.activation), linear([dim, *spec.widths][-1], 1)
        some = next(vae.parameters())
        self.discriminator = nn.Sequential(*layers, last).to(some.device, some.dtype)

    def forward(self, batch: Batch, weights: dict[str, Tensor]) -> tuple[Tensor, Terms]:
        """Loss (nats per datum) and terms."""
        vae = self.vae
        d = densities(vae, batch)
        t = terms(*split(vae, d, closed_form=True), d, batch, vae.variant.rule)
        z = top_draws(vae, d).z
        held = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        loss = self.spec.gamma * functional_call(self.discriminator, held, (z,)).to(z.dtype).mean() - t.elbo.mean()
        return standing_in(loss, loss + self.cross_entropy(z.detach())), t

    def cross_entropy(self, z: Tensor) -> Tensor:
        """How badly the discriminator tells draws (B, D) from permuted ones, nats; log 2 if not at all."""
        permuted = z.gather(0, torch.rand_like(z).argsort(0))
        r, r_permuted = (self.discriminator(draws).to(z.dtype) for draws in (z, permuted))
        return 0.5 * (softplus(-r) + softplus(r_permuted)).mean()
