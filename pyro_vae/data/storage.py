"""Where large arrays live: in memory where they fit, else in files that are mapped.

Both are ordinary numpy arrays. The pages of a mapped one count as memory of the process from the moment that they are
looked at, so whoever walks through it gives them back with `release`; they stay in the cache of the system, which
drops them when something else needs the room. `Stored` copies rows out of an array and does that by itself.

Rows are gathered from the mapping, because numpy does so without the interpreter's lock, for thousands of rows at a
time, where a read per row would take the lock from the training step again and again.
"""

import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np
import torch
from numpy.lib.array_utils import byte_bounds

from pyro_vae.specs import DeclarationError

MEMORY_SHARE = 0.25
"""Share of the memory that one array of data may take; larger ones stay on disk."""


def memory_bytes() -> int:
    """Memory of this machine or, where that is less, of the container that this process is in."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")] if hasattr(os, "sysconf") else [8 * 2**30]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            sizes.append(int(Path(limit).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min(sizes)


def room() -> float:
    """Bytes that one array of data may take in memory."""
    return MEMORY_SHARE * memory_bytes()


def fits(num_bytes: int) -> bool:
    """Whether an array of that size is to be held in memory."""
    return num_bytes <= room()


def at_once(shape: tuple[int, ...]) -> int:
    """How many data of a shape are prepared together: 10,000, or fewer where those would take more than 0.5 GB.

    >>> at_once((1, 28, 28)), at_once((3, 256, 256))
    (10000, 682)
    """
    return min(10_000, max(1, 2**27 // math.prod(shape)))


def allocate(shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> np.ndarray:
    """An array to fill: in memory, or mapped to a temporary file that goes with it.

    Raises:
        DeclarationError: neither memory nor the folder for temporary files has room for it.

    >>> allocate((2, 3), np.uint8).shape
    (2, 3)
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if fits(size):
        return np.empty(shape, dtype)
    try:
        # Without a name from the start: the system frees it even when this process is killed.
        with tempfile.TemporaryFile(prefix="pyro_vae-") as file:
            os.posix_fallocate(file.fileno(), 0, size) if hasattr(os, "posix_fallocate") else file.truncate(size)
            return np.memmap(file, dtype, "r+", shape=shape)
    except OSError as error:
        folder, gigabytes = tempfile.gettempdir(), size / 2**30
        raise DeclarationError(
            [
                f"data: {gigabytes:.1f} GiB do not fit in memory, and {folder} has no room for them "
                f"({error.strerror}). Set the environment variable TMPDIR to a folder on a larger disk."
            ]
        ) from None


AROUND = 2**21
"""Bytes before and after what is looked at that the system may map with it: a multiple of every page."""


def mapping(array: np.ndarray) -> np.memmap | None:
    """The mapped file that the array is, or is a view of; None where it is in memory."""
    base: object = array
    found = None
    while isinstance(base, np.ndarray):
        found = base if isinstance(base, np.memmap) else found  # the last one is the file, those before are views
        base = base.base
    return found


def is_mapped(array: np.ndarray) -> bool:
    """Whether the array, or what it is a view of, is mapped to a file."""
    return mapping(array) is not None


def release(*arrays: np.ndarray) -> None:
    """Give back the memory in which mapped arrays, or views of them, are; what was written goes to the file."""
    for array in arrays:
        whole = mapping(array)
        if whole is None or whole.mode == "c" or array.size == 0 or not hasattr(mmap, "MADV_DONTNEED"):
            continue  # in mode "c" what was written is nowhere else
        start = byte_bounds(whole)[0] - whole.offset % mmap.ALLOCATIONGRANULARITY
        low, high = (bound - start for bound in byte_bounds(array))
        low = max(0, low - low % mmap.PAGESIZE - AROUND)
        whole._mmap.madvise(mmap.MADV_DONTNEED, low, high + AROUND - low)  # type: ignore[attr-defined]


AT_ONCE = 256
"""Rows copied out of a file between two releases, at most."""
WINDOW = 2**22
"""Bytes of a file in which they lie, at most: with a row the system maps what is around it, up to a megabyte or two."""


@dataclass(frozen=True, eq=False)
class Stored:
    """An array of which rows are copied into memory as they are needed.

    >>> Stored(np.arange(6).reshape(3, 2)).take([2, 0])
    array([[4, 5],
           [0, 1]])
    """

    array: np.ndarray
    """(N, *event)."""

    def __len__(self) -> int:
        return len(self.array)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *event)."""
        return self.array.shape

    @property
    def dtype(self) -> torch.dtype:
        """Of its tensors."""
        return torch.from_numpy(np.empty(0, self.array.dtype)).dtype

    def take(
        self, rows: np.ndarray | Sequence[int], out: np.ndarray | None = None, stop: Event | None = None
    ) -> np.ndarray:
        """Copy rows, in the order given; they are looked at in the order of the file, which disks are good at.

        Args:
            rows: which ones, (n,).
            out: where to, (n, *event), converted to its type; None: a new array of the same type.
            stop: ends it early where it is set.

        Raises:
            DeclarationError: the file has become shorter.
        """
        rows = np.asarray(rows, np.int64)
        made = np.empty((len(rows), *self.shape[1:]), self.array.dtype) if out is None else out
        order = np.argsort(rows, kind="stable")
        ordered, window = rows[order], max(1, WINDOW // max(1, abs(self.array.strides[0])))
        first = 0
        while first < len(rows) and not (stop is not None and stop.is_set()):
            self._check()
            end = min(first + AT_ONCE, int(np.searchsorted(ordered, ordered[first] + window)))
            these = ordered[first:end]
            made[order[first:end]] = self.array[these]
            release(self.array[these[0] : these[-1] + 1])
            first = end
        return made

    def _check(self) -> None:
        """Refuse a file that lost its end: to touch what is mapped beyond it would kill the process."""
        whole = mapping(self.array)
        if whole is None:
            return
        needed = whole.offset + whole.nbytes
        found = whole._mmap.size()  # type: ignore[attr-defined]
        if found < needed:
            raise DeclarationError(
                [
                    f"data: {whole.filename} was cut short while it was in use, from {needed} to {found} bytes. Put "
                    "the whole file back; a training then goes on with --resume."
                ]
            )
