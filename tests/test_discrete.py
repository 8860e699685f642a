"""Categorical latents: the relaxed density against torch's, quadrature and its limits, and how they are declared."""

import math

import pyro
import pytest
import torch
from mc import assert_close_mc
from pyro.infer import MCMC, NUTS
from scipy.special import expit, logsumexp
from test_capture import compare
from torch.distributions import RelaxedOneHotCategorical, biject_to

import pyro_vae as pv
from pyro_vae.capture import unvalidated
from pyro_vae.diagnostics.importance import log_mean_exp
from pyro_vae.guides import Relaxed
from pyro_vae.guides.relaxed import MARGIN
from pyro_vae.networks import MLP, Shape
from pyro_vae.objectives import ELBO
from pyro_vae.priors import CategoricalPrior
from pyro_vae.relaxed import FLOOR, RelaxedCategoricals
from pyro_vae.sites import Batch
from pyro_vae.vae import VAE, densities

exact = pytest.mark.usefixtures("float64")
EXTREME = torch.tensor([[1e4, -1e4, 0.0, -1e4, -1e4, 1e4], [0.0] * 6, [200.0, 0, 0, -200, 300, 0]])


def variant(dim=2, classes=3, **parts):
    latent = pv.Latent(kind="categorical", dim=dim, classes=classes)
    small = MLP(widths=[8], activation="tanh")
    return pv.Variant(**{"latent": latent, "likelihood": "bernoulli", "encoder": small, "decoder": small} | parts)


def moved(vae, spread=0.5):
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return vae


# ------------------------------------------------------------------------------------------------------------ density


