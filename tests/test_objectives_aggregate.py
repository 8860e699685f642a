"""Regularisers of the aggregate posterior: against brute force over the data, quadrature and closed forms."""

import itertools
import math

import parts
import pyro.distributions as dist
import pytest
import torch
from mc import assert_close_mc
from test_objectives_bounds import loss_of
from test_objectives_gradients import gradient

import pyro_vae as pv
from pyro_vae.objectives import ELBO, MMD, BetaTC, Factor
from pyro_vae.objectives.aggregate import log_shares, mmd, top_draws
from pyro_vae.vae import densities

pytestmark = pytest.mark.usefixtures("float64")

HIDDEN = {"y": pv.Label(classes=4, observed="partly", rule="guide", conditions=["decoder"])}
CASES = parts.CASES | {"M2, z shared": {"labels": HIDDEN}}
SMALL = Factor(widths=[16])


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    return request.param


def drawn(vae, batch, seed=5):
    torch.manual_seed(seed)
    d = densities(vae, batch)
    return d, top_draws(vae, d)


# -------------------------------------------------------------------------------------------------------- the one draw


def test_draws_are_those_of_the_top_layer(case):
    vae, batch = parts.vae(**case), parts.batch(case)
    d, draws = drawn(vae, batch)
    assert draws.site == list(vae.variant.layers)[-1]
    assert draws.z.shape == (batch.size, list(vae.variant.layers.values())[-1])
    values = d.q[draws.site].value
    for b in range(batch.size):
        if draws.drawn is None or values.dim() == 3:
            assert torch.equal(draws.z[b], values[0, b])
        else:
            assert torch.equal(draws.z[b], values[int(draws.drawn[:, 0, b].argmax()), 0, b])


@pytest.mark.parametrize("rule", ["guide", "sum"])
def test_classes_are_drawn_by_their_weights(rule):
    case = {"labels": {"y": parts.label(rule=rule)}}
    vae, batch, S = parts.vae(**case), parts.batch(case, 3), 4000
    batch = batch._replace(y=torch.tensor([2, -1, -1]))
    many = batch.map(lambda tensor: tensor.repeat_interleave(S, 0))
    d, draws = drawn(vae, many)
    counts = draws.drawn.view(4, 3, S).mean(-1)
    pi = draws.pi.view(4, 3, S)
    assert_close_mc(counts, pi.mean(-1), ((pi * (1 - pi)).mean(-1) / S).sqrt())
    torch.testing.assert_close(draws.pi.sum(0), torch.ones_like(draws.pi[0]))
    assert counts[:, 0].tolist() == [0, 0, 1, 0]
    assert counts[:, 1:].min() > 0.01


# --------------------------------------------------------------------------------------------------- total correlation


def posterior(d, draws, j, c):
    """q(z_d | x_j, y_c) of each dimension."""
    base = d.q[draws.site].fn.base_dist
    at = (c, 0, j) if base.loc.dim() == 4 else (0, j)
    return dist.Normal(base.loc[at], base.scale[at])


def brute_force(d, draws, shares):
    """I, TC, sum_d KL_d of each datum's draw, in loops over draws, data and classes."""
    B, D = draws.z.shape
    C = 1 if draws.pi is None else len(draws.pi)
    found = []
    for i in range(B):
        joint, marginal, own = 0.0, torch.zeros(D), None
        for j in range(B):
            cells = [(1.0 if draws.pi is None else draws.pi[c, 0, j], posterior(d, draws, j, c)) for c in range(C)]
            p = sum(pi * q.log_prob(draws.z[i]).sum().exp() for pi, q in cells)
            joint = joint + shares[i, j] * p
            marginal = marginal + shares[i, j] * sum(pi * q.log_prob(draws.z[i]).exp() for pi, q in cells)
            own = p if i == j else own
        log_p = d.p[draws.site].log_prob.expand(C, 1, B)[:, 0, i]
        log_p = log_p[0 if draws.drawn is None else int(draws.drawn[:, 0, i].argmax())]
        total = marginal.log().sum()
        found.append(torch.stack([own.log() - joint.log(), joint.log() - total, total - log_p]))
    return torch.stack(found).mean(0)


