"""Gradients: unbiased where they say so, without variance where the guide is exact, and brute force for the others.

A mean over draws is compared with another one parameter by parameter: z = difference / standard error, which is about
N(0, 1) over the parameters if both have the same mean. The checks that can see a bias are shown to see one.
"""

import exact
import parts
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from test_exactness import linear_gaussian
from test_objectives_bounds import loss_of

import pyro_vae as pv
from pyro_vae.objectives import ELBO, IWAE, DReG, ReweightedWakeSleep
from pyro_vae.objectives.elbo import surprise
from pyro_vae.objectives.terms import held, plain_terms
from pyro_vae.sites import Batch, without_labels
from pyro_vae.vae import densities

pytestmark = pytest.mark.usefixtures("float64")

COPIES, REPEATS = 40, 40
"""Copies of each datum in a batch, each with its own draws; batches."""
SAMPLED = {"kl": "sampled", "num_particles": 2}
HIDDEN = {"y": pv.Label(classes=4, observed="partly", rule="guide", conditions=["decoder"])}
HIDDEN_SUM = {"y": pv.Label(classes=4, observed="partly", rule="sum", conditions=["decoder"])}
CASES = parts.CASES | {"M2, z shared": {"labels": HIDDEN}, "M2, summed, z shared": {"labels": HIDDEN_SUM}}


def gradient(loss, module, retain=False):
    leaves = list(module.parameters())
    found = torch.autograd.grad(loss, leaves, allow_unused=True, retain_graph=retain)
    pairs = zip(leaves, found, strict=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in pairs])


def copies(batch):
    return batch.map(lambda tensor: tensor.repeat_interleave(COPIES, 0))


def draws(loss, vae):
    """REPEATS gradients (REPEATS, parameters)."""
    return torch.stack([gradient(loss(), vae) for _ in range(REPEATS)])


def z_scores(a, b):
    error = ((a.var(0) + b.var(0)) / REPEATS).sqrt()
    keep = error > 1e-12
    assert keep.sum() > 100
    torch.testing.assert_close(a.mean(0)[~keep], b.mean(0)[~keep], rtol=1e-6, atol=1e-10)
    return (a.mean(0) - b.mean(0))[keep] / error[keep]


def agree(a, b):
    """Whether two sets of gradients have one mean: t with 78 degrees of freedom, some 1000 parameters."""
    z = z_scores(a, b)
    return bool(z.abs().max() < 6 and z.square().mean() < 2)


def plain(spec, vae, batch):
    module, weights = spec.build(vae), {name: torch.tensor(value) for name, value in spec.weights(0).items()}
    return lambda: module(batch, weights)[0]


def setting(name, size=3):
    """A small VAE whose guide is far from its posterior."""
    case = CASES[name]
    vae, batch = parts.vae(**case), parts.batch(case, size, known=0.5)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if batch.y is not None:
        batch = batch._replace(y=torch.tensor([0, -1, -1]))
    return vae, copies(batch)


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "ladder, missing pixels",
        "three layers bottom-up",
        "M2",
        "M2, labels summed",
        "M2, z shared",
        "M2, summed, z shared",
        "ladder, M2, missing pixels",
    ],
)
def test_dreg_is_unbiased_for_the_iwae(name):
    vae, batch = setting(name)
    a, b = (draws(plain(spec, vae, batch), vae) for spec in (IWAE(num_particles=4), DReG(num_particles=4)))
    assert agree(a, b), z_scores(a, b).abs().max()


@pytest.mark.parametrize(
    "name", ["plain", "ladder, missing pixels", "M2", "M2, z shared", "ladder, M2, missing pixels"]
)
def test_sticking_the_landing_is_unbiased_for_the_elbo(name):
    vae, batch = setting(name)
    a, b = (draws(plain(ELBO(gradient=g, **SAMPLED), vae, batch), vae) for g in ("plain", "stl"))
    assert agree(a, b), z_scores(a, b).abs().max()


@pytest.mark.parametrize("name", ["M2, labels summed", "M2, summed, z shared"])
def test_dreg_with_one_particle_stands_in_for_it_where_labels_are_summed(name):
    vae, batch = setting(name)
    a, b = (draws(plain(spec, vae, batch), vae) for spec in (ELBO(kl="sampled"), DReG(num_particles=1)))
    assert agree(a, b), z_scores(a, b).abs().max()


def landed_iwae(vae, batch, K):
    def loss():
        d = densities(vae, batch, K)
        d = held(vae, batch, d, {name: d.q[name].value for name in vae.variant.layers}, K)
        return -without_labels(d.log_w, d, batch, vae.variant.rule).logsumexp(0).mean()

    return loss


def test_sticking_the_landing_is_biased_for_several_particles():
    """What is refused on `iwae`; and the check above can fail."""
    vae, batch = setting("plain")
    assert not agree(draws(plain(IWAE(num_particles=4), vae, batch), vae), draws(landed_iwae(vae, batch, 4), vae))


