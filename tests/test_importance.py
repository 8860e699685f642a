"""Importance sampling against closed forms: a Gaussian guide for a Gaussian posterior."""

import math

import pytest
import torch
from mc import assert_below_mc, assert_close_mc

from pyro_vae.diagnostics.importance import (
    RunningLogMeanExp,
    effective_sample_size,
    importance_estimate,
    iwae_bound,
    log_mean_exp,
    mean_and_standard_error,
)

EVIDENCE = torch.tensor([-700.0, 0.0, 3.0, 800.0], dtype=torch.float64)  # exp of the ends leaves float64


def weights(num_draws, shift=0.5, scale=1.2, seed=0):
    """log_w (K, 4) of guide N(shift, scale^2) for posterior N(0, 1) and log p(x) = EVIDENCE."""
    generator = torch.Generator().manual_seed(seed)
    e = torch.randn(num_draws, 4, generator=generator, dtype=torch.float64)
    return EVIDENCE - 0.5 * (shift + scale * e).square() + 0.5 * e.square() + math.log(scale)


def elbo(shift=0.5, scale=1.2):
    """EVIDENCE - KL(N(shift, scale^2) || N(0, 1))."""
    return EVIDENCE - 0.5 * (scale**2 + shift**2 - 1 - 2 * math.log(scale))


def log_second_moment(shift=0.5, scale=1.2):
    """log E w^2 / (E w)^2, from Gaussian integrals; finite where 2 scale^2 > 1."""
    v = 2 * scale**2 - 1
    return math.log(scale**2 / math.sqrt(v)) + shift**2 / v


def test_log_mean_exp_over_any_dimension():
    log_w = weights(60).reshape(3, 20, 4)
    expected = (log_w - EVIDENCE).exp().mean(1).log() + EVIDENCE
    torch.testing.assert_close(log_mean_exp(log_w, dim=1), expected)
    assert log_mean_exp(log_w.float()).dtype == torch.float64


def test_importance_estimate_and_its_error_are_right():
    """In 400 repetitions: no bias beyond its own size, and errors as large as reported (and as derived)."""
    repetitions, draws = 400, 500
    log_w = weights(draws * repetitions).unflatten(0, (repetitions, draws))
    estimates, errors = map(torch.stack, zip(*map(importance_estimate, log_w), strict=True))
    bias = -(math.exp(log_second_moment()) - 1) / (2 * draws)  # of a logarithm, to first order
    assert_close_mc(estimates.mean(0) - bias, EVIDENCE, estimates.std(0) / math.sqrt(repetitions))
    derived = math.sqrt((math.exp(log_second_moment()) - 1) / draws)
    assert_close_mc(estimates.std(0), derived, derived / math.sqrt(2 * repetitions))
    assert_close_mc(errors.mean(0), derived, errors.std(0) / math.sqrt(repetitions))


def test_the_error_is_the_delta_methods():
    log_w = weights(50)
    w = (log_w - EVIDENCE).exp()
    torch.testing.assert_close(importance_estimate(log_w)[1], w.std(0) / (math.sqrt(50) * w.mean(0)))


def test_effective_sample_size():
    log_w = weights(50)
    normalised = log_w.softmax(0)
    torch.testing.assert_close(effective_sample_size(log_w), 1 / normalised.square().sum(0))
    share = torch.stack([effective_sample_size(w) / 5000 for w in weights(500_000).split(5000)])
    assert_close_mc(share.mean(0), math.exp(-log_second_moment()), share.std(0) / math.sqrt(len(share)))


@pytest.mark.parametrize("sizes", [[1] * 50, [50], [7, 13, 30]])
def test_chunks_say_what_the_whole_says(sizes):
    log_w, running = weights(50).float(), RunningLogMeanExp()
    log_w[3:9, 1] = -math.inf
    log_w[:, 2] = -math.inf
    for chunk in log_w.split(sizes):
        running.add(chunk)
    assert running.num_draws == 50
    estimate, error = importance_estimate(log_w)
    torch.testing.assert_close(running.estimate(), estimate)
    torch.testing.assert_close(running.standard_error(), error, equal_nan=True)
    torch.testing.assert_close(running.effective_sample_size(), effective_sample_size(log_w))
    torch.testing.assert_close(estimate, log_mean_exp(log_w))


def test_a_long_run_in_float32_chunks_does_not_drift():
    """20000 chunks of equal weights: float32 sums would be off by percents."""
    running = RunningLogMeanExp()
    for _ in range(20_000):
        running.add(torch.full((1, 1), 0.1))
    assert abs(running.estimate().item() - torch.tensor(0.1).item()) < 1e-10


def test_running_needs_draws_of_the_same_data():
    with pytest.raises(ValueError, match="call add first"):
        RunningLogMeanExp().estimate()
    with pytest.raises(ValueError, match=r"N is \(1,\) and was \(3,\)"):
        RunningLogMeanExp().add(torch.zeros(2, 3)).add(torch.zeros(2, 1))


def test_nothing_keeps_the_graph_of_the_draws():
    running = RunningLogMeanExp().add(torch.zeros(2, 3, requires_grad=True))
    assert not running.estimate().requires_grad
    assert not running.standard_error().requires_grad


