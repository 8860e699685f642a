"""Every diagnostic on every kind of variant: finite numbers, or one error that says why there are none."""

import pytest
import torch

import pyro_vae as pv
from pyro_vae.diagnosis.aggregate import aggregate_posterior, no_surgery
from pyro_vae.diagnosis.bounds import annealed_log_likelihood, bidirectional
from pyro_vae.diagnosis.calibration import calibrate
from pyro_vae.diagnosis.importance import importance_weights
from pyro_vae.diagnosis.reference import reference_posterior
from pyro_vae.diagnosis.replication import check_predictive
from pyro_vae.diagnosis.simulation import simulate
from pyro_vae.diagnosis.suboptimality import inference_gaps
from pyro_vae.diagnostics.predictive import quantities
from pyro_vae.sites import Batch
from pyro_vae.vae import VAE

N = 12
SMALL = pv.MLP(widths=[8], activation="tanh")
TWO = [pv.Latent(dim=3), pv.Latent(dim=2)]
CONDITIONAL = [{"kind": "normal", "widths": [8]}, "standard_normal"]

VARIANTS = {
    "plain": {},
    "bernoulli": {"likelihood": "bernoulli"},
    "student_t, mixture": {"likelihood": "student_t", "prior": "mixture"},
    "labels always": {"labels": {"y": pv.Label(classes=3)}},
    "labels always, prior sees them": {
        "labels": {"y": pv.Label(classes=3)},
        "prior": {"kind": "normal", "widths": [4]},
    },
    "labels partly, sum": {"labels": {"y": pv.Label(classes=3, observed="partly")}},
    "labels partly, guide": {"labels": {"y": pv.Label(classes=3, observed="partly", rule="guide")}},
    "labels never": {
        "labels": {"y": pv.Label(classes=3, observed="never")},
        "prior": {"kind": "normal", "widths": [4]},
    },
    "layers": {"latent": TWO, "prior": CONDITIONAL},
    "layers, bottom up": {"latent": TWO, "prior": CONDITIONAL, "guide": "bottom_up_normal"},
    "layers, ladder": {"latent": TWO, "prior": CONDITIONAL, "guide": "ladder"},
    "layers, labels": {"latent": TWO, "prior": CONDITIONAL, "labels": {"y": pv.Label(classes=2, observed="partly")}},
    "missing entries": {},
    "covariates": {"prior": {"kind": "normal", "widths": [4]}},
    "vamp": {"prior": {"kind": "vamp", "components": 4}},
    "flow prior": {"prior": {"kind": "flow", "widths": [8]}},
    "flow guide": {"guide": {"kind": "flow", "widths": [8]}},
    "full_normal": {"guide": "full_normal"},
    "low_rank_normal": {"guide": "low_rank_normal"},
    "refined": {"guide": {"kind": "refined", "steps": 2}},
}

QUICK = ("plain", "labels partly, guide", "layers, labels", "missing entries")
ALL = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in VARIANTS]


def built(name):
    torch.manual_seed(0)
    fields = {"latent": pv.Latent(dim=3), "encoder": SMALL, "decoder": SMALL} | VARIANTS[name]
    missing, given = name == "missing entries", 2 if name == "covariates" else 0
    vae = VAE(pv.Variant(**fields), (1, 4, 4), given=given, masked=missing).eval()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    sites, partly = vae.variant.labels, bool(vae.variant.missing)
    batch = Batch(
        torch.bernoulli(torch.rand(N, 1, 4, 4)),
        y=(torch.full((N, 1), -1) if partly else torch.randint(3, (N, 1))) if sites else None,
        mask=torch.rand(N, 1, 4, 4) < 0.7 if missing else None,
        given=torch.randn(N, given) if given else None,
    )
    return vae, batch._replace(x=torch.where(batch.mask, batch.x, torch.nan)) if missing else batch


def all_finite(*values):
    assert all(bool(torch.as_tensor(value).isfinite().all()) for value in values)


@pytest.mark.parametrize("name", ALL)
def test_of_each_datum(name):
    vae, batch = built(name)
    weights = importance_weights(vae, batch, 60)
    all_finite(weights.log_w, weights.smoothed, weights.effective)
    posterior = reference_posterior(vae, batch, num_draws=6, num_warmup=8)
    all_finite(*posterior.z.values(), posterior.hmc.log_density)
    assert {site: z.shape for site, z in posterior.z.items()} == {
        site: (6, 4, N, dim) for site, dim in vae.variant.layers.items()
    }
    gaps = inference_gaps(vae, batch, num_steps=5)
    all_finite(gaps.approximation, gaps.amortisation, gaps.full_elbo, *gaps.standard_error.values())


@pytest.mark.parametrize("name", ALL)
def test_of_the_model(name):
    vae, batch = built(name)
    all_finite(annealed_log_likelihood(vae, batch, 8, 4).value)
    sides = bidirectional(vae, simulate(vae, batch, 5), 8, 4)
    all_finite(sides.lower.value, sides.upper.value)
    checks = check_predictive(vae, batch, quantities((1, 4, 4), counts=False), 5, 20)
    all_finite(*(check.tail.p for check in checks.values()))


@pytest.mark.parametrize("name", ALL)
def test_of_all_data(name):
    vae, batch = built(name)
    found = calibrate(vae, batch, num_simulations=20)
    dims = vae.variant.layers
    assert {site: rank.shape for site, rank in found.latent_ranks.items()} == {s: (20, d) for s, d in dims.items()}
    all_finite(*found.pit().values(), found.coverage().share)
    together = aggregate_posterior(vae, batch)
    all_finite(together.variance_of_means, together.discrepancy.mmd2)
    assert (together.surgery is None) == bool(no_surgery(vae))
    if together.surgery:
        all_finite(*together.surgery.kl)
        assert together.surgery.mutual_information[0] <= together.surgery.log_num_data + 1e-6


@pytest.mark.parametrize(
    ("guide", "prior", "latent", "works"),
    [
        ("point", "standard_normal", pv.Latent(dim=2), {"calibrate"}),
        ("relaxed", "categorical", pv.Latent(kind="categorical", dim=2, classes=3), {"calibrate", "gaps"}),
    ],
)
def test_what_does_not_apply_says_so(guide, prior, latent, works):
    vae = VAE(pv.Variant(latent=latent, guide=guide, prior=prior, encoder=SMALL, decoder=SMALL), (4,)).eval()
    batch = Batch(torch.rand(N, 4))
    calls = {
        "gaps": lambda: inference_gaps(vae, batch, 5),
        "annealing": lambda: annealed_log_likelihood(vae, batch, 5, 4),
        "hmc": lambda: reference_posterior(vae, batch, 5, 5),
        "calibrate": lambda: calibrate(vae, batch, 20),
    }
    for name, call in calls.items():
        if name in works or (guide == "point" and name in ("hmc", "annealing")):
            call()
        else:
            with pytest.raises(pv.DeclarationError, match="variant"):
                call()
    assert (
        aggregate_posterior(vae, batch).surgery is None
        if guide == "point"
        else aggregate_posterior(vae, batch).surgery is not None
    )