def test_sticking_the_landing_is_biased_where_labels_are_summed():
    """What `misfits` refuses."""
    vae, batch = setting("M2, labels summed")
    assert not agree(draws(plain(ELBO(kl="sampled"), vae, batch), vae), draws(landed_iwae(vae, batch, 1), vae))


def test_no_variance_where_the_guide_is_exact():
    """Every w is p(x) then: the guide's gradient is 0 in every draw, where the plain one is not."""
    x, W, b, sigma = linear_gaussian(correlated=False)
    vae, batch = exact.linear_vae(W, b, sigma), Batch(x[:20])
    guide = torch.nn.ModuleList([vae.body, vae.heads])
    largest = {}
    for spec in (
        ELBO(gradient="stl", **SAMPLED),
        DReG(num_particles=3),
        ELBO(**SAMPLED),
        IWAE(num_particles=3),
        ReweightedWakeSleep(num_particles=3),
    ):
        largest[spec.kind, spec.tree().get("gradient")] = gradient(loss_of(spec, vae, batch)[0], guide).abs().max()
    assert largest.pop(("elbo", "stl")) < 1e-8
    assert largest.pop(("dreg", None)) < 1e-8
    assert len(largest) == 3
    assert all(value > 1e-3 for value in largest.values())


def test_dreg_varies_less():
    """The variance of the guide's gradient, summed over its parameters, at K = 64."""
    vae, batch = setting("plain")
    a, b = (draws(plain(spec, vae, batch), vae.heads) for spec in (IWAE(num_particles=64), DReG(num_particles=64)))
    assert b.var(0).sum() < 0.5 * a.var(0).sum()


# ------------------------------------------------------------------------------------------------------- brute force


def seeded(vae, batch, K, **how):
    torch.manual_seed(5)
    return densities(vae, batch, K, **how)


@pytest.mark.parametrize("name", ["plain", "plain, covariates", "M2", "M2, labels summed", "mixture", "conditional"])
def test_piwae_trains_each_half_by_its_own_bound(name):
    """The model by the IWAE of M K, the guide by the MIWAE: each half of the parameters as those objectives alone."""
    case = parts.CASES[name]
    vae, batch = parts.vae(**case), parts.batch(case)
    found, iwae, miwae = (
        {
            part: gradient(loss_of(spec, vae, batch)[0], getattr(vae, part))
            for part in ("likelihood", "priors", "body", "heads", "classifiers")
            if list(getattr(vae, part).parameters())
        }
        for spec in (
            IWAE(num_particles=3, groups=2, guide_gradient="miwae"),
            IWAE(num_particles=6),
            IWAE(num_particles=3, groups=2),
        )
    )
    for part, value in found.items():
        right, wrong = (iwae, miwae) if part in ("likelihood", "priors") else (miwae, iwae)
        torch.testing.assert_close(value, right[part])
        assert not torch.allclose(value, wrong[part])


def joint_rows(vae, batch, K):
    """Normalised weights (C K, B), log p and log q of the same detached draws (C K, B), q with its labels."""
    z = {name: seeded(vae, batch, K).q[name].value.detach() for name in vae.variant.layers}
    d = densities(vae, batch, K, z)
    log_q_z = sum(d.q[name].log_prob for name in vae.variant.layers)
    log_q_y = sum((d.q[name].log_prob for name in d.labels), torch.zeros(1))
    log_p = sum(site.log_prob for site in d.p.values())
    shape = (vae.variant.cells, K, batch.size)
    log_p, log_q_z, log_q_y = (value.expand(shape).flatten(0, 1) for value in (log_p, log_q_z, log_q_y))
    return (log_p - log_q_z).detach().softmax(0), log_p, log_q_z + log_q_y


@pytest.mark.parametrize(
    "name", ["plain", "ladder, missing pixels", "M2", "M2, labels summed", "mixture", "two label sites"]
)
def test_wake_phase(name):
    """Self-normalised weights over classes and particles, on constants; also where the guide reads the prior."""
    case = parts.CASES[name]
    vae, batch = parts.vae(**case), parts.batch(case)
    found = gradient(loss_of(ReweightedWakeSleep(num_particles=3), vae, batch)[0], vae)
    weights, log_p, log_q = joint_rows(vae, batch, 3)
    expected = gradient(-(weights * (log_p + log_q)).sum(0).mean(), vae)
    torch.testing.assert_close(found, expected)
    assert found.abs().max() > 1e-4


def test_wake_phase_of_the_model_is_the_iwae():
    """theta: the very gradient of the IWAE, whose draws do not move with theta."""
    vae, batch = parts.vae(), parts.batch({})
    a, b = (
        gradient(loss_of(spec(num_particles=5), vae, batch)[0], vae.likelihood) for spec in (IWAE, ReweightedWakeSleep)
    )
    torch.testing.assert_close(a, b)


