"""Guides: the parametrisation of the heads, and the classifier."""

import math

import exact
import pyro.distributions as dist
import pytest
import torch
from mc import assert_close_mc
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal, kl_divergence

import pyro_vae as pv
from pyro_vae.data import load
from pyro_vae.guides import (
    GUIDES,
    BottomUpNormal,
    Classifier,
    DiagonalNormal,
    Diffusion,
    FlowGuide,
    FullNormal,
    Guide,
    Ladder,
    LowRankNormal,
    Point,
    Raw,
)
from pyro_vae.networks import MLP, Shape
from pyro_vae.sites import Batch
from pyro_vae.vae import VAE, densities

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


# ------------------------------------------------------------------------------------------------- correlated normals


@pytest.mark.usefixtures("float64")
def test_full_normal_by_hand():
    """r = (mu, s, below): L has exp(s / 2) on its diagonal, and the rest below it, row by row."""
    head = FullNormal().head(F, None, D, Shape((4,)))
    set_raw(head, [1.0, 2.0, 3.0, 0.0, 2 * math.log(2), 2 * math.log(3), 0.4, -0.5, 0.6])
    L = torch.tensor([[1.0, 0.0, 0.0], [0.4, 2.0, 0.0], [-0.5, 0.6, 3.0]])
    q, z = run(head), torch.randn(6, D)
    torch.testing.assert_close(q.scale_tril, L.expand(6, D, D))
    expected = MultivariateNormal(torch.tensor([1.0, 2.0, 3.0]), L @ L.T)
    torch.testing.assert_close(q.log_prob(z), expected.log_prob(z))
    set_raw(head, [1.0, 2.0, 3.0, 0.0, 0.1, 0.2, 0.0, 0.0, 0.0])
    diagonal = DiagonalNormal().head(F, None, D, Shape((4,)))
    set_raw(diagonal, [1.0, 2.0, 3.0, 0.0, 0.1, 0.2])
    torch.testing.assert_close(run(head).log_prob(z), run(diagonal).log_prob(z))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_low_rank_normal_is_torchs(rank):
    head, h, z = LowRankNormal(rank=rank).head(F, None, D, Shape((4,))), torch.randn(6, F), torch.randn(4, 6, D)
    q, r = run(head, h), head.raw.output(h)
    expected = LowRankMultivariateNormal(r[:, :D], r[:, 2 * D :].reshape(6, D, rank), r[:, D : 2 * D].exp())
    for found, theirs in (
        (q.log_prob(z), expected.log_prob(z)),
        (q.entropy(), expected.entropy()),
        (q.mean, expected.mean),
        (q.variance, expected.variance),
    ):
        torch.testing.assert_close(found, theirs)
    torch.testing.assert_close(q.expand((4, 6)).log_prob(z), q.log_prob(z))
    draws = run(head, h[0]).rsample((100_000,)).detach()
    error = (draws - draws.mean(0)).square().std(0) / math.sqrt(len(draws))
    assert_close_mc(draws.var(0), expected.variance[0], error)
    a, b = (draws[:, i] - draws[:, i].mean() for i in (0, 1))
    assert_close_mc((a * b).mean(), expected.covariance_matrix[0, 0, 1].detach(), (a * b).std() / math.sqrt(len(a)))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("spec", [FullNormal(), LowRankNormal()], ids=repr)
def test_kl_to_a_diagonal_normal_is_torchs_between_full_ones(spec):
    q, scale = run(spec.head(F, None, D, Shape((4,)))), torch.tensor([0.5, 1.0, 2.0])
    p = dist.Normal(torch.tensor([1.0, -1.0, 0.0]), scale).to_event(1)
    cov = q.covariance_matrix if isinstance(spec, FullNormal) else torch.diag_embed(q.scale**2) + q.factor @ q.factor.mT
    expected = kl_divergence(MultivariateNormal(q.mean, cov), MultivariateNormal(p.mean, torch.diag(scale.square())))
    torch.testing.assert_close(kl_divergence(q, p), expected)
    with pytest.raises(NotImplementedError):
        kl_divergence(q, dist.Laplace(torch.zeros(D), 1.0).to_event(1))


