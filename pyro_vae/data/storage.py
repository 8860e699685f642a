"""Where large arrays live: in memory where they fit, else in files that the system pages in and out.

Both are ordinary numpy arrays. A mapped one takes as much memory as is looked at, and gives it back when
something else needs it.
"""

import math
import os
import tempfile
from pathlib import Path

import numpy as np

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


def fits(num_bytes: int) -> bool:
    """Whether an array of that size is to be held in memory."""
    return num_bytes <= MEMORY_SHARE * memory_bytes()


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


def is_mapped(array: np.ndarray) -> bool:
    """Whether the array, or what it is a view of, is mapped to a file."""
    base: object = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return False
