"""Calibration checks pass an exact posterior and tell three wrong ones apart, at stated error rates."""

import pytest
import torch

from pyro_vae.diagnostics.calibration import coverage, pit, ranks, tarp, uniformity

pytestmark = pytest.mark.usefixtures("float64")

N, L, D = 4000, 199, 2
SIGMA = 0.5
GUIDES = ("exact", "too narrow", "shifted", "collapsed")


def simulated(guide, seed=0):
    """z ~ N(0, I), x = z + sigma eps: truth, draws of a guide, and log p(x, z) of both."""
    torch.manual_seed(seed)
    z = torch.randn(N, D)
    x = z + SIGMA * torch.randn(N, D)
    variance = SIGMA**2 / (1 + SIGMA**2)
    mean, sd = x / (1 + SIGMA**2), torch.full_like(x, variance**0.5)
    if guide == "too narrow":
        sd = 0.9 * sd
    elif guide == "shifted":
        mean = mean + 0.1 * sd
    elif guide == "collapsed":
        mean, sd = torch.zeros_like(mean), torch.ones_like(sd)
    draws = mean + sd * torch.randn(L, N, D)

    def log_joint(z):
        return -0.5 * (z.square() + ((x - z) / SIGMA).square()).sum(-1)

    return z, x, draws, log_joint


@pytest.mark.parametrize("guide", GUIDES)
def test_what_each_check_sees(guide):
    """False alarms of 1e-4 each; N = 4000 tells a sd 10 % too small, a shift of a tenth of the sd, and a collapse."""
    z, x, draws, log_joint = simulated(guide)
    rank = ranks(draws, z)
    found = coverage(rank, L)
    errors = ((found.share - found.nominal[:, None]) / found.standard_error[:, None]).abs()
    marginal = min(uniformity(pit(rank[:, d], L)) for d in range(D))
    joint = uniformity(pit(ranks(log_joint(draws), log_joint(z)), L))
    away = uniformity(pit(tarp(draws, z, x + torch.randn(N, D), torch.ones(D)), L))
    seen = {
        "coverage": bool(errors.max() > 4),
        "ranks of z": marginal < 1e-4,
        "ranks of log p(x, z)": joint < 1e-4,
        "TARP": away < 1e-4,
    }
    if guide == "exact":
        assert not any(seen.values())
    elif guide == "too narrow":
        assert seen["coverage"]
        assert seen["ranks of log p(x, z)"]
    elif guide == "shifted":
        assert seen["ranks of z"]
    else:  # the prior is calibrated by the ranks of z alone
        assert not seen["ranks of z"]
        assert not seen["coverage"]
        assert seen["ranks of log p(x, z)"]
        assert seen["TARP"]


def test_false_alarms_are_as_rare_as_they_say():
    """P-values of an exact posterior are below 0.05 in about 5 % of 200 repetitions."""
    low = 0
    for seed in range(200):
        torch.manual_seed(seed)
        low += uniformity(pit(ranks(torch.randn(19, 300), torch.randn(300)), 19)) < 0.05
    assert 2 <= low <= 22  # 10 expected; outside with probability 1e-3


def test_ties_are_broken_evenly():
    rank = ranks(torch.zeros(9, 10_000), torch.zeros(10_000))
    assert uniformity(pit(rank, 9)) > 1e-4
    assert set(rank.tolist()) == set(range(10))


def test_coverage_by_hand():
    found = coverage(torch.tensor([0, 1, 5, 9, 10, 18, 19]), 19, [0.9, 0.5])
    torch.testing.assert_close(found.nominal, torch.tensor([0.9, 0.5]))
    torch.testing.assert_close(found.share, torch.tensor([5 / 7, 3 / 7]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ranks(torch.zeros(3, 2), torch.zeros(3)), "must be"),
        (lambda: ranks(torch.full((3, 2), torch.nan), torch.zeros(2)), "NaN has no rank"),
        (lambda: coverage(torch.zeros(5), 20), "no central interval of 0.99: take 199 or more"),
    ],
)
def test_what_has_no_answer(call, message):
    with pytest.raises(ValueError, match=message):
        call()