def linear(guide, latent, prior, W, b, sigma):
    """A linear VAE with these parts, its decoder set; the guide is for the test to set."""
    flat = MLP(widths=[])
    declared = pv.Variant(
        latent=latent,
        prior=prior,
        guide=guide,
        likelihood={"kind": "normal", "scale": sigma, "min_scale": 0.0},
        encoder=flat,
        decoder=flat,
    )
    vae = VAE(declared, (len(b),)).double()
    vae.likelihood.scale = torch.tensor(sigma)
    with torch.no_grad():
        vae.likelihood.decoded.network.output.weight.copy_(W)
        vae.likelihood.decoded.network.output.bias.copy_(b)
    return vae


@pytest.mark.usefixtures("float64")
def test_full_normal_is_exact_where_columns_correlate():
    """log w is log p(x) at every draw; a diagonal guide falls short by (sum log Lambda_ii - log det Lambda) / 2."""
    data = load(pv.LinearGaussianData(num_data=300, correlated=True, validation=0.0))
    W, b, sigma, x = data.truth["W"], data.truth["b"], float(data.truth["sigma"]), data.train.x.double()
    D = W.shape[1]
    vae = linear("full_normal", {"dim": D}, "standard_normal", W, b, sigma)
    mean, precision = exact.posterior(torch.zeros(1, len(b)), W, b, sigma)
    L = torch.linalg.cholesky(torch.linalg.inv(precision))
    output, below = vae.heads["z"].raw.output, torch.tril_indices(D, D, -1)
    with torch.no_grad():
        output.weight.zero_()
        output.weight[:D] = torch.linalg.inv(precision) @ W.T / sigma**2
        output.bias.copy_(torch.cat([mean[0], 2 * L.diagonal().log(), L[below[0], below[1]]]))
    truth = exact.log_evidence(x, W, b, sigma)
    torch.testing.assert_close(densities(vae, Batch(x), 3).log_w, truth.expand(3, -1), rtol=1e-8, atol=0.0)
    _, closed = pv.ELBO(num_particles=50).build(vae)(Batch(x), {"beta": torch.tensor(1.0)})
    assert_close_mc(closed.elbo.mean(), truth.mean(), (closed.elbo - truth).std() / math.sqrt(len(x)))
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    with torch.no_grad():
        output.bias[D : 2 * D] = -precision.diagonal().log()
        output.bias[2 * D :] = 0
    gaps = truth - densities(vae, Batch(x), 400).log_w.mean(0)
    assert_close_mc(gaps.mean(), gap, gaps.std() / math.sqrt(len(x)))
    assert gap > 0.1


# ------------------------------------------------------------------------------------------------------------ layers


def hierarchy():
    """z_2 ~ N(0, I), z_1 ~ N(a z_2 + c, v), x ~ N(W z_1 + b, sigma^2) with orthogonal columns: all by hand."""
    W = torch.tensor([[1.0, 0.5], [-1.0, 0.5], [0.0, 0.7], [0.5, 0.0], [0.5, 0.0]])
    assert (W[:, 0] @ W[:, 1]).item() == 0
    b, sigma, a, c, v = (
        torch.randn(5),
        0.6,
        torch.tensor([1.5, -0.7]),
        torch.tensor([0.3, 0.1]),
        torch.tensor([0.5, 2.0]),
    )
    x = torch.randn(8, 5)
    covariance = W @ torch.diag(a**2 + v) @ W.T + sigma**2 * torch.eye(5)
    return W, b, sigma, a, c, v, x, MultivariateNormal(W @ c + b, covariance).log_prob(x)


def two_layers(guide):
    W, b, sigma, a, c, v, x, truth = hierarchy()
    vae = linear(guide, [{"dim": 2}, {"dim": 2}], ["normal", "standard_normal"], W, b, sigma)
    with torch.no_grad():
        prior = vae.priors["z1"].raw.output
        prior.weight.zero_()
        prior.weight[:2] = torch.diag(a)
        prior.bias.copy_(torch.cat([c, v.log()]))
    r = W.square().sum(0) / sigma**2  # precision of x about z_1, whose best guess is P (x - b)
    return vae, W.T / W.square().sum(0)[:, None], b, a, c, v, r, x, truth


