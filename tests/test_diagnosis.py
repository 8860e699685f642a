"""Each diagnostic on a linear-Gaussian VAE: the exact guide passes, and one too narrow, shifted, collapsed does not."""

import exact
import pytest
import torch
from guides import GUIDES, SIGMA, data, guided, model
from mc import assert_below_mc, assert_close_mc

from pyro_vae.diagnosis.aggregate import aggregate_posterior
from pyro_vae.diagnosis.bounds import annealed_log_likelihood, bidirectional
from pyro_vae.diagnosis.calibration import calibrate
from pyro_vae.diagnosis.importance import importance_weights
from pyro_vae.diagnosis.replication import check_predictive
from pyro_vae.diagnosis.simulation import prior_draws, simulate
from pyro_vae.diagnosis.suboptimality import inference_gaps
from pyro_vae.diagnostics.importance import mean_and_standard_error
from pyro_vae.diagnostics.predictive import quantities

pytestmark = pytest.mark.usefixtures("float64")

W, B = model()
WRONG = GUIDES[1:]


def log_p(x, weights=W, b=B):
    return exact.log_evidence(x, weights, b, SIGMA)


def z_score(values, truth):
    """Mean over data against the truth, in standard errors of the paired difference."""
    value, error = mean_and_standard_error(values - truth)
    return value / max(error, 1e-9)


@pytest.mark.parametrize("guide", GUIDES)
def test_importance(guide):
    """k-hat is -inf for equal weights; sd times 0.7 has k = 1 - 0.49 in each dimension, and q = p is wide enough."""
    batch = data(40, W, B)
    found = importance_weights(guided(guide, W, B), batch, num_draws=2000)
    if guide == "exact":
        assert bool((found.khat == -torch.inf).all())
        assert (found.effective > 1999).all()
        torch.testing.assert_close(found.elbo, log_p(batch.x))
        return
    assert (found.elbo < log_p(batch.x) - 0.05).all()
    assert found.effective.mean() < 1800
    assert_close_mc(found.log_likelihood.mean(), log_p(batch.x).mean(), found.standard_error.norm() / 40, sigmas=7)
    assert_close_mc(found.smoothed.mean(), log_p(batch.x).mean(), found.standard_error.norm() / 40, sigmas=7)
    if guide == "narrow":
        assert found.khat.mean() == pytest.approx(1 - 0.49, abs=0.15)
    if guide == "collapsed":  # wider than the posterior: few and bounded weights, so that it is the ESS that tells
        assert found.khat.median() < 0
        assert found.effective.mean() < 500
    assert found.iwae(1).mean() < found.iwae(10).mean() < found.iwae(2000).mean()


@pytest.mark.parametrize("guide", ["exact", "collapsed"])
def test_annealing_does_not_look_at_the_guide(guide):
    """Unbiased on the scale of p(x), whatever the guide; false alarms of 6e-7."""
    batch = data(30, W, B)
    found = annealed_log_likelihood(guided(guide, W, B), batch, num_temperatures=60, num_chains=40)
    assert abs(z_score((found.value - log_p(batch.x)).exp(), 1.0)) < 5
    assert_below_mc(found.value.mean(), log_p(batch.x).mean(), found.standard_error.norm() / 30)
    assert 0.6 < found.acceptance.mean() < 0.98


def test_both_sides_hold_the_truth():
    vae = guided("shifted", W, B)
    simulated = simulate(vae, data(30, W, B), 30)
    truth = log_p(simulated.batch.x)
    lower, upper = bidirectional(vae, simulated, num_temperatures=100, num_chains=10)
    assert_below_mc(lower.value.mean(), truth.mean(), lower.standard_error.norm() / 30)
    assert_below_mc(truth.mean(), upper.value.mean(), upper.standard_error.norm() / 30)
    assert (upper.value - lower.value).mean() < 0.3


def test_simulated_data_are_those_of_the_model():
    """Mean and covariance of x, and its covariance with z, over 20,000 draws; 5 standard errors."""
    n = 20_000
    simulated = simulate(guided("exact", W, B), data(7, W, B), n)
    x, z = simulated.batch.x - B, simulated.z["z"]
    assert ((x.mean(0)) / x.std(0) * n**0.5).abs().max() < 5
    for a, b, expected in ((x, x, W @ W.T + SIGMA**2 * torch.eye(6)), (x, z, W), (z, z, torch.eye(2))):
        products = a[:, :, None] * b[:, None, :]
        assert ((products.mean(0) - expected) / (products.std(0) / n**0.5)).abs().max() < 5
    assert prior_draws(guided("exact", W, B), data(3, W, B), 5)["z"].shape == (5, 3, 2)


