"""A normal with one covariance for the whole datum, and its marginals, against torch's on the sub-vector."""

import math

import pyro
import pytest
import torch
from mc import assert_close_mc
from test_likelihoods import LINEAR, build

import pyro_vae as pv
from pyro_vae.likelihoods import MultivariateNormal
from pyro_vae.networks import MLP, Shape
from pyro_vae.sites import Batch
from pyro_vae.specs import DeclarationError
from pyro_vae.standardize import Standardization
from pyro_vae.vae import VAE, densities

pytestmark = pytest.mark.usefixtures("float64")

KINDS = [MultivariateNormal(), MultivariateNormal(covariance="low_rank", rank=2)]
each = pytest.mark.parametrize("spec", KINDS, ids=["full", "low_rank"])
EVENTS = pytest.mark.parametrize("event", [(6,), (1, 2, 3)], ids=["vectors", "images"])


def some(spec, event=(6,)):
    likelihood = build(spec, event)
    with torch.no_grad():
        likelihood.factor.normal_()
        likelihood.rho.normal_()
    return likelihood


def covariance(likelihood):
    """Sigma by hand."""
    diagonal = likelihood.rho.exp()
    if likelihood.full:
        factor = likelihood.factor.tril(-1) + (1e-3 + diagonal).diag()
        return (factor @ factor.T).detach()
    return (likelihood.factor @ likelihood.factor.T + (1e-6 + diagonal).diag()).detach()


@each
@EVENTS
def test_is_torchs(spec, event):
    likelihood, z, x = some(spec, event), torch.randn(2, 5, 3), torch.randn(5, *event)
    p = likelihood(z, None, None)
    assert p.batch_shape == (2, 5)
    assert p.event_shape == event
    loc = likelihood.decoded.network(z).flatten(2)
    expected = torch.distributions.MultivariateNormal(loc, covariance(likelihood)).log_prob(x.flatten(1))
    torch.testing.assert_close(p.log_prob(x), expected)
    torch.testing.assert_close(p.expand((4, 2, 5)).log_prob(x), expected.expand(4, 2, 5))
    torch.testing.assert_close(p.mean.flatten(2), loc)
    torch.testing.assert_close(p.variance.flatten(2), covariance(likelihood).diagonal().expand(2, 5, 6))


def masks(event, size=5):
    mask = torch.rand(size, *event) > 0.4
    mask[0], mask[1] = True, False  # nothing missing, and everything
    return mask


@each
@EVENTS
def test_marginal_is_torchs_on_the_sub_vector(spec, event):
    likelihood, z, x, mask = some(spec, event), torch.randn(2, 5, 3), torch.randn(5, *event), masks(event)
    p = likelihood(z, None, None).marginal(mask)
    assert p.batch_shape == (2, 5)
    found = p.log_prob(torch.where(mask, x, 0.0))
    loc, sigma = likelihood.decoded.network(z).flatten(2).detach(), covariance(likelihood)
    for k in range(2):
        for i in range(5):
            seen = mask[i].flatten()
            expected = 0.0
            if seen.any():
                sub = torch.distributions.MultivariateNormal(loc[k, i, seen], sigma[seen][:, seen])
                expected = sub.log_prob(x[i].flatten()[seen]).item()
            assert found[k, i].item() == pytest.approx(expected, abs=1e-9)
    found.sum().backward()
    assert all(torch.isfinite(q.grad).all() for q in likelihood.parameters())


@each
def test_marginal_does_not_see_what_is_missing(spec):
    p, mask, x = some(spec)(torch.randn(5, 3), None, None), masks((6,)), torch.randn(5, 6)
    p = p.marginal(mask)
    torch.testing.assert_close(p.log_prob(torch.where(mask, x, 0.0)), p.log_prob(torch.where(mask, x, 1e6)))


@each
def test_draws_have_the_covariance(spec):
    """Of the whole, and of the entries that exist."""
    likelihood, S = some(spec), 40_000
    p, seen = likelihood(torch.randn(3), None, None), torch.tensor([True, False, True, True, False, True])
    for q, part in ((p, slice(None)), (p.marginal(seen), seen)):
        with torch.no_grad():
            x = q.sample((S,)).reshape(S, 6)
            outer = (x - p.mean)[:, part, None] * (x - p.mean)[:, None, part]
        assert_close_mc(outer.mean(0), covariance(likelihood)[part][:, part], outer.std(0) / math.sqrt(S))


