"""Standardised data: the networks see (x - mean) / sd, everything that is said of x is in its own units."""

import math

import numpy as np
import pyro
import pytest
import torch
from mc import assert_close_mc

import pyro_vae as pv
from pyro_vae.data import load
from pyro_vae.data.preparation import moments
from pyro_vae.standardize import Standardization
from pyro_vae.vae import VAE, densities

RNG = np.random.default_rng(0)
SCALES = np.array([1e-3, 1.0, 40.0, 3e3])
X = RNG.normal(size=(300, 2)) @ RNG.normal(size=(2, 4)) * SCALES + 0.3 * RNG.normal(size=(300, 4)) * SCALES
X = X + np.array([0.01, -5.0, 700.0, 1e4])


def experiment(**data):
    return pv.Experiment(
        variant=pv.Variant(
            latent=pv.Latent(dim=2),
            likelihood=pv.Normal(),
            encoder=pv.MLP(widths=[16]),
            decoder=pv.MLP(widths=[16]),
        ),
        data=pv.ArraysData(**data),
        training=pv.Training(epochs=5, batch_size=32, compile="off", precision="float64"),
    )


def test_moments_are_those_of_the_training_data():
    data = load(pv.ArraysData(standardize=True), arrays=pv.Arrays(X))
    train = data.train.x
    torch.testing.assert_close(data.scaling, (train.mean(0), train.std(0, correction=0)), rtol=1e-12, atol=0)
    images = pv.Arrays(RNG.normal(size=(40, 3, 5, 6)) * [[[2]], [[3]], [[4]]])
    mean, sd = load(pv.ArraysData(standardize=True), arrays=images).scaling
    assert mean.shape == sd.shape == (3, 1, 1)


def test_moments_leave_out_what_is_missing_and_keep_what_never_varies(monkeypatch):
    mask = RNG.random(X.shape) < 0.7
    holes = np.where(mask, X, np.nan)
    holes[:, 1] = np.where(mask[:, 1], 7.0, np.nan)
    split = load(pv.ArraysData(), arrays=pv.Arrays(holes, mask=mask)).train
    mean, sd = moments(split)
    for i in (0, 2, 3):
        there = split.x[:, i][split.mask[:, i]]
        torch.testing.assert_close(mean[i], there.mean(), rtol=1e-12, atol=0)
        torch.testing.assert_close(sd[i], there.std(correction=0), rtol=1e-10, atol=0)
    assert (mean[1], sd[1]) == (7, 1)


def test_moments_of_many_blocks_keep_a_small_spread_about_a_large_mean():
    x = 1e9 + torch.arange(2_000_000, dtype=torch.float64)[:, None] % 3
    mean, sd = moments(load(pv.ArraysData(validation=0), arrays=pv.Arrays(x.numpy())).train)
    assert abs(float(mean) - 1e9 - 1) < 1e-3
    assert abs(float(sd) - math.sqrt(2 / 3)) < 1e-3


def test_same_as_standardised_by_hand_in_other_units(tmp_path):
    """Trained on x, and on (x - mean) / sd: the same parameters, and densities that differ by the Jacobian."""
    order = RNG.permutation(len(X))
    train, test = X[order[:250]], X[order[250:]]
    data = pv.Arrays(train, test=pv.Arrays(test))
    ours = pv.train(experiment(standardize=True), data=data, out=tmp_path / "a", quiet=True, num_samples=200)
    mean, sd = (value.numpy() for value in ours.data.scaling)
    by_hand = pv.Arrays((train - mean) / sd, test=pv.Arrays((test - mean) / sd))
    theirs = pv.train(experiment(), data=by_hand, out=tmp_path / "b", quiet=True, num_samples=200)
    jacobian = np.log(sd).sum()
    for key in ("elbo", "log_likelihood", "reconstruction"):
        a, b = ours.result[key]["value"], theirs.result[key]["value"]
        assert a == pytest.approx(b - jacobian, abs=1e-6)
    assert ours.result["kl"]["value"] == pytest.approx(theirs.result["kl"]["value"], abs=1e-6)
    x, x_mean, z = ours.sample(20)
    x_b, x_mean_b, z_b = theirs.sample(20)
    torch.testing.assert_close(z, z_b)
    torch.testing.assert_close(x, x_b * torch.tensor(sd) + torch.tensor(mean))
    torch.testing.assert_close(x_mean, x_mean_b * torch.tensor(sd) + torch.tensor(mean))
    again = pv.load(tmp_path / "a", data=data)
    np.testing.assert_array_equal(again.encode(again.batch()).mean["z"], ours.encode(ours.batch()).mean["z"])


def test_density_integrates_to_one_in_the_units_of_x(float64):
    vae = VAE(experiment().variant, (1,), standardized=True)
    vae.standardization.set(torch.tensor([5.0]), torch.tensor([3.0]))
    x = torch.linspace(-60, 70, 20_001)[:, None]
    z = torch.zeros(1, 1, 2).expand(1, len(x), 2)
    log_p = densities(vae, pv.Batch(x), latents={"z": z}).p["x"].log_prob.detach()
    assert float(torch.trapezoid(log_p.exp(), x[:, 0])) == pytest.approx(1, abs=1e-6)


def test_draws_have_the_moments_that_they_say(float64):
    scale = Standardization((2,))
    scale.set(torch.tensor([100.0, -1.0]), torch.tensor([10.0, 0.1]))
    fn = scale.undone(pyro.distributions.Normal(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 3.0])))
    draws = fn.sample((20_000,))
    assert_close_mc(draws.mean(0), fn.mean, draws.std(0) / math.sqrt(len(draws)))
    squares = (draws - fn.mean).square()
    assert_close_mc(squares.mean(0), fn.variance, squares.std(0) / math.sqrt(len(draws)))


@pytest.mark.parametrize("word", ["binarize=dynamic", "dequantize=uniform"])
def test_standardized_data_are_neither_binary_nor_levels(word):
    name, value = word.split("=")
    with pytest.raises(pv.DeclarationError, match=f"standardize=true and {name}"):
        pv.load_experiment("vae-sigma", ["data.standardize=true", f"data.{word}"])
    with pytest.raises(pv.DeclarationError, match="needs data in"):
        pv.load_experiment("vae-bernoulli", ["data.binarize=none", "data.standardize=true"])


def test_a_spread_that_float32_does_not_resolve_is_refused(tmp_path):
    x = np.stack([X[:, 0], 1.7e9 + RNG.normal(size=len(X))], 1)
    single = experiment(standardize=True).replace(training=pv.Training(epochs=1, batch_size=32))
    with pytest.raises(pv.DeclarationError, match=r"column 1 spreads by .*precision=float64"):
        pv.train(single, data=pv.Arrays(x), out=tmp_path / "a")
    assert not (tmp_path / "a").exists()
    pv.train(experiment(standardize=True), data=pv.Arrays(x), out=tmp_path / "a", quiet=True, num_samples=1)


def test_integers_are_numbers_when_standardised():
    data = load(pv.ArraysData(standardize=True), arrays=pv.Arrays(RNG.integers(0, 90, (50, 3))))
    assert (data.levels, data.support) == (None, "real")
