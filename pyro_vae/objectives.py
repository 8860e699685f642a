"""Objectives: what training minimises, over the one density function.

    objective(vae).forward(batch, weights) -> (loss, terms)

`loss` is in nats per datum. `weights` are tensors, because numbers that change are baked into a recorded
graph. `terms` holds, per datum (B,): the ELBO at beta = 1, its two halves (elbo = reconstruction - kl), log p
and log q of each site, and the KL of each latent dimension (B, D).
"""

from typing import Any, ClassVar, Literal, NamedTuple

import pyro.distributions as dist
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyro_vae.specs import Count, Part, Table
from pyro_vae.vae import VAE, Batch, Densities, densities, label_weights, without_labels


class Terms(NamedTuple):
    """What an objective reports beside its loss, per datum, nats."""

    elbo: Tensor
    reconstruction: Tensor
    kl: Tensor
    log_p: dict[str, Tensor]
    log_q: dict[str, Tensor]
    kl_per_dim: dict[str, Tensor]


class Objective(Part):
    """Abstract spec of an objective."""

    bound: ClassVar[bool] = True
    """Whether -loss bounds log p per datum; a regulariser of the aggregate posterior does not."""

    def build(self, vae: VAE) -> nn.Module:
        """Build the loss."""
        raise TypeError(f"{type(self).__name__} builds no objective.")

    def weights(self, epoch: float) -> dict[str, float]:
        """The numbers that change in training, after `epoch` epochs (fractions count)."""
        return {}

    def longest(self) -> float:
        """Epochs that the schedule of the weights needs to end."""
        return 0.0


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


def split(vae: VAE, d: Densities, closed_form: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Split log w into log p(x | z, y) and the rest, with each KL in closed form where there is one.

    Returns:
        log p(x | z, y) and log p(y) - KL, both broadcasting to (C, K, B); KL per dimension of each site.
    """
    rest: Tensor | float = sum(site.log_prob for name, site in d.p.items() if name not in ("x", *vae.variant.layers))
    kl_per_dim: dict[str, Tensor] = {}
    # Inside a log sum over classes only sampled weights give a bound: E log sum_c w_c <= log E sum_c w_c.
    summed = bool(d.labels) and vae.variant.rule == "sum"
    for name in vae.variant.layers:
        q, p = d.q[name], d.p[name]
        exact = closed_form and _integrable(vae, name) and not summed
        kl, per_dim = _kl(q.fn, p.fn) if exact else (None, None)
        if kl is None:
            kl, per_dim = q.log_prob - p.log_prob, _sampled_per_dim(q.fn, p.fn, q.value)
        if per_dim is not None:
            kl_per_dim[name] = per_dim
        rest = rest - kl
    return d.p["x"].log_prob, rest, kl_per_dim  # type: ignore[return-value]


def _integrable(vae: VAE, name: str) -> bool:
    """Whether KL(q || p) at this site, given what was sampled before it, averages to its share of the bound.

    Top down, p(z_l | z_{l+1}) conditions on what q has sampled already. Bottom up that holds for the top alone.
    """
    return vae.variant.guide.order == "top_down" or name == list(vae.variant.layers)[-1]


def _kl(q: Any, p: Any) -> tuple[Tensor | None, Tensor | None]:
    """Closed-form KL, in total and per dimension, None where the pair has none."""
    try:
        if _factorised(q) and _factorised(p):
            per_dim = kl_divergence(q.base_dist, p.base_dist)
            return per_dim.sum(-1), per_dim
        return kl_divergence(q, p), None
    except NotImplementedError:
        return None, None


def _factorised(fn: dist.Distribution) -> bool:
    return isinstance(fn, dist.Independent) and fn.reinterpreted_batch_ndims == 1 and not fn.base_dist.event_shape


def _sampled_per_dim(q: Any, p: Any, z: Tensor) -> Tensor | None:
    if not (_factorised(q) and _factorised(p)):
        return None
    return q.base_dist.log_prob(z) - p.base_dist.log_prob(z)


def terms(
    reconstruction: Tensor,
    rest: Tensor,
    kl_per_dim: dict[str, Tensor],
    d: Densities,
    batch: Batch,
    rule: Literal["sum", "guide"],
) -> Terms:
    """Average over particles and labels, per datum: the ELBO at beta = 1 and what it is made of."""
    log_w = reconstruction + rest
    pi = label_weights(log_w, d, rule) if d.labels else None

    def average(value: Tensor, event: int = 0) -> Tensor:
        """(C, K, B, ...) -> (B, ...)."""
        if pi is not None:
            weight = pi[(...,) + (None,) * event]
            value = (weight * value).sum(0)
        return value.mean(0)

    elbo = without_labels(log_w, d, batch, rule).mean(0)
    mean = average(reconstruction)
    return Terms(
        elbo,
        mean,
        mean - elbo,
        {name: average(site.log_prob) for name, site in d.p.items()},
        {name: average(site.log_prob) for name, site in d.q.items()},
        {name: average(value, event=1) for name, value in kl_per_dim.items()},
    )


OBJECTIVES = Table("objective", Objective, ELBO)
