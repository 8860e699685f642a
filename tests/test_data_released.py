"""Released sets: how they are found and downloaded, and Omniglot, CIFAR-10, SVHN and CelebA, whole and damaged."""

import io
import os
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torchvision.datasets
from PIL import Image
from test_data import refusal
from test_data_idx import NAMES, write, write_set

from pyro_vae.data import (
    CelebAData,
    CIFAR10Data,
    DataSpec,
    Declared,
    EMNISTData,
    FashionMNISTData,
    MNISTData,
    OmniglotData,
    ReleasedData,
    SVHNData,
    load,
)
from pyro_vae.data.layouts import CELEBA_ATTRIBUTES
from pyro_vae.data.matlab import read_mat

pytestmark = pytest.mark.filterwarnings("error")

SPECS = [MNISTData, FashionMNISTData, EMNISTData, OmniglotData, CIFAR10Data, SVHNData, CelebAData]
RNG = np.random.default_rng(0)


def agrees(spec: DataSpec, **fields: Any) -> bool:
    """Whether what is declared of a set is what is found in it."""
    declared = spec.replace(validation=0, **fields)
    got = load(declared)
    return declared.declared() == Declared(got.name, got.support, got.shape, got.num_classes)


# ------------------------------------------------------------------------------------------------- downloads


class Fake:
    """Stands for a class of torchvision: writes what it is told to, or fails."""

    def __init__(self, make: Any) -> None:
        self.make, self.calls = make, []

    def __call__(self, root: str, download: bool, **call: Any) -> None:
        assert download
        self.calls.append(call)
        print("100%|downloading")
        self.make(Path(root), **call)


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(title: str, make: Any) -> Fake:
        fake = Fake(make)
        monkeypatch.setattr(torchvision.datasets, title, fake)
        return fake

    return install


@pytest.mark.parametrize("part", SPECS)
def test_missing_set_says_what_is_looked_for_and_where(tmp_path: Path, part: Any, pretend: Any) -> None:
    spec = part(root=str(tmp_path), download=False)
    fake = pretend(spec.title, lambda root, **call: None)
    message = refusal(load, spec)
    for word in (*spec.files(), *map(str, spec.looked_in()), "data.root=FOLDER", "PYRO_VAE_DATA", "data.download"):
        assert word in message
    assert message.startswith(f'data.root="{tmp_path}": {spec.title} is not there')
    assert len(message.splitlines()) == 1
    assert fake.calls == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("Error downloading train-images:\nTried http://nowhere\n"), "downloading train-images: Tried"),
        (OSError("<urlopen error [Errno -2] Name or service not known>"), "Name or service not known"),
        (ImportError("No module named 'scipy'"), "scipy"),
        (RuntimeError("To download files from GDrive, 'gdown' is required."), "gdown"),
        (ValueError("File not found or corrupted."), "corrupted"),
        (AssertionError(), "AssertionError"),
    ],
)
@pytest.mark.parametrize("part", SPECS)
def test_whatever_stops_a_download_is_said_in_one_line(
    tmp_path: Path, part: Any, error: Exception, words: str, pretend: Any
) -> None:
    def fail(root: Path, **call: Any) -> None:
        (root / "half").mkdir(parents=True)
        raise error

    spec = part(root=str(tmp_path / "new"))
    pretend(spec.title, fail)
    message = refusal(load, spec)
    assert "cannot be downloaded" in message
    assert words in message
    assert spec.files()[0] in message
    assert list((tmp_path / "new").iterdir()) == []


def test_a_download_that_leaves_nothing_and_a_folder_that_cannot_be_written(tmp_path: Path, pretend: Any) -> None:
    pretend("MNIST", lambda root: None)
    assert "the download left none of it" in refusal(load, MNISTData(root=str(tmp_path)))
    (tmp_path / "file").write_text("")
    assert "cannot be downloaded" in refusal(load, MNISTData(root=str(tmp_path / "file")))


def test_torchvision_that_cannot_be_imported_is_a_reason_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    assert "cannot be downloaded (import of torchvision.datasets" in refusal(load, MNISTData(root=str(tmp_path)))


def make_mnist(root: Path, **_: Any) -> None:
    for gz in (True, False):  # torchvision leaves both
        write_set(root / "MNIST" / "raw", gz=gz)


