"""Draws, codes and samples on every kind of variant."""

import math

import parts
import pytest
import torch
from mc import assert_close_mc

import pyro_vae as pv
from pyro_vae import latent
from pyro_vae.latent import (
    chunks,
    data_per_chunk,
    draw_latents,
    draw_posterior,
    draw_prior,
    encode,
    particles_per_chunk,
    sample,
)
from pyro_vae.objectives import ELBO
from pyro_vae.sites import Batch, label_weights
from pyro_vae.vae import densities

pytestmark = pytest.mark.usefixtures("float64")
S = 4000
M2 = [name for name, case in parts.CASES.items() if case.get("labels")]


@pytest.fixture(params=parts.CASES.values(), ids=parts.CASES.keys())
def case(request):
    return request.param


def build(case):
    """A VAE whose guide tells the labels apart, so that a wrong weighting shows."""
    vae = parts.vae(**case).eval()
    with torch.no_grad():
        for p in vae.heads.parameters():
            p.mul_(1.5)
    return vae


def standard_error(values):
    return values.std(0) / math.sqrt(len(values))


def generator(vae, size):
    """Labels and covariates to generate with, where the variant has them."""
    sites = vae.variant.labels.values()
    y = torch.stack([torch.randint(0, site.classes, (size,)) for site in sites], -1) if sites else None
    return y, torch.randn(size, vae.shape.given) if vae.shape.given else None


# ---------------------------------------------------------------------------------------------------------- posterior


def test_draws_have_the_promised_shapes(case):
    vae, batch = build(case), parts.batch(case, 6)
    draws = draw_posterior(vae, batch, 7)
    for name, dim in vae.variant.layers.items():
        assert draws.z[name].shape == (7, 6, dim)
    assert draws.y.keys() == vae.variant.missing.keys()
    for name, y in draws.y.items():
        assert y.shape == (7, 6)
        assert y.dtype == torch.int64
        assert ((y >= 0) & (y < vae.variant.labels[name].classes)).all()
    assert draws.log_p.shape == draws.log_q.shape == (7, 6)
    assert draws.x.shape == draws.x_mean.shape == (7, 6, parts.X)
    for value in (draws.log_p, draws.log_q, draws.x, draws.x_mean, *draws.z.values()):
        assert torch.isfinite(value).all()
        assert not value.requires_grad
    assert (draws.log_p > -1e6).all(), "no draw contradicts a known label"
    assert ((draws.x == 0) | (draws.x == 1)).all()
    assert ((draws.x_mean > 0) & (draws.x_mean < 1)).all()


@pytest.mark.parametrize("name", M2)
def test_known_labels_are_what_they_are(name):
    case = parts.CASES[name]
    vae, batch = build(case), parts.batch(case, 30)
    draws = draw_posterior(vae, batch, 5)
    columns = batch.y.reshape(30, -1).unbind(-1)
    for site, known in zip(vae.variant.labels, columns, strict=True):
        if vae.variant.labels[site].observed == "partly":
            expected = known.expand(5, -1)
            assert torch.equal(draws.y[site][expected >= 0], expected[expected >= 0])
            assert len(draws.y[site][expected < 0].unique()) == vae.variant.labels[site].classes, "missing ones vary"