def test_beta_tc_is_brute_force_over_all_data(case):
    """The batch is the data set: q(z) is the mean of all N posteriors, exactly."""
    vae, batch = parts.vae(**case), parts.batch(case, 6)
    weights = {"alpha": 0.5, "beta": 7.0, "gamma": 2.0}
    loss, terms = loss_of(BetaTC(**weights), vae, batch)
    d, draws = drawn(vae, batch)
    parts_of_kl = brute_force(d, draws, torch.full((6, 6), 1 / 6))
    expected = sum((w - 1) * part for w, part in zip(weights.values(), parts_of_kl, strict=True)) - terms.elbo.mean()
    torch.testing.assert_close(loss, expected)


def test_weights_of_one_are_the_elbo(case):
    vae, batch = parts.vae(**case), parts.batch(case)
    loss, terms = loss_of(BetaTC(alpha=1.0, beta=1.0, gamma=1.0), vae, batch)
    expected, plain = loss_of(ELBO(), vae, batch)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(terms, plain)
    assert not BetaTC.bound


def test_the_three_parts_make_the_kl():
    vae, batch = parts.vae(), parts.batch({})
    d, draws = drawn(vae, batch)
    parts_of_kl = brute_force(d, draws, torch.full((12, 12), 1 / 12))
    torch.testing.assert_close(parts_of_kl.sum(), (d.q["z"].log_prob - d.p["z"].log_prob).mean())


@pytest.mark.parametrize("N", [7, 50_000])
def test_the_number_of_data_enters(N):
    vae, batch = parts.vae(), parts.batch({}, 5)
    for estimator in ("stratified", "weighted"):
        spec = BetaTC(estimator=estimator)
        torch.manual_seed(5)
        loss, terms = spec.build(vae, num_data=N)(batch, {})
        shares = torch.full((5, 5), 1 / (N * 5))
        if estimator == "stratified":
            shares = torch.full((5, 5), (N - 1) / N / 4).fill_diagonal_(1 / N)
        _, tc, _ = brute_force(*drawn(vae, batch), shares)
        torch.testing.assert_close(loss, 5 * tc - terms.elbo.mean())


def test_stratified_shares_are_unbiased():
    """Over every batch that holds datum i, the estimate of q(z_i) has q(z_i) as its mean, exactly."""
    N, B = 6, 3
    p = torch.rand(N)  # q(z_0 | x_j), any numbers
    batches = [(0, *rest) for rest in itertools.combinations(range(1, N), B - 1)]
    shares = log_shares(B, N, "stratified", torch.zeros(B, B)).exp()
    found = torch.stack([shares[0] @ p[list(batch)] for batch in batches])
    torch.testing.assert_close(found.mean(), p.mean())
    torch.testing.assert_close(shares.sum(1), torch.ones(B))
    wrong = log_shares(B, N, "weighted", torch.zeros(B, B)).exp()
    assert abs(torch.stack([wrong[0] @ p[list(batch)] for batch in batches]).mean() - p.mean()) > 0.1
    torch.testing.assert_close(log_shares(N, N, "stratified", torch.zeros(N, N)).exp(), torch.full((N, N), 1 / N))


def test_weighted_is_too_high_by_a_constant():
    vae, batch = parts.vae(), parts.batch({}, 6)
    a, b = (loss_of(BetaTC(beta=2.0, estimator=name), vae, batch)[0] for name in ("stratified", "weighted"))
    torch.testing.assert_close(b - a, torch.tensor((5 - 1) * math.log(6)))


def test_total_correlation_by_quadrature():
    """TC of the mixture of N posteriors on a grid in two dimensions."""
    vae, batch, S = parts.vae(latent=(2,)), parts.batch({}, 4), 600
    with torch.no_grad():
        vae.heads["z"].raw.output.weight[:2] *= 3
    q = densities(vae, batch).q["z"].fn.base_dist
    line = torch.linspace(-14, 14, 800)
    by_dim = q.log_prob(line[:, None, None, None].expand(-1, 1, 4, 2)).exp()[:, 0]  # (grid, N, D)
    joint = torch.einsum("ajk,bjl->abjkl", by_dim[..., :1], by_dim[..., 1:]).mean(2)[..., 0, 0]
    marginals = by_dim.mean(1)
    ratio = joint * (joint / (marginals[:, None, 0] * marginals[None, :, 1])).clamp(min=1e-300).log()
    truth = ratio.sum() * (line[1] - line[0]) ** 2
    module, elbo = BetaTC(beta=2.0).build(vae), ELBO().build(vae)
    with torch.no_grad():
        found = torch.stack([module(batch, {})[0] + t.elbo.mean() for _ in range(S) for t in [_terms(elbo, batch)]])
    assert truth > 0.05
    assert_close_mc(found.mean(), truth, found.std() / math.sqrt(S))


