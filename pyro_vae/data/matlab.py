"""MATLAB's .mat files: the arrays of numbers in one, of the format that MATLAB 5 to 7.2 and scipy write.

`scipy.io.loadmat` reads them too, but a damaged file can take the whole process down with it (a segmentation fault
in scipy 1.18, one flipped bit in a file that is not compressed), and a data file must not do that.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

MAX_BYTES = 2**31
"""Most that a file, or one array unpacked, may take; a few compressed bytes can claim to be any number."""
COMPRESSED, MATRIX, INT8, INT32, UINT32 = 15, 14, 1, 5, 6
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Type of an element -> numpy's."""
FULL = range(6, 16)
"""Classes of arrays that are full and hold numbers: double, single, and integers of 8 to 64 bits."""
COMPLEX = 0x800


class Element(NamedTuple):
    """A piece of the file: what it is, and its bytes."""

    kind: int
    body: memoryview


def read_mat(path: Path) -> dict[str, np.ndarray]:
    """Read the full arrays of real numbers; what else is in the file is left out.

    Args:
        path: the file.

    Returns:
        name -> array, its entries ordered as in MATLAB: the first index runs fastest.

    Raises:
        ValueError: it is no such file, or is damaged.
        OSError: it cannot be read.

    References:
        MAT-File Format (The MathWorks, 2019).
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"has {path.stat().st_size} bytes, which is more than any such file")
    content = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if content[:8] == b"\x89HDF\r\n\x1a\n" or content[124:126] in (b"\x00\x02", b"\x02\x00"):
        raise ValueError("is a MATLAB 7.3 file, which is not read; save it with -v7")
    if order is None:
        raise ValueError("is no MATLAB file of version 5 to 7.2")
    arrays = {}
    for element in _elements(memoryview(content)[128:], order):
        if element.kind == COMPRESSED:
            element = next(_elements(memoryview(_unpacked(element.body)), order))
        if element.kind == MATRIX:
            arrays.update(_array(element.body, order))
    return arrays


def _elements(content: memoryview, order: str) -> Iterator[Element]:
    """The elements, one after the other; each has a tag of its kind and its size."""
    while len(content):
        if len(content) < 8:
            raise ValueError("ends within a tag")
        kind, size = struct.unpack_from(f"{order}II", content)
        start, step = 8, 8
        if kind >> 16:  # up to four bytes share the tag
            kind, size, start, step = kind & 0xFFFF, kind >> 16, 4, 4
        if size > len(content) - start or (step == 4 and size > 4):
            raise ValueError(f"says that {size} bytes follow, and {len(content) - start} do")
        yield Element(kind, content[start : start + size])
        # Compressed elements alone are not filled up to a multiple of eight bytes.
        content = content[start + (size if kind == COMPRESSED else math.ceil(size / step) * step) :]


def _unpacked(body: memoryview) -> bytes:
    stream = zlib.decompressobj()
    try:
        unpacked = stream.decompress(body, MAX_BYTES)
    except zlib.error as error:
        raise ValueError(f"cannot be decompressed ({error})") from None
    if not stream.eof:
        raise ValueError("ends within a compressed array, or holds more than any such file")
    return unpacked


def _array(body: memoryview, order: str) -> dict[str, np.ndarray]:
    """The array under its name; nothing if it is of another kind."""
    parts = list(_elements(body, order))
    expected = (UINT32, INT32, INT8)
    if len(parts) < 3 or tuple(part.kind for part in parts[:3]) != expected or len(parts[0].body) != 8:
        raise ValueError("holds an array without its kind, its sizes and its name")
    (flags,) = struct.unpack_from(f"{order}I", parts[0].body)
    if flags & 0xFF not in FULL or flags & COMPLEX:
        return {}
    shape = tuple(np.frombuffer(parts[1].body, f"{order}i4").tolist()) if len(parts[1].body) % 4 == 0 else ()
    name = bytes(parts[2].body).decode("ascii", "replace")
    if len(shape) < 2 or min(shape) < 0 or len(parts) != 4 or parts[3].kind not in NUMBERS:
        raise ValueError(f"holds the array {name!r} without its sizes or its numbers")
    dtype, data = np.dtype(order + NUMBERS[parts[3].kind]), parts[3].body
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"says that {name!r} has shape {shape}, and {len(data)} bytes of it follow")
    return {name: np.frombuffer(data, dtype).reshape(shape, order="F")}
