"""k-hat: q = N(0, s^2) for p = N(0, 1) has k = 1 - s^2 where s < 1, and bounded weights where s > 1."""

import math
import time

import numpy as np
import pytest
import torch

from pyro_vae.diagnostics.psis import (
    good_khat,
    khat_report,
    pareto_khat,
    resampled,
    smoothed_estimate,
    smoothed_log_weights,
)

RUNS, DRAWS = 20, 4000
# Mean of 20 runs at 4000 draws, from reference/diagnostics.md; k-hat is a little below k for heavy tails.
EXPECTED = {0.4: 0.75, 0.5: 0.70, 0.707: 0.45, 0.9: 0.22}


def weights(s, num_draws=DRAWS, runs=RUNS, seed=0):
    """log_w (S, runs) of guide N(0, s^2) for posterior N(0, 1)."""
    e = np.random.default_rng(seed).normal(size=(num_draws, runs))
    return 0.5 * e**2 - 0.5 * (s * e) ** 2 + math.log(s)


@pytest.mark.parametrize("s", EXPECTED)
def test_khat_tells_how_narrow_a_guide_is(s):
    assert abs(pareto_khat(weights(s)).mean() - EXPECTED[s]) < 0.1


def test_khat_of_a_guide_that_is_too_wide_is_negative():
    assert pareto_khat(weights(1.2)).mean() < 0


def test_the_sign_turned_round_would_not_pass():
    """What ArviZ would say of the negated weights: narrow guides perfect, the good wide one bad."""
    assert all(pareto_khat(-weights(s)).mean() < -1 for s in EXPECTED)
    assert pareto_khat(-weights(1.2)).mean() > 0.3


def test_it_tells_good_guides_from_bad_ones():
    good, bad = pareto_khat(weights(0.9, runs=100)), pareto_khat(weights(0.4, runs=100))
    assert khat_report(good, DRAWS)["good_fraction"] == 1
    assert khat_report(bad, DRAWS)["good_fraction"] < 0.5


def test_each_datum_by_itself_whatever_its_evidence_and_type():
    log_w = np.concatenate([weights(s, 1000, 2, seed) for seed, s in enumerate(EXPECTED)], axis=1)
    expected = [pareto_khat(log_w[:, [i]])[0] for i in range(8)]
    np.testing.assert_array_equal(pareto_khat(log_w), expected)
    np.testing.assert_allclose(pareto_khat(log_w + 500.0 * np.arange(8)), expected, atol=1e-6)
    np.testing.assert_array_equal(pareto_khat(torch.tensor(log_w, requires_grad=True)), expected)
    np.testing.assert_allclose(pareto_khat(torch.tensor(log_w).float()), expected, atol=1e-3)


def test_khat_is_as_fast_as_expected():
    log_w = weights(0.7, 1000, 300)
    pareto_khat(log_w[:, :2])
    start = time.process_time()
    pareto_khat(log_w)
    assert (time.process_time() - start) / 300 < 5e-3  # 0.2 to 0.4 ms on a quiet machine


def test_equal_weights_are_exact():
    noise = np.random.default_rng(0).uniform(size=(1000, 1))
    assert pareto_khat(np.full((1000, 2), -80.0)).tolist() == [-math.inf, -math.inf]
    assert pareto_khat(-80 + 0.9e-6 * noise).tolist() == [-math.inf]
    assert np.isfinite(pareto_khat(-80 + 1e-3 * noise)).all()
    np.testing.assert_allclose(smoothed_log_weights(np.full((10, 1), -80.0)), -math.log(10))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_are_undetermined_and_stay_with_their_datum(bad):
    log_w = weights(0.7, 1000, 3)
    expected = pareto_khat(log_w)
    log_w[17, 1] = bad
    khat = pareto_khat(log_w)
    assert np.isnan(khat[1])
    assert khat[[0, 2]].tolist() == expected[[0, 2]].tolist()
    smoothed = smoothed_log_weights(log_w)
    assert np.isnan(smoothed[:, 1]).all()
    assert np.isfinite(smoothed[:, [0, 2]]).all()


@pytest.mark.parametrize("num_draws", [0, 1, 2, 5, 24, 25, 29])
def test_too_few_draws_are_undetermined(num_draws):
    assert np.isnan(pareto_khat(weights(0.7, num_draws, 2))).all()
    assert np.isnan(pareto_khat(np.zeros((num_draws, 2)))).all()
    assert np.isfinite(pareto_khat(weights(0.7, 30, 2))).all()


def test_a_tail_that_cannot_be_fitted_is_undetermined():
    capped = np.minimum(weights(0.5, 1000, 1), 0.0)  # the largest weights all equal
    assert np.isnan(pareto_khat(capped)).all()
    assert np.isnan(pareto_khat(1e4 * weights(0.5, 1000, 1))).all()  # one draw outweighs all, beyond float64


