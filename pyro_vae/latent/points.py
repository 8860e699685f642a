"""Points of a latent space: where data lie in it, and what the decoder makes of any of its points.

    locate    x -> (z, y, given),  z = E_q[z_l | x, y],  y the known or most probable labels
    decode    (z, y, given) -> E[x | z_1, y],  z_{k-1} = E[z_{k-1} | z_k, y] for the layers below l

Everything that is done between the two is arithmetic on tensors, in `paths` and `directions`, and the same for every
variant: a point carries what its decoder is conditioned on. Of several layers one is worked on, by default the one next
to the data, which alone holds all that the decoder knows of z.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae.capture import unvalidated
from pyro_vae.latent.draws import label_log_prob, moments, site_moments
from pyro_vae.latent.imputation import pasted
from pyro_vae.latent.particles import chunks, data_per_chunk, particles_per_chunk
from pyro_vae.sites import Batch, one_hot
from pyro_vae.specs import DeclarationError, did_you_mean
from pyro_vae.vae import VAE, densities, label_cells


@dataclass(frozen=True, eq=False)
class Points:
    """Points of one layer of a latent space, with any batch dimensions."""

    z: Tensor
    """Codes (..., D)."""
    layer: str
    """The latent site that they are of."""
    y: Tensor | None = None
    """One-hot labels (..., width), all sites side by side, or weights between classes; None without label sites."""
    given: Tensor | None = None
    """Covariates (..., G)."""
    known: Tensor | None = None
    """Data (..., *event) of which the model is shown a part; that part of them is put back by `decode`."""

    def map(self, function: Callable[[Tensor], Tensor]) -> "Points":
        """The points with a function applied to each of their tensors."""
        y, given, known = (None if part is None else function(part) for part in (self.y, self.given, self.known))
        return Points(function(self.z), self.layer, y, given, known)

    def __len__(self) -> int:
        """Length of the first batch dimension."""
        return len(self.z)

    def __getitem__(self, index: Any) -> "Points":
        """Some of the points, by the first of their batch dimensions."""
        return self.map(lambda part: part[index])

    def with_z(self, z: Tensor) -> "Points":
        """The points at other codes (..., B, D), which may have further batch dimensions on the left."""

        def along(part: Tensor) -> Tensor:
            own = part.dim() - (self.z.dim() - 1)  # its event dimensions
            return part.expand(*z.shape[:-1], *part.shape[part.dim() - own :])

        y, given, known = (None if part is None else along(part) for part in (self.y, self.given, self.known))
        return Points(z, self.layer, y, given, known)


def layer_of(vae: VAE, layer: str | None, default: int = 0) -> str:
    """The name of a layer, checked; the one next to the data, or the top one with `default=-1`, where there is none."""
    names = list(vae.variant.layers)
    if layer is None:
        return names[default]
    if layer not in names:
        raise DeclarationError([f"layer={layer!r}: must be one of {', '.join(names)}.{did_you_mean(layer, names)}"])
    return layer


@torch.no_grad()
def locate(vae: VAE, batch: Batch, layer: str | None = None, num_particles: int = 1) -> Points:
    """Where data lie: E[z | x, y] at their known labels, and at the most probable one where a label is missing.

    Args:
        vae: the model, in evaluation mode.
        batch: B data.
        layer: latent site, the one next to the data by default.
        num_particles: draws to average over, for layers that the guide samples after others, and for guides that know
            no moments.

    Returns:
        B points.
    """
    name = layer_of(vae, layer)
    codes, labels = list[Tensor](), list[Tensor]()
    for part in chunks(batch, data_per_chunk(vae, num_particles)):
        with unvalidated():
            d = densities(vae, part, num_particles)
            log_y = label_log_prob(d, vae)
        cell = None if log_y is None else log_y.expand(-1, -1, part.size).argmax(0)[0]  # (B,)
        certain = None if cell is None else one_hot(cell, vae.variant.cells, part_like(vae)["dtype"]).T[:, None]
        codes.append(moments(vae, d, certain)[0][name])
        if vae.variant.labels:
            labels.append(_labels(vae, part, cell))
    return Points(torch.cat(codes), name, torch.cat(labels) if labels else None, batch.given)


def part_like(vae: VAE) -> dict[str, Any]:
    """Device and precision of a model's tensors."""
    some = next(vae.likelihood.parameters())
    return {"device": some.device, "dtype": some.dtype}


def _labels(vae: VAE, batch: Batch, cell: Tensor | None) -> Tensor:
    """One-hot labels (B, width): as given with the data, or those of a cell of the missing ones."""
    cells = {} if cell is None else {name: values.flatten()[cell] for name, values in label_cells(vae).items()}
    columns = [] if batch.y is None else batch.y.reshape(batch.size, -1).unbind(-1)
    found = []
    for i, (name, label) in enumerate(vae.variant.labels.items()):
        found.append(one_hot(cells[name] if name in cells else columns[i], label.classes, part_like(vae)["dtype"]))
    return torch.cat(found, -1)


def relabelled(vae: VAE, points: Points, site: str, value: int) -> Points:
    """The points with another label at a site: what the same code looks like as another class.

    Args:
        vae: the model.
        points: where.
        site: a label site.
        value: its class.

    References:
        Semi-supervised Learning with Deep Generative Models (Kingma, Rezende, Mohamed & Welling, 2014): analogies.
    """
    labels = vae.variant.labels
    if site not in labels:
        raise DeclarationError([f"label {site!r}: the label sites are: {', '.join(labels) or 'none'}."])
    if not 0 <= value < labels[site].classes:
        raise DeclarationError([f"label {site}={value}: must be a class from 0 to {labels[site].classes - 1}."])
    if points.y is None:
        raise ValueError(f"Points(y=None): give labels to relabel, one-hot, of the sites {', '.join(labels)}.")
    parts = list(points.y.split([label.classes for label in labels.values()], -1))
    at = list(labels).index(site)
    parts[at] = torch.zeros_like(parts[at]).index_fill(-1, torch.tensor([value], device=parts[at].device), 1.0)
    return replace(points, y=torch.cat(parts, -1))


@torch.no_grad()
def decode(vae: VAE, points: Points, shown: Tensor | None = None) -> Tensor:
    """E[x | z_1, y, given] (..., *event) at points of a latent space.

    A point of a higher layer comes down by the mean of each p(z_{k-1} | z_k, y), or by a draw where that knows none.

    Args:
        vae: the model, in evaluation mode.
        points: where.
        shown: bool, like a datum: entries that the model is shown, and so never learned to generate; they are put back
            from `points.known`.
    """
    if vae.variant.labels and points.y is None:
        raise ValueError(f"Points(y=None): the decoder needs labels: {', '.join(vae.variant.labels)}.")
    names = list(vae.variant.layers)
    below = names[: names.index(points.layer)][::-1]
    batch, found = points.z.shape[:-1], []
    flat = points.map(lambda part: part.reshape(-1, *part.shape[len(batch) :]))
    size = particles_per_chunk(vae, 1)
    for start in range(0, len(flat.z), size):
        some = flat[start : start + size]
        z = some.z
        with unvalidated():
            for name in below:
                p = vae.priors[name](z, vae.seen(some.y, "prior"), some.given)
                z = site_moments(p, p.sample())[0]
            found.append(vae.decoded(z, some.y, some.given).mean)
    return pasted(torch.cat(found).reshape(*batch, *vae.shape.x), points.known, shown)
