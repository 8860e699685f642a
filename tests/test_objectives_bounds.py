"""Values of the bounds of several particles: their order, their limits, and sums over classes by brute force."""

import math

import exact
import parts
import pytest
import torch
from mc import assert_below_mc, assert_close_mc
from test_capture import compare
from test_exactness import linear_gaussian

import pyro_vae as pv
from pyro_vae.capture import value_and_gradient
from pyro_vae.objectives import ELBO, IWAE, MMD, BetaTC, DReG, Renyi, ReweightedWakeSleep, bounds
from pyro_vae.sites import Batch
from pyro_vae.vae import densities

pytestmark = pytest.mark.usefixtures("float64")

MANY = [IWAE, DReG, Renyi, ReweightedWakeSleep]


@pytest.fixture(params=parts.CASES.values(), ids=parts.CASES.keys())
def case(request):
    return request.param


def loss_of(spec, vae, batch, seed=5, **weights):
    torch.manual_seed(seed)
    return spec.build(vae)(batch, {name: torch.tensor(value) for name, value in (spec.weights(0) | weights).items()})


def rows(vae, batch, K, seed=5):
    """log w as a plain array (C, K, B) and log q(y | x) (C, 1, B), of the same draws."""
    torch.manual_seed(seed)
    d = densities(vae, batch, K)
    log_w = d.log_w.detach()
    log_w = log_w if d.labels else log_w[None]
    log_pi = sum((d.q[name].log_prob for name in d.labels), torch.zeros(1, 1, 1))
    return log_w, log_pi[:, :1].detach().expand(len(log_w), 1, batch.size)


def by_hand(vae, log_w, log_pi, bound):
    """Datum by datum, class by class; `bound` takes a list of K log weights."""
    found = []
    for b in range(log_w.shape[-1]):
        cells = [(log_w[c, :, b], log_pi[c, 0, b]) for c in range(len(log_w)) if log_w[c, 0, b] > -1e20]
        if vae.variant.rule == "sum" or not vae.variant.missing:
            total = sum(w.exp() for w, _ in cells)
            found.append(bound(total.log()))
        else:
            found.append(sum(pi.exp() * (bound(w) - pi) for w, pi in cells))
    return torch.stack(found)


# -------------------------------------------------------------------------------------------------- the linear-Gaussian


def test_bounds_are_in_order():
    """ELBO <= Renyi 0.5 <= IWAE and ELBO <= MIWAE <= IWAE, all of them <= log p."""
    x, W, b, sigma = linear_gaussian(correlated=True)
    x = x[:100]
    vae, log_p = exact.linear_vae(W, b, sigma), exact.log_evidence(x, W, b, sigma)
    batch = Batch(x.repeat(40, 1))
    with torch.no_grad():
        log_w = densities(vae, batch, 16).log_w
        found = {
            "elbo": log_w.mean(-2),
            "renyi 2": bounds.power_mean(log_w, 2.0)[0],
            "renyi .5": bounds.power_mean(log_w, 0.5)[0],
            "miwae": bounds.grouped(log_w, 4)[0],
            "iwae": bounds.log_mean(log_w)[0],
        }
        # The objectives themselves are these functions, on the same draws.
        for name, spec in (
            ("elbo", ELBO(kl="sampled", num_particles=16)),
            ("renyi 2", Renyi(alpha=2.0, num_particles=16)),
            ("renyi .5", Renyi(alpha=0.5, num_particles=16)),
            ("miwae", IWAE(groups=4, num_particles=4)),
            ("iwae", IWAE(num_particles=16)),
        ):
            torch.manual_seed(7)
            again = densities(vae, batch, 16).log_w
            expected = {
                "elbo": lambda w: w.mean(0),
                "renyi 2": lambda w: -(-w).logsumexp(0) + math.log(16),
                "renyi .5": lambda w: 2 * ((w / 2).logsumexp(0) - math.log(16)),
                "miwae": lambda w: torch.stack([g.logsumexp(0) - math.log(4) for g in w.chunk(4)]).mean(0),
                "iwae": lambda w: w.logsumexp(0) - math.log(16),
            }[name](again)
            assert loss_of(spec, vae, batch, seed=7)[0].item() == pytest.approx(-expected.mean().item(), rel=1e-10)
    truth = log_p.repeat(40)
    chain = ["renyi 2", "elbo", "renyi .5", "iwae"], ["elbo", "miwae", "iwae"]
    for low, high in (pair for names in chain for pair in zip(names, names[1:], strict=False)):
        gap = found[high] - found[low]
        assert gap.min() >= -1e-12, "on the same draws the order holds without chance"
        assert gap.mean() > 0.01, f"{low} < {high}"
    gap = found["iwae"] - truth
    assert_below_mc(gap.mean(), 0.0, gap.std() / math.sqrt(len(gap)))
    assert gap.mean() > -0.5


