"""Guides: the parametrisation of the heads, and the classifier."""

import pytest
import torch

from pyro_vae.guides import Classifier, DiagonalNormal, Guide, Point, Raw
from pyro_vae.networks import Shape

F, D = 5, 3


def set_raw(head, values):
    """Make the head's raw output `values`, whatever its inputs are."""
    with torch.no_grad():
        head.raw.output.weight.zero_()
        head.raw.output.bias.copy_(torch.as_tensor(values))


def run(head, h=None, neighbour=None, y=None, offset=None):
    return head(torch.randn(6, F) if h is None else h, neighbour, y, None, offset)


# --------------------------------------------------------------------------------------------------- diagonal normal


@pytest.mark.usefixtures("float64")
def test_diagonal_normal_takes_the_log_variance():
    """r = (mu, log sigma^2): log variances of 0, log 4 and -2 log 10 are standard deviations of 1, 2 and 0.1."""
    head = DiagonalNormal().head(F, None, D, Shape((4,)))
    sd = torch.tensor([1.0, 2.0, 0.1])
    set_raw(head, torch.cat([torch.tensor([0.5, -1.0, 3.0]), 2 * sd.log()]))
    q, z = run(head), torch.randn(6, D)
    assert q.event_shape == (D,)
    assert q.batch_shape == (6,)
    torch.testing.assert_close(q.mean, torch.tensor([0.5, -1.0, 3.0]).expand(6, D))
    torch.testing.assert_close(q.stddev, sd.expand(6, D))
    expected = torch.distributions.MultivariateNormal(q.mean, torch.diag_embed(q.stddev**2)).log_prob(z)
    torch.testing.assert_close(q.log_prob(z), expected)


def test_diagonal_normal_is_linear_in_the_features_unless_it_has_layers():
    h = torch.randn(6, F)
    for widths, is_linear in (([], True), ([7], False)):
        head = DiagonalNormal(widths=widths).head(F, None, D, Shape((4,)))
        middle = run(head, h).mean + run(head, -h).mean - 2 * run(head, 0 * h).mean
        assert torch.allclose(middle, torch.zeros_like(middle), atol=1e-5) == is_linear


def test_diagonal_normal_is_reparametrised():
    head = DiagonalNormal().head(F, None, D, Shape((4,)))
    found = torch.autograd.grad(run(head).rsample().square().sum(), list(head.parameters()))
    assert all((g != 0).any() for g in found)


# -------------------------------------------------------------------------------------------------------------- point


def test_point_is_certain():
    head, h = Point().head(F, None, D, Shape((4,))), torch.randn(6, F)
    q = run(head, h)
    assert not Point.density
    assert DiagonalNormal.density
    assert q.event_shape == (D,)
    assert torch.equal(q.rsample(), head.raw.output(h))
    assert torch.equal(q.log_prob(q.rsample()), torch.zeros(6))
    assert torch.equal(q.variance, torch.zeros(6, D))
    (gradient,) = torch.autograd.grad(run(head, h).rsample().sum(), head.raw.output.bias)
    assert torch.equal(gradient, torch.full((D,), 6.0))


# ---------------------------------------------------------------------------------------------------------- all heads


@pytest.mark.parametrize("spec", [DiagonalNormal(), Point(), DiagonalNormal(widths=[7], activation="tanh")], ids=repr)
def test_conditions_and_broadcasting(spec):
    """h (B, F), neighbour (K, B, N) and y (C, 1, 1, classes) meet in (C, K, B); each is used."""
    head = spec.head(F, 2, D, Shape((4,), y=3))
    h, neighbour, y = torch.randn(6, F), torch.randn(4, 6, 2), torch.eye(3)[:, None, None]
    q = run(head, h, neighbour, y)
    assert q.batch_shape == (3, 4, 6)
    one = run(head, h[5], neighbour[1, 5], y[2, 0, 0])
    torch.testing.assert_close(q.mean[2, 1, 5], one.mean)
    for condition in (h, neighbour, y):
        condition.requires_grad_()
    q = run(head, h, neighbour, y)
    for gradient in torch.autograd.grad(q.mean.sum() + q.variance.sum(), (h, neighbour, y)):
        assert (gradient != 0).any(-1).all()


@pytest.mark.parametrize(("spec", "outputs"), [(DiagonalNormal(), 2 * D), (Point(), D)], ids=repr)
def test_offset_is_added_to_the_raw_output(spec, outputs):
    head, h = spec.head(F, None, D, Shape((4,))), torch.randn(6, F)
    offset = torch.zeros(6, outputs)
    assert torch.equal(run(head, h, offset=offset).mean, run(head, h).mean)
    offset[2, 1] = 1.5
    moved = run(head, h, offset=offset).mean - run(head, h).mean
    assert moved[2, 1].item() == pytest.approx(1.5)
    assert moved.abs().sum().item() == pytest.approx(1.5)


def test_raw_keeps_the_dtype_of_its_input_in_lower_precision():
    raw, h = Raw(F, None, Shape((4,)), (7,), "relu", 2), torch.randn(6, F)
    with torch.autocast("cpu", torch.bfloat16):
        assert raw(h, None, None, None).dtype == torch.float32


def test_classifier_is_the_softmax():
    classifier, h = Classifier(F, 4), torch.randn(6, F)
    q = classifier(h)
    assert q.batch_shape == (6,)
    torch.testing.assert_close(q.probs, classifier.output(h).softmax(-1))
    with torch.autocast("cpu", torch.bfloat16):
        assert classifier(h).logits.dtype == torch.float32


def test_an_abstract_guide_builds_nothing():
    with pytest.raises(TypeError, match="Guide builds no head"):
        Guide().head(F, None, D, Shape((4,)))
