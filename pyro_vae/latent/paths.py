"""Ways through a latent space: interpolation, averages, steps along directions, traversals, and the grid of the prior.

    linear      z(t) = (1 - t) a + t b
    spherical   z(t) = |z|(t) [sin((1 - t) w) a/|a| + sin(t w) b/|b|] / sin w,  w the angle between a and b
    edit        z + alpha v
    manifold    z = m + s_1 u_1 + s_2 u_2,  s_i the quantile of level (k + 1/2) / n of the prior along u_i

Linear steps between two draws of N(0, I) in many dimensions pass through its middle, where no draw ever lies; spherical
ones keep the norm. Labels, covariates and shown entries of points are always mixed linearly.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pyro_vae.capture import unvalidated
from pyro_vae.latent.draws import site_moments
from pyro_vae.latent.points import Points, layer_of, part_like
from pyro_vae.objectives.terms import factorised
from pyro_vae.sites import one_hot
from pyro_vae.specs import DeclarationError
from pyro_vae.vae import VAE

PRIOR_DRAWS = 10_000
"""Draws behind the quantiles of a prior that has none in closed form: a level near 1/2 is then right within 0.005."""


def interpolate(points: Points, steps: int = 10, spherical: bool = False) -> Points:
    """Points on the way from each of B points to the next.

    Args:
        points: B of them, at least two.
        steps: of each way, both ends included.
        spherical: along a great circle about the origin instead of a line. Where two codes point the same or opposite
            ways there is no such circle, and the way between them is a line.

    Returns:
        (B - 1) (steps - 1) + 1 points, through every one of the given ones.

    References:
        Sampling Generative Networks (White, 2016).

    >>> ends = Points(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), "z")
    >>> interpolate(ends, steps=3).z.tolist()
    [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    >>> interpolate(ends, steps=3, spherical=True).z.norm(dim=-1).round(decimals=4).tolist()
    [1.0, 1.0, 1.0]
    """
    if points.z.dim() != 2 or len(points.z) < 2:
        raise DeclarationError([f"points: are {len(points.z)}; interpolation is between two or more."])
    if steps < 2:
        raise DeclarationError([f"steps={steps}: must be 2 or more, both ends included."])
    t = torch.linspace(0, 1, steps, dtype=points.z.dtype, device=points.z.device)

    def chained(part: Tensor) -> Tensor:
        ways = [_line(a, b, t) for a, b in zip(part[:-1], part[1:], strict=True)]
        return torch.cat([*(way[:-1] for way in ways), part[-1:]])

    found = points.map(chained)
    if spherical:
        arcs = [_arc(a, b, t) for a, b in zip(points.z[:-1], points.z[1:], strict=True)]
        found = replace(found, z=torch.cat([*(arc[:-1] for arc in arcs), points.z[-1:]]))
    return found


def _line(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """(1 - t) a + t b (T, ...)."""
    t = t.reshape(-1, *(1,) * a.dim())
    return torch.where(t == 0, a, (1 - t) * a + t * b)


def _arc(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Spherical interpolation (T, D) of directions; norms change linearly."""
    norms = a.norm(), b.norm()
    if not bool(norms[0] * norms[1] > 0):
        return _line(a, b, t)
    from_, to = a / norms[0], b / norms[1]
    w = (from_ @ to).clamp(-1, 1).acos()
    if not bool(w.sin() > 1e-4):
        return _line(a, b, t)
    t = t[:, None]
    direction = ((1 - t) * w).sin() / w.sin() * from_ + (t * w).sin() / w.sin() * to
    return torch.where(t == 0, a, ((1 - t) * norms[0] + t * norms[1]) * direction)


def average(points: Points) -> Points:
    """The mean of B points, one point: codes, labels and covariates alike."""
    return points.map(lambda part: part.mean(0, keepdim=True))


def edit(points: Points, direction: Tensor, alphas: Sequence[float] | Tensor) -> Points:
    """Steps along a direction: z + alpha v.

    Args:
        points: B of them.
        direction: v (D,); see `directions`.
        alphas: A numbers; at 0 a point stays what it was.

    Returns:
        (A, B) points.

    >>> edit(Points(torch.zeros(1, 2), "z"), torch.tensor([0.0, 2.0]), [-1, 0, 1]).z[:, 0].tolist()
    [[0.0, -2.0], [0.0, 0.0], [0.0, 2.0]]
    """
    if direction.shape != points.z.shape[-1:]:
        raise DeclarationError(
            [f"direction: has shape {tuple(direction.shape)}; {points.layer} has {points.z.shape[-1]} dimensions."]
        )
    alpha = torch.as_tensor(alphas).to(points.z).reshape(-1, *(1,) * points.z.dim())
    return points.with_z(points.z + alpha * direction.to(points.z))


def traverse(points: Points, values: Sequence[float] | Tensor, dims: Sequence[int] | None = None) -> Points:
    """One dimension at a time set to each of some values, the others as they are.

    Args:
        points: B of them.
        values: V numbers.
        dims: dimensions of the latent, all by default.

    Returns:
        (dims, V, B) points.

    References:
        beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework (Higgins et al., 2017).
    """
    chosen = range(points.z.shape[-1]) if dims is None else dims
    beyond = [d for d in chosen if not 0 <= d < points.z.shape[-1]]
    if beyond:
        raise DeclarationError([f"dims={beyond}: {points.layer} has the dimensions 0 to {points.z.shape[-1] - 1}."])
    values = torch.as_tensor(values).to(points.z)
    z = points.z.repeat(len(chosen), len(values), 1, 1)
    for i, d in enumerate(chosen):
        z[i, :, :, d] = values[:, None]
    return points.with_z(z)


@torch.no_grad()
def manifold(vae: VAE, size: int = 20, axes: Sequence[int] | Tensor = (0, 1), around: Points | None = None) -> Points:
    """A grid of points that share the probability mass of the prior evenly, over two axes of a latent.

    The point in row i and column j lies in the middle of a cell that holds 1 / size^2 of the mass of N(0, I) along the
    two axes: columns rise with the first, rows fall with the second, as on paper. With a latent of two dimensions that
    is all of it; of more dimensions the others are held, at the mean of the prior or of `around`. A learned prior gets
    quantiles of its own along each axis, exact where it is a normal and else from 10,000 draws; its two axes may then
    depend on one another, so that the cells' masses are only those of the two margins.

    Args:
        vae: the model, in evaluation mode.
        size: n, points along each axis.
        axes: two dimensions, or two orthonormal directions (2, D).
        around: one point whose labels, covariates and other dimensions hold; the middle of the prior by default, which
            `origin` gives for a variant that has labels or covariates.

    Returns:
        (size, size) points of the top layer.

    Raises:
        DeclarationError: the latent has one dimension, lies on a simplex, or an axis is none.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), figure 4.
    """
    name = layer_of(vae, None, -1)
    u, base = _axes(vae, name, axes), origin(vae) if around is None else around
    levels = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    middle, (right, up) = _prior_along(vae, name, u, levels, base)
    start = base.z.reshape(-1) if base.layer == name else middle
    held = start - u.T @ (u @ start)
    z = held + right[None, :, None] * u[0] + up.flip(0)[:, None, None] * u[1]
    return replace(base, layer=name, z=held[None]).with_z(z)


@torch.no_grad()
def origin(vae: VAE, y: Sequence[int] = (), given: Tensor | None = None) -> Points:
    """The middle of the prior of the top layer, one point.

    Args:
        vae: the model.
        y: a class for each label site.
        given: covariates (1, G), where the variant has any.
    """
    labels = vae.variant.labels
    if len(y) != len(labels):
        raise DeclarationError([f"y={list(y)}: must hold a class for each label site: {', '.join(labels) or 'none'}."])
    name, like = layer_of(vae, None, -1), part_like(vae)
    hot = [one_hot(torch.tensor([c]), site.classes, torch.float32) for c, site in zip(y, labels.values(), strict=True)]
    base = Points(
        torch.zeros(1, vae.variant.layers[name], **like), name, torch.cat(hot, -1).to(**like) if hot else None, given
    )
    with unvalidated():
        p = vae.priors[name](None, vae.seen(base.y, "prior"), given)
        middle = site_moments(p, p.sample((PRIOR_DRAWS,)).mean(0))[0]
    return replace(base, z=middle.expand_as(base.z))


def _axes(vae: VAE, name: str, axes: Sequence[int] | Tensor) -> Tensor:
    """Two orthonormal directions (2, D)."""
    dim = vae.variant.layers[name]
    if vae.variant.guide.simplex:
        raise DeclarationError(
            ["variant.latent.kind=categorical: a relaxed code lies on a simplex; there is no grid of quantiles."]
        )
    if dim < 2:
        raise DeclarationError([f"latent {name} has one dimension, and a grid needs two; use a traversal."])
    u = torch.as_tensor(axes)
    if u.dim() == 1:
        chosen = u.tolist()
        if len(set(chosen)) != 2 or not all(isinstance(d, int) and 0 <= d < dim for d in chosen):
            raise DeclarationError([f"axes={chosen}: must be two different dimensions from 0 to {dim - 1}."])
        u = torch.eye(dim)[u]
    u = u.to(**part_like(vae))
    if u.shape != (2, dim) or not torch.allclose(u @ u.T, torch.eye(2).to(u), atol=1e-4):
        raise DeclarationError([f"axes of shape {tuple(u.shape)}: must be two orthonormal directions (2, {dim})."])
    return u


def _prior_along(vae: VAE, name: str, u: Tensor, levels: Tensor, base: Points) -> tuple[Tensor, Tensor]:
    """Middle of the prior (D,), and its quantiles along two directions (2, L)."""
    with unvalidated():
        p = vae.priors[name](None, vae.seen(base.y, "prior"), base.given)
        if factorised(p) and isinstance(p.base_dist, torch.distributions.Normal):
            loc, scale = (part.reshape(-1, u.shape[1])[0] for part in (p.base_dist.loc, p.base_dist.scale))
            sd = (u.square() @ scale.square()).sqrt()
            return loc, (u @ loc)[:, None] + sd[:, None] * torch.special.ndtri(levels).to(u)
        some = p.sample((PRIOR_DRAWS,)).reshape(-1, u.shape[1])
    return some.mean(0), torch.quantile(some @ u.T, levels.to(u), dim=0).T