@pytest.mark.parametrize("guide", GUIDES)
def test_calibration(guide):
    """1000 simulations; p-values below 1e-4 and coverage off by 4.5 standard errors are alarms (1e-3 in all)."""
    torch.manual_seed(11)
    found = calibrate(guided(guide, W, B), data(50, W, B))
    low = {name: min(p) < 1e-4 for name, p in found.p_values().items()}
    share, nominal, error, *_ = (found.coverage().share, found.coverage().nominal, found.coverage().standard_error)
    off = bool((((share - nominal[:, None]) / error[:, None]).abs() > 4.5).any())
    expected = {
        "exact": ({"z": False, "log_joint": False, "distance": False}, False),
        "narrow": ({"log_joint": True}, True),
        "shifted": ({"z": True}, True),
        "collapsed": ({"z": False, "log_joint": True, "distance": True}, False),
    }[guide]
    assert {name: low[name] for name in expected[0]} == expected[0]
    assert off == expected[1]
    assert found.pit()["z"].shape == (1000, 2)


@pytest.mark.parametrize("guide", GUIDES)
def test_gaps_with_orthogonal_columns(guide):
    """The family holds the posterior: no approximation gap; the amortisation gap is KL(q_phi || p), in closed form."""
    batch = data(16, W, B)
    vae = guided(guide, W, B)
    found = inference_gaps(vae, batch, num_steps=300)
    kl = log_p(batch.x) - elbo(vae, batch)
    for value, truth, names in (
        (found.approximation, torch.zeros(16), ("log_likelihood", "best_elbo")),
        (found.amortisation, kl, ("best_elbo", "elbo")),
    ):
        error = sum(found.standard_error[name].square() for name in names).sqrt()
        assert_close_mc(value, truth, error + 1e-3, sigmas=4.5)
    assert_close_mc(found.full_elbo, log_p(batch.x), found.standard_error["full_elbo"] + 1e-3)
    assert (float(kl.mean()) > 0.05) == (guide != "exact")


def elbo(vae, batch):
    """log p(x) - KL(q || p) (N,) of a diagonal normal guide, in closed form."""
    weights, b = vae.likelihood.decoded.network.output.weight, vae.likelihood.decoded.network.output.bias
    mean, precision = exact.posterior(batch.x, weights, b, SIGMA)
    out = vae.heads["z"].raw(vae.features(batch), None, None, None)
    mu, log_variance = out.chunk(2, -1)
    q = torch.distributions.MultivariateNormal(mu, torch.diag_embed(log_variance.exp()))
    p = torch.distributions.MultivariateNormal(mean, precision_matrix=precision)
    return (log_p(batch.x, weights, b) - torch.distributions.kl_divergence(q, p)).detach()


def test_gaps_with_correlated_columns():
    """approximation = (sum log Lambda_ii - log det Lambda) / 2, amortisation = KL(q_phi || p) less that."""
    weights, b = model(correlated=True)
    vae, batch = guided("shifted", weights, b), data(12, weights, b)
    precision = exact.posterior(batch.x, weights, b, SIGMA)[1]
    approximation = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    assert approximation > 0.1
    found = inference_gaps(vae, batch, num_steps=400)
    amortisation = log_p(batch.x, weights, b) - elbo(vae, batch) - approximation
    for value, truth, names in (
        (found.approximation, approximation.expand(12), ("log_likelihood", "best_elbo")),
        (found.amortisation, amortisation, ("best_elbo", "elbo")),
    ):
        error = sum(found.standard_error[name].square() for name in names).sqrt()
        assert_close_mc(value, truth, error + 1e-3, sigmas=4.5)


@pytest.mark.parametrize("guide", GUIDES)
def test_aggregate(guide):
    """The exact guide's aggregate is the prior, up to the sampling of 2000 data; a collapsed one knows nothing of x."""
    torch.manual_seed(2)
    found = aggregate_posterior(guided(guide, W, B), data(1500, W, B))
    information, error = found.surgery.mutual_information
    precision = exact.posterior(B[None], W, B, SIGMA)[1]
    truth = float(0.5 * precision.diagonal().log().sum())  # I(x; z), exact columns
    if guide == "exact":
        assert abs(information - truth) < 5 * error + 0.05  # the finite sum is a little below
        assert found.surgery.kl_to_prior[0] < 0.05
        assert found.discrepancy.p_value > 1e-3
    elif guide == "collapsed":
        assert abs(information) < 1e-9
        assert bool(found.collapsed.all())
        assert found.kl_per_dim.abs().max() < 1e-9
    elif guide == "shifted":
        assert found.surgery.kl_to_prior[0] > 0.05
        assert found.discrepancy.p_value < 0.01
    else:  # narrow: q(z) is a little too narrow, and knows more of x than there is to know
        assert information > truth + 5 * error
    assert found.surgery.kl[0] == pytest.approx(information + found.surgery.kl_to_prior[0])
    assert bool(found.collapsed.any()) == (guide == "collapsed")


def test_predictive_checks_see_another_noise():
    """Data of the model pass; data with twice its noise do not, by their sd."""
    vae = guided("exact", W, B)
    batch = data(200, W, B)
    wild = batch._replace(x=batch.x + 2 * SIGMA * torch.randn_like(batch.x))
    right, wrong = (check_predictive(vae, b, quantities((6,), counts=False), 200, 500)["sd"] for b in (batch, wild))
    assert right.set.p_value > 1e-3
    assert wrong.set.p_value < 0.01
    assert abs(float(right.tail.p.mean()) - 0.5) < 0.15
    assert wrong.tail.p.mean() < 0.3
    assert right.posterior.shape == (200, 200)
