"""The data set `hugging_face`: shards in a folder, through the package `datasets` where it is installed."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import pyro_vae as pv
from pyro_vae.data import HuggingFaceData, StoredSplit, load, storage
from pyro_vae.specs import DeclarationError


def test_the_missing_package_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DeclarationError, match=r"needs the package `datasets`: pip install 'pyro_vae\[datasets\]'"):
        HuggingFaceData(path="somewhere").read(0)


def test_what_is_checked_without_it():
    with pytest.raises(DeclarationError, match="data.path=null: must be a folder, a file, a URL"):
        HuggingFaceData().read(0)
    assert HuggingFaceData(path="owner/name").located().path == "owner/name"
    assert HuggingFaceData(path="tests").located().path.startswith("/")


@pytest.fixture
def datasets(monkeypatch, tmp_path):
    """The package, which keeps what it converts in a temporary folder and is not to look for a server."""
    datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return datasets


pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def shards(folder, features, columns, split="train", num=3):
    """Parquet files of a split, with the features that `datasets` writes into them."""
    import pyarrow
    import pyarrow.parquet as parquet

    folder.mkdir(exist_ok=True)
    schema = features.arrow_schema
    table = pyarrow.table([pyarrow.array(values, schema.field(name).type) for name, values in columns.items()], schema)
    share = -(-len(table) // num)
    for i in range(num):
        parquet.write_table(table.slice(i * share, share), folder / f"{split}-{i:05d}.parquet")
    return folder


GREY = np.random.default_rng(0).integers(0, 256, (50, 6, 6), dtype=np.uint8)


@pytest.mark.parametrize("short", [False, True])
def test_images_with_classes(datasets, tmp_path, monkeypatch, short):
    """Train and test, read shard by shard, in order; on disk where memory is short."""
    features = datasets.Features(
        {"image": datasets.Image(), "digit": datasets.ClassLabel(names=["zero", "one", "two"])}
    )
    digit = [None if i == 4 else i % 3 for i in range(50)]
    columns = {"image": [png(pixels) for pixels in GREY], "digit": digit}
    folder = shards(tmp_path / "shards", features, columns)
    shards(folder, features, {name: values[:7] for name, values in columns.items()}, "test", num=1)
    if short:
        monkeypatch.setattr(storage, "MEMORY_SHARE", 0.0)
    data = load(HuggingFaceData(path=str(folder), validation=0))
    assert isinstance(data.train, StoredSplit) == short
    assert (data.shape, data.levels, data.names) == ((1, 6, 6), 256, {"digit": ("zero", "one", "two")})
    assert torch.equal(data.train.select(range(50)).x[:, 0], torch.from_numpy(GREY))
    assert torch.equal(data.test.select(range(7)).x[:, 0], torch.from_numpy(GREY[:7]))
    assert data.train.attributes["digit"].tolist() == [-1 if d is None else d for d in digit]
    resized = load(HuggingFaceData(path=str(folder), size=4, colour="colour"))
    assert resized.shape == (3, 4, 4)


@pytest.mark.parametrize("kind", ["list", "fixed", "array"])
def test_numbers_and_words(datasets, tmp_path, kind):
    feature = {
        "list": datasets.Sequence(datasets.Value("uint8")),
        "fixed": datasets.Sequence(datasets.Value("uint8"), length=36),
        "array": datasets.Array2D((6, 6), "uint8"),
    }[kind]
    features = datasets.Features({"x": feature, "word": datasets.Value("string"), "number": datasets.Value("int32")})
    rows = GREY if kind == "array" else GREY.reshape(50, 36)
    words = [None if i == 3 else ["b", "a"][i % 2] for i in range(50)]
    folder = shards(tmp_path / "shards", features, {"x": rows.tolist(), "word": words, "number": list(range(50))})
    raw = HuggingFaceData(path=str(folder), labels=["word", "number"]).read(0)
    np.testing.assert_array_equal(raw.x, rows)
    assert raw.x.dtype == np.uint8
    assert raw.test is None
    assert raw.y["word"].tolist() == [-1 if word is None else "ab".index(word) for word in words]
    assert raw.y["number"].tolist() == list(range(50))
    assert raw.names == {"word": ("a", "b")}
    one = HuggingFaceData(path=str(folder / "train-00001.parquet")).read(0)
    np.testing.assert_array_equal(one.x, rows[17:34])


def test_a_saved_folder_is_trained_on(datasets, tmp_path):
    features = datasets.Features({"x": datasets.Array2D((6, 6), "uint8")})
    folder = shards(tmp_path / "shards", features, {"x": GREY.tolist()})
    datasets.load_dataset(str(folder), split="train").save_to_disk(tmp_path / "saved")
    words = ["data=hugging_face", f"data.path={tmp_path / 'saved'}", "encoder.widths=[8]", "decoder.widths=[8]"]
    words += ["latent.dim=2", "training.epochs=1", "training.batch_size=8"]
    run = pv.train(pv.load_experiment("vae-sigma", words), out=tmp_path / "run", quiet=True, num_samples=5)
    assert run.result["data"] == "hugging_face"
    assert pv.load(tmp_path / "run").data.shape == (1, 6, 6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"split": "validation"}, r'data.split="validation": .* has no such split. It has train\.'),
        ({"test": "other"}, r'data.test="other": .* has no such split'),
        ({"x": "y"}, r'data.x: .* has no column "y". It has x, z, word'),
        ({"labels": ["y"]}, r'data.labels: .* has no column "y"'),
        ({}, r"data.x=null: which column of .* is x\? It has x, z, word, ragged"),
        ({"x": "word"}, r"column word: holds string; x must be images or lists of numbers"),
        ({"x": "ragged"}, r"column ragged: its lists differ in length: \[0, 1, 2, 3, 4\]"),
        ({"x": "holes"}, r"column holes: 1 entries are null"),
        ({"x": "x", "labels": ["z"]}, r"column z: holds .*; labels are classes, integers or words"),
        ({"x": "x", "size": 4}, r"data.size=4: is for images, and the column x holds none"),
        ({"x": "x", "config": "a"}, r'data.config="a": is for sets on the hub'),
    ],
)
def test_mistakes(datasets, tmp_path, fields, message):
    numbers = datasets.Sequence(datasets.Value("float32"))
    names = {"x": numbers, "z": numbers, "word": datasets.Value("string"), "ragged": numbers, "holes": numbers}
    columns = {
        "x": [[1.0, 2.0]] * 10,
        "z": [[1.0]] * 10,
        "word": ["a"] * 10,
        "ragged": [[1.0] * i for i in range(10)],
        "holes": [[1.0, 2.0]] * 9 + [[None, 1.0]],
    }
    folder = shards(tmp_path / "shards", datasets.Features(names), columns)
    with pytest.raises(DeclarationError, match=message):
        HuggingFaceData(path=str(folder), **fields).read(0)


def test_what_cannot_be_read_is_said(datasets, tmp_path):
    (tmp_path / "empty").mkdir()
    for path, message in (
        (tmp_path / "empty", "`datasets` cannot read it"),
        ("https://example.org/x.npy", r"must end in \.parquet"),
    ):
        with pytest.raises(DeclarationError, match=message):
            HuggingFaceData(path=str(path)).read(0)


def test_bad_images_are_named(datasets, tmp_path):
    features = datasets.Features({"image": datasets.Image()})
    images = [png(pixels) for pixels in GREY]
    images[20] = {"bytes": b"no image", "path": None}
    images[30] = None
    folder = shards(tmp_path / "shards", features, {"image": images})
    with pytest.raises(DeclarationError) as error:
        HuggingFaceData(path=str(folder)).read(0)
    assert [line.split('"')[3] for line in error.value.problems] == ["image of row 20", "image of row 30"]
