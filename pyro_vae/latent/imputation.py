"""What the model says of data given themselves: missing entries filled in, and how sure it is of each entry."""

from typing import Any, NamedTuple, cast

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.capture import unvalidated
from pyro_vae.latent.draws import draw_chunk, variance_of
from pyro_vae.latent.particles import chunks, data_per_chunk
from pyro_vae.networks import fill
from pyro_vae.sites import Batch
from pyro_vae.vae import VAE


def pasted(x: Tensor, known: Tensor | None, shown: Tensor | None) -> Tensor:
    """x (..., N, *event) with the entries that the model is shown, and so never learns to generate, as they are."""
    return x if shown is None or known is None else torch.where(shown.to(x.device), known, x)


class Imputed(NamedTuple):
    """What the model says of the entries that are not there; those that are stay as they are."""

    mean: Tensor
    """E[x | x_observed] (B, *event)."""
    sd: Tensor
    """Standard deviation of x given x_observed (B, *event); 0 where x is observed."""
    draws: Tensor
    """x ~ p(x | x_observed) (S, B, *event), by resampling."""
    effective: Tensor
    """Effective number of the importance samples (B,)."""


@torch.no_grad()
def impute(vae: VAE, batch: Batch, num_draws: int = 4, num_samples: int = 200, from_prior: bool = False) -> Imputed:
    """Fill in missing entries by self-normalised importance sampling.

        E[f(x_missing) | x_observed] = sum_k w_k E[f(x_missing) | z_k] / sum_k w_k,    z_k ~ q(z | x_observed)

    Args:
        vae: the model, in evaluation mode.
        batch: B data with a mask.
        num_draws: S.
        num_samples: K importance samples per datum.
        from_prior: z_k ~ p(z | given) with equal weights: what is predicted of entries from the given ones alone.

    References:
        MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets (Mattei & Frellsen, 2019).
    """
    parts = chunks(batch, data_per_chunk(vae, num_samples))
    found = [_impute_chunk(vae, part, num_draws, num_samples, from_prior) for part in parts]
    mean, sd, effective = (torch.cat([getattr(f, name) for f in found]) for name in ("mean", "sd", "effective"))
    return Imputed(mean, sd, torch.cat([f.draws for f in found], 1), effective)


def _impute_chunk(vae: VAE, batch: Batch, num_draws: int, num_samples: int, from_prior: bool) -> Imputed:
    x, exists = batch.x, batch.mask
    if x is None or exists is None:
        raise ValueError("Batch(x, mask=...): nothing is missing where there is no mask.")
    if from_prior:
        with unvalidated(), pyro.plate("particles", num_samples, dim=-2):
            generating = batch._replace(x=None, mask=None, n=batch.size)
            p_x: Any = cast(Any, poutine.trace(vae.model).get_trace(generating)).nodes["x"]["fn"]
        draws = p_x.sample()
        mean, variance = p_x.mean, variance_of(p_x, draws)
        log_w = mean.new_zeros(num_samples, batch.size)
        exists = ~exists  # the given entries are those that are not modelled
    else:
        drawn, variance = draw_chunk(vae, batch, num_samples)
        mean, draws, log_w = drawn.x_mean, drawn.x, drawn.log_p - drawn.log_q
    w = log_w.softmax(0)
    weight = w[(...,) + (None,) * (x.dim() - 1)]
    first = (weight * mean).sum(0)
    variance = (weight * (variance + (mean - first).square())).sum(0)  # centred: squares of large means would cancel
    picked = torch.distributions.Categorical(probs=w.T, validate_args=False).sample((num_draws,))
    chosen = draws[picked, torch.arange(batch.size, device=w.device)]
    known = fill(x, exists)
    return Imputed(
        torch.where(exists, known, first),
        torch.where(exists, 0.0, variance.sqrt()),
        torch.where(exists, known, chosen),
        1 / w.square().sum(0),
    )


class Predictive(NamedTuple):
    """Moments of the posterior predictive of each datum, x' ~ p(x' | z), z ~ q(z | x)."""

    mean: Tensor
    """E[x'] (B, *event)."""
    sd: Tensor
    """Standard deviation of x' (B, *event): that of p(x' | z) and that of its mean, together."""
    sd_of_mean: Tensor
    """Standard deviation of E[x' | z] over draws of z (B, *event): what the code leaves open."""


@torch.no_grad()
def predictive(vae: VAE, batch: Batch, num_draws: int = 200) -> Predictive:
    """How sure the model is of every entry of a datum that it has seen.

        Var[x'] = E_q[Var[x' | z]] + Var_q(E[x' | z])

    Args:
        vae: the model, in evaluation mode.
        batch: B data.
        num_draws: S.
    """
    means, sds, of_means = list[Tensor](), list[Tensor](), list[Tensor]()
    for part in chunks(batch, data_per_chunk(vae, num_draws)):
        drawn, variance = draw_chunk(vae, part, num_draws)
        between = drawn.x_mean.var(0, correction=0)
        means.append(drawn.x_mean.mean(0))
        sds.append((variance.mean(0) + between).sqrt())
        of_means.append(between.sqrt())
    return Predictive(*(torch.cat(parts) for parts in (means, sds, of_means)))
