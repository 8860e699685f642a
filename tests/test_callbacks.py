"""Callbacks: what they are told, in which order, and what their failures do."""

import logging

import pytest
import torch
from test_training import tiny, weights

import pyro_vae as pv
from pyro_vae import launch
from pyro_vae.checkpoints import latest
from pyro_vae.specs import DeclarationError


class Told(pv.Callback):
    """Notes what it is told; raises at the epoch where it is asked to."""

    def __init__(self, stop_after=None, error=None):
        self.said, self.rows, self.cards = [], [], []
        self.stop_after, self.error = stop_after, error

    def start(self, experiment, folder, step):
        self.said.append(("start", experiment, folder, step))

    def metrics(self, row):
        torch.rand(3)  # what a callback draws is of no concern to the training
        self.rows.append(row)
        if self.stop_after == row.epoch and row.split == "validation":
            raise self.error

    def finish(self, card):
        self.said.append(("finish",))
        self.cards.append(card)


def train(tmp_path, callbacks, *overrides, name="run"):
    return pv.train(tiny(*overrides), out=tmp_path / name, quiet=True, num_samples=5, callbacks=callbacks)


def test_a_callback_is_told_the_start_every_row_and_the_card(tmp_path):
    told = Told()
    run = train(tmp_path, [told])
    assert told.said == [("start", run.experiment, run.directory, 0), ("finish",)]
    assert [row._asdict() for row in told.rows] == run.metrics
    assert told.cards == [run.result]


def test_a_callback_leaves_the_training_as_it_is(tmp_path):
    with_one, without = (train(tmp_path, found, name=str(len(found))) for found in ([Told()], []))
    first, second = (weights(run.directory)[0] for run in (with_one, without))
    for part in first:
        assert all(torch.equal(first[part][name], second[part][name]) for name in first[part])
    assert with_one.result["log_likelihood"] == without.result["log_likelihood"]


def test_an_exception_ends_the_training_after_the_epoch_is_saved(tmp_path):
    error = RuntimeError("enough")
    before, stops, after = Told(), Told(2, error), Told()
    with pytest.raises(RuntimeError) as caught:
        train(tmp_path, [before, stops, after])
    assert caught.value is error
    assert [row["epoch"] for row in pv.load(tmp_path / "run").metrics] == [1, 1, 2, 2]
    assert weights(tmp_path / "run")[1]["epoch"] == 2
    assert [len(told.rows) for told in (before, stops, after)] == [4, 4, 2]
    assert before.cards == stops.cards == after.cards == [None]

    whole, resumed = train(tmp_path, [], name="whole"), Told()
    run = pv.resume(tmp_path / "run", quiet=True, num_samples=5, callbacks=[resumed])
    steps = whole.metrics[3]["step"]
    assert resumed.said[0] == ("start", run.experiment, run.directory, steps)
    assert [row._asdict() for row in resumed.rows] == run.metrics[4:]
    assert resumed.cards == [run.result]
    first, second = (weights(one.directory)[0]["model"] for one in (whole, run))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_no_checkpoint_that_is_not_due(tmp_path):
    with pytest.raises(RuntimeError):
        train(tmp_path, [Told(1, RuntimeError())], "training.checkpoint_every=3")
    assert len(pv.load(tmp_path / "run").metrics) == 2
    assert weights(tmp_path / "run")[1]["epoch"] == 0


def test_a_failing_start_leaves_a_run_to_resume_and_is_followed_by_finish(tmp_path):
    class Unwilling(Told):
        def start(self, experiment, folder, step):
            raise ConnectionError("nobody there")

    first, last = Unwilling(), Told()
    with pytest.raises(ConnectionError, match="nobody there"):
        train(tmp_path, [first, last])
    assert first.cards == last.cards == [None]
    assert first.rows == last.rows == []
    assert latest(tmp_path / "run" / "checkpoints") is not None
    assert pv.resume(tmp_path / "run", quiet=True, num_samples=5).result["epochs"] == 4


def test_a_training_that_fails_is_told(tmp_path):
    told = Told()
    with pytest.raises(pv.NumericsError):
        train(tmp_path, [told], "training.optimizer.learning_rate=1e30", "training.schedule=constant")
    assert told.cards == [None]


def test_an_evaluation_that_fails_is_told(tmp_path, monkeypatch):
    def fail(*arguments):
        raise MemoryError

    monkeypatch.setattr(launch.Run, "evaluate", fail)
    told = Told()
    with pytest.raises(MemoryError):
        train(tmp_path, [told])
    assert told.cards == [None]
    assert len(told.rows) == 8


class Clumsy(Told):
    def finish(self, card):
        super().finish(card)
        raise OSError("disk full")


def test_a_failing_finish_keeps_no_other_from_theirs(tmp_path, caplog):
    callbacks = [Clumsy(), Clumsy(), Told()]
    with pytest.raises(OSError, match="disk full"):
        train(tmp_path, callbacks, "training.epochs=1")
    result = pv.load(tmp_path / "run").result
    assert [told.cards for told in callbacks] == [[result]] * 3
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_failing_finish_hides_no_other_error(tmp_path, caplog):
    stops, told = Told(1, KeyError("first")), Told()
    with pytest.raises(KeyError, match="first"):
        train(tmp_path, [Clumsy(), stops, told])
    assert told.cards == [None]
    assert [record.getMessage() for record in caplog.records] == [
        "a callback failed at the end of the training: OSError: disk full"
    ]


@pytest.mark.parametrize("given", [Told(), Told, [Told], ["tensorboard"], "tensorboard"])
def test_what_is_no_callback_is_refused_before_anything_is_written(tmp_path, given):
    with pytest.raises(DeclarationError, match="^callbacks="):
        train(tmp_path, given)
    assert not (tmp_path / "run").exists()
    with pytest.raises(DeclarationError, match="^callbacks="):
        pv.resume(tmp_path / "run", callbacks=given)
