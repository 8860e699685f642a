"""Reading files: numpy's .npy and .npz as `Arrays`; nothing is checked but the format."""

import math
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from pyro_vae.data.containers import Arrays
from pyro_vae.specs import DeclarationError

MAX_NPZ_BYTES = 8 * 2**30
"""Most that an .npz may hold unpacked; 200 kB of zip can claim to be any size."""
MOST_NAMED = 10
"""How many of many arrays a message names."""
TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
SPREADSHEETS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers")


def expanded(path: Path | str) -> Path:
    """The path with a leading ~ replaced by the home folder, where there is one."""
    return Path(os.path.expanduser(path))


def is_table(path: Path) -> bool:
    """Whether a file is called a table.

    >>> is_table(Path("wine.csv")), is_table(Path("wine.npy"))
    (True, False)
    """
    return path.name.lower().endswith(TABLES)


def existing(path: Path, field: str) -> None:
    """Refuse a path that names no file.

    Args:
        path: the file.
        field: where it was named, with its value.

    Raises:
        DeclarationError: there is none, or it is a folder.
    """
    if os.path.isdir(path):
        raise DeclarationError([f"{field}: is a folder. Name a file; a folder of images is data.name=folder."])
    if not os.path.isfile(path):
        raise DeclarationError([f"{field}: there is no such file. Name a .npy, .npz, .csv or .tsv file."])


def _how(path: Path) -> str:
    """How to come from another kind of file to one that is read."""
    if path.suffix.lower() in SPREADSHEETS:
        return "Export the sheet as CSV UTF-8."
    return "Write it with numpy.save or savez, or as CSV with a first line of names."


def read_arrays(path: Path, field: str) -> Arrays:
    """Read a .npy or .npz file as `ArraysData` says; a .npy is mapped.

    Args:
        path: the file.
        field: where it was named, with its value: what the lines of an error begin with.

    Raises:
        DeclarationError: it is no such file, or cannot be read.
    """
    existing(path, field)
    if path.suffix.lower() not in (".npy", ".npz"):
        raise DeclarationError(
            [f"{field}: must end in .npy or .npz, or .csv or .tsv where it is a table. {_how(path)}"]
        )
    try:
        if path.suffix.lower() == ".npy":
            return Arrays(np.lib.format.open_memmap(path, mode="r"))
        return _named(_read_npz(path, field), field)
    except DeclarationError:
        raise
    # Damage meets numpy, zipfile and their decoders in errors of every kind; each means that there is nothing to read.
    except Exception as error:
        said = " ".join(str(error).split())
        reason, advice = "it is damaged, cut short, or of another kind", "Write it again"
        if "Object arrays" in said or "Python objects" in said:
            reason, advice = "it holds Python objects", "Python objects are not read; save numbers"
        elif "CRC" in said:
            reason = "its CRC, a checksum, is wrong"
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
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
        shown = [f"{name} {value.shape}" for name, value in list(arrays.items())[:MOST_NAMED]]
        more = [f"{len(arrays) - MOST_NAMED} more"] if len(arrays) > MOST_NAMED else []
        found = ", ".join([*shown, *more]) or "nothing"
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


def in_shape(arrays: Arrays, shape: tuple[int, ...]) -> Arrays:
    """The same with rows of prod(shape) numbers as that shape, their masks too; what is no such row stays.

    >>> in_shape(Arrays(np.zeros((5, 12))), (3, 4)).x.shape
    (5, 3, 4)
    """

    def turned(array: np.ndarray | None) -> np.ndarray | None:
        fits = array is not None and array.ndim == 2 and array.shape[1] == math.prod(shape)
        return array.reshape(-1, *shape) if array is not None and fits else array

    test = None if arrays.test is None else in_shape(arrays.test, shape)
    return replace(arrays, x=turned(arrays.x), mask=turned(arrays.mask), test=test)
