"""The commands `interpolate`, `edit` and `manifold`: what they write, and what they refuse."""

import json

import numpy as np
import pytest
from conftest import TINY, trained
from matplotlib.image import imread
from test_cli import N, mistake

import pyro_vae as pv
from pyro_vae.latent import mean_difference, per_sd, principal_axes


@pytest.fixture(scope="session")
def layered_run(tmp_path_factory):
    words = ["latent=[{dim: 3}, {dim: 2}]", "prior=[normal, standard_normal]", "guide=ladder"]
    return trained(tmp_path_factory, *TINY[1:], *words)


@pytest.fixture(scope="session")
def vector_run(tmp_path_factory):
    return trained(tmp_path_factory, *TINY, "data=linear_gaussian", "likelihood=normal", "data.binarize=none")


def arrays(out):
    assert imread(f"{out}.png").std() > 0.05
    return np.load(f"{out}.npz")


@pytest.mark.parametrize("which", ["tiny_run", "conditional_run", "layered_run"])
def test_interpolate(done, request, tmp_path, which):
    directory, out = request.getfixturevalue(which), tmp_path / "way"
    text = done("interpolate", directory, "-i", 5, "-i", 2, "-i", 9, "--steps", 4, "--out", out)
    assert text.splitlines()[1] == f"{out}.png"
    found, run = arrays(out), pv.load(directory)
    assert found["observation"].tolist() == [5, 2, 9]
    np.testing.assert_array_equal(found["digit"], run.data.test.attributes["digit"][[5, 2, 9]])
    points = run.locate(run.batch("test", [5, 2, 9]))
    np.testing.assert_allclose(found["code"], points.z)
    for kind in ("linear", "spherical"):
        np.testing.assert_array_equal(found[f"z_{kind}"][::3], points.z)
        assert found[f"mean_{kind}"].shape == (7, 1, 8, 8)
        np.testing.assert_allclose(found[f"mean_{kind}"][::3], run.decode(points), atol=1e-6)
    assert not np.allclose(found["z_linear"], found["z_spherical"])


def test_interpolate_by_default(done, copy):
    """The first three test data, into the run directory."""
    reply = json.loads(done("interpolate", copy, "--json"))
    assert reply["picture"] == str(copy / "interpolation.png")
    assert reply["arrays"]["mean_linear"] == [19, 1, 8, 8]
    assert np.load(copy / "interpolation.npz")["observation"].tolist() == [0, 1, 2]


def test_interpolate_a_file_with_a_label(done, conditional_run, tmp_path):
    run = pv.load(conditional_run)
    np.savez(tmp_path / "x.npz", x=run.data.test.x[:4].numpy(), digit=run.data.test.attributes["digit"][:4].numpy())
    words = ["interpolate", conditional_run, "--input", tmp_path / "x.npz", "-i", 3, "-i", 1, "--steps", 3]
    done(*words, "--out", tmp_path / "own")
    done(*words, "--label", "digit=7", "--out", tmp_path / "seven")
    own, seven = (np.load(tmp_path / f"{name}.npz") for name in ("own", "seven"))
    np.testing.assert_array_equal(own["z_linear"], seven["z_linear"])
    points = pv.relabelled(run.vae, run.locate(run.batch("test", [3, 1])), "digit", 7)
    np.testing.assert_allclose(seven["mean_linear"][::2], run.decode(points), atol=1e-6)
    assert not np.allclose(own["mean_linear"], seven["mean_linear"])


def test_edit_along_an_attribute(done, tiny_run, tmp_path):
    run = pv.load(tiny_run)
    out = tmp_path / "edited"
    done("edit", tiny_run, "--attribute", "digit=3", "-i", 4, "-i", 8, "--steps", 5, "--reach", 2, "--out", out)
    found, digit = arrays(out), run.data.train.attributes["digit"]
    v = mean_difference(run.locate(run.batch("train")).z, (digit == 3).long())
    np.testing.assert_allclose(found["direction"], v, rtol=1e-5)
    np.testing.assert_allclose(found["alpha"], [-2, -1, 0, 1, 2])
    points = run.locate(run.batch("test", [4, 8]))
    np.testing.assert_allclose(found["mean"][2], run.decode(points), atol=1e-6)
    np.testing.assert_allclose(found["mean"][4], run.decode(points.with_z(points.z + 2 * v)), atol=1e-6)


