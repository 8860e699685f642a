"""Released sets: how they are found and downloaded; CIFAR-10, whole and damaged."""

import os
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from test_data import refusal
from test_data_idx import NAMES, write, write_set

from pyro_vae.data import (
    CelebAData,
    CIFAR10Data,
    DataSpec,
    Declared,
    EMNISTData,
    FashionMNISTData,
    KMNISTData,
    MNISTData,
    OmniglotData,
    ReleasedData,
    SVHNData,
    load,
)

pytestmark = pytest.mark.filterwarnings("error")

SPECS = [MNISTData, FashionMNISTData, KMNISTData, EMNISTData, OmniglotData, CIFAR10Data, SVHNData, CelebAData]
RNG = np.random.default_rng(0)


def agrees(spec: DataSpec, **fields: Any) -> bool:
    """Whether what is declared of a set is what is found in it."""
    declared = spec.replace(validation=0, **fields)
    got = load(declared)
    return declared.declared() == Declared(got.name, got.support, got.shape, got.num_classes, got.levels)


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


# --------------------------------------------------------------------------------------------- declarations


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
