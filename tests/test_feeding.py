"""Training data that do not fit on the device are fed: the same bits, in any order of events, and clear errors."""

import os
import shutil
import signal
import threading
import time
from contextlib import closing

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae import checkpoints, feeding, training
from pyro_vae.batches import build
from pyro_vae.data import load, storage
from pyro_vae.feeding import Fed, Held
from pyro_vae.training import Trainer

NUM, D = 400, 6
RNG = np.random.default_rng(3)
GREY = RNG.integers(0, 256, (NUM, D), dtype=np.uint8)
REAL = RNG.normal(size=(NUM, D))
BASE = ["latent.dim=2", "encoder.widths=[8]", "decoder.widths=[8]", "training.epochs=2"]
CONDITIONAL = "labels={label: {classes: 3, observed: partly}}"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.npy"


def trainer(path, x, folder, words=(), *, device="cpu", compiled=False, **others):
    """A training of x in a file; the data stay there if the memory is short when it is made."""
    np.save(path, x)
    experiment = pv.load_experiment("vae-sigma", ["data=arrays", *BASE, "training.batch_size=16", *words])
    data = load(experiment.data, arrays=pv.Arrays(np.load(path, mmap_mode="r"), **others))
    device = torch.device(device)
    return Trainer(experiment, data, build(experiment, data, device), folder, compiled, quiet=True)


@pytest.fixture
def short(monkeypatch):
    """Make memory short from now on, with chunks of that many rows of D bytes."""

    def now(rows):
        monkeypatch.setattr(storage, "MEMORY_SHARE", 0.0)
        monkeypatch.setattr(feeding, "room", lambda: rows * D / feeding.CHUNK_SHARE)
        monkeypatch.setattr(feeding, "DEVICE_SHARE", 0.0)

    return now


def same(a, b):
    """The parameters, moments and sums of two trainings are equal to the bit."""
    for name, value in a.state.scalars(a.layout).items():
        assert torch.equal(value, b.state.scalars(b.layout)[name]), name
    for one, other in zip(a.state.parameters, b.state.parameters, strict=True):
        assert torch.equal(one, other)


def workers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("pyro_vae-feed")]


def at_step(trainer, number, event):
    """Let something happen before that step."""
    step, done = trainer.step, iter(range(10_000))

    def then(*arguments):
        if next(done) == number:
            event()
        step(*arguments)

    trainer.step = then


OTHERS = {
    "binarised": (GREY, ("likelihood=bernoulli", "data.binarize=dynamic"), {}),
    "mask": (REAL, ("data.standardize=true",), {"mask": RNG.random(REAL.shape) < 0.8}),
    "all": (
        GREY,
        (CONDITIONAL, "data.labels_kept=50"),
        {"y": {"label": np.arange(NUM) % 3}, "given": REAL[:, :1], "mask": GREY > 20},
    ),
}


@pytest.mark.parametrize(("x", "words", "others"), OTHERS.values(), ids=OTHERS)
def test_fed_is_held_bit_for_bit(x, words, others, path, tmp_path, short, device):
    """The training data are a random part of the rows of the file."""
    held = trainer(path, x, tmp_path / "held", words, device=device, **others)
    short(200)
    fed = trainer(path, x, tmp_path / "fed", words, device=device, **others)
    assert isinstance(held.feed, Held)
    assert isinstance(fed.feed, Fed)
    assert 1 <= fed.feed.per_chunk < fed.steps_per_epoch
    for one in (held, fed):
        one.run()
    same(held, fed)
    assert workers() == []


