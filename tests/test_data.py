"""Data sets: what is read, refused and split, and the statistics of what a training step sees.

Statistical assertions allow 5 standard errors of the estimator: a false alarm in about 2 million numbers.
"""

import gzip
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae import data
from pyro_vae.data import (
    DATA,
    Arrays,
    ArraysData,
    Data,
    DataSpec,
    DigitsData,
    LinearGaussianData,
    MNISTData,
    load,
    prepare,
    read_idx,
)
from pyro_vae.specs import DeclarationError

pytestmark = pytest.mark.filterwarnings("error")

SIGMAS = 5.0
NAMES = data.MNIST_FILES


def idx(array: np.ndarray, magic: bytes | None = None) -> bytes:
    """The bytes of an IDX file."""
    magic = bytes((0, 0, 8, array.ndim)) if magic is None else magic
    return magic + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()


def write_mnist(
    folder: Path, *, gz: bool = False, num_train: int = 30, num_labels: int = 30
) -> dict[str, np.ndarray]:
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


def refusal(function: Any, *arguments: Any, **named: Any) -> str:
    """The message with which a call refuses its input."""
    with pytest.raises(DeclarationError) as caught:
        function(*arguments, **named)
    assert all(problem and "\n" not in problem for problem in caught.value.problems)
    return str(caught.value)


def numbered(num_data: int, **fields: Any) -> Arrays:
    """Data whose x is their own number, so that a split shows what went where."""
    return Arrays(np.arange(num_data, dtype=np.float64)[:, None] + 0.5, **fields)


def members(split: data.Split) -> list[int]:
    return (split.x[:, 0] - 0.5).int().tolist()


@pytest.fixture
def real_mnist() -> str:
    root = os.environ.get("PYRO_VAE_DATA")
    if not root or data._find_mnist(Path(root)) is None:
        pytest.skip("PYRO_VAE_DATA names no folder that holds MNIST")
    return root


# ------------------------------------------------------------------------------------------------ splitting


@pytest.mark.parametrize(
    ("num_data", "validation", "sizes"),
    [
        (100, 0.1, (81, 9, 10)),
        (100, 0, (90, 0, 10)),
        (100, 0.0, (90, 0, 10)),
        (100, 7, (83, 7, 10)),
        (3, 0.01, (1, 1, 1)),
    ],
)
def test_splits_are_disjoint_complete_and_of_the_declared_sizes(
    num_data: int, validation: float, sizes: tuple[int, ...]
) -> None:
    got = load(ArraysData(validation=validation), arrays=numbered(num_data))
    splits = [members(split) for split in (got.train, got.validation, got.test)]
    assert tuple(map(len, splits)) == sizes == (len(got.train), len(got.validation), len(got.test))
    assert sorted(sum(splits, [])) == list(range(num_data))


def test_a_given_test_set_is_used_whole_and_in_order() -> None:
    got = load(ArraysData(validation=5), arrays=numbered(20, test=numbered(4)))
    assert members(got.test) == [0, 1, 2, 3]
    assert sorted(members(got.train) + members(got.validation)) == list(range(20))


def test_the_seed_decides_the_split() -> None:
    first, again, other = (load(ArraysData(), seed, numbered(200)) for seed in (1, 1, 2))
    for part in ("train", "validation", "test"):
        assert members(getattr(first, part)) == members(getattr(again, part))
        assert members(getattr(first, part)) != members(getattr(other, part))
    # A split in file order would put one class into the test set.
    assert members(first.test) != list(range(20)) and members(first.test) != list(range(180, 200))


