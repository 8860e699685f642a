"""Points of a latent space: where data lie, and what the decoder makes of them, on every kind of variant."""

import math

import numpy as np
import parts
import pytest
import torch
from mc import assert_close_mc
from test_latent import build

import pyro_vae as pv
from pyro_vae.latent import Points, decode, draw_posterior, locate, origin, predictive, relabelled, usage
from pyro_vae.objectives import split, terms
from pyro_vae.sites import Batch
from pyro_vae.vae import densities

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(params=parts.CASES.values(), ids=parts.CASES.keys())
def case(request):
    return request.param


def one_hot(y, classes):
    return torch.eye(classes)[y]


def test_points_are_decoded_as_the_model_decodes(case):
    """z_1 and labels of a point, given to the likelihood itself."""
    vae, batch = build(case), parts.batch(case, 7)
    points = locate(vae, batch)
    name, dim = next(iter(vae.variant.layers.items()))
    assert points.layer == name
    assert points.z.shape == (7, dim)
    expected = vae.likelihood(points.z, points.y, batch.given).mean
    torch.testing.assert_close(decode(vae, points), expected)
    if vae.variant.labels:
        assert (points.y.sum(-1) == len(vae.variant.labels)).all()


def test_known_labels_are_the_points_labels():
    case = parts.CASES["always and partly"]
    vae, batch = build(case), parts.batch(case, 30)
    y, style = locate(vae, batch).y.split([4, 3], -1)
    known = batch.y[:, 0] >= 0
    assert 0 < known.sum() < 30
    torch.testing.assert_close(y[known], one_hot(batch.y[known, 0], 4))
    torch.testing.assert_close(style, one_hot(batch.y[:, 1], 3))
    probs = vae.classifiers["y"](vae.body(batch.x)).probs
    torch.testing.assert_close(y[~known], one_hot(probs[~known].argmax(-1), 4))


def test_codes_are_those_of_the_points_own_label():
    """E[z | x, y] at the most probable label, not an average over labels."""
    case = parts.CASES["M2"]
    vae, batch = build(case), parts.batch(case, 9, known=0.0)
    points = locate(vae, batch)
    q = vae.heads["z"](vae.body(batch.x), None, points.y, None, None)
    torch.testing.assert_close(points.z, q.mean)
    assert not torch.allclose(points.z, pv.latent.encode(vae, batch).mean["z"], atol=1e-3)


def test_the_most_probable_label_of_summed_ones_is_by_the_weights():
    case = parts.CASES["M2, labels summed"]
    vae, batch = parts.vae(**case).eval(), parts.batch(case, 20, known=0.0)
    with torch.no_grad():
        vae.likelihood.decoded.network.layers[0].weight[:, 5:] *= 8  # so that the classes are far apart
        vae.likelihood.decoded.network.layers[0].weight[:, :5] /= 4
        log_w = densities(vae, batch, 4000).log_w
    error = log_w.exp().std(1) / log_w.exp().mean(1) / 4000**0.5  # of log p(x, y_c), nats
    log_w = log_w.logsumexp(1)
    top = log_w.topk(2, 0).values
    clear = top[0] - top[1] > 10 * error.amax(0)
    assert clear.sum() > 3
    assert torch.equal(locate(vae, batch, num_particles=4000).y.argmax(-1)[clear], log_w.argmax(0)[clear])


def test_chunks_change_nothing(monkeypatch):
    case = parts.CASES["two label sites"]
    vae, batch = build(case), parts.batch(case, 11)
    y = torch.where(batch.y < 0, 1, batch.y)  # all that can be known, so that nothing is drawn
    batch = batch._replace(y=y)
    torch.manual_seed(1)
    whole = locate(vae, batch, num_particles=50)
    x = decode(vae, whole)
    monkeypatch.setattr("pyro_vae.latent.particles.CHUNK", vae.variant.cells * vae.numel * 4)
    torch.testing.assert_close(decode(vae, whole), x)
    monkeypatch.setattr("pyro_vae.latent.particles.CHUNK", vae.variant.cells * vae.numel * 4 * 50)
    cut = locate(vae, batch, num_particles=50)
    torch.testing.assert_close(cut.y[:, :4], whole.y[:, :4])
    assert len(cut) == 11


