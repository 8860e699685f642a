"""Test quantities by hand; predictive p-values of right and wrong predictives, at stated error rates."""

import math

import pytest
import torch
from mc import assert_close_mc

from pyro_vae.diagnostics import predictive
from pyro_vae.diagnostics.calibration import uniformity
from pyro_vae.diagnostics.predictive import nearest_neighbour, quantities, set_check, tail_probability

pytestmark = pytest.mark.usefixtures("float64")


def values(x, counts=False):
    return {name: q(x).tolist() for name, q in quantities(tuple(x.shape[1:]), counts).items()}


def test_images_by_hand():
    """2 x 3 pixels: one lit, none, all, and the first in one colour of two."""
    one = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    found = values(torch.stack([one, 0 * one, 0 * one + 1])[:, None])
    assert found["ink"] == pytest.approx([1 / 6, 0, 1])
    assert found["contrast"] == pytest.approx([math.sqrt(5) / 6, 0, 0])
    assert found["stroke_width"] == pytest.approx([2 * 1 / 4, 0, 2 * 6 / 10])
    assert found["edges"] == pytest.approx([3 / 7, 0, 0])
    colour = values(torch.stack([one, 0 * one])[None])
    assert colour["ink"] == pytest.approx([1 / 12])
    assert colour["stroke_width"] == pytest.approx([2 * 1 / 4]), "does not depend on the brightness"
    assert colour["edges"] == pytest.approx([1.5 / 7])


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("along", ["rows", "columns", "the border"])
def test_stroke_width_of_a_long_bar(width, along):
    """2 w L / (2 w + 2 L): w for L far above w."""
    image = torch.zeros(1, 1, 100, 100)
    start = 0 if along == "the border" else 40
    image[..., start : start + width, 2:98] = 1
    found = predictive.stroke_width(image.mT if along == "columns" else image)
    assert found.item() == pytest.approx(width * 96 / (96 + width))


def test_vectors_and_counts_by_hand():
    assert values(torch.tensor([[1.0, 3.0], [-2.0, -2.0]])) == {
        "mean": [2.0, -2.0],
        "sd": [1.0, 0.0],
        "smallest": [1.0, -2.0],
        "largest": [3.0, -2.0],
    }
    assert values(torch.tensor([[0, 3, 0, 1], [0, 0, 0, 0]]), counts=True) == {
        "total": [4.0, 0.0],
        "zeros": [0.5, 1.0],
        "largest": [3.0, 0.0],
    }
    assert values(torch.ones(2, 1, 1, 1))["edges"] == [0.0, 0.0]


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1, 4, 5), (3, 4, 5)])
@pytest.mark.parametrize("counts", [False, True])
def test_quantities_of_any_shape_are_one_number_per_datum(shape, counts):
    x = torch.randint(0, 5, (7, *shape))
    for name, quantity in quantities(shape, counts).items():
        found = quantity(x)
        assert (found.shape, found.dtype) == ((7,), torch.float64), name
        torch.testing.assert_close(found[2:4], quantity(x[2:4])), name


def test_nearest_neighbour_in_pieces(monkeypatch):
    train, x = torch.randn(30, 2, 3), torch.randn(17, 2, 3)
    expected = (x[:, None] - train).flatten(2).norm(dim=2).amin(1)
    monkeypatch.setattr(predictive, "PAIRS", 100)
    torch.testing.assert_close(nearest_neighbour(train)(x), expected, atol=1e-5, rtol=1e-5)


def test_nearest_neighbour_sees_copies():
    """In float32 a norm of 1000 leaves a distance of 0.01 nothing, if it comes from squares."""
    train = 50 * torch.randn(40, 400)
    assert nearest_neighbour(train)(train).tolist() == [0.0] * 40
    copies = train + 0.01 * torch.nn.functional.normalize(torch.randn(40, 400), dim=1)
    torch.testing.assert_close(nearest_neighbour(train)(copies), torch.full((40,), 0.01), rtol=0.1, atol=0)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.2, 1.0), (0.0, 0.7)])
def test_tail_probabilities_are_uniform_under_the_true_predictive_alone(shift, scale):
    """2000 data by Kolmogorov and Smirnov: false alarm 1e-4."""
    observed = torch.randn(2000)
    p = tail_probability(shift + scale * torch.randn(499, 2000), observed).p
    uniform = uniformity((499 * p + torch.rand(2000)) / 500) > 1e-4
    assert uniform == (shift == 0 and scale == 1)


def test_tail_probability_is_low_where_the_data_are_high():
    assert tail_probability(torch.randn(100, 1), torch.tensor([9.0])).p.item() == 0
    assert tail_probability(torch.randn(100, 1), torch.tensor([-9.0])).p.item() == 1


