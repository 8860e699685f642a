"""Objectives: the KL of each pair, beta and its warm-up, particles, and the identity of the terms."""

import math

import parts
import pyro.distributions as dist
import pytest
import torch
from mc import assert_close_mc

from pyro_vae.objectives import ELBO, Objective, split
from pyro_vae.objectives.terms import _kl
from pyro_vae.vae import densities

pytestmark = pytest.mark.usefixtures("float64")


def beta(value=1.0):
    return {"beta": torch.tensor(value)}


@pytest.fixture(params=parts.CASES.values(), ids=parts.CASES.keys())
def case(request):
    return request.param


def same_draws(objective, *arguments):
    torch.manual_seed(5)
    return objective(*arguments)


def normals(D=3, batch=(4, 5)):
    q = dist.Normal(torch.randn(*batch, D), torch.rand(*batch, D) + 0.2).to_event(1)
    p = dist.Normal(torch.randn(D), torch.rand(D) + 0.5).to_event(1)
    return q, p


# ----------------------------------------------------------------------------------------------------------------- KL


def test_kl_of_normals_is_torchs_and_the_formula():
    q, p = normals()
    kl, per_dim = _kl(q, p)
    torch.testing.assert_close(kl, torch.distributions.kl_divergence(q, p))
    m, s, mu, sigma = q.base_dist.loc, q.base_dist.scale, p.base_dist.loc, p.base_dist.scale
    expected = (sigma / s).log() + (s**2 + (m - mu) ** 2) / (2 * sigma**2) - 0.5
    torch.testing.assert_close(per_dim, expected)
    torch.testing.assert_close(kl, expected.sum(-1))


def test_kl_is_the_mean_of_log_q_minus_log_p():
    (q, p), S = normals(), 20_000
    z = q.sample((S,))
    log_ratio = q.log_prob(z) - p.log_prob(z)
    assert_close_mc(log_ratio.mean(0), _kl(q, p)[0], log_ratio.std(0) / math.sqrt(S))


def test_kl_without_factors_has_no_value_per_dimension():
    q = dist.MultivariateNormal(torch.randn(4, 3), torch.eye(3))
    p = dist.MultivariateNormal(torch.zeros(3), 2 * torch.eye(3))
    kl, per_dim = _kl(q, p)
    torch.testing.assert_close(kl, torch.distributions.kl_divergence(q, p))
    assert per_dim is None


def test_kl_that_has_no_closed_form_is_sampled():
    assert _kl(dist.StudentT(3.0, torch.zeros(3), 1.0).to_event(1), normals()[1]) == (None, None)
    vae = parts.vae(guide="point")
    batch = parts.batch({})
    loss, terms = ELBO().build(vae)(batch, beta())
    z = densities(vae, batch).q["z"].value
    expected = 0.5 * (z.square() + math.log(2 * math.pi)).sum(-1).mean(0)
    torch.testing.assert_close(terms.kl, expected)
    assert terms.kl_per_dim == {}
    torch.testing.assert_close(loss, (expected - terms.reconstruction).mean())


def test_closed_form_and_sampled_agree(case):
    """Also on the gradient's side of beta: the bounds of both kinds have one mean."""
    vae, batch, S = parts.vae(**case), parts.batch(case, 3), 2000
    if any(site.rule == "sum" for site in vae.variant.missing.values()):
        pytest.skip("log sum exp of the log weights is another bound with each KL")
    with torch.no_grad():
        bounds = []
        for kl in ("closed_form", "sampled"):
            d = densities(vae, batch, S)
            reconstruction, rest, _ = split(vae, d, kl == "closed_form")
            log_w = reconstruction + rest
            if d.labels:
                log_pi = sum(d.q[name].log_prob for name in d.labels)
                log_w = (log_pi.exp() * (log_w - log_pi)).sum(0)
            bounds.append(log_w)
    a, b = bounds
    assert_close_mc(a.mean(0), b.mean(0), (a.var(0) / S + b.var(0) / S).sqrt())


def test_bottom_up_only_the_top_has_a_closed_form():
    """KL(q(z_1 | x) || p(z_1 | z_2)) at a z_2 drawn after z_1 is no share of the bound."""
    vae, batch = parts.vae(latent=(5, 4, 3), guide=parts.BottomUpGuide()), parts.batch({})
    d = densities(vae, batch, 2)
    reconstruction, rest, _ = split(vae, d, closed_form=True)
    expected = -torch.distributions.kl_divergence(d.q["z3"].fn, d.p["z3"].fn)
    for name in ("z1", "z2"):
        expected = expected + d.p[name].log_prob - d.q[name].log_prob
    torch.testing.assert_close(rest, expected)
    top_down = parts.vae(latent=(5, 4, 3))
    d = densities(top_down, batch, 2)
    expected = -sum(torch.distributions.kl_divergence(d.q[z].fn, d.p[z].fn) for z in ("z1", "z2", "z3"))
    torch.testing.assert_close(split(top_down, d, closed_form=True)[1], expected)