@each
@EVENTS
def test_standardised(spec, event):
    """In the data's own units, with missing entries and without."""
    likelihood, z, mask = some(spec, event), torch.randn(2, 5, 3), masks(event)
    scale = Standardization(event)
    mean, sd = torch.randn_like(scale.mean), 0.5 + torch.rand_like(scale.sd)
    scale.set(mean, sd)
    x = 3 * torch.randn(5, *event)
    p, s = scale.undone(likelihood(z, None, None)), scale(x)
    by = sd.expand(event).log()
    torch.testing.assert_close(p.log_prob(x), likelihood(z, None, None).log_prob(s) - by.sum())
    torch.testing.assert_close(p.mean, mean + sd * likelihood(z, None, None).mean)
    found = p.marginal(mask).log_prob(torch.where(mask, x, 0.0))
    expected = likelihood(z, None, None).marginal(mask).log_prob(torch.where(mask, s, 0.0))
    torch.testing.assert_close(found, expected - (by * mask).flatten(1).sum(-1))


@each
@pytest.mark.parametrize("standardized", [False, True])
def test_a_vae_with_missing_entries(spec, standardized):
    """Masked by the VAE itself, recorded or not: NaN where an entry is missing changes nothing."""
    small = MLP(widths=[8])
    vae = VAE(
        pv.Variant(latent=pv.Latent(dim=2), likelihood=spec, encoder=small, decoder=small),
        (6,),
        masked=True,
        standardized=standardized,
    )
    x, mask = torch.randn(5, 6), masks((6,))
    z = {"z": torch.randn(3, 5, 2)}
    found = densities(vae, Batch(torch.where(mask, x, torch.nan), mask=mask), 3, z).p["x"].log_prob
    assert found.shape == (3, 5)
    p = vae.likelihood(z["z"], None, None)
    torch.testing.assert_close(found, p.marginal(mask).log_prob(torch.where(mask, x, 0.0)))


@pytest.mark.parametrize("covariance", ["full", "low_rank"])
@EVENTS
def test_initialise_starts_at_the_mean_and_variances_of_the_data(covariance, event):
    likelihood = build(MultivariateNormal(covariance=covariance), event)
    x = torch.randn(400, *event) * torch.arange(1.0, 7.0).reshape(event) + 3
    for _ in range(2):  # again is the same
        likelihood.initialise(x)
        p = likelihood(torch.zeros(3), None, None)
        torch.testing.assert_close(p.mean, x.mean(0))
        torch.testing.assert_close(p.variance, x.var(0, correction=0), rtol=0.1, atol=0.0)
    if covariance == "low_rank":  # about a tenth of the data's spread: from 0 it would never leave
        size = likelihood.factor.norm(dim=-1) / x.std(0).flatten()
        assert ((size > 0.02) & (size < 0.3)).all()
    likelihood.initialise(torch.ones(3, *event))
    assert torch.isfinite(likelihood(torch.zeros(3), None, None).log_prob(torch.ones(event)))


def test_a_learned_covariance_is_that_of_the_residuals():
    """D(z) = b: maximum likelihood finds the covariance of the data."""
    truth = torch.tensor([[1.0, 0.8, -0.3], [0.0, 0.5, 0.4], [0.0, 0.0, 0.7]])
    x = torch.randn(300, 3) @ truth + 2
    likelihood, z = build(MultivariateNormal(min_scale=0.0), (3,)), torch.zeros(300, 3)
    likelihood.initialise(x)
    optimizer = torch.optim.LBFGS(likelihood.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = -likelihood(z, None, None).log_prob(x).mean()
        value.backward()
        return value

    optimizer.step(loss)
    found = likelihood(z[:1], None, None).base.covariance_matrix[0]
    torch.testing.assert_close(found, torch.cov(x.T, correction=0), rtol=1e-4, atol=1e-4)


def test_min_scale_is_a_floor():
    for spec in KINDS:
        likelihood = some(spec.replace(min_scale=0.05))
        with torch.no_grad():
            likelihood.rho.fill_(-100.0)
        p = likelihood(torch.zeros(3), None, None).base
        least = p.scale_tril.diagonal() if likelihood.full else p.cov_diag.sqrt()
        torch.testing.assert_close(least, torch.full((6,), 0.05))


def test_too_many_entries_for_a_full_covariance_are_refused():
    with pytest.raises(DeclarationError, match=r"covariance='full': a datum has 12288 entries.*use 'low_rank'"):
        MultivariateNormal().build(LINEAR, 3, Shape((3, 64, 64)))
    MultivariateNormal(covariance="low_rank").build(LINEAR, 3, Shape((3, 64, 64)))


@each
def test_covariances_keep_their_precision_under_autocast(spec):
    """Given the same D(z): only the network may run in bfloat16."""
    likelihood = some(spec).float()
    z, x, mask = torch.randn(5, 3), torch.randn(5, 6), masks((6,))
    found = []
    for lower in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            likelihood.decoded.network.forward = lambda c: torch.zeros(5, 1, 6, dtype=torch.float32)
            p = likelihood(z.float(), None, None)
            found.append((p.log_prob(x.float()), p.marginal(mask).log_prob(x.float())))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_validation_accepts_it():
    with pyro.validation_enabled(True), pytest.raises(ValueError, match="support"):
        some(KINDS[0])(torch.zeros(3), None, None).log_prob(torch.full((6,), torch.nan))
