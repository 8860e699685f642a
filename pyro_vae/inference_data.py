"""Draws of a VAE as an ArviZ DataTree, and its netCDF file.

    group                   variables                       dimensions
    posterior               latents, missing labels         chain draw obs [<latent>_dim]
    prior                   latents                         chain draw <latent>_dim
    posterior_predictive    x                               chain draw obs *event
    prior_predictive        x                               chain draw *event
    observed_data           x                               obs *event
    constant_data           labels as given, -1 missing     obs
    sample_stats            log_p, log_q, log_w             chain draw obs

log_w = log p(x, z) - log q(z | x). The draws of a guide are independent: one chain, whose r-hat is NaN and
whose effective sample size is the number of draws; summarise with `az.summary(tree, kind="stats")`. `obs`
holds the indices of the observations in their data set.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    import xarray

type Array = Tensor | np.ndarray

DRAWS = ("chain", "draw")
EVENTS = {0: (), 1: ("feature",), 2: ("row", "column"), 3: ("channel", "row", "column")}
"""Names of the dimensions of a datum, by how many it has."""
RESERVED = {"x", "obs", *DRAWS, *(name for names in EVENTS.values() for name in names)}


def posterior_tree(
    *,
    latents: Mapping[str, Array],
    x_replicated: Array | None,
    prior: Mapping[str, Array],
    prior_predictive: Array | None,
    x: Array,
    log_p: Array,
    log_q: Array,
    observations: Sequence[int],
    labels: Mapping[str, Array] | None = None,
    label_draws: Mapping[str, Array] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> "xarray.DataTree":
    """Arrange draws for S draws of N observations as ArviZ expects them.

    Args:
        latents: draws of each latent site from the guide, (S, N, D) each.
        x_replicated: replicated data given those draws (S, N, *event), or None.
        prior: draws of each latent site from the prior (R, D); R need not be S.
        prior_predictive: data generated from them (R, *event), or None.
        x: the observed data (N, *event).
        log_p: log p(x, z) (S, N), nats.
        log_q: log q(z | x) (S, N), nats.
        observations: index of each observation in its data set, N of them.
        labels: labels as observed (N,) by site; -1 where missing.
        label_draws: draws of the labels (S, N) by site.
        attributes: facts about the run; each is stored as JSON text at the root (see `attributes_of`).

    Returns:
        The tree; a group without variables is left out.

    Raises:
        ValueError: the name of a site is that of a dimension, or an array does not have the shape above.

    >>> draws, x = {"z": np.zeros((50, 2, 3))}, np.zeros((2, 4))
    >>> log = np.zeros((50, 2))
    >>> tree = posterior_tree(latents=draws, x_replicated=None, prior={}, prior_predictive=None, x=x,
    ...                       log_p=log, log_q=log, observations=[7, 9])
    >>> dict(tree["posterior"].sizes)
    {'chain': 1, 'draw': 50, 'obs': 2, 'z_dim': 3}
    """
    import xarray

    labels, label_draws = labels or {}, label_draws or {}
    latent_dims = {name: (f"{name}_dim",) for name in {**latents, **prior}}
    _check_names([*latent_dims, *labels, *label_draws], latent_dims.values())
    x, log_p, log_q = _numpy(x), _numpy(log_p), _numpy(log_q)
    event = EVENTS.get(x.ndim - 1, tuple(f"event_{i}" for i in range(x.ndim - 1)))
    dims = {name: ("obs", *latent_dims.get(name, ())) for name in {**latents, **label_draws}}
    with np.errstate(invalid="ignore"):  # a draw to which neither gives mass has no weight: NaN
        stats = {"log_p": log_p, "log_q": log_q, "log_w": log_p - log_q}
    groups = {
        "posterior": _draws({**latents, **label_draws}, dims, observations),
        "prior": _draws(prior, latent_dims, observations),
        "posterior_predictive": _draws({"x": x_replicated}, {"x": ("obs", *event)}, observations),
        "prior_predictive": _draws({"x": prior_predictive}, {"x": event}, observations),
        "observed_data": _dataset({"x": x}, {"x": ("obs", *event)}, observations),
        "constant_data": _dataset(labels, dict.fromkeys(labels, ("obs",)), observations),
        "sample_stats": _draws(stats, dict.fromkeys(stats, ("obs",)), observations),
    }
    tree = xarray.DataTree.from_dict({name: group for name, group in groups.items() if group.data_vars})
    tree.attrs = {name: json.dumps(value) for name, value in (attributes or {}).items()}
    return tree


def attributes_of(tree: "xarray.DataTree") -> dict[str, Any]:
    """The facts that `posterior_tree` stored at the root, parsed."""
    return {str(name): json.loads(text) for name, text in tree.attrs.items()}


def save(tree: "xarray.DataTree", path: Path) -> Path:
    """Write a tree to netCDF; the file at `path` is always a whole one, the old or the new.

    Returns:
        `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        tree.to_netcdf(temporary, engine="h5netcdf")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load(path: Path) -> "xarray.DataTree":
    """Read a tree from netCDF into memory; the file is closed."""
    import xarray

    with xarray.open_datatree(Path(path), engine="h5netcdf") as tree:
        return tree.load()


def _draws(
    variables: Mapping[str, Array | None], dims: Mapping[str, tuple[str, ...]], observations: Sequence[int]
) -> "xarray.Dataset":
    """A group of draws (S, ...) as one chain."""
    present = {name: _numpy(values)[None] for name, values in variables.items() if values is not None}
    return _dataset(present, {name: (*DRAWS, *dims[name]) for name in present}, observations, DRAWS)


def _dataset(
    variables: Mapping[str, Array],
    dims: Mapping[str, tuple[str, ...]],
    observations: Sequence[int],
    sample_dims: tuple[str, ...] = (),
) -> "xarray.Dataset":
    """A group with every dimension named, and `obs` counted as in the data set."""
    from arviz_base import dict_to_dataset

    arrays = {name: _numpy(values) for name, values in variables.items()}
    for name, values in arrays.items():
        sizes = dict(zip(dims[name], values.shape, strict=False))
        if values.ndim != len(dims[name]) or sizes.get("obs", len(observations)) != len(observations):
            raise ValueError(
                f"{name} has shape {values.shape}: must have the dimensions {', '.join(dims[name])}, "
                f"with {len(observations)} observations."
            )
    return dict_to_dataset(
        arrays,
        dims={name: [dim for dim in dims[name] if dim not in DRAWS] for name in arrays},
        coords={"obs": list(observations)},
        sample_dims=sample_dims,
    )


def _check_names(sites: Iterable[str], latent_dims: Iterable[tuple[str, ...]]) -> None:
    """A variable with the name of a dimension would silently become a coordinate."""
    taken = RESERVED.union(*latent_dims)
    for name in sites:
        if name in taken:
            raise ValueError(f"site {name!r}: the name is taken by a dimension or by x; rename the site.")


def _numpy(values: Array) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
