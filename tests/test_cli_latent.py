"""The commands `classify` and `impute`, on runs of every kind that they serve."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY, trained
from matplotlib.image import imread
from test_cli import N, mistake

import pyro_vae as pv
from pyro_vae.data import load as load_data

M2 = ["labels={digit: {classes: 10, observed: partly, rule: guide}}", "data.labels_kept=200"]


@pytest.fixture(scope="session")
def m2_run(tmp_path_factory):
    return trained(tmp_path_factory, *TINY, *M2)


@pytest.fixture(scope="session")
def missing_run(tmp_path_factory):
    return trained(tmp_path_factory, *TINY, "data.missing=0.4", "data.binarize=static")


@pytest.fixture(scope="session")
def quadrant_run(tmp_path_factory):
    return trained(tmp_path_factory, *TINY, "data.shown={quadrants: 2}", "prior=normal")


# -------------------------------------------------------------------------------------------------------- classify


@pytest.mark.parametrize("which", ["conditional_run", "m2_run"])
def test_classify(done, request, tmp_path, which):
    run, out = request.getfixturevalue(which), tmp_path / "found"
    text = done("classify", run, "-k", 5, "--out", out)
    ways = ["p(y | x)", "q(y | x)"] if which == "m2_run" else ["p(y | x)"]
    assert [line.split(" of ")[1].rsplit(" ", 4)[0] for line in text.splitlines() if "accuracy" in line] == ways
    arrays = np.load(f"{out}.npz")
    assert arrays["log_likelihood"].shape == arrays["probability"].shape == arrays["share"].shape == (N, 10)
    np.testing.assert_allclose(arrays["probability"].sum(1), 1)
    np.testing.assert_allclose(arrays["share"].sum(0), 1)
    np.testing.assert_allclose(arrays["probability_digit"], arrays["probability"])
    assert ("guide_digit" in arrays) == (which == "m2_run")
    assert imread(f"{out}.png").std() > 0.05


def test_classify_as_json(done, m2_run, tmp_path):
    found = json.loads(done("classify", m2_run, "-k", 2, "--json", "--out", tmp_path / "found"))
    for value, error in found["accuracy"]["digit"].values():
        assert 0 <= value <= 1
        assert error == pytest.approx((value * (1 - value) / N) ** 0.5)


def test_classify_a_file_without_labels(done, conditional_run, tmp_path):
    """A conditional model needs no labels to say what they are."""
    x = load_data(pv.DigitsData()).test.x[:7].numpy()
    np.savez(tmp_path / "x.npz", x=x)
    text = done("classify", conditional_run, "-k", 2, "--input", tmp_path / "x.npz", "--out", tmp_path / "found")
    assert "accuracy" not in text
    assert np.load(tmp_path / "found.npz")["probability"].shape == (7, 10)
    assert not (tmp_path / "found.png").exists()


def test_classify_without_labels_is_refused(refused, tiny_run):
    assert mistake(refused, "classify", tiny_run).startswith("variant.labels: there is no label site; declare one")


# ---------------------------------------------------------------------------------------------------------- impute


@pytest.mark.parametrize("which", ["missing_run", "quadrant_run"])
def test_impute(done, request, tmp_path, which):
    run, out = request.getfixturevalue(which), tmp_path / "filled"
    done("impute", run, "-n", 5, "--draws", 2, "-k", 20, "--out", out)
    arrays = np.load(f"{out}.npz")
    known = arrays["known"]
    assert arrays["mean"].shape == (5, 1, 8, 8) == known.shape
    assert arrays["draws"].shape == (2, 5, 1, 8, 8)
    np.testing.assert_array_equal(arrays["mean"][known], arrays["x"][known])
    assert (arrays["sd"][known] == 0).all()
    assert (arrays["sd"][~known] > 0).all()
    assert known.mean() == (0.5 if which == "quadrant_run" else pytest.approx(0.6, abs=0.1))
    assert imread(f"{out}.png").std() > 0.05


def test_impute_is_reproducible(done, missing_run, tmp_path):
    for name in ("a", "b"):
        done("impute", missing_run, "-n", 2, "-k", 10, "--seed", 3, "--out", tmp_path / name)
    first, second = (np.load(tmp_path / f"{name}.npz") for name in "ab")
    np.testing.assert_array_equal(first["draws"], second["draws"])


def test_impute_a_file_with_a_mask(done, missing_run, tmp_path):
    x = load_data(pv.DigitsData()).test.x[:3].numpy()
    mask = np.arange(64).reshape(1, 8, 8) % 2 == 0
    np.savez(tmp_path / "x.npz", x=x, mask=np.broadcast_to(mask, x.shape))
    done("impute", missing_run, "-k", 10, "--input", tmp_path / "x.npz", "--out", tmp_path / "filled")
    np.testing.assert_array_equal(np.load(tmp_path / "filled.npz")["known"][1], mask)


def test_impute_where_nothing_is_missing_is_refused(refused, tiny_run):
    assert "nothing is missing in these data; give an --input with a mask" in mistake(refused, "impute", tiny_run)


# ----------------------------------------------------------------------------------------- every class, and every pixel


def test_every_class_by_the_same_draws(done, conditional_run, tmp_path):
    done("sample", conditional_run, "--each", "digit", "-n", 3, "--seed", 4, "--out", tmp_path / "each")
    found, run = np.load(tmp_path / "each.npz"), pv.load(conditional_run)
    assert found["mean"].shape == (3, 10, 1, 8, 8)
    assert (found["z"] == found["z"][:, :1]).all(), "one draw of z for all classes"
    assert len(np.unique(found["z"][:, 0, 0])) == 3
    for c in (0, 7):
        points = pv.latent.Points(torch.tensor(found["z"][:, c]), "z", torch.eye(10)[[c] * 3])
        np.testing.assert_allclose(found["mean"][:, c], run.decode(points), atol=1e-6)
    assert imread(tmp_path / "each.png").std() > 0.05


def test_every_cluster_has_its_own_place_by_the_same_noise(tmp_path_factory):
    """Where p(z | y) is a normal for each class, what is held is its noise."""
    labels = "labels={c: {classes: 3, observed: never, conditions: [prior, decoder]}}"
    run = pv.load(trained(tmp_path_factory, *TINY, labels, "prior=normal"))
    _, _, z = run.sample_each("c", 4)
    noise = []
    for c in range(3):
        p = run.vae.priors["z"](None, torch.eye(3)[[c]], None).base_dist
        noise.append((z[:, c] - p.loc) / p.scale)
    torch.testing.assert_close(noise[0], noise[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(noise[0], noise[2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(z[:, 0], z[:, 1])


def test_every_class_of_what(refused, conditional_run, tiny_run):
    assert mistake(refused, "sample", conditional_run, "--each", "digti") == "site='digti': the label sites are: digit."
    assert mistake(refused, "sample", tiny_run, "--each", "digit") == "site='digit': the label sites are: none."
    words = ["sample", conditional_run, "--each", "digit", "--label", "digit=3"]
    assert mistake(refused, *words) == "--label digit: takes every class with --each digit; leave it out."


def test_uncertainty_of_reconstructions(done, tiny_run, tmp_path):
    done("reconstruct", tiny_run, "-n", 4, "--uncertainty", "--seed", 2, "--out", tmp_path / "sure")
    found, run = np.load(tmp_path / "sure.npz"), pv.load(tiny_run)
    expected = run.predictive(run.batch("test", range(4)), seed=2)
    for name in ("mean", "sd", "sd_of_mean"):
        np.testing.assert_allclose(found[f"predictive_{name}"], getattr(expected, name), atol=1e-6)
    assert imread(tmp_path / "sure.png").std() > 0.05