def test_draws_are_scored_as_the_densities_score_them(case):
    """log p(x, y, z), log q and E[x | z, y] of each draw, from its own z and y, given as if they were known."""
    vae, batch = build(case), parts.batch(case, 6)
    draws = draw_posterior(vae, batch, 5)
    sites = vae.variant.labels
    columns = dict(zip(sites, batch.y.reshape(6, -1).unbind(-1), strict=True)) if sites else {}
    # Every label of a draw as data; `never` becomes `partly`, so that the VAE takes it.
    labels = {name: site.replace(observed="partly" if name in draws.y else "always") for name, site in sites.items()}
    for s in range(5):
        y = [draws.y[name][s] if name in draws.y else column for name, column in columns.items()]
        known = parts.vae(**case | {"labels": labels}).eval()
        known.load_state_dict(vae.state_dict())
        d = densities(
            known,
            batch._replace(y=torch.stack(y, -1) if y else None),
            latents={name: z[s] for name, z in draws.z.items()},
        )
        log_p, log_q = (sum(site.log_prob for site in side.values()) for side in (d.p, d.q))
        log_q = sum(d.q[name].log_prob for name in vae.variant.layers)
        x_mean = d.p["x"].fn.base_dist.mean
        if d.labels:
            cell = label_weights(d.log_w, d, "sum").argmax(0)[0]
            at = (cell, 0, torch.arange(6))
            full = len(label_weights(d.log_w, d, "sum"))
            log_p, log_q = log_p.expand(full, 1, 6)[at], log_q.expand(full, 1, 6)[at]
            x_mean = x_mean.expand(full, 1, 6, parts.X)[at]
            if vae.variant.rule == "guide":
                own = densities(vae, batch).q
                log_y = sum(own[name].log_prob for name in d.labels).expand(full, 1, 6)[at]
                torch.testing.assert_close(draws.log_q[s], log_q + log_y)
        else:
            log_p, log_q, x_mean = log_p[0], log_q[0], x_mean[0]
            torch.testing.assert_close(draws.log_q[s], log_q)
        torch.testing.assert_close(draws.log_p[s], log_p)
        torch.testing.assert_close(draws.x_mean[s], x_mean)


@pytest.mark.parametrize("name", [name for name in parts.CASES if "summed" not in name and name != "mixture"])
def test_mean_of_log_p_minus_log_q_is_the_elbo(name):
    """Draws of (y, z) jointly under rule `guide`: their log w has the ELBO for its mean, also of an M2."""
    case = parts.CASES[name]
    vae, batch = build(case), parts.batch(case, 6)
    draws = draw_posterior(vae, batch, S)
    with torch.no_grad():
        objective, weights = ELBO(kl="sampled").build(vae), {"beta": torch.tensor(1.0)}
        elbo = torch.stack([objective(batch, weights)[1].elbo for _ in range(400)])
    log_w = draws.log_p - draws.log_q
    error = (standard_error(log_w).square() + standard_error(elbo).square()).sqrt()
    assert_close_mc(log_w.mean(0), elbo.mean(0), error)


def test_missing_labels_are_drawn_from_the_guide():
    case = parts.CASES["M2"]
    vae, batch = build(case), parts.batch(case, 6, known=0.0)
    y = draw_posterior(vae, batch, S).y["y"]
    probs = vae.classifiers["y"](vae.body(batch.x)).probs
    assert probs.std(0).max() > 0.02, "so that data differ"
    for c in range(4):
        hit = (y == c).double()
        assert_close_mc(hit.mean(0), probs[:, c], (probs[:, c] * (1 - probs[:, c]) / S).sqrt())


@pytest.mark.parametrize("name", ["M2, labels summed", "mixture"])
def test_missing_labels_are_drawn_by_the_weights(name):
    """p(y | x) = p(x, y) / p(x), each by importance sampling: of enough draws, the same in two runs."""
    case = parts.CASES[name]
    vae, batch = build(case), parts.batch(case, 4, known=0.0)
    draws = draw_posterior(vae, batch, S)
    with torch.no_grad():
        log_w = densities(vae, batch, 20_000).log_w
    probs = log_w.logsumexp(1).softmax(0)
    relative = (log_w - log_w.amax(1, keepdim=True)).exp()
    error = relative.std(1) / relative.mean(1) * (1 / S + 1 / 20_000) ** 0.5
    for c in range(len(probs)):
        hit = (draws.y["y"] == c).double().mean(0)
        assert_close_mc(hit, probs[c], (probs[c] * (1 - probs[c]) / S + (probs[c] * error.amax(0)) ** 2).sqrt())


def test_replicates_are_drawn_from_their_mean(case):
    vae, batch = build(case), parts.batch(case, 3)
    draws = draw_posterior(vae, batch, S)
    difference = draws.x - draws.x_mean
    assert_close_mc(difference.mean(0), 0.0, standard_error(difference))


# -------------------------------------------------------------------------------------------------------------- codes


