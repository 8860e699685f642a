"""The data set `folder`: images in a folder, labelled by the subfolders that they lie in."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pyro_vae.data.containers import Arrays
from pyro_vae.data.files import expanded
from pyro_vae.data.images import MAX_NAMED, MAX_SIDE, SUFFIXES, Colour, Fit, read_images, shown
from pyro_vae.data.spec import OwnData
from pyro_vae.specs import DeclarationError

VALIDATION = ("val", "valid", "validation")
"""Folders whose images join those of train: `DataSpec.validation` says what is kept back."""
SPLIT_WORDS = {"train", "training", "test", "testing", *VALIDATION}
"""Where all folders are called like this, in capitals or not, they are no classes."""


def _check_size(value: Any) -> Any:
    """Say what a size must be; the types below would each say why it is not theirs."""
    sides = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
    if value is not None and not all(type(side) is int and 1 <= side <= MAX_SIDE for side in sides):
        text = f"must be null, an integer from 1 to {MAX_SIDE}, or two of them: [rows, columns]"
        raise PydanticCustomError("size", "{text}", {"text": text})
    return value


type Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
type Size = Annotated[Side | Annotated[tuple[Side, Side], Field(strict=False)] | None, BeforeValidator(_check_size)]


class FolderData(OwnData):
    """Images in a folder: PNG, JPEG, BMP, GIF, TIFF, WebP and PPM files, in the order of their paths.

    The folder holds images, which then have no labels; or a subfolder for each class, whose images, however deep in
    it, have its name as their "label", the names sorted; or `train` and `test`, each of which is one or the other.
    Images in `val`, `valid` or `validation` beside those join the training data, of which `validation` says how many
    are kept back. What begins with a dot, and files of other kinds, are ignored. Links are followed within the folder.

    Grey is 1 channel, colour 3. What is transparent is laid on white, grey of 16 bits is scaled to 8, EXIF's
    orientation is applied, and of several frames the first is taken.

    Example:
        Photographs of any size, in colour, the middle of each as 64 x 64:

            data: {name: folder, path: photographs, size: 64, colour: colour}
    """

    name: Literal["folder"] = "folder"
    path: str | None = None
    """The folder."""
    size: Size = None
    """Pixels to resize to, [rows, columns] or one number for both; null: all images are of one size already."""
    fit: Fit = "crop"
    """How another aspect ratio gets that size: cut to the middle, distorted, or whole on black."""
    colour: Colour = "auto"
    """Grey or colour; auto: grey where every file stores grey (palettes are colour)."""

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        problems = []
        if self.path == "":
            problems.append('path="": must be a folder of images.')
        if self.size is None and self.fit != "crop":
            problems.append(f'fit="{self.fit}": says how to resize, and size is null. Set size, or leave fit out.')
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def read(self, seed: int) -> Arrays:
        """Find the images, decode them and number the classes."""
        if self.path is None:
            raise DeclarationError(["data.path=null: must be a folder of images, such as data.path=photographs."])
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        at = f"data.path={shown(self.path)}"
        return read_folder(expanded(self.path), at, size=size, fit=self.fit, colour=self.colour)


def read_folder(
    folder: Path, at: str, *, size: tuple[int, int] | None = None, fit: Fit = "crop", colour: Colour = "auto"
) -> Arrays:
    """Read a folder that is laid out as `FolderData` says.

    Args:
        folder: the folder.
        at: where it was named, with its value: what the lines of an error begin with.
        size: rows and columns, as in `read_images`; also `fit` and `colour`.
        fit: see there.
        colour: see there.

    Raises:
        DeclarationError: everything that is wrong with the folder or, where that is none, with the images.
    """
    _check_folder(folder, at)
    search = _Search(folder.resolve(), at)
    train, test = _parts(folder, search)
    problems = search.everything_wrong()
    if not problems and not train.files:
        problems = [f"{at}: holds no images, which are files that end in {', '.join(SUFFIXES)}. {search.instead()}"]
    names = sorted(set(train.classes))
    if test is not None and not problems:
        problems = _beyond(test, names, at)
    if problems:
        raise DeclarationError(problems)
    # Read together, so that both have one size and as many channels.
    x = read_images([*train.files, *(test.files if test else ())], at, size=size, fit=fit, colour=colour)
    held_out = None if test is None else Arrays(x[len(train.files) :], test.labels(names))
    labels = train.labels(names)
    return Arrays(
        x[: len(train.files)], labels, test=held_out, levels=256, names={"label": tuple(names)} if labels else {}
    )


@dataclass
class _Part:
    """Image files, and the class of each, or no classes."""

    files: list[Path]
    classes: list[str]

    def labels(self, names: list[str]) -> dict[str, np.ndarray]:
        """The attributes of the images, numbered as in `names`."""
        number = {name: index for index, name in enumerate(names)}
        return {"label": np.array([number[name] for name in self.classes], np.int64)} if self.classes else {}


@dataclass
class _Search:
    """A walk through a folder that notes all that is wrong in it."""

    root: Path
    """Where links must stay; itself free of links."""
    at: str
    problems: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    """What is wrong with links, which may be many."""
    others: list[Path] = field(default_factory=list)
    """Files that are no images."""

    def everything_wrong(self) -> list[str]:
        """The problems, of the links only the first ones and how many they are."""
        num, more = len(self.links), list[str]()
        if num > MAX_NAMED:
            more = [f"{self.at}: {num} links cannot be followed; the first {MAX_NAMED} are above."]
        return [*self.problems, *self.links[:MAX_NAMED], *more]

    def entries(self, folder: Path, above: tuple[Path, ...]) -> tuple[list[Path], list[Path]]:
        """Images and folders right in a folder, sorted; `above` are the folders that it was reached through."""
        try:
            found = sorted(path for path in folder.iterdir() if not _hidden(path.name))
        except OSError as error:
            self.problems.append(f"{self.at}: {shown(folder)} cannot be read ({error.strerror}). Make it readable.")
            return [], []
        images, folders = list[Path](), list[Path]()
        for path in found:
            is_folder, is_image = os.path.isdir(path), path.suffix.lower() in SUFFIXES
            if path.is_symlink() and (is_folder or is_image) and not self._follows(path, above):
                continue
            if is_folder:
                folders.append(path)
            elif is_image and os.path.isfile(path):
                images.append(path)
            else:
                self.others.append(path)
        return images, folders

    def _follows(self, link: Path, above: tuple[Path, ...]) -> bool:
        """Whether a link leads to something new within the folder; else that is a problem."""
        try:
            target = link.resolve(strict=True)
        except (OSError, RuntimeError):  # the latter where links lead in a circle
            reason = "leads nowhere"
        else:
            if not target.is_relative_to(self.root):
                reason = f"leads out of the folder, to {shown(target)}"
            elif target in above:
                reason = "leads back to a folder that it lies in"
            else:
                return True
        self.links.append(f"{self.at}: the link {shown(link)} {reason}. Put a copy there, or take it out.")
        return False

    def below(self, folder: Path, above: tuple[Path, ...]) -> list[Path]:
        """Images anywhere in a folder, in any order."""
        images, waiting = list[Path](), [(folder, above)]
        while waiting:
            folder, above = waiting.pop()
            above = (*above, folder.resolve())
            found, folders = self.entries(folder, above)
            images += found
            waiting += [(inner, above) for inner in folders]
        return images

    def instead(self) -> str:
        """What there is where no image is."""
        if not self.others:
            return "It holds no files at all."
        names = [shown(path.name) for path in self.others[:5]]
        more = f" and {len(self.others) - 5} others" if len(self.others) > 5 else ""
        return f"It holds {', '.join(names)}{more}. Unpack archives; arrays and tables are for data.name=arrays."


def _check_folder(folder: Path, at: str) -> None:
    """Refuse a path that names no folder."""
    # Not the methods of Path, which raise where a folder above may not be looked into.
    if os.path.isdir(folder):
        return
    if not os.path.exists(folder):
        raise DeclarationError([f"{at}: there is no such folder. Name a folder of images."])
    if folder.suffix.lower() in SUFFIXES:
        raise DeclarationError([f"{at}: is one image. Name the folder that the images lie in."])
    raise DeclarationError(
        [
            f"{at}: is a file. Name a folder of images; unpack an archive first, and read a .npy, .npz, .csv or .tsv "
            "file with data.name=arrays."
        ]
    )


def _hidden(name: str) -> bool:
    """Whether a file or folder is there for the system, not for the user."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def _parts(folder: Path, search: _Search) -> tuple[_Part, _Part | None]:
    """The training and the test images."""
    above = (search.root,)
    images, folders = search.entries(folder, above)
    words = [path.name for path in folders]
    both = {"train", "test"} <= set(words)
    if not both and not (words and {word.lower() for word in words} <= SPLIT_WORDS):
        return _part(folder, images, folders, search, above), None
    if not both:
        search.problems.append(
            f"{search.at}: holds {_listed(words)}, and not both of train and test. Name the folders so, or set "
            f"data.path to the one to read, such as {shown(folders[0])}; a tenth of it is then the test set."
        )
    elif extra := [word for word in words if word not in ("train", "test", *VALIDATION)]:
        search.problems.append(
            f"{search.at}: holds {_listed(extra)} beside train and test, where only {_listed(VALIDATION)} may be. "
            "Move the others elsewhere."
        )
    if images:
        search.problems.append(
            f"{search.at}: holds {_counted(images)} beside the folders {_listed(words)}, such as "
            f"{shown(images[0].name)}. Move them into one."
        )
    if search.problems:
        return _Part([], []), None
    return _train_and_test(folder, folders, search)


