"""The ArviZ tree: named dimensions, the numbers that went in, and a file that needs no pyro_vae."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from pyro_vae.inference_data import attributes_of, load, posterior_tree, save

S, N, R = 30, 3, 20
OBSERVATIONS = [4, 17, 9]
EVENTS = {(): (), (5,): ("feature",), (4, 5): ("row", "column"), (3, 4, 5): ("channel", "row", "column")}
ATTRIBUTES = {"experiment": {"latent": {"dim": 2}}, "seed": 0, "compiled": True, "khat": None, "name": "vae"}


def arguments(event=(5,)):
    """Every argument, with draws that can be told apart."""
    generator = np.random.default_rng(0)
    return {
        "latents": {"z": generator.normal(size=(S, N, 2)), "z_2": torch.randn(S, N, 4)},
        "x_replicated": generator.normal(size=(S, N, *event)),
        "prior": {"z": generator.normal(size=(R, 2)), "z_2": generator.normal(size=(R, 4))},
        "prior_predictive": generator.normal(size=(R, *event)),
        "x": generator.integers(0, 256, size=(N, *event), dtype=np.uint8),
        "log_p": torch.randn(S, N, dtype=torch.float64, requires_grad=True),
        "log_q": generator.normal(size=(S, N)),
        "observations": OBSERVATIONS,
        "labels": {"digit": np.array([3, -1, 7])},
        "label_draws": {"digit": generator.integers(0, 10, size=(S, N))},
        "attributes": ATTRIBUTES,
    }


@pytest.mark.parametrize("event", EVENTS)
def test_every_group_dimension_and_coordinate(event):
    given = arguments(event)
    tree, names = posterior_tree(**given), EVENTS[event]
    draws = ("chain", "draw")
    latents = {"z": (*draws, "obs", "z_dim"), "z_2": (*draws, "obs", "z_2_dim")}
    expected = {
        "posterior": {**latents, "digit": (*draws, "obs")},
        "prior": {"z": (*draws, "z_dim"), "z_2": (*draws, "z_2_dim")},
        "posterior_predictive": {"x": (*draws, "obs", *names)},
        "prior_predictive": {"x": (*draws, *names)},
        "observed_data": {"x": ("obs", *names)},
        "constant_data": {"digit": ("obs",)},
        "sample_stats": dict.fromkeys(("log_p", "log_q", "log_w"), (*draws, "obs")),
    }
    assert {name: {v: tree[name][v].dims for v in tree[name].data_vars} for name in tree.children} == expected
    for name in tree.children:
        if "obs" in tree[name].dims:
            assert tree[name]["obs"].values.tolist() == OBSERVATIONS
        assert tree[name].sizes.get("chain", 1) == 1
    np.testing.assert_array_equal(tree["posterior/z"][0], given["latents"]["z"])
    np.testing.assert_array_equal(tree["posterior/z_2"][0], given["latents"]["z_2"].numpy())
    np.testing.assert_array_equal(tree["prior/z"][0], given["prior"]["z"])
    np.testing.assert_array_equal(tree["posterior_predictive/x"][0], given["x_replicated"])
    np.testing.assert_array_equal(tree["prior_predictive/x"][0], given["prior_predictive"])
    np.testing.assert_array_equal(tree["observed_data/x"], given["x"])
    assert tree["observed_data/x"].dtype == np.uint8
    np.testing.assert_array_equal(tree["sample_stats/log_w"][0], given["log_p"].detach().numpy() - given["log_q"])
    assert tree["constant_data/digit"].sel(obs=17) == -1


def test_groups_that_have_nothing_are_left_out():
    given = arguments() | {"x_replicated": None, "prior_predictive": None, "prior": {}, "labels": {}}
    tree = posterior_tree(**given)
    assert set(tree.children) == {"posterior", "observed_data", "sample_stats"}


@pytest.mark.parametrize("event", EVENTS)
def test_the_file_says_what_the_tree_said(tmp_path, event):
    tree = posterior_tree(**arguments(event))
    path = save(tree, tmp_path / "run" / "posterior.nc")
    loaded = load(path)
    path.write_bytes(b"")  # what was read is in memory, and no longer in the file
    assert loaded.equals(tree)
    for name in tree.children:
        for variable in tree[name].variables:
            assert loaded[name][variable].dtype == tree[name][variable].dtype
    assert attributes_of(loaded) == attributes_of(tree) == ATTRIBUTES
    assert all(isinstance(value, str) for value in loaded.attrs.values())
    assert load(save(loaded, path)).equals(tree)
    assert [entry.name for entry in path.parent.iterdir()] == ["posterior.nc"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    tree = posterior_tree(**arguments())
    path = save(tree, tmp_path / "posterior.nc")
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    tree.attrs["seed"] = "1"
    with pytest.raises(OSError, match="No space"):
        save(tree, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["posterior.nc"]


def test_arviz_summarises_and_extracts():
    import arviz as az

    given = arguments()
    tree = posterior_tree(**given)
    table = az.summary(tree, kind="stats", round_to="none")
    assert len(table) == N * (2 + 4 + 1)
    assert table.loc["z[17, 1]", "mean"] == pytest.approx(given["latents"]["z"][:, 1, 1].mean())
    draws = az.extract(tree, var_names=["z"])
    assert dict(draws.sizes) == {"sample": S, "obs": N, "z_dim": 2}
    assert dict(az.extract(tree, group="prior", var_names=["z"]).sizes) == {"sample": R, "z_dim": 2}
    statistics = az.summary(tree, group="sample_stats", kind="stats", round_to="none")
    expected = given["log_p"].detach().numpy()[:, 2] - given["log_q"][:, 2]
    assert statistics.loc["log_w[9]", "mean"] == pytest.approx(expected.mean())


READER = """
import sys, warnings
warnings.simplefilter("error")
import arviz as az, xarray as xr
tree = az.from_netcdf(sys.argv[1])
assert "pyro_vae" not in sys.modules and "torch" not in sys.modules
assert len(az.summary(tree, kind="stats")) == 21
assert xr.open_datatree(sys.argv[1], engine="h5netcdf")["observed_data"]["x"].dims == ("obs", "feature")
print(sorted(tree.children))
"""


def test_the_file_opens_without_pyro_vae(tmp_path):
    tree = posterior_tree(**arguments())
    path = save(tree, tmp_path / "posterior.nc")
    read = subprocess.run([sys.executable, "-c", READER, path], capture_output=True, text=True, cwd=tmp_path)
    assert read.returncode == 0, read.stderr
    assert read.stdout.strip() == str(sorted(tree.children))


def test_arviz_is_imported_only_when_a_tree_is_built():
    code = "import sys, pyro_vae.inference_data; assert not {'arviz_base', 'xarray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["obs", "chain", "draw", "x", "row", "feature", "z_dim"])
def test_a_site_with_the_name_of_a_dimension_is_refused(name):
    given = arguments()
    given["label_draws"][name] = given["label_draws"]["digit"]
    with pytest.raises(ValueError, match=f"site '{name}': the name is taken"):
        posterior_tree(**given)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"latents": {"z": np.zeros((S, N))}}, r"z has shape .*chain, draw, obs, z_dim"),
        ({"latents": {"z": np.zeros((N, S, 2))}}, r"z has shape .*with 3 observations"),
        ({"log_p": np.zeros((S, N + 1)), "log_q": np.zeros((S, N + 1))}, r"log_p has shape"),
        ({"x_replicated": np.zeros((S, N))}, r"x has shape"),
        ({"labels": {"digit": np.zeros(N + 1)}}, r"digit has shape"),
        ({"observations": [1, 2]}, r"with 2 observations"),
    ],
)
def test_arrays_of_the_wrong_shape_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        posterior_tree(**(arguments() | change))


def test_a_weight_of_zero_is_minus_infinity():
    given = arguments()
    given["log_p"] = np.full((S, N), -math.inf)
    assert (posterior_tree(**given)["sample_stats/log_w"].values == -math.inf).all()
