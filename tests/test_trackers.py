"""Trackers: what they are fed, continued runs, failures, missing packages; the real ones where they are installed."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Literal

import jsonschema
import pytest
from test_training import tiny

import pyro_vae as pv
from pyro_vae import callbacks, trackers
from pyro_vae.callbacks import Tracked, figures, flat
from pyro_vae.experiment import experiment_from, json_schema
from pyro_vae.files import parse_yaml
from pyro_vae.records import Metrics, read_json
from pyro_vae.specs import DeclarationError
from pyro_vae.trackers import TRACKERS

WORDS = ["tensorboard", "mlflow", "wandb"]


class Notes(pv.TrackerLog):
    """Keeps what it is told; fails as often as it is asked to."""

    def __init__(self, known):
        self.known, self.name = known, known or "number 1"
        self.written, self.closed, self.failures = [], [], 0

    def write(self, values, step):
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the line\nis dead")
        self.written.append((values, step))

    def close(self, whole):
        self.closed.append(whole)


class Notebook(pv.Tracker):
    """A tracker from outside of the package."""

    kind: Literal["notebook"] = "notebook"
    shut: bool = False

    def open(self, declared, folder, step, known):
        if self.shut:
            raise ConnectionError("nobody there")
        self.opened.append((declared, folder, step))
        self.logs.append(Notes(known))
        return self.logs[-1]


@pytest.fixture
def notebook(monkeypatch):
    """The class, registered, with what was opened and the logs of this test."""
    Notebook.opened, Notebook.logs = [], []
    pv.register(Notebook)
    yield Notebook
    TRACKERS._parts.pop("notebook")


def train(folder, *overrides, **options):
    return pv.train(tiny(*overrides), out=folder, quiet=True, num_samples=5, **options)


class Stop(pv.Callback):
    """Ends a training after an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def metrics(self, row):
        if row.epoch == self.epoch:
            raise KeyboardInterrupt


def expected(run):
    """What metrics.jsonl and result.json hold, as a tracker shall see it."""
    rows = [
        (
            {f"{row['split']}/{k}": v for k, v in row.items() if k not in ("step", "split") and v is not None},
            row["step"],
        )
        for row in run.metrics
    ]
    return [*rows, (figures(run.result), run.metrics[-1]["step"])]


def test_a_tracker_is_fed_the_declaration_the_rows_and_the_figures(tmp_path, notebook):
    run = train(tmp_path / "run", "training.trackers=[notebook]")
    ((declared, folder, step),), (log,) = notebook.opened, notebook.logs
    assert (folder, step) == (run.directory, 0)
    assert declared["training.epochs"] == 4
    assert declared["variant.encoder.widths"] == "[16]"
    assert declared["training.clip_norm"] == "null"
    assert all(isinstance(value, bool | int | float | str) for value in declared.values())
    assert log.written == expected(run)
    assert {"train/elbo", "validation/elbo"} < {name for values, _ in log.written for name in values}
    assert log.written[-1][0]["result/log_likelihood"] == run.result["log_likelihood"]["value"]
    assert log.written[-1][0]["result/elbo_standard_error"] == run.result["elbo"]["standard_error"]
    assert log.closed == [True]


def test_a_resumed_run_continues_in_the_tracker(tmp_path, notebook):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", "training.trackers=[notebook]", callbacks=[Stop(2)])
    assert len(notebook.logs[0].written) == 4
    assert notebook.logs[0].closed == [False]
    assert read_json(tmp_path / "run" / "trackers.json") == {"notebook": "number 1"}
    run = pv.resume(tmp_path / "run", quiet=True, num_samples=5)
    first, second = notebook.logs
    assert second.known == "number 1"
    assert notebook.opened[1][2] == run.metrics[3]["step"]
    assert first.written + second.written == expected(run)
    assert second.closed == [True]


