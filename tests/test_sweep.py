"""Sweeps: what a file may say, which trials are done, how they end, and what is made of them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import trained
from test_cli import mistake

import pyro_vae as pv
from pyro_vae import sweep as sweeping
from pyro_vae import workers
from pyro_vae.data import load as load_data
from pyro_vae.experiment import experiment_from
from pyro_vae.interruption import Interrupted
from pyro_vae.records import Metrics, read_json
from pyro_vae.search import CORNERS
from pyro_vae.specs import DeclarationError
from pyro_vae.swept import claim_path, final_score
from pyro_vae.workers import Claim, LostClaim, claimed

optuna = pytest.importorskip("optuna")

ROOT = Path(__file__).parent.parent
SMALL = "variant: {encoder: {widths: [8]}, decoder: {widths: [8]}}\ntraining: {epochs: 2, batch_size: 256}\n"
GREY = ["likelihood=normal", "data.binarize=none"]
COUNTS = ("latent.dim", "training.epochs", "objective.num_particles", "training.early_stopping.patience")
SPACE = "{latent.dim: {kind: int, low: 1, high: 8}, training.clip_norm: {kind: float, low: 1.0, high: 9.0}}"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A file with a sweep, in a working directory that holds nothing else."""
    monkeypatch.chdir(tmp_path)

    def file(search=f"space: {SPACE}", head=SMALL):
        lines = "".join(f"  {line}\n" for line in search.splitlines())
        (tmp_path / "mine.yaml").write_text(f"{head}sweep:\n{lines}")
        return "mine.yaml"

    return file


@pytest.fixture
def declared(write):
    return lambda search=f"space: {SPACE}", words=(): pv.load_sweep(write(search), words)


@pytest.fixture
def faked(monkeypatch):
    """Trials that train nothing: their score at each of two epochs is what a function of the values says."""
    done = []

    def replace(score=lambda values: -values["latent.dim"]):
        def fake(place, trial, values, report):
            done.append((trial.number, values))
            for epoch in (1, 2):
                report.metrics(Metrics(epoch, epoch, "validation", 1.0, score(values), None, None, 0.0))
            return score(values)

        monkeypatch.setattr(sweeping, "_trained", fake)
        return done

    return replace


def swept(sweep, out, **options):
    return pv.run_sweep(sweep, out=out, quiet=True, top=0, **options)


def resumed(out, **options):
    return pv.resume_sweep(out, quiet=True, top=0, **options)


def by_number(found):
    return [
        (row["trial"], row["values"], row["score"], row["state"])
        for row in sorted(found.trials, key=lambda r: r["trial"])
    ]


# ------------------------------------------------------------------------------------------------------- the file


def test_a_base_and_what_changes_it(tmp_path, write):
    (tmp_path / "base.yaml").write_text("variant: {prior: {kind: vamp, components: 7}, latent: {dim: 3}}\nseed: 5\n")
    head = (
        "base: base.yaml\nvariant: {likelihood: normal, prior: {components: 9}}\ntraining: {optimizer: {eps: 1e-3}}\n"
    )
    sweep = pv.load_sweep(write(head=head), ["sweep.trials=3", "training.epochs=4"])
    experiment = sweep.experiment({"latent.dim": 6, "training.clip_norm": 2.0})
    words = ["prior={kind: vamp, components: 9}", "latent.dim=6", "likelihood=normal", "seed=5", "training.epochs=4"]
    words += ["training.optimizer.eps=1e-3", "training.clip_norm=2.0"]
    assert experiment == experiment_from({}, words)
    assert sweep.sweep.number == 3
    named = pv.load_sweep(write(head="base: iwae\nvariant: {prior: {kind: vamp}}\n"))
    for base, said in (
        ("mine.yaml", "is a sweep itself"),
        ("no-such-thing", "no variant of that name"),
        ("[1]", "must be a"),
    ):
        with pytest.raises(DeclarationError, match=said):
            pv.load_sweep(write(head=f"base: {base}\n"))
    assert (named.objective, named.variant.prior) == (pv.load_experiment("iwae").objective, pv.Vamp())