def test_labels_covariates_and_masks_stay_with_their_datum() -> None:
    n, number = 50, np.arange(50)
    mask = np.ones((n, 2), bool)
    mask[:, 1] = number % 3 > 0
    x = np.stack([number + 0.5, np.where(mask[:, 1], 1.0, np.nan)], 1)
    arrays = Arrays(
        x,
        {"parity": number % 2, "number": number.astype(">i2")},
        given=-number[:, None].astype(np.float32),
        mask=mask,
    )
    got = load(ArraysData(), arrays=arrays)
    for split in (got.train, got.validation, got.test, got.train.select([5, 2]), got.train.to("cpu")):
        which = (split.x[:, 0] - 0.5).long()
        assert split.given is not None and split.mask is not None
        assert torch.equal(split.attributes["number"], which)
        assert torch.equal(split.attributes["parity"], which % 2)
        assert torch.equal(split.given[:, 0], -which.float())
        assert torch.equal(split.mask[:, 1], which % 3 > 0)
        assert torch.equal(split.x[:, 1], (which % 3 > 0).double())  # masked entries are 0
    assert (got.classes("parity"), got.classes("number")) == (2, 50)


def test_select_takes_ranges_index_tensors_and_boolean_tensors() -> None:
    split = load(ArraysData(validation=0), arrays=numbered(20)).train
    expected = split.x[[0, 2]]
    for indices in (range(0, 4, 2), [0, 2], torch.tensor([0, 2]), torch.arange(len(split)) % 20 % 2 == 0):
        assert torch.equal(split.select(indices).x[:2], expected)
    assert len(split.select([])) == 0


def test_data_do_not_share_memory_with_the_callers_arrays() -> None:
    x = np.arange(40.0).reshape(20, 2) + 0.5
    got = load(ArraysData(validation=0), arrays=Arrays(x, test=Arrays(x)))
    x[:] = -1
    assert got.train.x.min() > 0 and got.test.x.min() > 0


def test_unknown_attribute_names_the_known_ones() -> None:
    message = refusal(load(ArraysData(), arrays=numbered(20, y=np.arange(20))).classes, "digit")
    assert "labels.digit" in message and "label" in message


# --------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("kept", [0, 1, 10, 37, 100])
def test_labels_are_kept_evenly_over_the_classes(kept: int) -> None:
    y = np.repeat(np.arange(10), np.linspace(20, 200, 10).astype(int))  # unequal classes
    got = load(ArraysData(labels_kept=kept, validation=0.2), arrays=numbered(len(y), y=y))
    labels = got.train.attributes["label"]
    counts = torch.bincount(labels[labels >= 0], minlength=10)
    assert counts.sum() == kept and counts.max() - counts.min() <= 1
    assert (got.validation.attributes["label"] >= 0).all() and (got.test.attributes["label"] >= 0).all()
    known = labels >= 0
    assert torch.equal(labels[known], torch.from_numpy(y)[members(got.train)][known])
    assert got.classes("label") == 10


def test_fewer_labels_are_a_subset_and_the_choice_does_not_change() -> None:
    arrays = numbered(300, y=np.arange(300) % 7)
    few, many, again = (
        load(ArraysData(labels_kept=kept), arrays=arrays).train.attributes["label"] >= 0
        for kept in (20, 60, 60)
    )
    assert torch.equal(many, again) and bool((many | ~few).all())


def test_an_exhausted_class_leaves_its_share_to_the_others() -> None:
    y = np.array([0] * 3 + [1] * 100)
    got = load(ArraysData(labels_kept=41, validation=0), arrays=numbered(103, y=y, test=numbered(2)))
    assert torch.bincount(got.train.attributes["label"] + 1).tolist() == [62, 3, 38]


def test_labels_already_missing_are_not_counted_as_kept() -> None:
    y = np.where(np.arange(100) < 90, -1, 0)
    arrays = numbered(100, y=y, test=numbered(2, y=np.zeros(2, int)))
    got = load(ArraysData(labels_kept=10, validation=0), arrays=arrays)
    assert (got.train.attributes["label"] == 0).sum() == 10
    assert "only 10 training data have labels" in refusal(
        load, ArraysData(labels_kept=11, validation=0), 0, arrays
    )


def test_several_attributes_are_kept_together() -> None:
    n = np.arange(400)
    got = load(ArraysData(labels_kept=24), arrays=numbered(400, y={"a": n % 2, "b": n % 3}))
    a, b = got.train.attributes["a"], got.train.attributes["b"]
    assert torch.equal(a >= 0, b >= 0)
    known = a >= 0
    assert torch.bincount(a[known] * 3 + b[known]).tolist() == [4] * 6