def test_iwae_rises_from_the_elbo_to_the_evidence():
    draws = 60_000
    log_w = weights(draws)
    assert_close_mc(iwae_bound(log_w, 1), elbo(), log_w.std(0) / math.sqrt(draws))
    bounds, errors = [], []
    for k in (1, 2, 5, 20, 100):
        groups = log_mean_exp(log_w.unflatten(0, (-1, k)), dim=1)
        torch.testing.assert_close(iwae_bound(log_w, k), groups.mean(0))
        bounds.append(groups.mean(0))
        errors.append(groups.std(0) / math.sqrt(len(groups)))
    for i in range(4):
        assert_below_mc(bounds[i], bounds[i + 1], errors[i].hypot(errors[i + 1]))
    assert_below_mc(bounds[-1], EVIDENCE, errors[-1])
    assert bool((bounds[0] < EVIDENCE - 0.1).all())
    assert bool((bounds[-1] > EVIDENCE - 0.01).all())


def test_iwae_leaves_an_unfilled_group_out():
    log_w = torch.tensor([[0.0], [2.0], [4.0], [6.0], [1000.0]])
    expected = (log_mean_exp(log_w[:2]) + log_mean_exp(log_w[2:4])) / 2
    torch.testing.assert_close(iwae_bound(log_w, 2), expected)
    for k in (0, 6):
        with pytest.raises(ValueError, match=f"k={k}: must be between 1 and the number of draws, 5"):
            iwae_bound(log_w, k)


def test_an_exact_guide_has_no_error():
    log_w = EVIDENCE.expand(100, 4)
    estimate, error = importance_estimate(log_w)
    torch.testing.assert_close(estimate, EVIDENCE)
    assert bool((error < 1e-7).all())
    torch.testing.assert_close(effective_sample_size(log_w), torch.full((4,), 100.0, dtype=torch.float64))
    torch.testing.assert_close(iwae_bound(log_w, 1), EVIDENCE)


def test_weights_of_zero():
    log_w = torch.tensor([[0.0, -math.inf], [-math.inf, -math.inf]])
    estimate, error = importance_estimate(log_w)
    torch.testing.assert_close(estimate, torch.tensor([-math.log(2), -math.inf], dtype=torch.float64))
    torch.testing.assert_close(error[0].item(), 1.0)  # sd sqrt(1/2) / (sqrt(2) 1/2)
    assert error[1].isnan()
    assert effective_sample_size(log_w).tolist() == [1.0, 0.0]
    assert iwae_bound(log_w, 1).tolist() == [-math.inf, -math.inf]


def test_one_draw_has_no_known_error():
    assert importance_estimate(torch.zeros(1, 3))[1].isnan().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    "function",
    [
        log_mean_exp,
        importance_estimate,
        effective_sample_size,
        lambda log_w: iwae_bound(log_w, 2),
        lambda log_w: iwae_bound(log_w[:3], 2),  # also in a draw that fills no group
        lambda log_w: RunningLogMeanExp().add(log_w),
        lambda log_w: mean_and_standard_error(log_w[:, 1]),
    ],
)
def test_nan_and_infinity_are_refused(function, bad):
    log_w = torch.zeros(4, 3)
    log_w[2, 1] = bad
    with pytest.raises(ValueError, match="1 of .* values are NaN or .inf, the first at .2,"):
        function(log_w)
    with pytest.raises(ValueError, match="nothing to average"):
        function(torch.zeros(0, 3))


def test_mean_and_standard_error():
    values = weights(1)[0]
    mean, error = mean_and_standard_error(values)
    assert mean == pytest.approx(values.mean().item())
    assert error == pytest.approx(values.std().item() / 2)
    mean, error = mean_and_standard_error(torch.tensor([2.0]))
    assert mean == 2.0
    assert math.isnan(error)
    mean, error = mean_and_standard_error(torch.tensor([2.0, -math.inf]))
    assert mean == -math.inf
    assert math.isnan(error)
    with pytest.raises(ValueError, match="one number per datum"):
        mean_and_standard_error(torch.zeros(2, 2))


def test_the_statistical_assertions_can_fail():
    one = torch.ones(3)
    assert_close_mc(one + 0.4, one, 0.1)
    assert_close_mc(one, one, 0.0)
    assert_below_mc(one + 0.4, one, 0.1)
    assert_below_mc(-10.0, 1.0, 0.1)
    for estimate in (1.6, 0.4, math.nan):
        with pytest.raises(AssertionError, match="3 of 3 out of tolerance"):
            assert_close_mc(estimate, one, 0.1)
    for a in (1.6, math.nan):
        with pytest.raises(AssertionError, match="is not below"):
            assert_below_mc(a, one, 0.1)
    for error in (math.nan, math.inf, -1.0):
        with pytest.raises(AssertionError, match="must be finite"):
            assert_close_mc(one, one, error)
    with pytest.raises(AssertionError, match="1 of 3 out of tolerance; the worst, entry 1: 9 is not within"):
        assert_close_mc(torch.tensor([1.0, 9.0, 1.0]), one, 0.1)