@pytest.mark.parametrize("closed_form", [True, False])
def test_split_adds_up_to_log_w(case, closed_form):
    """Sampled, reconstruction and rest are log w draw by draw; per dimension the KL adds up to the site's."""
    vae, batch = parts.vae(**case), parts.batch(case)
    d = densities(vae, batch, 3)
    reconstruction, rest, kl_per_dim = split(vae, d, closed_form)
    assert torch.equal(reconstruction, d.p["x"].log_prob)
    if not closed_form:
        torch.testing.assert_close(reconstruction + rest, d.log_w)
    labels = sum(site.log_prob for name, site in d.p.items() if name not in ("x", *vae.variant.layers))
    torch.testing.assert_close(labels - sum(kl.sum(-1) for kl in kl_per_dim.values()), rest)


# -------------------------------------------------------------------------------------------------------------- terms


@pytest.mark.parametrize("spec", [ELBO(), ELBO(kl="sampled", num_particles=3)], ids=["closed form", "sampled"])
def test_terms(case, spec):
    """elbo = reconstruction - kl, per datum and at beta = 1 whatever beta is; shapes as promised."""
    vae, batch = parts.vae(**case), parts.batch(case)
    loss, terms = same_draws(spec.build(vae), batch, beta())
    for value in (terms.elbo, terms.reconstruction, terms.kl, *terms.log_p.values(), *terms.log_q.values()):
        assert value.shape == (batch.size,)
        assert torch.isfinite(value).all()
    for name, dim in vae.variant.layers.items():
        assert terms.kl_per_dim[name].shape == (batch.size, dim)
    torch.testing.assert_close(terms.elbo, terms.reconstruction - terms.kl)
    torch.testing.assert_close(loss, -terms.elbo.mean())
    other, same = same_draws(spec.build(vae), batch, beta(0.3))
    torch.testing.assert_close(same.elbo, terms.elbo)
    assert not torch.allclose(other, loss)


@pytest.mark.parametrize("name", ["plain", "ladder", "conditional", "three layers bottom-up"])
def test_terms_per_site_are_those_of_the_densities(name):
    case = parts.CASES[name]
    vae, batch = parts.vae(**case), parts.batch(case)
    _, terms = same_draws(ELBO(num_particles=3).build(vae), batch, beta())
    d = same_draws(densities, vae, batch, 3)
    for found, sites in ((terms.log_p, d.p), (terms.log_q, d.q)):
        assert found.keys() == sites.keys()
        for site in sites:
            torch.testing.assert_close(found[site], sites[site].log_prob.mean(0).expand(batch.size))


# -------------------------------------------------------------------------------------------------- beta and particles


@pytest.mark.parametrize("value", [0.0, 0.25, 4.0])
def test_beta_weighs_the_kl(case, value):
    vae, batch = parts.vae(**case), parts.batch(case)
    loss, terms = ELBO().build(vae)(batch, beta(value))
    torch.testing.assert_close(loss, (value * terms.kl - terms.reconstruction).mean())


def test_beta_weighs_the_labels_too():
    """log p(y) belongs to the KL; the entropy of q(y | x) stays whole, as `without_labels` adds it last."""
    case = parts.CASES["M2"]
    vae, batch = parts.vae(**case), parts.batch(case)
    loss, _ = same_draws(ELBO().build(vae), batch, beta(0.5))
    d = same_draws(densities, vae, batch)
    reconstruction, rest, _ = split(vae, d, closed_form=True)
    log_pi = d.q["y"].log_prob
    expected = (log_pi.exp() * (reconstruction + 0.5 * (rest - log_pi))).sum(0)
    torch.testing.assert_close(loss, -expected.mean())


def test_warm_up_is_linear_and_ends_at_beta():
    spec = ELBO(beta=2.0, warmup_epochs=10)
    assert [spec.weights(epoch)["beta"] for epoch in (0, 2.5, 5, 10, 99)] == [0.0, 0.5, 1.0, 2.0, 2.0]
    assert spec.longest() == 10
    assert ELBO(beta=0.7).weights(0) == {"beta": 0.7}
    assert ELBO().longest() == 0
    assert Objective().weights(3) == {}


@pytest.mark.parametrize("kl", ["closed_form", "sampled"])
def test_particles_lower_the_variance(kl):
    """16 particles: the same mean, and a variance that is 16 times lower."""
    vae, batch, S = parts.vae(), parts.batch({}, 3), 400
    one, many = (ELBO(kl=kl, num_particles=K).build(vae) for K in (1, 16))
    with torch.no_grad():
        first, second = (torch.stack([f(batch, beta())[1].elbo for _ in range(S)]) for f in (one, many))
    assert_close_mc(first.mean(0), second.mean(0), ((first.var(0) + second.var(0)) / S).sqrt())
    log_ratio = (first.var(0) / second.var(0)).log()
    assert_close_mc(log_ratio, math.log(16), math.sqrt(2 * 2 / (S - 1)) * 1.5)  # 1.5: tails heavier than a normal's


