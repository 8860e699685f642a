"""Counts against scipy, their normalisation, gradients at zero, and where they start."""

import math

import pytest
import scipy.stats
import torch
from mc import assert_close_mc
from test_likelihoods import LINEAR, build, raw, set_output

from pyro_vae.likelihoods import (
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)
from pyro_vae.networks import Shape
from pyro_vae.specs import DeclarationError

DISPERSIONS = [2.5, "learned", "per_entry", "decoded"]
NB = [NegativeBinomial(dispersion=d) for d in DISPERSIONS]
ZINB = [ZeroInflatedNegativeBinomial(dispersion=d) for d in DISPERSIONS]
ALL = [Poisson(), ZeroInflatedPoisson(), *NB, *ZINB]
each = pytest.mark.parametrize("spec", ALL, ids=repr)


def some_dispersion(likelihood):
    if isinstance(getattr(likelihood, "log_theta", None), torch.nn.Parameter):
        torch.nn.init.normal_(likelihood.log_theta)


def by_hand(spec, likelihood, x, log_mean, rest):
    """log P(x) from scipy's Poisson and negative binomial."""
    mean = log_mean.detach().exp()
    if getattr(spec, "dispersion", None) is None:
        p = torch.as_tensor(scipy.stats.poisson.pmf(x, mean + 1e-8))
    else:
        theta = (rest[0] if spec.dispersion == "decoded" else likelihood.log_theta).detach().exp().expand_as(mean)
        p = torch.as_tensor(scipy.stats.nbinom.pmf(x, theta, theta / (theta + mean)))
    if spec.kind.startswith("zero_inflated"):
        gate = rest[-1].detach().sigmoid()
        p = (1 - gate) * p + gate * (x == 0)
    return p.log()


@pytest.mark.usefixtures("float64")
@each
@pytest.mark.parametrize("event", [(4,), (2, 3, 5)], ids=["vectors", "images"])
def test_is_scipys(spec, event):
    likelihood, z = build(spec, event), torch.randn(2, 6, 3)
    x = torch.poisson(torch.full((2, 6, *event), 2.0))
    some_dispersion(likelihood)
    log_mean, *rest = raw(likelihood, z)
    p = likelihood(z, None, None)
    assert p.batch_shape == (2, 6, *event)
    torch.testing.assert_close(p.log_prob(x).detach(), by_hand(spec, likelihood, x, log_mean, rest))


@pytest.mark.usefixtures("float64")
@each
def test_library_shares_out_the_total(spec):
    """Mean = library softmax(D(z, other covariates)); the decoder does not see the library itself."""
    spec = spec.replace(library=True)
    likelihood, z = build(spec, given=3), torch.randn(2, 6, 3)
    some_dispersion(likelihood)
    given, library = torch.randn(6, 3), torch.tensor([1.0, 5, 10, 50, 100, 500])
    given[:, -1] = library.log()
    r, *rest = raw(likelihood, z, given[:, :2].expand(2, 6, 2))
    x = torch.poisson(torch.full((2, 6, 4), 2.0))
    log_mean = library[:, None].log() + r.log_softmax(-1)
    p = likelihood(z, None, given)
    torch.testing.assert_close(p.log_prob(x).detach(), by_hand(spec, likelihood, x, log_mean, rest))
    if "zero" not in spec.kind:
        torch.testing.assert_close(p.mean.sum(-1), library.expand(2, 6), rtol=1e-6, atol=1e-6)


def test_library_alone_and_of_images():
    likelihood = build(Poisson(library=True), (2, 3, 5), given=1)
    p = likelihood(torch.randn(4, 6, 3), None, torch.full((6, 1), 100.0).log())
    assert p.batch_shape == (4, 6, 2, 3, 5)
    torch.testing.assert_close(p.mean.sum((-1, -2, -3)), torch.full((4, 6), 100.0))


@each
def test_library_needs_a_covariate(spec):
    with pytest.raises(DeclarationError, match=r"library=true: the data have no covariates"):
        spec.replace(library=True).build(LINEAR, 3, Shape((4,)))


@pytest.mark.usefixtures("float64")
@each
def test_sums_to_one(spec):
    likelihood = build(spec)
    some_dispersion(likelihood)
    p = likelihood(torch.randn(3), None, None)
    x = torch.arange(3000.0)[:, None].expand(-1, 4)
    torch.testing.assert_close(p.log_prob(x).exp().sum(0), torch.ones(4), rtol=1e-6, atol=1e-6)


