"""Bounds of several importance samples: IWAE and its kin, and the doubly reparameterised gradient."""

import math
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from pyro_vae.objectives.bounds import grouped, log_mean, per_datum, standing_in
from pyro_vae.objectives.spec import Objective, Terms, scored_twice
from pyro_vae.objectives.terms import held, plain_terms
from pyro_vae.sites import Batch, Densities, Site, without_labels
from pyro_vae.specs import Count
from pyro_vae.vae import VAE, densities
from pyro_vae.variant import Variant


class IWAE(Objective):
    """-loss = (1/M) sum_m log (1/K) sum_k w_mk, w = p(x, z_mk) / q(z_mk | x): M groups of K importance samples.

    `groups: 1` is the IWAE, more are the MIWAE; `mix: s` is the CIWAE, s ELBO + (1 - s) IWAE; `guide_gradient: miwae`
    is the PIWAE, which trains the model by the IWAE of all M K samples and the guide by the MIWAE. There is no weight
    of the KL: with another than 1 nothing would be bounded. Missing labels are summed in every weight (rule `sum`),
    or the bound is taken for each class and averaged with q(y | x) (rule `guide`).

    References:
        Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2016).
        Tighter Variational Bounds are Not Necessarily Better (Rainforth et al., 2018), for MIWAE, CIWAE, PIWAE.
    """

    kind: Literal["iwae"] = "iwae"
    num_particles: Count = 50
    """Draws of z in each group, K."""
    groups: Count = 1
    """Groups, M: M K draws per datum and step."""
    mix: float = Field(0.0, ge=0, le=1)
    """Share of the ELBO in the bound."""
    guide_gradient: Literal["same", "miwae"] = "same"
    """What the guide is trained by: the `same` bound as the model; or `miwae`, the model then by the IWAE of all."""
    gradient: Literal["plain"] = "plain"
    """The reparameterised gradient; for one of lower variance take the objective `dreg`."""

    @field_validator("gradient", mode="before")
    @classmethod
    def _unbiased(cls, value: Any) -> Any:
        if value == "stl":
            raise ValueError(
                "gradient='stl': is biased for more than one importance sample, since the part that it leaves out "
                "no longer has mean 0; take objective dreg"
            )
        return value

    @model_validator(mode="after")
    def _fields_fit(self) -> "IWAE":
        if self.guide_gradient == "miwae" and self.groups == 1:
            raise ValueError("guide_gradient='miwae': is the same bound with one group; give groups too, like 8")
        if self.guide_gradient == "miwae" and self.mix:
            raise ValueError(f"mix={self.mix:g}: has no place beside guide_gradient: miwae; choose one of them")
        return self

    def draws(self) -> int:
        """M K."""
        return self.groups * self.num_particles

    def build(self, vae: VAE, num_data: int | None = None) -> "IWAELoss":
        """Build the loss."""
        return IWAELoss(vae, self)


class IWAELoss(nn.Module):
    """-(1/B) sum_b of the bound that the spec declares."""

    def __init__(self, vae: VAE, spec: IWAE) -> None:
        super().__init__()
        self.vae, self.spec = vae, spec

    def forward(self, batch: Batch, weights: dict[str, Tensor]) -> tuple[Tensor, Terms]:
        """Loss (nats per datum) and terms."""
        vae, spec, rule = self.vae, self.spec, self.vae.variant.rule
        total = spec.draws()

        def bound(log_w: Tensor) -> Tensor:
            found = grouped(log_w, spec.groups)
            return spec.mix * log_w.mean(-2, keepdim=True) + (1 - spec.mix) * found if spec.mix else found

        if spec.guide_gradient == "same":
            d = densities(vae, batch, total)
            found = per_datum(d.log_w, d, batch, rule, bound)
        else:
            q = densities(vae, batch, total, freeze={"model"})
            for_guide = per_datum(q.log_w, q, batch, rule, bound)
            d = for_model(vae, batch, q, total)
            found = per_datum(d.log_w, d, batch, rule, log_mean)
            found = standing_in(found, found + for_guide)
        return -found.mean(), plain_terms(vae, d, batch)


def for_model(vae: VAE, batch: Batch, d: Densities, num_particles: int) -> Densities:
    """The same draws as constants: only the model's own densities carry a gradient."""
    latents = {name: d.q[name].value.detach() for name in vae.variant.layers}
    p = densities(vae, batch, num_particles, latents, freeze={"guide"}).p
    return Densities(p, {name: Site(s.fn, s.value, s.log_prob.detach()) for name, s in d.q.items()}, d.labels)


class DReG(Objective):
    """-loss = log (1/K) sum_k w_k, the IWAE, with a gradient of the guide that does not drown in noise as K grows.

        d/dphi = E sum_k v_k^2 (d log w_k / dz_k) (dz_k / dphi),    v_k = w_k / sum_j w_j

    and the model's gradient as ever. With one particle it is that of sticking the landing. Classes that are summed out
    share the normalisation of v with the particles.

    References:
        Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives (Tucker et al., 2019).
    """

    kind: Literal["dreg"] = "dreg"
    num_particles: Count = 50
    """Draws of z per datum and step, K."""

    def build(self, vae: VAE, num_data: int | None = None) -> "DReGLoss":
        """Build the loss."""
        return DReGLoss(vae, self)

    def misfits(self, variant: Variant) -> list[str]:
        """What makes the second run of the guide another one; labels that the gradient would weigh wrongly."""
        prior_alone = [
            name
            for name, label in variant.missing.items()
            if label.rule == "sum" and "prior" in label.conditions and "encoder" not in label.conditions
        ]
        found = scored_twice(variant, "kind=dreg")
        if prior_alone and len(variant.layers) > 1 and any(variant.guide.combines(top) for top in (False, True)):
            found.append(
                f"objective.kind=dreg: is biased where a label ({prior_alone[0]}) enters the guide by the prior alone; "
                "add encoder to its conditions, or take 'iwae'."
            )
        return found


class DReGLoss(nn.Module):
    """The value of the IWAE, the doubly reparameterised gradient."""

    def __init__(self, vae: VAE, spec: DReG) -> None:
        super().__init__()
        self.vae, self.spec = vae, spec

    def forward(self, batch: Batch, weights: dict[str, Tensor]) -> tuple[Tensor, Terms]:
        """Loss (nats per datum) and terms."""
        K, by_class = self.spec.num_particles, self.vae.variant.rule == "guide"
        v: list[Tensor] = []  # known only when the draws have been scored, needed only in the backward pass
        drawn = densities(self.vae, batch, K)
        latents = {}
        for name in self.vae.variant.layers:
            z = drawn.q[name].value
            if drawn.labels and by_class:  # one copy for each class: each has weights of its own
                z = z.expand(self.vae.variant.cells, *z.shape[-3:])
            latents[name] = z.clone()
            if z.requires_grad:
                latents[name].register_hook(lambda g: g * v[0].sum_to_size(g.shape[:-1])[..., None])
        d = held(self.vae, batch, drawn, latents, K)
        log_w = d.log_w
        over = -2 if by_class or not d.labels else (-3, -2)
        total = log_w.logsumexp(over, keepdim=True)
        v.append((log_w - total).exp().detach())
        found = standing_in(total - math.log(K), (v[0] * log_w).sum(over, keepdim=True))
        if d.labels:
            found = without_labels(found, d, batch, "guide") if by_class else found[0]
        return -found.mean(), plain_terms(self.vae, d, batch)
