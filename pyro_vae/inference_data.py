"""Draws of a VAE as an ArviZ DataTree, and its netCDF file.

    group                   variables                       dimensions
    posterior               latents, missing labels         chain draw obs [<latent>_dim]
    prior                   latents                         chain draw <latent>_dim
    posterior_predictive    x                               chain draw obs *event
    prior_predictive        x                               chain draw *event
    observed_data           x                               obs *event
    constant_data           labels as given, -1 missing     obs
    sample_stats            log_p, log_q, log_w             chain draw obs

A diagnosis adds

    posterior_psir          latents, missing labels         chain draw obs [<latent>_dim]
    posterior_hmc           latents                         chain draw obs <latent>_dim
    sample_stats_hmc        lp, energy, acceptance_rate,    chain draw obs
                            diverging, step_size
    prior_sbc               what should be uniform          chain draw [<latent>_dim]

and `khat` and `ess` of each observation as coordinates of sample_stats. Draws of prior_sbc count simulations. No group
holds log p(x | z), so that `az.loo` refuses: `pyro_vae.comparison` says why it must.

log_w = log p(x, z) - log q(z | x). The draws of a guide are independent: one chain, whose r-hat is NaN and
whose effective sample size is the number of draws; summarise with `az.summary(tree, kind="stats")`. `obs`
holds the indices of the observations in their data set.
"""

import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import Tensor

from pyro_vae.diagnostics.psis import good_khat

if TYPE_CHECKING:
    import xarray
    from arviz_stats.utils import ELPDData

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


def add_diagnosis(
    tree: "xarray.DataTree",
    *,
    khat: Array | None = None,
    effective: Array | None = None,
    resampled: Mapping[str, Array] | None = None,
    hmc: Mapping[str, Array] | None = None,
    hmc_stats: Mapping[str, Array] | None = None,
    calibration: Mapping[str, Array] | None = None,
) -> "xarray.DataTree":
    """Add what a diagnosis found to a tree of `posterior_tree`; groups without variables are left out.

    Args:
        tree: the draws of N observations.
        khat: k-hat of each observation (N,).
        effective: effective sample size of its importance weights (N,).
        resampled: draws resampled by importance, (R, N, D) of latents, (R, N) of labels.
        hmc: draws of each latent site by HMC (C, S, N, D).
        hmc_stats: statistics of the chains (C, S, N).
        calibration: values that should be uniform, of M simulations, (M, D) or (M,).

    Returns:
        The tree.

    Raises:
        ValueError: an array does not have the shape above.
    """
    observations = tree["posterior"].to_dataset()["obs"].values.tolist()
    stats = tree["sample_stats"].to_dataset() if "sample_stats" in tree.children else None
    if stats is not None:
        coords = {"khat": khat, "ess": effective}
        known = {name: ("obs", _numpy(values)) for name, values in coords.items() if values is not None}
        tree["sample_stats"] = _group(stats.assign_coords(known))
    resampled, hmc, stats_of, sbc = resampled or {}, hmc or {}, hmc_stats or {}, calibration or {}

    def latent(name: str, values: Array, draws: int) -> tuple[str, ...]:
        return (f"{name}_dim",) if _numpy(values).ndim > draws else ()

    groups = {
        "posterior_psir": _draws(
            resampled, {name: ("obs", *latent(name, values, 2)) for name, values in resampled.items()}, observations
        ),
        "posterior_hmc": _dataset(hmc, {name: (*DRAWS, "obs", f"{name}_dim") for name in hmc}, observations, DRAWS),
        "sample_stats_hmc": _dataset(stats_of, dict.fromkeys(stats_of, (*DRAWS, "obs")), observations, DRAWS),
        "prior_sbc": _draws(sbc, {name: latent(name, values, 1) for name, values in sbc.items()}, observations),
    }
    for name, group in groups.items():
        if group.data_vars:
            tree[name] = _group(group)
    return tree


def _group(dataset: "xarray.Dataset") -> "xarray.DataTree":
    import xarray

    return xarray.DataTree(dataset)


def convergence(draws: Array) -> dict[str, np.ndarray]:
    """What ArviZ says of the chains of each datum and latent.

    Args:
        draws: (C, S, N, D).

    Returns:
        `rhat`, `ess_bulk`, `ess_tail`, and `mcse_mean` in the units of the draws, (N, D) each.

    >>> found = convergence(np.random.default_rng(0).normal(size=(4, 500, 2, 1)))
    >>> bool((found["rhat"] < 1.02).all()), found["ess_bulk"].shape
    (True, (2, 1))
    """
    import arviz_stats  # noqa: F401 - the accessor
    from arviz_base import dict_to_dataset

    data = dict_to_dataset({"f": _numpy(draws)}, dims={"f": ["datum", "entry"]}, sample_dims=DRAWS)
    stats = data.azstats
    found = {
        "rhat": stats.rhat(),
        "ess_bulk": stats.ess(method="bulk"),
        "ess_tail": stats.ess(method="tail"),
        "mcse_mean": stats.mcse(method="mean"),
    }
    return {name: result["f"].values for name, result in found.items()}


