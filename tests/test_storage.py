"""Data that do not fit in memory: left on disk, and everything comes out as if they had not been."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.data import Split, StoredSplit, load, storage
from pyro_vae.data.checks import blocks, by_blocks

RNG = np.random.default_rng(1)
GREY = RNG.integers(0, 256, (200, 8, 8), dtype=np.uint8)
REAL = RNG.normal(size=(200, 12)).astype(np.float32)
SMALL = ["encoder.widths=[8]", "decoder.widths=[8]", "latent.dim=2", "training.epochs=2", "training.batch_size=16"]


@pytest.fixture
def no_memory(monkeypatch):
    monkeypatch.setattr(storage, "MEMORY_SHARE", 0.0)


def saved(path, x):
    np.save(path, x)
    return path


def trained(path, out, *words):
    experiment = pv.load_experiment("vae-sigma", ["data=arrays", f"data.path={path}", *SMALL, *words])
    return pv.train(experiment, out=out, quiet=True, num_samples=50)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (GREY, ()),
        (GREY, ("likelihood=bernoulli", "data.binarize=dynamic")),
        (GREY, ("likelihood=bernoulli", "data.binarize=static")),
        (GREY.astype(np.int32), ("likelihood=bernoulli", "data.binarize=threshold")),
        (REAL, ()),
        (REAL.astype(">f8"), ("data.standardize=true",)),
    ],
    ids=["levels", "dynamic", "static", "integers", "floats", "big-endian, standardised"],
)
def test_training_on_disk_is_training_in_memory(x, words, tmp_path, monkeypatch):
    """The same metrics, parameters and result, bit for bit."""
    path = saved(tmp_path / "x.npy", x)
    memory = trained(path, tmp_path / "memory", *words)
    assert isinstance(memory.data.train, Split)
    monkeypatch.setattr(storage, "MEMORY_SHARE", 0.0)
    disk = trained(path, tmp_path / "disk", *words)
    assert isinstance(disk.data.train, StoredSplit)
    for a, b in zip(memory.vae.parameters(), disk.vae.parameters(), strict=True):
        assert torch.equal(a, b)
    kept = ("split", "loss", "elbo", "kl")
    assert [[m[k] for k in kept] for m in memory.metrics] == [[m[k] for k in kept] for m in disk.metrics]
    assert {**memory.result, "seconds": 0} == {**disk.result, "seconds": 0}
    assert torch.equal(memory.batch("train", [7, 3]).x, disk.batch("train", [7, 3]).x)


def test_masked_data_on_disk(tmp_path, no_memory):
    mask = RNG.random(REAL.shape) < 0.8
    data = load(pv.ArraysData(), arrays=pv.Arrays(np.where(mask, REAL, np.nan), mask=mask, y=np.arange(200) % 3))
    whole, part = data.train, data.train.select([0, 5])
    assert isinstance(whole, StoredSplit)
    assert isinstance(part, Split)
    rows = whole.rows[[0, 5]].numpy()
    np.testing.assert_array_equal(part.x.numpy(), np.where(mask, REAL, 0)[rows].astype(part.x.numpy().dtype))
    np.testing.assert_array_equal(part.mask.numpy(), mask[rows])
    np.testing.assert_array_equal(part.attributes["label"].numpy(), rows % 3)


def test_allocated_on_disk_where_memory_is_short(no_memory):
    made = storage.allocate((4, 5), np.int16)
    made[:] = 3
    assert storage.is_mapped(made[1:].T)
    assert not storage.is_mapped(np.zeros(3))
    assert made.sum() == 60


def test_no_room_on_disk_is_said(no_memory, monkeypatch, tmp_path):
    monkeypatch.setattr(storage.tempfile, "tempdir", str(tmp_path))

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "posix_fallocate", full)
    with pytest.raises(pv.DeclarationError, match=r"do not fit in memory.*No space left.*TMPDIR"):
        storage.allocate((4, 5), np.int16)
    assert not list(tmp_path.iterdir())


def test_the_limit_of_a_container_counts(monkeypatch):
    monkeypatch.setattr(storage.Path, "read_text", lambda path: "1000000")
    assert storage.memory_bytes() == 1_000_000
    assert storage.fits(250_000)
    assert not storage.fits(250_001)
    monkeypatch.setattr(storage.Path, "read_text", lambda path: "max")
    assert storage.memory_bytes() > 10**8


SCRIPT = """
import sys, threading, time
import pyro_vae as pv
from pyro_vae.data import storage
storage.MEMORY_SHARE = 3e7 / storage.memory_bytes()
def resident():
    with open("/proc/self/status") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith(("RssAnon", "RssFile"))) / 1024
def watch():
    while not done.wait(0.02):
        found.append(resident())
done, found = threading.Event(), []
experiment = pv.load_experiment("vae-bernoulli", [
    "data=arrays", f"data.path={sys.argv[1]}", "data.binarize=dynamic", "encoder.widths=[8]", "decoder.widths=[8]",
    "latent.dim=2", "training.epochs=1", "training.batch_size=1000", "training.compile=off"])
watcher = threading.Thread(target=watch)
watcher.start()
run = pv.train(experiment, out=sys.argv[2], quiet=True, num_samples=2)
done.set()
watcher.join()
print(max(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_stays_flat(tmp_path):
    """Read, trained on, validated and evaluated: at no time do 550 MB on disk take much more memory than 240 MB do."""
    megabytes = []
    for num in (300_000, 700_000):
        x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (num, 784))
        for first in range(0, num, 10_000):
            x[first : first + 10_000] = RNG.integers(0, 256, (10_000, 784), dtype=np.uint8)
        x.flush()
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "x.npy"), str(tmp_path / f"run-{num}")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        megabytes.append(float(done.stdout.splitlines()[-1]))
    assert megabytes[1] - megabytes[0] < 80, megabytes


@pytest.mark.skipif(not hasattr(storage.mmap, "MADV_DONTNEED"), reason="the system does not take pages back")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_pages_are_given_back(tmp_path):
    """Walked through, gathered from, and written: views of every layout, and what a copy-on-write file holds stays."""

    def mapped():
        with open("/proc/self/smaps") as file:
            blocks = file.read().split("x.npy")
        return sum(int(block.split("Rss:")[1].split()[0]) for block in blocks[1:])

    np.save(tmp_path / "x.npy", RNG.integers(0, 256, (2000, 24, 24, 3), dtype=np.uint8))
    whole = np.load(tmp_path / "x.npy", mmap_mode="r")
    for x in (whole, whole[500:], np.moveaxis(whole, 3, 1), whole.reshape(2000, -1)[::-1]):
        x.sum()
        assert mapped() > 1000
        storage.release(x)
        storage.release(whole[:500])
        assert mapped() < 100
        np.testing.assert_array_equal(storage.Stored(x).take([7, 3, 900]), np.asarray(x)[[7, 3, 900]])
        for _ in blocks(x):
            pass
        assert mapped() < 100
    own = np.load(tmp_path / "x.npy", mmap_mode="c")
    own[:] = 7
    storage.release(own)
    assert (own == 7).all()


def test_written_blocks_are_kept(no_memory):
    made = by_blocks(lambda x: x + 1, np.int32, np.arange(3_000_000).reshape(-1, 3))
    assert storage.is_mapped(made)
    np.testing.assert_array_equal(made.reshape(-1), np.arange(1, 3_000_001))
