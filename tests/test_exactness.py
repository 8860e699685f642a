"""Against closed forms: the linear-Gaussian model, where the ELBO, log p(x) and the posterior are known."""

import math

import exact
import pytest
import torch
from mc import assert_below_mc, assert_close_mc

import pyro_vae as pv
from pyro_vae.data import load
from pyro_vae.diagnostics.importance import iwae_bound, log_mean_exp
from pyro_vae.evaluation import score
from pyro_vae.objectives import ELBO
from pyro_vae.sites import Batch
from pyro_vae.vae import densities

pytestmark = pytest.mark.usefixtures("float64")


def linear_gaussian(correlated):
    data = load(pv.LinearGaussianData(num_data=500, correlated=correlated, validation=0.0))
    truth = data.truth
    W, b, sigma = truth["W"], truth["b"], float(truth["sigma"])
    return data.train.x.double(), W, b, sigma


def test_elbo_is_log_p_where_the_guide_is_exact():
    x, W, b, sigma = linear_gaussian(correlated=False)
    vae, exact_log_p = exact.linear_vae(W, b, sigma), exact.log_evidence(x, W, b, sigma)
    d = densities(vae, Batch(x), 3)
    torch.testing.assert_close(d.log_w, exact_log_p.expand(3, -1), rtol=1e-8, atol=0.0)  # no variance at all
    _, sampled = ELBO(kl="sampled", num_particles=3).build(vae)(Batch(x), {"beta": torch.tensor(1.0)})
    assert sampled.elbo.sum().item() == pytest.approx(exact_log_p.sum().item(), rel=1e-8)
    _, closed = ELBO(num_particles=64).build(vae)(Batch(x), {"beta": torch.tensor(1.0)})
    mean = closed.elbo.mean()  # in closed form only the KL is free of noise
    error = (closed.elbo - exact_log_p).std() / math.sqrt(len(x))
    assert_close_mc(mean, exact_log_p.mean(), error)


def test_a_wrong_prior_scale_is_seen():
    """The check above can fail: 5 % in the guide's scale is far outside of its tolerance."""
    x, W, b, sigma = linear_gaussian(correlated=False)
    vae, exact_log_p = exact.linear_vae(W, b, sigma), exact.log_evidence(x, W, b, sigma)
    with torch.no_grad():
        vae.heads["z"].raw.output.bias[3:] += 2 * math.log(1.05)
    log_w = densities(vae, Batch(x), 200).log_w
    elbo = log_w.mean(0)
    gap = (exact_log_p - elbo).mean()
    expected = 3 * (0.5 * (1.05**2 - 1) - math.log(1.05))  # KL(N(0, 1.05^2) || N(0, 1)) per dimension
    assert gap.item() == pytest.approx(expected, rel=0.05)


def test_a_diagonal_guide_falls_short_by_a_known_amount_where_columns_correlate():
    """approximation gap = (sum log Lambda_ii - log det Lambda) / 2."""
    x, W, b, sigma = linear_gaussian(correlated=True)
    vae, exact_log_p = exact.linear_vae(W, b, sigma), exact.log_evidence(x, W, b, sigma)
    _, precision = exact.posterior(x, W, b, sigma)
    expected = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    log_w = densities(vae, Batch(x), 400).log_w
    gaps = exact_log_p - log_w.mean(0)
    assert_close_mc(gaps.mean(), expected, gaps.std() / math.sqrt(len(x)))
    assert expected > 0.1


def rises_and_stays_below(log_w, truth):
    """IWAE_k <= log p(x) within the standard error over data, and non-decreasing in k."""
    before = None
    for k in (1, 4, 16, 64, 256):
        gap = truth - iwae_bound(log_w, k)
        assert_below_mc(-gap.mean(), 0.0, gap.std() / math.sqrt(len(gap)), sigmas=4)
        if before is not None:
            rise = before - gap
            assert_below_mc(0.0, rise.mean(), rise.std() / math.sqrt(len(rise)), sigmas=4)
        before = gap
    assert before.mean() < 0.1 * (truth - log_w.mean(0)).mean() + 1e-3


def test_importance_bound_rises_to_log_p_and_stays_below():
    x, W, b, sigma = linear_gaussian(correlated=True)
    vae, truth = exact.linear_vae(W, b, sigma), exact.log_evidence(x, W, b, sigma)
    rises_and_stays_below(densities(vae, Batch(x[:200]), 1024).log_w.detach(), truth[:200])


def test_score_matches_the_closed_form():
    x, W, b, sigma = linear_gaussian(correlated=True)
    vae, truth = exact.linear_vae(W, b, sigma), exact.log_evidence(x, W, b, sigma)
    scores = score(vae.eval(), Batch(x), 1000)
    assert_close_mc(scores.log_likelihood.mean(), truth.mean(), scores.standard_error.norm() / len(x))
    torch.testing.assert_close(scores.elbo, scores.reconstruction - scores.kl)
    assert (scores.khat < 0.7).double().mean() > 0.95
    mean, _ = exact.posterior(x, W, b, sigma)
    torch.testing.assert_close(scores.mean["z"], mean, rtol=1e-8, atol=1e-8)