def test_fields_inside_others_come_after_them(declared):
    space = "{prior.components: {kind: int, low: 3, high: 9}, prior: {values: [vamp, mixture]}}"
    sweep = declared(f"space: {space}")
    for kind in ("vamp", "mixture"):
        prior = sweep.experiment({"prior.components": 4, "prior": kind}).variant.prior
        assert (prior.kind, prior.components) == (kind, 4)


@pytest.mark.parametrize(
    ("search", "lines"),
    [
        ("trials: 3", ["sweep.space: is required"]),
        ("space: {}", ["sweep.space: is empty"]),
        (
            "space: {latent.dims: {values: [1, 2]}, training.epochs: {kind: int, low: 0, high: 2}, "
            "prior: {values: [vamp, vump]}}",
            [
                "sweep.space: variant.latent.dims: unknown key",
                "sweep.space: training.epochs=0: ",
                "sweep.space: variant.prior: no prior is called 'vump'",
            ],
        ),
        (
            "space: {data.binarize: {values: [dynamic, static]}, seed: {kind: int, low: 0, high: 3}}",
            ["sweep.space.data.binarize: a sweep picks by", "sweep.space.seed: a sweep picks by"],
        ),
        (
            "space: {latent.dim: {kind: int, low: 1, high: 2}, variant.latent.dim: {kind: int, low: 3, high: 4}}",
            ["sweep.space.latent.dim: is variant.latent.dim, which is there too"],
        ),
        (
            "space: {a: {kind: int, low: 4, high: 4}, b: {kind: float, low: 0, high: 1, log: true}, "
            "c: {kind: float, low: 0, high: 1, step: 0.3}, d: {values: [1]}, e: {values: [1, '1', 2]}, "
            "f: {kind: int, low: 1, high: 9, step: 2, log: true}, g: {kind: floot, low: 1}}\n"
            "sampler: cmaes\npruner: {kind: hyperband, warmup_epochs: 3}",
            [
                "sweep.space.a.low=4: must be below high=4",
                "sweep.space.b.low=0.0: must be above 0",
                "sweep.space.c.step=0.3: does not lead from",
                "sweep.space.d.values: must be two or more",
                "sweep.space.e.values: 1 is there more than once",
                "sweep.space.f.step=2: has no meaning",
                "sweep.space.g: no range is called 'floot'. Did you mean 'float'",
                "sweep.sampler: no sampler is called 'cmaes'",
                "sweep.pruner.warmup_epochs: unknown key",
            ],
        ),
        (
            "space: {latent.dim: {kind: int, low: 1, high: 8, log: true}, training.clip_norm: {kind: float, low: 1, "
            "high: 2}}\nsampler: grid\ntrials: 4",
            [
                "sweep.space.latent.dim: has no steps",
                "sweep.space.training.clip_norm: has no steps",
                "sweep.trials=4: has no effect",
            ],
        ),
    ],
)  # fmt: skip
def test_every_mistake_of_a_file_is_said_at_once(write, refused, tmp_path, search, lines):
    found = [line.removeprefix("pyro-vae: ") for line in refused("sweep", write(search))]
    assert len(found) == len(lines)
    for said, start in zip(sorted(found), sorted(lines), strict=True):
        assert said.startswith(start)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_mistakes_between_two_fields_are_seen_before_the_first_trial(declared):
    space = "{training.epochs: {kind: int, low: 2, high: 9}, training.schedule.warmup_epochs: {values: [0.0, 5.0]}}"
    with pytest.raises(DeclarationError, match=r"(?s)^sweep.space: training.schedule.warmup_epochs=5 is longer.*$"):
        declared(f"space: {space}")


def test_of_many_ends_each_is_checked(declared):
    ranges = {f"{name}": (1, 9 + i) for i, name in enumerate(COUNTS)}
    space = ", ".join(f"{name}: {{kind: int, low: {low}, high: {high}}}" for name, (low, high) in ranges.items())
    many = list(range(1, CORNERS + 20))
    corners = list(declared(f"space: {{{space}, training.batch_size: {{values: {many}}}}}").sweep.corners())
    assert CORNERS < len(corners) < 2 * CORNERS < 2 ** len(COUNTS) * len(many)
    for name, ends in {**ranges, "training.batch_size": many}.items():
        assert {corner[name] for corner in corners} == set(ends)