def test_a_tracker_that_fails_does_not_end_the_training(tmp_path, notebook, monkeypatch, caplog):
    class Cuts(pv.Callback):
        def metrics(self, row):
            notebook.logs[0].failures = 2 if row.epoch == 1 else notebook.logs[0].failures

    monkeypatch.setattr(callbacks, "RETRY_SECONDS", 0)
    run = train(tmp_path / "run", "training.trackers=[notebook]", callbacks=[Cuts()])
    assert notebook.logs[0].written == expected(run), "in order, and each of them once"
    assert caplog.messages == [
        "training.trackers=notebook: ConnectionError: the line is dead; metrics.jsonl has everything"
    ]


def test_a_tracker_that_fails_is_left_alone_for_a_while_and_asked_once_more_at_the_end(tmp_path, notebook, caplog):
    tracked, row = Tracked(notebook()), Metrics(5, 1, "train", 1.0, None, 1.0, 0.0, 1.0)
    tracked.start(tiny(), tmp_path, 0)
    (log,) = notebook.logs
    log.failures = 2
    for _ in range(5):
        tracked.metrics(row)
    assert (log.failures, log.written) == (1, [])
    tracked.finish(None)
    assert (log.failures, log.written, log.closed) == (0, [], [False])
    assert len(caplog.messages) == 2
    assert caplog.messages[-1] == "training.trackers=notebook: lacks what was not sent: 5 rows"


def test_a_tracker_that_cannot_be_closed_takes_nothing_from_the_run(tmp_path, notebook, monkeypatch, caplog):
    def fail(self, whole):
        raise ConnectionError("gone")

    monkeypatch.setattr(Notes, "close", fail)
    run = train(tmp_path / "run", "training.trackers=[notebook]")
    assert notebook.logs[0].written == expected(run)
    assert caplog.messages == ["training.trackers=notebook: ConnectionError: gone; metrics.jsonl has everything"]


def test_a_tracker_that_cannot_be_opened_is_said_before_the_first_step(tmp_path, notebook):
    with pytest.raises(
        DeclarationError,
        match=r"^training\.trackers=notebook: ConnectionError: nobody there; put .* pyro-vae train --resume .*run$",
    ):
        train(tmp_path / "run", "training.trackers=[{kind: notebook, shut: true}]")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    path = tmp_path / "run" / "experiment.yaml"
    path.write_text(path.read_text().replace("shut: true", "shut: false"))
    run = pv.resume(tmp_path / "run", quiet=True, num_samples=5)
    assert notebook.logs[0].written == expected(run)


# --------------------------------------------------------------------------------------------------- declaring one


@pytest.mark.parametrize("word", WORDS)
def test_a_missing_package_is_said_before_anything_is_written(tmp_path, tiny_run, monkeypatch, word):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    message = f"training.trackers={word}: needs a package that is not installed: pip install 'pyro_vae[{word}]'."
    with pytest.raises(DeclarationError) as caught:
        train(tmp_path / "run", f"training.trackers=[{word}]")
    assert caught.value.problems == (message,)
    assert not (tmp_path / "run").exists()


def test_a_run_is_opened_without_the_package_and_not_resumed(copy, monkeypatch):
    path = copy / "experiment.yaml"
    path.write_text(path.read_text().replace("trackers: []", "trackers: [mlflow, wandb]"))
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    run = pv.load(copy)
    assert [tracker.kind for tracker in run.experiment.training.trackers] == ["mlflow", "wandb"]
    assert run.evaluate(num_samples=2)["num_data"] > 0
    before = sorted(file.name for file in copy.rglob("*"))
    with pytest.raises(DeclarationError) as caught:
        pv.resume(copy)
    assert len(caught.value.problems) == 2
    assert sorted(file.name for file in copy.rglob("*")) == before


def test_a_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "wandbs").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pv.WandB, "module", "wandbs")
    assert pv.WandB().missing()


