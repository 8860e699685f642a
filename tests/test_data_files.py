"""Data sets from files: MNIST's IDX files and a user's own .npy and .npz, whole and damaged."""

import gzip
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_data import GREY, refusal

from pyro_vae.data import MNIST_FILES as NAMES
from pyro_vae.data import Arrays, ArraysData, Declared, MNISTData, load, read_idx
from pyro_vae.data import files as data_files
from pyro_vae.data.files import find_mnist

pytestmark = pytest.mark.filterwarnings("error")


def idx(array: np.ndarray, magic: bytes | None = None) -> bytes:
    """The bytes of an IDX file."""
    magic = bytes((0, 0, 8, array.ndim)) if magic is None else magic
    return magic + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()


def write_mnist(folder: Path, *, gz: bool = False, num_train: int = 30, num_labels: int = 30) -> dict[str, np.ndarray]:
    """A small MNIST in the folder; returns the arrays by file name."""
    rng = np.random.default_rng(3)
    shapes = ((num_train, 5, 4), (num_labels,), (7, 5, 4), (7,))
    arrays = {
        name: rng.integers(0, 256 if len(shape) == 3 else 10, shape, dtype=np.uint8)
        for name, shape in zip(NAMES, shapes, strict=True)
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        content = idx(array)
        (folder / (f"{name}.gz" if gz else name)).write_bytes(gzip.compress(content) if gz else content)
    return arrays


@pytest.fixture
def real_mnist() -> str:
    root = os.environ.get("PYRO_VAE_DATA")
    if not root or find_mnist(Path(root)) is None:
        pytest.skip("PYRO_VAE_DATA names no folder that holds MNIST")
    return root


# ---------------------------------------------------------------------------------------------------- MNIST


@pytest.mark.parametrize("below", [".", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("gz", [False, True])
def test_mnist_is_found_plain_or_gzipped(tmp_path: Path, below: str, gz: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = write_mnist(tmp_path / below, gz=gz)
    got = load(MNISTData(root=str(tmp_path), download=False, validation=0))
    assert torch.equal(got.train.x, torch.from_numpy(arrays[NAMES[0]][:, None]))
    assert torch.equal(got.train.attributes["digit"], torch.from_numpy(arrays[NAMES[1]]).long())
    assert torch.equal(got.test.x, torch.from_numpy(arrays[NAMES[2]][:, None]))
    assert torch.equal(got.test.attributes["digit"], torch.from_numpy(arrays[NAMES[3]]).long())
    assert (got.levels, got.shape) == (256, (1, 5, 4))
    monkeypatch.setenv("PYRO_VAE_DATA", str(tmp_path))
    assert torch.equal(load(MNISTData(download=False, validation=0)).train.x, got.train.x)


def cut(content: bytes) -> bytes:
    return content[:-3]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (cut, "follow"),
        (lambda content: content + b"0", "more than"),
        (lambda content: b"\0\0\x0d" + content[3:], "begins with 00000d"),
        (lambda content: content[:3] + b"\1" + content[4:], "begins with 00000801"),
        (lambda content: content[:6], "follow"),
        (lambda content: b"", "begins with"),
        (lambda content: content[:4] + b"\xff" * 12 + content[16:], "more than any such file"),
        (lambda content: content[:4] + b"\0" * 4 + content[8:16], "its header says"),
        (lambda content: b"<html>not found</html>", "begins with"),
    ],
)
@pytest.mark.parametrize("gz", [False, True])
def test_damaged_mnist_is_refused(tmp_path: Path, change: Any, words: str, gz: bool) -> None:
    arrays = write_mnist(tmp_path, gz=gz)
    content = change(idx(arrays[NAMES[0]]))
    path = tmp_path / (f"{NAMES[0]}.gz" if gz else NAMES[0])
    path.write_bytes(gzip.compress(content) if gz else content)
    message = refusal(load, MNISTData(root=str(tmp_path), download=False))
    assert words in message
    assert str(path) in message
    assert "fetch" in message
    with pytest.raises(ValueError, match="header|begins"):
        read_idx(path, 3)


def test_every_damaged_file_is_named_at_once(tmp_path: Path) -> None:
    write_mnist(tmp_path, gz=True)
    for name in NAMES[:2]:
        path = tmp_path / f"{name}.gz"
        path.write_bytes(cut(path.read_bytes())[:40])  # the gzip stream itself ends early
    (tmp_path / f"{NAMES[2]}.gz").write_bytes(b"no gzip at all")
    message = refusal(load, MNISTData(root=str(tmp_path), download=False))
    assert len(message.splitlines()) == 3
    assert all(name in message for name in NAMES[:3])


def test_ten_images_with_seven_labels_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, num_train=10, num_labels=7)
    message = refusal(load, MNISTData(root=str(tmp_path), download=False))
    assert "10 images" in message
    assert "7 labels" in message


def test_missing_mnist_says_which_files_go_where(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / NAMES[3]).unlink()
    message = refusal(load, MNISTData(root=str(tmp_path), download=False))
    for word in (*NAMES, str(tmp_path), "data.root", "PYRO_VAE_DATA", "download"):
        assert word in message


def test_mnist_is_downloaded_where_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    asked = []

    def download(root: str, download: bool) -> None:
        asked.append(root)
        assert download
        write_mnist(Path(root) / "MNIST" / "raw")

    monkeypatch.setattr(torchvision.datasets, "MNIST", download)
    assert len(load(MNISTData(root=str(tmp_path))).test) == 7

    assert len(load(MNISTData(root=str(tmp_path))).test) == 7  # there already: not asked again
    assert asked == [str(tmp_path)]

    def fail(root: str, download: bool) -> None:
        raise RuntimeError("Error downloading train-images:\nTried http://nowhere\n")

    monkeypatch.setattr(torchvision.datasets, "MNIST", fail)
    message = refusal(load, MNISTData(root=str(tmp_path / "empty")))
    assert "Error downloading" in message
    assert "PYRO_VAE_DATA" in message


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
    assert spec.declared() == Declared(got.name, got.support, got.shape, got.num_classes)


# ----------------------------------------------------------------------------------------------------- files


def test_npy_is_mapped_and_never_written(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    x = np.random.default_rng(0).integers(0, 256, (40, 3, 4, 4), dtype=np.uint8)
    np.save(path, x)
    before = path.read_bytes()
    raw = ArraysData(path=str(path)).read(0)
    assert isinstance(raw.x, np.memmap)
    assert not raw.x.flags.writeable
    got = load(ArraysData(path=str(path), validation=0))
    assert (got.name, got.levels, got.shape, len(got.train), len(got.test)) == (
        "arrays",
        256,
        (3, 4, 4),
        36,
        4,
    )
    assert sorted(map(bytes, torch.cat([got.train.x, got.test.x]).numpy())) == sorted(map(bytes, x))
    got.train.x.zero_()
    got.test.x.zero_()
    del raw, got
    assert path.read_bytes() == before


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_names_its_parts(tmp_path: Path, save: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 4))
    save(
        tmp_path / "d.npz",
        x=x,
        y=np.arange(30) % 3,
        smile=np.arange(30) % 2 == 0,
        length=rng.normal(size=30),  # no integers: ignored
        version=np.array(3),
        names=np.array(["a", "b"]),
        given=rng.normal(size=(30, 2)),
        mask=np.ones((30, 4), bool),
        x_test=x[:5],
        y_test=np.arange(5) % 3,
        given_test=np.zeros((5, 2)),
    )
    got = load(ArraysData(path=str(tmp_path / "d.npz"), validation=0))
    assert got.num_classes == {"label": 3, "smile": 2}
    assert torch.equal(got.train.x, torch.from_numpy(x))
    assert torch.equal(got.test.x, torch.from_numpy(x[:5]))
    assert got.test.attributes["label"].tolist() == [0, 1, 2, 0, 1]
    assert got.test.attributes["smile"].tolist() == [-1] * 5
    assert got.train.given is not None
    assert got.train.given.shape == (30, 2)
    assert got.test.given is not None
    assert (got.test.given == 0).all()
    assert got.test.mask is not None
    assert got.test.mask.all()


@pytest.mark.parametrize(
    ("names", "x"),
    [
        (("x", "other"), "x"),
        (("images", "other"), "images"),
        (("data",), "data"),
        (("faces",), "faces"),
        (("x_train",), "x_train"),
    ],
)
def test_npz_finds_x(tmp_path: Path, names: tuple[str, ...], x: str) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {name: rng.normal(size=(30, 4)) for name in names}
    np.savez(tmp_path / "d.npz", **arrays, person=np.arange(30))
    got = load(ArraysData(path=str(tmp_path / "d.npz")))
    total = torch.cat([got.train.x, got.validation.x, got.test.x]).sum()
    assert abs(float(total) - arrays[x].sum()) < 1e-9
    assert list(got.num_classes) == ["person"]


def test_keras_style_npz(tmp_path: Path) -> None:
    x = np.arange(30 * 4, dtype=np.uint8).reshape(30, 2, 2)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=np.arange(30) % 2, x_test=x[:4], y_test=np.arange(4) % 2)
    got = load(ArraysData(path=str(tmp_path / "d.npz")))
    assert (len(got.test), got.shape, got.num_classes) == (4, (1, 2, 2), {"label": 2})