def _train_and_test(folder: Path, folders: list[Path], search: _Search) -> tuple[_Part, _Part]:
    """The images of `train` and of what joins it, and those of `test`."""
    parts = {}
    for path in folders:
        above = (search.root, path.resolve())
        parts[path.name] = _part(path, *search.entries(path, above), search, above)
    test = parts.pop("test")
    for word, part in [*parts.items(), ("test", test)]:
        if not part.files:
            search.problems.append(f"{search.at}: {shown(folder / word)} holds no images. Put some there.")
    labelled = {word: bool(part.classes) for word, part in parts.items()}
    if len(set(labelled.values())) > 1 and not search.problems:
        search.problems.append(
            f"{search.at}: {_listed([w for w, has in labelled.items() if has])} has a folder for each class, and "
            f"{_listed([w for w, has in labelled.items() if not has])} has none. Lay them out alike."
        )
    train = _Part([], [])
    for part in parts.values():
        train = _Part(train.files + part.files, train.classes + part.classes)
    return train, test


def _part(folder: Path, images: list[Path], folders: list[Path], search: _Search, above: tuple[Path, ...]) -> _Part:
    """Images that lie flat in a folder, or in a folder for each class."""
    inside = {path.name: search.below(path, above) for path in folders}
    filled = [name for name, files in inside.items() if files]
    if images and filled:
        search.problems.append(
            f"{search.at}: {shown(folder)} holds {_counted(images)}, such as {shown(images[0].name)}, and more in "
            f"{_listed(filled)}. Move those into a folder of their class, or all into one folder."
        )
    if images or not filled:
        return _Part(images, [])
    if len(filled) < len(inside):
        empty = _listed([name for name, files in inside.items() if not files])
        search.problems.append(
            f"{search.at}: {shown(folder)} has a folder for each class, and no images in {empty}. Put some there, or "
            "take the folder out."
        )
    # Names of classes go into files and onto plots, which have no way to write these.
    unprintable = [name for name in filled if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", name)]
    if unprintable:
        search.problems.append(
            f"{search.at}: {shown(folder)} has classes with unprintable names, {_listed(unprintable)}. Rename them."
        )
    pairs = [(file, name) for name, files in inside.items() for file in files]
    pairs.sort(key=lambda pair: pair[0].relative_to(folder).as_posix())
    return _Part([file for file, _ in pairs], [name for _, name in pairs])


def _beyond(test: _Part, names: list[str], at: str) -> list[str]:
    """Refuse classes of the test images that the training images do not have."""
    extra = sorted(set(test.classes) - set(names))
    if not extra:
        return []
    known = f"which has {_listed(names)}" if names else "which has no classes"
    return [f"{at}: test has {_listed(extra)}, and train, {known}, lacks them. Add images of them, or take them out."]


def _counted(images: list[Path]) -> str:
    return f"{len(images)} image{'s' * (len(images) > 1)}"


def _listed(names: Sequence[str]) -> str:
    """Names in a sentence, the first few of many."""
    more = f" and {len(names) - 5} others" if len(names) > 5 else ""
    return ", ".join(shown(name) for name in names[:5]) + more
