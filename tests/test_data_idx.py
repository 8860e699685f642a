"""IDX files, and the four sets that are released in them, whole and damaged."""

import gzip
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_data import GREY, refusal

from pyro_vae.data import MNIST_FILES as NAMES
from pyro_vae.data import Declared, EMNISTData, FashionMNISTData, KMNISTData, MNISTData, load, read_idx, storage

pytestmark = pytest.mark.filterwarnings("error")

SETS = {"mnist": MNISTData, "fashion_mnist": FashionMNISTData, "kmnist": KMNISTData, "emnist": EMNISTData}
SPLITS = {"balanced": 47, "byclass": 62, "bymerge": 47, "letters": 26, "digits": 10, "mnist": 10}


def idx(array: np.ndarray, magic: bytes | None = None) -> bytes:
    """The bytes of an IDX file."""
    magic = bytes((0, 0, 8, array.ndim)) if magic is None else magic
    return magic + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()


def write(path: Path, array: np.ndarray, gz: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = idx(array)
    path.with_name(f"{path.name}.gz" if gz else path.name).write_bytes(gzip.compress(content) if gz else content)


def write_set(
    folder: Path, names: Any = NAMES, *, classes: int = 10, first: int = 0, **fields: Any
) -> list[np.ndarray]:
    """A small set of images of 28 x 28, each class in both parts; returns the arrays."""
    gz, num_train, num_labels = fields.get("gz", False), fields.get("num_train", 70), fields.get("num_labels", 70)
    rng = np.random.default_rng(3)
    shapes = ((num_train, 28, 28), (num_labels,), (64, 28, 28), (64,))
    arrays = [
        rng.integers(0, 256, shape) if len(shape) == 3 else first + np.arange(shape[0]) % classes for shape in shapes
    ]
    for name, array in zip(names, arrays, strict=True):
        write(folder / name, array.astype(np.uint8), gz)
    return arrays


@pytest.fixture
def real_mnist() -> str:
    root = os.environ.get("PYRO_VAE_DATA")
    if not root or MNISTData(root=root).found() is None:
        pytest.skip("PYRO_VAE_DATA names no folder that holds MNIST")
    return root


# ----------------------------------------------------------------------------------------------------- whole


@pytest.mark.parametrize(
    ("spec", "below", "attribute"),
    [
        (MNISTData, (".", "mnist", "MNIST/raw"), "digit"),
        (FashionMNISTData, (".", "fashion_mnist", "FashionMNIST/raw"), "garment"),
        (KMNISTData, (".", "kmnist", "KMNIST/raw"), "character"),
    ],
)
@pytest.mark.parametrize("gz", [False, True])
def test_sets_are_found_plain_or_gzipped(tmp_path: Path, spec: Any, below: Any, attribute: str, gz: bool) -> None:
    for folder in below:
        root = tmp_path / folder.replace("/", "-")
        x, y, test_x, test_y = write_set(root / folder, gz=gz)
        declared = spec(root=str(root), download=False, validation=0)
        got = load(declared)
        assert np.array_equal(got.train.x[:, 0], x)
        assert np.array_equal(got.train.attributes[attribute], y)
        assert np.array_equal(got.test.x[:, 0], test_x)
        assert np.array_equal(got.test.attributes[attribute], test_y)
        assert got.levels == 256
        assert declared.declared() == Declared(got.name, got.support, got.shape, got.num_classes, got.levels)


def test_files_of_each_set_are_looked_for_in_its_own_folder_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = {name: np.full((70, 28, 28), i) for i, name in enumerate(SETS) if name != "emnist"}
    write_set(tmp_path)
    monkeypatch.setenv("PYRO_VAE_DATA", str(tmp_path))
    assert len(load(MNISTData(download=False)).test) == 64
    for name in ("fashion_mnist", "kmnist"):  # what lies in the folder itself is somebody's MNIST
        message = refusal(load, SETS[name](download=False))
        assert f"{tmp_path / name}, " in message
        assert f"{tmp_path}." not in message
    for name, images in x.items():
        write_set(tmp_path / name)
        write(tmp_path / name / NAMES[0], images)
    for name in x:
        got = SETS[name](download=False).read(0)
        assert np.array_equal(got.x, x[name])


def test_plain_file_is_preferred(tmp_path: Path) -> None:
    write_set(tmp_path, gz=True)
    plain = np.full((70, 28, 28), 9)
    write(tmp_path / NAMES[0], plain)
    assert np.array_equal(MNISTData(root=str(tmp_path), download=False).read(0).x, plain)


def test_names_of_the_classes(tmp_path: Path) -> None:
    write_set(tmp_path)
    assert load(MNISTData(root=str(tmp_path))).names == {}
    garments = load(FashionMNISTData(root=str(tmp_path))).names["garment"]
    assert (len(garments), garments[0], garments[9]) == (10, "T-shirt/top", "Ankle boot")
    import torchvision.datasets

    assert garments == tuple(torchvision.datasets.FashionMNIST.classes)
    assert load(KMNISTData(root=str(tmp_path))).names == {"character": tuple(torchvision.datasets.KMNIST.classes)}


@pytest.mark.parametrize("below", [".", "emnist", "EMNIST/raw"])
@pytest.mark.parametrize("split", SPLITS)
def test_emnist_is_upright_and_numbered_from_0(tmp_path: Path, split: Any, below: str) -> None:
    import torchvision.datasets

    classes, first = SPLITS[split], int(split == "letters")
    names = [
        f"emnist-{split}-{part}-{kind}-ubyte" for part in ("train", "test") for kind in ("images-idx3", "labels-idx1")
    ]
    x, y, test_x, test_y = write_set(tmp_path / below, names, classes=classes, first=first, gz=True)
    spec = EMNISTData(root=str(tmp_path), download=False, split=split, validation=0)
    assert list(spec.files()) == names
    got = load(spec)
    assert np.array_equal(got.train.x[:, 0], x.transpose(0, 2, 1))
    assert np.array_equal(got.test.x[:, 0], test_x.transpose(0, 2, 1))
    assert np.array_equal(got.train.attributes["character"], y - first)
    assert np.array_equal(got.test.attributes["character"], test_y - first)
    assert spec.declared() == Declared(got.name, got.support, got.shape, got.num_classes, got.levels)
    theirs = torchvision.datasets.EMNIST.classes_split_dict[split][first:]
    if classes > 10:
        assert got.names == {"character": tuple(theirs)}
    other = EMNISTData(root=str(tmp_path), download=False, split="mnist" if split == "digits" else "digits")
    assert other.files()[0] in refusal(load, other)


def test_large_files_are_read_onto_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = write_set(tmp_path, gz=True)
    monkeypatch.setattr(storage, "MEMORY_SHARE", 0)
    raw = MNISTData(root=str(tmp_path), download=False).read(0)
    assert isinstance(raw.x, np.memmap)
    assert np.array_equal(raw.x, arrays[0])


# --------------------------------------------------------------------------------------------------- damaged


def cut(content: bytes) -> bytes:
    return content[:-3]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (cut, "54877 follow"),
        (lambda content: content + b"0", "more than"),
        (lambda content: b"\0\0\x0d" + content[3:], "begins with 00000d"),
        (lambda content: content[:3] + b"\1" + content[4:], "begins with 00000801"),
        (lambda content: content[:6], "follow"),
        (lambda content: b"", "begins with"),
        (lambda content: content[:4] + b"\xff" * 12 + content[16:], "more than any such file"),
        (lambda content: content[:4] + b"\0" * 4 + content[8:16], "its header says"),
        (lambda content: b"<html>not found</html>", "begins with"),
        (lambda content: idx(np.zeros((70, 20, 30))), "images of 20 x 30"),
    ],
)
@pytest.mark.parametrize("gz", [False, True])
def test_damaged_files_are_refused(tmp_path: Path, change: Any, words: str, gz: bool) -> None:
    images = write_set(tmp_path, gz=gz)[0]
    content = change(idx(images))
    path = tmp_path / (f"{NAMES[0]}.gz" if gz else NAMES[0])
    path.write_bytes(gzip.compress(content) if gz else content)
    message = refusal(load, MNISTData(root=str(tmp_path), download=False))
    assert words in message
    assert f'data.root="{tmp_path}": {path}: ' in message
    assert "fetch" in message
    if "images of" not in words:
        with pytest.raises(ValueError, match="header|begins"):
            read_idx(path, 3)


