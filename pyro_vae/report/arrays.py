"""Arrays in a page: one blob of text that a browser unpacks by itself.

Numbers are little-endian words of 32 bits, or bytes. The first bytes of all words come first, then the second ones, and
so on: exponents lie beside exponents, and deflate makes them small. Nothing is rounded.
"""

import base64
import zlib

import numpy as np

KINDS = {"float32": "<f4", "int32": "<i4", "uint8": "u1"}
"""Kinds of numbers, and how they are stored."""


class Packer:
    """Collects arrays, each of them once.

    >>> packer = Packer()
    >>> zeros, places = np.zeros(3, np.float32), np.arange(4, dtype=np.int32)
    >>> packer.add(zeros), packer.add(places), packer.add(zeros)
    (0, 1, 0)
    >>> packer.table
    [['float32', 3], ['int32', 4]]
    """

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []
        self._known: dict[tuple[str, bytes], int] = {}

    def add(self, array: np.ndarray) -> int:
        """The number of an array of float32, int32 or uint8, flattened."""
        kind = array.dtype.name
        stored = np.ascontiguousarray(array, KINDS[kind]).ravel()
        key = kind, stored.tobytes()
        if key not in self._known:
            self._known[key] = len(self._arrays)
            self._arrays.append(stored)
        return self._known[key]

    @property
    def table(self) -> list[list[str | int]]:
        """Kind and size of each array."""
        return [[array.dtype.name, array.size] for array in self._arrays]

    @property
    def size(self) -> int:
        """Numbers of 32 bits that are held."""
        return sum(array.size for array in self._arrays if array.itemsize == 4)

    def text(self) -> str:
        """All of it: words by the place of their bytes, integers as differences, then bytes; deflated, in base64."""
        words = [
            a if a.dtype.kind == "f" else np.diff(a, prepend=a.dtype.type(0)) for a in self._arrays if a.itemsize == 4
        ]
        planes = b"".join(word.tobytes() for word in words)
        shuffled = np.frombuffer(planes, np.uint8).reshape(-1, 4).T.tobytes()
        rest = b"".join(array.tobytes() for array in self._arrays if array.itemsize == 1)
        return base64.b64encode(zlib.compress(shuffled + rest, 9, wbits=-15)).decode("ascii")
