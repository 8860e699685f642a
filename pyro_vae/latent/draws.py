"""Draws from the guide and from the prior, and moments of the guide.

Missing labels are drawn with the latents, c ~ q(y | x) (or p(y | x) by the importance weights, where the rule
is `sum`), so that every draw is one of (y, z) jointly.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.capture import unvalidated
from pyro_vae.latent.particles import chunks, data_per_chunk, particles_per_chunk
from pyro_vae.sites import Batch, Densities, label_weights, total
from pyro_vae.specs import DeclarationError
from pyro_vae.vae import VAE, densities, label_cells

DRAWS_AT_ONCE = 1000
"""Draws of a datum that are made together, at least, where memory allows."""


class LatentDraws(NamedTuple):
    """S joint draws of latents and missing labels for each of B data."""

    z: dict[str, Tensor]
    """Latent site -> (S, B, D)."""
    y: dict[str, Tensor]
    """Missing label site -> (S, B), integers."""
    log_p: Tensor
    """log p(x, y, z) (S, B), nats."""
    log_q: Tensor
    """log q(y, z | x) (S, B), nats."""


class Draws(NamedTuple):
    """The same, and the data that they would make."""

    z: dict[str, Tensor]
    """Latent site -> (S, B, D)."""
    y: dict[str, Tensor]
    """Missing label site -> (S, B), integers."""
    log_p: Tensor
    """log p(x, y, z) (S, B), nats."""
    log_q: Tensor
    """log q(y, z | x) (S, B), nats."""
    x_mean: Tensor
    """E[x | z, y] (S, B, *event)."""
    x: Tensor
    """x ~ p(x | z, y) (S, B, *event)."""


class Codes(NamedTuple):
    """Moments of q(z | x), labels averaged out."""

    mean: dict[str, Tensor]
    """Latent site -> (B, D)."""
    sd: dict[str, Tensor]
    """Latent site -> (B, D)."""


def layered(vae: VAE, z: Tensor) -> dict[str, Tensor]:
    """Latents side by side (..., D) -> site -> (..., D_l)."""
    return dict(zip(vae.variant.layers, z.split(list(vae.variant.layers.values()), -1), strict=True))


def side_by_side(latents: Mapping[str, Tensor]) -> Tensor:
    """Site -> (..., D_l), from z_1 up -> (..., D)."""
    return torch.cat(list(latents.values()), -1)


@torch.no_grad()
def draw_posterior(vae: VAE, batch: Batch, num_draws: int) -> Draws:
    """Draw S times from the guide, score the draws, and replicate the data from them.

    Args:
        vae: the model, in evaluation mode.
        batch: B data.
        num_draws: S.
    """
    parts = [draw_chunk(vae, part, num_draws)[0] for part in chunks(batch, data_per_chunk(vae, num_draws))]
    x_mean, x = (torch.cat([getattr(part, name) for part in parts], 1) for name in ("x_mean", "x"))
    return Draws(*joined(parts), x_mean, x)


@torch.no_grad()
def draw_latents(vae: VAE, batch: Batch, num_draws: int) -> LatentDraws:
    """Draw S times from the guide and score the draws; no data are made of them, so that memory stays small.

    Args:
        vae: the model, in evaluation mode.
        batch: B data.
        num_draws: S.
    """
    found = []
    for part in chunks(batch, data_per_chunk(vae, min(num_draws, DRAWS_AT_ONCE))):
        drawn, done, h = list[LatentDraws](), 0, vae.features(part)
        while done < num_draws:
            k = min(particles_per_chunk(vae, part.size), num_draws - done)
            with unvalidated():
                d = densities(vae, part, k, features=h)
                drawn.append(_latents(vae, d, k, part.size)[0])
            done += k
        found.append(joined(drawn, 0))
    return joined(found)


def joined(parts: Sequence[LatentDraws | Draws], dim: int = 1) -> LatentDraws:
    """Draws for several parts of a batch, one after the other; more draws for the same data where `dim` is 0."""
    z = {name: torch.cat([part.z[name] for part in parts], dim) for name in parts[0].z}
    y = {name: torch.cat([part.y[name] for part in parts], dim) for name in parts[0].y}
    return LatentDraws(z, y, *(torch.cat([part[i] for part in parts], dim) for i in (2, 3)))  # type: ignore[misc]


def _latents(vae: VAE, d: Densities, num_draws: int, num_data: int) -> tuple[LatentDraws, Tensor | None]:
    """The draws (S, B) of latents and labels, and the cell of labels that was drawn for each; None if none can miss."""
    log_y, shape = label_log_prob(d, vae), (num_draws, num_data)
    cell = None if log_y is None else _draw_cells(log_y, num_draws)
    log_q = total(d.q[name].log_prob for name in vae.variant.layers)
    log_p = total(site.log_prob for site in d.p.values())
    draws = LatentDraws(
        {name: _pick(d.q[name].value, cell, 1) for name in vae.variant.layers},
        {name: _pick(values.expand(-1, *shape), cell) for name, values in label_cells(vae).items()},
        _pick(log_p, cell).expand(shape),
        _pick(log_q if log_y is None else log_q + log_y, cell).expand(shape),
    )
    return draws, cell


def draw_chunk(vae: VAE, batch: Batch, num_draws: int) -> tuple[Draws, Tensor]:
    """Draws for a few data, and the variance of x given each of them (S, B, *event)."""
    with unvalidated():
        d = densities(vae, batch, num_draws)
        latents, cell = _latents(vae, d, num_draws, batch.size)
        p_x: Any = d.p["x"].fn
        x_mean, x = p_x.mean, p_x.sample()
        x_variance = variance_of(p_x, x)
    event = len(vae.shape.x)
    return Draws(*latents, _pick(x_mean, cell, event), _pick(x, cell, event)), _pick(x_variance, cell, event)


def variance_of(p_x: Any, x: Tensor) -> Tensor:
    """Var[x | z]; the square of a draw's deviation where the distribution knows no variance."""
    try:
        return p_x.variance
    except NotImplementedError:
        return (x - p_x.mean).square()