@pytest.mark.parametrize(("size", "rows"), [(16, 0), (7, 50), (50, 130), (16, 10**6)])
def test_any_size_of_batch_and_chunk(size, rows, path, tmp_path, short):
    """Chunks of one step, of some, with a shorter last one, and of a whole epoch."""
    words = (f"training.batch_size={size}",)
    held = trainer(path, GREY, tmp_path / "held", words)
    short(rows)
    fed = trainer(path, GREY, tmp_path / "fed", words)
    assert fed.feed.per_chunk == min(fed.steps_per_epoch, max(1, rows // size))
    for one in (held, fed):
        one.run()
    same(held, fed)


def test_a_part_of_every_batch(path, tmp_path, short):
    """Of several processes, each is fed its own data."""
    short(3 * 16)
    one = trainer(path, GREY, tmp_path / "run")
    fed = feeding.feed(one.data.train, one.experiment, one.device, 5, one.steps_per_epoch)
    plan = one.plan(0)
    part = plan._replace(order=plan.order[:, 11:])
    with closing(fed.steps(part, 2)) as plans:
        for i, own in zip(range(2, one.steps_per_epoch), plans, strict=False):
            assert torch.equal(fed.data.x[own.order[i]], one.data.train.select(part.order[i]).x)


@pytest.mark.parametrize("number", [3, 28])
def test_goes_on_in_the_middle_of_an_epoch(number, path, tmp_path, short):
    """Stopped within a chunk, and between two in a later epoch; goes on fed, and held."""
    whole = trainer(path, GREY, tmp_path / "whole")
    held = trainer(path, GREY, tmp_path / "held")
    short(4 * 16)
    stopped, fed = (trainer(path, GREY, tmp_path / "fed") for _ in range(2))
    whole.run()
    at_step(stopped, number - 1, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(pv.Interrupted):
        stopped.run()
    assert workers() == []
    shutil.copytree(tmp_path / "fed", tmp_path / "held")
    newest = checkpoints.latest(tmp_path / "fed" / "checkpoints")
    for one in (fed, held):
        one.load(newest)
        assert int(one.state.position) == number % one.steps_per_epoch
    for one in (fed, held):
        one.run()
        same(one, whole)


def test_a_fault_names_the_data_and_not_their_place_in_the_chunk(path, tmp_path, short):
    short(3 * 16)
    one = trainer(path, REAL, tmp_path / "run")
    chosen = int(one.plan(0).order[13, 2])
    row = int(one.data.train.rows[chosen])
    np.load(path, mmap_mode="r+")[row] = np.inf
    first = one.plan(0).order[13, :8].tolist()
    with pytest.raises(pv.NumericsError, match=r"step 13 \(epoch 1, batch of training data ") as error:
        one.run()
    assert str(first)[:-1] in str(error.value)
    assert workers() == []


def test_a_file_that_is_cut_short_is_one_error(path, tmp_path, short):
    short(3 * 16)
    one = trainer(path, GREY, tmp_path / "run")
    at_step(one, 4, lambda: os.truncate(path, path.stat().st_size // 2))
    with pytest.raises(pv.DeclarationError, match=r"x\.npy was cut short .*from 2528 to 1264 bytes.*--resume"):
        one.run()
    assert workers() == []
    assert checkpoints.latest(tmp_path / "run" / "checkpoints") is not None


def test_a_file_that_is_deleted_is_trained_on(path, tmp_path, short):
    held = trainer(path, GREY, tmp_path / "held")
    short(3 * 16)
    fed = trainer(path, GREY, tmp_path / "fed")
    at_step(fed, 4, path.unlink)
    for one in (held, fed):
        one.run()
    same(held, fed)


def test_what_fails_in_a_thread_is_raised(path, tmp_path, short, monkeypatch):
    short(3 * 16)
    one = trainer(path, GREY, tmp_path / "run", ["data.validation=0"])

    def fail():
        monkeypatch.setattr(storage.Stored, "take", lambda *arguments: 1 / 0)

    at_step(one, 4, fail)
    with pytest.raises(ZeroDivisionError):
        one.run()
    assert workers() == []


def test_long_waits_are_said(path, tmp_path, short, monkeypatch, caplog):
    short(3 * 16)
    one = trainer(path, GREY, tmp_path / "run", ["training.epochs=1"])
    take = storage.Stored.take

    def slow(*arguments):
        time.sleep(0.2)
        return take(*arguments)

    monkeypatch.setattr(storage.Stored, "take", slow)
    monkeypatch.setattr(training, "LONG", 0.5)
    one.run()
    assert one.steps_per_epoch / 3 * 0.2 * 0.5 < one.feed.waited < one.progress.seconds
    assert "the steps waited for data for" in caplog.text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_once_and_the_same(path, tmp_path, short):
    """Many chunks and two epochs are one compilation, and the compiled step has the bits that it has on held data."""
    held = trainer(path, GREY, tmp_path / "held", compiled=True)
    short(3 * 16)
    fed = trainer(path, GREY, tmp_path / "fed", compiled=True)
    for one in (held, fed):
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        one.run()
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 1
    same(held, fed)
