"""Flows: f is invertible, its density is that of its draws, and each direction costs what it says."""

import subprocess
import sys

import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.flows import Flow

pytestmark = pytest.mark.usefixtures("float64")

KINDS = ("coupling", "spline", "autoregressive")
each_kind = pytest.mark.parametrize("kind", KINDS)
each_direction = pytest.mark.parametrize("one_pass", ["draw", "score"])


def flow(kind, dim=3, context=0, layers=3, one_pass="draw", widths=(7, 6), spread=0.2):
    """A flow away from its start, where it is nearly the identity."""
    built = Flow(dim, context, kind, layers, widths, "elu", one_pass)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return built.double()


def normal(*shape):
    return dist.Normal(torch.zeros(shape), 1.0).to_event(1)


@each_kind
@each_direction
@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("context", [0, 2])
def test_density_is_the_bases_and_the_jacobians(kind, one_pass, dim, context):
    """log p(f(eps)) = log p(eps) - log |det J|, J by autograd; the same at a clone, which must be inverted."""
    c = torch.randn(4, context) if context else None
    p = flow(kind, dim, context, one_pass=one_pass)(normal(4, dim), c)
    z = p.rsample()
    eps = p._drawn[1].detach()
    jacobian = torch.autograd.functional.jacobian(lambda e: p.transform(e).sum(0), eps)  # (D, B, D)
    expected = p.base.log_prob(eps) - torch.linalg.slogdet(jacobian.movedim(1, 0))[1]
    torch.testing.assert_close(p.log_prob(z), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(p.log_prob(z.clone()), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(p.transform.inv(z.clone()), eps, rtol=1e-7, atol=1e-7)


@each_kind
@each_direction
@pytest.mark.parametrize("dim", [1, 50])
@pytest.mark.parametrize("context", [0, 7])
def test_starts_close_to_the_identity(kind, one_pass, dim, context):
    """So that a flow guide begins as the normal that it bends, and a flow prior as N(0, I)."""
    widths = (200, 200)
    p = Flow(dim, context, kind, 4, widths, "elu", one_pass).double()(
        normal(8, dim), torch.randn(8, context) if context else None
    )
    eps = torch.randn(8, dim)
    z, log_det = p.transform.call_and_ladj(eps)
    assert (z - eps).abs().max() < 0.1
    assert log_det.abs().max() < 0.1 + 0.02 * dim


@each_kind
@each_direction
def test_integrates_to_one(kind, one_pass):
    one, two = torch.linspace(-12, 12, 20001), torch.linspace(-9, 9, 301)
    p = flow(kind, 1, one_pass=one_pass)(normal(1), None)
    assert torch.trapezoid(p.log_prob(one[:, None]).exp(), one).item() == pytest.approx(1, abs=1e-4)
    p = flow(kind, 2, one_pass=one_pass)(normal(2), None)
    with torch.no_grad():
        density = p.log_prob(torch.cartesian_prod(two, two)).exp().reshape(301, 301)
    assert torch.trapezoid(torch.trapezoid(density, two), two).item() == pytest.approx(1, abs=5e-3)


def jacobian_of(kind, layers, dim=4):
    f = flow(kind, dim, layers=layers)(normal(dim), None).transform
    return torch.autograd.functional.jacobian(f, torch.randn(dim)) != 0


def test_what_depends_on_what():
    lower = torch.ones(4, 4, dtype=torch.bool).tril()
    halves = torch.eye(4, dtype=torch.bool)
    halves[2:, :2] = True
    assert torch.equal(jacobian_of("autoregressive", 1), lower)
    assert torch.equal(jacobian_of("coupling", 1), halves)
    assert torch.equal(jacobian_of("spline", 1), halves)
    for kind in KINDS:
        assert jacobian_of(kind, 3).all(), "reversed between the layers, so that every entry moves every other"


@pytest.mark.parametrize(
    ("kind", "one_pass", "draw", "score"),
    [("autoregressive", "draw", 1, 2), ("autoregressive", "score", 2, 1), ("coupling", "draw", 1, 2)],
)
def test_every_unit_is_computed_once(kind, one_pass, draw, score):
    """Scoring one's own draw is free; inverting a layer computes each unit once, and once more for the determinant."""
    built, units = flow(kind, 5, context=2, layers=2, one_pass=one_pass), []
    for module in built.modules():
        if isinstance(module, torch.nn.ELU):
            module.register_forward_hook(lambda _, __, h: units.append(h.shape[-1]))
    p = built(normal(5), torch.randn(2))
    z = p.rsample()
    drawn = sum(units)
    p.log_prob(z)
    assert sum(units) == drawn == 2 * 13 * draw
    units.clear()
    p.log_prob(z.clone())
    assert sum(units) == 2 * 13 * score


@pytest.mark.parametrize("kind", ["coupling", "autoregressive"])
def test_context_is_seen_once_whatever_goes_with_it(kind):
    """The first layer's part of the context (B, C) is not computed anew for each of the particles (K, B, D)."""
    built, seen = flow(kind, 5, context=4), []
    linear = torch.nn.functional.linear

    def watched(x, weight, bias=None):
        seen.append((x.shape[:-1], x.shape[-1]))
        return linear(x, weight, bias)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", watched)
        built(normal(4, 5), torch.randn(4, 4)).log_prob(torch.randn(6, 4, 5))
    assert ((4,), 4) in seen
    assert ((6, 4), 9) not in seen


@each_kind
@each_direction
def test_gradients_of_the_density_at_a_given_point(kind, one_pass):
    """As DReG needs them, with respect to z and to every parameter."""
    built = flow(kind, 3, 2, one_pass=one_pass, widths=(4,))
    names, parameters = zip(*built.named_parameters(), strict=True)
    c = torch.randn(2, 2)

    def log_prob(z, *values):
        return torch.func.functional_call(built, dict(zip(names, values, strict=True)), (normal(2, 3), c)).log_prob(z)

    z = torch.randn(2, 3, requires_grad=True)
    assert torch.autograd.gradcheck(log_prob, (z, *parameters), fast_mode=True)


def test_a_draw_without_gradients_is_not_remembered_with_them():
    built = flow("coupling")
    p = built(normal(4, 3), None)
    for draw in (p.sample, torch.no_grad()(p.rsample)):
        z = draw()
        found = torch.autograd.grad(p.log_prob(z).sum(), list(built.parameters()), allow_unused=True)
        expected = torch.autograd.grad(p.log_prob(z.clone()).sum(), list(built.parameters()), allow_unused=True)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)


@each_kind
def test_context_and_broadcasting(kind):
    """A context (C, 1, 1, c) meets a base (K, B) in (C, K, B); each datum has its own transformation."""
    built, c, eps = flow(kind, 3, 2), torch.randn(2, 1, 1, 2), torch.randn(4, 5, 3)
    p = built(normal(4, 5, 3), c)
    assert p.batch_shape == (2, 4, 5)
    z = p.transform(eps)
    assert z.shape == (2, 4, 5, 3)
    one = built(normal(3), c[1, 0, 0])
    torch.testing.assert_close(z[1, 2, 3], one.transform(eps[2, 3]))
    torch.testing.assert_close(p.log_prob(z)[1, 2, 3], one.log_prob(z[1, 2, 3]))
    assert p.expand((6, 2, 4, 5)).rsample().shape == (6, 2, 4, 5, 3)
    assert not torch.allclose(z[0], z[1])


def test_a_spline_is_the_identity_far_out():
    z = torch.tensor([[-20.0, 7.0, 100.0]])
    p = flow("spline")(normal(3), None)
    torch.testing.assert_close(p.transform(z), z)
    torch.testing.assert_close(p.log_prob(z), p.base.log_prob(z))


def test_too_narrow_for_an_autoregressive_flow():
    with pytest.raises(pv.DeclarationError, match=r"widths=\[64, 4\]: .* at least 5 wide"):
        Flow(5, 0, "autoregressive", 2, (64, 4), "relu", "draw")
    Flow(5, 0, "coupling", 2, (4,), "relu", "draw")


def test_zuko_leaves_the_checks_of_distributions_on():
    code = (
        "import torch; from pyro_vae.flows import Flow; Flow(2, 0, 'coupling', 1, (4,), 'relu', 'draw')\n"
        "try: torch.distributions.Normal(0.0, -1.0)\n"
        "except ValueError: raise SystemExit(0)\n"
        "raise SystemExit('a negative scale was accepted')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@each_kind
def test_networks_in_lower_precision_leave_the_density_in_its_own(kind):
    built = flow(kind, 3, 2).float()
    with torch.autocast("cpu", torch.bfloat16):
        z, log_det = built(normal(4, 3), torch.randn(4, 2).float()).transform.call_and_ladj(torch.randn(4, 3).float())
    assert z.dtype == log_det.dtype == torch.float32