def test_a_set_is_downloaded_once_and_silently(tmp_path: Path, pretend: Any, capfd: pytest.CaptureFixture[str]) -> None:
    fake = pretend("MNIST", make_mnist)
    spec = MNISTData(root=str(tmp_path / "new" / "folder"))
    assert len(load(spec).test) == len(load(spec).test) == 64
    assert fake.calls == [{}]
    assert capfd.readouterr().out == ""
    assert [path.name for path in Path(spec.place()).iterdir()] == ["MNIST"]


def test_what_is_there_is_never_written_over(tmp_path: Path, pretend: Any) -> None:
    """Of a set in part there, only what is missing is filled in; what is damaged stays as it is."""
    raw = tmp_path / "MNIST" / "raw"
    arrays = write_set(raw)
    (raw / NAMES[2]).unlink()
    own = np.full((70, 28, 28), 7)
    write(raw / NAMES[0], own)
    spec = MNISTData(root=str(tmp_path))
    assert f"{raw} lacks {NAMES[2]}." in refusal(load, spec.replace(download=False))
    fake = pretend("MNIST", make_mnist)
    got = spec.read(0)
    assert np.array_equal(got.x, own)
    assert got.test is not None
    assert np.array_equal(got.test.x, arrays[2])

    (raw / NAMES[0]).write_bytes(b"damaged")
    assert "Delete the file and fetch it again" in refusal(load, spec)
    assert (raw / NAMES[0]).read_bytes() == b"damaged"
    assert len(fake.calls) == 1


@pytest.mark.parametrize(
    ("part", "archive"),
    [
        (CelebAData, "celeba/img_align_celeba.zip"),
        (CelebAData, "img_align_celeba.zip"),
        (CIFAR10Data, "cifar-10-python.tar.gz"),
        (EMNISTData, "EMNIST/raw/gzip.zip"),
        (OmniglotData, "omniglot-py/images_background.zip"),
    ],
)
def test_an_archive_that_is_not_unpacked_is_said(tmp_path: Path, part: Any, archive: str, pretend: Any) -> None:
    path = tmp_path / archive
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"PK")
    fake = pretend(part.title, lambda root, **call: None)
    assert f"{path} is not unpacked" in refusal(load, part(root=str(tmp_path)))
    assert fake.calls == []


