"""The explorer: what the scripts of the page need to show the latent plane and to decode what is pointed at."""

import json
import math
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.capture import unvalidated
from pyro_vae.latent import Points, decode
from pyro_vae.plots.pictures import OVERSHOOT
from pyro_vae.plots.style import colours
from pyro_vae.priors import StandardNormal
from pyro_vae.report.arrays import Packer
from pyro_vae.report.material import Shown
from pyro_vae.report.program import UntranslatableError, translate
from pyro_vae.sites import Batch, one_hot

POOL = 200
"""Draws of a prior that a page cannot draw from by itself."""
FINEST, COARSEST = 15, 5
"""Points of a grid along each side."""
GRID_NUMBERS = 1_500_000
"""Entries of all data on the grid, at most."""
MOST_CELLS = 10
"""Combinations of labels that each have a grid of their own."""


class Explorer(NamedTuple):
    """What goes into a page."""

    scene: str
    """JSON, fit for a script element."""
    blob: str
    """Arrays that the scene refers to by number."""
    computed: bool
    """Whether the page decodes by itself; else it shows the nearest of the points computed in advance."""
    why_not: str
    """Why not."""


def pack(shown: Shown) -> Explorer:
    """Pack what the explorer needs."""
    packer, why_not = Packer(), ""
    z = shown.z.float().numpy()
    order = torch.argsort(shown.spread, descending=True).tolist()
    scene: dict[str, Any] = _facts(shown, order) | _picture(shown, packer)
    try:
        scene["program"] = translate(shown.vae, packer)
    except UntranslatableError as error:
        why_not = str(error)
        packer = Packer()  # without the weights
        scene |= _picture(shown, packer)
        scene["grid"] = _grid(shown, packer, order)
    scene["codes"] = packer.add(z)
    if shown.batch.given is not None:
        scene["given"] = packer.add(shown.batch.given.cpu().float().numpy())
        scene["given_width"] = shown.vae.shape.given
    if not scene["standard_normal"]:
        scene["pool"] = _pool(shown, packer)
    scene["arrays"] = packer.table
    return Explorer(script_json(scene), packer.text(), not why_not, why_not)


def script_json(tree: Any) -> str:
    r"""JSON inside of a script element: nothing in it ends the element or begins another.

    >>> print(script_json({"name": "</script><!--"}))
    {"name":"\u003c/script\u003e\u003c!--"}
    """
    text = json.dumps(tree, separators=(",", ":"), allow_nan=False)  # ASCII: no line separators either
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _facts(shown: Shown, order: list[int]) -> dict[str, Any]:
    """Names, sizes and ranges."""
    vae, variant = shown.vae, shown.vae.variant
    first = next(iter(variant.layers))
    low, high = shown.z.min(0).values, shown.z.max(0).values
    normal = isinstance(variant.priors[first], StandardNormal)
    reach = torch.full_like(low, 3.0) if normal else torch.zeros_like(low)
    margin = 0.05 * (high - low).clamp(min=1e-3)
    return {
        "num": len(shown.z),
        "part": shown.part,
        "dim": len(order),
        "order": order,
        "spread": _rounded(shown.spread),
        "is_kl": shown.is_kl,
        "site": first,
        "low": _rounded(torch.minimum(low - margin, -reach)),
        "high": _rounded(torch.maximum(high + margin, reach)),
        "standard_normal": normal,
        "shape": list(vae.shape.x),
        "columns": list(shown.columns),
        "sites": [
            {
                "name": name,
                "classes": label.classes,
                "names": list(shown.data.names.get(name, ())),
                "decoded": "decoder" in label.conditions,
            }
            for name, label in variant.labels.items()
        ],
        "labels": None if shown.labels is None else shown.labels.tolist(),
        "attributes": [
            {"name": name, "names": list(shown.data.names.get(name, ())), "values": y.tolist()}
            for name, y in shown.attributes.items()
        ],
        "colours": colours(),
    }


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.5g}") for value in values.tolist()]


def _picture(shown: Shown, packer: Packer) -> dict[str, Any]:
    """The data, as bytes between the smallest and largest value where they are images, and what is missing of them."""
    x, found = cast(Tensor, shown.batch.x).cpu().float(), dict[str, Any]()
    mask = shown.batch.mask
    if mask is not None and shown.data.shown is None:
        found["mask"] = packer.add(mask.cpu().numpy().astype(np.uint8))
    if shown.data.shown is not None:
        found["pasted"] = packer.add(shown.data.shown.cpu().numpy().astype(np.uint8))
    if len(shown.vae.shape.x) == 1:
        return found | {"x": packer.add(x.nan_to_num().numpy()), "range": [0.0, 1.0]}
    x = x.nan_to_num()
    low, high = float(x.min()), float(x.max())
    if low >= -OVERSHOOT and high <= 1 + OVERSHOOT:
        low, high = 0.0, 1.0
    return found | {"x": packer.add(_bytes(x, low, high)), "range": [low, high]}


