"""Probabilities of levels: they add up to 1, are those of scipy's logistic, and survive the far tails."""

import math

import pytest
import scipy.stats
import torch
from mc import assert_close_mc
from test_likelihoods import build, set_output

from pyro_vae.likelihoods import Categorical, DiscretizedLogistic
from pyro_vae.likelihoods.levels import LogisticBins
from pyro_vae.networks import Conv, Shape
from pyro_vae.specs import DeclarationError


def levels(n):
    """Every level, (n, 1)."""
    return (torch.arange(n) / (n - 1))[:, None]


# ----------------------------------------------------------------------------------------------- discretized logistic


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("spec", [DiscretizedLogistic(components=c, levels=n) for c, n in ((1, 2), (3, 17), (5, 256))])
@pytest.mark.parametrize("spread", [0.1, 1.0, 30.0])
def test_discretized_logistic_sums_to_one(spec, spread):
    likelihood = build(spec, (4,))
    with torch.no_grad():
        likelihood.decoded.network.output.bias.normal_(0, spread)
    p = likelihood(torch.randn(6, 3), None, None)
    log_p = p.log_prob(levels(spec.levels)[:, :, None])
    assert log_p.shape == (spec.levels, 6, 4)
    torch.testing.assert_close(log_p.logsumexp(0), torch.zeros(6, 4), rtol=0.0, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_discretized_logistic_is_scipys():
    """The equation of the paper, as a difference of distribution functions, where that is exact."""
    n, spec = 17, DiscretizedLogistic(components=2, levels=17)
    likelihood = build(spec, (1,))
    pi, mu, rho = [0.3, -0.4], [0.2, 0.9], [-2.0, -4.0]
    set_output(likelihood, [*pi, *mu, *rho])
    found = likelihood(torch.zeros(3), None, None).log_prob(levels(n)).exp()[:, 0]
    expected, weight = torch.zeros(n), torch.tensor(pi).softmax(0)
    edges = [-math.inf, *((k + 0.5) / (n - 1) for k in range(n - 1)), math.inf]
    for j in range(2):
        s = math.log1p(math.exp(rho[j])) + 0.1 / (n - 1)
        cdf = torch.as_tensor(scipy.stats.logistic.cdf(edges, mu[j], s))
        expected += weight[j] * cdf.diff()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("mu", [-3.0, 0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 5.0])
def test_discretized_logistic_in_float32_is_exact_in_the_tails(mu, log_scale):
    """Where distribution functions cancel, log P is about -|x - mu| / s, not log 0; gradients are finite and right."""
    found = []
    for dtype in (torch.float32, torch.float64):
        loc = torch.full((256, 1), mu, dtype=dtype, requires_grad=True)
        scale = torch.full((256, 1), math.exp(log_scale), dtype=dtype, requires_grad=True)
        log_p = LogisticBins(torch.zeros_like(loc)[..., None], loc[..., None], scale[..., None], 256).log_prob(
            levels(256).to(dtype)
        )
        gradients = torch.autograd.grad(log_p.sum(), (loc, scale))
        assert torch.isfinite(log_p).all()
        assert all(torch.isfinite(g).all() for g in gradients)
        found.append([value.double() for value in (log_p, *gradients)])
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single, double, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("spec", [DiscretizedLogistic(components=3, levels=17), Categorical(levels=5)], ids=repr)
def test_moments_are_those_of_the_probabilities(spec):
    p = build(spec, (4,))(torch.randn(3), None, None)
    x = levels(spec.levels)
    probs = p.log_prob(x).exp()
    mean = (x * probs).sum(0)
    torch.testing.assert_close(p.mean, mean)
    torch.testing.assert_close(p.variance, (x.square() * probs).sum(0) - mean.square())


def test_draws_are_levels_bit_by_bit():
    for spec in (DiscretizedLogistic(levels=17), Categorical(levels=17)):
        draws = build(spec, (4,))(torch.randn(3), None, None).sample((500,))
        assert draws.shape == (500, 4)
        assert set(draws.unique().tolist()) <= set(levels(17).flatten().tolist())


@pytest.mark.parametrize("components", [1, 5])
def test_initialise_spreads_the_logistics_over_the_data(components):
    likelihood = build(DiscretizedLogistic(components=components, levels=17), (2,))
    x = torch.stack([torch.randint(4, 13, (2000,)) / 16, torch.full((2000,), 0.5)], -1)
    likelihood.initialise(x)
    p = likelihood(torch.zeros(3), None, None)
    torch.testing.assert_close(p.mean, x.mean(0), rtol=0.0, atol=0.02)
    assert p.variance[0].sqrt().item() == pytest.approx(x[:, 0].std().item(), rel=0.3)
    assert p.log_prob(x).mean(0)[0] > -math.log(17)
    assert p.log_prob(x).mean(0)[1] > -1.5


def test_values_that_are_no_levels_are_refused():
    for spec in (DiscretizedLogistic(levels=17), Categorical(levels=17)):
        p = build(spec, (4,))(torch.zeros(3), None, None)
        with pytest.raises(ValueError, match="support"):
            p.log_prob(torch.full((4,), 0.3))


# -------------------------------------------------------------------------------------------------------- categorical


@pytest.mark.parametrize("event", [(4,), (2, 3, 5)], ids=["vectors", "images"])
@pytest.mark.parametrize("codes", [False, True])
def test_categorical_by_hand(event, codes):
    likelihood, z = build(Categorical(levels=6, codes=codes), event), torch.randn(2, 7, 3)
    k = torch.randint(6, (2, 7, *event))
    logits = likelihood.decoded.network(z)  # (2, 7, 6, *event)
    expected = logits.log_softmax(2).gather(2, k.unsqueeze(2)).squeeze(2)
    p = likelihood(z, None, None)
    assert p.batch_shape == (2, 7, *event)
    torch.testing.assert_close(p.log_prob(k.float() if codes else k / 5), expected)


def test_categorical_starts_at_the_shares_of_the_levels():
    likelihood = build(Categorical(levels=3), (2,))
    likelihood.initialise(torch.tensor([[0.0, 1.0], [0.5, 1.0], [0.5, 1.0]]))
    found = likelihood(torch.zeros(3), None, None).log_prob(levels(3)).exp()
    torch.testing.assert_close(found, torch.tensor([[2.0, 1.0], [3.0, 1.0], [1.0, 4.0]]).to(found.dtype) / 6)


def test_draws_of_codes_have_the_probabilities():
    p = build(Categorical(levels=4, codes=True), (3,))(torch.randn(3), None, None)
    draws, S = p.sample((4000,)), 4000
    for k in range(4):
        share, expected = (draws == k).double().mean(0), p.log_prob(torch.full((3,), float(k))).exp()
        assert_close_mc(share, expected, (expected * (1 - expected) / S).sqrt())


# ---------------------------------------------------------------------------------------------------------------- both


def test_convolutions_give_all_outputs():
    for spec in (DiscretizedLogistic(components=2, levels=17), Categorical(levels=17)):
        likelihood = spec.build(Conv(channels=[4]), 3, Shape((2, 8, 8)))
        x = torch.randint(17, (6, 2, 8, 8)) / 16
        likelihood.initialise(x)
        assert likelihood(torch.randn(6, 3), None, None).log_prob(x).shape == (6, 2, 8, 8)


@pytest.mark.parametrize(
    ("spec", "support", "message"),
    [
        (DiscretizedLogistic(), "levels", None),
        (DiscretizedLogistic(), "binary", "use 'bernoulli'"),
        (DiscretizedLogistic(), "unit", "data.dequantize"),
        (DiscretizedLogistic(), "real", "use 'normal'"),
        (DiscretizedLogistic(), "counts", "use 'poisson'"),
        (Categorical(), "levels", None),
        (Categorical(), "binary", "use 'bernoulli'"),
        (Categorical(levels=2), "binary", None),
        (Categorical(), "counts", "codes=true"),
        (Categorical(codes=True), "counts", None),
        (Categorical(codes=True), "binary", None),
        (Categorical(codes=True), "levels", "leave out codes"),
    ],
    ids=str,
)
def test_accepts(spec, support, message):
    found = spec.accepts(support)
    assert (found is None) if message is None else (message in found and found.endswith("."))


def test_levels_are_at_least_two():
    for part in (DiscretizedLogistic, Categorical):
        with pytest.raises(DeclarationError, match="levels=1"):
            part(levels=1)