@exact
@pytest.mark.parametrize("temperature", [0.25, 0.66, 1.0, 3.0])
def test_density_is_torchs(temperature):
    """Value and gradients with respect to z and to the logits, several variables side by side."""
    logits = (2 * torch.randn(5, 3 * 4)).requires_grad_()
    p = RelaxedCategoricals(temperature, logits, classes=4)
    theirs = RelaxedOneHotCategorical(torch.tensor(temperature), logits=logits.unflatten(-1, (3, 4)))
    z = p.sample((7,)).requires_grad_()
    assert (z.log() > FLOOR).all(), "above the floor, where nothing is cut off"
    expected = theirs.log_prob(z.unflatten(-1, (3, 4))).sum(-1)
    torch.testing.assert_close(p.log_prob(z), expected)
    for a, b in zip(
        *(torch.autograd.grad(f.sum(), (z, logits)) for f in (p.log_prob(z), expected)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(p.expand((7, 5)).log_prob(z), expected)
    torch.testing.assert_close(p.probs.unflatten(-1, (3, 4)), logits.unflatten(-1, (3, 4)).softmax(-1))


@exact
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("a", [-3.0, 0.0, 1.5])
def test_two_classes_are_a_logistic(temperature, a):
    """u = log z_1 / z_2 is Logistic(a / T, 1 / T), and dz_1 = z_1 z_2 du; the integral over z is 1."""
    u = torch.linspace(-80, 80, 160_001)[1:-1]
    z = torch.stack([u.sigmoid(), (-u).sigmoid()], -1)
    p = RelaxedCategoricals(temperature, torch.tensor([a, 0.0]), classes=2)
    log_density = p.log_prob(z) + z.log().sum(-1)
    v = temperature * u - a
    torch.testing.assert_close(log_density, math.log(temperature) + v.abs().neg() - 2 * torch.log1p((-v.abs()).exp()))
    assert torch.trapezoid(log_density.exp(), u).item() == pytest.approx(1, abs=1e-6)


@exact
def test_three_classes_integrate_to_one():
    u = torch.linspace(-60, 60, 1201)
    grid = torch.cat([torch.cartesian_prod(u, u), torch.zeros(len(u) ** 2, 1)], -1)
    log_z = grid.log_softmax(-1)
    log_density = RelaxedCategoricals(0.66, torch.tensor([1.0, -0.5, 0.3]), 3).log_prob(log_z.exp()) + log_z.sum(-1)
    assert log_density.exp().sum().item() * (u[1] - u[0]).item() ** 2 == pytest.approx(1, abs=1e-4)


@exact
@pytest.mark.parametrize("temperature", [1e-4, 0.66, 5.0])
def test_the_largest_entry_is_categorical(temperature):
    """At every temperature; at a low one the draw is its indicator."""
    logits, S = torch.tensor([1.0, -0.5, 0.3, 0.0, 0.0, 2.0]), 100_000
    z = RelaxedCategoricals(temperature, logits, classes=3).sample((S,)).unflatten(-1, (2, 3))
    hits = (z == z.amax(-1, keepdim=True)).double()
    expected = logits.unflatten(-1, (2, 3)).softmax(-1)
    assert_close_mc(hits.mean(0), expected, (expected * (1 - expected) / S).sqrt())
    if temperature < 0.01:
        assert (z - hits).abs().amax((-2, -1)).gt(1e-3).double().mean() < 1e-2
        assert_close_mc(z.mean(0), expected, (expected * (1 - expected) / S).sqrt() + 1e-4)


def test_support():
    p = RelaxedCategoricals(0.5, torch.zeros(4, 6), classes=3)
    z = p.sample()
    assert p.support.check(z).tolist() == [True] * 4
    assert not p.support.check(2 * z).any()
    assert not p.support.check(z.roll(1, -1)).all()


@exact
def test_unconstrained():
    """The bijection to R^(D (C-1)), and NUTS over z: the mean of a prior is 1/C by symmetry."""
    p = RelaxedCategoricals(2.0, torch.tensor([0.0, 0.3, 0.0, 0.5, 0.0, -1.0]), classes=3)
    to = biject_to(p.support)
    u = torch.randn(5, 4, requires_grad=True)
    assert p.support.check(to(u)).all()
    torch.testing.assert_close(to.inv(to(u).clone()), u)
    jacobian = torch.autograd.functional.jacobian(lambda v: to(v).unflatten(-1, (2, 3))[..., :-1].flatten(), u[0])
    torch.testing.assert_close(to.log_abs_det_jacobian(u, to(u))[0], torch.linalg.slogdet(jacobian)[1])
    vae = VAE(variant(1, 3, prior={"temperature": 2.0}, encoder=MLP(widths=[2]), decoder=MLP(widths=[])), (2,))
    with torch.no_grad():
        vae.likelihood.get_submodule("decoded").network.output.weight.zero_()  # p(z | x) = p(z)
    mcmc = MCMC(NUTS(vae.model), 300, warmup_steps=100, disable_progbar=True)
    mcmc.run(Batch(torch.ones(1, 2)))
    z = mcmc.get_samples()["z"].squeeze()
    expected = vae.priors["z"](None, None, None).sample((10_000,))
    assert_close_mc(z.mean(0), 1 / 3, 2 * expected.std(0) / math.sqrt(len(z)))
    assert_close_mc(expected.mean(0), 1 / 3, expected.std(0) / 100)


# --------------------------------------------------------------------------------------------------- in low precision


@pytest.mark.parametrize("temperature", [0.25, 0.66, 2.0])
def test_finite_at_extreme_logits(temperature):
    """In float32: draws, both densities and every gradient, wherever the encoder's raw output goes."""
    head = Relaxed(temperature=temperature).head(3, None, 6, Shape((4,), classes=3))
    raw = EXTREME.clone().requires_grad_()
    q = head(torch.zeros(3, 3), None, None, None, raw)
    z = q.rsample((1000,))
    assert (z > 1.001 * math.exp(FLOOR)).double().mean() > 0.99999, "the floor is not reached by this guide"
    prior = CategoricalPrior(learned=True, temperature=0.5).build(6, None, Shape((4,), classes=3))
    p = prior(None, None, None)
    log_w = p.log_prob(z) - q.log_prob(z)
    assert log_w.isfinite().all()
    for g in torch.autograd.grad(log_w.sum(), [raw, *prior.parameters(), *head.parameters()], allow_unused=True):
        assert g is None or g.isfinite().all()


def test_finite_at_indicators_and_at_low_temperature():
    """A legal z with zeros; the gradient there, where 1/z is infinite, is that of the floor."""
    z = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], requires_grad=True)
    logits = torch.zeros(3, requires_grad=True)
    for temperature in (1e-3, 0.5, 10.0):
        log_p = RelaxedCategoricals(temperature, logits, 3).log_prob(z)
        assert log_p.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(log_p.sum(), (z, logits)))
    drawn = RelaxedCategoricals(1e-3, EXTREME.requires_grad_(), 3).rsample((100,))
    assert all(g.isfinite().all() for g in torch.autograd.grad(drawn.square().sum(), EXTREME))


