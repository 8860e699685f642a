"""What a diagnosis found, as numbers for `diagnostics.json`: each with its standard error, and what it is.

Means over data carry the standard error over data. Nats per datum, where not said otherwise.
"""

from typing import Any, NamedTuple

from torch import Tensor

from pyro_vae.diagnosis.aggregate import Aggregate
from pyro_vae.diagnosis.calibration import Calibration
from pyro_vae.diagnosis.everything import KHAT_DRAWS, Findings
from pyro_vae.diagnosis.importance import Importance
from pyro_vae.diagnosis.replication import Check
from pyro_vae.diagnosis.suboptimality import Gaps
from pyro_vae.diagnostics.predictive import EXTREME
from pyro_vae.diagnostics.psis import khat_report
from pyro_vae.diagnostics.reliability import reliability
from pyro_vae.evaluation import ACTIVE, with_error
from pyro_vae.latent import side_by_side

IWAE = (10, 100)
"""Particles of the IWAE bounds that are reported beside the ELBO and the bound of all draws."""


class Convergence(NamedTuple):
    """What ArviZ says of draws of several chains (B, D): `inference_data.convergence` makes it."""

    rhat: Tensor
    ess_bulk: Tensor
    ess_tail: Tensor
    mcse_mean: Tensor


def numbers(found: Findings, guide: tuple[Tensor, Tensor], convergence: Convergence | None) -> dict[str, Any]:
    """The numbers of a diagnosis, section by section.

    Args:
        found: what was found.
        guide: mean and sd of q(z | x) of the observed data (B, D), layers side by side.
        convergence: of the HMC draws, where there are any.
    """
    made: dict[str, Any] = {}
    if found.importance is not None:
        made["importance"] = _importance(found.importance)
    if found.reference is not None and convergence is not None:
        made["reference"] = _reference(found, guide, convergence)
    if found.annealed is not None:
        made["annealing"] = _annealing(found)
    if found.sandwich is not None:
        lower, upper = found.sandwich
        made["bidirectional"] = {
            "lower": with_error(lower.value) | {"is": "lower bound in expectation"},
            "upper": with_error(upper.value) | {"is": "upper bound in expectation, data simulated from the model"},
            "gap": with_error(upper.value - lower.value),
            "num_data": len(lower.value),
            "num_temperatures": found.sizes["bidirectional"],
        }
    if found.gaps is not None:
        made["gaps"] = {split: _gaps(gaps) for split, gaps in found.gaps.items()}
        if len(found.gaps) == 2:
            made["gaps"]["generalisation"] = _generalisation(*found.gaps.values())
    if found.calibration is not None:
        made["calibration"] = _calibration(found.calibration)
    if found.aggregate is not None:
        made["aggregate"] = _aggregate(found.aggregate)
    if found.checks is not None:
        made["predictive"] = {name: _check(check) for name, check in found.checks.items()}
    return made


def _importance(found: Importance) -> dict[str, Any]:
    num = len(found.log_w)
    bounds = [("ELBO", found.elbo), *((f"IWAE_{k}", found.iwae(k)) for k in IWAE if k < num)]
    bounds.append((f"IWAE_{num}", found.log_likelihood))
    undetermined = int(found.khat.isnan().sum())
    finite, effective = found.khat[found.khat.isfinite()], found.effective / num
    return {
        "num_data": found.log_w.shape[1],
        "num_draws": num,
        "khat": khat_report(found.khat.numpy(), num)
        | {"undetermined": undetermined, "median": float(finite.median()) if len(finite) else None},
        "effective_fraction": {
            "median": float(effective.median()),
            "least": float(effective.min()),
        },
        "log_likelihood": [{"name": name, **with_error(v), "is": "lower bound in expectation"} for name, v in bounds]
        + [{"name": "Pareto-smoothed", **with_error(found.smoothed), "is": "estimate, no bound"}],
        "monte_carlo_error": float(found.standard_error.square().sum().sqrt()) / found.log_w.shape[1],
    }


def _reference(found: Findings, guide: tuple[Tensor, Tensor], convergence: Convergence) -> dict[str, Any]:
    """Draws of HMC against the guide; the sd of the posterior is the unit of the bias."""
    assert found.reference is not None
    draws, hmc = side_by_side(found.reference.z).double().cpu(), found.reference.hmc
    mean, sd = draws.mean((0, 1)), draws.std((0, 1))
    bias, ratio = ((guide[0] - mean) / sd).flatten(), (guide[1] / sd).log().flatten()
    noise = (convergence.mcse_mean / sd).square().mean().sqrt()
    return {
        "num_observations": draws.shape[2],
        "num_chains": draws.shape[1],
        "num_draws": draws.shape[0],
        "rhat_max": float(convergence.rhat.max()),
        "ess_bulk_min": float(convergence.ess_bulk.min()),
        "ess_tail_min": float(convergence.ess_tail.min()),
        "divergences": int(hmc.divergent.sum()),
        "acceptance": float(hmc.acceptance.mean()),
        "bias_over_sd": {
            "root_mean_square": float(bias.square().mean().sqrt()),
            "largest": float(bias.abs().max()),
            "monte_carlo_error": float(noise),
        },
        "sd_ratio": {
            "geometric_mean": float(ratio.mean().exp()),
            "least": float(ratio.min().exp()),
            "largest": float(ratio.max().exp()),
        },
    }