def set_linear(output, weight, bias, log_variance):
    with torch.no_grad():
        output.weight.zero_()
        output.weight[:2, : weight.shape[1]] = weight
        output.bias.copy_(torch.cat([bias, log_variance]))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("top", ["encoder", "combined"])
def test_ladder_is_exact(top):
    """q(z_1 | z_2, x) is N(P (x - b), 1 / r) times the prior; at the top the same with z_1 integrated out."""
    vae, P, b, a, c, v, r, x, truth = two_layers(Ladder(top=top))
    set_linear(vae.heads["z1"].raw.output, P, -P @ b, -r.log())
    likelihood = a**2 / (1 / r + v)  # precision of x about z_2
    weight, bias = P / a[:, None], (-P @ b - c) / a
    share = likelihood / (1 + likelihood)
    if top == "encoder":
        set_linear(vae.heads["z2"].raw.output, share[:, None] * weight, share * bias, -(1 + likelihood).log())
    else:
        set_linear(vae.heads["z2"].raw.output, weight, bias, -likelihood.log())
    torch.testing.assert_close(densities(vae, Batch(x), 3).log_w, truth.expand(3, -1), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("skip", [False, True])
def test_bottom_up_normal_is_exact(skip):
    """q(z_1 | x), then q(z_2 | z_1), to which x adds nothing."""
    vae, P, b, a, c, v, r, x, truth = two_layers(BottomUpNormal(widths=[], skip=skip))
    marginal = a**2 + v
    precision = r + 1 / marginal
    mean_weight, mean_bias = (r / precision)[:, None] * P, (-r * (P @ b) + c / marginal) / precision
    set_linear(vae.heads["z1"].normal.raw.output, mean_weight, mean_bias, -precision.log())
    top, output = 1 + a**2 / v, vae.heads["z2"].normal.raw.output
    weight = torch.diag(a / v / top)
    set_linear(output, torch.cat([torch.zeros(2, 5), weight], 1) if skip else weight, -a / v / top * c, -top.log())
    torch.testing.assert_close(densities(vae, Batch(x), 3).log_w, truth.expand(3, -1), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_ladder_by_hand():
    head, h, p = (
        Ladder().head(F, 2, D, Shape((4,))),
        torch.randn(6, F),
        dist.Normal(torch.randn(6, D), torch.rand(6, D)),
    )
    m, s = head.raw.output(h).chunk(2, -1)
    a, b = (-s).exp(), p.scale**-2
    q = head(h, torch.randn(6, 2), None, p.to_event(1), None)
    torch.testing.assert_close(q.mean, (m * a + p.loc * b) / (a + b))
    torch.testing.assert_close(q.variance, 1 / (a + b))
    sharp = head(h, None, None, dist.Normal(p.loc, 1e-200).to_event(1), None)
    torch.testing.assert_close(sharp.mean, p.loc)
    assert (sharp.base_dist.scale > 0).all(), "no overflow of a precision"
    with pytest.raises(TypeError, match="use another prior"):
        head(h, None, None, dist.Laplace(p.loc, 1.0).to_event(1), None)


@pytest.mark.usefixtures("float64")
def test_diffusion_by_hand():
    spec = Diffusion(beta_start=0.1, beta_end=0.5)
    betas = [spec.head(4, 4, 4, Shape((1, 2, 2)), (number, 3)).beta for number in (1, 2, 3)]
    assert betas == pytest.approx([0.1, 0.3, 0.5])
    assert spec.head(4, None, 4, Shape((4,))).beta == 0.1
    x, z = torch.randn(6, 1, 2, 2), torch.randn(3, 6, 4)
    h = spec.body(MLP(), Shape((1, 2, 2)))(x)
    assert torch.equal(h, x.flatten(1))
    mask = torch.rand_like(x) > 0.5
    assert torch.equal(spec.body(MLP(), Shape((1, 2, 2)))(torch.where(mask, x, torch.nan), mask), (x * mask).flatten(1))
    head = spec.head(4, None, 4, Shape((1, 2, 2)), (1, 3))
    first, second = run(head, h), run(spec.head(4, 4, 4, Shape((1, 2, 2)), (3, 3)), h, z)
    torch.testing.assert_close(first.mean, math.sqrt(0.9) * h)
    torch.testing.assert_close(first.variance, torch.full((6, 4), 0.1))
    torch.testing.assert_close(second.mean, math.sqrt(0.5) * z)
    torch.testing.assert_close(second.variance, torch.full((3, 6, 4), 0.5))
    with pytest.raises(ValueError, match="it is not refined"):
        run(head, h, offset=torch.zeros(6, 8))
    with pytest.raises(pv.DeclarationError, match="latent.dim=3: .* take 4"):
        spec.head(4, None, 3, Shape((1, 2, 2)))


# --------------------------------------------------------------------------------------------------------------- flow


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("transform", ["inverse_autoregressive", "coupling", "spline"])
def test_flow_guide_starts_from_the_diagonal_normal(transform):
    """With networks that say nothing f is the identity; with others, another density; its draws are scored rightly."""
    head, h, z = (
        FlowGuide(transform=transform, widths=[8]).head(F, None, D, Shape((4,))),
        torch.randn(6, F),
        torch.randn(6, D),
    )
    mu, s = head.raw.output(h).chunk(2, -1)
    diagonal = dist.Normal(mu, (0.5 * s).exp()).to_event(1)
    assert not torch.allclose(run(head, h).log_prob(z), diagonal.log_prob(z))
    q = run(head, h)
    drawn = q.rsample()
    torch.testing.assert_close(q.log_prob(drawn), q.log_prob(drawn.clone()))
    eps = torch.randn(6, D)
    assert (q.transform(eps) - run(head, h.flip(0)).transform(eps)).abs().amax(-1).min() > 1e-4, "f depends on x"
    with torch.no_grad():
        for parameter in head.flow.parameters():
            parameter.zero_()
    torch.testing.assert_close(run(head, h).log_prob(z), diagonal.log_prob(z))


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


ALL = [part(**({"widths": [8]} if word == "flow" else {})) for word, part in GUIDES.items()]
ALL = [spec for spec in ALL if spec.kind != "diffusion" and not spec.simplex]  # those have tests of their own


@pytest.mark.parametrize("spec", ALL, ids=repr)
@pytest.mark.parametrize("neighbour_dim", [None, 2])
def test_offset_is_a_step_of_the_last_bias(spec, neighbour_dim):
    """Whatever the head makes of its raw output."""
    head, h, z = spec.head(F, neighbour_dim, D, Shape((4,))), torch.randn(6, F), torch.randn(6, D)
    neighbour = torch.randn(6, 2) if neighbour_dim else None
    raw = next(module for module in head.modules() if isinstance(module, Raw))
    p = dist.Normal(torch.zeros(D), 1.0).to_event(1)
    offset = 0.3 * torch.randn(6, raw.output.out_features)
    before = head(h, neighbour, None, p, None).log_prob(z)
    found = head(h, neighbour, None, p, offset).log_prob(z)
    assert not spec.density or not torch.allclose(found, before)
    for i in range(6):
        with torch.no_grad():
            raw.output.bias.add_(offset[i])
            torch.testing.assert_close(head(h, neighbour, None, p, None).log_prob(z)[i], found[i])
            raw.output.bias.sub_(offset[i])


@pytest.mark.parametrize("spec", ALL, ids=repr)
def test_lower_precision(spec):
    head, p = spec.head(F, None, D, Shape((4,))), dist.Normal(torch.zeros(D), 1.0).to_event(1)
    with torch.autocast("cpu", torch.bfloat16):
        q = head(torch.randn(6, F), None, None, p, None)
        z = q.rsample()
        assert z.dtype == q.log_prob(z.clone()).dtype == torch.float32
        if spec.density:
            assert torch.isfinite(q.log_prob(z.clone())).all()


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