def test_bounds_are_log_p_where_the_guide_is_exact():
    x, W, b, sigma = linear_gaussian(correlated=False)
    vae, log_p = exact.linear_vae(W, b, sigma), exact.log_evidence(x, W, b, sigma).mean().item()
    specs = [spec(num_particles=7) for spec in MANY]
    specs += [IWAE(groups=3, num_particles=2), IWAE(groups=3, num_particles=2, guide_gradient="miwae"), IWAE(mix=0.3)]
    specs += [Renyi(alpha=alpha, num_particles=3) for alpha in (0.0, 1.0, 1 + 1e-9, 3.0)]
    for spec in specs:
        loss, terms = loss_of(spec, vae, Batch(x))
        assert -loss.item() == pytest.approx(log_p, rel=1e-8), spec
        assert terms.elbo.mean().item() == pytest.approx(log_p, rel=1e-8), spec


def test_k_samples_approach_log_p():
    x, W, b, sigma = linear_gaussian(correlated=True)
    vae, log_p = exact.linear_vae(W, b, sigma), exact.log_evidence(x[:50], W, b, sigma)
    with torch.no_grad():
        losses = torch.stack([loss_of(IWAE(num_particles=2000), vae, Batch(x[:50]), seed)[0] for seed in range(20)])
    assert_close_mc(-losses.mean(), log_p.mean(), losses.std() / math.sqrt(20) + 2e-3)  # its bias is below 2e-3


@pytest.mark.parametrize(
    "spec",
    [
        ELBO(),
        BetaTC(),
        MMD(),
        *(spec(num_particles=3) for spec in (ELBO, *MANY)),
        IWAE(groups=3, num_particles=2),
        IWAE(groups=3, num_particles=2, guide_gradient="miwae"),
    ],
)
def test_draws_are_what_is_decoded(spec):
    vae, rows = parts.vae(), set()
    batch = parts.batch({})
    vae.likelihood.register_forward_pre_hook(lambda part, given: rows.add(math.prod(given[0].shape[:-1])))
    loss_of(spec, vae, batch)
    assert rows == {spec.draws() * batch.size}


# ----------------------------------------------------------------------------------------------------- limits and sums


def test_one_particle_is_the_elbo(case):
    vae, batch = parts.vae(**case), parts.batch(case)
    expected, terms = loss_of(ELBO(kl="sampled"), vae, batch)
    for spec in (IWAE(num_particles=1), DReG(num_particles=1), Renyi(num_particles=1, alpha=0.3)):
        loss, found = loss_of(spec, vae, batch)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(found, terms)
    many = ELBO(kl="sampled", num_particles=6)
    for spec in (IWAE(num_particles=1, groups=6), IWAE(num_particles=6, mix=1.0), Renyi(num_particles=6, alpha=1.0)):
        torch.testing.assert_close(loss_of(spec, vae, batch)[0], loss_of(many, vae, batch)[0])


