"""The one place where a test may say that a random estimate is right."""

import math

import torch
from torch import Tensor


def assert_close_mc(
    estimate: Tensor | float, expected: Tensor | float, standard_error: Tensor | float, sigmas: float = 5
) -> None:
    """Assert that estimates lie within some of their own standard errors of what they estimate.

        |estimate - expected| <= sigmas * standard_error

    False-alarm rate of a right estimator whose error is normal: 5.7e-7 per comparison at 5 sigmas; a tensor
    of n entries makes n comparisons. 1e-9 of the expected value (or of 1) is added for rounding, so that an
    estimator without variance may have a standard error of zero.

    Args:
        estimate: number or tensor.
        expected: what it estimates; broadcast against it.
        standard_error: of the estimate, or of the difference if `expected` is an estimate too; finite.
        sigmas: tolerance in standard errors.

    Raises:
        AssertionError: out of tolerance, or NaN; or a standard error that is no finite number.
    """
    estimate, expected, tolerance = _prepared(estimate, expected, standard_error, sigmas)
    _assert((estimate - expected).abs() <= tolerance, estimate, expected, tolerance, "within")


def assert_below_mc(a: Tensor | float, b: Tensor | float, standard_error: Tensor | float, sigmas: float = 5) -> None:
    """Assert that a is not above b by more than chance: a - b <= sigmas * standard_error.

    One-sided; where a = b in truth the false-alarm rate is half that of `assert_close_mc`.

    Args:
        a: the number or tensor that should be lower.
        b: the one that should be higher.
        standard_error: of the difference a - b; finite.
        sigmas: tolerance in standard errors.

    Raises:
        AssertionError: out of tolerance, or NaN; or a standard error that is no finite number.
    """
    a, b, tolerance = _prepared(a, b, standard_error, sigmas)
    _assert(a - b <= tolerance, a, b, tolerance, "below, with tolerance")


def _prepared(
    a: Tensor | float, b: Tensor | float, standard_error: Tensor | float, sigmas: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Both sides and the tolerance, float64, on the CPU, of one shape."""
    left, right, error = (torch.as_tensor(v).detach().cpu().double() for v in (a, b, standard_error))
    assert bool((error.isfinite() & (error >= 0)).all()), f"standard error {error}: must be finite and >= 0"
    tolerance = sigmas * error + 1e-9 * right.abs().clamp(min=1)
    left, right, tolerance = torch.broadcast_tensors(left, right, tolerance)
    return left, right, tolerance


def _assert(passed: Tensor, a: Tensor, b: Tensor, tolerance: Tensor, relation: str) -> None:
    if passed.all():
        return
    worst = ((a - b).abs() / tolerance).nan_to_num(nan=math.inf).masked_fill(passed, -math.inf).argmax()
    left, right, limit = a.flatten()[worst], b.flatten()[worst], tolerance.flatten()[worst]
    raise AssertionError(
        f"{int((~passed).sum())} of {passed.numel()} out of tolerance; the worst, entry {int(worst)}: "
        f"{left:.6g} is not {relation} {limit:.2g} of {right:.6g}"
    )
