"""Likelihoods against torch's and hand formulas, their normalisation, and the data that they accept."""

import math

import pytest
import torch
import torch.nn.functional as F
from mc import assert_close_mc

from pyro_vae.likelihoods import Bernoulli, ContinuousBernoulli, Likelihood, Normal
from pyro_vae.networks import MLP, Conv, Shape
from pyro_vae.specs import DeclarationError

LINEAR = MLP(widths=[])
SCALES = [0.3, "learned", "per_pixel", "decoded"]


def build(spec, x=(4,), latent_dim=3, y=0, given=0):
    return spec.build(LINEAR, latent_dim, Shape(x, y, given))


def raw(likelihood, *conditions):
    """The decoder's output, with the outputs first: (outputs, ..., *event)."""
    return likelihood.decoded.network(torch.cat(conditions, -1)).movedim(likelihood.decoded.axis, 0)


def set_output(likelihood, values):
    """Make the decoder say `values` (outputs, *event), whatever z is."""
    output = likelihood.decoded.network.output
    with torch.no_grad():
        output.weight.zero_()
        output.bias.copy_(torch.as_tensor(values).flatten())


# ------------------------------------------------------------------------------------------------------- bernoulli


@pytest.mark.parametrize("event", [(4,), (2, 3, 5)], ids=["vectors", "images"])
def test_bernoulli_is_the_cross_entropy(event):
    likelihood, z = build(Bernoulli(), event), torch.randn(2, 6, 3)
    x = torch.bernoulli(torch.full((2, 6, *event), 0.4))
    (logits,) = raw(likelihood, z)
    expected = -F.binary_cross_entropy_with_logits(logits, x, reduction="none")
    p = likelihood(z, None, None)
    assert p.event_shape == ()
    assert p.batch_shape == (2, 6, *event)
    torch.testing.assert_close(p.log_prob(x), expected)
    torch.testing.assert_close(p.mean, logits.sigmoid())


def test_grey_bernoulli_is_the_cross_entropy_and_no_density():
    spec = Bernoulli(grey=True)
    likelihood, z, x = build(spec), torch.randn(6, 3), torch.rand(6, 4)
    (logits,) = raw(likelihood, z)
    expected = -F.binary_cross_entropy_with_logits(logits, x, reduction="none")
    torch.testing.assert_close(likelihood(z, None, None).log_prob(x), expected)
    assert not spec.normalized
    assert Bernoulli().normalized
    with pytest.raises(ValueError, match="value"):
        build(Bernoulli())(z, None, None).log_prob(x)
    grid = torch.linspace(0, 1, 1001)[:, None].expand(-1, 4)
    total = torch.trapezoid(build(spec)(z[0], None, None).log_prob(grid).exp(), grid, dim=0)
    assert (total < 0.99).all(), "why it is called unnormalised"


# --------------------------------------------------------------------------------------------- continuous bernoulli


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("logit", [-30.0, -8.0, -2.0, -1e-2, -1e-6, 0.0, 1e-4, 0.004, 0.5, 3.0, 9.0, 30.0])
def test_continuous_bernoulli_integrates_to_one(logit):
    likelihood = build(ContinuousBernoulli(), (1,))
    set_output(likelihood, [logit])
    p = likelihood(torch.zeros(3), None, None)
    # A grid that is fine at both ends, where the density can rise as exp(30 x).
    x = (0.5 - 0.5 * torch.cos(torch.linspace(0, math.pi, 20_001)))[:, None]
    density = p.log_prob(x).exp()
    rounding = 1e-6 if abs(logit) < 10 else 1e-4  # 1 - D loses digits as D nears 1
    assert torch.trapezoid(density, x, dim=0).item() == pytest.approx(1, abs=rounding)
    assert torch.trapezoid(x * density, x, dim=0).item() == pytest.approx(p.mean.item(), abs=rounding)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("logit", [-6.0, -0.7, 1.3, 4.0])
def test_continuous_bernoulli_by_hand(logit):
    """p(x) = r exp(r x) / (exp(r) - 1), and its mean 1 / (1 - exp(-r)) - 1 / r."""
    likelihood = build(ContinuousBernoulli(), (1,))
    set_output(likelihood, [logit])
    p, x = likelihood(torch.zeros(3), None, None), torch.rand(7, 1)
    torch.testing.assert_close(p.log_prob(x), math.log(logit / math.expm1(logit)) + logit * x)
    assert p.mean.item() == pytest.approx(1 / (1 - math.exp(-logit)) - 1 / logit)