def test_every_damaged_file_is_named_at_once(tmp_path: Path) -> None:
    write_set(tmp_path, gz=True)
    for name in NAMES[:2]:
        path = tmp_path / f"{name}.gz"
        path.write_bytes(cut(path.read_bytes())[:40])  # the gzip stream itself ends early
    (tmp_path / f"{NAMES[2]}.gz").write_bytes(b"no gzip at all")
    (tmp_path / f"{NAMES[3]}.gz").unlink()
    (tmp_path / NAMES[3]).mkdir()
    message = refusal(load, MNISTData(root=str(tmp_path), download=False))
    assert len(message.splitlines()) == 4
    assert all(name in message for name in NAMES)


@pytest.mark.parametrize(("part", "word"), [(1, "train"), (3, "t10k")])
@pytest.mark.parametrize(
    ("spec", "labels", "words"),
    [
        (MNISTData, [10], "labels from 0 to 10, and those of this set go over 0..9"),
        (EMNISTData, [47], "go over 0..46"),
        (EMNISTData, [255], "labels from 0 to 255"),
    ],
)
def test_labels_of_no_class_are_refused(
    tmp_path: Path, part: int, word: str, spec: Any, labels: list[int], words: str
) -> None:
    names = spec().files()
    y = write_set(tmp_path, names)[part]
    write(tmp_path / names[part], np.concatenate([y[1:], labels]))
    message = refusal(load, spec(root=str(tmp_path), download=False))
    assert words in message
    assert names[part] in message
    assert len(message.splitlines()) == 1


