"""Released sets that come as folders or as more than one kind of file: where each keeps its images and its labels."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from pyro_vae.data.containers import Arrays
from pyro_vae.data.images import read_images
from pyro_vae.data.matlab import read_mat
from pyro_vae.specs import DeclarationError

MAX_NAMED = 10
"""How many of many missing files a message names."""
AGAIN = "Delete it and fetch it again."
# As released, in the order of the columns of list_attr_celeba.txt.
CELEBA_ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache",
    "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks",
    "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick",
    "Wearing_Necklace", "Wearing_Necktie", "Young",
)  # fmt: skip


def some(names: Sequence[str]) -> str:
    """The first ten names, and how many there are if there are more.

    >>> some(["a", "b"])
    'a, b'
    """
    more = f" and others, {len(names)} in all" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def attempted[T](read: Callable[[Path], T], path: Path, field: str, problems: list[str]) -> T | None:
    """What the function reads from the file; None, and one more problem, where it cannot."""
    try:
        return read(path)
    except (ValueError, OSError) as error:
        problems.append(f"{field}: {path}: {' '.join(str(error).split())}. {AGAIN}")
        return None


def _read_both(
    parts: Sequence[Sequence[Path]], field: str, size: int, colour: Literal["grey", "colour"]
) -> list[np.ndarray]:
    """The images of the training and of the test set, squares; the bad ones of both are found."""
    arrays, problems = [], list[str]()
    for files in parts:
        try:
            arrays.append(read_images(files, field, size=(size, size), fit="crop", colour=colour))
        except DeclarationError as error:
            problems += error.problems
    if problems:
        raise DeclarationError(problems)
    return arrays


# ----------------------------------------------------------------------------------------------------- SVHN


def read_svhn(files: Sequence[Path], field: str) -> Arrays:
    """Read train_32x32.mat and test_32x32.mat: X (32, 32, 3, N) of bytes, y (N, 1) in 1..10, 10 for the digit 0.

    Raises:
        DeclarationError: everything that is wrong with the files.
    """
    problems = list[str]()
    train, test = (attempted(_svhn_part, path, field, problems) for path in files)
    if train is None or test is None:
        raise DeclarationError(problems)
    made = [Arrays(x, {"digit": digit}) for x, digit in (train, test)]
    return Arrays(made[0].x, made[0].y, test=made[1], levels=256)


def _svhn_part(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) and digits (N,)."""
    arrays = read_mat(path)
    for name in ("X", "y"):
        if name not in arrays:
            raise ValueError(f"holds {', '.join(arrays) or 'no array'}, and no {name} among them")
    x, y = arrays["X"], arrays["y"]
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[:3] != (32, 32, 3) or x.size == 0:
        raise ValueError(f"holds an X of {x.dtype} and shape {x.shape}, which must be uint8 and (32, 32, 3, N)")
    if y.size != max(y.shape) or y.size != x.shape[3]:
        raise ValueError(f"holds {x.shape[3]} images and labels of shape {y.shape}")
    bad = np.unique(y[~np.isin(y, range(1, 11))])
    if len(bad):
        raise ValueError(f"holds the label {bad[0]}, and those of this set are 1..10, 10 for the digit 0")
    return np.ascontiguousarray(x.transpose(3, 2, 0, 1)), y.reshape(-1).astype(np.int64) % 10


# ------------------------------------------------------------------------------------------------- Omniglot


def read_omniglot(folders: Sequence[Path], field: str, size: int) -> Arrays:
    """Read images_background and images_evaluation: ALPHABET/CHARACTER/*.png in each.

    Args:
        folders: the two, in that order.
        field: where they were named, with its value: what the lines of an error begin with.
        size: rows, and columns, that the images get.

    Returns:
        Strokes of 255 on 0, alphabets and characters numbered in the order of their names, background first.

    Raises:
        DeclarationError: a folder is empty, or everything that is wrong with the images.
    """
    alphabets, characters = dict[str, int](), dict[str, int]()
    files: list[list[Path]] = []
    labels: list[list[tuple[int, int]]] = []
    problems = list[str]()
    for folder in folders:
        files.append([])
        labels.append([])
        for drawn in _drawn_characters(folder, field, problems):
            character = drawn[0].parent
            alphabet = alphabets.setdefault(character.parent.name, len(alphabets))
            number = characters.setdefault(f"{character.parent.name}/{character.name}", len(characters))
            files[-1] += drawn
            labels[-1] += [(alphabet, number)] * len(drawn)
    if problems:
        raise DeclarationError(problems)
    parts = []
    for x, pairs in zip(_read_both(files, field, size, "grey"), labels, strict=True):
        np.subtract(255, x, out=x)
        parts.append(Arrays(x, dict(zip(("alphabet", "character"), np.array(pairs).T, strict=True))))
    names = {"alphabet": tuple(alphabets), "character": tuple(characters)}
    return Arrays(parts[0].x, parts[0].y, test=parts[1], levels=256, names=names)