def test_closed_form_varies_less():
    vae, batch = parts.vae(), parts.batch({}, 3)
    exact, sampled = (ELBO(kl=kl).build(vae) for kl in ("closed_form", "sampled"))
    with torch.no_grad():
        kls = [torch.stack([f(batch, beta())[1].kl for _ in range(20)]) for f in (exact, sampled)]
    assert kls[0].std(0).max() < 1e-12
    assert kls[1].std(0).min() > 0.01


def test_cycles():
    """Two warm-ups of 4 epochs each with 4 epochs at the top between them, then the top for good."""
    spec = ELBO(beta=2.0, warmup_epochs=4, cycles=2)
    epochs = (0, 2, 4, 7.9, 8, 9, 10, 11.9, 12, 16, 18, 99)
    assert [round(spec.weights(e)["beta"], 2) for e in epochs] == [0, 1, 2, 2, 0, 0.5, 1, 1.95, 2, 2, 2, 2]
    assert spec.longest() == 12
    assert ELBO(warmup_epochs=4, cycles=3).longest() == 20


# --------------------------------------------------------------------------------------------- free bits and capacity


@pytest.mark.parametrize("value", [1.0, 0.3])
def test_free_bits_by_hand(value):
    vae, batch = parts.vae(latent=(5, 3)), parts.batch({})
    _, plain = same_draws(ELBO(beta=value).build(vae), batch, beta(value))
    means = {name: kl.mean(0) for name, kl in plain.kl_per_dim.items()}
    free = torch.cat(list(means.values())).median().item()
    loss, terms = same_draws(ELBO(free_bits=free).build(vae), batch, beta(value))
    floored = sum(max(free, kl.item()) for mean in means.values() for kl in mean)
    torch.testing.assert_close(loss, value * torch.tensor(floored) - plain.reconstruction.mean())
    torch.testing.assert_close(terms, plain)


def test_free_bits_leave_the_kl_alone():
    """Below the floor the guide feels the reconstruction only."""
    vae, batch = parts.vae(), parts.batch({})
    leaves = list(vae.heads.parameters())
    loss, terms = same_draws(ELBO(free_bits=50.0).build(vae), batch, beta())
    free = torch.autograd.grad(loss, leaves, retain_graph=True)
    alone = torch.autograd.grad(-terms.reconstruction.mean(), leaves)
    torch.testing.assert_close(free, alone)


def test_free_bits_of_a_layer_without_parts():
    vae, batch = parts.vae(guide="point"), parts.batch({})
    _, plain = same_draws(ELBO().build(vae), batch, beta())
    for free in (plain.kl.mean().item() / 5 + 1, plain.kl.mean().item() / 5 - 0.1):
        loss, _ = same_draws(ELBO(free_bits=free).build(vae), batch, beta())
        expected = max(5 * free, plain.kl.mean().item()) - plain.reconstruction.mean()
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("C", [0.5, 30.0])
def test_capacity(case, C):
    vae, batch = parts.vae(**case), parts.batch(case)
    spec = ELBO(capacity={"nats": 20.0, "epochs": 4, "gamma": 7.0})
    loss, terms = spec.build(vae)(batch, {"capacity": torch.tensor(C)})
    torch.testing.assert_close(loss, 7 * (terms.kl.mean() - C).abs() - terms.reconstruction.mean())
    assert [spec.weights(e)["capacity"] for e in (0, 1, 4, 9)] == [0.0, 5.0, 20.0, 20.0]
    assert spec.longest() == 4
    assert ELBO(capacity={"epochs": 0}).weights(0) == {"capacity": 25.0}


def test_sticking_the_landing_changes_no_value(case):
    vae, batch = parts.vae(**case), parts.batch(case)
    a, b = (same_draws(ELBO(kl="sampled", gradient=g).build(vae), batch, beta(0.7)) for g in ("plain", "stl"))
    torch.testing.assert_close(a, b)


def test_kl_per_layer(case):
    """The sum over its dimensions; over all layers, the KL without the part of missing labels."""
    vae, batch = parts.vae(**case), parts.batch(case)
    _, terms = ELBO().build(vae)(batch, beta())
    assert terms.kl_per_layer.keys() == vae.variant.layers.keys()
    for name, kl in terms.kl_per_layer.items():
        torch.testing.assert_close(kl, terms.kl_per_dim[name].sum(-1))
    if not vae.variant.missing:
        torch.testing.assert_close(sum(terms.kl_per_layer.values()), terms.kl)