def test_letters_begin_with_1(tmp_path: Path) -> None:
    spec = EMNISTData(root=str(tmp_path), download=False, split="letters")
    write_set(tmp_path, spec.files(), classes=26)
    assert "labels from 0 to 25, and those of this set go over 1..26" in refusal(load, spec)


def test_ten_images_with_seven_labels_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path, num_train=10, num_labels=7)
    message = refusal(load, MNISTData(root=str(tmp_path), download=False))
    assert "10 images" in message
    assert "7 labels" in message


# ------------------------------------------------------------------------------------------------ real MNIST


def test_real_mnist(real_mnist: str) -> None:
    got = load(MNISTData(root=real_mnist, download=False))
    assert (len(got.train), len(got.validation), len(got.test)) == (54_000, 6_000, 10_000)
    assert (got.shape, got.levels, got.classes("digit")) == ((1, 28, 28), 256, 10)
    assert got.test.attributes["digit"][:5].tolist() == [7, 2, 1, 0, 4]
    # The published mean of the 60,000 training images is 0.1307 (torchvision's examples).
    mean = torch.cat([got.train.x, got.validation.x]).double().mean() / 255
    assert abs(float(mean) - 0.1307) < 5e-5


def test_real_mnist_keeps_300_labels_a_class(real_mnist: str) -> None:
    labels = load(MNISTData(root=real_mnist, download=False, labels_kept=3000)).train.attributes["digit"]
    assert torch.bincount(labels[labels >= 0]).tolist() == [300] * 10


@pytest.mark.parametrize("fields", GREY)
def test_what_is_declared_of_real_mnist_is_what_is_found(real_mnist: str, fields: dict[str, Any]) -> None:
    spec = MNISTData(root=real_mnist, download=False, **fields)
    got = load(spec)
    assert spec.declared() == Declared(got.name, got.support, got.shape, got.num_classes, got.levels)
