"""The contract: model and guide as an ordinary Pyro pair, and the density function on every kind of variant."""

import math

import parts
import pyro
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO

from pyro_vae.objectives import ELBO
from pyro_vae.sites import Batch, without_labels
from pyro_vae.vae import densities, label_cells
from pyro_vae.variant import Label, Latent, Variant

pytestmark = pytest.mark.usefixtures("float64")
BETA = {"beta": torch.tensor(1.0, dtype=torch.float64)}


@pytest.fixture(params=parts.CASES.values(), ids=parts.CASES.keys())
def case(request):
    return request.param


def same_seed(function, *arguments):
    torch.manual_seed(5)
    return function(*arguments)


def gradients(loss, vae):
    found = torch.autograd.grad(loss, list(vae.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(vae.parameters(), found, strict=True)]


def test_shapes_and_finite_gradients(case):
    vae, batch, K = parts.vae(**case), parts.batch(case), 3
    d = densities(vae, batch, K)
    cells = vae.variant.cells
    C = (cells,) if vae.variant.missing else ()
    assert d.log_w.shape == (*C, K, batch.size)
    log_w = without_labels(d.log_w, d, batch, vae.variant.rule)
    assert log_w.shape == (K, batch.size)
    assert torch.isfinite(log_w).all()
    found = gradients(log_w.sum(), vae)
    assert all(torch.isfinite(g).all() for g in found)
    assert sum(bool((g != 0).any()) for g in found) >= len(found) - 1  # a bias can be 0 by symmetry


def test_loss_equals_pyros(case):
    """Loss and gradients equal TraceEnum_ELBO's (Trace_ELBO's without missing labels) on the same random state."""
    if any(site.rule == "sum" for site in case.get("labels", {}).values() if site.observed != "always"):
        pytest.skip("rule `sum` is no Pyro estimator; see test_missing_labels_equal_brute_force")
    vae, batch = parts.vae(**case), parts.batch(case)
    loss, terms = same_seed(ELBO(kl="sampled").build(vae), batch, BETA)
    elbo = TraceEnum_ELBO(max_plate_nesting=1) if vae.variant.missing else Trace_ELBO()
    theirs = same_seed(elbo.differentiable_loss, vae.model, vae.guide, batch)
    assert loss.item() * batch.size == pytest.approx(theirs.item(), rel=1e-10)
    assert -terms.elbo.sum().item() == pytest.approx(theirs.item(), rel=1e-10)
    for ours, pyros in zip(gradients(loss * batch.size, vae), gradients(theirs, vae), strict=True):
        torch.testing.assert_close(ours, pyros, rtol=1e-10, atol=1e-10)


def test_closed_form_kl_equals_pyros():
    vae, batch = parts.vae(), parts.batch({})
    loss, terms = same_seed(ELBO().build(vae), batch, BETA)
    theirs = same_seed(TraceMeanField_ELBO().differentiable_loss, vae.model, vae.guide, batch)
    assert loss.item() * batch.size == pytest.approx(theirs.item(), rel=1e-10)
    torch.testing.assert_close(terms.kl_per_dim["z"].sum(-1), terms.kl)


@pytest.mark.parametrize("rule", ["sum", "guide"])
def test_missing_labels_equal_brute_force(rule):
    """Every class by hand, with F.one_hot and plain torch, missing pixels included."""
    case = {"labels": {"y": parts.label(rule=rule)}, "masked": True}
    vae, batch, K, C = parts.vae(**case), parts.batch(case), 3, 4
    d = densities(vae, batch, K)
    value = without_labels(d.log_w, d, batch, rule)
    z_all, N = d.q["z"].value, torch.distributions.Normal
    for i in range(batch.size):
        seen = batch.mask[i]
        x = torch.where(seen, batch.x[i], 0.0)
        h = vae.body.layers(torch.cat([x, seen.double()]))
        log_pi = torch.log_softmax(vae.classifiers["y"].output(h), -1) if rule == "guide" else torch.zeros(C)
        log_w = []
        for c in range(C):
            one_hot, z = F.one_hot(torch.tensor(c), C).double(), z_all[c, :, i]
            mu, s = vae.heads["z"].raw.output(torch.cat([h, one_hot])).chunk(2)
            net = vae.likelihood.decoded.network
            logits = net.output(net.layers(torch.cat([z, one_hot.expand(K, C)], -1)))
            log_x = -F.binary_cross_entropy_with_logits(logits, x.expand(K, -1), reduction="none")[:, seen].sum(-1)
            log_w.append(
                log_x + N(0.0, 1.0).log_prob(z).sum(-1) - N(mu, (s / 2).exp()).log_prob(z).sum(-1) - math.log(C)
            )
        known = batch.y[i].item()
        if known >= 0:
            expected = log_w[known]
        elif rule == "sum":
            expected = torch.stack(log_w).logsumexp(0)
        else:
            expected = sum(p.exp() * (w - p) for w, p in zip(log_w, log_pi, strict=True))
        torch.testing.assert_close(value[:, i], expected, rtol=1e-12, atol=1e-10)


def test_ladder_equals_plain_torch():
    case = parts.CASES["ladder, missing pixels"]
    vae, batch = parts.vae(**case), parts.batch(case)
    d = densities(vae, batch, 6)
    z1, z2, N = d.q["z1"].value, d.q["z2"].value, torch.distributions.Normal
    x = torch.where(batch.mask, batch.x, 0.0)
    h = vae.body.layers(torch.cat([x, batch.mask.double()], -1))
    prior_mu, prior_s = vae.priors["z1"].net(z2).chunk(2, -1)
    mu, s = vae.heads["z1"].raw.output(h).chunk(2, -1)
    a, b = (-s).exp(), (-prior_s).exp()
    mu2, s2 = vae.heads["z2"].raw.output(h).chunk(2, -1)
    b2 = torch.ones(())
    a2 = (-s2).exp()
    net = vae.likelihood.decoded.network
    logits = net.output(net.layers(z1))
    log_x = -(F.binary_cross_entropy_with_logits(logits, x.expand(6, -1, -1), reduction="none") * batch.mask).sum(-1)
    log_w = (
        log_x
        + N(0.0, 1.0).log_prob(z2).sum(-1)
        + N(prior_mu, (prior_s / 2).exp()).log_prob(z1).sum(-1)
        - N(mu2 * a2 / (a2 + b2), (a2 + b2) ** -0.5).log_prob(z2).sum(-1)
        - N((mu * a + prior_mu * b) / (a + b), (a + b) ** -0.5).log_prob(z1).sum(-1)
    )
    torch.testing.assert_close(d.log_w, log_w, rtol=1e-12, atol=1e-10)


def test_label_grid_has_every_combination_once():
    vae = parts.vae(**parts.CASES["two label sites"])
    grid = label_cells(vae)
    cells = torch.stack([grid["y"].flatten(), grid["style"].flatten()], -1)
    assert len(cells.unique(dim=0)) == 12
    assert grid["y"].shape == (12, 1, 1)


def test_given_latents_are_scored_not_drawn(case):
    vae, batch = parts.vae(**case), parts.batch(case)
    d = densities(vae, batch, 2)
    latents = {name: d.q[name].value for name in vae.variant.layers}
    again = densities(vae, batch, 2, latents=latents)
    torch.testing.assert_close(again.log_w, d.log_w, rtol=1e-12, atol=1e-10)
    for name, value in latents.items():
        assert again.q[name].value is not value


@pytest.mark.parametrize("program", ["guide", "model"])
def test_freeze_detaches_one_program(program):
    vae, batch = parts.vae(latent=(5, 3)), parts.batch({})
    latents = {n: s.value.detach() for n, s in densities(vae, batch, 2).q.items()}
    log_w = densities(vae, batch, 2, latents=latents, freeze={program}).log_w.sum()
    frozen, free = (vae.heads, vae.likelihood) if program == "guide" else (vae.likelihood, vae.heads)
    assert all(
        g is None for g in torch.autograd.grad(log_w, list(frozen.parameters()), allow_unused=True, retain_graph=True)
    )
    assert any(g is not None for g in torch.autograd.grad(log_w, list(free.parameters()), allow_unused=True))


def test_offsets_move_the_guide_per_datum():
    vae, batch = parts.vae(), parts.batch({})
    offset = torch.zeros(batch.size, 10)
    offset[3, :5] = 2.0
    plain, moved = densities(vae, batch), densities(vae, batch, offsets={"z": offset})
    shift = moved.q["z"].fn.mean - plain.q["z"].fn.mean
    assert torch.allclose(shift[..., 3, :], torch.tensor(2.0))
    assert torch.equal(shift[..., :3, :], torch.zeros_like(shift[..., :3, :]))


# --------------------------------------------------------------------------------------- an ordinary Pyro program


def test_predictive_generates(case):
    if case.get("labels") or case.get("given"):
        pytest.skip("labels and covariates are conditions here")
    vae = parts.vae(**case)
    x = Predictive(vae.model, num_samples=7)(Batch(None, n=3))["x"]
    assert x.shape == (7, 3, parts.X)
    x = Predictive(vae.model, guide=vae.guide, num_samples=7, return_sites=["z", "x"])(parts.batch(case))
    assert "x" in x


def test_condition_fixes_a_site():
    vae, z = parts.vae(), torch.randn(3, 5)
    trace = poutine.trace(poutine.condition(vae.model, {"z": z})).get_trace(Batch(None, n=3))
    assert torch.equal(trace.nodes["z"]["value"], z)
    assert trace.nodes["z"]["is_observed"]
    assert trace.nodes["x"]["value"].shape == (3, parts.X)


def test_nuts_samples_the_posterior_of_a_linear_model():
    from exact import linear_vae, posterior
    from mc import assert_close_mc

    W, b = torch.tensor([[1.0, 0.3], [0.2, -1.0], [0.5, 0.5]]), torch.tensor([0.5, -0.2, 0.1])
    vae = linear_vae(W, b, 0.8).requires_grad_(False)
    x = torch.randn(2, 3)
    mcmc = MCMC(NUTS(vae.model), num_samples=200, warmup_steps=100, disable_progbar=True)
    mcmc.run(Batch(x))
    draws, (mean, precision) = mcmc.get_samples()["z"], posterior(x, W, b, 0.8)
    sd = torch.linalg.inv(precision).diagonal().sqrt()
    assert_close_mc(draws.mean(0), mean, sd.expand(2, 2) / math.sqrt(50))  # at least 50 effective draws


def test_nuts_marginalises_a_missing_label():
    vae = parts.vae(**parts.CASES["mixture"]).requires_grad_(False)
    mcmc = MCMC(NUTS(vae.model, max_plate_nesting=1), num_samples=5, warmup_steps=5, disable_progbar=True)
    mcmc.run(Batch(parts.batch({}, 2).x))
    assert mcmc.get_samples()["z"].shape == (5, 2, 5)


def test_render_model():
    graph = pyro.render_model(parts.vae(latent=(5, 3)).model, (parts.batch({}),))
    assert all(name in graph.source for name in ("z1", "z2", "x", "data"))


def test_known_labels_are_certain_in_the_guide():
    case = parts.CASES["M2"]
    vae, batch = parts.vae(**case), parts.batch(case)
    for _ in range(5):
        y = poutine.trace(vae.guide).get_trace(batch).nodes["y"]["value"]
        known = batch.y >= 0
        assert torch.equal(y[known], batch.y[known])


def test_svi_on_the_registered_pair_trains_to_the_same_elbo():
    """Pyro's SVI with Pyro's Adam, and our loss with torch's Adam, from the same start and random state."""
    case, torch_seed = {}, 7
    ours, theirs = parts.vae(**case), parts.vae(**case)
    theirs.load_state_dict(ours.state_dict())
    batch = parts.batch(case, 64)
    svi = SVI(*theirs.registered(), pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    torch.manual_seed(torch_seed)
    pyro_losses = [svi.step(batch) / batch.size for _ in range(60)]
    optimizer, objective = torch.optim.Adam(ours.parameters(), lr=1e-2), ELBO(kl="sampled").build(ours)
    torch.manual_seed(torch_seed)
    for expected in pyro_losses:
        optimizer.zero_grad()
        loss, _ = objective(batch, BETA)
        # Adam is blind to the scale of the loss but for its eps, hence the tolerance.
        assert loss.item() == pytest.approx(expected, rel=1e-4)
        (loss * batch.size).backward()
        optimizer.step()
    assert pyro_losses[-1] < pyro_losses[0] - 1


def test_two_vaes_never_share_parameters():
    """The param store would give a second module of the same name the first one's parameters."""
    first, second = parts.vae(), parts.vae()
    assert not any(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True) if a.dim() > 1
    )
    start = [p.clone() for p in second.parameters()]
    batch = parts.batch({}, 16)
    for vae in (first, second):
        svi = SVI(*vae.registered(), pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        for _ in range(3):
            svi.step(batch)
    assert any(not torch.equal(a, b) for a, b in zip(start, second.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_nothing_is_registered_globally():
    vae, batch = parts.vae(), parts.batch({})
    loss, _ = ELBO().build(vae)(batch, BETA)
    loss.backward()
    assert len(list(pyro.get_param_store().keys())) == 0


# ------------------------------------------------------------------------------------------------ the declaration


def test_layers_are_named_and_checked():
    assert Variant(latent=Latent(dim=3)).layers == {"z": 3}
    two = Variant(latent=[Latent(dim=3), Latent(dim=2)], prior=[parts.ConditionalNormal(), "standard_normal"])
    assert two.layers == {"z1": 3, "z2": 2}
    with pytest.raises(ValueError, match="one prior per layer"):
        Variant(latent=[Latent(dim=3), Latent(dim=2)])
    with pytest.raises(ValueError, match="ignores the layer above"):
        Variant(latent=[Latent(dim=3), Latent(dim=2)], prior=["standard_normal", "standard_normal"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"x": Label(classes=2)}, "identifier other than"),
        ({"two words": Label(classes=2)}, "identifier other than"),
        ({"a": Label(classes=100, observed="never"), "b": Label(classes=100, observed="partly")}, "10000 combinations"),
        (
            {
                "a": Label(classes=2, observed="never", rule="sum"),
                "b": Label(classes=2, observed="partly", rule="guide"),
            },
            "share one rule",
        ),
    ],
)
def test_labels_are_checked(labels, message):
    with pytest.raises(ValueError, match=message):
        Variant(labels=labels)


def test_generation_needs_a_size():
    with pytest.raises(ValueError, match="n=16"):
        parts.vae().model(Batch(None))


def test_labels_given_are_no_part_of_the_density():
    """With labels always observed log w is log p(x, z | y) - log q: no log p(y)."""
    case = parts.CASES["conditional"]
    vae, batch = parts.vae(**case), parts.batch(case)
    assert vae.variant.density == "x|y"
    d = densities(vae, batch)
    assert torch.equal(d.p["y"].log_prob, torch.zeros_like(d.p["y"].log_prob))
