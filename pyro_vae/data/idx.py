"""IDX files, in which MNIST and the sets after it are released: entries of one byte behind a header of their sizes."""

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pyro_vae.data.containers import Arrays
from pyro_vae.data.storage import allocate
from pyro_vae.specs import DeclarationError

MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
SIDE = 28
"""Rows, and columns, of the images of every set that is read here."""


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
        array = allocate(shape, np.uint8)
        body, done = memoryview(array.reshape(-1)), 0
        while more := file.readinto(body[done:]):
            done += more
        longer = bool(file.read(1))
    if done != size or longer or size == 0:
        raise ValueError(f"its header says {shape}, {size} bytes, and {'more than ' * longer}{done} follow")
    return array


def read_parts(
    files: Sequence[Path],
    attribute: str,
    classes: Sequence[str],
    field: str,
    *,
    first: int = 0,
    by_columns: bool = False,
) -> Arrays:
    """Read four files: images, labels, test images and test labels.

    Args:
        files: the four, in that order.
        attribute: what the labels are called.
        classes: their names.
        field: where the files were named, with its value: what the lines of an error begin with.
        first: the smallest label in the files, which becomes 0.
        by_columns: whether rows and columns are exchanged in the files.

    Raises:
        DeclarationError: everything that is wrong with the files.
    """
    arrays, problems = [], []
    for path, ndim in zip(files, (3, 1, 3, 1), strict=True):
        try:
            array = read_idx(path, ndim)
            _check_entries(array, len(classes), first)
        except DeclarationError:  # no room for it: nothing is wrong with the file
            raise
        except (ValueError, OSError, EOFError, zlib.error) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            problems.append(f"{field}: {path}: {reason}. Delete the file and fetch it again.")
        else:
            arrays.append(array)
    if not problems:
        for i in (0, 2):
            if len(arrays[i]) != len(arrays[i + 1]):
                problems.append(
                    f"{field}: {files[i]} holds {len(arrays[i])} images and {files[i + 1].name} "
                    f"{len(arrays[i + 1])} labels. Delete both and fetch them again, from the same place."
                )
    if problems:
        raise DeclarationError(problems)
    for i in (0, 2) if by_columns else ():
        arrays[i] = arrays[i].swapaxes(1, 2)
    train, test = (Arrays(arrays[i], {attribute: arrays[i + 1] - np.uint8(first)}) for i in (0, 2))
    plain = all(name == str(number) for number, name in enumerate(classes))
    return Arrays(train.x, train.y, test=test, levels=256, names={} if plain else {attribute: tuple(classes)})


def _check_entries(array: np.ndarray, classes: int, first: int) -> None:
    """Refuse images of another size, and labels of no class."""
    if array.ndim == 3 and array.shape[1:] != (SIDE, SIDE):
        rows, columns = array.shape[1:]
        raise ValueError(f"holds images of {rows} x {columns}, and those of this set have {SIDE} x {SIDE}")
    if array.ndim == 1:
        low, high = int(array.min()), int(array.max())
        if low < first or high >= first + classes:
            allowed = f"{first}..{first + classes - 1}"
            raise ValueError(f"holds labels from {low} to {high}, and those of this set go over {allowed}")
