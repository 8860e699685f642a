"""The ELBO and what it is made of, from the density function: per datum, labels and particles averaged out."""

from typing import Any, Literal

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.objectives.spec import Terms
from pyro_vae.vae import VAE, Batch, Densities, label_weights, without_labels


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