@pytest.mark.parametrize("part", SPECS)
def test_torchvision_is_asked_for_what_it_has(tmp_path: Path, part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real class, its network cut off: it is called as it wants to be, and fails to download."""
    import torchvision.datasets.utils as utils

    def no_network(*_: Any, **__: Any) -> None:
        raise OSError("no network here")

    for module in ("mnist", "omniglot", "cifar", "svhn", "celeba"):
        for name in ("download_url", "download_and_extract_archive", "download_file_from_google_drive"):
            if hasattr(getattr(torchvision.datasets, module), name):
                monkeypatch.setattr(getattr(torchvision.datasets, module), name, no_network)
    monkeypatch.setattr(utils.urllib.request, "urlopen", no_network)
    message = refusal(load, part(root=str(tmp_path)))
    assert "no network here" in message


def test_located_and_the_abstract_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for part in SPECS:
        assert part(root="x").located() == part(root=str(tmp_path / "x"))
        assert part().located() == part()
    abstract = ReleasedData(name="none")
    with pytest.raises(TypeError, match="define files"):
        abstract.files()
    with pytest.raises(TypeError, match="define arrays"):
        abstract.arrays([], "")


# -------------------------------------------------------------------------------------------------- Omniglot


def write_omniglot(folder: Path, background: dict[str, int], evaluation: dict[str, int]) -> dict[str, np.ndarray]:
    """Alphabets with so many characters of two drawings each, black on white; returns the drawings."""
    drawings = {}
    for part, alphabets in (("images_background", background), ("images_evaluation", evaluation)):
        for alphabet, num_characters in alphabets.items():
            for i in range(1, num_characters + 1):
                for j in (2, 1):
                    path = folder / part / alphabet / f"character{i:02}" / f"{i:04}_{j:02}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    drawing = RNG.random((105, 105)) < 0.9
                    Image.fromarray(drawing).save(path)
                    drawings[f"{part}/{alphabet}/{i}/{j}"] = drawing
    return drawings


@pytest.mark.parametrize("below", ["omniglot-py", "omniglot", "omniglot/omniglot-py", "."])
def test_omniglot(tmp_path: Path, below: str) -> None:
    drawings = write_omniglot(tmp_path / below, {"Greek": 2, "Arcadian": 1}, {"Tengwar": 2})
    (tmp_path / below / "images_background" / ".DS_Store").write_text("")
    (tmp_path / below / "images_background" / "__MACOSX").mkdir()
    (tmp_path / below / "images_background" / "Greek" / "character01" / "._1.png").write_text("")
    spec = OmniglotData(root=str(tmp_path), download=False, size=105, validation=0)
    got = load(spec)
    order = [f"images_background/{name}/{j}" for name in ("Arcadian/1", "Greek/1", "Greek/2") for j in (1, 2)]
    assert np.array_equal(got.train.x[:, 0], [255 - 255 * drawings[name].astype(np.uint8) for name in order])
    assert got.train.attributes["alphabet"].tolist() == [0, 0, 1, 1, 1, 1]
    assert got.train.attributes["character"].tolist() == [0, 0, 1, 1, 2, 2]
    order = [f"images_evaluation/Tengwar/{i}/{j}" for i in (1, 2) for j in (1, 2)]
    assert np.array_equal(got.test.x[:, 0], [255 - 255 * drawings[name].astype(np.uint8) for name in order])
    assert got.test.attributes["alphabet"].tolist() == [2, 2, 2, 2]
    assert got.test.attributes["character"].tolist() == [3, 3, 4, 4]
    assert got.names["alphabet"] == ("Arcadian", "Greek", "Tengwar")
    assert got.names["character"][2:4] == ("Greek/character02", "Tengwar/character01")


def test_omniglot_is_resized(tmp_path: Path) -> None:
    write_omniglot(tmp_path / "omniglot-py", {"Greek": 1}, {"Tengwar": 1})
    path = tmp_path / "omniglot-py/images_background/Greek/character01/0001_01.png"
    drawing = np.ones((105, 105), bool)
    drawing[:, 50:58] = False  # a stroke from top to bottom
    Image.fromarray(drawing).save(path)
    got = load(OmniglotData(root=str(tmp_path), download=False, validation=0))
    x = got.train.x[0, 0].int()
    assert x.shape == (28, 28)
    assert (x[:, 14] == 255).all()
    assert (x[:, :12] == 0).all()
    assert abs(float(x.sum(1)[9]) / 255 - 28 * 8 / 105) < 0.1


def test_declared_omniglot_of_all_alphabets(tmp_path: Path) -> None:
    sizes = [32] * 29 + [36], [33] * 19 + [32]
    assert sum(sizes[0]) == 964
    assert sum(sizes[1]) == 659
    for part, counts in zip(("images_background", "images_evaluation"), sizes, strict=True):
        for i, count in enumerate(counts):
            for j in range(count):
                folder = tmp_path / part / f"{part}{i:02}" / f"character{j:02}"
                folder.mkdir(parents=True)
                Image.new("1", (5, 5), 1).save(folder / "0.png")
    assert agrees(OmniglotData(root=str(tmp_path), download=False), size=4)
    assert agrees(OmniglotData(root=str(tmp_path), download=False), size=5, binarize="threshold")


def test_damaged_omniglot(tmp_path: Path) -> None:
    write_omniglot(tmp_path, {"Greek": 3, "Latin": 1}, {"Tengwar": 1})
    spec = OmniglotData(root=str(tmp_path), download=False)
    bad = [
        tmp_path / "images_background/Greek/character01/0001_01.png",
        tmp_path / "images_evaluation/Tengwar/character01/0001_02.png",
    ]
    bad[0].write_bytes(bad[0].read_bytes()[:-30])
    bad[1].write_bytes(b"")
    message = refusal(load, spec)
    assert len(message.splitlines()) == 2
    assert all(str(path) in message for path in bad)

    for path in (tmp_path / "images_background/Latin/character01").iterdir():
        path.unlink()
    (tmp_path / "images_evaluation/Empty").mkdir()
    message = refusal(load, spec)
    assert "images_background/Latin/character01: has no .png files" in message
    assert "images_evaluation/Empty: has no folders of characters" in message
    assert len(message.splitlines()) == 2


def test_omniglot_in_half_and_of_nothing(tmp_path: Path) -> None:
    write_omniglot(tmp_path / "omniglot-py", {"Greek": 1}, {})
    spec = OmniglotData(root=str(tmp_path), download=False)
    assert f"{tmp_path}/omniglot-py lacks images_evaluation." in refusal(load, spec)
    (tmp_path / "omniglot-py/images_evaluation").mkdir()
    assert "images_evaluation: has no folders of alphabets" in refusal(load, spec)
    (tmp_path / "omniglot-py/images_evaluation").rmdir()
    (tmp_path / "omniglot-py/images_evaluation").write_text("")
    assert "images_evaluation: cannot be read (Not a directory)" in refusal(load, spec)


# -------------------------------------------------------------------------------------------------- CIFAR-10

OBJECTS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Twenty images a file, and torchvision's own class that takes these files for the released ones."""
    folder, arrays, sums = tmp_path / "cifar-10-batches-py", {}, {}
    folder.mkdir()
    for name in CIFAR10Data().files():
        arrays[name] = RNG.integers(0, 256, (20, 3072), dtype=np.uint8)
        content = {"data": arrays[name], "labels": list(range(10)) * 2}
        pickled = pickle.dumps({"label_names": OBJECTS} if "meta" in name else content, protocol=2)
        # The released files are of numpy 1.
        (folder / name).write_bytes(pickled.replace(b"numpy._core", b"numpy.core"))
        sums[name] = torchvision.datasets.utils.calculate_md5(folder / name)
    real = torchvision.datasets.CIFAR10
    monkeypatch.setattr(real, "train_list", [[name, sums[name]] for name, _ in real.train_list])
    monkeypatch.setattr(real, "test_list", [[name, sums[name]] for name, _ in real.test_list])
    monkeypatch.setattr(real, "meta", real.meta | {"md5": sums["batches.meta"]})
    return arrays


def test_cifar10(tmp_path: Path, cifar: dict[str, np.ndarray]) -> None:
    spec = CIFAR10Data(root=str(tmp_path), download=False, validation=0)
    got = load(spec)
    x = np.concatenate([cifar[f"data_batch_{i}"] for i in range(1, 6)])
    assert np.array_equal(got.train.x, x.reshape(-1, 3, 32, 32))
    assert np.array_equal(got.test.x, cifar["test_batch"].reshape(-1, 3, 32, 32))
    assert got.train.attributes["object"].tolist() == list(range(10)) * 10
    assert got.names == {"object": tuple(OBJECTS)}
    assert agrees(spec)
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar-10-batches-py").rename(tmp_path / "cifar10" / "cifar-10-batches-py")
    assert np.array_equal(load(spec).train.x, got.train.x)


def test_warnings_about_old_pickles_are_not_the_users(
    tmp_path: Path, cifar: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As numpy 2.4 gives them for the released files (pytorch/vision#9340)."""
    real = torchvision.datasets.CIFAR10
    load_meta = real._load_meta
    monkeypatch.setattr(real, "_load_meta", lambda self: (warnings.warn("align", stacklevel=1), load_meta(self)))
    assert len(load(CIFAR10Data(root=str(tmp_path), download=False)).test) == 20


class Evil:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("executed",))


@pytest.mark.parametrize("name", CIFAR10Data().files())
def test_nothing_is_unpickled_but_what_was_released(
    tmp_path: Path, cifar: dict[str, np.ndarray], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(Evil()))
    message = refusal(load, CIFAR10Data(root=str(tmp_path), download=False))
    assert f"{name}: is not the file that was released (by its MD5). Delete it and fetch it again." in message
    assert len(message.splitlines()) == 1
    assert not Path("executed").exists()
    # And torchvision, which unpickles, checks the same by itself.
    with pytest.raises(RuntimeError, match="not found or corrupted"):
        torchvision.datasets.CIFAR10(str(tmp_path), train=name != "test_batch")
    assert not Path("executed").exists()


def test_torchvision_knows_a_checksum_of_every_file() -> None:
    """Without one, its check would let any file pass."""
    real = torchvision.datasets.CIFAR10
    listed = [*real.train_list, *real.test_list, [real.meta["filename"], real.meta["md5"]]]
    assert sorted(name for name, _ in listed) == sorted(CIFAR10Data().files())
    assert all(len(bytes.fromhex(md5)) == 16 for _, md5 in listed)


def test_damaged_cifar10(tmp_path: Path, cifar: dict[str, np.ndarray]) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    spec = CIFAR10Data(root=str(tmp_path), download=False)
    for name in ("data_batch_2", "test_batch"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    message = refusal(load, spec)
    assert len(message.splitlines()) == 2
    assert f"{folder}/data_batch_2: " in message
    assert f"{folder}/test_batch: " in message
    (folder / "data_batch_2").unlink()
    assert f"{folder} lacks data_batch_2." in refusal(load, spec)


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


# ---------------------------------------------------------------------------------------------------- CelebA


class Faces:
    """A small CelebA: one image of one colour each; half the attributes differ."""

    def __init__(self, root: Path, num_data: int = 12) -> None:
        self.root, self.folder = root, root / "celeba"
        self.names = [f"{i + 1:06}.jpg" for i in range(num_data)]
        self.colours = RNG.integers(0, 256, (num_data, 3), dtype=np.uint8)
        self.values = (np.arange(num_data)[:, None] + np.arange(40)) % 2
        self.parts = [0, 0, 2, 1] * (num_data // 4)
        (self.folder / "img_align_celeba").mkdir(parents=True)
        for name, colour in zip(self.names, self.colours, strict=True):
            image = np.zeros((218, 178, 3), np.uint8)
            image[20:-20] = colour  # the rows above and below are cut off
            Image.fromarray(image).save(self.folder / "img_align_celeba" / name, quality=100, subsampling=0)
        rows = [f"{name} {' '.join(f'{2 * v - 1:2}' for v in row)}" for name, row in zip(self.names, self.values)]  # noqa: B905
        self.attributes = self.folder / "list_attr_celeba.txt"
        self.attributes.write_text("\n".join([str(num_data), " ".join(CELEBA_ATTRIBUTES) + " ", *rows]) + "\n")
        self.partition = self.folder / "list_eval_partition.txt"
        self.partition.write_text("".join(f"{n} {p}\n" for n, p in zip(self.names, self.parts)))  # noqa: B905

    def spec(self, **fields: Any) -> CelebAData:
        return CelebAData(root=str(self.root), download=False, validation=0, **fields)

    def change(self, path: Path, old: str, new: str) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))


@pytest.fixture
def faces(tmp_path: Path) -> Faces:
    return Faces(tmp_path)


def test_celeba(faces: Faces) -> None:
    got = load(faces.spec())
    train = [i for i, part in enumerate(faces.parts) if part < 2]
    test = [i for i, part in enumerate(faces.parts) if part == 2]
    for part, chosen in ((got.train, train), (got.test, test)):
        assert part.x.shape == (len(chosen), 3, 64, 64)
        expected = faces.colours[chosen].astype(int)[:, :, None, None]
        # At the border, what was cut off is within reach of the filter.
        assert np.abs(part.x.numpy() - expected)[:, :, 4:-4].max() <= 3
        assert list(part.attributes) == list(CELEBA_ATTRIBUTES)
        for j, name in enumerate(CELEBA_ATTRIBUTES):
            assert part.attributes[name].tolist() == faces.values[chosen, j].tolist()
    assert len(CELEBA_ATTRIBUTES) == len(set(CELEBA_ATTRIBUTES)) == 40
    assert agrees(faces.spec())
    assert agrees(faces.spec(), size=7)
    assert agrees(faces.spec().replace(root=str(faces.folder)))


def test_the_middle_of_the_faces_is_read(faces: Faces) -> None:
    image = np.zeros((218, 178, 3), np.uint8)
    image[20:198] = np.arange(178)[:, None, None]
    Image.fromarray(image).save(faces.folder / "img_align_celeba" / faces.names[0], quality=100, subsampling=0)
    x = faces.spec(size=178).read(0).x[0].astype(int)
    assert np.abs(x - np.arange(178)[:, None]).max() <= 3


def test_the_first_of_celeba(faces: Faces) -> None:
    for name in faces.names[4:]:
        (faces.folder / "img_align_celeba" / name).unlink()  # so that only those that are wanted need be there
    raw = faces.spec(limit=1).read(0)
    assert (len(raw.x), len(raw.test.x)) == (1, 1)
    assert abs(raw.test.x[0].mean((1, 2)) - faces.colours[2]).max() < 3
    assert "000005.jpg" in refusal(load, faces.spec(limit=4))


CHANGES: dict[str, tuple[str, str, str, str]] = {
    "one number less": ("attributes", "000003.jpg -1", "000003.jpg", "line 5 must hold the name of an image and 40"),
    "one number more": ("attributes", "000003.jpg", "000003.jpg 1", "line 5 must hold the name of an image and 40"),
    "a number that is neither": ("attributes", "000003.jpg -1", "000003.jpg  0", "line 5 must hold"),
    "an empty line": ("attributes", "000003.jpg", "\n000003.jpg", "it lists '12' images, and 13 follow"),
    "one image twice": ("attributes", "000003.jpg", "000002.jpg", "of which 1 are there twice"),
    "39 names": ("attributes", "Young", "", "names 39 attributes, and must name the 40 that were released, in their"),
    "another name": ("attributes", "Young", "Jung", "in one of them only: Jung, Young"),
    "names exchanged": ("attributes", "Bald Bangs", "Bangs Bald", "in their order. Delete"),
    "another number": ("attributes", "12\n", "13\n", "says that it lists '13' images, and 12 follow"),
    "part 3": ("partition", "000003.jpg 2", "000003.jpg 3", "line 3 must hold the name of an image and 0, 1 or 2"),
    "no part": ("partition", "000003.jpg 2", "000003.jpg", "line 3 must hold"),
    "an empty line between": ("partition", "000003.jpg", "\n000003.jpg", "line 3 must hold"),
    "one in two parts": ("partition", "000003.jpg", "000002.jpg", "of which 1 are there twice"),
    "another image": ("partition", "000003.jpg", "000099.jpg", "list different images: 000003.jpg, 000099.jpg in one"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_damaged_lists_of_celeba(faces: Faces, case: str) -> None:
    which, old, new, words = CHANGES[case]
    path = getattr(faces, which)
    faces.change(path, old, new)
    message = refusal(load, faces.spec())
    assert words in message
    assert str(path) in message or path.name in message
    assert "fetch" in message


def test_lists_of_celeba_that_are_no_lists(faces: Faces) -> None:
    faces.attributes.write_bytes(b"\xff\xfe\0\1")
    faces.partition.write_text("")
    message = refusal(load, faces.spec())
    assert f"{faces.attributes}: 'utf-8' codec" in message
    assert len(message.splitlines()) == 1
    faces.attributes.write_text("")
    faces.partition.write_text("<html>")
    message = refusal(load, faces.spec())
    assert "names 0 attributes" in message
    assert f"{faces.partition}: line 1 must hold" in message
    assert len(message.splitlines()) == 2


def test_a_list_of_celeba_that_was_cut(faces: Faces) -> None:
    text = faces.attributes.read_text()
    for length in range(0, len(text) - 4, 40):
        faces.attributes.write_text(text[:length])
        assert str(faces.attributes) in refusal(load, faces.spec())


@pytest.mark.parametrize("name", CelebAData().files())
def test_celeba_without_one_of_its_parts(faces: Faces, name: str) -> None:
    (faces.folder / name).rename(faces.folder / "elsewhere")
    assert f"{faces.folder} lacks {name}." in refusal(load, faces.spec())
    (faces.folder / name).write_text("") if name.startswith("img") else (faces.folder / name).mkdir()
    assert f"{faces.folder / name}: [Errno 2" in refusal(load, faces.spec())


def test_images_of_celeba_that_are_missing_or_in_no_list(faces: Faces, tmp_path: Path) -> None:
    images = faces.folder / "img_align_celeba"
    (images / "000002.jpg").rename(images / "000077.jpg")
    (images / "notes.txt").write_text("")
    message = refusal(load, faces.spec())
    assert "lacks images that are listed: 000002.jpg. Unpack" in message
    assert "holds images that are not listed: 000077.jpg. Take" in message
    for name in faces.names[2:]:
        (images / name).unlink()
    message = refusal(load, faces.spec())
    assert "000012.jpg" not in message
    assert "and others, 11 in all" in message
    assert len(message.splitlines()) == 2


def test_images_of_celeba_that_cannot_be_read(faces: Faces) -> None:
    images = faces.folder / "img_align_celeba"
    (images / "000001.jpg").write_bytes(b"no image")
    content = (images / "000003.jpg").read_bytes()
    (images / "000003.jpg").write_bytes(content[: len(content) // 2])
    message = refusal(load, faces.spec())
    assert len(message.splitlines()) == 2
    assert "000001.jpg" in message
    assert "000003.jpg" in message


def test_celeba_without_a_test_set(faces: Faces) -> None:
    faces.partition.write_text(faces.partition.read_text().replace(" 2", " 1"))
    assert "no image has 2, for testing" in refusal(load, faces.spec())


@pytest.mark.parametrize(
    ("spec", "fields", "words"),
    [
        (CelebAData, {"size": 0}, "size=0"),
        (CelebAData, {"size": 179}, "size=179"),
        (CelebAData, {"limit": 0}, "limit=0"),
        (OmniglotData, {"size": 106}, "size=106"),
        (EMNISTData, {"split": "all"}, 'split="all"'),
        (SVHNData, {"size": 32}, "unknown key"),
    ],
)
def test_bad_declarations_are_refused(spec: Any, fields: dict[str, Any], words: str) -> None:
    assert words in refusal(spec, **fields)
