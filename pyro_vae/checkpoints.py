"""Checkpoints: a folder of safetensors and JSON that is either whole or not there; never a pickle.

    checkpoints/step_00001234/
        model.safetensors  optimizer.safetensors     one file per group of tensors
        state.json                                   step, schedules, anything that is JSON
        MANIFEST.json                                sha256 and size of every file above; written last

A checkpoint is written into `.step_00001234.tmp` beside its place, every file is synced, and the folder is
renamed into place; a folder that it replaces waits in `.step_00001234.old` until then. So a kill at any
moment leaves the old checkpoint, the new one, or one that `sweep` puts back. Neither torch.load nor
safetensors notices a flipped bit in the numbers, so `load` checks every sha256 before it parses a file.

One process writes; any number may read.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pyro_vae.specs import DeclarationError

FORMAT = 1
MANIFEST = "MANIFEST.json"
STATE = "state.json"
TENSORS = ".safetensors"


class CheckpointError(ValueError):
    """A checkpoint is missing, incomplete or damaged; the message names the file and says what to do."""

    def __init__(self, path: Path, problem: str) -> None:
        """Say what is wrong with the file or folder at `path`."""
        super().__init__(f"{path}: {problem} Use an older checkpoint of this run, or a copy of this one.")


def save(folder: Path, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> Path:
    """Write a checkpoint so that `folder` is always a whole one, the old or the new.

    Args:
        folder: where it goes; its parents are made, and a checkpoint that is there is replaced.
        tensors: groups of named tensors, such as {"model": ..., "optimizer": ...}, on any device; views and
            tensors that share memory are written as separate ones.
        state: what `json.dumps` takes; it comes back as JSON has it (a tuple as a list, keys as strings).

    Returns:
        `folder`.

    Raises:
        ValueError: a group's name cannot be part of a file name.
        TypeError: `state` is not JSON.
        OSError: the disk is full or not writable; the old checkpoint is still there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as root:
    ...     folder = save(step_folder(Path(root), 7), {"model": {"weight": torch.ones(2)}}, {"step": 7})
    ...     load(folder)
    ({'model': {'weight': tensor([1., 1.])}}, {'step': 7})
    """
    folder = Path(folder)
    contents = {STATE: json.dumps(state, indent=1).encode()}
    for group, named in tensors.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]+", group):
            raise ValueError(f"tensors[{group!r}]: the name of a group is letters, digits, '_' and '-'.")
        contents[group + TENSORS] = safetensors.torch.save({name: _own(t) for name, t in named.items()})
    manifest = {"format": FORMAT, "files": {name: _fingerprint(data) for name, data in contents.items()}}
    contents[MANIFEST] = json.dumps(manifest, indent=1).encode()

    folder.parent.mkdir(parents=True, exist_ok=True)
    _settle(folder)
    temporary, old = _beside(folder)
    try:
        temporary.mkdir()
        for name, data in contents.items():
            _write(temporary / name, data)
        _sync_folder(temporary)
        if folder.exists():
            os.rename(folder, old)
        os.rename(temporary, folder)
        _sync_folder(folder.parent)
    finally:
        _settle(folder)
    return folder


def load(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read a checkpoint onto the CPU, after checking that every byte is as it was written.

    Returns:
        The tensors by group and name, and the state.

    Raises:
        CheckpointError: a file is missing, shortened or changed; it names the file.
    """
    contents = _verified(Path(folder))
    tensors = {}
    for name, data in contents.items():
        if name.endswith(TENSORS):
            try:
                tensors[name.removesuffix(TENSORS)] = safetensors.torch.load(data)
            except SafetensorError as error:
                raise CheckpointError(Path(folder) / name, f"is no safetensors file ({error}).") from None
    return tensors, json.loads(contents[STATE])


def restore(module: nn.Module, tensors: dict[str, Tensor], directory: Path) -> None:
    """Give a module the tensors of a checkpoint of the run in `directory`.

    Raises:
        DeclarationError: the names or shapes of its parameters are others.
    """
    try:
        module.load_state_dict(tensors)
    except RuntimeError:
        files = f"{directory / 'experiment.yaml'} and {directory / 'environment.json'}"
        raise DeclarationError(
            [f"{directory}: its parameters do not fit {files}; one of these was changed: restore it, or train again."]
        ) from None