def test_limits(case):
    vae, batch = parts.vae(**case), parts.batch(case)
    iwae = loss_of(IWAE(num_particles=6), vae, batch)[0]
    same = (IWAE(num_particles=6, mix=0.0), Renyi(num_particles=6, alpha=0.0), DReG(num_particles=6))
    for spec in same:
        torch.testing.assert_close(loss_of(spec, vae, batch)[0], iwae)
    piwae = loss_of(IWAE(num_particles=2, groups=3, guide_gradient="miwae"), vae, batch)[0]
    torch.testing.assert_close(piwae, iwae)
    elbo = loss_of(ELBO(kl="sampled", num_particles=6), vae, batch)[0]
    torch.testing.assert_close(loss_of(IWAE(num_particles=6, mix=0.3), vae, batch)[0], 0.3 * elbo + 0.7 * iwae)
    for alpha in (1 - 1e-9, 1 + 1e-9):
        torch.testing.assert_close(loss_of(Renyi(num_particles=6, alpha=alpha), vae, batch)[0], elbo)


BY_HAND = {
    "iwae": (IWAE(num_particles=6), lambda w: w.exp().mean().log()),
    "dreg": (DReG(num_particles=6), lambda w: w.exp().mean().log()),
    "miwae": (
        IWAE(num_particles=3, groups=2),
        lambda w: 0.5 * (w[:3].exp().mean().log() + w[3:].exp().mean().log()),
    ),
    "ciwae": (IWAE(num_particles=6, mix=0.25), lambda w: 0.25 * w.mean() + 0.75 * w.exp().mean().log()),
    "renyi": (Renyi(num_particles=6, alpha=0.5), lambda w: 2 * (0.5 * w).exp().mean().log()),
    "renyi beyond 1": (Renyi(num_particles=6, alpha=3.0), lambda w: -0.5 * (-2 * w).exp().mean().log()),
}


@pytest.mark.parametrize(("spec", "bound"), BY_HAND.values(), ids=BY_HAND.keys())
def test_labels_and_particles_by_brute_force(case, spec, bound):
    vae, batch = parts.vae(**case), parts.batch(case)
    loss, terms = loss_of(spec, vae, batch)
    log_w, log_pi = rows(vae, batch, 6)
    torch.testing.assert_close(loss, -by_hand(vae, log_w, log_pi, bound).mean())
    torch.testing.assert_close(terms.elbo, by_hand(vae, log_w, log_pi, torch.mean))
    torch.testing.assert_close(terms.elbo, terms.reconstruction - terms.kl)
    assert all(torch.isfinite(kl).all() and kl.shape == (batch.size,) for kl in terms.kl_per_layer.values())


def test_wake_sleep_sums_classes_with_particles(case):
    vae, batch = parts.vae(**case), parts.batch(case)
    log_w, _ = rows(vae, batch, 6)
    expected = (log_w.flatten(0, 1).logsumexp(0) - math.log(6)).mean()
    for sleep in (0.0, 0.5):
        torch.testing.assert_close(loss_of(ReweightedWakeSleep(num_particles=6, sleep=sleep), vae, batch)[0], -expected)


def test_bound_by_class_is_the_higher_one():
    """And with it the IWAE of each class goes to log p(x, y), which the other order does not."""
    case = parts.CASES["M2"]
    vae, batch = parts.vae(**case), parts.batch(case, known=0.0)
    log_w, log_pi = rows(vae, batch, 400)
    classes_first = (log_pi.exp() * (log_w - log_pi)).sum(0).logsumexp(0) - math.log(400)
    assert (-loss_of(IWAE(num_particles=400), vae, batch)[0] - classes_first.mean()).item() > 1e-3


def test_power_mean_keeps_its_digits_near_one():
    log_w = 30 * torch.randn(8, 4, dtype=torch.float32)
    for alpha in (1 - 1e-5, 1 + 1e-5):
        found = bounds.power_mean(log_w, alpha)[0].double()
        exactly = ((1 - alpha) * log_w.double()).exp().mean(0).log() / (1 - alpha)
        torch.testing.assert_close(found, exactly, rtol=1e-5, atol=1e-4)


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("part", "fields", "words"),
    [
        (IWAE, {"gradient": "stl"}, "biased"),
        (IWAE, {"guide_gradient": "miwae"}, "groups"),
        (IWAE, {"guide_gradient": "miwae", "groups": 2, "mix": 0.1}, "mix=0.1"),
        (Renyi, {"alpha": -1.0}, "alpha"),
        (Renyi, {"alpha": -math.inf}, "alpha"),
        (ELBO, {"gradient": "stl"}, "kl: sampled"),
        (ELBO, {"cycles": 2}, "warmup_epochs"),
        (ELBO, {"capacity": {}, "beta": 2.0}, "beta=2"),
        (ELBO, {"capacity": {}, "free_bits": 0.1}, "free_bits=0.1"),
    ],
)
def test_refused(part, fields, words):
    with pytest.raises(pv.DeclarationError, match=words):
        part(**fields)