@pytest.mark.parametrize(
    ("space", "words", "said"),
    [
        (SPACE, ["data.validation=0"], "data.validation=0: a sweep picks by validation data"),
        ("{training.batch_size: {values: [64, 5000]}}", [], "sweep.space: training.batch_size=5000: there are 1293"),
        (
            "{likelihood: {values: [{kind: discretized_logistic, levels: 17}, normal]}}",
            ["data.binarize=none"],
            "sweep.space: the score is the ELBO of log p(x), a probability with likelihood={'kind': "
            "'discretized_logistic', 'levels': 17}, and the ELBO of log p(x), a density with likelihood=normal; only",
        ),
        (
            "{labels.digit.observed: {values: [always, never]}}",
            ["labels={digit: {classes: 10}}"],
            "sweep.space: the score is the ELBO of log p(x|y) with y = digit, a density with ",
        ),
        (
            "{guide: {values: [diagonal_normal, point]}}",
            GREY,
            "sweep.space: the score is the ELBO of log p(x), a density with guide=diagonal_normal, and minus the loss ",
        ),
        (
            "{objective.beta: {values: [1.0, 2.0]}}",
            ["guide=point", *GREY],
            "sweep.space: the score is minus",
        ),
    ],
)
def test_only_like_with_like(declared, space, words, said):
    sweep = declared(f"space: {space}", words)
    with pytest.raises(DeclarationError) as caught:
        sweeping.check_sweep(sweep, load_data(sweep.data, 0))
    (problem,) = caught.value.problems
    assert problem.startswith(said)


def test_what_compares_is_not_refused(declared):
    """The ELBO at beta = 1 is the same quantity whatever was trained; so is the loss of one objective."""
    space = "{objective: {values: [elbo, {kind: elbo, beta: 4.0}, iwae, mmd]}, prior: {values: [vamp, flow]}}"
    for sweep in (declared(f"space: {space}"), declared(words=["guide=point", *GREY])):
        sweeping.check_sweep(sweep, load_data(sweep.data, 0))


# --------------------------------------------------------------------------------------------------------- trials


def test_a_grid_is_every_combination_once(declared, faked, tmp_path):
    done = faked()
    space = "{latent.dim: {kind: int, low: 1, high: 5, step: 2}, prior: {values: [vamp, {kind: flow, layers: 2}]}}"
    found = swept(declared(f"space: {space}\nsampler: grid\npruner: none"), tmp_path / "out")
    expected = [(i, prior) for i in (1, 3, 5) for prior in ("vamp", {"kind": "flow", "layers": 2})]
    assert [(values["latent.dim"], values["prior"]) for _, values in done] == expected
    assert [number for number, _ in done] == list(range(6))
    assert [row["score"] for row in found.trials] == [-1, -1, -3, -3, -5, -5]
    assert found.best["values"] == {"latent.dim": 1, "prior": "vamp"}
    assert len(resumed(tmp_path / "out").trials) == len(done) == 6  # nothing is left to do


@pytest.mark.parametrize("sampler", ["random", "{kind: tpe, startup_trials: 3}"])
def test_one_worker_repeats_also_after_a_stop(declared, faked, tmp_path, sampler):
    sweep = declared(f"space: {SPACE}\ntrials: 9\nsampler: {sampler}\npruner: none")
    score = lambda values: -abs(values["latent.dim"] - 4) - abs(values["training.clip_norm"] - 7)
    done = faked(score)
    straight, again = swept(sweep, tmp_path / "a"), swept(sweep, tmp_path / "b")
    assert by_number(straight) == by_number(again)
    assert by_number(straight) != by_number(swept(sweep.replace(seed=1), tmp_path / "c"))
    assert len({str(values) for _, values in done[:9]}) == 9

    calls = []

    def stopped(values):
        calls.append(len(done))
        if calls.count(5) == 2:  # after the first epoch, which will be reported again
            raise Interrupted(signal.SIGINT, tmp_path)
        return score(values)

    done.clear()
    faked(stopped)
    with pytest.raises(Interrupted, match="pyro-vae sweep --resume"):
        swept(sweep, tmp_path / "d")
    faked(score)
    assert by_number(resumed(tmp_path / "d")) == by_number(straight)
    assert [number for number, _ in done] == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8]  # the same trial, and no other, goes on