def verify(folder: Path) -> None:
    """Check that a checkpoint is whole, without building its tensors.

    Raises:
        CheckpointError: a file is missing, shortened or changed; it names the file.
    """
    _verified(Path(folder))


def step_folder(root: Path, step: int) -> Path:
    """Where the checkpoint of a step lies.

    >>> step_folder(Path("checkpoints"), 1234).name
    'step_00001234'
    """
    return Path(root) / f"step_{step:08d}"


def steps(root: Path) -> list[int]:
    """The steps that have a folder, whole or not, in order."""
    found = []
    for path in Path(root).glob("step_*"):
        step = path.name.removeprefix("step_")
        if path.is_dir() and step.isdecimal() and path == step_folder(root, int(step)):
            found.append(int(step))
    return sorted(found)


def latest(root: Path) -> Path | None:
    """The newest checkpoint that verifies, or None; warns of each damaged one that it passes over.

    The process that writes calls `sweep` before this.
    """
    for step in reversed(steps(root)):
        folder = step_folder(root, step)
        try:
            verify(folder)
        except CheckpointError as error:
            warnings.warn(f"Passed over a damaged checkpoint. {error}", stacklevel=2)
        else:
            return folder
    return None


def prune(root: Path, keep: set[int]) -> None:
    """Delete the checkpoints of all steps but those in `keep`."""
    for step in set(steps(root)) - keep:
        folder = step_folder(root, step)
        temporary, _ = _beside(folder)
        os.rename(folder, temporary)  # so that a kill while deleting leaves no half checkpoint
        _settle(folder)


def sweep(root: Path) -> None:
    """Tidy up after a killed writer: delete what is half written, put back what was being replaced."""
    for pattern in (".step_*.tmp", ".step_*.old"):
        for path in Path(root).glob(pattern):
            _settle(path.with_name(path.name[1:-4]))


def _beside(folder: Path) -> tuple[Path, Path]:
    """The unfinished new folder and the old one that makes way, both on the same file system."""
    return folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.old")


def _settle(folder: Path) -> None:
    """End what was begun at `folder`: the old one goes if a new one stands there, and else comes back."""
    temporary, old = _beside(folder)
    if old.exists() and not folder.exists():
        os.rename(old, folder)
    for path in (temporary, old):
        if path.exists():
            shutil.rmtree(path)


def _own(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU; safetensors refuses strides and shared memory."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _fingerprint(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _write(path: Path, data: bytes) -> None:
    """Write a new file through to the disk; not by `tempfile`, whose files only their owner may read."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: syncing a file does not save its name."""
    if os.name != "posix":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _verified(folder: Path) -> dict[str, bytes]:
    """The contents of every file of a checkpoint, as they were when it was written."""
    if not folder.is_dir():
        raise CheckpointError(folder, "there is no checkpoint here.")
    files = _manifest(folder / MANIFEST)
    # A damaged manifest may also name too few files; it has no sha256 of its own.
    for name in {path.name for path in folder.glob("*" + TENSORS)} - files.keys():
        raise CheckpointError(folder / name, "is not in the manifest: damaged.")
    contents = {name: _read(folder / name) for name in files}
    for name, data in contents.items():
        found = _fingerprint(data)
        if found != files[name]:
            raise CheckpointError(folder / name, f"is damaged: {found} instead of {files[name]}.")
    return contents


def _manifest(path: Path) -> dict[str, Any]:
    """The fingerprints by file name."""
    data = _read(path)
    try:
        manifest = json.loads(data)
        files, version = dict(manifest["files"]), manifest["format"]
    except (ValueError, TypeError, KeyError):
        raise CheckpointError(path, "is no manifest of a checkpoint: damaged.") from None
    if version != FORMAT:
        raise CheckpointError(path, f"has format {version!r} and this pyro_vae reads {FORMAT}: upgrade it.")
    if STATE not in files:
        raise CheckpointError(path, f"does not list {STATE}: damaged.")
    return files


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror}).") from None