def _terms(elbo, batch):
    """The terms of the draws that come next, which are left for the next one."""
    state = torch.get_rng_state()
    terms = elbo(batch, {"beta": torch.tensor(1.0)})[1]
    torch.set_rng_state(state)
    return terms


def test_beta_tc_needs_a_density_for_each_dimension():
    class Joint(parts.LadderHead):
        def forward(self, h, neighbour, y, p, offset):
            mu, s = self.raw(h, None, y, offset).chunk(2, -1)
            return dist.MultivariateNormal(mu, torch.diag_embed(s.exp()))

    vae = parts.vae()
    vae.heads["z"] = Joint(vae.heads["z"].raw)
    with pytest.raises(pv.DeclarationError, match="density of its own for each dimension"):
        loss_of(BetaTC(), vae, parts.batch({}))


# ------------------------------------------------------------------------------------------------------------------ MMD


@pytest.mark.parametrize("kernel", ["rbf", "imq"])
def test_mmd_in_loops(kernel):
    z, u, c = torch.randn(5, 3), 2 * torch.randn(5, 3) + 1, 2 * 3 * 0.7**2

    def k(a, b):
        r2 = ((a - b) ** 2).sum()
        return torch.exp(-r2 / c) if kernel == "rbf" else c / (c + r2)

    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    expected = sum(k(z[i], z[j]) + k(u[i], u[j]) for i, j in pairs) / 20
    expected -= 2 * sum(k(z[i], u[j]) for i in range(5) for j in range(5)) / 25
    torch.testing.assert_close(mmd(z, u, kernel, 0.7), expected)


@pytest.mark.parametrize("shift", [0.0, 0.8])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_mmd_is_unbiased(shift, scale):
    """The kernel's means are known for normal samples: E exp(-r^2 / c), r ~ N(m, v I)."""
    B, D, S, c = 4, 3, 20_000, 2 * 3 * 1.5**2

    def mean(m, v):
        return math.exp(-D * m**2 / (c + 2 * v)) / (1 + 2 * v / c) ** (D / 2)

    truth = mean(0, 2 * scale**2) + mean(0, 2) - 2 * mean(shift, 1 + scale**2)
    z, u = shift + scale * torch.randn(S, B, D), torch.randn(S, B, D)
    found = torch.vmap(lambda a, b: mmd(a, b, "rbf", 1.5))(z, u)
    assert_close_mc(found.mean(), truth, found.std() / math.sqrt(S))
    if shift == 0.0 and scale == 1.0:
        assert abs(truth) < 1e-12
        assert found.min() < 0, "a biased estimate would never be negative"


def test_mmd_takes_its_place_in_the_loss(case):
    """-loss = reconstruction - (1 - alpha) KL - (alpha + lambda - 1) MMD^2, on the same draws."""
    vae, batch = parts.vae(**case), parts.batch(case)
    fields = {"alpha": 0.25, "kernel": "imq"}
    nothing, terms = loss_of(MMD(strength=0.75, **fields), vae, batch)
    torch.testing.assert_close(nothing, (0.75 * terms.kl - terms.reconstruction).mean())
    one, same = (loss_of(MMD(strength=s, **fields), vae, batch)[0] for s in (1.75, 1.75))
    distance = one - nothing
    assert torch.equal(one, same)
    torch.testing.assert_close(loss_of(MMD(strength=3.75, **fields), vae, batch)[0] - nothing, 3 * distance)
    _, draws = drawn(vae, batch)
    u = vae.priors[draws.site](None, None, None).expand((batch.size,)).rsample()
    torch.testing.assert_close(distance, mmd(draws.z, u, "imq", 1.0))
    g = gradient(distance, vae.heads)
    assert torch.isfinite(g).all()
    assert g.abs().max() > 1e-8
    assert not MMD.bound