def test_misfits():
    plain, partly = pv.Variant(), {"y": parts.label()}
    assert all(part().misfits(plain) == [] for part in pv.OBJECTIVES.values())
    assert ELBO(classification=0.1).misfits(plain)
    assert ELBO(classification=0.1).misfits(pv.Variant(labels={"y": parts.label("never")}))
    assert ELBO(classification=0.1).misfits(pv.Variant(labels={"y": parts.label(rule="sum")}))
    assert not ELBO(classification=0.1).misfits(pv.Variant(labels=partly))
    stl = ELBO(gradient="stl", kl="sampled")
    assert stl.misfits(pv.Variant(labels={"y": parts.label(rule="sum")}))
    assert not stl.misfits(pv.Variant(labels=partly))
    assert not stl.misfits(pv.Variant(labels={"y": parts.label("always")}))
    drops = pv.Variant(encoder={"kind": "conv", "dropout": 0.2})
    assert all(len(spec.misfits(drops)) == 1 for spec in (stl, DReG(), ReweightedWakeSleep()))
    assert not any(spec.misfits(drops) for spec in (ELBO(), IWAE(), Renyi(), pv.Factor(), pv.MMD()))
    assert ReweightedWakeSleep().misfits(pv.Variant(guide="point"))
    assert pv.BetaTC().misfits(pv.Variant(guide="point"))


# ---------------------------------------------------------------------------------------------------------- recorded

SMALL = {
    "elbo, all of it": ELBO(kl="sampled", gradient="stl", free_bits=0.2, classification=0.3, num_particles=2),
    "elbo, capacity": ELBO(capacity={"nats": 3.0}),
    "iwae": IWAE(num_particles=3),
    "piwae": IWAE(num_particles=2, groups=2, guide_gradient="miwae"),
    "dreg": DReG(num_particles=3),
    "renyi": Renyi(num_particles=3),
    "wake-sleep": ReweightedWakeSleep(num_particles=3, sleep=0.5),
    "beta_tc": pv.BetaTC(),
    "factor": pv.Factor(widths=[8]),
    "mmd": pv.MMD(),
}


@pytest.mark.slow
@pytest.mark.parametrize("spec", SMALL.values(), ids=SMALL.keys())
@pytest.mark.parametrize(
    "name",
    [
        "ladder, M2, missing pixels",
        "always and partly",
        "mixture",
        "ladder, missing pixels",
    ],
)
def test_captured_is_eager(name, spec):
    """Traced with half of the labels known, run with all of them."""
    case = parts.CASES[name]
    objective = spec.build(parts.vae(**case), num_data=100)
    compare(objective, parts.batch(case), parts.batch(case, known=1.0), tolerance=1e-10, weights=spec.weights(0))


@pytest.mark.parametrize("spec", SMALL.values(), ids=SMALL.keys())
def test_lower_precision(spec):
    """Under autocast the loss is about the same, and finite in its gradient."""
    torch.set_default_dtype(torch.float32)
    case = parts.CASES["ladder, M2, missing pixels"]
    objective, batch = spec.build(parts.vae(**case)), parts.batch(case)
    weights = {name: torch.tensor(1.0) for name in spec.weights(0)}
    found = []
    for precision in (None, torch.bfloat16):
        torch.manual_seed(3)
        inputs = [p.detach() for p in objective.parameters()], list(objective.buffers()), batch, weights
        outcome = value_and_gradient(objective, precision)(*inputs)
        assert outcome.loss.dtype == torch.float32
        assert all(torch.isfinite(g).all() for g in outcome.gradients)
        found.append(outcome.loss)
    torch.testing.assert_close(found[0], found[1], rtol=0.05, atol=0.2)
