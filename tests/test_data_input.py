"""`read_input`: a user's file is treated as the training data were, or every misfit is said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_data import GREY, X, refusal

from pyro_vae.data import (
    Arrays,
    ArraysData,
    Data,
    DigitsData,
    FolderData,
    LinearGaussianData,
    load,
    prepare,
    read_input,
)

pytestmark = pytest.mark.filterwarnings("error")


def saved(folder: Path, x: Any, **arrays: Any) -> Path:
    """The arrays as .npz, or x alone as .npy."""
    path = folder / ("d.npz" if arrays else "d.npy")
    np.savez(path, x=x, **arrays) if arrays else np.save(path, x)
    return path


def read(folder: Path, like: Data, x: Any, **arrays: Any) -> Data:
    """What `read_input` makes of the arrays."""
    return read_input(saved(folder, x, **arrays), like)


def mistakes(folder: Path, like: Data, x: Any, **arrays: Any) -> list[str]:
    """The lines with which `read_input` refuses the arrays, without the name of the file."""
    path = saved(folder, x, **arrays)
    lines = refusal(read_input, path, like).splitlines()
    assert all(line.startswith(f"--input {path}: ") for line in lines)
    return [line.removeprefix(f"--input {path}: ") for line in lines]


def grey(**fields: Any) -> Data:
    """The digits: (1, 8, 8) in 17 levels, ten classes."""
    return load(DigitsData(**fields))


def digits() -> Arrays:
    """The digits as they are stored, before any treatment."""
    raw = DigitsData().read(0)
    assert raw.test is not None
    return raw.test


def real(**fields: Any) -> Data:
    """Real vectors (3,)."""
    return load(ArraysData(), arrays=Arrays(X, **fields))


# ------------------------------------------------------------------------------------------------ what comes out


@pytest.mark.parametrize("fields", GREY)
def test_the_test_set_in_a_file_reads_as_the_test_set(tmp_path: Path, fields: dict[str, Any]) -> None:
    like, raw = grey(**fields), digits()
    got = read(tmp_path, like, raw.x, digit=raw.y["digit"])
    assert torch.equal(got.test.x, like.test.x)
    assert got.test.x.dtype == like.test.x.dtype
    assert torch.equal(got.test.attributes["digit"], like.test.attributes["digit"])
    assert (len(got.train), len(got.validation), len(got.test)) == (0, 0, 360)
    for name in ("name", "shape", "levels", "binarize", "dequantize", "support", "discrete", "num_classes"):
        assert getattr(got, name) == getattr(like, name), name
    # Read like what was itself read, it is the same again.
    assert torch.equal(read(tmp_path, got, raw.x).test.x, got.test.x)


def test_statically_binarised_data_read_as_they_are_or_are_drawn(tmp_path: Path) -> None:
    like, raw = grey(binarize="static"), digits()
    for x in (like.test.x.numpy(), like.test.x.bool().numpy(), like.test.x.double().numpy(), raw.x, raw.x / 16):
        got = read(tmp_path, like, x)
        assert torch.equal(got.test.x, like.test.x)
        assert (got.levels, got.support) == (2, "binary")
    assert like.grey_levels == 17
    assert (grey().grey_levels, grey(binarize="dynamic").grey_levels) == (None, None)
    between = load(ArraysData(binarize="static"), arrays=Arrays(np.abs(X) / 9))
    assert between.grey_levels is None
    assert set(read(tmp_path, between, np.abs(X) / 9).test.x.unique().tolist()) == {0, 1}
    assert "must be floats from 0 to 1" in mistakes(tmp_path, between, X)[0]


@pytest.mark.parametrize("fields", GREY)
def test_bool_is_black_and_white_on_any_scale(tmp_path: Path, fields: dict[str, Any]) -> None:
    white = digits().x > 8
    got = read(tmp_path, grey(**fields), white)
    # A uniform draw of 1/2: it lies between the probabilities 0 and 1, and in the middle of every cell.
    half = torch.full(got.test.x.shape, 0.5, dtype=torch.float64)
    x = prepare(got.test.x, got.levels, got.binarize, got.dequantize, torch.float64, uniform=half)
    expected = torch.from_numpy(white)[:, None].double()
    if got.dequantize == "uniform":
        expected = (16 * expected + 0.5) / 17
    assert torch.equal(x, expected)


@pytest.mark.parametrize("fields", [{}, {"binarize": "dynamic"}, {"binarize": "threshold"}])
def test_floats_are_the_values_that_levels_stand_for(tmp_path: Path, fields: dict[str, Any]) -> None:
    like, raw = grey(**fields), digits()
    got = read(tmp_path, like, raw.x / 16)
    assert (got.levels, got.support) == (None, like.support)
    uniform = torch.rand(got.test.x.shape, dtype=torch.float64)
    one, other = (
        prepare(d.test.x, d.levels, d.binarize, d.dequantize, torch.float64, uniform=uniform) for d in (got, like)
    )
    assert torch.equal(one, other)


def test_a_black_image_is_no_mistake(tmp_path: Path) -> None:
    for fields in GREY:
        assert (read(tmp_path, grey(**fields), np.zeros((1, 8, 8), np.uint8)).test.x == 0).all()


def test_real_data_take_any_finite_numbers(tmp_path: Path) -> None:
    like = load(LinearGaussianData(dim=3))
    for x in (X, X.astype(">f4"), np.eye(3), np.eye(3, dtype=bool), np.arange(9).reshape(3, 3) - 2**30):
        got = read(tmp_path, like, x)
        assert np.array_equal(got.test.x.numpy(), x)
        assert (got.test.x.is_floating_point(), got.levels, got.support) == (True, None, "real")
        assert got.truth is None


def test_binary_data_take_zeros_and_ones_of_any_type(tmp_path: Path) -> None:
    eye = np.eye(20)
    for fields in ({}, {"dequantize": "uniform"}):
        like = load(ArraysData(**fields), arrays=Arrays(eye))
        for dtype in (bool, np.uint8, np.int64, np.float32):
            got = read(tmp_path, like, eye.astype(dtype))
            assert (got.levels, got.test.x.dtype) == (2, torch.uint8)
            assert np.array_equal(got.test.x.numpy(), eye)
        assert "must be 0 or 1" in mistakes(tmp_path, like, eye / 2)[0]
        assert "must be 0 or 1" in mistakes(tmp_path, like, eye.astype(int) * 2)[0]


@pytest.mark.parametrize("shape", [(20, 5, 4, 3), (20, 3, 5, 4)])
def test_images_are_turned_as_in_training(tmp_path: Path, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    like = load(ArraysData(), arrays=Arrays(x, test=Arrays(x)))
    assert like.shape == (3, 5, 4)
    assert torch.equal(read(tmp_path, like, x).test.x, like.test.x)


def test_labels_covariates_and_masks_stay_with_their_datum(tmp_path: Path) -> None:
    y, mask = np.arange(20) % 4, X > -1
    like = real(y=y, given=X[:, :2], mask=mask)
    got = read(tmp_path, like, np.where(mask, X, np.nan), y=y, given=X[:, :2], mask=mask, age=np.arange(20))
    assert got.test.attributes["label"].tolist() == y.tolist()
    assert got.num_classes == {"label": 4, "age": 20}
    assert got.test.given is not None
    assert np.array_equal(got.test.given.numpy(), X[:, :2])
    assert got.test.mask is not None
    assert np.array_equal(got.test.mask.numpy(), mask)
    assert np.array_equal(got.test.x.numpy(), np.where(mask, X, 0))
    assert got.train.given is not None
    assert got.train.given.shape == (0, 2)


def test_absent_labels_are_missing_and_a_mask_may_be_absent(tmp_path: Path) -> None:
    got = read(tmp_path, real(y={"a": np.arange(20), "b": np.ones(20, int)}, mask=X > -1), X, b=np.zeros(20, int))
    assert got.test.attributes["a"].tolist() == [-1] * 20
    assert got.test.attributes["b"].tolist() == [0] * 20
    assert got.num_classes == {"a": 20, "b": 2}
    assert got.test.mask is None


def test_every_datum_of_a_file_with_its_own_test_set_is_read(tmp_path: Path) -> None:
    labels = np.arange(20)
    got = read(tmp_path, real(y=labels), X, y=labels, x_test=X[:2], y_test=labels[3:5])
    assert np.array_equal(got.test.x.numpy(), np.concatenate([X, X[:2]]))
    assert got.test.attributes["label"].tolist() == [*range(20), 3, 4]


def test_a_file_is_never_written(tmp_path: Path) -> None:
    path = saved(tmp_path, X)
    before = path.read_bytes()
    read_input(path, real()).test.x.zero_()
    assert path.read_bytes() == before


# -------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("fields", GREY)
@pytest.mark.parametrize("value", [17, 255, 1000, -1])
def test_values_beyond_the_levels_are_refused(tmp_path: Path, fields: dict[str, Any], value: int) -> None:
    x = digits().x.astype(np.int64)
    x[3, 2, 1] = value
    (line,) = mistakes(tmp_path, grey(**fields), x)
    low, high = min(value, 0), max(value, 16)
    assert f"x: holds int64 values from {low} to {high}; must be integers from 0 to 16" in line
    assert ("or floats from 0 to 1" in line) == (fields != {"dequantize": "uniform"})


@pytest.mark.parametrize("fields", GREY)
def test_floats_beyond_the_unit_interval_are_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    for x in (digits().x.astype(float), X[:, :, None] - np.ones((1, 1, 1))):
        assert any(line.startswith("x: holds float64 values from") for line in mistakes(tmp_path, grey(**fields), x))


def test_floats_have_no_levels_to_dequantise(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, grey(dequantize="uniform"), digits().x / 16)
    assert "x: holds float64 values from 0 to 1; must be integers from 0 to 16, as in the 'digits' data" in line


@pytest.mark.parametrize("way", ["dynamic", "threshold"])
def test_integers_0_and_1_are_not_taken_for_nearly_black(tmp_path: Path, way: str) -> None:
    binary = (digits().x > 8).astype(np.uint8)
    (line,) = mistakes(tmp_path, grey(binarize=way), binary)
    assert "bool" in line
    assert "x / 16" in line
    assert read(tmp_path, grey(binarize=way), binary / 16).levels is None
    assert read(tmp_path, grey(), binary).levels == 17


@pytest.mark.parametrize("shape", [(5, 64), (5, 8, 7), (5, 3, 8, 8), (8, 8)])
def test_another_shape_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    (line,) = mistakes(tmp_path, grey(), np.zeros(shape, np.uint8))
    assert line.startswith("x: a datum has shape (")
    assert "must be (1, 8, 8), as in the 'digits' data" in line


def test_covariates_must_be_those_of_training(tmp_path: Path) -> None:
    with_two, without = real(given=X[:, :2]), real()
    (line,) = mistakes(tmp_path, with_two, X)
    assert "given: is missing; the model needs 2 covariates per datum" in line
    assert "shape (20, 2)" in line
    (line,) = mistakes(tmp_path, with_two, X, given=X)
    assert "given: 3 covariates per datum; must be 2" in line
    (line,) = mistakes(tmp_path, without, X, given=X)
    assert "must be 0" in line
    assert "Leave it out" in line


def test_classes_beyond_those_of_training_are_refused(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, grey(), np.zeros((3, 8, 8), np.uint8), digit=np.array([0, -1, 10]))
    assert line.startswith("y.digit: holds 10; must be from 0 to 9")


def test_all_misfits_are_said_at_once(tmp_path: Path) -> None:
    like = load(ArraysData(), arrays=Arrays(np.eye(20), np.arange(20) % 3, given=np.ones((20, 1))))
    lines = mistakes(tmp_path, like, np.full((4, 3), 9), y=np.full(4, 7))
    assert [line.split(":")[0] for line in lines] == ["x", "given", "y.label", "x"]
    spoiled = np.where(X > 1, np.nan, X)
    lines = mistakes(tmp_path, real(), spoiled, y=X[:, 0], given=X[:3])
    assert [line.split(":")[0] for line in lines] == ["x", "given", "y.label"]


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    like = real()
    for name, content, words in (
        ("none.npy", None, "there is no such file"),
        ("d.txt", b"1,2", "must end in .npy or .npz, or .csv or .tsv"),
        ("d.csv", b"1,2", "its first line holds numbers"),
        ("d.npy", b"1,2", "is no readable .npy file"),
        ("d.npz", b"PK\x03\x04cut", "is no readable .npz file"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        message = refusal(read_input, path, like)
        assert message.startswith(f"--input {path}: {words}")
    assert "which array is x?" in refusal(read_input, _two(tmp_path), like)


def _two(folder: Path) -> Path:
    path = folder / "two.npz"
    np.savez(path, a=X, b=X)
    return path


# --------------------------------------------------------------------------------------------------- images


def pictures(folder: Path, *names: str, side: int = 8) -> dict[str, np.ndarray]:
    """Grey images under the folder, by name."""
    rng = np.random.default_rng(0)
    made = {name: rng.integers(0, 256, (side, side), dtype=np.uint8) for name in names}
    for name, image in made.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return made


@pytest.fixture
def zoo(tmp_path: Path) -> tuple[Data, FolderData]:
    """A training set of two classes."""
    pictures(tmp_path / "zoo", *(f"{kind}/{i}.png" for kind in ("ape", "cat") for i in range(6)))
    spec = FolderData(path=str(tmp_path / "zoo"))
    return load(spec), spec


def test_a_folder_gets_the_size_colour_and_class_numbers_of_the_training_data(zoo: Any, tmp_path: Path) -> None:
    like, spec = zoo
    made = pictures(tmp_path / "new", "cat/a.png", "cat/b.png")
    got = read_input(tmp_path / "new", like, spec)
    np.testing.assert_array_equal(got.test.x[:, 0].numpy(), np.stack(list(made.values())))
    assert got.test.attributes["label"].tolist() == [1, 1]
    pictures(tmp_path / "large", "a.png", side=32)
    flat = read_input(tmp_path / "large", like, spec)
    assert flat.test.x.shape == (1, 1, 8, 8)
    assert flat.test.attributes["label"].tolist() == [-1]
    pictures(tmp_path / "other", "dog/a.png", "caat/b.png")
    message = refusal(read_input, tmp_path / "other", like, spec)
    assert "the folder 'dog' is no class" in message
    assert "Did you mean 'cat'? They have: ape, cat." in message


def test_one_image(zoo: Any, tmp_path: Path) -> None:
    like, spec = zoo
    Image.new("RGB", (30, 20), "red").save(tmp_path / "red.jpg")
    got = read_input(tmp_path / "red.jpg", like, spec)
    assert got.test.x.shape == (1, 1, 8, 8)
    assert int(got.test.x.float().mean()) in range(74, 79), "the luma of red is 76"
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert "is no image in one of the formats" in refusal(read_input, tmp_path / "bad.png", like, spec)


def test_images_for_a_model_of_arrays_that_are_images(tmp_path: Path) -> None:
    like = load(ArraysData(), arrays=Arrays(np.full((20, 8, 8), 9, np.uint8)))
    made = pictures(tmp_path / "new", "cat/a.png")
    got = read_input(tmp_path / "new", like)
    np.testing.assert_array_equal(got.test.x[0, 0].numpy(), made["cat/a.png"])
    assert got.test.attributes == {}
    vectors = load(ArraysData(), arrays=Arrays(np.random.default_rng(0).normal(size=(20, 5))))
    assert "folder" in refusal(read_input, tmp_path / "new", vectors)