def exact_continuous_bernoulli(r, x):
    """log p(x) and d log p(x) / dr = x - mean, of a logit r, without rounding."""
    if abs(r) < 1e-2:
        return -(r**2) / 24 + r * (x - 0.5), x - 0.5 - r / 12
    low = math.log(abs(r) / -math.expm1(-abs(r)))
    return low + r * x - max(r, 0), x - (1 / -math.expm1(-r) - 1 / r)


@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("logit", [-100.0, -20.0, -12.0, -4.0, -1e-3, 0.0, 1e-3, 4.0, 12.0, 20.0, 100.0])
def test_continuous_bernoulli_in_float32(logit, x):
    """log p and its gradient are exact up to |logit| = 12; further out log p is too low, never too high."""
    likelihood = build(ContinuousBernoulli(), (1,))
    set_output(likelihood, [logit])
    found = likelihood(torch.zeros(3), None, None).log_prob(torch.tensor([x])).sum()
    (gradient,) = torch.autograd.grad(found, likelihood.decoded.network.output.bias)
    exact, slope = exact_continuous_bernoulli(logit, x)
    if abs(logit) <= 12:
        assert found.item() == pytest.approx(exact, rel=1e-4, abs=1e-3)
        assert gradient.item() == pytest.approx(slope, abs=2e-3)
    else:
        most = -math.log(torch.finfo(torch.float32).eps)  # the largest logit that torch normalises
        assert found.item() == pytest.approx(exact - math.log(abs(logit) / most), rel=1e-3)
        assert math.isfinite(gradient.item())


# ---------------------------------------------------------------------------------------------------------- normal


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("event", [(4,), (2, 3, 5)], ids=["vectors", "images"])
def test_normal_by_hand(scale, event):
    spec = Normal(scale=scale, min_scale=0.2)
    likelihood, z, x = build(spec, event), torch.randn(2, 6, 3), torch.randn(2, 6, *event)
    if likelihood.log_variance is not None:
        torch.nn.init.normal_(likelihood.log_variance)
        assert likelihood.log_variance.shape == (event if scale == "per_pixel" else ())
    mean, *rest = raw(likelihood, z)
    rho = rest[0] if scale == "decoded" else likelihood.log_variance
    variance = 0.3**2 if scale == 0.3 else 0.2**2 + rho.exp()
    expected = -0.5 * (math.log(2 * math.pi) + torch.as_tensor(variance).log() + (x - mean).square() / variance)
    p = likelihood(z, None, None)
    assert p.event_shape == ()
    assert p.batch_shape == (2, 6, *event)
    torch.testing.assert_close(p.log_prob(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", ["learned", "per_pixel", "decoded"])
def test_min_scale_is_a_floor(scale):
    likelihood = build(Normal(scale=scale, min_scale=0.05))
    if scale == "decoded":
        set_output(likelihood, [[0.0] * 4, [-100.0] * 4])
    else:
        torch.nn.init.constant_(likelihood.log_variance, -100.0)
    p = likelihood(torch.zeros(3), None, None)
    torch.testing.assert_close(p.scale.expand(4), torch.full((4,), 0.05))
    p.log_prob(torch.ones(4)).sum().backward()
    assert all(torch.isfinite(q.grad).all() for q in likelihood.parameters() if q.grad is not None)


def test_scale_below_the_floor_is_refused():
    with pytest.raises(DeclarationError, match=r"scale=0\.01 is below min_scale=0\.1"):
        Normal(scale=0.01, min_scale=0.1)
    with pytest.raises(DeclarationError, match="scale"):
        Normal(scale=0.0, min_scale=0.0)


@pytest.mark.parametrize("scale", ["learned", "per_pixel", "decoded"])
def test_initialise_starts_at_the_mean_and_variance_of_the_data(scale):
    likelihood = build(Normal(scale=scale))
    x = torch.randn(500, 4) * torch.tensor([0.5, 1.0, 2.0, 4.0]) + 3
    likelihood.initialise(x)
    p_x, variance = likelihood(torch.zeros(3), None, None), x.var(0, correction=0)  # z = 0 leaves the last bias
    torch.testing.assert_close(p_x.variance, (variance.mean() if scale == "learned" else variance).expand(4))
    torch.testing.assert_close(p_x.mean, x.mean(0))


def test_initialise_starts_a_bernoulli_at_the_share_of_ones():
    likelihood = build(Bernoulli())
    likelihood.initialise(torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 1.0, 1.0]]))
    found = likelihood(torch.zeros(3), None, None).probs
    torch.testing.assert_close(found, torch.tensor([0.001, 0.999, 0.5, 0.999], dtype=found.dtype))