def test_a_tracker_without_a_package_is_never_missing():
    assert not Notebook().missing()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[tensorbord]", r"trackers\.0: no tracker is called 'tensorbord'\. Did you mean 'tensorboard'\? Known: ten"),
        ("[mlflow, {kind: mlflow}]", r"training\.trackers=mlflow, mlflow: names one of them twice; each can be fed"),
        ("1", r"^training\.trackers=1: must be a list, like \[1\]\.$"),
        ("[{kind: wandb, experiment: a}]", r"trackers\.0\.experiment: unknown key\..* is a key of: mlflow"),
        ("[{kind: mlflow, experiment: ''}]", r'trackers\.0\.experiment="": must'),
    ],
)
def test_what_is_refused(value, message):
    with pytest.raises(DeclarationError, match=message):
        tiny(f"training.trackers={value}")


@pytest.mark.parametrize("value", ["wandb", "[wandb]", "{kind: wandb}", "[{kind: wandb}]"])
def test_one_or_a_list(value):
    tree = parse_yaml(f"training: {{trackers: {value}}}", "it")
    assert tiny(f"training.trackers={value}").training.trackers == (pv.WandB(),)
    assert experiment_from(tree).training.trackers == (pv.WandB(),)
    assert pv.Training(trackers=tree["training"]["trackers"]) == pv.Training(trackers=pv.WandB())
    jsonschema.validate(tree, json_schema())


def test_the_words_are_in_the_vocabulary(done):
    assert all(word in done("list") for word in WORDS)


def test_the_names_of_a_declaration_are_those_of_its_overrides():
    experiment = tiny("labels={digit: {classes: 10}}", "training.trackers=[{kind: mlflow, experiment: a}]")
    found = flat(experiment)
    assert found["variant.labels.digit.classes"] == 10
    assert found["data.name"] == "digits"
    assert found["training.trackers"] == '[{"kind": "mlflow", "experiment": "a"}]'


# --------------------------------------------------------------------------------------- clients that are not there


def module(monkeypatch, name, **contents):
    """A module that stands in for a package."""
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None, origin="fake")
    vars(made).update(contents)
    monkeypatch.setitem(sys.modules, name, made)


