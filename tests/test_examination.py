"""`diagnose` on a run: the files that it writes, ArviZ on them without the package, the command."""

import json
import subprocess
import sys

import arviz as az
import numpy as np
import pytest
import torch
from test_verdict import BUDGET, PACE

import pyro_vae as pv
from pyro_vae import cli, inference_data
from pyro_vae.diagnosis import everything

SECTIONS = ["importance", "reference", "annealing", "bidirectional", "gaps", "calibration", "aggregate", "predictive"]


@pytest.fixture(scope="module")
def diagnosed(tiny_run):
    """One diagnosis with sizes that do not depend on the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(everything, "measured", lambda *_: PACE)
        run = pv.load(tiny_run)
        own = {"corner": lambda x: x[:, 0, 0, 0]}
        return run, pv.diagnose(run, range(5), 200, BUDGET, test_quantities=own)


def test_what_is_written(diagnosed):
    run, found = diagnosed
    saved = json.loads((run.directory / "diagnostics.json").read_text())
    assert list(saved["sections"]) == SECTIONS
    assert saved["skipped"] == {}
    assert saved["density"] == "x"
    assert saved["observations"] == [0, 1, 2, 3, 4]
    assert saved["verdict"]["overall"] == found.overall
    assert set(saved["sections"]["predictive"]) >= {"ink", "contrast", "stroke_width", "nearest_neighbour", "corner"}
    assert {path.stem for path in (run.directory / "plots").glob("*.png")} == set(found.figures)
    assert set(found.figures) >= {"khat", "posterior", "moments", "log_likelihood", "gaps", "calibration", "aggregate"}
    for statement in found.statements:
        assert statement.text in str(found)
    assert "k-hat reads 0.05 to 0.09 low near 0.8" in str(found)


def test_the_tree(diagnosed):
    run, _ = diagnosed
    tree = inference_data.load(run.directory / "posterior.nc")
    sizes = {name: dict(group.sizes) for name, group in tree.children.items()}
    assert set(sizes) == {
        "posterior", "prior", "posterior_predictive", "prior_predictive", "observed_data", "sample_stats",
        "posterior_psir", "posterior_hmc", "sample_stats_hmc", "prior_sbc",
    }  # fmt: skip
    assert sizes["posterior"] == {"chain": 1, "draw": 200, "obs": 5, "z_dim": 2}
    assert sizes["posterior_hmc"]["chain"] == 4
    assert tree["sample_stats"]["khat"].dims == tree["sample_stats"]["ess"].dims == ("obs",)
    stats = tree["sample_stats"].to_dataset()
    np.testing.assert_allclose(stats["log_w"], stats["log_p"] - stats["log_q"], rtol=1e-5, atol=1e-5)
    facts = inference_data.attributes_of(tree)
    assert facts["experiment"] == run.experiment.tree()
    assert "torch" in facts["versions"]


def test_resampled_draws_are_draws_of_the_guide(diagnosed):
    tree = diagnosed[1].tree
    guide, psir = (tree[name]["z"].values[0] for name in ("posterior", "posterior_psir"))
    for i in range(5):
        assert {tuple(z) for z in psir[:, i]} <= {tuple(z) for z in guide[:, i]}
    log_w = tree["sample_stats"]["log_w"].values[0].astype(float)
    w = np.exp(log_w - log_w.max(0))
    weighted = ((w / w.sum(0))[..., None] * guide).sum(0)
    error = guide.std(0) / np.sqrt(30)
    assert (np.abs(psir.mean(0) - weighted) < 5 * error).all()


def test_naive_loo_is_refused(diagnosed):
    """There is no log p(x | z) in the tree, whose PSIS-LOO would be a harmonic mean."""
    with pytest.raises(Exception, match=r"log[_ ]likelihood"):
        az.loo(diagnosed[1].tree)


def test_plain_arviz_works_on_the_file(diagnosed):
    """In a process that never imports pyro_vae."""
    code = """
import sys, warnings
import arviz as az, numpy as np, xarray as xr
warnings.simplefilter("ignore")
az.rcParams["plot.backend"] = "matplotlib"
tree = xr.open_datatree(sys.argv[1], engine="h5netcdf")
assert (az.summary(tree, group="posterior", kind="stats").shape[0]) == 10
hmc = az.summary(tree, group="posterior_hmc", round_to="none")
assert hmc["r_hat"].max() < 1.2, hmc
some = {"obs": [0, 1]}
az.plot_dist(tree, coords=some)
az.plot_dist(tree, group="posterior_hmc", coords=some)
az.plot_forest(tree, coords=some)
az.plot_pair(tree, coords={"obs": [0]})
az.plot_ecdf_pit(tree, var_names=["z", "log_joint"])
az.plot_ecdf_pit(tree, var_names=["z"], coverage=True)
az.plot_ppc_tstat(tree, t_stat="mean", coords={"obs": [0, 1, 2]})
stats = tree["sample_stats"].to_dataset()
from arviz_stats.utils import ELPDDataLOO
w = stats["log_w"]
log_p = w.max(["chain", "draw"]) + np.log(np.exp(w - w.max(["chain", "draw"])).mean(["chain", "draw"]))
elpd = ELPDDataLOO(elpd=float(log_p.sum()), se=1.0, p=np.nan, n_samples=w.sizes["draw"], n_data_points=w.sizes["obs"],
                   scale="log", warning=False, good_k=0.57, elpd_i=log_p,
                   pareto_k=stats["khat"].drop_vars(["khat", "ess"]))