@pytest.mark.parametrize(
    ("pruner", "epochs"),
    [
        ("{kind: median, startup_trials: 1}", [2, 1, 1]),
        ("{kind: median, startup_trials: 1, warmup_epochs: 1}", [2, 2, 2]),
        ("{kind: median, startup_trials: 2}", [2, 2, 1]),
        ("hyperband", [2, 1, 1]),
        ("none", [2, 2, 2]),
    ],
)
def test_pruners(declared, faked, tmp_path, pruner, epochs):
    """Every trial of these is worse than the one before."""
    faked()
    space = "{latent.dim: {values: [1, 2, 3]}}"
    found = swept(declared(f"space: {space}\nsampler: grid\npruner: {pruner}"), tmp_path / "out")
    rows = sorted(found.trials, key=lambda row: row["trial"])
    assert [row["epochs"] for row in rows] == epochs
    assert [row["state"] for row in rows][0] == "completed"
    assert ("pruned" in {row["state"] for row in rows}) == (pruner != "none")


def test_the_sampler_learns(declared, faked, tmp_path):
    """Negative control of the seed: TPE, too, must not draw the same in every trial."""
    faked(lambda values: -abs(values["training.clip_norm"] - 7))
    found = swept(declared(f"space: {SPACE}\ntrials: 40\nsampler: {{kind: tpe, startup_trials: 5}}"), tmp_path / "out")
    late = [abs(row["values"]["training.clip_norm"] - 7) for row in found.trials if row["trial"] >= 20]
    assert sorted(late)[len(late) // 2] < 1  # at random 2 to 3


def test_more_trials(declared, faked, tmp_path, refused):
    done = faked()
    swept(declared(f"space: {SPACE}\ntrials: 2"), tmp_path / "out")
    for number in range(2):
        (tmp_path / "out" / f"trial_{number:04d}").mkdir()
    assert len(resumed(tmp_path / "out", trials=4).trials) == 4
    assert [number for number, _ in done] == [0, 1, 2, 3]
    assert pv.load_sweep(str(tmp_path / "out" / "sweep.yaml")).sweep.trials == 4
    assert mistake(refused, "sweep", "--resume", tmp_path / "out", "--trials", 1).startswith("--trials 1: 2 trials are")


def test_failures(declared, faked, tmp_path):
    """What a trial's values do to it is a result; what is wrong with the declaration or with us is not."""
    errors = [pv.NumericsError("step 3: not finite"), MemoryError(), RuntimeError("can't allocate memory: 9 GB")]

    def fail(values):
        if len(done) <= len(errors):
            raise errors[len(done) - 1]
        return 1.0

    done = faked(fail)
    found = swept(declared(f"space: {SPACE}\ntrials: 5"), tmp_path / "out")
    said = {row["trial"]: (row["state"], row["error"]) for row in found.trials}
    assert said == {
        0: ("failed", "step 3: not finite"),
        1: ("failed", "MemoryError"),
        2: ("failed", "can't allocate memory: 9 GB"),
        3: ("completed", None),
        4: ("completed", None),
    }
    assert [row["rank"] for row in found.trials] == [1, 2, None, None, None]
    for error, wrong in ((DeclarationError(["a: b"]), "trial 5, latent.dim=.*: a: b"), (RuntimeError("bug"), "bug")):
        errors[:] = [error] * 99
        with pytest.raises(type(error), match=wrong):
            resumed(tmp_path / "out", trials=9)
    errors.clear()
    found = resumed(tmp_path / "out")
    assert sorted(row["trial"] for row in found.trials if row["state"] == "failed") == [0, 1, 2, 5, 6]


def test_importances_of_ten_trials_or_more(declared, faked, tmp_path):
    faked()
    sweep = declared(f"space: {SPACE}\ntrials: 9\nsampler: random\npruner: none")
    assert swept(sweep, tmp_path / "out").importances is None
    found = resumed(tmp_path / "out", trials=20)
    assert list(found.importances) == ["latent.dim", "training.clip_norm"]
    assert found.importances["latent.dim"] > 0.8
    assert "share of the score's variance" in str(found)


def test_no_trial_is_left_out_of_what_is_said(declared, faked, tmp_path):
    """While another worker, here one on another host, has a trial, there is no comparison yet."""
    done = faked()
    sweep = declared(f"space: {SPACE}\ntrials: 3")

    def elsewhere(values):
        if len(done) == 2:
            raise Interrupted(signal.SIGINT, tmp_path)
        return 1.0

    faked(elsewhere)
    with pytest.raises(Interrupted):
        swept(sweep, tmp_path / "out")
    path = claim_path(tmp_path / "out", 1)
    path.write_text(json.dumps({"host": "another", "process": 1, "id": "x"}))
    faked()
    found = resumed(tmp_path / "out")
    assert [row["state"] for row in found.trials] == ["completed", "completed", "running"]
    assert "trial 1: not done yet; pyro-vae sweep --resume" in found.notes[0]
    os.utime(path, (0, 0))  # the other host has not been heard of for long
    assert [row["state"] for row in resumed(tmp_path / "out").trials] == ["completed"] * 3
    assert not any((tmp_path / "out" / "workers").iterdir())


def test_claims(tmp_path, monkeypatch):
    path = tmp_path / "workers" / "one.json"
    assert not claimed(path)
    first = Claim(path)
    first.check()
    monkeypatch.setattr(workers.os, "getpid", lambda: 10**9)  # as another process sees it
    assert claimed(path)
    second = Claim(path)
    with pytest.raises(LostClaim):
        first.check()
    with first.held():
        pass
    second.check()  # letting go of a lost claim does not take it from its owner
    monkeypatch.undo()
    assert not claimed(path)  # there is no process of that number
    with second.held():
        assert path.exists()
    assert not path.exists()


def test_a_claim_is_kept_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "BEAT", 0.01)
    path = tmp_path / "one.json"
    claim = Claim(path)
    with claim.held():
        os.utime(path, (0, 0))
        end = time.monotonic() + 10
        while path.stat().st_mtime < 1 and time.monotonic() < end:
            time.sleep(0.01)
        assert path.stat().st_mtime > 1


