"""MATLAB's .mat files, and SVHN, which is released in them, whole and damaged."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from test_data import refusal
from test_data_released import RNG, agrees

from pyro_vae.data import SVHNData, load
from pyro_vae.data.matlab import read_mat

pytestmark = pytest.mark.filterwarnings("error")


# ------------------------------------------------------------------------------------------------------ SVHN


def mat(**arrays: Any) -> bytes:
    compressed = arrays.pop("compressed", True)
    file = io.BytesIO()
    scipy.io.savemat(file, arrays, do_compression=compressed)
    return file.getvalue()


def svhn(num_data: int = 20, **arrays: Any) -> dict[str, np.ndarray]:
    x = RNG.integers(0, 256, (32, 32, 3, num_data), dtype=np.uint8)
    return {"X": x, "y": np.arange(num_data, dtype=np.uint8)[:, None] % 10 + 1} | arrays


def write_svhn(folder: Path, train: dict[str, Any], test: dict[str, Any]) -> SVHNData:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train_32x32.mat").write_bytes(mat(**train))
    (folder / "test_32x32.mat").write_bytes(mat(**test))
    return SVHNData(root=str(folder), download=False, validation=0)


@pytest.mark.parametrize("below", ["svhn", "SVHN", "."])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_svhn(tmp_path: Path, below: str, compressed: bool, dtype: Any) -> None:
    train, test = svhn(20), svhn(11)
    train["y"] = train["y"].astype(dtype)
    write_svhn(tmp_path / below, train | {"compressed": compressed}, test | {"compressed": compressed})
    spec = SVHNData(root=str(tmp_path), download=False, validation=0)
    got = load(spec)
    assert np.array_equal(got.train.x, train["X"].transpose(3, 2, 0, 1))
    assert got.train.attributes["digit"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 2
    assert np.array_equal(got.test.x, test["X"].transpose(3, 2, 0, 1))
    assert got.test.attributes["digit"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert agrees(spec)


DAMAGED = {
    "no X": (mat(y=svhn()["y"]), "holds y, and no X among them"),
    "no y": (mat(X=svhn()["X"]), "holds X, and no y among them"),
    "nothing": (mat(), "holds no array, and no X among them"),
    "one label less": (mat(**svhn(y=np.ones((19, 1), np.uint8))), "holds 20 images and labels of shape (19, 1)"),
    "two columns of labels": (mat(**svhn(y=np.ones((10, 2), np.uint8))), "labels of shape (10, 2)"),
    "label 11": (mat(**svhn(y=np.full((20, 1), 11))), "holds the label 11"),
    "label 0": (mat(**svhn(y=np.full((20, 1), 0))), "holds the label 0"),
    "label 1.5": (mat(**svhn(y=np.full((20, 1), 1.5))), "holds the label 1.5"),
    "label nan": (mat(**svhn(y=np.full((20, 1), np.nan))), "holds the label nan"),
    "other size": (mat(**svhn(X=np.zeros((28, 28, 3, 20), np.uint8))), "shape (28, 28, 3, 20)"),
    "other type": (mat(**svhn(X=np.zeros((32, 32, 3, 20)))), "an X of float64"),
    "one image": (mat(**svhn(X=np.zeros((32, 32, 3), np.uint8))), "shape (32, 32, 3)"),
    "no images": (mat(**svhn(X=np.zeros((32, 32, 3, 0), np.uint8))), "shape (32, 32, 3, 0)"),
    "X is text": (mat(**svhn(X="text")), "holds y, and no X among them"),
    "another shape": (
        mat(compressed=False, **svhn()).replace(b"\x20\0\0\0\x03\0\0\0\x14", b"\x20\0\0\0\x03\0\0\0\x15", 1),
        "says that 'X' has shape (32, 32, 3, 21), and 61440 bytes of it follow",
    ),
    "cut": (mat(**svhn())[:-9], "bytes follow"),
    "cut in the header": (mat(**svhn())[:100], "is no MATLAB file of version 5"),
    "empty": (b"", "is no MATLAB file of version 5"),
    "page": (b"<html>" * 100, "is no MATLAB file of version 5"),
    "MATLAB 7.3": (b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(400), "7.3"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(400), "7.3"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_svhn(tmp_path: Path, case: str) -> None:
    spec = write_svhn(tmp_path, svhn(), svhn())
    content, words = DAMAGED[case]
    path = tmp_path / "test_32x32.mat"
    path.write_bytes(content)
    message = refusal(load, spec)
    assert words in message
    assert message.startswith(f'data.root="{tmp_path}": {path}: ')
    assert message.endswith("Delete it and fetch it again.")


def test_both_files_of_svhn_are_looked_at(tmp_path: Path) -> None:
    spec = write_svhn(tmp_path, svhn(), svhn())
    for name in spec.files():
        (tmp_path / name).write_bytes(b"")
    assert len(refusal(load, spec).splitlines()) == 2


@pytest.mark.parametrize("compressed", [False, True])
def test_mat_files_are_read_as_scipy_reads_them(tmp_path: Path, compressed: bool) -> None:
    types = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]
    arrays = {f"a{i}": RNG.integers(0, 100, (2, 3, i + 1)).astype(dtype) for i, dtype in enumerate(types)}
    arrays |= {"name_longer_than_a_tag": np.eye(3), "s": np.ones((1, 1)), "e": np.zeros((0, 3))}
    others = {"text": "abc", "cell": np.array([1, "a"], object), "struct": {"a": 1}, "complex": np.array([1j])}
    path = tmp_path / "d.mat"
    path.write_bytes(mat(compressed=compressed, **arrays, **others))
    got, expected = read_mat(path), scipy.io.loadmat(path)
    assert list(got) == list(arrays)
    for name, array in got.items():
        assert np.array_equal(array, expected[name])
        assert array.shape == expected[name].shape


def test_mat_files_of_the_other_byte_order(tmp_path: Path) -> None:
    import struct

    def element(kind: int, body: bytes) -> bytes:
        return struct.pack(">II", kind, len(body)) + body.ljust(-len(body) % 8 + len(body), b"\0")

    head = element(6, struct.pack(">II", 6, 0)) + element(5, struct.pack(">ii", 1, 2)) + element(1, b"x")
    body = head + element(9, struct.pack(">dd", 1.5, -2))
    path = tmp_path / "d.mat"
    path.write_bytes(b"big".ljust(124) + b"\1\0MI" + element(14, body))
    assert scipy.io.loadmat(path)["x"].tolist() == read_mat(path)["x"].tolist() == [[1.5, -2.0]]


@pytest.mark.parametrize("compressed", [False, True])
def test_no_damage_to_a_mat_file_does_worse_than_refuse_it(tmp_path: Path, compressed: bool) -> None:
    """Cut anywhere, or any bit flipped in what says how it is laid out: read, or a ValueError."""
    whole, path = mat(compressed=compressed, **svhn(2)), tmp_path / "d.mat"
    tags = range(124, 400 if compressed else 192)
    changes = [whole[:length] for length in (*range(400), *range(400, len(whole), 97))]
    changes += [whole[:i] + bytes([whole[i] ^ 1 << bit]) + whole[i + 1 :] for i in tags for bit in range(8)]
    refused = 0
    for content in changes:
        path.write_bytes(content)
        try:
            read_mat(path)
        except ValueError:
            refused += 1
    assert refused > len(changes) / 2


def test_a_mat_file_cannot_claim_more_than_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyro_vae.data import matlab

    path = tmp_path / "d.mat"
    path.write_bytes(mat(x=np.zeros(10**6)))
    monkeypatch.setattr(matlab, "MAX_BYTES", 10**5)
    assert path.stat().st_size < 10**5
    with pytest.raises(ValueError, match="holds more than any such file"):
        read_mat(path)
    monkeypatch.setattr(matlab, "MAX_BYTES", 10**3)
    with pytest.raises(ValueError, match="bytes, which is more than any such file"):
        read_mat(path)