@each
@pytest.mark.parametrize("output", [-200.0, -30.0, 0.0, 19.0, 200.0])
@pytest.mark.parametrize("count", [0.0, 3.0, 1000.0])
def test_finite_with_finite_gradients_everywhere(spec, output, count):
    """At zero counts, at means that have vanished and at ones that have run away."""
    likelihood = build(spec)
    with torch.no_grad():
        likelihood.decoded.network.output.bias.fill_(output)
        if isinstance(getattr(likelihood, "log_theta", None), torch.nn.Parameter):
            likelihood.log_theta.fill_(output)
    log_p = likelihood(torch.zeros(3), None, None).log_prob(torch.full((4,), count))
    log_p.sum().backward()
    assert torch.isfinite(log_p).all()
    assert (log_p <= 1e-3).all()
    assert all(torch.isfinite(q.grad).all() for q in likelihood.parameters())


@each
def test_draws_have_the_mean_and_the_variance(spec):
    likelihood, S = build(spec), 8000
    some_dispersion(likelihood)
    with torch.no_grad():
        p = likelihood(torch.randn(3), None, None).expand((4,))
        x = p.sample((S,))
    assert_close_mc(x.mean(0), p.mean, x.std(0) / math.sqrt(S))
    centred = (x - p.mean).square()
    assert_close_mc(centred.mean(0), p.variance, centred.std(0) / math.sqrt(S))


@each
def test_initialise_starts_at_the_moments_of_the_data(spec):
    likelihood = build(spec)
    torch.manual_seed(1)
    rate = torch.distributions.Gamma(2.0, 2.0 / torch.tensor([1.0, 3.0, 10.0, 30.0])).sample((4000,))
    x = torch.poisson(rate)
    likelihood.initialise(x)
    p = likelihood(torch.zeros(3), None, None)
    torch.testing.assert_close(p.mean, x.mean(0), rtol=1e-3, atol=1e-3)
    if spec.kind == "negative_binomial" and spec.dispersion in ("per_entry", "decoded"):
        torch.testing.assert_close(p.variance, x.var(0, correction=0), rtol=1e-3, atol=1e-3)


@each
def test_the_encoder_sees_logarithms(spec):
    x = torch.tensor([[0.0, 1.0, 9.0, torch.nan]])
    torch.testing.assert_close(build(spec).for_encoder(x), (1 + x).log(), equal_nan=True)


@each
def test_initialise_is_finite_on_constant_data(spec):
    for constant in (0.0, 7.0):
        likelihood = build(spec)
        likelihood.initialise(torch.full((5, 4), constant))
        assert torch.isfinite(likelihood(torch.zeros(3), None, None).log_prob(torch.full((4,), constant))).all()


def test_initialise_sees_the_zeros_beyond_a_poisson():
    likelihood = build(ZeroInflatedPoisson())
    x = torch.poisson(torch.full((20_000, 4), 6.0)) * (torch.rand(20_000, 4) > 0.4)
    likelihood.initialise(x)
    p = likelihood(torch.zeros(3), None, None)
    torch.testing.assert_close(p.gate, torch.full((4,), 0.4), rtol=0.0, atol=0.06)
    torch.testing.assert_close(p.mean, x.mean(0), rtol=1e-3, atol=1e-3)


def test_shares_start_at_those_of_the_data():
    likelihood = build(Poisson(library=True), given=1)
    x = torch.poisson(torch.tensor([1.0, 2.0, 4.0, 8.0]).expand(500, 4))
    likelihood.initialise(x)
    p = likelihood(torch.zeros(1, 3), None, torch.full((1, 1), 30.0).log())
    torch.testing.assert_close(p.mean[0], 30 * x.mean(0) / x.mean(0).sum())


def test_a_large_dispersion_is_a_poisson():
    nb = build(NegativeBinomial(dispersion=1e4))
    set_output(nb, [0.0, 1.0, 2.0, 3.0])
    x, mean = torch.tensor([0.0, 2.0, 9.0, 25.0]), torch.arange(4.0).exp()
    found = nb(torch.zeros(3), None, None).log_prob(x)
    torch.testing.assert_close(
        found, torch.distributions.Poisson(mean).log_prob(x).to(found.dtype), rtol=0.0, atol=0.02
    )


@each
@pytest.mark.parametrize(
    ("support", "message"),
    [
        ("counts", None),
        ("binary", "use 'bernoulli'"),
        ("levels", "use 'discretized_logistic'"),
        ("unit", "use 'continuous_bernoulli'"),
        ("real", "data.standardize"),
    ],
)
def test_accepts(spec, support, message):
    found = spec.accepts(support)
    assert (found is None) if message is None else (message in found and found.endswith("."))