def test_weights_of_zero_do_not_change_the_tail():
    """Half the draws, or nine of ten, fall where the posterior has no mass."""
    log_w = weights(0.5, 10 * DRAWS, 10)
    expected = pareto_khat(log_w[-DRAWS:])
    log_w[:-DRAWS] = -math.inf
    np.testing.assert_array_equal(pareto_khat(log_w), expected)
    smoothed = smoothed_log_weights(log_w)
    assert (smoothed[:-DRAWS] == -math.inf).all()
    assert np.isfinite(smoothed[-DRAWS:]).all()
    np.testing.assert_allclose(np.exp(smoothed).sum(0), 1)


def test_too_few_positive_weights_are_undetermined():
    log_w = weights(0.5, 1000, 3)
    log_w[20:, 0], log_w[:, 1] = -math.inf, -math.inf
    log_w[:500, 2], log_w[500:, 2] = -math.inf, 0.0  # equal where positive: no tail, and no exact guide
    assert np.isnan(pareto_khat(log_w)).all()
    assert np.isnan(smoothed_log_weights(log_w)[:, 1]).all()


def test_smoothing_tames_the_tail_and_keeps_the_rest():
    log_w = weights(0.5, 1000, 4)
    smoothed = smoothed_log_weights(log_w)
    np.testing.assert_allclose(np.exp(smoothed).sum(0), 1)
    tail = math.floor(3 * math.sqrt(1000))
    for raw, new in zip(log_w.T, smoothed.T, strict=True):
        order = raw.argsort()
        body = order[:-tail]
        np.testing.assert_allclose(np.ptp(new[body] - raw[body]), 0, atol=1e-12)
        assert (np.diff(new[order[-tail:]]) >= 0).all()
        assert not np.allclose(np.ptp(new[order[-tail:]] - raw[order[-tail:]]), 0)
    few = weights(0.5, 10, 2)  # too few to smooth: only normalised
    np.testing.assert_allclose(smoothed_log_weights(few), few - np.log(np.exp(few).sum(0)))
    assert smoothed_log_weights(np.zeros((5, 0))).shape == (5, 0)


def test_the_weights_are_draws_by_data():
    for shape in ((10,), (2, 10, 3)):
        with pytest.raises(ValueError, match="draws by data"):
            pareto_khat(np.zeros(shape))


def test_the_threshold_and_the_report():
    assert good_khat(100) == pytest.approx(0.5)
    assert good_khat(1000) == pytest.approx(2 / 3)
    assert good_khat(10**6) == 0.7
    khat = [0.2, 0.49, 0.51, math.nan, math.inf, -math.inf, -1.7, 0.9]
    report = khat_report(khat, 100)
    assert report.pop("standard_error") == pytest.approx(math.sqrt(0.5 * 0.5 / 8))
    assert report == {"good_fraction": 0.5, "threshold": 0.5, "num_draws": 100}
    for arguments in (([], 100), ([0.1], 1)):
        with pytest.raises(ValueError, match="empty|at least 2"):
            khat_report(*arguments)


def test_the_smoothed_estimate_is_log_p():
    """p = exp(-7) N(0, 1), q = N(0, 0.65^2), k = 0.58: within 5 standard errors over 300 data, and less noisy."""
    z = 0.65 * np.random.default_rng(5).normal(size=(500, 300))
    log_w = -7 - 0.5 * z**2 + 0.5 * (z / 0.65) ** 2 + np.log(0.65)
    smoothed, plain = smoothed_estimate(log_w), np.log(np.exp(log_w).mean(0))
    error = np.exp(smoothed + 7).std() / np.sqrt(300)
    assert abs(np.exp(smoothed + 7).mean() - 1) < 5 * error + 0.01  # smoothing takes a little off
    assert smoothed.std() < plain.std()


def test_the_smoothed_estimate_without_a_tail_is_the_plain_one():
    log_w = np.random.default_rng(6).normal(size=(20, 3))  # too few to fit
    np.testing.assert_allclose(smoothed_estimate(log_w), np.log(np.exp(log_w).mean(0)))
    log_w[3, 0] = -np.inf
    np.testing.assert_allclose(smoothed_estimate(log_w), np.log(np.exp(log_w).mean(0)))


def test_resampling_follows_the_weights():
    """q = N(0, 1.5^2) resampled to N(0.5, 1): mean and sd of 100 data within 5 standard errors; a zero never comes."""
    z = 1.5 * np.random.default_rng(7).normal(size=(4000, 100))
    log_w = -0.5 * (z - 0.5) ** 2 + 0.5 * (z / 1.5) ** 2
    log_w[0] = -np.inf
    chosen = resampled(log_w, 1000, seed=1)
    assert chosen.shape == (1000, 100)
    assert (chosen > 0).all()
    draws = np.take_along_axis(z, chosen, 0)
    for values, truth in ((draws.mean(0), 0.5), (draws.std(0), 1.0)):
        assert abs(values.mean() - truth) < 5 * values.std() / 10 + 0.005
    assert not np.array_equal(chosen, resampled(log_w, 1000, seed=2))
    with pytest.raises(ValueError, match="cannot be resampled"):
        resampled(np.full((50, 1), np.nan), 3)


def test_equal_weights_are_resampled_evenly():
    counts = np.bincount(resampled(np.zeros((50, 1)), 100)[:, 0], minlength=50)
    assert (counts == 2).all()