def bad_file(folder: Path, name: str, content: Any) -> ArraysData:
    path = folder / name
    if isinstance(content, dict):
        np.savez(path, **content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    return ArraysData(path=str(path))


def npy(header: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


X = np.random.default_rng(0).normal(size=(20, 3))
BAD_FILES = {
    "text": ("d.npy", b"1,2,3\n4,5,6\n", "no readable .npy"),
    "empty file": ("d.npy", b"", "no readable .npy"),
    "8 TB": (
        "d.npy",
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000)}\n"),
        "no readable .npy",
    ),
    "objects": ("d.npy", np.array([{"a": 1}, "b"], object), "Python objects"),
    "cut npz": ("d.npz", b"PK\x03\x04cut", "no readable .npz"),
    "objects in npz": ("d.npz", {"x": X, "y": np.array(["a", 1], object)}, "Python objects"),
    "strings": ("d.npy", np.array([["a", "b"]]), "<U1 values"),
    "scalar": ("d.npy", np.array(3.0), "shape ()"),
    "no suffix": ("d.csv", b"1,2", ".npy or .npz"),
    "two candidates": ("d.npz", {"a": X, "b": X}, "which array is x? It holds a (20, 3), b (20, 3)"),
    "nothing": ("d.npz", {}, "It holds nothing"),
    "float labels": ("d.npz", {"x": X, "y": X[:, 0]}, "y.label: float64"),
    "too few labels": ("d.npz", {"x": X, "y": np.arange(7)}, "must be integers of shape (20,)"),
    "x_test of another width": (
        "d.npz",
        {"x": X, "x_test": X[:, :2]},
        "test.x: one has shape (2,); in x it is (3,)",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused(tmp_path: Path, case: str) -> None:
    name, content, words = BAD_FILES[case]
    message = refusal(load, bad_file(tmp_path, name, content))
    assert words in message
    assert f'data.path="{tmp_path / name}"' in message
    assert "allow_pickle=True" not in message
    assert "pickled" not in message


def test_flipped_bit_in_npz_is_refused(tmp_path: Path) -> None:
    spec = bad_file(tmp_path, "d.npz", {"x": X})
    path = tmp_path / "d.npz"
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)
    assert "CRC" in refusal(load, spec)


def test_npz_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "d.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", bytes(10**6))
    monkeypatch.setattr(data_files, "MAX_NPZ_BYTES", 10**5)
    monkeypatch.setattr(np, "load", None)
    assert path.stat().st_size < 10**4
    assert "1000000 bytes unpacked" in refusal(load, ArraysData(path=str(path)))


def test_missing_file_and_no_arrays(tmp_path: Path) -> None:
    assert "no such file" in refusal(load, ArraysData(path=str(tmp_path / "d.npy")))
    assert "data=Arrays(x, y)" in refusal(load, ArraysData())
    assert "Leave one out" in refusal(load, ArraysData(path="d.npy"), 0, Arrays(X))