def label_log_prob(d: Densities, vae: VAE) -> Tensor | None:
    """log q(y_c | x), or log p(y_c | x) by the weights of all particles (C, 1, B), nats; None if no label can miss."""
    if not d.labels:
        return None
    if vae.variant.rule == "guide":
        return total(d.q[name].log_prob for name in d.labels)
    return d.log_w.logsumexp(1, keepdim=True).log_softmax(0)


def _draw_cells(log_y: Tensor, num_draws: int) -> Tensor:
    """A cell of the label grid for each draw and datum (S, B)."""
    pi = log_y.exp()
    probs = pi.expand(-1, num_draws, pi.shape[-1]).movedim(0, -1)
    return torch.distributions.Categorical(probs=probs, validate_args=False).sample()


def _pick(value: Tensor, cell: Tensor | None, event: int = 0) -> Tensor:
    """The chosen cell of (C, S, B, *event); all of (S, B, *event) where there is no C."""
    if cell is None or value.dim() < 3 + event:
        return value
    index = cell[(None, ...) + (None,) * event].expand(1, *cell.shape, *value.shape[value.dim() - event :])
    return value.expand(-1, *cell.shape, *value.shape[value.dim() - event :]).gather(0, index)[0]


@torch.no_grad()
def encode(vae: VAE, batch: Batch, num_particles: int = 1) -> Codes:
    """Mean and sd of q(z | x).

    Exact for the first latent that the guide samples; of latents conditioned on it, and over labels that are
    summed out, moments of the mixture over `num_particles` draws.
    """
    found: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    for part in chunks(batch, data_per_chunk(vae, num_particles)):
        with unvalidated():
            found.append(moments(vae, densities(vae, part, num_particles)))
    return Codes(*({name: torch.cat([f[i][name] for f in found]) for name in vae.variant.layers} for i in (0, 1)))


def moments(vae: VAE, d: Densities, pi: Tensor | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Mean and sd of q(z | x) (B, D) of every layer, labels and particles averaged out.

    Args:
        vae: the model.
        d: its densities.
        pi: weights of the cells of missing labels, broadcasts to (C, K, B), to average with; the model's by default.
    """
    if d.labels:
        pi = (label_weights(d.log_w, d, vae.variant.rule) if pi is None else pi)[..., None]
    means, sds = {}, {}
    for name in vae.variant.layers:
        mean, variance = site_moments(d.q[name].fn, d.q[name].value)
        first = (mean if pi is None else (pi * mean).sum(0)).mean(0)
        spread = variance + (mean - first).square()  # centred: squares of large means would cancel
        means[name], sds[name] = first, (spread if pi is None else (pi * spread).sum(0)).mean(0).sqrt()
    return means, sds


def site_moments(fn: object, value: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of a guide's distribution; its draw where it knows no moments."""
    try:
        return fn.mean, fn.variance  # type: ignore[attr-defined]
    except NotImplementedError:
        return value, torch.zeros_like(value)


@torch.no_grad()
def sample(vae: VAE, num: int, y: Tensor | None = None, given: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Generate from the prior: draws x, their means E[x | z, y] (both (num, *event)), and the top latent z.

    Args:
        vae: the model.
        num: how many.
        y: labels to generate (num,) or (num, sites); those that are -1, and all without, are drawn from p(y).
        given: covariates (num, G), needed where the variant has any.
    """
    classes = torch.tensor([label.classes for label in vae.variant.labels.values()])
    if y is not None and bool(((y.reshape(num, -1).cpu() >= classes) | (y.reshape(num, -1).cpu() < -1)).any()):
        raise DeclarationError([f"y: must be classes below {classes.tolist()}, one for each label site, or -1."])
    with unvalidated():
        trace: Any = poutine.trace(vae.model).get_trace(Batch(None, y=y, given=given, n=num))
    top = trace.nodes[list(vae.variant.layers)[-1]]["value"]
    return trace.nodes["x"]["value"], trace.nodes["x"]["fn"].mean, top


@torch.no_grad()
def draw_prior(
    vae: VAE, num: int, given: Tensor | None = None, num_data: int | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """Draws of every latent (num, D), and the data generated from the first `num_data` of them, by default from all."""
    latents, generated, done = list[dict[str, Tensor]](), list[Tensor](), 0
    wanted = num if num_data is None else num_data
    while done < num:
        k = min(particles_per_chunk(vae, 1), num - done)
        some = None if given is None else given[done : done + k]
        with unvalidated():
            trace: Any = poutine.trace(vae.model).get_trace(Batch(None, n=k, given=some))
        latents.append({name: trace.nodes[name]["value"] for name in vae.variant.layers})
        if done < wanted:
            generated.append(trace.nodes["x"]["value"][: wanted - done])
        done += k
    return {name: torch.cat([z[name] for z in latents]) for name in vae.variant.layers}, torch.cat(generated)


def check_finite(values: list[Tensor]) -> None:
    """Refuse to give out codes (B, ...) that are no numbers."""
    finite = torch.stack([value.isfinite().flatten(1).all(1) for value in values]).all(0)
    if not bool(finite.all()):
        at = int((~finite).nonzero()[0])
        raise DeclarationError(
            [
                f"observation {at}: q(z | x) is no number there: its values lie outside of what the model knows; "
                "look at them."
            ]
        )
