"""Training: what is written, resumed, stopped and refused."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae import checkpoints
from pyro_vae.batches import build
from pyro_vae.card import card_lines
from pyro_vae.data import load
from pyro_vae.interruption import signals
from pyro_vae.planning import choose_device, choose_threads, decide_compile
from pyro_vae.specs import DeclarationError
from pyro_vae.training import Trainer

TINY = [
    "latent.dim=2",
    "encoder.widths=[16]",
    "decoder.widths=[16]",
    "training.epochs=4",
    "training.batch_size=256",
    "training.schedule=cosine",
]
COMMAND = [
    sys.executable,
    "-m",
    "pyro_vae",
    "train",
    "digits",
    *TINY,
    "training.epochs=20",
    "--samples",
    "1",
    "--quiet",
]


def tiny(*overrides, name="digits"):
    return pv.load_experiment(name, [*TINY, *overrides])


def weights(run_directory):
    folder = checkpoints.latest(run_directory / "checkpoints")
    tensors, state = checkpoints.load(folder)
    return tensors, state


def test_a_run_writes_what_the_design_says(tmp_path):
    run = pv.train(tiny(), out=tmp_path / "run", quiet=True, num_samples=120)
    files = {path.name for path in run.directory.iterdir()}
    assert files == {"experiment.yaml", "environment.json", "metrics.jsonl", "checkpoints", "result.json"}
    assert pv.load(run.directory).experiment == run.experiment
    rows = run.metrics
    assert [(row["epoch"], row["split"]) for row in rows] == [
        (epoch, split) for epoch in (1, 2, 3, 4) for split in ("train", "validation")
    ]
    for row in rows:
        assert {"step", "epoch", "split", "loss", "elbo", "reconstruction", "kl", "seconds"} <= set(row)
        assert row["elbo"] == pytest.approx(row["reconstruction"] - row["kl"], rel=1e-5)
    card = run.result
    keys = (
        "variant data split num_data density elbo log_likelihood reconstruction kl num_importance_samples "
        "bits_per_dim active_units active_units_standard_error latent_dim khat seconds epochs steps parameters "
        "device precision compiled seed versions kl_per_layer conditional_on"
    )
    assert set(card) == set(keys.split())
    for name in ("elbo", "log_likelihood", "reconstruction", "kl"):
        assert set(card[name]) == {"value", "standard_error"}
        assert card[name]["standard_error"] > 0
    assert card["elbo"]["value"] == pytest.approx(card["reconstruction"]["value"] - card["kl"]["value"], abs=1e-9)
    assert card["log_likelihood"]["value"] > card["elbo"]["value"]
    assert card["bits_per_dim"] == pytest.approx(-card["log_likelihood"]["value"] / 64 / math.log(2))
    assert set(card["khat"]) == {"good_fraction", "standard_error", "threshold", "num_draws"}
    assert card["density"] == "x"
    assert set(card["seconds"]) == {"train", "evaluate"}


def test_beta_is_warmed_up_and_the_elbo_is_at_beta_one(tmp_path):
    run = pv.train(tiny("objective={beta: 4, warmup_epochs: 2}"), out=tmp_path / "run", quiet=True, num_samples=1)
    rows = [row for row in run.metrics if row["split"] == "train"]
    betas = [row["beta"] for row in rows]
    assert betas[0] < 2.0 < betas[1] < 4.0
    assert betas[2:] == [4.0, 4.0]
    last = rows[-1]
    assert last["loss"] == pytest.approx(-last["reconstruction"] + 4 * last["kl"], rel=1e-5)
    assert last["elbo"] == pytest.approx(last["reconstruction"] - last["kl"], rel=1e-5)


def test_same_seed_same_bits_and_the_callers_random_state_is_untouched(tmp_path):
    torch.manual_seed(99)
    expected = torch.rand(3)
    torch.manual_seed(99)
    runs = [pv.train(tiny(), out=tmp_path / str(i), quiet=True, num_samples=5) for i in range(2)]
    assert torch.equal(torch.rand(3), expected)
    first, second = (weights(run.directory)[0]["model"] for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert runs[0].result["elbo"] == runs[1].result["elbo"]
    other = pv.train(tiny("seed=1"), out=tmp_path / "other", quiet=True, num_samples=5)
    assert other.result["elbo"] != runs[0].result["elbo"]


def _start(out, *extra):
    return subprocess.Popen([*COMMAND, *extra, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _wait_for_epoch(out, epoch, process):
    for _ in range(1200):
        lines = (out / "metrics.jsonl").read_text().count("\n") if (out / "metrics.jsonl").exists() else 0
        if lines >= 2 * epoch:
            return
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.05)
    raise AssertionError("the run did not come that far")


SOFTLY = [pytest.param(how, marks=pytest.mark.slow) for how in (signal.SIGTERM, signal.SIGINT)]


@pytest.mark.parametrize("how", [signal.SIGKILL, *SOFTLY])
def test_stopped_and_resumed_is_bit_identical(tmp_path, how):
    """20 epochs = 10 epochs + a signal + resume + 10 epochs, in the bits of weights, Adam and random state."""
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    slow = "training.batch_size=32"  # so that the signal comes in the middle
    assert subprocess.run([*COMMAND, slow, "--out", str(straight)], check=False).returncode == 0
    process = _start(cut, slow)
    _wait_for_epoch(cut, 10, process)
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[how], errors.decode()
    assert weights(cut)[1]["epoch"] < 20
    if how != signal.SIGKILL:
        assert b"resume" in errors
    resumed = [sys.executable, "-m", "pyro_vae", "train", "--resume", str(cut), "--samples", "1", "--quiet"]
    assert subprocess.run(resumed, check=False, stdout=subprocess.DEVNULL).returncode == 0
    (a, state_a), (b, state_b) = weights(straight), weights(cut)
    for group in a:
        for name, tensor in a[group].items():
            assert torch.equal(tensor, b[group][name]), (group, name)
    assert (state_a["step"], state_a["epoch"]) == (state_b["step"], state_b["epoch"])
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in pv.load(d).metrics] for d in (straight, cut)]
    assert rows[0] == rows[1]


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    run = pv.train(tiny(), out=tmp_path / "run", quiet=True, num_samples=5)
    before = run.result
    again = pv.resume(run.directory, quiet=True, num_samples=5)
    assert again.result["elbo"] == before["elbo"]
    assert len(again.metrics) == 8


def test_killed_before_the_first_epoch_ended_it_starts_where_it_started(tmp_path):
    """`--from` is not forgotten, because the start itself is a checkpoint."""
    first = pv.train(tiny(), out=tmp_path / "first", quiet=True, num_samples=5)
    straight = pv.train(tiny("seed=3"), out=tmp_path / "a", start_from=first, quiet=True, num_samples=5)
    cut = pv.train(tiny("seed=3"), out=tmp_path / "b", start_from=first, quiet=True, num_samples=5)
    # What a kill in the first epoch leaves behind: the checkpoint of step 0 alone.
    folders = sorted((cut.directory / "checkpoints").iterdir())
    start = Trainer(cut.experiment, cut.data, first.vae, cut.directory, compiled=False, quiet=True)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        start.save()
    for folder in folders:
        shutil.rmtree(folder)
    resumed = pv.resume(cut.directory, quiet=True, num_samples=5)
    assert len(resumed.metrics) == 8
    a, b = (weights(run.directory)[0]["model"] for run in (straight, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_without_any_checkpoint_is_not_resumed(tmp_path):
    run = pv.train(tiny(), out=tmp_path / "run", quiet=True, num_samples=5)
    shutil.rmtree(run.directory / "checkpoints")
    with pytest.raises(DeclarationError, match="before its first checkpoint"):
        pv.resume(run.directory, quiet=True)


def test_one_test_datum(tmp_path):
    """No standard error can be had of one datum; the card says so."""
    x = np.random.default_rng(0).normal(size=(14, 3)).astype(np.float32)
    experiment = pv.Experiment(
        variant=pv.Variant(latent=pv.Latent(dim=1), encoder=pv.MLP(widths=[4]), decoder=pv.MLP(widths=[4])),
        data=pv.ArraysData(),
        training=pv.Training(epochs=1, batch_size=4),
    )
    run = pv.train(experiment, data=pv.Arrays(x), out=tmp_path / "run", quiet=True, num_samples=3)
    assert run.result["num_data"] == 1
    assert run.result["elbo"]["standard_error"] is None
    assert any("undetermined" in text for _, text in card_lines(run.result))
    assert run.experiment.data.name == "arrays"


def test_an_empty_split_is_refused(tmp_path):
    run = pv.train(tiny("data.validation=0"), out=tmp_path / "run", quiet=True, num_samples=5)
    for refused in (lambda: run.batch("validation"), lambda: run.evaluate("validation")):
        with pytest.raises(DeclarationError, match="'validation': holds no data"):
            refused()


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path):
    run = pv.train(tiny(), out=tmp_path / "run", quiet=True, num_samples=5)
    newest = checkpoints.latest(run.directory / "checkpoints")
    path = newest / "model.safetensors"
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(bytes(body))
    with pytest.warns(UserWarning, match="damaged"):
        resumed = pv.resume(run.directory, quiet=True, num_samples=5)
    assert resumed.result["elbo"] == run.result["elbo"]


@pytest.mark.parametrize("name", ["environment.json", "result.json"])
def test_a_damaged_file_is_named(tmp_path, name):
    run = pv.train(tiny(), out=tmp_path / "run", quiet=True, num_samples=5)
    (run.directory / name).write_text('{"name": ')
    with pytest.raises(DeclarationError, match=f"{name}: cannot be read: it is no JSON"):
        _ = run.result, run.environment


def test_every_checkpoint_damaged(tmp_path):
    run = pv.train(tiny(), out=tmp_path / "run", quiet=True, num_samples=5)
    for path in run.directory.glob("checkpoints/*/model.safetensors"):
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(DeclarationError, match="no whole checkpoint"):
        _ = pv.load(run.directory).vae


def test_from_starts_at_the_other_runs_parameters(tmp_path):
    first = pv.train(tiny(), out=tmp_path / "first", quiet=True, num_samples=5)
    experiment = tiny("training.epochs=1", "training.optimizer.learning_rate=1e-12")
    second = pv.train(experiment, out=tmp_path / "second", start_from=first, quiet=True, num_samples=5)
    a, b = first.vae.state_dict(), second.vae.state_dict()
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)
    with pytest.raises(DeclarationError, match="do not fit this variant"):
        pv.train(tiny("latent.dim=3"), out=tmp_path / "third", start_from=first, quiet=True)
    assert not (tmp_path / "third").exists()


def test_early_stopping_keeps_the_best_weights(tmp_path):
    rule = "training.early_stopping={patience: 2, min_delta: 1000}"  # nothing improves by that much
    run = pv.train(tiny("training.epochs=50", rule), out=tmp_path / "run", quiet=True, num_samples=5)
    assert run.result["epochs"] == 1  # the card is that of the best epoch, which is what the run holds
    state = weights(run.directory)[1]
    assert (state["epoch"], state["waited"], state["stopped"]) == (3, 2, True)
    best = checkpoints.load(checkpoints.step_folder(run.directory / "checkpoints", state["best_step"]))[0]["model"]
    assert all(torch.equal(best[name], value) for name, value in pv.load(run.directory).vae.state_dict().items())


def test_a_step_that_is_not_finite_names_itself(tmp_path):
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    experiment = pv.Experiment(
        variant=pv.Variant(latent=pv.Latent(dim=2), encoder=pv.MLP(widths=[8]), decoder=pv.MLP(widths=[8])),
        training=pv.Training(epochs=3, batch_size=16, checkpoint_every=1),
    )
    data = load(experiment.data, arrays=pv.Arrays(x))
    vae = build(experiment, data, torch.device("cpu"))
    trainer = Trainer(experiment, data, vae, tmp_path, compiled=False, quiet=True)
    trainer.train_data.x[:] = torch.inf
    with pytest.raises(pv.NumericsError, match=r"step \d+ \(epoch 1, batch of training data .*log p at x"):
        trainer.run()
    assert all(torch.isfinite(p).all() for p in vae.parameters())


def test_bfloat16_and_float64_train(tmp_path):
    found = {}
    for precision in ("float32", "bfloat16", "float64"):
        run = pv.train(tiny(f"training.precision={precision}"), out=tmp_path / precision, quiet=True, num_samples=20)
        found[precision] = run.result["elbo"]["value"]
        dtype = torch.float64 if precision == "float64" else torch.float32
        assert next(run.vae.parameters()).dtype == dtype
    assert found["float32"] == pytest.approx(found["float64"], abs=0.5)
    assert found["bfloat16"] == pytest.approx(found["float64"], abs=1.0)


def test_an_autoencoder_reports_no_likelihood(tmp_path):
    run = pv.train(tiny(name="autoencoder"), out=tmp_path / "run", quiet=True, num_samples=5)
    card = run.result
    assert card["elbo"] is None
    assert card["log_likelihood"] is None
    assert card["kl"] is None
    assert card["khat"] is None
    with pytest.raises(DeclarationError, match="guide is a point"):
        run.score(run.batch())


def test_l2_autoencoder_loss_is_squared_error_and_half_beta_z_squared(tmp_path):
    experiment = pv.load_experiment("autoencoder-l2")
    data = load(experiment.data)
    vae = build(experiment, data, torch.device("cpu"))
    objective = experiment.objective.build(vae)
    x = data.train.x[:32].float() / 16
    d = vae.heads["z"].raw(vae.body(x), None, None, None)
    reconstruction = vae.likelihood.decoded(d, None, None)[0]
    loss, _ = objective(pv.Batch(x), {"beta": torch.tensor(0.01)})
    constant = 32 * math.log(math.pi) + 0.01 * 4 * math.log(2 * math.pi)  # 64/2 log(2 pi sigma^2), 8/2 beta log(2 pi)
    expected = (x - reconstruction).square().sum((1, 2, 3)).mean() + 0.005 * d.square().sum(-1).mean()
    assert loss.item() == pytest.approx(expected.item() + constant, rel=1e-5)


def test_partly_labelled_digits_train_and_classify(tmp_path):
    """Test labels are hidden from the model; p(y | x) comes from the model by Bayes over the classes."""
    overrides = [
        "labels={digit: {classes: 10, observed: partly, rule: sum}}",
        "data.labels_kept=600",
        "training.epochs=15",
        "training.batch_size=64",
        "encoder.widths=[64]",
        "training.optimizer.learning_rate=5e-3",
    ]
    run = pv.train(tiny(*overrides), out=tmp_path / "run", quiet=True, num_samples=20)
    assert run.result["density"] == "x"
    tree = run.posterior(50, range(100))
    mode = [np.bincount(column, minlength=10).argmax() for column in tree["posterior"]["digit"].values[0].T]
    accuracy = np.mean(np.array(mode) == tree["constant_data"]["digit"].values)
    assert accuracy > 0.5  # chance is 0.1
    assert (run.batch("test").y == -1).all()
    assert (run.data.test.attributes["digit"] >= 0).all()


def test_posterior_tree_of_a_run(tmp_path):
    run = pv.train(tiny(), out=tmp_path / "run", quiet=True, num_samples=5)
    tree = run.posterior(num_draws=30, observations=[4, 2, 7])
    assert tree["posterior"]["z"].dims == ("chain", "draw", "obs", "z_dim")
    assert list(tree["posterior"]["obs"].values) == [4, 2, 7]
    stats = tree["sample_stats"]
    np.testing.assert_allclose(stats["log_w"], stats["log_p"] - stats["log_q"], rtol=1e-5, atol=1e-4)
    codes = run.encode(run.batch(observations=[4, 2, 7]))
    error = codes.sd["z"].numpy() / np.sqrt(30)
    assert (np.abs(tree["posterior"]["z"].values[0].mean(0) - codes.mean["z"].numpy()) < 5 * error).all()
    import arviz as az

    again = az.from_netcdf(run.directory / "posterior.nc")
    np.testing.assert_array_equal(again["posterior"]["z"], tree["posterior"]["z"])
    assert json.loads(again.attrs["experiment"]) == run.experiment.tree()


def test_arrays_in_memory(tmp_path):
    x = (np.random.default_rng(0).random((120, 6, 5)) > 0.5).astype(np.uint8)
    experiment = tiny(
        "training.batch_size=32",
        "data={name: digits}",
        "likelihood=bernoulli",
        "data.binarize=none",
        "data.name=arrays",
    )
    run = pv.train(experiment, data=pv.Arrays(x, np.arange(120) % 3), out=tmp_path / "run", quiet=True, num_samples=5)
    assert run.result["num_data"] == 12
    with pytest.raises(DeclarationError, match="arrays in memory"):
        _ = pv.load(run.directory).data
    assert len(pv.load(run.directory, data=pv.Arrays(x, np.arange(120) % 3)).data.train) == len(run.data.train)


def test_covariates(tmp_path):
    """Given in training, seen by encoder and decoder, and needed to generate: those of the test data by default."""
    rng = np.random.default_rng(0)
    given = rng.normal(size=(200, 2)).astype(np.float32)
    x = (given @ rng.normal(size=(2, 6)) + 0.1 * rng.normal(size=(200, 6))).astype(np.float32)
    experiment = pv.Experiment(
        variant=pv.Variant(latent=pv.Latent(dim=1), encoder=pv.MLP(widths=[8]), decoder=pv.MLP(widths=[16])),
        training=pv.Training(epochs=300, batch_size=32, optimizer=pv.Optimizer(learning_rate=1e-2)),
    )
    run = pv.train(experiment, data=pv.Arrays(x, given=given), out=tmp_path / "run", quiet=True, num_samples=5)
    _, mean, _ = run.sample(20)
    explained = 1 - (mean - run.data.test.x).var() / run.data.test.x.var()
    assert explained > 0.8  # the covariates say nearly everything; a decoder without them explains nothing
    tree = run.posterior(10, observations=[0, 1])
    assert tree["prior_predictive"]["x"].shape == (1, 10, 6)


def test_refusals_write_nothing(tmp_path):
    with pytest.raises(DeclarationError, match=r"batch_size=100000: there are 1293 training data"):
        pv.train(tiny("training.batch_size=100000"), out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(DeclarationError, match="not empty"):
        pv.train(tiny(), out=tmp_path / "full", quiet=True)
    assert os.listdir(tmp_path / "full") == ["notes.txt"]


def test_compile_is_decided_from_the_plan():
    data, cpu = load(pv.DigitsData()), torch.device("cpu")
    for overrides, expected in (([], False), (["training.epochs=5000"], True), (["training.compile=off"], False)):
        compiled, reason = decide_compile(tiny(*overrides), data, cpu)
        assert compiled == expected
        assert reason


def test_small_steps_take_one_thread(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    data, cpu = load(pv.DigitsData()), torch.device("cpu")
    many = ["objective=iwae", "objective.num_particles=500"]
    for overrides, expected in (([], 1), (["encoder.widths=[2000, 2000]"], 4), (["encoder=conv"], 4), (many, 4)):
        experiment = tiny(*overrides)
        assert choose_threads(experiment, build(experiment, data, cpu)) == expected


def test_threads_are_as_before_afterwards(tmp_path):
    before = torch.get_num_threads()
    pv.train(tiny(), out=tmp_path / "run", quiet=True, num_samples=1)
    assert torch.get_num_threads() == before


def test_no_compiler_no_compilation(monkeypatch):
    monkeypatch.setattr("pyro_vae.planning.shutil.which", lambda name: None)
    compiled, reason = decide_compile(tiny("training.compile=on"), load(pv.DigitsData()), torch.device("cpu"))
    assert not compiled
    assert "install g++" in reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named():
    with pytest.raises(DeclarationError, match="no GPU is visible"):
        choose_device("cuda")


def test_a_second_signal_acts_at_once():
    def impatient(caught):
        os.kill(os.getpid(), signal.SIGINT)
        assert caught == [signal.SIGINT]
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    with signals() as caught, pytest.raises(KeyboardInterrupt):
        impatient(caught)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_many_compiled_trainings_in_one_process(tmp_path):
    """More than PyTorch keeps versions of one piece of code, each with another shape."""
    for i in range(10):
        overrides = ["training.compile=on", "training.epochs=1", f"latent.dim={i + 1}"]
        run = pv.train(tiny(*overrides), out=tmp_path / str(i), quiet=True, num_samples=1)
        plain = pv.train(tiny(*overrides, "training.compile=off"), out=tmp_path / f"p{i}", quiet=True, num_samples=1)
        assert run.result["elbo"]["value"] == pytest.approx(plain.result["elbo"]["value"], abs=1e-2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_run_resumes_bit_identically(tmp_path):
    """As above with the step compiled: the resumed run obeys the decision of the first."""
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    extra = ["training.compile=on", "training.batch_size=16"]
    assert subprocess.run([*COMMAND, *extra, "--out", str(straight)], check=False).returncode == 0
    process = _start(cut, *extra)
    _wait_for_epoch(cut, 10, process)
    process.kill()
    process.communicate()
    resumed = [sys.executable, "-m", "pyro_vae", "train", "--resume", str(cut), "--samples", "1", "--quiet"]
    assert subprocess.run(resumed, check=False, stdout=subprocess.DEVNULL).returncode == 0
    (a, _), (b, state) = weights(straight), weights(cut)
    assert state["compiled"]
    assert all(torch.equal(t, b["model"][name]) for name, t in a["model"].items())


# ------------------------------------------------------------------------------------------- what a user is told


def test_a_stopped_evaluation_says_how_to_go_on(tmp_path, monkeypatch):
    """The training is done and stays; one command makes the card."""

    def pressed(self, part, num_samples, progress, world):
        os.kill(os.getpid(), signal.SIGINT)
        progress(1)

    monkeypatch.setattr(pv.Run, "evaluate", pressed)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(
        pv.Interrupted, match=r"evaluation was stopped by SIGINT; .* pyro-vae evaluate .*run$"
    ) as caught:
        pv.train(tiny(), out=tmp_path / "run", quiet=True)
    assert caught.value.folder == tmp_path / "run"
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.undo()
    assert pv.load(tmp_path / "run").evaluate(num_samples=2)["num_data"] > 0


@pytest.mark.parametrize("quiet", [True, False])
def test_few_steps_are_said_to_be_few_unless_all_shall_be_quiet(tmp_path, caplog, quiet):
    pv.train(tiny("training.epochs=1"), out=tmp_path / "run", quiet=quiet, num_samples=1)
    assert ("steps in all, which is few: lower training.batch_size" in caplog.text) is not quiet


def test_a_finished_training_is_said_to_be_finished(tmp_path, caplog):
    pv.train(tiny(), out=tmp_path / "run", quiet=True, num_samples=1)
    with caplog.at_level("INFO", logger="pyro_vae"):
        pv.resume(tmp_path / "run", quiet=True, num_samples=1)
    assert "the training was finished" in caplog.text


def test_a_name_is_no_experiment():
    with pytest.raises(pv.DeclarationError, match=r"experiment='vae-sigma': must be an Experiment; .*load_experiment"):
        pv.train("vae-sigma")