def rows(*steps):
    return [Metrics(step, step // 5, "train", 2.0, -2.0, 1.5, 0.5, 0.1) for step in steps]


def follow(spec, folder, *steps, start=0, card=None):
    """A training as a tracker sees it."""
    folder.mkdir(exist_ok=True)
    tracked = Tracked(spec)
    tracked.start(tiny(), folder, start)
    for row in rows(*steps):
        tracked.metrics(row)
    tracked.finish(card)


CARD = {"split": "test", "elbo": {"value": -2.5, "standard_error": 0.1}, "kl": None}


def test_calls_of_mlflow(tmp_path, monkeypatch):
    calls = []

    class Client:
        def get_experiment_by_name(self, name):
            return SimpleNamespace(experiment_id="7") if name == "known" else None

        def create_experiment(self, name):
            calls.append(("experiment", name))
            return "8"

        def create_run(self, owner, run_name):
            calls.append(("run", owner, run_name))
            return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

        def update_run(self, run_id, status):
            calls.append((run_id, status))

        def log_batch(self, run_id, params=(), metrics=()):
            assert len(params) <= 100
            calls.append((run_id, dict(params), [(name, value, step) for name, value, _, step in metrics]))

        set_terminated = update_run

    module(monkeypatch, "mlflow", MlflowClient=Client)
    module(monkeypatch, "mlflow.entities", Param=lambda *it: it, Metric=lambda *it: it)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "known")
    assert not pv.MLflow().missing()
    follow(pv.MLflow(), tmp_path / "run", 5)
    assert calls[0] == ("run", "7", "run")
    assert calls[1] == ("abc", {name: str(value) for name, value in flat(tiny()).items()}, [])
    assert ("train/elbo", -2.0, 5) in calls[2][2]
    assert calls[3:] == [("abc", "KILLED")]
    calls.clear()
    follow(pv.MLflow(), tmp_path / "run", 10, start=5, card=CARD)
    assert calls[0] == ("abc", "RUNNING")
    assert ("result/elbo", -2.5, 10) in calls[2][2]
    assert calls[3:] == [("abc", "FINISHED")]
    calls.clear()
    follow(pv.MLflow(experiment="mine"), tmp_path / "other")
    assert calls[:2] == [("experiment", "mine"), ("run", "8", "other")]
    calls.clear()
    pv.MLflow().open(dict.fromkeys(map(str, range(150)), 1), tmp_path, 0, None)
    assert [len(params) for _, params, _ in calls[1:]] == [100, 50]


def test_calls_of_wandb(tmp_path, monkeypatch):
    calls = []

    class Run:
        id = "xyz"

        def log(self, values, step):
            calls.append((values, step))

        def finish(self, exit_code):
            calls.append(exit_code)

    def init(**options):
        calls.append(options)
        return Run()

    module(monkeypatch, "wandb", init=init, Settings=dict)
    follow(pv.WandB(project="vaes"), tmp_path / "run", 5)
    follow(pv.WandB(project="vaes"), tmp_path / "run", 10, start=5, card=CARD)
    first, second = calls[0], calls[3]
    assert (first["project"], first["name"], first["id"], first["dir"]) == ("vaes", "run", None, tmp_path / "run")
    assert first["config"] == flat(tiny())
    assert (second["id"], second["resume"]) == ("xyz", "allow")
    assert calls[1][0]["train/elbo"] == -2.0
    assert calls[1][1] == 5
    assert calls[2] == 1
    assert calls[5:] == [(figures(CARD), 10), 0]


# ------------------------------------------------------------------------------------------ the real ones, if there


def need(name):
    return pytest.importorskip(name, reason=f"{name} is not installed: pip install 'pyro_vae[{name}]'")


def test_tensorboard_reads_one_run_from_the_event_files_of_two_trainings(tmp_path):
    need("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    follow(pv.TensorBoard(), tmp_path / "run", 5, 10, 15)
    follow(pv.TensorBoard(), tmp_path / "run", 10, 15, 20, start=5, card=CARD)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/elbo")] == [(n, -2.0) for n in (5, 10, 15, 20)]
    assert [(event.step, event.value) for event in events.Scalars("result/elbo")] == [(20, -2.5)]
    (text,) = events.Tensors("experiment/text_summary")
    assert "    training.epochs: 4\n" in text.tensor_proto.string_val[0].decode()
    assert "_hparams_/session_start_info" in events.summary_metadata
    assert not (tmp_path / "run" / "trackers.json").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of what its store is made of
def test_mlflow_has_one_run_of_two_trainings(tmp_path, monkeypatch):
    need("mlflow")
    need("sqlalchemy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    follow(pv.MLflow(experiment="vaes"), tmp_path / "run", 5)
    follow(pv.MLflow(experiment="vaes"), tmp_path / "run", 10, start=5, card=CARD)
    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("vaes").experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params == {name: str(value) for name, value in flat(tiny()).items()}
    assert run.data.metrics["result/elbo"] == -2.5
    history = client.get_metric_history(run.info.run_id, "train/elbo")
    assert [(metric.step, metric.value) for metric in history] == [(5, -2.0), (10, -2.0)]


def test_wandb_keeps_an_offline_run_that_is_continued(tmp_path, monkeypatch):
    need("wandb")
    for name, value in {"MODE": "offline", "SILENT": "true", "ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    follow(pv.WandB(project="vaes"), tmp_path / "run", 5)
    known = read_json(tmp_path / "run" / "trackers.json")["wandb"]
    follow(pv.WandB(project="vaes"), tmp_path / "run", 10, start=5, card=CARD)
    assert read_json(tmp_path / "run" / "trackers.json")["wandb"] == known
    found = list(Path(tmp_path / "run" / "wandb").glob(f"offline-run-*-{known}/run-{known}.wandb"))
    assert len(found) == 2
    assert all(path.stat().st_size > 0 for path in found)