def test_codes_are_the_moments_of_many_draws(case):
    vae, batch = build(case), parts.batch(case, 4)
    K = 1500
    codes, draws = encode(vae, batch, K), draw_posterior(vae, batch, S)
    if vae.variant.rule == "sum" and vae.variant.missing:
        pytest.skip("rule `sum` weighs each draw's classes: test_codes_of_summed_labels")
    for name, dim in vae.variant.layers.items():
        z = draws.z[name]
        assert codes.mean[name].shape == codes.sd[name].shape == (4, dim)
        error = z.std(0) / math.sqrt(S) + codes.sd[name] / math.sqrt(K)
        assert_close_mc(z.mean(0), codes.mean[name], error)
        spread = (z - z.mean(0)).square()
        error = spread.std(0) * (1 / math.sqrt(S) + 1 / math.sqrt(K))
        assert_close_mc(spread.mean(0), codes.sd[name].square(), error)


def test_codes_of_summed_labels():
    """With one class certain they are that class's code; the guide's normal itself, exact at one particle."""
    case = parts.CASES["M2, labels summed"]
    vae, batch = build(case), parts.batch(case, 6, known=1.0)
    codes = encode(vae, batch)
    one_hot = torch.eye(4)[batch.y]
    q = vae.heads["z"](vae.body(batch.x), None, one_hot, None, None)
    torch.testing.assert_close(codes.mean["z"], q.mean)
    torch.testing.assert_close(codes.sd["z"], q.stddev)


def test_codes_of_an_unconditional_guide_are_its_parameters():
    vae, batch = build({}), parts.batch({}, 6)
    q = vae.heads["z"](vae.body(batch.x), None, None, None, None)
    codes = encode(vae, batch)
    torch.testing.assert_close(codes.mean["z"], q.mean)
    torch.testing.assert_close(codes.sd["z"], q.stddev)
    point = encode(parts.vae(guide="point"), batch)
    assert torch.equal(point.sd["z"], torch.zeros(6, 5))


def test_chunks_do_not_change_the_codes(case, monkeypatch):
    """Of what the guide samples first; deeper layers are averages over draws."""
    vae, batch = build(case), parts.batch(case, 11)
    whole = encode(vae, batch)
    monkeypatch.setattr(latent.particles, "CHUNK", vae.variant.cells * vae.numel * 4)
    assert data_per_chunk(vae, 1) == 4
    cut = encode(vae, batch)
    exact = vae.variant.rule == "guide" or not vae.variant.missing
    for name in [vae.guide_order[0]] if exact else []:
        torch.testing.assert_close(cut.mean[name], whole.mean[name])
        torch.testing.assert_close(cut.sd[name], whole.sd[name])
    for name, dim in vae.variant.layers.items():
        assert cut.mean[name].shape == (11, dim)


def test_chunks_put_together_are_the_batch():
    case = parts.CASES["ladder, labels summed, missing pixels, covariates"]
    batch = parts.batch(case, 11)
    cut = list(chunks(batch, 4))
    assert [part.size for part in cut] == [4, 4, 3]
    for i in range(4):
        assert torch.equal(torch.cat([part[i] for part in cut]).nan_to_num(9.0), batch[i].nan_to_num(9.0))
    assert all(part.y is None and part.mask is None for part in chunks(Batch(batch.x), 4))


def test_chunk_sizes_hold_the_limit(monkeypatch):
    vae = build(parts.CASES["two label sites"])
    monkeypatch.setattr(latent.particles, "CHUNK", 12 * parts.X * 10)
    assert data_per_chunk(vae, 5) == 2
    assert data_per_chunk(vae, 1000) == 1
    assert data_per_chunk(vae, 1, most=3) == 3
    assert particles_per_chunk(vae, 2) == 5
    assert particles_per_chunk(vae, 1000) == 1


# ------------------------------------------------------------------------------------------------------------- samples