# --------------------------------------------------------------------------------------- what a batch becomes


def assert_rate(draws: Tensor, probability: Tensor) -> None:
    """The mean over the first dimension is the probability, within the binomial standard error."""
    error = (draws.double().mean(0) - probability).abs()
    allowed = SIGMAS * (probability * (1 - probability) / len(draws)).sqrt()
    assert (error <= allowed + 1e-12).all()


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_dynamic_binarization_draws_with_the_grey_value(levels: int) -> None:
    torch.manual_seed(0)
    x = torch.arange(levels, dtype=torch.uint8)
    draws = prepare(x.expand(4000, levels), levels, "dynamic", "none", torch.float32)
    assert draws.dtype == torch.float32 and set(draws.unique().tolist()) <= {0.0, 1.0}
    assert_rate(draws, x.double() / (levels - 1))
    assert (draws[:, 0] == 0).all() and (draws[:, -1] == 1).all()
    assert (
        not torch.equal(draws, prepare(x.expand(4000, levels), levels, "dynamic", "none", torch.float32))
        or levels == 2
    )


def test_static_binarization_draws_once_with_the_grey_value() -> None:
    grey = np.tile(np.arange(0, 256, 5, dtype=np.uint8), (5000, 1))
    arrays = Arrays(grey, test=Arrays(grey))
    got = load(ArraysData(binarize="static", validation=0), arrays=arrays)
    assert (got.levels, got.support, got.discrete, got.train.x.dtype) == (2, "binary", True, torch.uint8)
    assert set(got.train.x.unique().tolist()) == {0, 1}
    assert_rate(got.train.x, torch.from_numpy(grey[0]).double() / 255)
    assert_rate(got.test.x, torch.from_numpy(grey[0]).double() / 255)
    assert not torch.equal(got.train.x, got.test.x)
    again = load(ArraysData(binarize="static", validation=0), 1, arrays)
    assert torch.equal(got.train.x, again.train.x)
    assert torch.equal(prepare(got.train.x, 2, "static", "none", torch.float64), got.train.x.double())


