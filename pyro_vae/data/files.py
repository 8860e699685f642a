"""Reading files: numpy's .npy and .npz as `Arrays`, MNIST's IDX as arrays; nothing is checked but the format."""

import gzip
import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pyro_vae.data.containers import Arrays
from pyro_vae.specs import DeclarationError

MAX_NPZ_BYTES = 8 * 2**30
"""Most that an .npz may hold unpacked; 200 kB of zip can claim to be any size."""
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error)
MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def expanded(path: Path | str) -> Path:
    """The path with a leading ~ replaced by the home folder, where there is one."""
    return Path(os.path.expanduser(path))


def read_arrays(path: Path, field: str) -> Arrays:
    """Read a .npy or .npz file as `ArraysData` says; a .npy is mapped.

    Args:
        path: the file.
        field: where it was named, with its value: what the lines of an error begin with.

    Raises:
        DeclarationError: it is no such file, or cannot be read.
    """
    if not os.path.isfile(path):
        raise DeclarationError([f"{field}: there is no such file. Name a .npy or .npz file."])
    if path.suffix not in (".npy", ".npz"):
        raise DeclarationError([f"{field}: must end in .npy or .npz. Write it with numpy.save or savez."])
    try:
        if path.suffix == ".npy":
            return Arrays(np.lib.format.open_memmap(path, mode="r"))
        return _named(_read_npz(path, field), field)
    except DeclarationError:
        raise
    except (ValueError, OSError, EOFError, MemoryError, RuntimeError, *ZIP_ERRORS) as error:
        advice = "Python objects are not read; save numbers" if "bject" in str(error) else "Write it again"
        reason = " ".join(str(error).split())
        text = f"{field}: is no readable {path.suffix} file ({reason}). {advice}, with numpy."
        raise DeclarationError([text]) from None


def _read_npz(path: Path, field: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, once its directory says that they fit."""
    with zipfile.ZipFile(path) as directory:
        size = sum(member.file_size for member in directory.infolist())
    if size > MAX_NPZ_BYTES:
        raise DeclarationError(
            [f"{field}: {size} bytes unpacked; must be at most {MAX_NPZ_BYTES}. Save x with numpy.save."]
        )
    with np.load(path, allow_pickle=False) as file:
        return {name: np.asarray(file[name]) for name in file.files}


def _named(arrays: dict[str, np.ndarray], field: str) -> Arrays:
    """Which array of an .npz file is what; see `ArraysData`."""
    train = {name.removesuffix("_train"): a for name, a in arrays.items() if not name.endswith("_test")}
    reserved = ("mask", "given")
    large = [name for name, value in train.items() if value.ndim >= 2 and name not in reserved]
    usual: list[str] = [name for name in ("x", "images", "data") if name in train]
    large = usual[:1] or large
    x = large[0] if len(large) == 1 else None
    if x is None:
        found = ", ".join(f"{name} {value.shape}" for name, value in arrays.items()) or "nothing"
        raise DeclarationError([f"{field}: which array is x? It holds {found}. Call the one that is x `x`."])
    num_data = len(train[x]) if train[x].ndim else 0
    attributes = [
        name
        for name, value in train.items()
        if name == "y" or (name not in (x, *reserved) and value.dtype.kind in "biu" and value.shape == (num_data,))
    ]

    def part(x: np.ndarray, suffix: str) -> Arrays:
        source = arrays if suffix else train
        labels = {
            "label" if name == "y" else name: source[f"{name}{suffix}"]
            for name in attributes
            if f"{name}{suffix}" in source
        }
        return Arrays(x, labels, given=source.get(f"given{suffix}"), mask=source.get(f"mask{suffix}"))

    test = arrays.get("x_test", arrays.get(f"{x}_test"))
    return replace(part(train[x], ""), test=None if test is None else part(test, "_test"))


def find_mnist(root: Path) -> list[Path] | None:
    """The four files, plain or gzipped, in the first folder that has them all."""
    for folder in (root, root / "mnist", root / "MNIST" / "raw"):
        plain = [folder / name for name in MNIST_FILES]
        files = [file if file.is_file() else file.with_name(f"{file.name}.gz") for file in plain]
        if all(file.is_file() for file in files):
            return files
    return None


def read_mnist(files: Sequence[Path]) -> list[np.ndarray]:
    """The four arrays: images, labels, test images, test labels."""
    problems, arrays = [], []
    for path, ndim in zip(files, (3, 1, 3, 1), strict=True):
        try:
            arrays.append(read_idx(path, ndim))
        except (ValueError, OSError, EOFError, zlib.error) as error:
            problems.append(f"data.root: {path}: {error}. Delete the file and fetch it again.")
    if not problems:
        for images, labels in ((0, 1), (2, 3)):
            if len(arrays[images]) != len(arrays[labels]):
                problems.append(
                    f"data.root: {files[images]} holds {len(arrays[images])} images and {files[labels].name} "
                    f"{len(arrays[labels])} labels. Fetch both again, from the same place."
                )
    if problems:
        raise DeclarationError(problems)
    return arrays


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Read an IDX file: bytes 0, 0, 8, ndim, the dimensions as big-endian uint32, the entries as uint8.

    Args:
        path: the file; gzipped if it ends in .gz.
        ndim: number of dimensions that it must have.

    Raises:
        ValueError: it is no such file, or is shorter or longer than it says.
        OSError, EOFError, zlib.error: it cannot be read or unpacked.

    References:
        The MNIST database (LeCun et al.). https://yann.lecun.org/exdb/mnist/
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        head, magic = file.read(4), bytes((0, 0, 8, ndim))
        if head != magic:
            raise ValueError(f"begins with {head.hex()}, not {magic.hex()} like IDX files of {ndim} dimensions")
        sizes = file.read(4 * ndim)
        shape = tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, 4 * ndim, 4))
        size = math.prod(shape)
        # A damaged header can say anything; this is three times the largest set of the kind, EMNIST.
        if size >= 2**31:
            raise ValueError(f"its header says {shape}, which is more than any such file holds")
        body = file.read(size + 1)
    if len(body) != size or size == 0:
        more = "more than " * (len(body) > size)
        raise ValueError(f"its header says {shape}, {size} bytes, and {more}{min(len(body), size)} follow")
    return np.frombuffer(body, np.uint8).reshape(shape)