def test_ties_count_half():
    """Counts, two thirds of them 0: p has mean 1/2; with ties counted whole 0.73."""
    p = tail_probability(torch.poisson(torch.full((99, 4000), 0.4)), torch.poisson(torch.full((4000,), 0.4))).p
    assert_close_mc(p.mean(), 0.5, p.std() / math.sqrt(4000))


def test_tail_probability_has_the_error_it_says():
    """P(N(0, 1) > t) for three t; the share has sd sqrt(p (1 - p) / R) over 2000 columns, known to 2 %."""
    for t in (-1.0, 0.0, 1.0):
        p, error = tail_probability(torch.randn(200, 2000), torch.full((2000,), t))
        assert_close_mc(p.mean(), 0.5 * math.erfc(t / math.sqrt(2)), p.std() / math.sqrt(2000))
        assert 0.9 < error.mean() / p.std() < 1.1
    assert (tail_probability(torch.zeros(10, 1), torch.ones(1)).standard_error > 0.05).all()


def test_false_alarms_of_set_check_are_as_rare_as_they_say():
    """A skewed quantity and sets of different size: both p-values of 150 repetitions; false alarm 1e-4 each."""
    found = [set_check(torch.randn(60).exp(), torch.randn(30).exp(), 99) for _ in range(150)]
    p, ks = torch.tensor([[one.p_value, one.ks_p_value] for one in found]).T
    assert uniformity(p - torch.rand(150) / 100) > 1e-4
    assert uniformity(ks) > 1e-4


def test_set_check_of_counts():
    """Ties make the KS p-value too high, never too low; that of the means stays exact."""
    found = [set_check(torch.poisson(torch.ones(40)), torch.poisson(torch.ones(40)), 99) for _ in range(100)]
    low = sum(one.p_value <= 0.05 for one in found)
    assert low <= 16  # 5 expected at most; above with probability 1e-5
    assert sum(one.ks_p_value < 0.05 for one in found) <= 16


def test_set_check_sees_a_shift_and_a_spread():
    replicated, observed = torch.randn(400), torch.randn(300)
    shifted = set_check(replicated, observed + 1)
    error = math.sqrt(replicated.var() / 400 + observed.var() / 300)
    assert shifted.z == pytest.approx((observed.mean() + 1 - replicated.mean()).item() / error)
    assert shifted.observed_mean == pytest.approx(observed.mean().item() + 1)
    assert shifted.replicated_mean == pytest.approx(replicated.mean().item())
    assert shifted.z > 5
    assert shifted.p_value == pytest.approx(1 / 1001)
    assert set_check(replicated, observed - 1).p_value == pytest.approx(1 / 1001)
    spread = set_check(replicated, 3 * (observed - observed.mean()))
    assert spread.p_value > 0.01
    assert spread.ks_p_value < 1e-4


def test_set_check_has_the_error_it_says():
    """Over 60 sets of permutations of the same values, whose sd is known to 9 %."""
    replicated, observed = torch.linspace(-1, 1, 50), torch.linspace(-1, 1, 40) + 0.15
    found = [set_check(replicated, observed, 100) for _ in range(60)]
    p, error = torch.tensor([[one.p_value, one.p_standard_error] for one in found]).T
    assert 0.1 < p.mean() < 0.5
    assert 0.6 < error.mean() / p.std() < 1.5


def test_set_check_of_constants():
    same = set_check(torch.full((9,), 0.1), torch.full((8,), 0.1))
    assert (same.z, same.p_value) == (0.0, 1.0)
    other = set_check(torch.full((9,), 0.1), torch.full((8,), 0.3), generator=torch.Generator().manual_seed(0))
    assert (other.z, other.p_value) == (math.inf, 1 / 1001)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tail_probability(torch.zeros(3, 2), torch.zeros(3)), "must be"),
        (lambda: tail_probability(torch.zeros(0, 2), torch.zeros(2)), "R of at least 1"),
        (lambda: tail_probability(torch.tensor([[0.0, 0.0], [0.0, torch.nan]]), torch.zeros(2)), r"replicated\[1, 1\]"),
        (lambda: tail_probability(torch.zeros(3, 1), torch.tensor([torch.nan])), r"observed\[0\] is NaN"),
        (lambda: set_check(torch.zeros(3), torch.zeros(1)), "at least 2"),
        (lambda: set_check(torch.zeros(3), torch.tensor([0.0, torch.inf])), r"observed\[1\]"),
    ],
)
def test_what_has_no_answer(call, message):
    with pytest.raises(ValueError, match=message):
        call()
