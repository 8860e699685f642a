"""Priors: the distribution that they are, on every batch shape."""

import copy
import math
import pickle

import pyro
import pytest
import torch
from mc import assert_close_mc
from torch.distributions import MultivariateNormal, Normal

import pyro_vae as pv
from pyro_vae.diagnostics.importance import log_mean_exp
from pyro_vae.guides import DiagonalNormal
from pyro_vae.networks import MLP, Shape
from pyro_vae.priors import PRIORS, FlowPrior, LearnedNormal, Mixture, Prior, StandardNormal, Vamp
from pyro_vae.sites import Batch
from pyro_vae.vae import VAE, densities


@pytest.mark.usefixtures("float64")
def test_standard_normal_by_hand():
    p = StandardNormal().build(3, None, Shape((4,)))(None, None, None)
    z = torch.randn(7, 3)
    assert p.event_shape == (3,)
    torch.testing.assert_close(p.log_prob(z), -0.5 * (z.square().sum(-1) + 3 * math.log(2 * math.pi)))


def test_standard_normal_follows_dtype_and_device_and_stores_nothing():
    prior = StandardNormal().build(3, None, Shape((4,)))
    assert prior.state_dict() == {}
    assert list(prior.parameters()) == []
    assert prior.double()(None, None, None).sample().dtype == torch.float64
    with pyro.validation_enabled(False):  # a check reads its outcome
        assert prior.to("meta")(None, None, None).rsample((2,)).device.type == "meta"


def test_an_abstract_prior_builds_nothing():
    with pytest.raises(TypeError, match="Prior builds no prior"):
        Prior().build(2, None, Shape((4,)))