def _bytes(x: Tensor, low: float, high: float) -> np.ndarray:
    return ((x - low) / max(high - low, 1e-12) * 255).round().clamp(0, 255).to(torch.uint8).numpy()


@torch.no_grad()
def _grid(shown: Shown, packer: Packer, order: list[int]) -> dict[str, Any]:
    """E[x | z, y] on a grid of the plane of the two first dimensions, and of each datum; what else there is held.

    The other dimensions are at the mean of the codes; the covariates are those of the first datum.
    """
    vae, facts = shown.vae, _facts(shown, order)
    axes = order[:2]
    sites = [site for site in facts["sites"] if site["decoded"]]
    cells = math.prod(site["classes"] for site in sites)
    chosen = cells <= MOST_CELLS
    cells = cells if chosen else 1
    side = math.floor((GRID_NUMBERS / (cells * vae.numel)) ** (1 / len(axes)))
    side = max(COARSEST, min(FINEST if len(axes) == 2 else FINEST**2, side))
    lines = [torch.linspace(facts["low"][axis], facts["high"][axis], side) for axis in axes]
    points = torch.cartesian_prod(*lines).reshape(-1, len(axes))
    z = shown.z.float().mean(0).expand(cells * len(points), -1).clone()
    z[:, axes] = points.repeat(cells, 1)
    labels = _cells(shown, chosen).repeat_interleave(len(points), 0) if shown.labels is not None else None
    given = None if shown.batch.given is None else shown.batch.given[:1].expand(len(z), -1)
    on_grid = _decoded(shown, z, labels, given)
    own = _decoded(shown, shown.z.float(), shown.labels, shown.batch.given)
    is_image = len(vae.shape.x) == 3
    low, high = _picture(shown, Packer())["range"]
    packed = [packer.add(_bytes(x, low, high) if is_image else x.numpy()) for x in (on_grid, own)]
    return {"axes": axes, "side": side, "decoded": packed[0], "own": packed[1], "labels_chosen": chosen and cells > 1}


def _cells(shown: Shown, chosen: bool) -> Tensor:
    """Every combination of the labels that the decoder sees, the others as in the first datum (cells, sites)."""
    labels = cast(Tensor, shown.labels)[:1]
    sites = list(shown.vae.variant.labels.values())
    ranges = [
        torch.arange(label.classes) if chosen and "decoder" in label.conditions else labels[0, i : i + 1]
        for i, label in enumerate(sites)
    ]
    return torch.cartesian_prod(*ranges).reshape(-1, len(sites))


def _decoded(shown: Shown, z: Tensor, labels: Tensor | None, given: Tensor | None) -> Tensor:
    """E[x | z_1, y, given] (N, *event) of codes z (N, D) and labels (N, sites)."""
    some, first = next(shown.vae.likelihood.parameters()), next(iter(shown.vae.variant.layers))
    y = None if labels is None else hot(shown, labels).to(some)
    points = Points(z.to(some), first, y, None if given is None else given.to(some))
    return decode(shown.vae, points).float().cpu()


def hot(shown: Shown, labels: Tensor) -> Tensor:
    """One-hot labels side by side (N, width) of classes (N, sites)."""
    sites = shown.vae.variant.labels.values()
    return torch.cat([one_hot(y, s.classes, torch.float32) for y, s in zip(labels.unbind(-1), sites, strict=True)], -1)


@torch.no_grad()
def _pool(shown: Shown, packer: Packer) -> dict[str, Any]:
    """Draws of p(y) p(z_1 | y, given): z_1, the labels, and whose covariates they were drawn with."""
    vae, batch = shown.vae, shown.batch
    turn = torch.arange(POOL) % batch.size
    given = None if batch.given is None else batch.given[turn.to(batch.given.device)]
    with torch.random.fork_rng([]), unvalidated():
        torch.manual_seed(shown.experiment.seed)
        trace: Any = poutine.trace(vae.model).get_trace(Batch(None, given=given, n=POOL))
    z = trace.nodes[next(iter(vae.variant.layers))]["value"]
    labels = [trace.nodes[name]["value"].expand(POOL).tolist() for name in vae.variant.labels]
    return {"z": packer.add(z.cpu().float().numpy()), "num": POOL, "labels": labels, "turn": turn.tolist()}
