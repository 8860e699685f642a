"""What a user wants encoded or scored: a file or a folder, held against the training data and treated like them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pyro_vae.data.checks import as_floats, by_blocks, checked_parts, converted, extent, is_binary, is_counts
from pyro_vae.data.containers import Arrays, Data
from pyro_vae.data.files import expanded, in_shape, is_table, read_arrays
from pyro_vae.data.folders import FolderData, read_folder
from pyro_vae.data.images import SUFFIXES, Colour, read_images
from pyro_vae.data.preparation import drawn, taken
from pyro_vae.data.sets import ArraysData
from pyro_vae.data.spec import DataSpec
from pyro_vae.data.tables import read_table_like
from pyro_vae.specs import DeclarationError, did_you_mean

TEST_STREAM = 1
"""The draws of `load` for a given test set: a file of those images is binarised as they were."""


def read_input(path: Path, like: Data, spec: DataSpec | None = None) -> Data:
    """Read a file of data for a model that was trained on `like`; every datum becomes part of the test set.

    What is what in the file is as in `ArraysData`; where it has an x_test, those data come after the others.
    Integers are levels as in `like`, bool is black and white, and floats are the values that levels stand for.
    After static binarization x is 0 and 1, as it was drawn, or grey, and then it is drawn once with a fixed seed.
    Attributes that the file lacks are -1. In a table the columns are found by the names that they have in `like`.
    A folder is read as in `FolderData`, and its images, like a single one, get the size and colour of `like`.

    Args:
        path: .npy, .npz, .csv or .tsv, an image, or a folder of images.
        like: the data that the model was trained on.
        spec: how those were declared; where it gives rows of numbers a shape, rows in the file get it too.

    Returns:
        Data like `like` whose training and validation sets are empty.

    Raises:
        DeclarationError: everything in which the file differs from `like`, in lines that begin `--input PATH: `.
    """
    field, problems = f"--input {path}", list[str]()
    at = f"{field}: "
    raw = _read(expanded(path), field, like, spec)
    if isinstance(spec, ArraysData) and spec.shape is not None:
        raw = in_shape(raw, spec.shape)
    parts = checked_parts(raw, at, problems)
    if problems:
        raise DeclarationError(problems)
    part = parts[0] if len(parts) == 1 else _joined(parts[0], parts[1])
    _compare(part, like, at, problems)
    x, levels = _as_trained(part.x, like, at, problems)
    if problems:
        raise DeclarationError(problems)
    absent = {name: np.full(len(x), -1) for name in like.num_classes if name not in part.y}
    part = replace(part, x=x, y={**part.y, **absent})
    found = {name: 1 + int(labels.max()) for name, labels in part.y.items()}
    none = taken(part, np.arange(0))
    return replace(
        like,
        train=none,
        validation=none,
        test=taken(part, np.arange(len(x))),
        levels=levels,
        num_classes=found | like.num_classes,
        truth=None,
    )


def _read(path: Path, field: str, like: Data, spec: DataSpec | None) -> Arrays:
    """The data as they are in the file or folder."""
    if is_table(path):
        return read_table_like(path, field, like)
    pictures = path.is_dir() or path.suffix.lower() in SUFFIXES
    if not pictures or len(like.shape) != 3 or like.shape[0] not in (1, 3):
        return read_arrays(path, field)
    size, fit = like.shape[1:], spec.fit if isinstance(spec, FolderData) else "crop"
    colour: Colour = "grey" if like.shape[0] == 1 else "colour"
    if not path.is_dir():
        return Arrays(read_images([path], field, size=size, fit=fit, colour=colour))
    raw = read_folder(path, field, size=size, fit=fit, colour=colour)
    places = _places(raw.names.get("label", ()), like, field)
    return _numbered_as(raw, places, None if raw.test is None else _numbered_as(raw.test, places, None))


def _places(names: Sequence[str], like: Data, field: str) -> np.ndarray | None:
    """The number in `like` of each class of a folder; None where those data have no named labels."""
    known = like.names.get("label")
    if known is None or not names:
        return None
    if unknown := [name for name in names if name not in known]:
        raise DeclarationError(
            [
                f"{field}: y.label: the folder {name!r} is no class of the {like.name!r} data that the model was "
                f"trained on.{did_you_mean(name, known)} They have: {', '.join(known)}."
                for name in unknown
            ]
        )
    return np.array([known.index(name) for name in names])


def _numbered_as(part: Arrays, places: np.ndarray | None, test: Arrays | None) -> Arrays:
    """The same images with the labels of the training data."""
    return replace(part, y={} if places is None or not part.y else {"label": places[part.y["label"]]}, test=test)


def _joined(first: Arrays, second: Arrays) -> Arrays:
    """One part after the other; they agree in everything but their number of data."""
    return Arrays(
        np.concatenate([first.x, second.x]),
        {name: np.concatenate([labels, second.y[name]]) for name, labels in first.y.items()},
        given=None if first.given is None else np.concatenate([first.given, second.given]),
        mask=None if first.mask is None else np.concatenate([first.mask, second.mask]),
    )


def _compare(part: Arrays, like: Data, at: str, problems: list[str]) -> None:
    """Refuse another shape, other covariates and classes that the training data do not have."""
    shape = part.x.shape[1:]
    if shape != like.shape:
        problems.append(
            f"{at}x: a datum has shape {shape}; must be {like.shape}, as in the {like.name!r} data that the model "
            "was trained on. Resize images, and give x the shape (N, ...), also where N is 1."
        )
    width, num_given = (0 if given is None else given.shape[1] for given in (part.given, like.train.given))
    if part.given is None and num_given:
        problems.append(
            f"{at}given: is missing; the model needs {num_given} covariates per datum. "
            f"Save them beside x: numpy.savez(FILE, x=x, given=given), given of shape ({len(part.x)}, {num_given})."
        )
    elif width != num_given:
        problems.append(
            f"{at}given: {width} covariates per datum; must be {num_given}, as in the {like.name!r} data that the "
            f"model was trained on. {'Give those' if num_given else 'Leave it out'}."
        )
    for name, num_classes in like.num_classes.items():
        if name in part.y and part.y[name].max() >= num_classes:
            problems.append(
                f"{at}y.{name}: holds {part.y[name].max()}; must be from 0 to {num_classes - 1}, as in the "
                f"{like.name!r} data that the model was trained on, or -1 where it is missing."
            )


def _as_trained(x: np.ndarray, like: Data, at: str, problems: list[str]) -> tuple[np.ndarray, int | None]:
    """x on the scale of `like`, statically binarised where that is; and its levels, None where it is real-valued."""
    static = like.binarize == "static"
    if static and is_binary(x):
        return converted(x, np.uint8), 2
    x, levels = _on_scale(x, like.grey_levels if static else like.levels, like, at, problems)
    return (drawn(x, levels, TEST_STREAM), 2) if static and not problems else (x, levels)


def _on_scale(
    x: np.ndarray, levels: int | None, like: Data, at: str, problems: list[str]
) -> tuple[np.ndarray, int | None]:
    """x as integers of that many levels, or as floats where it is real-valued, and then None."""
    if like.support == "counts" and not is_counts(x):
        low, high = extent([x])
        problems.append(f"{at}x: holds values from {low:g} to {high:g}; must be counts 0, 1, 2, ..., as in training.")
    if levels is None and like.support in ("real", "counts"):
        return as_floats(x), None
    low, high = extent([x])
    if levels is not None and x.dtype.kind == "b":
        return by_blocks(lambda some: some * np.uint8(levels - 1), np.uint8, x), levels
    if levels is not None and x.dtype.kind != "f":
        if low < 0 or high >= levels:
            problems.append(_wrong_values(x, levels, like, at))
        if high == 1 and levels > 2 and like.support == "binary":
            problems.append(
                f"{at}x: holds the integers 0 and 1 and no other, and the {like.name!r} data have {levels} levels. "
                f"Save it as bool if 1 is white, or as floats x / {levels - 1} if 1 is nearly black."
            )
        return converted(x, np.uint8), levels
    if levels == 2 and is_binary(x):
        return converted(x, np.uint8), 2
    if low < 0 or high > 1 or not _takes_floats(like):
        problems.append(_wrong_values(x, levels, like, at))
    return as_floats(x), None


def _takes_floats(like: Data) -> bool:
    """Whether values between 0 and 1 are of the same kind as the data: not where levels or 0 and 1 are needed."""
    return like.dequantize == "none" and not (like.support == "binary" and like.binarize == "none")


def _wrong_values(x: np.ndarray, levels: int | None, like: Data, at: str) -> str:
    """What x holds and what it must hold."""
    low, high = extent([x])
    allowed = [] if levels is None else ["0 or 1" if levels == 2 else f"integers from 0 to {levels - 1}"]
    allowed += ["floats from 0 to 1"] if _takes_floats(like) else []
    return (
        f"{at}x: holds {x.dtype} values from {low:g} to {high:g}; must be {' or '.join(allowed)}, as in the "
        f"{like.name!r} data that the model was trained on. Rescale it."
    )
