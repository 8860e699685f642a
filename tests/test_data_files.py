"""Data sets from files: a user's own .npy and .npz, whole and damaged."""

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_data import refusal

from pyro_vae.data import Arrays, ArraysData, load
from pyro_vae.data import files as data_files

pytestmark = pytest.mark.filterwarnings("error")


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
    "no suffix": ("d.txt", b"1,2", ".npy or .npz"),
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