def moved(module, spread=0.3):
    """The module away from its start."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return module


def attached(spec, dim, shape):
    """A prior made of a guide, with its body and head."""
    prior, body = spec.build(dim, None, shape), moved(MLP(widths=[6], activation="tanh").body(shape))
    prior.attach(body, moved(DiagonalNormal().head(body.features, None, dim, shape)))
    return prior


# ------------------------------------------------------------------------------------------------------------- normal


@pytest.mark.usefixtures("float64")
def test_learned_normal_by_hand():
    """With nothing to condition on, one normal; with labels, one for each class."""
    p = LearnedNormal().build(2, None, Shape((4,)))
    assert torch.equal(p(None, None, None).stddev, torch.ones(2)), "starts at N(0, I)"
    with torch.no_grad():
        p.raw.constant.copy_(torch.tensor([1.0, -2.0, 2 * math.log(0.5), 2 * math.log(3)]))
    z = torch.randn(7, 2)
    expected = Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])).log_prob(z).sum(-1)
    torch.testing.assert_close(p(None, None, None).log_prob(z), expected)
    p, y = LearnedNormal().build(2, None, Shape((4,), y=3)), torch.eye(3)[:, None, None]
    q = p(None, y, None)
    assert q.batch_shape == (3, 1, 1)
    torch.testing.assert_close(q.mean[:, 0, 0], p.raw.output.weight.T[:, :2] + p.raw.output.bias[:2])


@pytest.mark.parametrize("spec", [LearnedNormal(), LearnedNormal(widths=[5]), FlowPrior(widths=[8])], ids=repr)
def test_each_condition_is_used(spec):
    prior = moved(spec.build(3, 2, Shape((4,), y=3, given=1)))
    above, y, given = torch.randn(4, 6, 2), torch.eye(3)[:, None, None], torch.randn(6, 1)
    for condition in (above, y, given):
        condition.requires_grad_()
    p = prior(above, y, given)
    assert p.batch_shape == (3, 4, 6)
    for gradient in torch.autograd.grad(p.log_prob(torch.randn(3, 4, 6, 3)).sum(), (above, y, given)):
        assert (gradient != 0).any(-1).all()


# ------------------------------------------------------------------------------------------------------------ mixture


@pytest.mark.usefixtures("float64")
def test_mixture_is_the_sum_of_its_components():
    prior = moved(Mixture(components=4).build(2, None, Shape((4,), y=3, given=1)))
    y, given, z = torch.eye(3)[:, None, None], torch.randn(6, 1), torch.randn(3, 5, 6, 2)
    found = prior(None, y, given).log_prob(z)
    assert found.shape == (3, 5, 6)
    for c, b in ((0, 0), (2, 5)):
        condition = torch.cat([y[c, 0, 0], given[b]])
        weights = (prior.logits + prior.weigh.weight @ condition).softmax(-1)
        total = sum(
            weights[k]
            * MultivariateNormal(prior.loc[k] + prior.shift.weight @ condition, torch.diag(prior.log_variance[k].exp()))
            .log_prob(z[c, :, b])
            .exp()
            for k in range(4)
        )
        torch.testing.assert_close(found[c, :, b], total.log())


def test_fixed_mixture_stays_where_its_seed_put_it():
    first, again, other = (Mixture(learned=False, seed=s).build(3, None, Shape((4,))) for s in (1, 1, 2))
    assert torch.equal(first.loc, again.loc)
    assert not torch.equal(first.loc, other.loc)
    assert [name for name, _ in first.named_parameters()] == ["logits"]
    other.load_state_dict(first.state_dict())
    assert torch.equal(first.loc, other.loc)
    wide = Mixture(learned=False, spread=5.0, components=2000).build(3, None, Shape((4,)))
    assert wide.loc.std().item() == pytest.approx(5, rel=0.05)


# --------------------------------------------------------------------------------------------------------------- vamp


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("given", [0, 2])
def test_vamp_is_the_mean_of_the_guides_own(given):
    shape = Shape((4,), y=3, given=given, masked=True)
    prior = attached(Vamp(components=5), 2, shape)
    body, head = prior.encoder
    y, z = torch.eye(3)[:, None, None], torch.randn(3, 7, 6, 2)
    found = prior(None, y, torch.randn(6, given) if given else None).log_prob(z)
    for c in range(3):
        each = []
        for k in range(5):
            own = prior.given[k : k + 1] if given else None
            h = body(prior.u[k : k + 1], torch.ones(1, 4, dtype=torch.bool), own)
            each.append(head(h, None, y[c, 0], None, None).log_prob(z[c]))
        torch.testing.assert_close(found[c], torch.stack(each).logsumexp(0) - math.log(5))


def vamp_vae(**parts):
    network = {"widths": [8], "activation": "tanh"}
    declared = {"latent": {"dim": 2}, "prior": {"kind": "vamp", "components": 5}, "likelihood": "bernoulli"}
    return VAE(pv.Variant(**(declared | {"encoder": network, "decoder": network} | parts)), (6,))


def test_vamp_shares_the_guides_parameters():
    """Listed once, trained through both, and still shared by a copy."""
    vae = vamp_vae()
    names = [name for name, _ in vae.named_parameters()]
    assert [name for name in names if name.startswith("priors")] == ["priors.z.u"]
    d = densities(vae, Batch(torch.rand(4, 6).round()), 2)
    for parameter in (vae.priors["z"].u, vae.heads["z"].raw.output.weight, next(vae.body.parameters())):
        (gradient,) = torch.autograd.grad(d.p["z"].log_prob.sum(), parameter, retain_graph=True)
        assert (gradient != 0).any()
    for twin in (copy.deepcopy(vae), pickle.loads(pickle.dumps(vae))):
        assert twin.priors["z"].encoder[0] is twin.body
        assert twin.priors["z"].encoder[1] is twin.heads["z"]
        assert twin.body is not vae.body


def test_vamp_starts_at_the_data():
    x = torch.rand(8, 4)
    x[3, 1] = torch.nan
    whole = torch.where(x.isnan(), x.nanmean(0), x)
    few, many, random = (
        Vamp(components=K, start=start).build(2, None, Shape((4,)))
        for K, start in ((5, "data"), (20, "data"), (4000, "random"))
    )
    for prior in (few, many, random):
        prior.initialise(x)
        assert torch.isfinite(prior.u).all()
    distance = (few.u[:, None] - whole).abs().amax(-1)
    assert torch.equal(distance.amin(1), torch.zeros(5))
    assert len(distance.argmin(1).unique()) == 5, "no datum twice"
    assert len(many.u.unique(dim=0)) == 20, "more than there are data, and none the same"
    assert (many.u[:, None] - whole).abs().amax(-1).amin(1).max() < 0.3
    torch.testing.assert_close(random.u.mean(0), whole.mean(0), rtol=0.0, atol=0.05)
    torch.testing.assert_close(random.u.std(0), whole.std(0, correction=0), rtol=0.1, atol=0.0)


TWO = {"latent": [{"dim": 2}, {"dim": 2}], "prior": ["normal", "vamp"]}


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"guide": "point"}, "is no density"),
        ({"guide": {"kind": "ladder", "top": "combined"}}, "needs more than x"),
        ({"guide": "bottom_up_normal"} | TWO, r"prior\[1\]='vamp'.*needs more than x"),
        ({"guide": "ladder", "prior": ["flow", "standard_normal"], "latent": TWO["latent"]}, "and this is none"),
    ],
)
def test_guides_that_do_not_fit_are_refused(parts, words):
    with pytest.raises(pv.DeclarationError, match=words):
        vamp_vae(**parts)


@pytest.mark.parametrize("parts", [TWO, {"guide": "ladder"} | TWO, {"guide": "ladder"}, {"guide": "bottom_up_normal"}])
def test_guides_that_fit_are_not(parts):
    assert densities(vamp_vae(**parts), Batch(torch.rand(4, 6).round()), 3).log_w.shape == (3, 4)


# --------------------------------------------------------------------------------------------------------- all priors

SMALL = {"flow": {"widths": [6]}, "vamp": {"components": 5}}
CONTINUOUS = {word: part for word, part in PRIORS.items() if not part.simplex}  # test_discrete.py has the others
each_prior = pytest.mark.parametrize(
    "spec", [part(**SMALL.get(word, {})) for word, part in CONTINUOUS.items()], ids=CONTINUOUS
)


def built(spec, dim, shape=None):
    shape = shape or Shape((4,))
    return attached(spec, dim, shape) if spec.of_guide else moved(spec.build(dim, None, shape), 0.2)


@pytest.mark.usefixtures("float64")
@each_prior
def test_integrates_to_one(spec):
    z = torch.linspace(-15, 15, 20001)
    with torch.no_grad():
        density = built(spec, 1)(None, None, None).log_prob(z[:, None]).exp()
        assert torch.trapezoid(density, z).item() == pytest.approx(1, abs=1e-5)
        z = torch.linspace(-10, 10, 301)
        density = built(spec, 2)(None, None, None).log_prob(torch.cartesian_prod(z, z)).exp().reshape(301, 301)
        assert torch.trapezoid(torch.trapezoid(density, z), z).item() == pytest.approx(1, abs=3e-3)


@each_prior
def test_lower_precision(spec):
    prior = built(spec, 3, Shape((4,), y=2))
    with torch.autocast("cpu", torch.bfloat16):
        p = prior(None, torch.eye(2), None)
        z = p.sample()
        assert z.dtype == p.log_prob(z).dtype == torch.float32
        assert torch.isfinite(p.log_prob(z)).all()


@pytest.mark.usefixtures("float64")
@each_prior
def test_evidence_under_a_linear_decoder(spec):
    """Importance-sampled log p(x), x = z w + b + sigma eps, against quadrature over a single z."""
    x, w, b, sigma = torch.randn(5, 3), torch.tensor([0.8, -1.2, 0.5]), torch.tensor([0.1, 0.2, -0.3]), 0.7
    linear = {"widths": []}
    declared = pv.Variant(
        latent={"dim": 1}, prior=spec, likelihood={"kind": "normal", "scale": sigma}, encoder=linear, decoder=linear
    )
    vae = moved(VAE(declared, (3,)).double(), 0.2)
    vae.likelihood.scale = torch.tensor(sigma)
    with torch.no_grad():
        vae.likelihood.decoded.network.output.weight.copy_(w[:, None])
        vae.likelihood.decoded.network.output.bias.copy_(b)
        vae.heads["z"].raw.output.weight.mul_(0.3)
        vae.heads["z"].raw.output.bias[1] = 2 * math.log(1.5)  # wide
        z = torch.linspace(-15, 15, 6001)[:, None]
        log_p = (
            vae.priors["z"](None, None, None).log_prob(z)[:, None]
            + Normal(z * w + b, sigma).log_prob(x[:, None]).sum(-1).T
        )
        exact = torch.trapezoid(log_p.exp(), z[:, 0], dim=0).log()
        log_w = densities(vae, Batch(x), 20_000).log_w
    error = (log_w - log_w.amax(0)).exp()
    error = error.std(0) / error.mean(0) / math.sqrt(20_000)
    assert error.max() < 0.05
    assert_close_mc(log_mean_exp(log_w, 0), exact, error)


@pytest.mark.usefixtures("float64")
def test_evidence_under_a_mixture_is_a_mixture():
    """log p(x) = log sum_k pi_k N(x; W mu_k + b, W S_k W' + sigma^2 I)."""
    x, W, b, sigma = torch.randn(5, 4), torch.randn(4, 2), torch.randn(4), 0.8
    prior = moved(Mixture(components=3).build(2, None, Shape((4,))), 0.5)
    z = prior(None, None, None).sample((200_000,))
    with torch.no_grad():
        each = [
            MultivariateNormal(
                prior.loc[k] @ W.T + b, W @ torch.diag(prior.log_variance[k].exp()) @ W.T + sigma**2 * torch.eye(4)
            ).log_prob(x)
            for k in range(3)
        ]
        exact = (torch.stack(each, -1) + prior.logits.log_softmax(-1)).logsumexp(-1)
        p = Normal((z @ W.T + b)[:, None], sigma).log_prob(x).sum(-1).exp()
    assert_close_mc(p.mean(0), exact.exp(), p.std(0) / math.sqrt(len(z)))