def equal_draws(tree: "xarray.DataTree", groups: Iterable[str] | None = None) -> "dict[str, xarray.DataTree]":
    """Posteriors of a diagnosis with as many draws each, in one chain: what `az.plot_forest` and the like need.

    Given posteriors of unequal numbers of chains or draws, those functions pad with NaN and draw nothing, silently.

    Args:
        tree: from a diagnosis.
        groups: which; by default the guide's draws, those resampled, and those of HMC, as far as they are there.

    Returns:
        Group -> a tree whose group `posterior` holds its draws; put its name in place of the group's.

    >>> draws = {"z": np.zeros((50, 2, 3))}
    >>> tree = posterior_tree(latents=draws, x_replicated=None, prior={}, prior_predictive=None, x=np.zeros((2, 4)),
    ...                       log_p=np.zeros((50, 2)), log_q=np.zeros((50, 2)), observations=[7, 9])
    >>> tree = add_diagnosis(tree, hmc={"z": np.zeros((4, 20, 2, 3))})
    >>> {name: dict(found["posterior"].sizes)["draw"] for name, found in equal_draws(tree).items()}
    {'posterior': 50, 'posterior_hmc': 50}
    """
    import xarray

    chosen = [name for name in (groups or ("posterior", "posterior_psir", "posterior_hmc")) if name in tree.children]
    draws = {name: tree[name].to_dataset().stack(every=DRAWS).reset_index("every", drop=True) for name in chosen}
    fewest = min(found.sizes["every"] for found in draws.values())
    made = {}
    for name, found in draws.items():
        thinned = found.isel(every=np.linspace(0, found.sizes["every"] - 1, fewest).round().astype(int))
        one = thinned.rename(every="draw").assign_coords(draw=np.arange(fewest)).expand_dims(chain=[0])
        made[name] = xarray.DataTree.from_dict({"posterior": one.transpose(*DRAWS, ...)})
    return made


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


def elpd(
    log_likelihood: Array, khat: Array, num_samples: int, khat_draws: int, observations: Sequence[int]
) -> "ELPDData":
    """Held-out log p(x) per datum as `az.compare`, `az.plot_compare` and `az.plot_khat` take it.

        elpd = sum_i log p(x_i)          se = sqrt(N) sd_i(log p(x_i))

    ArviZ prints it as `elpd_loo`: with z integrated out and fixed parameters, log p of a held-out datum is what
    leave-one-out cross-validation estimates. There is no effective number of parameters: p is NaN.

    Args:
        log_likelihood: log p(x) (N,), nats.
        khat: Pareto k-hat of each datum (N,); undetermined (NaN) becomes infinite, which ArviZ counts as bad.
        num_samples: K importance samples behind log p(x).
        khat_draws: how many of them k-hat is of, which sets its threshold.
        observations: index of each datum in its data set, N of them.

    Returns:
        An `ELPDDataLOO`, without `pareto_k` where k-hat is nowhere determined.

    References:
        Practical Bayesian Model Evaluation Using Leave-One-Out Cross-Validation and WAIC
            (Vehtari, Gelman & Gabry, 2017).

    >>> found = elpd(np.array([-1.0, -3.0]), np.array([0.2, np.nan]), 1000, 1000, [4, 7])
    >>> float(found.elpd), found.pareto_k.values.tolist(), found.elpd_i["obs"].values.tolist()
    (-4.0, [0.2, inf], [4, 7])
    """
    import xarray
    from arviz_stats.utils import ELPDDataLOO

    values, tail = _numpy(log_likelihood).astype(float), _numpy(khat).astype(float)
    coords, limit = {"obs": list(observations)}, good_khat(max(khat_draws, 2))
    known = not np.isnan(tail).all()
    tail = np.where(np.isnan(tail), np.inf, tail)
    with np.errstate(invalid="ignore"):  # a datum without probability: the error is NaN
        error = float(np.sqrt(len(values)) * values.std())
    return ELPDDataLOO(
        elpd=float(values.sum()),
        se=error,
        p=np.nan,
        n_samples=num_samples,
        n_data_points=len(values),
        scale="log",
        warning=bool((tail >= limit).any()),
        good_k=limit,
        elpd_i=xarray.DataArray(values, coords, ["obs"], name="log_likelihood"),
        pareto_k=xarray.DataArray(tail, coords, ["obs"], name="pareto_k") if known else cast(Any, None),
    )


def stacking_weights(elpds: "Mapping[str, ELPDData]") -> dict[str, float]:
    """Weights of the mixture of models that gives the data the highest probability.

        w = argmax_w sum_i log sum_r w_r p_r(x_i),   w_r >= 0,   sum_r w_r = 1

    They are those of `az.compare` on log p_r(x_i) - max_r log p_r(x_i), a shift that does not change them: as it
    stands, `az.compare` takes the exponential of log p(x_i), which for images underflows or overflows, and then
    returns equal weights for all models.

    Args:
        elpds: name -> what `elpd` returns, of the same data.

    Returns:
        Name -> weight.

    References:
        Using Stacking to Average Bayesian Predictive Distributions (Yao, Vehtari, Simpson & Gelman, 2018).

    >>> near, far = (elpd(np.full(50, value), np.zeros(50), 1000, 1000, range(50)) for value in (-900.0, -990.0))
    >>> {name: round(weight, 6) for name, weight in stacking_weights({"far": far, "near": near}).items()}
    {'far': 0.0, 'near': 1.0}
    """
    from arviz_stats import compare

    values = np.stack([found.elpd_i.values for found in elpds.values()])
    top = values.max(0)
    shifted = values[:, np.isfinite(top)] - top[np.isfinite(top)]  # what no model can give says nothing of any
    if not shifted.size:
        return dict.fromkeys(elpds, 1 / len(elpds))
    given = {}
    for (name, found), own in zip(elpds.items(), shifted, strict=True):
        pointwise = found.elpd_i.isel(obs=np.isfinite(top)).copy(data=own)
        given[name] = replace(found, elpd=float(own.sum()), elpd_i=pointwise, n_data_points=len(own))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # what it says of leaving one out is not about weights
        weights = compare(given, round_to="none")["weight"].clip(0, 1)
    return {name: float(weights[name] / weights.sum()) for name in elpds}


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