def test_samples(case):
    vae = build(case)
    y, given = generator(vae, 9)
    x, mean, top = sample(vae, 9, y, given)
    name = list(vae.variant.layers)[-1]
    assert x.shape == mean.shape == (9, parts.X)
    assert top.shape == (9, vae.variant.layers[name])
    assert ((x == 0) | (x == 1)).all()
    assert ((mean > 0) & (mean < 1)).all()
    assert not mean.requires_grad
    z, x = draw_prior(vae, 9, given)
    assert {name: value.shape for name, value in z.items()} == {n: (9, dim) for n, dim in vae.variant.layers.items()}
    assert x.shape == (9, parts.X)


@pytest.mark.parametrize("name", ["conditional", "M2", "M2, labels summed", "mixture"])
def test_labels_are_obeyed(name):
    """Data generated with a label are those of its class, for any way in which the label is observed."""
    vae = build(parts.CASES[name])
    y = torch.arange(4).repeat_interleave(50)
    _, mean, z = sample(vae, 200, y)
    torch.testing.assert_close(mean, vae.likelihood(z, torch.eye(4)[y], None).mean)


@pytest.mark.parametrize("name", ["two label sites", "always and partly"])
def test_labels_of_several_sites_are_obeyed_and_missing_ones_drawn(name):
    vae = build(parts.CASES[name])
    y = torch.stack([torch.arange(4).repeat_interleave(50), torch.full((200,), -1)], -1)
    _, mean, z = sample(vae, 200, y)
    first = torch.eye(4)[y[:, 0]]
    styles = [torch.cat([first, torch.eye(3)[[c] * 200]], -1) for c in range(3)]
    equal = torch.stack([torch.isclose(mean, vae.likelihood(z, style, None).mean).all(-1) for style in styles])
    assert (equal.sum(0) == 1).all()
    assert equal.any(1).all(), "every style occurs"


def test_labels_are_drawn_without_any():
    vae = build(parts.CASES["conditional"])
    torch.manual_seed(3)
    first = sample(vae, 500)[1]
    torch.manual_seed(3)
    assert not torch.allclose(first, sample(vae, 500, torch.zeros(500, dtype=torch.long))[1])


def test_samples_come_from_the_prior():
    _, mean, z = sample(build({}), S)
    assert_close_mc(z.mean(0), 0.0, 1 / math.sqrt(S))
    assert_close_mc(z.square().mean(0), 1.0, math.sqrt(2 / S))


WITHOUT_MOMENTS = {"flow": ["guide=flow"], "discrete": ["latent={kind: categorical, dim: 3, classes: 4}"]}


@pytest.mark.parametrize("words", WITHOUT_MOMENTS.values(), ids=WITHOUT_MOMENTS)
def test_codes_of_guides_without_moments_are_averaged_over_draws(tmp_path, words):
    """Their sd comes from the draws, and is no zero."""
    small = ["encoder.widths=[16]", "decoder.widths=[16]", "training.epochs=1", "training.batch_size=256"]
    experiment = pv.load_experiment("vae-bernoulli", [*words, *small])
    run = pv.train(experiment, out=tmp_path / "run", quiet=True, num_samples=2)
    codes = run.encode(run.batch("test", range(5)))
    assert (codes.sd["z"] > 0).all()
    assert len(codes.mean["z"]) == 5


def test_draws_come_in_chunks_of_draws_and_data(monkeypatch):
    """However little fits at a time, every draw is there once, with its own densities."""
    vae, batch = pv.VAE(pv.Variant(latent=pv.Latent(dim=2)), (4,)).eval(), Batch(torch.randn(5, 4))
    monkeypatch.setattr("pyro_vae.latent.particles.CHUNK", 3 * vae.widest)
    draws = draw_latents(vae, batch, 7)
    assert draws.z["z"].shape == (7, 5, 2)
    assert len(draws.z["z"].flatten().unique()) == 70
    d = densities(vae, batch, 7, draws.z)
    torch.testing.assert_close(draws.log_p, sum(site.log_prob for site in d.p.values()))
    torch.testing.assert_close(draws.log_q, d.q["z"].log_prob)
    z, x = draw_prior(vae, 8, num_data=4)
    assert z["z"].shape == (8, 2)
    assert x.shape == (4, 4)
