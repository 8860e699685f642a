"""The figures of a diagnosis: from what was found to what `plots` draws."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from pyro_vae import plots
from pyro_vae.diagnosis.everything import Findings
from pyro_vae.diagnosis.report import Convergence
from pyro_vae.diagnosis.verdict import CONVERGED, ENOUGH
from pyro_vae.latent import side_by_side

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Shown(NamedTuple):
    """What the figures are made of."""

    found: Findings
    numbers: Mapping[str, Any]
    guide: Tensor
    """Draws of the guide (S, B, D)."""
    names: Sequence[str]
    observations: Sequence[int]
    data: str
    resampled: Tensor | None
    convergence: Convergence | None

    @property
    def warning(self) -> str:
        """What is to be said of chains that have not converged."""
        n = self.numbers.get("reference")
        if n is None or (n["rhat_max"] < CONVERGED and n["ess_bulk_min"] >= ENOUGH):
            return ""
        return f"The chains of HMC have NOT converged (R-hat up to {n['rhat_max']:.2f})"


def figures(
    found: Findings,
    numbers: Mapping[str, Any],
    guide_draws: Tensor,
    names: Sequence[str],
    observations: Sequence[int],
    data_name: str,
    resampled: Tensor | None = None,
    convergence: Convergence | None = None,
) -> "dict[str, Figure]":
    """Draw what was found.

    Args:
        found: what was found.
        numbers: section -> numbers, as in `report.numbers`, with the `labels`.
        guide_draws: draws of the guide for the observed data (S, B, D), layers side by side.
        names: of the latent dimensions.
        observations: numbers of the observed data, B.
        data_name: what the data are.
        resampled: draws of the guide resampled by importance (R, B, D).
        convergence: of the HMC draws; its errors are drawn, or else their root mean square in `numbers`.

    Returns:
        Name of the file, without its ending -> figure; a section that is not there has none.
    """
    shown = Shown(found, numbers, guide_draws, names, observations, data_name, resampled, convergence)
    makers = {
        "khat": _khat,
        "posterior": _posterior,
        "moments": _moments,
        "log_likelihood": _log_likelihood,
        "gaps": _gaps,
        "calibration": _calibration,
        "aggregate": _aggregate,
        "predictive": _predictive,
        "labels": _labels,
    }
    made = {name: maker(shown) for name, maker in makers.items()}
    return {name: figure for name, figure in made.items() if figure is not None}


def _array(values: Tensor) -> Any:
    return values.detach().double().cpu().numpy()


def _khat(s: Shown) -> "Figure | None":
    found = s.found.importance
    if found is None:
        return None
    return plots.khat_figure(_array(found.khat), _array(found.effective), s.numbers["importance"]["khat"], s.data)


def _posterior(s: Shown) -> "Figure | None":
    if s.found.reference is None:
        return None
    hmc = side_by_side(s.found.reference.z).flatten(0, 1)
    resampled = None if s.resampled is None else _array(s.resampled)
    return plots.posterior_figure(
        _array(s.guide), _array(hmc), s.names, s.observations, s.data, resampled=resampled, warning=s.warning
    )


def _moments(s: Shown) -> "Figure | None":
    if s.found.reference is None:
        return None
    hmc = side_by_side(s.found.reference.z).double().flatten(0, 1)
    guide, reference = ((_array(z.double().mean(0)), _array(z.double().std(0))) for z in (s.guide, hmc))
    error = None
    if s.convergence is not None:
        error = _array(s.convergence.mcse_mean)
    elif "reference" in s.numbers:
        error = s.numbers["reference"]["bias_over_sd"]["monte_carlo_error"] * reference[1]
    return plots.moments_figure(guide, reference, s.data, error, s.warning)


def _log_likelihood(s: Shown) -> "Figure | None":
    found, here = s.found, s.numbers.get("importance")
    excess = sides = None
    if found.annealed is not None and found.observed_importance is not None:
        error = (found.annealed.standard_error.square() + found.observed_importance.standard_error.square()).sqrt()
        excess = _array(found.annealed.value - found.observed_importance.log_likelihood), _array(error)
    if found.sandwich is not None:
        lower, upper = found.sandwich
        error = (lower.standard_error.square() + upper.standard_error.square()).sqrt()
        sides = _array(lower.value), _array(upper.value), _array(error)
    if here is None and excess is None and sides is None:
        return None
    return plots.log_likelihood_figure(
        [] if here is None else here["log_likelihood"],
        s.data,
        num_data=0 if here is None else here["num_data"],
        excess=excess,
        observations=s.observations,
        sides=sides,
    )


def _gaps(s: Shown) -> "Figure | None":
    splits = {name: row for name, row in s.numbers.get("gaps", {}).items() if name != "generalisation"}
    return plots.gaps_figure(splits, s.data) if splits else None


def _calibration(s: Shown) -> "Figure | None":
    found = s.found.calibration
    if found is None:
        return None
    pit, coverage = found.pit(), found.coverage()
    joint, distance = pit.pop("log_joint"), pit.pop("distance")
    held = _array(coverage.nominal), _array(coverage.share), _array(coverage.standard_error)
    return plots.calibration_figure(_array(side_by_side(pit)), _array(joint), _array(distance), held, s.data)


def _aggregate(s: Shown) -> "Figure | None":
    found = s.found.aggregate
    if found is None:
        return None
    return plots.aggregate_figure(
        _array(found.z),
        _array(found.prior),
        s.names,
        s.data,
        kl_per_dim=None if found.kl_per_dim is None else _array(found.kl_per_dim),
        variance_of_means=_array(found.variance_of_means),
        collapsed=[] if found.collapsed is None else found.collapsed.nonzero().flatten().tolist(),
        p_value=found.discrepancy.p_value,
    )


def _predictive(s: Shown) -> "Figure | None":
    if not s.found.checks:
        return None
    checks = {
        name: (_array(check.observed), _array(check.prior), _array(check.tail.p))
        for name, check in s.found.checks.items()
    }
    return plots.predictive_figure(checks, s.data)


def _labels(s: Shown) -> "Figure | None":
    sites = s.numbers.get("labels")
    return plots.labels_figure(sites, s.data) if sites else None