def test_score_in_chunks_is_the_same_estimator(monkeypatch):
    x, W, b, sigma = linear_gaussian(correlated=True)
    vae, truth = exact.linear_vae(W, b, sigma), exact.log_evidence(x, W, b, sigma)
    monkeypatch.setattr("pyro_vae.latent.particles.CHUNK", 64 * 10 * 7)  # 100 data, 10 pixels: 4 particles at a time
    scores = score(vae.eval(), Batch(x[:64]), 1000)
    assert_close_mc(scores.log_likelihood.mean(), truth[:64].mean(), scores.standard_error.norm() / 64)


def test_gradient_of_the_elbo_is_the_gradient_of_log_p_where_the_guide_is_exact():
    """Fisher's identity, for the model's parameters."""
    x, W, b, sigma = linear_gaussian(correlated=False)
    vae = exact.linear_vae(W, b, sigma)
    with torch.no_grad():
        vae.likelihood.decoded.network.output.bias.add_(0.0)
    network = vae.likelihood.decoded.network.output
    loss, _ = ELBO(num_particles=2000).build(vae)(Batch(x[:50]), {"beta": torch.tensor(1.0)})
    ours = torch.autograd.grad(-loss, network.bias)[0]
    b = b.clone().requires_grad_()
    expected = torch.autograd.grad(exact.log_evidence(x[:50], W, b, sigma).mean(), b)[0]
    # Var over draws of (x - Wz - b) / sigma^2 is about |W|^2 / sigma^4 / precision per datum, at most 1 / sigma^2.
    assert_close_mc(ours, expected, torch.full_like(expected, 1 / sigma / math.sqrt(50 * 2000)))


@pytest.mark.parametrize("scale", ["learned", "per_pixel"])
def test_learned_variance_reaches_its_optimum(scale):
    """At the optimum sigma^2 is the mean squared residual: d log sigma^2 + ||r||^2 / sigma^2 has derivative 0."""
    x = 0.3 * torch.randn(400, 6) * torch.arange(1.0, 7.0)
    likelihood = pv.Normal(scale=scale).build(pv.MLP(widths=[]), 2, pv.Shape((6,)))
    with torch.no_grad():
        likelihood.decoded.network.output.weight.zero_()
    z = torch.zeros(400, 2)
    optimizer = torch.optim.LBFGS([likelihood.log_variance], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = -likelihood(z, None, None).log_prob(x).sum(-1).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    residual = x.square().mean() if scale == "learned" else x.square().mean(0)
    torch.testing.assert_close(likelihood.log_variance.exp() + 1e-6, residual.detach(), rtol=1e-4, atol=0.0)


def test_learned_variance_and_evidence_reach_probabilistic_pca(tmp_path):
    """A trained linear VAE finds PPCA's sigma^2 within 2 % and its log p(x) within 0.1 nat."""
    experiment = pv.load_experiment(
        "vae-sigma",
        [
            "data={name: linear_gaussian, num_data: 2200, validation: 0}",
            "latent.dim=3",
            "encoder={kind: mlp, widths: []}",
            "decoder={kind: mlp, widths: []}",
            "training={epochs: 150, batch_size: 100, precision: float64, compile: off}",
            "training.optimizer.learning_rate=1e-2",
            "training.schedule={kind: cosine, final: 1e-3}",
        ],
    )
    run = pv.train(experiment, out=tmp_path / "run", quiet=True, num_samples=200)
    x = run.data.train.x.double()
    sigma2, log_p = exact.ppca(x, 3)
    learned = run.vae.likelihood.log_variance.exp().item() + 1e-6
    assert learned == pytest.approx(sigma2, rel=0.02)
    network = run.vae.likelihood.decoded.network.output
    own = exact.log_evidence(x, network.weight.detach(), network.bias.detach(), math.sqrt(learned))
    assert own.mean().item() == pytest.approx(log_p.mean().item(), abs=0.1)
    assert own.mean() < log_p.mean() + 1e-6  # PPCA's is the maximum
    rises_and_stays_below(densities(run.vae, Batch(x), 256).log_w.detach(), own)


def test_a_bound_with_labels_summed_out_is_one():
    """With the exact guide and a decoder that ignores y, E log sum_c p(y_c) w_c is log p(x), and never more."""
    x, W, b, sigma = linear_gaussian(correlated=False)
    x, truth = x[:200], exact.log_evidence(x, W, b, sigma)[:200]
    one = exact.linear_vae(W, b, sigma)
    labels = {"y": {"classes": 10, "observed": "never", "rule": "sum"}}
    vae = pv.VAE(pv.Variant(**{**one.variant.tree(), "labels": labels}), (x.shape[1],)).double()
    vae.likelihood.scale = one.likelihood.scale
    with torch.no_grad():
        for name, target in vae.named_parameters():
            target.zero_()
            source = one.get_parameter(name)
            target[..., : source.shape[-1]] = source  # the columns of the one-hot label stay 0
    _, terms = ELBO(num_particles=20).build(vae)(Batch(x), {"beta": torch.tensor(1.0)})
    torch.testing.assert_close(terms.elbo, truth, rtol=1e-8, atol=1e-8)


def test_log_mean_exp_of_equal_weights():
    assert log_mean_exp(torch.full((5, 2), -3.0)).tolist() == [-3.0, -3.0]