def _annealing(found: Findings) -> dict[str, Any]:
    """AIS on the observed data, and against importance sampling with the guide, datum by datum."""
    assert found.annealed is not None
    made = with_error(found.annealed.value) | {
        "is": "lower bound in expectation",
        "monte_carlo_error": float(found.annealed.standard_error.norm()) / len(found.annealed.value),
        "num_data": len(found.annealed.value),
        "num_temperatures": found.sizes["annealing"],
        "acceptance": float(found.annealed.acceptance.mean()),
    }
    if found.observed_importance is not None:
        made["minus_importance_sampled"] = with_error(found.annealed.value - found.observed_importance.log_likelihood)
        made["importance_draws"] = KHAT_DRAWS
    return made


def _gaps(gaps: Gaps) -> dict[str, Any]:
    """Means over data; where the data are few, Monte Carlo error counts as well: it is in the spread over data."""
    made = {
        "num_data": len(gaps.elbo),
        "total": with_error(gaps.log_likelihood - gaps.elbo),
        "approximation": with_error(gaps.approximation),
        "amortisation": with_error(gaps.amortisation),
    }
    if gaps.full_elbo is not None:
        made["approximation_of_full_normal"] = with_error(gaps.log_likelihood - gaps.full_elbo)
    return made


def _generalisation(held_out: Gaps, train: Gaps) -> dict[str, float]:
    """By how much the encoder does worse on data that it was not trained on: difference of the amortisation gaps."""
    there, here = with_error(held_out.amortisation), with_error(train.amortisation)
    error = (there["standard_error"] ** 2 + here["standard_error"] ** 2) ** 0.5
    return {"value": there["value"] - here["value"], "standard_error": error}


def _calibration(found: Calibration) -> dict[str, Any]:
    coverage, p = found.coverage(), found.p_values()
    every = [value for values in p.values() for value in values]
    share = coverage.share.mean(1)
    worst = ((coverage.share - coverage.nominal[:, None]) / coverage.standard_error[:, None]).abs().max()
    return {
        "num_simulations": len(found.joint_rank),
        "num_draws": found.num_draws,
        "p_values": p,
        "least_p_value": min(every),
        "num_tests": len(every),
        "coverage": [
            {
                "nominal": float(n),
                "mean": float(s),
                "least": float(each.min()),
                "largest": float(each.max()),
                "standard_error_of_one": float(e),
            }
            for n, s, each, e in zip(coverage.nominal, share, coverage.share, coverage.standard_error, strict=True)
        ],
        "largest_coverage_z": float(worst),
        "num_coverages": coverage.share.numel(),
    }


def _aggregate(found: Aggregate) -> dict[str, Any]:
    made: dict[str, Any] = {
        "num_data": len(found.z),
        "mmd": found.discrepancy._asdict(),
        "active_units": int((found.variance_of_means > ACTIVE).sum()),
        "variance_of_means": found.variance_of_means.tolist(),
        "kl_per_dim": None if found.kl_per_dim is None else found.kl_per_dim.tolist(),
        "collapsed": None if found.collapsed is None else found.collapsed.nonzero().flatten().tolist(),
        "latent_dim": len(found.variance_of_means),
    }
    if found.surgery is not None:
        named = {
            "kl": found.surgery.kl,
            "mutual_information": found.surgery.mutual_information,
            "kl_to_prior": found.surgery.kl_to_prior,
        }
        made |= {name: {"value": value, "standard_error": error} for name, (value, error) in named.items()}
        made["log_num_data"] = found.surgery.log_num_data
    return made


def _check(check: Check) -> dict[str, Any]:
    extreme = ((check.tail.p < EXTREME) | (check.tail.p > 1 - EXTREME)).double()
    return {
        "posterior": {
            "mean_p": with_error(check.tail.p),
            "extreme_fraction": with_error(extreme) | {"expected": 2 * EXTREME},
            "p_standard_error": float(check.tail.standard_error.mean()),
            "num_data": len(check.tail.p),
            "num_replicates": len(check.posterior),
        },
        "prior": check.set._asdict() | {"sd_observed": float(check.observed.std())},
    }


def label_numbers(probability: Tensor, known: Tensor) -> dict[str, Any]:
    """Reliability of p(y | x) of one label site."""
    found = reliability(probability, known)
    return {
        "num_data": int((known >= 0).sum()),
        "expected_calibration_error": {"value": found.ece, "standard_error": found.ece_standard_error},
        "log_loss": dict(zip(("value", "standard_error"), found.log_loss, strict=True)),
        "brier": dict(zip(("value", "standard_error"), found.brier, strict=True)),
        "confidence": found.confidence.tolist(),
        "share": found.share.tolist(),
        "share_standard_error": found.standard_error.tolist(),
    }
