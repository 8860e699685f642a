"""The command line: what each command prints and writes, its exit codes and its messages."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import TINY
from matplotlib.image import imread

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.experiment import TABLES, experiment_from, load_experiment, named
from pyro_vae.files import parse_yaml

N, VALIDATION = 360, 144
"""Data of the digits in two splits."""


def mistake(refused, *arguments):
    """The one line of a mistake."""
    (line,) = refused(*arguments)
    assert line.startswith("pyro-vae: ")
    return line.removeprefix("pyro-vae: ")


# -------------------------------------------------------------------------------------------- the vocabulary


def test_list(done):
    out = done("list")
    vocabulary = json.loads(done("list", "--json"))
    assert vocabulary["variants"] == named()
    assert {noun: set(words) for noun, words in vocabulary["parts"].items()} == {n: set(t) for n, t in TABLES.items()}
    for words in (vocabulary["variants"], *vocabulary["parts"].values()):
        for word, text in words.items():
            assert word in out
            assert text.endswith((".", ";", ",", "by")) or len(text) > 30, (word, text)
    assert "E_q[log p(x | z)]" in out  # brackets are no markup


@pytest.mark.parametrize("name", named())
def test_show_prints_what_is_read_back(done, name):
    experiment = load_experiment(name, ["seed=3"])
    assert experiment_from(parse_yaml(done("show", name, "seed=3"), "out")) == experiment
    assert experiment_from(json.loads(done("show", name, "seed=3", "--json"))) == experiment


def test_schema(done):
    schema = json.loads(done("schema"))
    assert json.loads(done("schema", "--json")) == schema
    assert set(schema["properties"]) == {"variant", "objective", "data", "training", "seed"}


def test_validate(done, say, refused, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("variant: {latent: {dim: 3}}")
    assert done("validate", path) == f"{path}: valid\n"
    assert done("validate", path, "--quiet") == f"{path}: valid\n"
    assert json.loads(done("validate", path, "--json")) == {"file": str(path), "valid": True}
    path.write_text("variant: {latent: {dmi: 3}, likelihood: bernouli}\nseed: -1")
    lines = refused("validate", path)
    assert [line.split(": ")[1] for line in lines] == ["variant.latent.dmi", "variant.likelihood", "seed=-1"]
    code, out, err = say("validate", path, "--json")
    assert code == 2
    assert json.loads(out) == {"error": [line.removeprefix("pyro-vae: ") for line in lines]}
    assert err.splitlines() == lines
    path.write_text("variant: [1")
    assert mistake(refused, "validate", path).startswith(f"{path}: line 1, column 12: no valid YAML: ")


def test_validate_says_what_is_wrong_between_sections_too(done, refused, tmp_path):
    """A mistake in one section does not hide that two others do not fit; and what a mistake voids is not said."""
    path = tmp_path / "mine.yaml"
    path.write_text("variant: {likelihood: bernoulli}\ndata: {name: digits}\ntraining: {epochs: many}\nseed: -1")
    lines = refused("validate", path)
    fields = ("training.epochs=", "seed=-1", "variant.likelihood: 'bernoulli' needs data in {0, 1}")
    assert len(lines) == 3
    assert all(any(line.startswith(f"pyro-vae: {field}") for line in lines) for field in fields)
    path.write_text("variant: {likelihood: bernoully}\ndata: {name: digits}\nobjective: {warmup_epochs: 500}")
    lines = refused("validate", path)
    assert [line.split(" ")[1].split("=")[0] for line in lines] == ["variant.likelihood:", "objective.warmup_epochs"]


def test_validate_reads_own_data(done, refused, tmp_path):
    path, x = tmp_path / "mine.yaml", tmp_path / "x.npy"
    path.write_text(f"variant: {{likelihood: normal}}\ndata: {{name: arrays, path: {x}}}\ntraining: {{batch_size: 10}}")
    assert "there is no such file" in mistake(refused, "validate", path)
    np.save(x, np.full((40, 3), np.nan))
    assert "NaN or infinite in 120 of 120" in mistake(refused, "validate", path)
    np.save(x, np.random.default_rng(0).normal(size=(40, 3)))
    assert done("validate", path) == f"{path}: valid; data of shape (3,): 32 train, 4 validation, 4 test\n"
    assert json.loads(done("validate", path, "--json"))["data"]["shape"] == [3]
    assert "there are 32 training data" in mistake(refused, "validate", path, "training.batch_size=33")


# ------------------------------------------------------------------------------------------------- training


def test_train_and_resume(done, tmp_path):
    run = tmp_path / "run"
    overrides = [*TINY, "training.epochs=1"]
    out = done("train", "digits", *overrides, "--samples", 20, "--out", run, "--quiet")
    assert out.splitlines()[-1] == f"run: {run}"
    for text in ("digits on digits", "log p(x)", "20 importance samples", "E_q[log p(x | z)]", "KL(q || p)", "± "):
        assert text in out
    assert pv.load(run).experiment == load_experiment("digits", overrides)
    again = json.loads(done("train", "--resume", run, "--samples", 20, "--json"))
    assert again.pop("run") == str(run)
    assert again == pv.load(run).result
    other = json.loads(done("train", "--from", run, "--out", tmp_path / "b", "--samples", 20, "--json"))
    assert other["variant"] == "digits"
    assert pv.load(tmp_path / "b").experiment == pv.load(run).experiment


def test_train_refuses_before_anything_is_written(refused, tiny_run, tmp_path):
    out = tmp_path / "out"
    lines = refused("train", "digits", "latent.dim=0", "data.validation=7.5", "--out", out)
    assert [line.split("=")[0] for line in lines] == ["pyro-vae: variant.latent.dim", "pyro-vae: data.validation"]
    assert mistake(refused, "train", "digts", "--out", out).startswith("'digts': no variant of that name and no file.")
    assert mistake(refused, "train", "digits", "foo", "--out", out) == (
        "'foo': must be key=value, like training.epochs=20."
    )
    assert mistake(refused, "train", "digits", "training.batch_size=5000", "--out", out).startswith(
        "training.batch_size=5000: there are 129"
    )
    assert not out.exists()
    assert "is there already and not empty" in mistake(refused, "train", *TINY, "--out", tiny_run)
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        assert mistake(refused, "train", *TINY, "--out", path) == (
            f"{path}: cannot be made (Not a directory); choose another --out."
        )
    assert (tmp_path / "file").read_text() == "mine"


def test_resume_and_from_need_a_run(refused, tiny_run, tmp_path):
    for option in ("--resume", "--from"):
        assert mistake(refused, "train", option, tmp_path).startswith(f"{tmp_path}: is no run directory")
    assert mistake(refused, "train", "--resume", tiny_run, "seed=3") == (
        f"--resume {tiny_run}: continues as declared; drop the other arguments, or start a new run from its parameters "
        "with --from."
    )
    assert "do not fit this variant" in mistake(
        refused, "train", "--from", tiny_run, "latent.dim=3", "--out", tmp_path / "x"
    )


# -------------------------------------------------------------------------------------- evaluation and scores


def test_evaluate_writes_the_card(done, tiny_run, copy):
    card = json.loads(done("evaluate", copy, "--samples", 20, "--json"))
    assert card.pop("run") == str(copy)
    before = pv.load(tiny_run).result
    for name in ("elbo", "log_likelihood", "reconstruction", "kl", "khat", "num_data"):
        assert card[name] == before[name]
    out = done("evaluate", copy, "--samples", 5, "--split", "validation", "--quiet")
    assert f"validation, {VALIDATION} data" in out
    assert pv.load(copy).result["split"] == "validation"
    assert pv.load(copy).result["num_importance_samples"] == 5


def arrays(path):
    with np.load(path) as file:
        found = dict(file)
    for name, values in found.items():
        assert np.isfinite(values).all(), name
    return found


def test_scores_agree_with_the_card(done, copy):
    reply = json.loads(done("score", copy, "--samples", 200, "--json"))
    assert reply["file"] == str(copy / "scores.npz")
    found = arrays(copy / "scores.npz")
    assert reply["arrays"] == {name: list(values.shape) for name, values in found.items()}
    assert {name: values.shape for name, values in found.items()} == dict.fromkeys(
        ("observation", "digit", "log_likelihood", "standard_error", "khat", "elbo"), (N,)
    )
    assert (found["observation"] == np.arange(N)).all()
    assert set(found["digit"]) == set(range(10))
    card = json.loads(done("evaluate", copy, "--samples", 200, "--json"))
    monte_carlo = np.sqrt((found["standard_error"] ** 2).sum()) / N  # of the mean, over the draws alone
    assert abs(found["log_likelihood"].mean() - card["log_likelihood"]["value"]) < 5 * np.sqrt(2) * monte_carlo
    assert (found["standard_error"] > 0).all()
    assert found["elbo"].mean() < found["log_likelihood"].mean()


def test_codes(done, copy, tmp_path):
    assert done("encode", copy).startswith(f"{copy / 'codes.npz'}: observation (360,), digit (360,), mean_z (360, 2)")
    found = arrays(copy / "codes.npz")
    codes = (run := pv.load(copy)).encode(run.batch())
    np.testing.assert_array_equal(found["mean_z"], codes.mean["z"].numpy())
    np.testing.assert_array_equal(found["sd_z"], codes.sd["z"].numpy())
    assert found["digit"].shape == (N,)
    out = tmp_path / "my.codes"
    assert done("encode", copy, "--split", "validation", "--out", out, "--quiet").startswith(f"{out}.npz: ")
    assert len(arrays(tmp_path / "my.codes.npz")["mean_z"]) == VALIDATION
    done("encode", copy, "--out", tmp_path / "b.npz")
    assert {path.name for path in tmp_path.iterdir()} == {"copy", "my.codes.npz", "b.npz"}  # and no .part


# ---------------------------------------------------------------------------------------------------- pictures


def test_sample(done, copy, tmp_path):
    reply = json.loads(done("sample", copy, "-n", 7, "--json"))
    assert reply["picture"] == str(copy / "samples.png")
    found = arrays(reply["file"])
    assert {name: values.shape for name, values in found.items()} == {
        "x": (7, 1, 8, 8),
        "mean": (7, 1, 8, 8),
        "z": (7, 2),
    }
    assert set(np.unique(found["x"])) == {0, 1}
    assert ((found["mean"] > 0) & (found["mean"] < 1)).all()
    picture = imread(reply["picture"])
    assert picture.ndim == 3
    assert picture[..., :3].std() > 0.05  # not blank
    done("sample", copy, "-n", 7, "--seed", 3, "--out", tmp_path / "a.png")
    done("sample", copy, "-n", 7, "--seed", 3, "--out", tmp_path / "b")
    first, second = arrays(tmp_path / "a.npz"), arrays(tmp_path / "b.npz")
    assert (first["z"] == second["z"]).all()
    assert (first["z"] != found["z"]).all()
    assert imread(tmp_path / "b.png").shape == picture.shape


def test_sample_with_labels(done, refused, conditional_run, tiny_run, tmp_path):
    out = ["--out", tmp_path / "a"]
    done("sample", conditional_run, "--label", "digit=3", "-n", 50, *out)
    three = arrays(tmp_path / "a.npz")
    done("sample", conditional_run, "--label", "digit=0", "-n", 50, *out)
    zero = arrays(tmp_path / "a.npz")
    assert (three["z"] == zero["z"]).all()  # same seed: only the label differs
    assert (three["mean"] != zero["mean"]).any()
    done("sample", conditional_run, "-n", 5, *out)
    assert arrays(tmp_path / "a.npz")["x"].shape == (5, 1, 8, 8)
    for label, message in {
        "digit=10": "--label digit=10: must be a class from 0 to 9.",
        "digit=-1": "--label digit=-1: must be a class from 0 to 9.",
        "digit": "--label digit: must be a class from 0 to 9.",
        "digit=" + "9" * 5000: "must be a class from 0 to 9.",
        "digt=3": "--label digt=3: the label sites are: digit.",
    }.items():
        assert mistake(refused, "sample", conditional_run, "--label", label, *out).endswith(message)
    assert mistake(refused, "sample", conditional_run, "--label", "digit=1", "--label", "digit=2", *out) == (
        "--label digit=2: digit is given twice."
    )
    assert mistake(refused, "sample", tiny_run, "--label", "digit=1", *out) == (
        "--label digit=1: the run was trained without labels; leave it out."
    )


@pytest.mark.parametrize("labels", [False, True])
def test_reconstruct(done, tiny_run, conditional_run, tmp_path, labels):
    run, out = (conditional_run if labels else tiny_run), tmp_path / "r.png"
    text = done("reconstruct", run, "-n", 5, "--split", "train", "--out", out)
    assert str(out) in text
    found = arrays(tmp_path / "r.npz")
    assert found["x"].shape == found["mean"].shape == (5, 1, 8, 8)
    assert found["z"].shape == (5, 2)
    assert found["digit"].shape == found["observation"].shape == (5,)
    np.testing.assert_array_equal(found["x"], pv.load(run).batch("train", range(5)).x.numpy())
    assert imread(out)[..., :3].std() > 0.05


# -------------------------------------------------------------------------------------------- data of one's own


@pytest.mark.parametrize("command", ["encode", "score", "reconstruct"])
def test_data_of_ones_own(done, refused, tiny_run, tmp_path, command):
    images = np.random.default_rng(0).integers(0, 17, (6, 8, 8)).astype(np.uint8)
    np.save(tmp_path / "x.npy", images)
    out = ["--out", tmp_path / "out"]
    done(command, tiny_run, "--input", tmp_path / "x.npy", *out)
    found = arrays(tmp_path / "out.npz")
    assert (found["observation"] == np.arange(6)).all()
    assert "digit" not in found
    assert all(len(values) == 6 for values in found.values())
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "shape.npy", images[:, :5])
    np.save(tmp_path / "range.npy", images + 100)
    for name in ("none.npy", "text.npy", "shape.npy", "range.npy", "x.txt"):
        assert str(tmp_path / name) in mistake(refused, command, tiny_run, "--input", tmp_path / name, *out)


def test_data_of_ones_own_need_the_labels_that_are_always_given(done, refused, conditional_run, tmp_path):
    images = np.zeros((6, 8, 8), np.uint8)
    np.save(tmp_path / "x.npy", images)
    assert "digit" in mistake(refused, "encode", conditional_run, "--input", tmp_path / "x.npy")
    np.savez(tmp_path / "xy.npz", x=images, digit=np.arange(6))
    done("encode", conditional_run, "--input", tmp_path / "xy.npz", "--out", tmp_path / "out")
    assert len(arrays(tmp_path / "out.npz")["mean_z"]) == 6


# ---------------------------------------------------------------------------------------------------- mistakes

ON_A_RUN = ["evaluate", "encode", "score", "sample", "reconstruct"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "No such command 'nope'."),
        (["train", "--nope"], "No such option: --nope"),
        (["evaluate"], "Missing argument 'DIR'."),
        (["validate"], "Missing argument 'FILE'."),
        (["sample", "x", "-n", "0"], "Invalid value for '--num' / '-n'"),
        (["sample", "x", "-n", "many"], "Invalid value for '--num' / '-n'"),
        (["sample", "x", "--seed", "-1"], "Invalid value for '--seed'"),
        (["sample", "x", "--seed", str(10**30)], "Invalid value for '--seed'"),
        (["evaluate", "x", "--samples", "0"], "Invalid value for '--samples' / '-k'"),
    ],
)
def test_usage(refused, arguments, message):
    assert message in refused(*arguments)[-1]


@pytest.mark.parametrize("command", ON_A_RUN)
def test_a_directory_that_is_no_run(refused, tmp_path, command):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "none", tmp_path / "file"):
        assert mistake(refused, command, path) == (
            f"{path}: is no run directory (it has no experiment.yaml); `pyro-vae train` makes one."
        )


@pytest.mark.parametrize("command", ["evaluate", "encode", "score", "reconstruct"])
def test_a_split_that_is_none(refused, tiny_run, command):
    assert mistake(refused, command, tiny_run, "--split", "tset") == (
        "split='tset': must be one of train, validation, test."
    )


@pytest.mark.parametrize("command", ["encode", "score", "sample", "reconstruct"])
def test_where_nothing_can_be_written(refused, tiny_run, tmp_path, command):
    before = sorted(path.name for path in tiny_run.iterdir())
    assert mistake(refused, command, tiny_run, "--out", tmp_path).startswith(
        f"--out {tmp_path}: is a directory; name a file, like {tmp_path}/"
    )
    out = tmp_path / "none" / "a.npz"
    assert mistake(refused, command, tiny_run, "--out", out) == (
        f"--out {out}: {tmp_path / 'none'} is no directory that can be written to; choose another."
    )
    assert "/proc/a" in mistake(refused, command, tiny_run, "--out", "/proc/a")  # nobody may, root neither
    assert sorted(path.name for path in tiny_run.iterdir()) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("command", ON_A_RUN)
def test_a_damaged_checkpoint(refused, copy, command):
    for path in (copy / "checkpoints").glob("*/model.safetensors"):
        body = bytearray(path.read_bytes())
        body[-1] ^= 1
        path.write_bytes(bytes(body))
    *warnings, last = refused(command, copy)
    assert warnings
    assert all(line.startswith(f"pyro-vae: Passed over a damaged checkpoint. {copy}/checkpoints") for line in warnings)
    assert last.startswith(f"pyro-vae: {copy}: holds no whole checkpoint")


def test_a_run_without_a_checkpoint_or_with_a_broken_experiment(refused, copy):
    (copy / "experiment.yaml").write_text("seed: x")
    assert mistake(refused, "evaluate", copy).startswith('seed="x": must be an integer.')
    (copy / "experiment.yaml").write_text("seed: [")
    assert mistake(refused, "evaluate", copy).startswith(f"{copy / 'experiment.yaml'}: line 1")
    (copy / "experiment.yaml").write_text("{}")
    shutil.rmtree(copy / "checkpoints")
    assert "holds no checkpoint yet" in mistake(refused, "evaluate", copy)


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("pyro_vae.experiment.load_experiment", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli._guarded(["show"])


def test_ctrl_c(say, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pyro_vae.experiment.load_experiment", interrupted)
    assert say("show")[0] == 130


# --------------------------------------------------------------------------------------------- the whole program


def program(*arguments, **options):
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)


def test_help_imports_nothing_heavy():
    code = (
        "import sys, pyro_vae.cli as cli\n"
        "code = cli._guarded(['--help']) or cli._guarded(['train', '--help'])\n"
        "heavy = {'torch', 'pyro', 'arviz', 'numpy', 'matplotlib', 'xarray', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else code)\n"
    )
    done = program("-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    for command in ("train", "evaluate", "sample", "validate"):
        assert f"  {command} " in done.stdout


def test_the_program_exits_with_2_and_one_line():
    done = program("-m", "pyro_vae", "show", "digits", "latent.dim=0")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "pyro-vae: variant.latent.dim=0: must be greater than or equal to 1.\n"