@pytest.mark.parametrize("temperature", [0.25, 0.66])
def test_float32_has_the_weights_of_float64(temperature):
    """log p(z) - log q(z) at confident guides: what a draw that underflows would get wrong, unseen."""
    head = Relaxed(temperature=temperature).head(1, None, 4, Shape((4,), classes=4)).double()
    raw = torch.tensor([300.0, 0.0, -50.0, -500.0], dtype=torch.float64)
    q = head(torch.zeros(1, dtype=torch.float64), None, None, None, raw - head.raw.output.bias)
    p = RelaxedCategoricals(0.5, torch.zeros(4, dtype=torch.float64), 4)
    log_z = q.log.rsample((50_000,)).squeeze(-2)  # without a floor
    true = (p.log.log_prob(log_z[:, None]) - q.log.log_prob(log_z[:, None])).squeeze(-1)
    z = log_z.float().exp()
    found = p.log_prob(z.double()) - q.log_prob(z.double())
    assert (true - found).abs().mean() < 1e-3
    assert log_z.min() < 0.7 * (FLOOR + MARGIN / temperature), "the guide is as sure as it can be"
    unlimited = RelaxedCategoricals(temperature, raw, 4)
    log_z = unlimited.log.rsample((1000,)).squeeze(-2)
    true = (p.log.log_prob(log_z[:, None]) - unlimited.log.log_prob(log_z[:, None])).squeeze(-1)
    z = log_z.float().exp().double()
    assert (p.log_prob(z) - unlimited.log_prob(z) - true).mean() > 10, "without the limit: far above the truth"


def test_ordinary_logits_are_the_raw_outputs():
    head = Relaxed().head(5, 2, 6, Shape((4,), y=1, classes=3))
    h, neighbour, y, offset = torch.randn(4, 5), torch.randn(3, 4, 2), torch.randn(4, 1), torch.randn(4, 6)
    q = head(h, neighbour, y, None, offset)
    expected = head.raw(h, neighbour, y, None) + offset
    torch.testing.assert_close(q.probs, expected.unflatten(-1, (2, 3)).softmax(-1).flatten(-2))
    assert q.batch_shape == (3, 4)


# -------------------------------------------------------------------------------------------------------------- model


@exact
def test_importance_sampled_evidence_is_the_quadrature():
    """log p(x) of a tiny model with one relaxed variable of two classes; q is moved, so that the weights vary."""
    vae = moved(VAE(variant(1, 2, prior={"learned": True, "temperature": 0.7}), (4,)).double())
    x = torch.tensor([[0.0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 1, 0]])
    u = torch.linspace(-60, 60, 12_001)
    z = torch.stack([u.sigmoid(), (-u).sigmoid()], -1)
    with torch.no_grad():
        logit = vae.likelihood(z, None, None)
        log_joint = logit.log_prob(x[:, None]).sum(-1).numpy()
        a = vae.priors["z"].conditions.constant.numpy() @ [1.0, -1.0]
        v = 0.7 * u.numpy() - a
        log_prior = math.log(0.7) + torch.from_numpy(expit(v) * expit(-v)).log().numpy()
        expected = logsumexp(log_joint + log_prior, axis=1) + math.log((u[1] - u[0]).item())
        log_w = densities(vae, Batch(x), 200_000).log_w
        found = log_mean_exp(log_w)
    w = (log_w - found).exp()
    assert_close_mc(found, torch.from_numpy(expected), w.std(0) / math.sqrt(len(w)))
    assert (w.std(0) > 0.01).all()
    assert (log_w.mean(0) < torch.from_numpy(expected)).all(), "the ELBO is below"


@exact
def test_labels_and_covariates_move_a_learned_prior():
    prior = CategoricalPrior(learned=True).build(6, None, Shape((4,), y=2, given=1, classes=3))
    y, given = torch.randn(2, 1, 5, 2), torch.randn(5, 1)
    p = prior(None, y, given)
    assert p.batch_shape == (2, 1, 5)
    W, b = prior.conditions.output.weight, prior.conditions.output.bias
    torch.testing.assert_close(p.raw[1, 0, 3], W @ torch.cat([y[1, 0, 3], given[3]]) + b)
    fixed = CategoricalPrior().build(6, None, Shape((4,), y=2, given=1, classes=3))
    assert fixed(None, y, given).batch_shape == ()
    assert list(fixed.parameters()) == []


@pytest.mark.parametrize("prior", [{}, {"learned": True}], ids=["uniform", "learned"])
@pytest.mark.parametrize(
    "labels", [{}, {"y": pv.Label(classes=3, observed="partly", rule="guide")}], ids=["none", "M2"]
)
def test_captured_is_eager(prior, labels):
    objective = ELBO(num_particles=2).build(VAE(variant(prior=prior, labels=labels), (5,)))
    y = torch.tensor([0, 1, 2, -1]) if labels else None
    batches = [Batch(torch.rand(4, 5).round(), y if y is None else y.roll(i)) for i in (0, 1)]
    with unvalidated():
        compare(objective, *batches)


