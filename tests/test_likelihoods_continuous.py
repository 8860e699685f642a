"""Laplace and Student's t against hand formulas, scipy and quadrature; where they start."""

import math

import pytest
import scipy.stats
import torch
from test_likelihoods import SCALES, build, raw, set_output

from pyro_vae.likelihoods import Laplace, StudentT
from pyro_vae.specs import DeclarationError

pytestmark = pytest.mark.usefixtures("float64")


def some_scale(likelihood):
    if likelihood.log_variance is not None:
        torch.nn.init.normal_(likelihood.log_variance)


def scale_by_hand(likelihood, spec, rest):
    if isinstance(spec.scale, float):
        return torch.as_tensor(spec.scale)
    rho = rest[0] if rest else likelihood.log_variance
    return (spec.min_scale**2 + rho.exp()).sqrt()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("event", [(4,), (2, 3, 5)], ids=["vectors", "images"])
def test_laplace_by_hand(scale, event):
    spec = Laplace(scale=scale, min_scale=0.2)
    likelihood, z, x = build(spec, event), torch.randn(2, 6, 3), torch.randn(2, 6, *event)
    some_scale(likelihood)
    mean, *rest = raw(likelihood, z)
    b = scale_by_hand(likelihood, spec, rest)
    p = likelihood(z, None, None)
    assert p.batch_shape == (2, 6, *event)
    torch.testing.assert_close(p.log_prob(x), -(x - mean).abs() / b - (2 * b).log())


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("df", [1.5, 7.0, "learned"])
def test_student_t_is_scipys(scale, df):
    spec = StudentT(df=df, scale=scale, min_scale=0.2)
    likelihood, z, x = build(spec), torch.randn(2, 6, 3), torch.randn(2, 6, 4)
    some_scale(likelihood)
    number = df
    if df == "learned":
        torch.nn.init.constant_(likelihood.noise.eta, 0.3)
        number = 1 + math.exp(0.3)
    mean, *rest = raw(likelihood, z)
    s = scale_by_hand(likelihood, spec, rest)
    expected = scipy.stats.t.logpdf(x, number, mean.detach(), s.detach())
    torch.testing.assert_close(likelihood(z, None, None).log_prob(x).detach(), torch.as_tensor(expected))


@pytest.mark.parametrize("spec", [Laplace(), StudentT(), StudentT(df=3.0, scale=0.4)], ids=repr)
def test_integrates_to_one(spec):
    p = build(spec, (1,))(torch.randn(3), None, None)
    t = torch.linspace(-14, 14, 40_001)
    x = p.mean.detach() + torch.sinh(t)[:, None]  # dense in the middle, far out in the tails
    total = torch.trapezoid(p.log_prob(x).exp()[:, 0] * torch.cosh(t), t)
    assert total.item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("scale", ["learned", "per_pixel", "decoded"])
@pytest.mark.parametrize("spec", [Laplace(), StudentT(), StudentT(df=4.0)], ids=repr)
def test_initialise_starts_at_the_moments_of_the_data(spec, scale):
    likelihood = build(spec.replace(scale=scale))
    x = torch.randn(500, 4) * torch.tensor([0.5, 1.0, 2.0, 4.0]) + 3
    likelihood.initialise(x)
    p, variance = likelihood(torch.zeros(3), None, None), x.var(0, correction=0)
    torch.testing.assert_close(p.mean, x.mean(0))
    expected = (variance.mean() if scale == "learned" else variance).expand(4)
    torch.testing.assert_close(p.variance, expected, rtol=1e-4, atol=1e-4)


def test_a_heavy_tail_starts_finite():
    likelihood = build(StudentT(df=1.5, scale="per_pixel"))
    likelihood.initialise(torch.ones(5, 4))
    assert torch.isfinite(likelihood(torch.zeros(3), None, None).scale).all()


@pytest.mark.parametrize("part", [Laplace, StudentT])
@pytest.mark.parametrize("scale", ["learned", "decoded"])
def test_min_scale_is_a_floor(part, scale):
    likelihood = build(part(scale=scale, min_scale=0.05))
    if scale == "decoded":
        set_output(likelihood, [[0.0] * 4, [-100.0] * 4])
    else:
        torch.nn.init.constant_(likelihood.log_variance, -100.0)
    p = likelihood(torch.zeros(3), None, None)
    torch.testing.assert_close(p.scale.expand(4), torch.full((4,), 0.05))
    with pytest.raises(DeclarationError, match=r"scale=0\.01 is below min_scale=0\.1"):
        part(scale=0.01, min_scale=0.1)


def test_learned_laplace_scale_is_optimal_at_the_mean_absolute_residual():
    likelihood = build(Laplace(min_scale=0.0))
    z, x = torch.randn(50, 3), torch.randn(50, 4)
    residual = (x - likelihood(z, None, None).mean).abs().mean()
    torch.nn.init.constant_(likelihood.log_variance, 2 * residual.log().item())
    (gradient,) = torch.autograd.grad(likelihood(z, None, None).log_prob(x).mean(), likelihood.log_variance)
    assert gradient.item() == pytest.approx(0, abs=1e-9)


def test_degrees_of_freedom_stay_in_range():
    """Where the parameter runs away the density goes on being that of a normal, with finite gradients."""
    for eta in (-200.0, 200.0):
        likelihood = build(StudentT())
        torch.nn.init.constant_(likelihood.noise.eta, eta)
        p = likelihood(torch.zeros(3), None, None)
        p.log_prob(torch.randn(4)).sum().backward()
        assert all(torch.isfinite(q.grad).all() for q in likelihood.parameters() if q.grad is not None)
        assert 1 <= p.df.min() <= 1001 + 1e-6
    with pytest.raises(DeclarationError, match="df=1"):
        StudentT(df=1.0)