# ---------------------------------------------------------------------------------------------------- real trials

RATES = """space: {training.optimizer.learning_rate: {values: [1e-2, 3e-3, 1e-7]}}
sampler: grid
pruner: {kind: median, startup_trials: 2}"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep with a trial that learns nothing."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "mine.yaml").write_text(SMALL + "sweep:\n" + "".join(f"  {line}\n" for line in RATES.splitlines()))
    sweep = pv.load_sweep(str(folder / "mine.yaml"), ["training.epochs=3"])
    return pv.run_sweep(sweep, out=folder / "out", quiet=True, num_samples=20)


def scores(run):
    return [row["elbo"] for row in pv.load(run).metrics if row["split"] == "validation"]


def test_the_best_is_that_of_the_metrics(finished):
    assert [row["trial"] for row in finished.trials] == [0, 1, 2]
    assert [row["rank"] for row in finished.trials] == [1, 2, None]
    for row in finished.trials:
        assert row["score"] == scores(row["run"])[-1]
    assert finished.best["score"] == max(scores(row["run"])[-1] for row in finished.trials)


def test_a_hopeless_trial_is_ended_early(finished):
    row = finished.trials[-1]
    assert (row["state"], row["epochs"], len(scores(row["run"]))) == ("pruned", 1, 1)
    assert [row["epochs"] for row in finished.trials[:2]] == [3, 3]


def test_trials_are_ordinary_runs(finished):
    for row, rate in zip(finished.trials, (1e-2, 3e-3, 1e-7), strict=True):
        run = pv.load(row["run"])
        assert run.experiment.training.optimizer.learning_rate == rate
        assert (run.directory / "result.json").exists() == (row["rank"] is not None)  # none looks at test data before
    assert pv.resume(finished.trials[-1]["run"], quiet=True, num_samples=5).result["epochs"] == 3


def test_the_best_are_compared(finished):
    tree = finished.comparison.tree()
    assert {row["run"] for row in tree["runs"]} == {row["run"] for row in finished.trials[:2]}
    assert (tree["split"], tree["num_importance_samples"], tree["num_data"]) == ("test", 20, 360)
    assert read_json(finished.directory / "sweep.json") == json.loads(json.dumps(finished.tree()))


def test_the_command_says_the_same(finished, done):
    out = done("sweep", "--resume", finished.directory, "--samples", 20, "--quiet")
    assert "best by validation" in out
    assert "log p(x), nats per datum; test, 360 data, 20 importance samples" in out
    assert out.endswith(f"sweep: {finished.directory}\n")
    tree = json.loads(done("sweep", "--resume", finished.directory, "--samples", 20, "--json"))
    assert [row["trial"] for row in tree["trials"]] == [0, 1, 2]
    assert len(tree["comparison"]["runs"]) == 2
    tree = json.loads(done("sweep", "--resume", finished.directory, "--samples", 20, "--json", "--top", 1))
    assert tree["comparison"] is None


def test_with_early_stopping_the_score_is_that_of_the_weights_kept(tmp_path_factory):
    words = ["training.epochs=8", "training.optimizer.learning_rate=1.0", "training.early_stopping.patience=8"]
    run = trained(tmp_path_factory, "encoder.widths=[8]", "decoder.widths=[8]", "training.batch_size=256", *words)
    assert max(scores(run)) != scores(run)[-1]
    assert final_score(run) == max(scores(run))


def test_data_in_memory(declared, tmp_path):
    sweep = declared("space: {latent.dim: {values: [1, 2]}}\nsampler: grid", GREY)
    x = load_data(pv.DigitsData(), 0).train.x[:400].float() / 16
    found = pv.run_sweep(sweep, pv.Arrays(x.numpy()), tmp_path / "out", quiet=True, num_samples=5)
    assert found.comparison.num_data == 40
    with pytest.raises(DeclarationError, match="in memory"):
        pv.resume_sweep(tmp_path / "out", quiet=True)


def test_without_an_elbo(declared, tmp_path):
    """What is maximised is minus the loss, and there is no log p(x) to compare."""
    sweep = declared("space: {latent.dim: {values: [1, 2]}}\nsampler: grid", ["guide=point", *GREY])
    found = pv.run_sweep(sweep, out=tmp_path / "out", quiet=True, num_samples=5)
    losses = [row["loss"] for row in pv.load(found.best["run"]).metrics if row["split"] == "validation"]
    assert (found.score, found.best["score"]) == ("minus the validation loss", -losses[-1])
    assert found.comparison is None
    assert "no log p(x) to compare" in found.notes[0]


# ------------------------------------------------------------------------------------------------------- mistakes


def test_prepared_it_only_waits(write, done, faked):
    out = done("sweep", write(), "--trials", 3, "--out", "out", "--prepare")
    assert (out, [path.name for path in Path("out").iterdir()]) == ("sweep: out\n", ["sweep.yaml"])
    faked()
    assert len(resumed("out").trials) == 3


def test_mistakes_of_the_command(write, refused, tmp_path, monkeypatch):
    file = write()
    assert mistake(refused, "sweep").startswith("FILE: is missing")
    assert mistake(refused, "sweep", "training.epochs=3").startswith("FILE: is missing")
    assert mistake(refused, "sweep", "--resume", tmp_path).startswith(f"{tmp_path}: is no directory of a sweep")
    assert mistake(refused, "sweep", file, "--resume", tmp_path).startswith(f"--resume {tmp_path}: goes on as declared")
    assert mistake(refused, "sweep", "digits").startswith("sweep: is required")
    assert mistake(refused, "sweep", "--resume", tmp_path, "--prepare").startswith(f"--resume {tmp_path}: goes on")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert mistake(refused, "sweep", file).startswith("WORLD_SIZE: a sweep is not for torchrun")
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert mistake(refused, "sweep", file).endswith("pip install 'pyro_vae[sweep]'")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


# -------------------------------------------------------------------------------------------------- several workers

LONG = ["training.epochs=12", "training.batch_size=32"]
RANDOM = "space: {latent.dim: {kind: int, low: 1, high: 8}}\nsampler: random\npruner: none\ntrials: 3"


def start(*arguments):
    command = [sys.executable, "-m", "pyro_vae", "sweep", *map(str, arguments), "--samples", "2", "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process, code=0):
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err.decode()
    return out.decode(), err.decode()


def wait_for(path, lines, process):
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if path.exists() and len(path.read_text().splitlines()) >= lines:
            return
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.02)
    raise AssertionError("the worker did not come that far")


def rows(folder):
    """Every line of every trial but for the time it took."""
    return [
        [{k: v for k, v in row.items() if k != "seconds"} for row in pv.load(run).metrics]
        for run in sorted(folder.glob("trial_*"))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_worker_is_followed_by_another(write, tmp_path, how):
    file = write(RANDOM)
    ended(start(file, *LONG, "--out", "straight"))
    process = start(file, *LONG, "--out", "cut")
    wait_for(tmp_path / "cut" / "trial_0001" / "metrics.jsonl", 8, process)
    process.send_signal(how)
    _, said = ended(process, {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[how])
    assert how == signal.SIGKILL or "pyro-vae sweep --resume cut" in said
    assert not (tmp_path / "cut" / "trial_0002").exists()
    ended(start("--resume", "cut"))
    assert rows(tmp_path / "cut") == rows(tmp_path / "straight")
    straight, cut = (read_json(tmp_path / name / "sweep.json") for name in ("straight", "cut"))
    for a, b in zip(straight["trials"], cut["trials"], strict=True):
        assert {**a, "run": None} == {**b, "run": None}
    assert [row["difference"] for row in straight["comparison"]["runs"]] == [
        row["difference"] for row in cut["comparison"]["runs"]
    ]


@pytest.mark.slow
def test_two_workers_share_the_trials(write, tmp_path):
    file = write(RANDOM.replace("trials: 3", "trials: 9"))
    first = start(file, *LONG, "--out", "out")
    wait_for(tmp_path / "out" / "study.journal", 1, first)
    second = start("--resume", "out")
    wait_for(tmp_path / "out" / "workers" / "trial_0001.json", 1, first)
    ended(first), ended(second)
    tree = read_json(tmp_path / "out" / "sweep.json")
    assert sorted(row["trial"] for row in tree["trials"]) == list(range(9))
    assert {row["state"] for row in tree["trials"]} == {"completed"}
    assert len(tree["comparison"]["runs"]) == 5
    hosts = [json.loads(line) for line in (tmp_path / "out" / "study.journal").read_text().splitlines()]
    told = [line["worker_id"] for line in hosts if line["op_code"] == 6]
    assert len(told) == 9
    assert len(set(told)) == 2  # both have done some
    for run in rows(tmp_path / "out"):
        assert [row["step"] for row in run if row["split"] == "train"] == sorted({row["step"] for row in run})
    assert not any((tmp_path / "out" / "workers").iterdir())


@pytest.mark.slow
def test_the_scripts_for_slurm(write, tmp_path, monkeypatch):
    """The README's two scripts, each as two tasks of an array that run at the same time; Slurm itself is not there."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "pyro-vae"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m pyro_vae "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    shorter = {"training.epochs=20": "training.epochs=1 --samples 2", "--quiet": "--quiet --samples 2"}
    sweep, plain = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    write(RANDOM)
    subprocess.run(["pyro-vae", "sweep", "mine.yaml", "--out", "sweeps/mine", "--prepare"], check=True)
    for script in (
        sweep.replace("--quiet", shorter["--quiet"]),
        plain.replace("training.epochs=20", shorter["training.epochs=20"]),
    ):
        (tmp_path / "script").write_text(script)
        tasks = [
            subprocess.Popen(
                ["bash", "script"], env={**os.environ, "SLURM_ARRAY_TASK_ID": str(task)}, stdout=subprocess.DEVNULL
            )
            for task in range(2)
        ]
        assert [task.wait(300) for task in tasks] == [0, 0]
    tree = read_json(tmp_path / "sweeps" / "mine" / "sweep.json")
    assert [row["state"] for row in tree["trials"]] == ["completed"] * 3
    assert [pv.load(f"runs/seed-{task}").experiment.seed for task in range(2)] == [0, 1]


@pytest.mark.slow
def test_the_recipe_for_ray(tmp_path):
    """Where Ray is, which is no dependency of tests."""
    pytest.importorskip("ray")
    arguments = ["--trials", "2", "--epochs", "2", "--out", str(tmp_path / "out")]
    subprocess.run([sys.executable, ROOT / "analysis" / "ray_tune.py", *arguments], check=True)
    assert len(list((tmp_path / "out").glob("trial_*"))) == 2
