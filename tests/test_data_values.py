"""Data sets: what the values of x say, the form that they take, and the statistics of what a training step sees.

Statistical assertions allow 5 standard errors of the estimator: a false alarm in about 2 million numbers.
"""

from typing import Any

import numpy as np
import pytest
import torch
from test_data import refusal
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.data import Arrays, ArraysData, Data, load, prepare
from pyro_vae.data.preparation import split_indices

pytestmark = pytest.mark.filterwarnings("error")

SIGMAS = 5.0


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
    assert draws.dtype == torch.float32
    assert set(draws.unique().tolist()) <= {0.0, 1.0}
    assert_rate(draws, x.double() / (levels - 1))
    assert (draws[:, 0] == 0).all()
    assert (draws[:, -1] == 1).all()
    assert (
        not torch.equal(draws, prepare(x.expand(4000, levels), levels, "dynamic", "none", torch.float32)) or levels == 2
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
    assert u.min() >= -(2.0**-16)
    assert u.max() <= 1 + 2.0**-16
    assert ((u.mean(0) - 0.5).abs() <= SIGMAS * (1 / 12 / 3000) ** 0.5).all()
    assert (((u - 0.5).square().mean(0) - 1 / 12).abs() <= SIGMAS * (1 / 180 / 3000) ** 0.5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dequantized_x_is_inside_the_open_interval(dtype: torch.dtype) -> None:
    below_one = 1 - torch.finfo(dtype).eps / 2
    ends = torch.tensor([0.0, below_one], dtype=dtype)
    x = prepare(torch.tensor([0, 255], dtype=torch.uint8), 256, "none", "uniform", dtype, uniform=ends)
    assert torch.isfinite(torch.logit(x)).all()
    assert x[0] < 1e-6
    assert x[1] > 1 - 1e-6


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
        (np.arange(40, dtype=np.uint8).reshape(20, 2), {}, 256, "levels", False),
        (np.arange(40, dtype=np.uint8).reshape(20, 2), {"binarize": "dynamic"}, 256, "binary", True),
        (np.arange(40, dtype=np.uint8).reshape(20, 2), {"dequantize": "uniform"}, 256, "unit", True),
        (np.arange(40, dtype=np.int64).reshape(20, 2), {}, 256, "levels", False),
        (np.arange(40, dtype=">i4").reshape(20, 2), {}, 256, "levels", False),
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
    elif support in ("levels", "unit"):
        assert prepared.min() >= 0
        assert prepared.max() <= 1
    elif levels is None:
        assert torch.equal(
            prepared,
            torch.as_tensor(np.asarray(x.float() if isinstance(x, Tensor) else x, float))[kept_rows(got, x)],
        )


def kept_rows(got: Data, x: Any) -> np.ndarray:
    """Which rows of x the training data are, found again from the seed."""
    return split_indices(len(x), ArraysData(), 0, [], hold_out=True)[0]


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
    assert got.train.mask is not None
    assert got.train.mask.shape[1:] == event
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


def test_labels_that_numpy_alone_cannot_take() -> None:
    """A ragged list is refused and not raised over; a tensor of a type that numpy lacks is looked at as floats."""
    x = np.zeros((20, 3))
    assert "data.y: is no rectangular array" in refusal(load, ArraysData(), arrays=Arrays(x, [[1, 2], [3]] * 10))
    half = torch.zeros(20, dtype=torch.bfloat16)
    assert "data.y: float32 of shape (20,); must be integers" in refusal(load, ArraysData(), arrays=Arrays(x, half))
