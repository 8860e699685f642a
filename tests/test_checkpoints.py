"""Checkpoints: every byte comes back, damage is found and named, and no moment leaves nothing to load."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyro_vae import checkpoints
from pyro_vae.checkpoints import CheckpointError, latest, load, prune, save, step_folder, steps, sweep

TENSORS = {"model": {"weight": torch.arange(6.0).reshape(2, 3)}, "optimizer": {"step": torch.tensor(3.0)}}
STATE = {"step": 3, "best": None, "schedule": [0.1, 0.2], "nested": {"done": False}}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def same_bits(a, b):
    """Equality that also tells NaN payloads and signed zeros apart."""
    flat = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*flat)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([0.1, -0.0, torch.nan, torch.inf]),
        torch.tensor([0.1, 1e-310], dtype=torch.float64),
        torch.tensor([0.1, 3.0], dtype=torch.bfloat16),
        torch.tensor([2**62, -1]),
        torch.tensor([True, False]),
        torch.get_rng_state(),
        torch.zeros(0, 3),
        torch.tensor(5.0),
        torch.arange(6.0).reshape(2, 3).T,
        torch.ones(1).expand(4),
        torch.nn.Parameter(torch.ones(2)),
    ],
    ids=lambda t: f"{t.dtype}-{tuple(t.shape)}",
)
def test_round_trip_of_every_kind_of_tensor(tmp_path, tensor):
    loaded, state = load(save(tmp_path / "c", {"a": {"t": tensor}, "b": {}}, STATE))
    assert same_bits(loaded["a"]["t"], tensor.detach())
    assert loaded["b"] == {}
    assert state == STATE


def test_round_trip_of_state_and_tied_tensors(tmp_path):
    layer = torch.nn.Linear(3, 3)
    tied = {"encoder": layer.weight, "decoder": layer.weight, "view": layer.weight[1]}
    tensors, state = load(save(tmp_path / "c", {"model": tied, **TENSORS}, STATE | {"loss": float("inf")}))
    assert state == STATE | {"loss": float("inf")}
    assert tensors.keys() == {"model", "optimizer"}
    tensors, _ = load(save(tmp_path / "c", {"model": tied}, STATE))
    assert all(same_bits(tensors["model"][name], tied[name].detach()) for name in tied)
    tensors["model"]["encoder"].zero_()  # writable, and no longer tied to the others
    assert same_bits(tensors["model"]["decoder"], layer.weight.detach())


def test_the_random_state_continues(tmp_path):
    save(tmp_path / "c", {"random": {"torch": torch.get_rng_state()}}, {})
    expected = torch.rand(3)
    torch.set_rng_state(load(tmp_path / "c")[0]["random"]["torch"])
    assert torch.equal(torch.rand(3), expected)


def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError):
        save(tmp_path / "c", TENSORS, {"path": tmp_path})
    with pytest.raises(ValueError, match=r"tensors\['../model'\]"):
        save(tmp_path / "c", {"../model": {}}, {})
    assert not names(tmp_path)


def test_the_manifest_is_written_last_and_everything_is_synced(tmp_path, monkeypatch):
    written = []

    def fsync(descriptor):
        written.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr(os, "fsync", fsync)
    save(tmp_path / "c", TENSORS, STATE)
    assert written == [
        "state.json", "model.safetensors", "optimizer.safetensors", "MANIFEST.json", ".c.tmp", tmp_path.name
    ]  # fmt: skip
    manifest = json.loads((tmp_path / "c" / "MANIFEST.json").read_text())
    assert manifest["format"] == 1
    assert manifest["files"].keys() == set(written[:3])


def test_file_modes_follow_the_umask(tmp_path):
    old = os.umask(0o022)
    try:
        folder = save(tmp_path / "c", TENSORS, STATE)
    finally:
        os.umask(old)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path / "c", TENSORS, {"step": 1})
    save(tmp_path / "c", {"model": {}}, {"step": 2})
    assert load(tmp_path / "c") == ({"model": {}}, {"step": 2})
    assert names(tmp_path) == ["c"]


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "MANIFEST.json"])
def test_a_missing_file_is_named(tmp_path, name):
    (save(tmp_path / "c", TENSORS, STATE) / name).unlink()
    with pytest.raises(CheckpointError, match=rf"c/{name}.*older checkpoint"):
        load(tmp_path / "c")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="c: there is no checkpoint here"):
        load(tmp_path / "c")


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "MANIFEST.json"])
def test_truncation_is_found_and_the_file_named(tmp_path, name):
    path = save(tmp_path / "c", TENSORS, STATE) / name
    whole = path.read_bytes()
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=rf"c/{name}"):
            load(tmp_path / "c")


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "MANIFEST.json"])
def test_every_flipped_bit_is_found(tmp_path, name):
    """Also in the manifest, which has no sha256: two group names one bit apart must not merge into one."""
    groups = {"model": TENSORS["model"], "a": TENSORS["optimizer"], "c": TENSORS["model"]}
    path = save(tmp_path / "c", groups, {"step": 3}) / name
    whole = path.read_bytes()
    undetected = []
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            load(tmp_path / "c")
        except CheckpointError:
            continue
        undetected.append((bit, bytes(damaged)))
    # The only changes that pass are in the white space of the manifest, and change nothing that it says.
    assert all(name == "MANIFEST.json" and json.loads(d) == json.loads(whole) for _, d in undetected)


def test_a_manifest_of_another_format_says_upgrade(tmp_path):
    path = save(tmp_path / "c", TENSORS, STATE) / "MANIFEST.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(CheckpointError, match="format 2.*upgrade"):
        load(tmp_path / "c")


def test_a_manifest_without_the_state_is_refused(tmp_path):
    path = save(tmp_path / "c", {}, STATE) / "MANIFEST.json"
    for text in ('{"format": 1, "files": {}}', '{"format": 1, "files": 1}', '{"format": 1}', "[]", "1"):
        path.write_text(text)
        with pytest.raises(CheckpointError, match=r"c/MANIFEST.json: .*damaged"):
            load(tmp_path / "c")


def test_a_file_that_was_never_safetensors_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints.safetensors.torch, "save", lambda tensors: b"not safetensors")
    save(tmp_path / "c", TENSORS, STATE)
    with pytest.raises(CheckpointError, match="c/model.safetensors: is no safetensors file"):
        load(tmp_path / "c")


def test_steps_prune_and_strangers(tmp_path):
    assert steps(tmp_path / "nowhere") == []
    assert latest(tmp_path / "nowhere") is None
    for step in (0, 10, 123456789):
        save(step_folder(tmp_path, step), TENSORS, {"step": step})
    for stranger in ("step_1", "step_000000010", "step_last", "notes", ".step_00000020.tmp"):
        (tmp_path / stranger).mkdir()
    (tmp_path / "step_00000030").touch()
    assert steps(tmp_path) == [0, 10, 123456789]
    prune(tmp_path, {0, 123456789})
    assert steps(tmp_path) == [0, 123456789]
    assert not (tmp_path / ".step_00000010.tmp").exists()
    assert latest(tmp_path) == step_folder(tmp_path, 123456789)


def test_a_half_finished_prune_is_no_checkpoint(tmp_path, monkeypatch):
    for step in (1, 2):
        save(step_folder(tmp_path, step), TENSORS, {"step": step})

    def killed(path):
        next(Path(path).iterdir()).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            prune(tmp_path, {1})
    assert latest(tmp_path) == step_folder(tmp_path, 1)
    sweep(tmp_path)
    assert names(tmp_path) == ["step_00000001"]


def test_latest_passes_over_damage_and_warns(tmp_path):
    for step in (1, 2, 3):
        save(step_folder(tmp_path, step), TENSORS, {"step": step})
    (step_folder(tmp_path, 3) / "MANIFEST.json").unlink()
    path = step_folder(tmp_path, 2) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.warns(UserWarning, match="damaged") as caught:
        assert latest(tmp_path) == step_folder(tmp_path, 1)
    assert [("step_00000003" in str(w.message), "step_00000002" in str(w.message)) for w in caught] == [
        (True, False),
        (False, True),
    ]


def test_sweep_puts_an_old_checkpoint_back(tmp_path):
    """A kill between the two renames of a replacement."""
    folder = save(step_folder(tmp_path, 1), TENSORS, STATE)
    os.rename(folder, tmp_path / ".step_00000001.old")
    (tmp_path / ".step_00000001.tmp").mkdir()
    sweep(tmp_path)
    assert names(tmp_path) == ["step_00000001"]
    assert load(folder)[1] == STATE


def fails_from(call, function):
    """`function`, but that call fails as on a full disk, once."""
    count = iter(range(1000))

    def wrapped(*args):
        if next(count) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        return function(*args)

    return wrapped


# Call 0 of mkdir makes the parent; a checkpoint that replaces none is renamed only once.
CALLS = [*(("fsync", i) for i in range(6)), ("mkdir", 1), ("rename", 0)]


@pytest.mark.parametrize(
    ("exists", "function", "call"),
    [*((exists, *call) for exists in (True, False) for call in CALLS), (True, "rename", 1)],
)
def test_a_failed_write_keeps_the_old_checkpoint_and_leaves_no_temporary(tmp_path, monkeypatch, exists, function, call):
    if exists:
        save(tmp_path / "c", TENSORS, {"step": "old"})
    with monkeypatch.context() as patch:
        patch.setattr(os, function, fails_from(call, getattr(os, function)))
        with pytest.raises(OSError, match="No space left"):
            save(tmp_path / "c", TENSORS, {"step": "new"})
    renamed = (function, call) == ("fsync", 5)  # only the sync of the parent comes after
    if renamed or exists:
        assert load(tmp_path / "c")[1] == {"step": "new" if renamed else "old"}
        assert names(tmp_path) == ["c"]
    else:
        assert names(tmp_path) == []


KILLS = """
import os, random, signal, sys, time, torch
from pathlib import Path
from pyro_vae.checkpoints import latest, load, save, step_folder, steps, sweep