def test_it_learns():
    """Two kinds of data, one binary variable: the kind is in the largest entry."""
    torch.manual_seed(1)
    kind = torch.arange(64) % 2
    x = torch.where(kind[:, None] == 0, torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0]), torch.tensor([0.0] * 4 + [1.0] * 4))
    vae = VAE(variant(1, 2), (8,))
    objective, optimizer = ELBO().build(vae), torch.optim.Adam(vae.parameters(), 2e-2)
    for _ in range(300):
        loss, _ = objective(Batch(x), {"beta": torch.tensor(1.0)})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = densities(vae, Batch(x)).q["z"].fn.probs.argmax(-1)
    agree = (found == kind).double().mean().item()
    assert max(agree, 1 - agree) == 1
    assert loss < 8 * math.log(2)


# -------------------------------------------------------------------------------------------------------- declaration


def test_what_is_absent_follows_the_latent():
    full = pv.Variant(latent={"kind": "categorical", "dim": 20, "classes": 10}, prior="categorical", guide="relaxed")
    for declared in (
        pv.Variant(latent="categorical"),
        pv.Variant(latent=pv.Latent(kind="categorical")),
        pv.Variant(latent={"kind": "categorical", "classes": None}, guide="relaxed"),
        pv.Variant(latent="categorical", prior={"temperature": 0.66}, guide={"widths": []}),
        pv.Variant.model_validate(full.tree()),
    ):
        assert declared == full
    assert full.layers == {"z": 200}
    assert full.classes == 10
    assert pv.Variant(latent=["categorical"]).layers == {"z1": 200}
    plain = pv.Variant()
    assert (plain.classes, plain.latent.kind, plain.prior.kind) == (0, "continuous", "standard_normal")
    declared = pv.load_experiment("digits", ["latent=categorical", "guide.temperature=0.4"]).variant
    assert (declared.guide, declared.prior) == (Relaxed(temperature=0.4), CategoricalPrior())


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"latent": {"classes": 4}}, "latent.classes=4: has no meaning for a continuous latent"),
        ({"latent": {"kind": "categorical", "classes": 1}}, "latent.classes=1: must be greater"),
        ({"latent": "discrete"}, "latent.kind=\"discrete\": must be 'continuous' or 'categorical'"),
        ({"latent": "categorical", "prior": "mixture"}, "prior='mixture': is for continuous .* take categorical"),
        ({"latent": "categorical", "guide": "point"}, "guide='point': is for continuous latents.* take relaxed"),
        ({"latent": "categorical", "guide": "refined"}, "guide='refined': is for continuous latents"),
        ({"prior": "categorical"}, "prior='categorical': is for categorical latents.*latent.kind=categorical"),
        ({"guide": "relaxed"}, "guide='relaxed': is for categorical latents"),
        ({"latent": ["categorical", {"dim": 2}], "prior": ["normal", "standard_normal"]}, "must be the only one"),
        ({"latent": ["categorical", "categorical"]}, "must be the only one"),
        ({"latent": "categorical", "guide": {"temperature": 0.1}}, "guide.temperature=0.1: must be greater"),
        ({"latent": "categorical", "prior": {"temperature": 0.0}}, "prior.temperature=0.0: must be greater"),
    ],
)
def test_refusals(parts, words):
    with pytest.raises(pv.DeclarationError, match=words):
        pv.Variant(**parts)


def test_a_refined_guide_moves_the_logits():
    vae = VAE(variant(guide={"kind": "refined", "base": "relaxed", "steps": 2}), (5,))
    offsets = vae.refined(Batch(torch.rand(4, 5).round()))
    assert offsets["z"].shape == (4, 6)
    assert (offsets["z"] != 0).any()


def test_few_classes_are_summed_out_as_a_label():
    """What the docstring of `Latent` says: beside a continuous layer that the decoder need not use."""
    declared = pv.Variant(latent={"dim": 1}, labels={"c": {"classes": 10, "observed": "never"}}, likelihood="bernoulli")
    vae = VAE(declared, (5,))
    with pyro.validation_enabled(False):
        assert densities(vae, Batch(torch.rand(4, 5).round()), 2).log_w.shape == (10, 2, 4)