def test_mmd_sees_the_prior_of_the_class():
    """Draws of p(z | y) at the class that z was drawn with."""
    case = {"labels": {"y": parts.label("always", "sum")}}
    vae, batch = parts.vae(**case), parts.batch(case, 400)

    class ByClass(torch.nn.Module):
        def forward(self, above, y, given):
            return dist.Normal(100.0 * y.argmax(-1, keepdim=True).to(y.dtype).expand(*y.shape[:-1], 5), 1.0).to_event(1)

    vae.priors["z"] = ByClass()
    with torch.no_grad():
        vae.heads["z"].raw.output.weight.zero_()
        vae.heads["z"].raw.output.bias[5:] = 0.0
    plain = MMD(strength=1.0, kernel="imq", bandwidth=20.0)
    loss, terms = loss_of(plain, vae, batch)
    torch.manual_seed(5)
    z = densities(vae, batch).q["z"].value[0]
    u = 100.0 * batch.y[:, None] + torch.randn(400, 5)  # these very draws, as the loss makes them
    torch.testing.assert_close(loss - (terms.kl - terms.reconstruction).mean(), 0.0 * loss)
    loss, _ = loss_of(plain.replace(strength=2.0), vae, batch)
    torch.testing.assert_close(loss - (terms.kl - terms.reconstruction).mean(), mmd(z, u, "imq", 20.0))


# --------------------------------------------------------------------------------------------------------------- factor


def test_factor_keeps_the_two_trainings_apart(case):
    """The VAE's gradient is that of -ELBO + gamma r with r held; the discriminator's that of the cross-entropy."""
    vae, batch = parts.vae(**case), parts.batch(case)
    torch.manual_seed(1)
    module = SMALL.build(vae)
    torch.manual_seed(5)
    loss, terms = module(batch, {})
    _, draws = drawn(vae, batch)
    expected = gradient(module.cross_entropy(draws.z.detach()), module.discriminator)
    torch.testing.assert_close(gradient(loss, module.discriminator, retain=True), expected)
    assert expected.abs().max() > 1e-6
    for parameter in module.discriminator.parameters():
        parameter.requires_grad_(False)
    torch.manual_seed(5)
    elbo = ELBO().build(vae)(batch, {"beta": torch.tensor(1.0)})[1].elbo
    _, draws = drawn(vae, batch)
    value = SMALL.gamma * module.discriminator(draws.z).mean() - elbo.mean()
    torch.testing.assert_close(loss, value)
    torch.testing.assert_close(gradient(loss, vae), gradient(value, vae))


def test_factor_learns_the_total_correlation():
    """r goes to log q(z) / prod_d q(z_d): for correlated normals TC = -log(1 - rho^2) / 2."""
    rho = 0.8
    module = Factor(widths=[32, 32], activation="elu").build(parts.vae(latent=(2,)))
    optimizer = torch.optim.Adam(module.discriminator.parameters(), 1e-2)
    q = dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, rho], [rho, 1.0]]))
    for _ in range(400):
        optimizer.zero_grad()
        module.cross_entropy(q.sample((400,))).backward()
        optimizer.step()
    found = module.discriminator(q.sample((50_000,))).mean().item()
    assert found == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.08)


def test_factor_names_its_learning_rate():
    module = SMALL.build(parts.vae())
    ((prefix, factor),) = SMALL.replace(discriminator_learning_rate=0.1).learning_rates().items()
    named = [name for name, _ in module.named_parameters() if name.startswith(prefix)]
    assert factor == 0.1
    assert len(named) == len(list(module.discriminator.parameters())) == 4
    assert all(part().learning_rates() == {} for part in pv.OBJECTIVES.values() if part is not Factor)


def test_a_batch_of_one(case):
    """The last batch of a validation can be a single datum."""
    vae, batch = parts.vae(**case), parts.batch(case, 1)
    for spec in (BetaTC(), MMD(), SMALL):
        assert torch.isfinite(loss_of(spec, vae, batch)[0])