def test_initialise_starts_a_convolution_at_the_mean_of_each_channel():
    likelihood = Normal(scale=1.0).build(Conv(channels=[4]), 3, Shape((2, 8, 8)))
    x = torch.stack([torch.full((5, 8, 8), 0.2), torch.full((5, 8, 8), 0.7)], 1)
    likelihood.initialise(x)
    with torch.no_grad():
        for layer in likelihood.decoded.network.dense.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.zero_()
    mean = likelihood(torch.zeros(1, 3), None, None).mean
    torch.testing.assert_close(mean[0], x[0].to(mean.dtype))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("num", [1, 5])
def test_initialise_is_finite_on_constant_data(scale, num):
    """A border pixel never varies, and one datum has no variance."""
    likelihood = build(Normal(scale=scale))
    likelihood.initialise(torch.ones(num, 4))
    scales = likelihood(torch.zeros(3), None, None).scale
    assert torch.isfinite(scales).all()
    assert (scales >= 1e-3).all()


def test_learned_variance_is_optimal_at_the_mean_squared_residual():
    """The gradient of the log likelihood vanishes where sigma^2 = mean ||x - D(z)||^2 / D."""
    likelihood = build(Normal(min_scale=0.0))
    z, x = torch.randn(50, 3), torch.randn(50, 4)
    residual = (x - likelihood(z, None, None).mean).square().mean()
    torch.nn.init.constant_(likelihood.log_variance, residual.log().item())
    (gradient,) = torch.autograd.grad(likelihood(z, None, None).log_prob(x).mean(), likelihood.log_variance)
    assert gradient.item() == pytest.approx(0, abs=1e-6)


# -------------------------------------------------------------------------------------------------------- all of them

ALL = [Bernoulli(), ContinuousBernoulli(), *(Normal(scale=scale) for scale in SCALES)]


@pytest.mark.parametrize("spec", ALL, ids=repr)
def test_label_and_covariates_are_conditions(spec):
    likelihood = build(spec, y=2, given=2)
    z, y, given = (torch.randn(5, n, requires_grad=True) for n in (3, 2, 2))
    p = likelihood(z, y, given)
    torch.testing.assert_close(p.log_prob(torch.ones(4)).shape, (5, 4))
    for condition in torch.autograd.grad(p.mean.sum(), (z, y, given)):
        assert (condition != 0).all()


@pytest.mark.parametrize("spec", ALL, ids=repr)
def test_mean_is_that_of_the_draws(spec):
    likelihood, S = build(spec), 4000
    with torch.no_grad():
        p = likelihood(torch.randn(3), None, None).expand((4,))
        x = p.sample((S,))
    assert_close_mc(x.mean(0), p.mean, x.std(0) / math.sqrt(S))


@pytest.mark.parametrize(
    ("spec", "support", "message"),
    [
        (Bernoulli(), "binary", None),
        (Bernoulli(), "unit", "data.binarize=dynamic"),
        (Bernoulli(), "real", "use 'normal'"),
        (Bernoulli(grey=True), "binary", None),
        (Bernoulli(grey=True), "unit", None),
        (Bernoulli(grey=True), "real", "use 'normal'"),
        (ContinuousBernoulli(), "binary", "use 'bernoulli'"),
        (ContinuousBernoulli(), "unit", None),
        (ContinuousBernoulli(), "real", "use 'normal'"),
        *((Normal(scale=scale), support, None) for scale in SCALES for support in ("binary", "unit", "real")),
    ],
    ids=str,
)
def test_accepts(spec, support, message):
    found = spec.accepts(support)
    if message is None:
        assert found is None
    else:
        assert message in found
        assert found.endswith(".")


def test_accepts_by_default_what_is_declared():
    class Nowhere(Likelihood):
        supports = ("unit",)

    assert Nowhere().accepts("unit") is None
    assert Nowhere().accepts("real") == "is a density on unit data, and these are real."
