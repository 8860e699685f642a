"""The ELBO and what it is made of, from the density function: per datum, labels and particles averaged out."""

from typing import Any, Literal

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.objectives.spec import Terms
from pyro_vae.sites import Batch, Densities, label_weights, without_labels
from pyro_vae.vae import VAE, densities


def split(vae: VAE, d: Densities, closed_form: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Split log w into log p(x | z, y) and the rest, with each KL in closed form where there is one.

    Returns:
        log p(x | z, y) and log p(y) - KL, both broadcasting to (C, K, B); the KL of each layer, by dimension
        (..., D), or as a whole (..., 1) where it has no such parts.
    """
    rest: Tensor | float = sum(site.log_prob for name, site in d.p.items() if name not in ("x", *vae.variant.layers))
    parts: dict[str, Tensor] = {}
    # Inside a log sum over classes only sampled weights give a bound: E log sum_c w_c <= log E sum_c w_c.
    summed = bool(d.labels) and vae.variant.rule == "sum"
    for name in vae.variant.layers:
        q, p = d.q[name], d.p[name]
        exact = closed_form and _integrable(vae, name) and not summed
        kl, per_dim = _kl(q.fn, p.fn) if exact else (None, None)
        if kl is None:
            kl, per_dim = q.log_prob - p.log_prob, _sampled_per_dim(q.fn, p.fn, q.value)
        parts[name] = kl[..., None] if per_dim is None else per_dim
        rest = rest - kl
    return d.p["x"].log_prob, rest, parts  # type: ignore[return-value]


def _integrable(vae: VAE, name: str) -> bool:
    """Whether KL(q || p) at this site, given what was sampled before it, averages to its share of the bound.

    Top down, p(z_l | z_{l+1}) conditions on what q has sampled already. Bottom up that holds for the top alone.
    """
    return vae.variant.guide.order == "top_down" or name == list(vae.variant.layers)[-1]


def _kl(q: Any, p: Any) -> tuple[Tensor | None, Tensor | None]:
    """Closed-form KL, in total and per dimension, None where the pair has none."""
    try:
        if factorised(q) and factorised(p):
            per_dim = kl_divergence(q.base_dist, p.base_dist)
            return per_dim.sum(-1), per_dim
        return kl_divergence(q, p), None
    except NotImplementedError:
        return None, None


def factorised(fn: dist.Distribution) -> bool:
    """Whether the dimensions are independent, so that each has a density of its own."""
    return isinstance(fn, dist.Independent) and fn.reinterpreted_batch_ndims == 1 and not fn.base_dist.event_shape


def _sampled_per_dim(q: Any, p: Any, z: Tensor) -> Tensor | None:
    if not (factorised(q) and factorised(p)):
        return None
    return q.base_dist.log_prob(z) - p.base_dist.log_prob(z)


def terms(
    reconstruction: Tensor,
    rest: Tensor,
    parts: dict[str, Tensor],
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
    kls = {name: average(value, event=1) for name, value in parts.items()}
    return Terms(
        elbo,
        mean,
        mean - elbo,
        {name: average(site.log_prob) for name, site in d.p.items()},
        {name: average(site.log_prob) for name, site in d.q.items()},
        {name: kl for name, kl in kls.items() if kl.shape[-1] == d.q[name].value.shape[-1]},
        {name: kl.sum(-1) for name, kl in kls.items()},
    )


def plain_terms(vae: VAE, d: Densities, batch: Batch) -> Terms:
    """The terms with every KL sampled: those of the very draws that a bound of several particles is made of."""
    return terms(*split(vae, d, closed_form=False), d, batch, vae.variant.rule)


def held(vae: VAE, batch: Batch, d: Densities, latents: dict[str, Tensor], num_particles: int) -> Densities:
    """The draws of d once more, scored by a guide whose parameters are held: log q then moves with z alone."""
    again = densities(vae, batch, num_particles, latents, freeze={"guide"})
    return Densities(again.p, again.q | {name: d.q[name] for name in d.labels}, d.labels)