def test_a_higher_layer_comes_down_by_the_prior():
    case = parts.CASES["three layers bottom-up"]
    vae, batch = build(case), parts.batch(case, 5)
    points = locate(vae, batch, "z3", num_particles=10)
    assert points.z.shape == (5, 3)
    z2 = vae.priors["z2"](points.z, None, None).mean
    z1 = vae.priors["z1"](z2, None, None).mean
    torch.testing.assert_close(decode(vae, points), vae.likelihood(z1, None, None).mean)


def test_decoding_keeps_any_batch_dimensions(case):
    vae, batch = build(case), parts.batch(case, 6)
    points = locate(vae, batch)
    many = points.with_z(points.z + torch.zeros(3, 2, 1, 1))
    x = decode(vae, many)
    assert x.shape == (3, 2, 6, parts.X)
    torch.testing.assert_close(x[1, 1], decode(vae, points))
    torch.testing.assert_close(decode(vae, many[2]), x[2])


def test_relabelled_points_differ_in_that_label_alone():
    case = parts.CASES["always and partly"]
    vae, batch = build(case), parts.batch(case, 8)
    points = locate(vae, batch)
    other = relabelled(vae, points, "style", 2)
    y, style = other.y.split([4, 3], -1)
    torch.testing.assert_close(style, one_hot(torch.full((8,), 2), 3))
    torch.testing.assert_close(y, points.y[:, :4])
    torch.testing.assert_close(other.z, points.z)
    torch.testing.assert_close(decode(vae, other), vae.likelihood(points.z, other.y, None).mean)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("colour", 0), "label 'colour': the label sites are: y, style."),
        (("style", 3), "label style=3: must be a class from 0 to 2."),
        (("y", -1), "label y=-1: must be a class from 0 to 3."),
    ],
)
def test_no_such_label(words, message):
    case = parts.CASES["always and partly"]
    vae = build(case)
    with pytest.raises(pv.DeclarationError, match=f"^{message}$"):
        relabelled(vae, locate(vae, parts.batch(case, 2)), *words)


def test_no_such_layer():
    case = parts.CASES["ladder"]
    with pytest.raises(pv.DeclarationError, match=r"layer='z3': must be one of z1, z2"):
        locate(build(case), parts.batch(case, 2), "z3")


def test_points_without_labels_are_refused_where_the_decoder_needs_them():
    vae = build(parts.CASES["conditional"])
    with pytest.raises(ValueError, match="the decoder needs labels: y"):
        decode(vae, Points(torch.zeros(1, 5), "z"))
    with pytest.raises(ValueError, match="give labels to relabel"):
        relabelled(vae, Points(torch.zeros(1, 5), "z"), "y", 0)


@pytest.mark.parametrize("name", ["plain", "conditional", "two label sites", "ladder"])
def test_origin_is_the_middle_of_the_prior(name):
    vae = build(parts.CASES[name])
    y = [1] * len(vae.variant.labels)
    point = origin(vae, y)
    assert point.layer == list(vae.variant.layers)[-1]
    assert torch.equal(point.z, torch.zeros_like(point.z))
    if y:
        assert (point.y.nonzero()[:, 1] == torch.tensor([1, 5][: len(y)])).all()
    assert decode(vae, point).shape == (1, parts.X)
    with pytest.raises(pv.DeclarationError, match="must hold a class for each label site"):
        origin(vae, [*y, 0])