def test_threshold_is_at_one_half() -> None:
    x = torch.arange(256, dtype=torch.uint8)
    assert prepare(x, 256, "threshold", "none", torch.float64).tolist() == [0.0] * 128 + [1.0] * 128
    assert prepare(torch.tensor([0.4, 0.5]), None, "threshold", "none", torch.float32).tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dequantized_levels_fill_their_own_cell(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    x = torch.arange(256, dtype=torch.uint8).expand(3000, 256)
    u = prepare(x, 256, "none", "uniform", dtype).double() * 256 - x
    # In float32 the ends of a cell are known to 256 x 2^-24.
    assert u.min() >= -(2.0**-16) and u.max() <= 1 + 2.0**-16
    assert ((u.mean(0) - 0.5).abs() <= SIGMAS * (1 / 12 / 3000) ** 0.5).all()
    assert (((u - 0.5).square().mean(0) - 1 / 12).abs() <= SIGMAS * (1 / 180 / 3000) ** 0.5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dequantized_x_is_inside_the_open_interval(dtype: torch.dtype) -> None:
    below_one = 1 - torch.finfo(dtype).eps / 2
    ends = torch.tensor([0.0, below_one], dtype=dtype)
    x = prepare(torch.tensor([0, 255], dtype=torch.uint8), 256, "none", "uniform", dtype, uniform=ends)
    assert torch.isfinite(torch.logit(x)).all()
    assert x[0] < 1e-6 and x[1] > 1 - 1e-6


def test_unprepared_levels_are_scaled_and_real_values_pass() -> None:
    x = prepare(torch.tensor([0, 8, 16], dtype=torch.uint8), 17, "none", "none", torch.float64)
    assert x.tolist() == [0.0, 0.5, 1.0]
    real = torch.tensor([-3.0, 7.5])
    assert torch.equal(prepare(real, None, "none", "none", torch.float32), real)


@pytest.mark.parametrize(
    ("binarize", "dequantize"),
    [("dynamic", "none"), ("threshold", "none"), ("none", "uniform"), ("none", "none")],
)
def test_prepare_can_be_captured(binarize: Any, dequantize: Any) -> None:
    def step(x: Tensor) -> Tensor:
        return prepare(x, 256, binarize, dequantize, torch.float32)

    first, other = torch.randint(0, 256, (2, 4, 3, 5), dtype=torch.uint8)  # any leading dimensions
    captured = make_fx(step)(first)
    torch.manual_seed(5)
    eager = step(other)
    torch.manual_seed(5)
    assert torch.equal(captured(other), eager)
    assert captured(other).shape == other.shape


@pytest.mark.parametrize(
    ("x", "fields", "levels", "support", "discrete"),
    [
        (np.arange(40, dtype=np.uint8).reshape(20, 2), {}, 256, "unit", False),
        (np.arange(40, dtype=np.uint8).reshape(20, 2), {"binarize": "dynamic"}, 256, "binary", True),
        (np.arange(40, dtype=np.uint8).reshape(20, 2), {"dequantize": "uniform"}, 256, "unit", True),
        (np.arange(40, dtype=np.int64).reshape(20, 2), {}, 256, "unit", False),
        (np.arange(40, dtype=">i4").reshape(20, 2), {}, 256, "unit", False),
        (np.arange(40, dtype=np.int64).reshape(20, 2) - 1, {}, None, "real", False),
        (np.arange(40, dtype=">i2").reshape(20, 2) - 1, {}, None, "real", False),
        (np.arange(40, dtype=np.uint16).reshape(20, 2) * 10, {}, None, "real", False),
        (np.eye(20, dtype=bool), {}, 2, "binary", True),
        (np.eye(20, dtype=np.uint8), {}, 2, "binary", True),
        (np.eye(20), {}, 2, "binary", True),
        (np.eye(20), {"dequantize": "uniform"}, 2, "unit", True),
        (np.eye(20) / 2, {}, None, "unit", False),
        (np.eye(20) / 2, {"binarize": "dynamic"}, None, "binary", True),
        (np.eye(20) / 2, {"binarize": "static"}, 2, "binary", True),
        (np.eye(20) * 3, {}, None, "real", False),
        (torch.eye(20, dtype=torch.bfloat16) * 3, {}, None, "real", False),
        (np.eye(20, dtype=np.float16) * 3, {}, None, "real", False),
        (np.eye(20, dtype=np.longdouble) * 3, {}, None, "real", False),
    ],
)
def test_what_the_values_of_x_say(
    x: Any, fields: dict[str, Any], levels: int | None, support: str, discrete: bool
) -> None:
    got = load(ArraysData(**fields), arrays=Arrays(x))
    assert (got.levels, got.support, got.discrete) == (levels, support, discrete)
    assert got.train.x.dtype in ((torch.uint8,) if levels else (torch.float32, torch.float64))
    prepared = prepare(got.train.x, got.levels, got.binarize, got.dequantize, torch.float64)
    if support == "binary":
        assert set(prepared.unique().tolist()) <= {0.0, 1.0}
    elif support == "unit":
        assert prepared.min() >= 0 and prepared.max() <= 1
    elif levels is None:
        assert torch.equal(
            prepared,
            torch.as_tensor(np.asarray(x.float() if isinstance(x, Tensor) else x, float))[kept_rows(got, x)],
        )


def kept_rows(got: Data, x: Any) -> np.ndarray:
    """Which rows of x the training data are, found again from the seed."""
    return data._split(len(x), True, ArraysData(), 0, [])[0]


@pytest.mark.parametrize(
    ("shape", "event"),
    [
        ((20, 6), (6,)),
        ((20, 5, 4), (1, 5, 4)),
        ((20, 3, 5, 4), (3, 5, 4)),
        ((20, 5, 4, 3), (3, 5, 4)),
        ((20, 5, 4, 1), (1, 5, 4)),
        ((20, 3, 4, 3), (3, 4, 3)),  # ambiguous: channel-first
        ((20, 2, 4, 4), (2, 4, 4)),
    ],
)
def test_images_become_channel_first(shape: tuple[int, ...], event: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    got = load(ArraysData(validation=0), arrays=Arrays(x, mask=x > -1, test=Arrays(x)))
    assert got.shape == event == got.test.x.shape[1:]
    assert got.train.mask is not None and got.train.mask.shape[1:] == event
    expected = x.transpose(0, 3, 1, 2) if event != shape[1:] and len(shape) == 4 else x.reshape(20, *event)
    assert torch.equal(got.test.x, torch.from_numpy(np.ascontiguousarray(expected)))
    seen = torch.where(got.train.mask, got.train.x, -7.0)
    assert torch.equal(seen, torch.from_numpy(np.where(expected > -1, expected, -7.0)))


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x.astype(">f8"),
        lambda x: x[::-1].copy()[::-1],
        lambda x: x[:, ::-1].copy()[:, ::-1],
        np.asfortranarray,
        torch.tensor,
        np.ndarray.tolist,
    ],
)
def test_every_memory_layout_reads_the_same(form: Any) -> None:
    x = np.random.default_rng(0).normal(size=(30, 4))
    for part in ("train", "test"):
        got, expected = (getattr(load(ArraysData(), arrays=Arrays(a)), part).x for a in (form(x), x))
        assert torch.equal(got.double(), expected)


# ------------------------------------------------------------------------------------------ simulated, digits


@pytest.mark.parametrize("correlated", [False, True])
def test_linear_gaussian_has_the_moments_that_its_truth_says(correlated: bool) -> None:
    n, dim = 60_000, 6
    spec = LinearGaussianData(num_data=n, dim=dim, latent_dim=3, scale=0.4, correlated=correlated)
    got = load(spec, seed=4)
    assert got.truth is not None
    W, b, sigma = got.truth["W"], got.truth["b"], got.truth["sigma"]
    x = torch.cat([got.train.x, got.validation.x, got.test.x])
    assert x.shape == (n, dim) and x.dtype == torch.float64 and W.shape == (dim, 3)
    assert b.abs().min() > 0.1 and float(sigma) == 0.4
    covariance = W @ W.T + sigma**2 * torch.eye(dim, dtype=torch.float64)
    variance = covariance.diagonal()
    assert ((x.mean(0) - b).abs() <= SIGMAS * (variance / n).sqrt()).all()
    # Var of an entry of the sample covariance of normal data: (S_ii S_jj + S_ij^2) / n
    error = SIGMAS * ((variance[:, None] * variance + covariance**2) / n).sqrt()
    assert ((torch.cov(x.T) - covariance).abs() <= error).all()


def test_columns_are_orthogonal_unless_correlated() -> None:
    for correlated, cosine in ((False, 0.0), (True, 0.5)):
        truth = load(LinearGaussianData(latent_dim=4, correlated=correlated)).truth
        assert truth is not None
        lengths = truth["W"].norm(dim=0)
        assert len(set(lengths.round(decimals=6).tolist())) == 4
        cosines = (truth["W"] / lengths).T @ (truth["W"] / lengths)
        expected = torch.full((4, 4), cosine, dtype=torch.float64).fill_diagonal_(1)
        torch.testing.assert_close(cosines, expected, atol=1e-12, rtol=0)


def test_linear_gaussian_is_decided_by_the_seed() -> None:
    first, again, other = (LinearGaussianData(num_data=50).read(seed) for seed in (0, 0, 1))
    assert first.truth and other.truth
    assert np.array_equal(first.x, again.x) and not np.isclose(first.x, other.x).any()
    assert not torch.isclose(first.truth["W"], other.truth["W"]).any()


def test_digits() -> None:
    got, other = load(DigitsData()), load(DigitsData(), seed=1)
    assert (len(got.train), len(got.validation), len(got.test)) == (1293, 144, 360)
    assert (got.shape, got.levels, got.support, got.classes("digit")) == ((1, 8, 8), 17, "unit", 10)
    assert got.train.x.dtype == torch.uint8 and got.train.x.max() == 16
    assert torch.equal(got.test.x, other.test.x) and not torch.equal(got.train.x, other.train.x)
    assert (torch.bincount(got.test.attributes["digit"], minlength=10) > 20).all()


def test_mean_image_belongs_to_its_label() -> None:
    """A zero has an empty middle and a one does not: labels and images were not shuffled apart."""
    got = load(DigitsData())
    middle = got.train.x[:, 0, 3:5, 3:5].double().mean((1, 2))
    digit = got.train.attributes["digit"]
    assert middle[digit == 0].mean() < 4 < 10 < middle[digit == 1].mean()


# ---------------------------------------------------------------------------------------------------- MNIST


@pytest.mark.parametrize("below", [".", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("gz", [False, True])
def test_mnist_is_found_plain_or_gzipped(
    tmp_path: Path, below: str, gz: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert words in message and str(path) in message and "fetch" in message
    with pytest.raises(ValueError, match="header|begins"):
        read_idx(path, 3)


def test_every_damaged_file_is_named_at_once(tmp_path: Path) -> None:
    write_mnist(tmp_path, gz=True)
    for name in NAMES[:2]:
        path = tmp_path / f"{name}.gz"
        path.write_bytes(cut(path.read_bytes())[:40])  # the gzip stream itself ends early
    (tmp_path / f"{NAMES[2]}.gz").write_bytes(b"no gzip at all")
    message = refusal(load, MNISTData(root=str(tmp_path), download=False))
    assert len(message.splitlines()) == 3 and all(name in message for name in NAMES[:3])


def test_ten_images_with_seven_labels_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, num_train=10, num_labels=7)
    message = refusal(load, MNISTData(root=str(tmp_path), download=False))
    assert "10 images" in message and "7 labels" in message


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
    assert "Error downloading" in message and "PYRO_VAE_DATA" in message


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


# ----------------------------------------------------------------------------------------------------- files


def test_npy_is_mapped_and_never_written(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    x = np.random.default_rng(0).integers(0, 256, (40, 3, 4, 4), dtype=np.uint8)
    np.save(path, x)
    before = path.read_bytes()
    raw = ArraysData(path=str(path)).read(0)
    assert isinstance(raw.x, np.memmap) and not raw.x.flags.writeable
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
    assert torch.equal(got.train.x, torch.from_numpy(x)) and torch.equal(got.test.x, torch.from_numpy(x[:5]))
    assert got.test.attributes["label"].tolist() == [0, 1, 2, 0, 1]
    assert got.test.attributes["smile"].tolist() == [-1] * 5
    assert got.train.given is not None and got.train.given.shape == (30, 2)
    assert got.test.given is not None and (got.test.given == 0).all()
    assert got.test.mask is not None and got.test.mask.all()


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
    assert words in message and f'data.path="{tmp_path / name}"' in message
    assert "allow_pickle=True" not in message and "pickled" not in message


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
    monkeypatch.setattr(data, "MAX_NPZ_BYTES", 10**5)
    monkeypatch.setattr(np, "load", None)
    assert path.stat().st_size < 10**4 and "1000000 bytes unpacked" in refusal(
        load, ArraysData(path=str(path))
    )


def test_missing_file_and_no_arrays(tmp_path: Path) -> None:
    assert "no such file" in refusal(load, ArraysData(path=str(tmp_path / "d.npy")))
    assert "data=Arrays(x, y)" in refusal(load, ArraysData())
    assert "Leave one out" in refusal(load, ArraysData(path="d.npy"), 0, Arrays(X))


# ---------------------------------------------------------------------------------------------- bad contents


def spoiled(value: float) -> np.ndarray:
    x = X.copy()
    x[2, 1] = x[4, 0] = value
    return x


BAD_ARRAYS: dict[str, tuple[Arrays, dict[str, Any], str]] = {
    "NaN": (Arrays(spoiled(np.nan)), {}, "data.x: NaN or infinite in 2 of 60 entries, first at [2, 1]"),
    "infinite": (Arrays(spoiled(-np.inf)), {}, "NaN or infinite in 2"),
    "NaN where the mask is True": (
        Arrays(spoiled(np.nan), mask=np.arange(60).reshape(20, 3) != 7),
        {},
        "in 1 of 60",
    ),
    "NaN in the test set": (Arrays(X, test=Arrays(spoiled(np.nan))), {}, "data.test.x: NaN"),
    "no data": (Arrays(X[:0]), {}, "shape (0, 3)"),
    "no columns": (Arrays(X[:, :0]), {}, "shape (20, 0)"),
    "one dimension": (Arrays(X[:, 0]), {}, "must be (N, D), (N, H, W) or (N, C, H, W)"),
    "five dimensions": (Arrays(X.reshape(20, 3, 1, 1, 1)), {}, "shape (20, 3, 1, 1, 1)"),
    "ragged": (Arrays([[1, 2], [3]]), {}, "no rectangular array"),
    "complex": (Arrays(X + 1j), {}, "complex128 values"),
    "dates": (Arrays(np.zeros((20, 2), "datetime64[s]")), {}, "datetime64[s] values"),
    "nothing": (Arrays(None), {}, "Python objects"),
    "mask of another shape": (Arrays(X, mask=X[:, 0] > 0), {}, "data.mask: bool of shape (20,)"),
    "mask of numbers": (Arrays(X, mask=X), {}, "data.mask: float64"),
    "covariates, one-dimensional": (Arrays(X, given=X[:, 0]), {}, "data.given: shape (20,); must be (20, G)"),
    "covariates, too few": (Arrays(X, given=X[:3]), {}, "data.given: shape (3, 3)"),
    "covariates, NaN": (Arrays(X, given=spoiled(np.nan)), {}, "data.given: NaN"),
    "covariates, in one part": (Arrays(X, given=X, test=Arrays(X)), {}, "data.test.given: 0 covariates"),
    "labels below -1": (Arrays(X, np.arange(20) - 2), {}, "data.y: holds -2"),
    "labels of floats": (Arrays(X, {"age": X[:, 0]}), {}, "data.y.age: float64 of shape (20,)"),
    "all labels missing": (Arrays(X, {"age": -np.ones(20, int)}), {}, "data.y.age: every label is -1"),
    "one-hot labels": (Arrays(X, np.eye(20, dtype=int)), {}, "shape (20, 20)"),
    "test labels of their own": (Arrays(X, test=Arrays(X, np.arange(20))), {}, "data.test.y: has label"),
    "scales differ": (
        Arrays(X, test=Arrays(np.ones((5, 3), np.uint8))),
        {},
        "data.test.x: uint8, but x is float64",
    ),
    "above the levels": (Arrays(np.full((20, 2), 32), levels=32), {}, "data.levels=32"),
    "too many levels": (Arrays(np.full((20, 2), 32), levels=1000), {}, "data.levels=1000"),
    "levels of floats": (Arrays(X, levels=32), {}, "data.levels=32: is for integers"),
    "binarize real values": (Arrays(X), {"binarize": "dynamic"}, 'data.binarize="dynamic"'),
    "static, real values": (Arrays(X), {"binarize": "static"}, 'data.binarize="static"'),
    "dequantize floats": (Arrays(X), {"dequantize": "uniform"}, 'data.dequantize="uniform"'),
    "one datum": (Arrays(X[:1]), {}, "data.validation=0.1: of 1 data"),
    "two data": (Arrays(X[:2]), {}, "none to train on"),
    "validation takes all": (Arrays(X), {"validation": 18}, "data.validation=18: of 20 data, 2 are held out"),
    "more labels than data": (Arrays(X, np.arange(20)), {"labels_kept": 17}, "data.labels_kept=17: only 16"),
    "labels kept of none": (Arrays(X), {"labels_kept": 1}, "these data have no labels"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_refused(case: str) -> None:
    arrays, fields, words = BAD_ARRAYS[case]
    message = refusal(load, ArraysData(**fields), 0, arrays)
    assert words in message and message.startswith("data.")


def test_all_mistakes_are_said_at_once() -> None:
    arrays = Arrays(spoiled(np.nan), {"a": X[:, 0], "b": np.arange(3)}, given=X[:3], test=Arrays(X[:, 0]))
    assert len(refusal(load, ArraysData(), 0, arrays).splitlines()) == 5
    message = refusal(
        load, ArraysData(binarize="dynamic", validation=50, labels_kept=99), 0, Arrays(X, np.arange(20))
    )
    assert [line.split("=")[0] for line in message.splitlines()] == [
        "data.binarize",
        "data.validation",
        "data.labels_kept",
    ]


# -------------------------------------------------------------------------------------------------- the specs


@pytest.mark.parametrize(
    ("spec", "fields", "words"),
    [
        (DigitsData, {"binarize": "static", "dequantize": "uniform"}, "exclude one another"),
        (DigitsData, {"validation": 1.0}, "validation=1.0"),
        (DigitsData, {"validation": -1}, "validation=-1"),
        (DigitsData, {"validation": float("nan")}, "finite"),
        (DigitsData, {"labels_kept": -1}, "labels_kept=-1"),
        (DigitsData, {"binarize": "dynamc"}, "'dynamic'"),
        (DigitsData, {"path": "x"}, "unknown key"),
        (LinearGaussianData, {"binarize": "threshold"}, 'binarize="threshold"'),
        (LinearGaussianData, {"dequantize": "uniform"}, 'dequantize="uniform"'),
        (LinearGaussianData, {"latent_dim": 11}, "latent_dim=11: must be at most dim=10"),
        (LinearGaussianData, {"scale": 0.0}, "scale=0.0"),
    ],
)
def test_bad_declarations_are_refused(spec: type[DataSpec], fields: dict[str, Any], words: str) -> None:
    assert words in refusal(spec, **fields)


def test_table_and_round_trip() -> None:
    assert list(DATA) == ["digits", "linear_gaussian", "mnist", "arrays"]
    for word, part in DATA.items():
        assert issubclass(part, DataSpec)
        cases: list[dict[str, Any]] = [
            {},
            {"validation": 7},
            {"validation": 0},
            {"validation": 0.0, "labels_kept": 3},
        ]
        for fields in cases:
            spec = part(**fields)
            again = part.model_validate_json(spec.model_dump_json())
            assert again == spec and type(again.validation) is type(spec.validation)
            assert spec.name == word and hash(again) == hash(spec)
        assert next(iter(part.model_fields)) == part.word == "name"
        assert all(field.description for name, field in part.model_fields.items() if name != "name")


def test_arrays_in_memory_keep_the_treatment_of_any_declaration() -> None:
    declared = DigitsData(binarize="threshold", validation=3, labels_kept=4)
    got = load(declared, 0, Arrays(X / 10 + 0.5, np.arange(20) % 2))
    assert (got.name, got.binarize, len(got.validation)) == ("arrays", "threshold", 3)
    assert (got.train.attributes["label"] >= 0).sum() == 4
    assert declared.in_memory() == ArraysData(binarize="threshold", validation=3, labels_kept=4)


def test_a_data_set_from_outside_is_one_class() -> None:
    class Bars(DataSpec):
        name: Literal["bars"] = "bars"
        size: int = 4

        def read(self, seed: int) -> Arrays:
            which = np.random.default_rng(seed).integers(0, self.size, 50)
            x = np.zeros((50, self.size, self.size), np.uint8)
            x[np.arange(50), which] = 7
            return Arrays(x, {"row": which}, levels=8)

    got = load(Bars(binarize="dynamic", labels_kept=8), seed=3)
    assert (got.name, got.shape, got.levels, got.support, got.classes("row")) == (
        "bars",
        (1, 4, 4),
        8,
        "binary",
        4,
    )
    assert got.train.x.dtype == torch.uint8 and got.train.x.max() == 7
    assert 'data.name="bars": levels=8' in refusal(load, Wrong())


class Wrong(DataSpec):
    """A data set that says less levels than it has."""

    name: Literal["bars"] = "bars"

    def read(self, seed: int) -> Arrays:
        return Arrays(np.full((20, 2), 8), levels=8)


def test_abstract_spec_says_what_to_define() -> None:
    with pytest.raises(NotImplementedError, match="read"):
        DataSpec(name="none").read(0)


def test_importing_loads_no_data_library() -> None:
    code = (
        "import sys, pyro_vae.data; sys.exit(not {'sklearn', 'torchvision', 'pyro'}.isdisjoint(sys.modules))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=environment)