def test_wake_phase_follows_the_inclusive_kl():
    """-E_p(z | x) log q(z | x): from the closed-form posterior, with many particles."""
    x, W, b, sigma = linear_gaussian(correlated=False)
    vae, batch = exact.linear_vae(W, b, sigma), Batch(x[:3])
    head = vae.heads["z"].raw.output
    with torch.no_grad():
        head.bias[:3] += 0.3
        head.bias[3:] += 0.2
    mean, precision = exact.posterior(x[:3], W, b, sigma)
    torch.manual_seed(1)
    z = dist.MultivariateNormal(mean, precision_matrix=precision).sample((200_000,))
    q = densities(vae, batch, 1).q["z"].fn
    expected = gradient(-q.log_prob(z).mean(), vae.heads)
    found = gradient(loss_of(ReweightedWakeSleep(num_particles=200_000), vae, batch)[0], vae.heads)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    assert expected.abs().max() > 0.2


@pytest.mark.parametrize("name", ["plain", "ladder, missing pixels", "M2", "M2, labels summed", "always and partly"])
def test_sleep_phase(name):
    """log q of what the model draws: the label and the latents that made x, the data's own labels forgotten."""
    case = parts.CASES[name]
    vae, batch = parts.vae(**case), parts.batch(case)
    module = ReweightedWakeSleep(num_particles=1, sleep=1.0).build(vae)
    torch.manual_seed(3)
    found = module._dream(batch)
    torch.manual_seed(3)
    given = batch.y if batch.y is None or batch.y.dim() == 1 else batch.y.clone()
    if name == "always and partly":
        given[:, 0] = -1
    elif given is not None:
        given = torch.full_like(given, -1)
    nodes = poutine.trace(vae.model).get_trace(Batch(None, given, None, batch.given, batch.size)).nodes
    x, y = nodes["x"]["value"].detach(), nodes["y"]["value"] if vae.variant.labels else None
    z = {layer: nodes[layer]["value"].detach() for layer in vae.variant.layers}
    # With the drawn label as a given one, the guide has one cell with probability 1 and the others with none.
    known = y if given is None or given.dim() == 1 else torch.stack([y, given[:, 1]], -1)
    d = densities(vae, Batch(x, known, batch.mask, batch.given), 1, z)
    expected = sum(d.q[layer].log_prob for layer in z)
    if y is not None:
        expected = (d.q["y"].log_prob.exp() * expected).sum(0)
        q_y = vae.classifiers["y"](vae.features(Batch(x, None, batch.mask, batch.given))) if vae.classifiers else None
        expected = expected + (q_y.log_prob(y) if q_y else -torch.tensor(4.0).log())
    torch.testing.assert_close(found, expected.reshape(-1))
    assert not list(gradient(found.mean(), vae.likelihood).nonzero()), "the model learns nothing from its own draws"
    assert gradient(module._dream(batch).mean(), vae.heads).abs().max() > 1e-6


def test_sleep_shares_the_guide_with_wake():
    vae, batch = parts.vae(), parts.batch({})
    a, b, c = (
        gradient(loss_of(ReweightedWakeSleep(num_particles=3, sleep=sleep), vae, batch)[0], vae)
        for sleep in (1e-12, 0.5, 1.0)
    )
    torch.testing.assert_close(b, 0.5 * (a + c))
    assert not torch.allclose(a, c)


# ------------------------------------------------------------------------------------------------------ classification


def test_classification_is_the_mean_over_labelled_data():
    case = parts.CASES["two label sites"]
    vae, batch = parts.vae(**case), parts.batch(case)
    log_q = vae.classifiers["y"](vae.features(batch)).logits.log_softmax(-1)
    known = [(b, int(y)) for b, y in enumerate(batch.y[:, 0]) if y >= 0]
    assert 0 < len(known) < batch.size
    expected = -sum(log_q[b, y] for b, y in known) / len(known)
    torch.testing.assert_close(surprise(vae, batch), expected)
    a, b = (loss_of(ELBO(classification=share), vae, batch)[0] for share in (0.0, 0.3))
    torch.testing.assert_close(b - a, 0.3 * expected)
    nothing = batch._replace(y=torch.full_like(batch.y, -1))
    assert surprise(vae, nothing).item() == 0
    assert gradient(surprise(vae, nothing), vae).abs().max() == 0


def test_classification_reaches_labelled_data_that_the_bound_does_not():
    """A known label is certain in the guide, so that without the term q(y | x) learns nothing from it."""
    case = parts.CASES["M2"]
    vae, batch = parts.vae(**case), parts.batch(case, known=1.0)
    for share, learns in ((0.0, False), (0.1, True)):
        g = gradient(loss_of(ELBO(classification=share), vae, batch)[0], vae.classifiers)
        assert bool((g != 0).any()) == learns


def test_plain_terms_hold_for_a_layer_without_parts():
    vae, batch = parts.vae(guide="point"), parts.batch({})
    d = densities(vae, batch)
    t = plain_terms(vae, d, batch)
    assert t.kl_per_dim == {}
    torch.testing.assert_close(t.kl_per_layer["z"], t.kl)
