"""The data set `hugging_face`: whatever Hugging Face's `datasets` reads, in many shards, from a folder or from afar.

That package finds, fetches and keeps the shards. What is trained on must be there in any order, at the speed of a
memory copy: so x is copied once, images decoded, into one array, which is on disk where it does not fit in memory.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from pyro_vae.data.containers import Arrays
from pyro_vae.data.files import expanded
from pyro_vae.data.folders import Size
from pyro_vae.data.images import Colour, Encoded, Fit, Source, read_images, shown
from pyro_vae.data.spec import OwnData
from pyro_vae.data.storage import allocate, release
from pyro_vae.specs import DeclarationError, Seq

if TYPE_CHECKING:
    from datasets import Dataset

BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".json": "json", ".jsonl": "json", ".tar": "webdataset"}
"""What a file, or a URL, is read by, by how its name ends."""
ENTRIES_AT_ONCE = 2**22


class HuggingFaceData(OwnData):
    """Your own data in many shards, or a set on the Hugging Face hub, by its package `datasets`, an extra.

    A folder is one that was saved with `save_to_disk`, or holds Parquet, Arrow, JSON or WebDataset files, or images; a
    single file or URL, which may have * for many, ends in .parquet, .arrow, .json, .jsonl or .tar; all else is a name
    on the hub. x is a column of images or of lists of numbers, all of one shape. Labels are columns of classes, of
    integers, which stay as they are, or of words, which become classes in sorted order; null is a missing label.
    Without a test split, a tenth of the data is held out.

    Example:
        Parquet files train-*.parquet and test-*.parquet in one folder, with images of any size:

            data: {name: hugging_face, path: FOLDER, size: 64}

    References:
        Datasets: A Community Library for Natural Language Processing (Lhoest et al., 2021).
    """

    name: Literal["hugging_face"] = "hugging_face"
    path: str | None = None
    """A folder, a file, a URL, or a name on the hub."""
    config: str | None = None
    """Which configuration of a set that has several."""
    split: str = "train"
    """The split to train on."""
    test: str | None = None
    """The split to test on; null: `test`, where there is one."""
    x: str | None = None
    """The column that is x; null: the only one of images, or else of lists of numbers."""
    labels: Seq[str] | None = None
    """The columns that are attributes; null: all columns of classes."""
    size: Size = None
    """Of images: pixels to resize to, [rows, columns] or one number for both; null: all are of one size already."""
    fit: Fit = "crop"
    """How an image of another aspect ratio gets that size: cut to the middle, distorted, or whole on black."""
    colour: Colour = "auto"
    """Of images: grey or colour; auto: grey where every one is stored in grey."""

    def located(self) -> Self:
        """The same, the path absolute where it is one on this machine."""
        found = super().located()
        return found if self.path and os.path.exists(expanded(self.path)) else found.replace(path=self.path)

    def read(self, seed: int) -> Arrays:
        """Read the splits, find the columns, copy x and number the classes."""
        if self.path is None:
            raise DeclarationError(["data.path=null: must be a folder, a file, a URL, or a name on the hub."])
        at = f"data.path={shown(self.path)}"
        parts = self._parts(at)
        x, labels = self._columns(parts[0], at)
        both = _joined(parts, at)
        values, numbers = self._values(both, x, at), {name: _labels(both, name, at) for name in labels}
        num = len(parts[0])
        y = [{name: number[some] for name, (number, _) in numbers.items()} for some in (slice(num), slice(num, None))]
        test = Arrays(values[num:], y[1]) if len(parts) == 2 else None
        names = {name: classes for name, (_, classes) in numbers.items() if classes}
        levels = 256 if _is_image(both, x) else None
        return Arrays(values[:num], y[0], test=test, levels=levels, names=names)

    def _parts(self, at: str) -> "list[Dataset]":
        """The split to train on, and the one to test on where there is one."""
        found = _read(str(self.path), self.config, at)
        test = self.test or ("test" if "test" in found and self.split != "test" else None)
        wanted = {"split": self.split} | ({} if test is None else {"test": test})
        there = ", ".join(found) or "none"
        problems = [
            f'data.{field}="{name}": {at[5:]} has no such split. It has {there}.'
            for field, name in wanted.items()
            if name not in found
        ]
        if problems:
            raise DeclarationError(problems)
        return [found[name] for name in wanted.values()]

    def _columns(self, data: "Dataset", at: str) -> tuple[str, tuple[str, ...]]:
        """The names of x and of the labels."""
        from datasets import ClassLabel

        known, problems = data.column_names, []
        images = [name for name in known if _is_image(data, name)]
        likely = images or [name for name in known if _is_list(data, name)]
        x = self.x or (likely[0] if len(likely) == 1 else None)
        classes = tuple(name for name in known if isinstance(data.features[name], ClassLabel))
        labels = classes if self.labels is None else self.labels
        for field, names in (("x", [x] if x else []), ("labels", labels)):
            problems += [
                f'data.{field}: {at[5:]} has no column "{name}". It has {", ".join(known)}.'
                for name in names
                if name not in known
            ]
        if x is None:
            problems.append(f"data.x=null: which column of {at[5:]} is x? It has {', '.join(known)}. Name one.")
        if self.size is not None and x is not None and x in known and not _is_image(data, x):
            problems.append(f"data.size={self.size}: is for images, and the column {x} holds none. Leave it out.")
        if problems or x is None:
            raise DeclarationError(problems)
        return x, labels

    def _values(self, data: "Dataset", name: str, at: str) -> np.ndarray:
        """x, (N, *event)."""
        if not _is_image(data, name):
            return _numbers(data, name, f"{at}, column {name}")
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        return read_images(_Images(data, name), at, size=size, fit=self.fit, colour=self.colour)


def _read(path: str, config: str | None, at: str) -> "dict[str, Dataset]":
    """Every split, by name."""
    try:
        import datasets
    except ImportError:
        advice = "pip install 'pyro_vae[datasets]'"
        raise DeclarationError([f'data.name="hugging_face": needs the package `datasets`: {advice}.']) from None
    here, remote = expanded(path), "://" in path
    if config is not None and (remote or here.exists()):
        raise DeclarationError([f'data.config="{config}": is for sets on the hub, and {at[5:]} is none. Leave it out.'])
    try:
        if here.is_dir() and any((here / name).exists() for name in ("dataset_dict.json", "state.json")):
            found = datasets.load_from_disk(str(here))
        elif remote or here.suffix in BUILDERS:
            builder = BUILDERS.get(Path(path).suffix)
            if builder is None:
                raise DeclarationError([f"{at}: must end in {', '.join(BUILDERS)}, or be a folder or a name."])
            found = datasets.load_dataset(builder, data_files=path if remote else str(here))
        else:
            found = datasets.load_dataset(str(here) if here.exists() else path, config)
    except DeclarationError:
        raise
    # What goes wrong in there, or on the way to a server, are errors of every kind.
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise DeclarationError([f"{at}: `datasets` cannot read it: {said}"]) from None
    return dict(found) if isinstance(found, dict) else {"train": found}


def _joined(parts: "list[Dataset]", at: str) -> "Dataset":
    """The splits one after the other: so both get one size and one numbering of the classes."""
    from datasets import concatenate_datasets

    try:
        return concatenate_datasets(parts)
    except ValueError as error:
        text = " ".join(str(error).split())
        raise DeclarationError([f"{at}: its splits differ in their columns: {text}. Write them alike."]) from None


def _is_image(data: "Dataset", name: str) -> bool:
    from datasets import Image

    return isinstance(data.features[name], Image)


def _is_list(data: "Dataset", name: str) -> bool:
    """Whether a column holds lists of numbers, or lists of such lists."""
    import pyarrow.types as types

    kind, depth = data.features.arrow_schema.field(name).type, 0
    while hasattr(kind, "storage_type") or hasattr(kind, "value_type"):
        depth += hasattr(kind, "value_type")
        kind = kind.storage_type if hasattr(kind, "storage_type") else kind.value_type
    return depth > 0 and (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _numbers(data: "Dataset", name: str, at: str) -> np.ndarray:
    """A column of lists of numbers as one array, (N, *event)."""
    if not _is_list(data, name):
        kind = data.features.arrow_schema.field(name).type
        raise DeclarationError([f"{at}: holds {kind}; x must be images or lists of numbers. Name another in data.x."])
    rows, made = data.select_columns([name]).with_format("arrow"), None
    num = max(1, ENTRIES_AT_ONCE // max(1, _array(rows[:1][name], at).size))
    for first in range(0, len(rows), num):
        some = _array(rows[first : first + num][name], at)
        made = allocate((len(rows), *some.shape[1:]), some.dtype) if made is None else made
        if some.shape[1:] != made.shape[1:]:
            raise DeclarationError([f"{at}: its rows differ in shape: {made.shape[1:]} and {some.shape[1:]}."])
        made[first : first + len(some)] = some
        release(made[first : first + len(some)])
    if made is None:
        raise DeclarationError([f"{at}: holds nothing. Name another split."])
    return made


def _array(column: Any, at: str) -> np.ndarray:
    """A column of Arrow, (N, *event).

    Raises:
        DeclarationError: an entry is null, or lists differ in length.
    """
    import pyarrow.compute as compute

    values = column.combine_chunks()
    shape = [len(values)]
    while hasattr(values.type, "storage_type") or hasattr(values.type, "value_type"):
        if hasattr(values.type, "storage_type"):
            values = values.storage
            continue
        lengths = compute.unique(compute.list_value_length(values)).to_pylist()
        if len(lengths) != 1 or lengths[0] is None:
            raise DeclarationError([f"{at}: its lists differ in length: {lengths[:5]}. Make them of one shape."])
        shape.append(lengths[0])
        values = values.flatten()
    if values.null_count:
        raise DeclarationError([f"{at}: {values.null_count} entries are null. Fill them in."])
    return values.to_numpy(zero_copy_only=False).reshape(shape)


def _labels(data: "Dataset", name: str, at: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The integers of a column, -1 where it is null, and the names of the classes where they have any."""
    import pyarrow.types as types
    from datasets import ClassLabel

    column = data.select_columns([name]).with_format("arrow")[:][name]
    feature = data.features[name]
    if types.is_string(column.type) or types.is_large_string(column.type):
        words = sorted(word for word in column.unique().to_pylist() if word is not None)
        number = {word: index for index, word in enumerate(words)} | {None: -1}
        return np.array([number[word] for word in column.to_pylist()], np.int64), tuple(words)
    if not types.is_integer(column.type) and not types.is_boolean(column.type):
        raise DeclarationError([f"{at}, column {name}: holds {column.type}; labels are classes, integers or words."])
    found = column.cast("int64").fill_null(-1).to_numpy()
    return np.array(found), tuple(feature.names) if isinstance(feature, ClassLabel) else ()


class _Images(Sequence[Source]):
    """The files in a column of images, a slice of them at a time."""

    def __init__(self, data: "Dataset", name: str) -> None:
        from datasets import Image

        self.rows, self.name = data.select_columns([name]).cast_column(name, Image(decode=False)), name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: Any) -> Any:
        """Slices only: that is how files are looked at."""
        found, numbers = self.rows[chosen][self.name], range(len(self))[chosen]
        return [self._file(file, number) for file, number in zip(found, numbers, strict=True)]

    def _file(self, file: dict[str, Any] | None, number: int) -> Source:
        """A file in the column, or the one that it names."""
        if file is not None and file["bytes"] is None and file["path"] is not None:
            return Path(file["path"])
        return Encoded(b"" if file is None else file["bytes"] or b"", f"{self.name} of row {number}")