az.plot_khat(elpd)
assert not any(name.startswith("pyro_vae") for name in sys.modules)
"""
    path = diagnosed[0].directory / "posterior.nc"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_posteriors_side_by_side(diagnosed):
    """With equal chains and draws `plot_forest` draws all of them."""
    models = inference_data.equal_draws(diagnosed[1].tree)
    assert list(models) == ["posterior", "posterior_psir", "posterior_hmc"]
    sizes = {(m["posterior"].sizes["chain"], m["posterior"].sizes["draw"]) for m in models.values()}
    assert len(sizes) == 1
    az.plot_forest(models, coords={"obs": [0]}, combined=True)
    for name, tree in models.items():
        before = diagnosed[1].tree[name]["z"]
        assert float(np.abs(tree["posterior"]["z"].mean() - before.mean())) < 0.1
        assert not bool(tree["posterior"]["z"].isnull().any())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"observations": []}, "observations: are 0"),
        ({"observations": [0, 0]}, "name one twice"),
        ({"observations": [10_000]}, "numbered from 0 to"),
        ({"num_draws": 5}, "draws=5: must be from 100"),
        ({"budget": 0.0}, r"budget=0.0: must be 1 second"),
        ({"split": "all"}, "split='all': must be one of"),
        ({"test_quantities": {"odd": lambda x: x}}, r"quantities\['odd'\]: gave \("),
        ({"test_quantities": {"odd": lambda x: x[:, 0, 0, 0] / 0}}, r"quantities\['odd'\]: gave nan|inf"),
    ],
)
def test_bad_arguments(tiny_run, arguments, message):
    run = pv.load(tiny_run)
    with pytest.raises(pv.DeclarationError, match=message):
        pv.diagnose(run, **{"observations": range(2), "num_draws": 100, "budget": 1.0, "save": False} | arguments)


def test_more_draws_than_fit_are_refused(tiny_run, monkeypatch):
    monkeypatch.setattr("pyro_vae.examination.DRAWN", 1000)
    with pytest.raises(pv.DeclarationError, match=r"draws=200, of 4 observations with 2 .* take at most 125 draws"):
        pv.diagnose(pv.load(tiny_run), range(4), 200, save=False)


def test_the_command(copy, capsys, monkeypatch):
    monkeypatch.setattr(everything, "measured", lambda *_: PACE)
    few = ["diagnose", str(copy), "-n", "2", "--draws", "100", "--budget"]
    assert cli._guarded([*few, "100", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {"overall", "statements", "files"} <= set(said)
    assert (copy / "posterior.nc").is_file()
    assert cli._guarded([*few, "100", "-q"]) == 0
    out, err = capsys.readouterr()
    assert "] Can importance sampling with the guide be trusted?" in out
    assert err == ""
    assert out.rstrip().endswith("plots")


@pytest.mark.slow
def test_same_seed_same_numbers(tiny_run, monkeypatch):
    """Twice the same, and the caller's random state is left alone."""
    monkeypatch.setattr(everything, "measured", lambda *_: PACE)
    run, found = pv.load(tiny_run), []
    before = torch.get_rng_state()
    for _ in range(2):
        found.append(pv.diagnose(run, [3], 100, 150.0, save=False).numbers["sections"])
    assert torch.equal(before, torch.get_rng_state())
    assert found[0]["reference"] == found[1]["reference"] if "reference" in found[0] else found[0] == found[1]
    assert found[0]["calibration"] == found[1]["calibration"]


@pytest.mark.slow
def test_labels(conditional_run, monkeypatch):
    """A conditional model: p(y | x) is judged as well, and everything conditions on y."""
    monkeypatch.setattr(everything, "measured", lambda *_: PACE)
    run = pv.load(conditional_run)
    found = pv.diagnose(run, range(3), 100, 600.0, save=False)
    assert found.numbers["density"] == "x|y"
    assert set(found.numbers["sections"]["labels"]) == {"digit"}
    assert found.numbers["sections"]["labels"]["digit"]["num_data"] >= 50
    assert "labels" in found.figures
    assert "constant_data" in found.tree.children