def test_origin_of_a_conditional_prior_is_that_of_its_class():
    label = pv.Label(classes=3, conditions=["prior", "decoder"])
    vae = pv.VAE(pv.Variant(latent=pv.Latent(dim=2), prior="normal", labels={"y": label}), (4,)).eval()
    for c in range(3):
        expected = vae.priors["z"](None, one_hot(torch.tensor([c]), 3), None).mean
        torch.testing.assert_close(origin(vae, [c]).z, expected)


def test_shown_entries_are_put_back(tmp_path):
    words = [
        "training.epochs=1",
        "encoder.widths=[8]",
        "decoder.widths=[8]",
        "data.shown={quadrants: 2}",
        "latent.dim=3",
    ]
    run = pv.train(pv.load_experiment("digits", words), out=tmp_path / "run", quiet=True, num_samples=2)
    batch = run.batch("test", [0, 1])
    points, shown = run.locate(batch), run.data.shown
    x = run.decode(points)
    assert torch.equal(x[:, shown], batch.x[:, shown])
    assert not torch.allclose(x[:, ~shown], batch.x[:, ~shown], atol=0.1)
    halfway = run.decode(pv.interpolate(points, 3))[1]
    torch.testing.assert_close(halfway[shown], batch.x[:, shown].mean(0))


# ------------------------------------------------------------------------------------------------- spread, and usage


def test_predictive_moments_are_those_of_many_replicates(case):
    vae, batch = build(case), parts.batch(case, 3)
    if vae.variant.rule == "sum" and vae.variant.missing:
        pytest.skip("rule `sum` weighs the classes of all draws together, so that their error is no sum over draws")
    found = predictive(vae, batch, 1500)
    draws = draw_posterior(vae, batch, 3000)
    assert found.mean.shape == found.sd.shape == found.sd_of_mean.shape == (3, parts.X)
    spread = (draws.x - draws.x.mean(0)).square()
    error = spread.std(0) * (1 / math.sqrt(3000) + 1 / math.sqrt(1500)) + 1e-3
    assert_close_mc(spread.mean(0), found.sd.square(), error)
    between = (draws.x_mean - draws.x_mean.mean(0)).square()
    error = between.std(0) * (1 / math.sqrt(3000) + 1 / math.sqrt(1500))
    assert_close_mc(between.mean(0), found.sd_of_mean.square(), error)
    assert (found.sd_of_mean < found.sd).all()


def test_usage_is_the_closed_form():
    vae, batch = build({}), parts.batch({}, 6)
    q = vae.heads["z"](vae.body(batch.x), None, None, None, None)
    found = usage(vae, batch)
    mean, variance = q.mean, q.variance
    torch.testing.assert_close(found.mean, mean)
    torch.testing.assert_close(found.kl, 0.5 * (mean.square() + variance - 1 - variance.log()))


def test_usage_adds_up_to_the_kl(case):
    vae, batch = build(case), parts.batch(case, 4)
    torch.manual_seed(5)
    found = usage(vae, batch, 50)
    torch.manual_seed(5)
    with torch.no_grad():
        d = densities(vae, batch, 50)
        kl = sum(terms(*split(vae, d, closed_form=True), d, batch, vae.variant.rule).kl_per_layer.values())
    assert found.kl.shape == (4, sum(vae.variant.layers.values()))
    assert found.mean.shape == found.kl.shape
    torch.testing.assert_close(found.kl.sum(-1), kl)


def test_a_point_guide_has_no_kl():
    vae = parts.vae(guide="point").eval()
    assert usage(vae, parts.batch({}, 3)).kl is None


def test_points_of_numpy_indices():
    points = Points(torch.arange(6.0).reshape(3, 2), "z", y=torch.eye(3))
    some = points[np.array([2, 0])]
    assert some.z.tolist() == [[4, 5], [0, 1]]
    assert some.y.tolist() == [[0, 0, 1], [1, 0, 0]]


def test_batches_without_noise_are_located_twice_alike():
    vae, batch = build({}), parts.batch({}, 4)
    assert torch.equal(locate(vae, batch).z, locate(vae, Batch(batch.x)).z)