torch.set_num_threads(1)                         # threads do not survive a fork
root, first, strays, waits = Path(sys.argv[1]), 0, 0, random.Random(0)
for _ in range(10):
    child = os.fork()
    if child == 0:
        for step in range(first, 10**6):
            for _ in range(2):                   # the second replaces the first
                w = torch.full((50_000,), float(step))
                save(step_folder(root, step), {"model": {"w": w}}, {"step": step})
    while not [step for step in steps(root) if step > first]:    # however busy the machine
        time.sleep(0.01)
    time.sleep(0.1 * waits.random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    strays += sum(path.name.startswith(".") for path in root.iterdir())
    sweep(root)
    assert {path.name for path in root.iterdir()} == {step_folder(root, step).name for step in steps(root)}
    for step in steps(root):                     # every one that is there, not only the newest
        tensors, state = load(step_folder(root, step))
        assert state == {"step": step} and bool((tensors["model"]["w"] == step).all())
    first = steps(root)[-1]
    assert latest(root) == step_folder(root, first)
print(first, strays)
"""


def test_a_killed_writer_leaves_a_loadable_latest(tmp_path):
    """Ten kills of a process that does nothing but write."""
    command = [sys.executable, "-W", "error", "-c", KILLS, tmp_path / "run"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    written, strays = map(int, run.stdout.split())
    assert written >= 10
    assert strays > 0  # the kills did come while it wrote