def _drawn_characters(folder: Path, field: str, problems: list[str]) -> Iterator[list[Path]]:
    """The drawings of each character; a folder without any joins the problems."""
    try:
        inside = _folders(folder)
        if not inside:
            problems.append(f"{field}: {folder}: has no folders of alphabets. {AGAIN}")
        for alphabet in inside:
            characters = _folders(alphabet)
            if not characters:
                problems.append(f"{field}: {alphabet}: has no folders of characters. {AGAIN}")
            for character in characters:
                drawn = sorted(path for path in character.iterdir() if path.name.endswith(".png") and _seen(path))
                if drawn:
                    yield drawn
                else:
                    problems.append(f"{field}: {character}: has no .png files. {AGAIN}")
    except OSError as error:
        problems.append(f"{field}: {error.filename}: cannot be read ({error.strerror}). Let yourself read it.")


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and _seen(path))


def _seen(path: Path) -> bool:
    """Whether a file or folder is none that the system puts there, such as .DS_Store and __MACOSX."""
    return not path.name.startswith((".", "__"))


# --------------------------------------------------------------------------------------------------- CelebA


def read_celeba(files: Sequence[Path], field: str, size: int, limit: int | None) -> Arrays:
    """Read img_align_celeba, list_attr_celeba.txt and list_eval_partition.txt.

    Args:
        files: the folder and the two files, in that order.
        field: where they were named, with its value: what the lines of an error begin with.
        size: rows, and columns, that the images get.
        limit: how many images of each part are read, the first ones; None: all.

    Raises:
        DeclarationError: everything that is wrong with the two files, or else with the images.
    """
    folder, attributes, partition = files
    problems = list[str]()
    values = attempted(_celeba_attributes, attributes, field, problems)
    parts = attempted(_celeba_partition, partition, field, problems)
    there = attempted(lambda path: {file.name for file in path.iterdir()}, folder, field, problems)
    if values is None or parts is None or there is None:
        raise DeclarationError(problems)
    train = [name for name, part in parts.items() if part < 2][:limit]
    test = [name for name, part in parts.items() if part == 2][:limit]
    for names, word in ((train, "0 or 1, for training"), (test, "2, for testing")):
        if not names:
            problems.append(f"{field}: {partition}: no image has {word}. {AGAIN}")
    if lone := sorted(values.keys() ^ parts.keys()):
        text = f"{attributes} and {partition.name} list different images: {some(lone)} in one of them only"
        problems.append(f"{field}: {text}. Delete both and fetch them again.")
    if missing := sorted({*train, *test} - there):
        text = f"lacks images that are listed: {some(missing)}. Unpack img_align_celeba.zip again, the whole of it"
        problems.append(f"{field}: {folder}: {text}.")
    if unlisted := sorted(name for name in there - parts.keys() if name.endswith(".jpg") and name[0] != "."):
        text = f"holds images that are not listed: {some(unlisted)}. Take them out, or fetch the lists again"
        problems.append(f"{field}: {folder}: {text}.")
    if problems:
        raise DeclarationError(problems)
    made = []
    images = _read_both([[folder / name for name in names] for names in (train, test)], field, size, "colour")
    for names, x in zip((train, test), images, strict=True):
        columns = np.array([values[name] for name in names]).T
        made.append(Arrays(x, dict(zip(CELEBA_ATTRIBUTES, columns, strict=True))))
    return Arrays(made[0].x, made[0].y, test=made[1], levels=256)


def _lines(path: Path) -> list[str]:
    """The lines of a text file, those at its end that are empty left out."""
    return path.read_text("utf-8").rstrip().splitlines()


def _celeba_attributes(path: Path) -> dict[str, np.ndarray]:
    """Image -> 40 attributes of 0 or 1. A line with the number of images, one of names, one for each image."""
    lines = _lines(path)
    names = lines[1].split() if len(lines) > 1 else []
    if tuple(names) != CELEBA_ATTRIBUTES:
        differing = sorted({*names} ^ {*CELEBA_ATTRIBUTES})
        raise ValueError(
            f"its second line names {len(names)} attributes, and must name the 40 that were released, in their order"
            + (f"; in one of them only: {some(differing)}" if differing else "")
        )
    if lines[0].strip() != str(len(lines) - 2):
        raise ValueError(
            f"its first line says that it lists {lines[0].strip()[:20]!r} images, and {len(lines) - 2} follow"
        )
    values = {}
    for i, line in enumerate(lines[2:], 3):
        name, *row = line.split() or [""]
        if len(row) != len(names) or not {*row} <= {"-1", "1"}:
            raise ValueError(f"line {i} must hold the name of an image and {len(names)} numbers, each -1 or 1")
        values[name] = np.array([entry == "1" for entry in row], np.uint8)
    if len(values) != len(lines) - 2:
        raise ValueError(f"lists {len(lines) - 2} images, of which {len(lines) - 2 - len(values)} are there twice")
    return values


def _celeba_partition(path: Path) -> dict[str, int]:
    """Image -> 0 (training), 1 (validation) or 2 (testing), in the order of the file."""
    parts = {}
    lines = _lines(path)
    for number, line in enumerate(lines, 1):
        name, *part = line.split() or [""]
        if part not in (["0"], ["1"], ["2"]):
            raise ValueError(f"line {number} must hold the name of an image and 0, 1 or 2")
        parts[name] = int(part[0])
    if len(parts) != len(lines):
        raise ValueError(f"lists {len(lines)} images, of which {len(lines) - len(parts)} are there twice")
    return parts
