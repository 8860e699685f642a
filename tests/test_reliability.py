"""Calibrated and overconfident classifiers whose probabilities are known."""

import math

import pytest
import torch
from mc import assert_close_mc

from pyro_vae.diagnostics import reliability as module
from pyro_vae.diagnostics.reliability import reliability

pytestmark = pytest.mark.usefixtures("float64")


def classified(n, classes=4):
    """True probabilities (N, C) and classes drawn from them (N,)."""
    p = torch.randn(n, classes).mul(1.5).softmax(1)
    return p, torch.multinomial(p, 1)[:, 0]


def overconfident(p):
    return p.square() / p.square().sum(1, keepdim=True)


def test_by_hand():
    p = torch.tensor([[0.6, 0.4], [0.1, 0.9], [0.3, 0.7], [0.8, 0.2], [0.5, 0.5]])
    found = reliability(p, torch.tensor([1, 1, -1, 0, 0]), num_bins=2)
    torch.testing.assert_close(found.confidence, torch.tensor([0.55, 0.85]))
    torch.testing.assert_close(found.share, torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(found.standard_error, torch.tensor([0.25 / 2, 0.75 * 0.25 / 2]).sqrt())
    assert found.size.tolist() == [2, 2]
    assert found.ece == pytest.approx((0.05 + 0.15) / 2)
    terms = torch.tensor([0.4, 0.9, 0.8, 0.5]).log().neg()
    assert found.log_loss == pytest.approx((terms.mean().item(), terms.std().item() / 2))
    terms = 2 * torch.tensor([0.6, 0.1, 0.2, 0.5]).square()
    assert found.brier == pytest.approx((terms.mean().item(), terms.std().item() / 2))


def test_a_calibrated_classifier(monkeypatch):
    """Shares within 5 standard errors (false alarm 6e-6), and an ECE of its bias alone.

    The bias is sum_b N_b / N sqrt(2 / pi) se_b = 0.023 for 20 bins of 250; over 40 repetitions the mean ECE is known
    to 3 %.
    """
    monkeypatch.setattr(module, "RESAMPLED", 2)
    found = [reliability(*classified(5000), num_bins=20) for _ in range(40)]
    assert_close_mc(found[0].share, found[0].confidence, found[0].standard_error)
    bias = math.sqrt(2 / math.pi) * torch.stack([one.standard_error for one in found]).mean()
    assert torch.tensor([one.ece for one in found]).mean().item() == pytest.approx(bias.item(), rel=0.15)


def test_an_overconfident_classifier():
    """Its ECE is the mean of what it says too much, where that has one sign; biased by far less than its error."""
    p, y = classified(20_000)
    said = overconfident(p)
    found = reliability(said, y)
    too_much = (said.amax(1) - p.amax(1)).mean()
    assert found.ece > 20 * found.ece_standard_error
    assert_close_mc(found.ece, too_much, found.ece_standard_error)
    assert (found.confidence - found.share > 3 * found.standard_error).all()
    right = reliability(p, y)
    assert right.log_loss[0] + 5 * right.log_loss[1] < found.log_loss[0]
    assert right.brier[0] < found.brier[0]


@pytest.mark.parametrize(("said", "ratio"), [(overconfident, 1.0), (lambda p: p, 1.25)])
def test_standard_error_of_the_ece(said, ratio, monkeypatch):
    """Against the sd over 120 data sets, which is known to 6 %; a quarter too high where there is nothing but noise.

    Noise d ~ N(0, 1) has |d| of variance 0.36, but |d + d'| with the bootstrap's d' has 0.56 on average.
    """
    monkeypatch.setattr(module, "RESAMPLED", 50)
    found = []
    for _ in range(120):
        p, y = classified(1000)
        found.append(reliability(said(p), y))
    ece, error = torch.tensor([[one.ece, one.ece_standard_error] for one in found]).T
    assert 0.75 * ratio < error.mean() / ece.std() < 1.33 * ratio


def test_an_ece_without_noise():
    """Always right where it says 0.4, never where it says 0.6: 0.6 off wherever, so in every bootstrap set."""
    p = torch.tensor([[0.4, 0.3, 0.3], [0.6, 0.2, 0.2]]).repeat(50, 1)
    found = reliability(p, torch.tensor([0, 1]).repeat(50), num_bins=2)
    assert (found.ece, found.ece_standard_error) == (pytest.approx(0.6), pytest.approx(0, abs=1e-12))


def test_bins_hold_as_many_data_and_every_datum():
    p, y = classified(1003)
    found = reliability(p, y)
    assert sorted(set(found.size.tolist())) == [100, 101]
    assert found.size.sum() == 1003
    assert (found.confidence.diff() > 0).all()
    assert (found.size * found.share).sum() == (p.argmax(1) == y).sum()
    assert reliability(p[:3], y[:3]).size.tolist() == [1, 1, 1]


def test_unknown_classes_and_the_order_of_data_change_nothing():
    p, y = classified(500)
    order = torch.randperm(700)
    more = torch.cat([p, torch.full((200, 4), torch.nan)])[order], torch.cat([y, torch.full((200,), -1)])[order]
    for a, b in zip(reliability(p, y), reliability(*more), strict=True):
        torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b))


def test_the_bootstrap_leaves_the_random_numbers_of_others_alone():
    p, y = classified(100)
    before = torch.get_rng_state()
    assert reliability(p, y).ece_standard_error == reliability(p, y).ece_standard_error
    assert torch.equal(torch.get_rng_state(), before)


def test_a_class_with_probability_zero():
    found = reliability(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    assert found.log_loss[0] == math.inf
    assert math.isnan(found.log_loss[1])
    assert found.brier == pytest.approx((1.0, 1.0))


HALF = torch.full((3, 2), 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reliability(HALF, torch.full((3,), -1)), "No class is known"),
        (lambda: reliability(HALF, torch.tensor([0, 2, 0])), r"known\[1\] is beyond the 2 classes"),
        (lambda: reliability(HALF.log(), torch.zeros(3)), r"probability\[0\] is negative"),
        (lambda: reliability(HALF * torch.nan, torch.zeros(3)), "NaN"),
        (lambda: reliability(HALF * 3, torch.zeros(3)), "does not sum to 1"),
        (lambda: reliability(HALF, torch.zeros(4)), "must be"),
        (lambda: reliability(HALF, torch.zeros(3), num_bins=0), "at least 1"),
    ],
)
def test_what_has_no_answer(call, message):
    with pytest.raises(ValueError, match=message):
        call()
