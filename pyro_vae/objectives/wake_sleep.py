"""Reweighted wake-sleep."""

import math
from typing import Any, Literal

import torch
from pydantic import Field
from pyro import poutine
from torch import Tensor, nn

from pyro_vae.objectives.bounds import standing_in
from pyro_vae.objectives.spec import Objective, Terms, scored_twice
from pyro_vae.objectives.terms import plain_terms
from pyro_vae.sites import Batch, total
from pyro_vae.specs import Count
from pyro_vae.vae import VAE, densities, label_cells
from pyro_vae.variant import Variant


class ReweightedWakeSleep(Objective):
    """-loss = log (1/K) sum_k w_k by value; model and guide each follow a gradient of their own.

        model:    sum_k v_k d log p(x, z_k) / dtheta,    v_k = w_k / sum_j w_j
        guide:    sum_k v_k d log q(z_k | x) / dphi      (wake), or d log q(z | x~) / dphi with z, x~ ~ p  (sleep)

    No gradient goes through a draw. The guide's is not that of the loss: it lowers KL(p(z | x) || q(z | x)). Missing
    labels belong to z: v runs over classes and draws, and q(y | x) learns by it too. What a head makes of the prior
    (ladders) trains the prior as a part of the guide.

    References:
        Reweighted Wake-Sleep (Bornschein & Bengio, 2015).
    """

    kind: Literal["reweighted_wake_sleep"] = "reweighted_wake_sleep"
    num_particles: Count = 50
    """Draws of z per datum and step, K."""
    sleep: float = Field(0.0, ge=0, le=1)
    """Share of the sleep phase in the guide's gradient; the wake phase has the rest."""

    def build(self, vae: VAE, num_data: int | None = None) -> "ReweightedWakeSleepLoss":
        """Build the loss."""
        return ReweightedWakeSleepLoss(vae, self)

    def misfits(self, variant: Variant) -> list[str]:
        """Dropout, because the encoder runs twice; guides without a density, because it is what learns."""
        found = scored_twice(variant, "kind=reweighted_wake_sleep")
        if not variant.guide.density:
            found.append(
                "objective.kind=reweighted_wake_sleep: trains the guide by its density, and variant.guide has none; "
                "take another guide or objective."
            )
        return found


class ReweightedWakeSleepLoss(nn.Module):
    """The value of the IWAE with summed labels, the gradients of wake and sleep."""

    def __init__(self, vae: VAE, spec: ReweightedWakeSleep) -> None:
        super().__init__()
        self.vae, self.spec = vae, spec

    def forward(self, batch: Batch, weights: dict[str, Tensor]) -> tuple[Tensor, Terms]:
        """Loss (nats per datum) and terms."""
        K, sleep = self.spec.num_particles, self.spec.sleep
        drawn = densities(self.vae, batch, K, freeze={"model", "guide"})
        d = densities(self.vae, batch, K, {name: drawn.q[name].value.detach() for name in self.vae.variant.layers})
        over = (-3, -2) if d.labels else -2
        log_w = d.log_w.detach()
        log_total = log_w.logsumexp(over, keepdim=True)
        v = (log_w - log_total).exp()
        log_p, log_q = (total(site.log_prob for site in sites.values()) for sites in (d.p, d.q))
        gradient = (v * (log_p + (1 - sleep) * log_q)).sum(over).mean()
        if sleep:
            gradient = gradient + sleep * self._dream(batch).mean()
        return -standing_in((log_total - math.log(K)).mean(), gradient), plain_terms(self.vae, d, batch)

    def _dream(self, batch: Batch) -> Tensor:
        """log q(y, z | x~) (B,) of z, x~ and missing labels drawn from the model; what is given stays given."""
        variant, y = self.vae.variant, batch.y
        if y is not None and variant.missing:
            columns = zip(variant.labels, y.reshape(batch.size, -1).unbind(-1), strict=True)
            y = torch.stack([torch.full_like(c, -1) if name in variant.missing else c for name, c in columns], -1)
        with torch.no_grad():
            sites = poutine.trace(self.vae.model).get_trace(Batch(None, y, None, batch.given, batch.size)).nodes
        value: dict[str, Any] = {name: sites[name]["value"] for name in ("x", *variant.layers, *variant.missing)}
        seen = Batch(value["x"], y, batch.mask, batch.given)
        q = densities(self.vae, seen, 1, {name: value[name] for name in variant.layers}).q
        log_q = total(site.log_prob for site in q.values())
        for name, cell in label_cells(self.vae).items():
            log_q = torch.where(cell == value[name], log_q, torch.zeros_like(log_q))
        return log_q.sum(tuple(range(log_q.dim() - 1)))