def test_edit_within_groups(done, tmp_path_factory, tmp_path):
    """Differences within the classes of another attribute, in data that have two."""
    directory = trained(tmp_path_factory, *TINY, "data=squares", "likelihood=normal", "data.binarize=none")
    run = pv.load(directory)
    known = run.data.train.attributes
    first, second = list(known)[:2]
    done("edit", directory, "--attribute", f"{first}=1", "--within", second, "--out", tmp_path / "edited")
    z, a = run.locate(run.batch("train")).z, (known[first] == 1).long()
    v = arrays(tmp_path / "edited")["direction"]
    np.testing.assert_allclose(v, mean_difference(z, a, known[second]), rtol=1e-4, atol=1e-6)
    assert not np.allclose(v, mean_difference(z, a), atol=1e-4)


@pytest.mark.parametrize("words", [[], ["--axis", 1], ["--dimension", 1]])
def test_edit_in_standard_deviations_of_the_codes(done, tiny_run, tmp_path, words):
    run, out = pv.load(tiny_run), tmp_path / "edited"
    done("edit", tiny_run, *words, "-i", 0, "--out", out)
    found, z = arrays(out), run.locate(run.batch("train")).z
    axes = principal_axes(z)
    dimension = per_sd(z.new_tensor([0.0, 1.0]), z)
    expected = axes.axes[1 if words else 0] * axes.sd[1 if words else 0] if "--dimension" not in words else dimension
    np.testing.assert_allclose(found["direction"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["alpha"], np.linspace(-4, 4, 9))
    assert found["mean"].shape == (9, 1, 1, 8, 8)


@pytest.mark.parametrize("method", ["mean", "classifier"])
def test_edit_between_two_sets(done, tiny_run, tmp_path, method):
    run = pv.load(tiny_run)
    x, digit = run.data.train.x.numpy(), run.data.train.attributes["digit"].numpy()
    for value in (0, 1):
        np.savez(tmp_path / f"{value}.npz", x=x[digit == value])
    sides = ["--plus", tmp_path / "1.npz", "--minus", tmp_path / "0.npz"]
    done("edit", tiny_run, *sides, "--method", method, "--out", tmp_path / "edited")
    v = arrays(tmp_path / "edited")["direction"]
    means = [run.locate(run.read(tmp_path / f"{value}.npz")[0]).z.mean(0) for value in (0, 1)]
    if method == "mean":
        np.testing.assert_allclose(v, means[1] - means[0], rtol=1e-4)
    else:
        unit = v / np.linalg.norm(v)
        np.testing.assert_allclose(np.linalg.norm(v), unit @ (means[1] - means[0]).numpy(), rtol=1e-4)


def test_manifold(done, tiny_run, tmp_path):
    out = tmp_path / "grid"
    done("manifold", tiny_run, "--size", 5, "--out", out)
    found, run = arrays(out), pv.load(tiny_run)
    np.testing.assert_allclose(found["z"], run.manifold(5).z)
    np.testing.assert_allclose(found["mean"], run.decode(run.manifold(5)))
    done("manifold", tiny_run, "--size", 3, "--dimension", 1, "--dimension", 0, "--out", out)
    np.testing.assert_allclose(np.load(f"{out}.npz")["z"], run.manifold(3, (1, 0)).z)


def test_manifold_of_other_kinds(done, conditional_run, layered_run, tmp_path):
    for name, words in (("seven", ["--label", "digit=7"]), ("first", [])):
        done("manifold", conditional_run, "--size", 3, *words, "--out", tmp_path / name)
    seven, first = (np.load(tmp_path / f"{name}.npz") for name in ("seven", "first"))
    np.testing.assert_array_equal(seven["z"], first["z"])
    assert not np.allclose(seven["mean"], first["mean"])
    done("manifold", layered_run, "--size", 3, "--out", tmp_path / "layered")
    assert np.load(tmp_path / "layered.npz")["z"].shape == (3, 3, 2), "the top layer"


def test_manifold_of_more_dimensions(done, tmp_path_factory, tmp_path):
    directory = trained(tmp_path_factory, *TINY[1:], "latent.dim=4")
    run = pv.load(directory)
    done("manifold", directory, "--size", 3, "--out", tmp_path / "best")
    kl = run.usage(run.batch("train", range(1000))).kl.mean(0)
    best = np.load(tmp_path / "best.npz")["z"]
    moved = [d for d in range(4) if np.ptp(best[..., d]) > 0]
    assert moved == sorted(kl.topk(2).indices.tolist())
    done("manifold", directory, "--size", 3, "--principal", "-i", 6, "--out", tmp_path / "around")
    z, own = np.load(tmp_path / "around.npz")["z"], run.locate(run.batch("test", [6])).z
    axes = principal_axes(run.locate(run.batch("train")).z).axes
    rest = np.eye(4) - (axes[:2].T @ axes[:2]).numpy()
    np.testing.assert_allclose(z @ rest, np.broadcast_to((own.numpy() @ rest)[None], z.shape), atol=1e-5)


@pytest.mark.parametrize("command", ["interpolate", "edit", "manifold"])
def test_vectors_have_no_picture_of_a_walk(refused, vector_run, command):
    assert "its data are vectors" in mistake(refused, command, vector_run)


MISTAKES = {
    "one datum": (["interpolate", "-i", 3], "a way takes two or more: repeat the option"),
    "no such datum": (
        ["interpolate", "-i", 3, "-i", N],
        f"observations=[{N}]: the test data are numbered from 0 to 359",
    ),
    "no labels": (["interpolate", "--label", "digit=3"], "the run was trained without labels; leave it out."),
    "manifold without labels": (
        ["manifold", "--label", "digit=3"],
        "the run was trained without labels; leave it out.",
    ),
    "no such attribute": (["edit", "--attribute", "diget=1"], "have: digit. Did you mean 'digit'?"),
    "which class": (["edit", "--attribute", "digit"], "digit: has 10 classes; say which, like digit=1."),
    "no such class": (["edit", "--attribute", "digit=11"], "digit=11: must be a class from 0 to 9."),
    "two directions": (["edit", "--axis", 0, "--dimension", 0], "--axis and --dimension: are several directions"),
    "half a pair": (["edit", "--plus", "x.npz"], "--plus and --minus: go together"),
    "classifier of nothing": (["edit", "--method", "classifier"], "is of --attribute, or of --plus and --minus"),
    "within what": (
        ["edit", "--attribute", "digit=1", "--within", "person"],
        "--within person: the training data",
    ),
    "within nothing": (["edit", "--axis", 0, "--within", "digit"], "is of an --attribute by differences of means"),
    "no such dimension": (["edit", "--dimension", 2], "--dimension 2: the latent has the dimensions 0 to 1."),
    "no such axis": (["edit", "--axis", 2], "--axis 2: the codes have the principal axes 0 to 1."),
    "one axis": (["manifold", "--dimension", 1], "--dimension: is given 1 times; give it twice"),
    "axes said twice": (["manifold", "--dimension", 1, "--principal"], "give one of them"),
    "two data": (["manifold", "-i", 1, "-i", 2], "is given 2 times; a grid is around one datum"),
}


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(refused, tiny_run, tmp_path, words, message):
    command, *options = words
    assert message in mistake(refused, command, tiny_run, *options, "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_no_such_datum_of_a_file(refused, tiny_run, tmp_path):
    np.savez(tmp_path / "x.npz", x=pv.load(tiny_run).data.test.x[:4].numpy())
    words = ["interpolate", tiny_run, "--input", tmp_path / "x.npz", "-i", 0, "-i", 4]
    assert mistake(refused, *words).endswith("x.npz holds the data 0 to 3.")
