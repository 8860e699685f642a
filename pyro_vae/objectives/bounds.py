"""Bounds of log p(x) from log importance weights: pure functions, (..., K, B) -> (..., 1, B)."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pyro_vae.sites import Batch, Densities, without_labels


def log_mean(log_w: Tensor) -> Tensor:
    """log (1/K) sum_k w_k."""
    return log_w.logsumexp(-2, keepdim=True) - math.log(log_w.shape[-2])


def grouped(log_w: Tensor, groups: int) -> Tensor:
    """(1/M) sum_m log (1/K) sum_k w_mk, of M groups of K particles that lie one after the other."""
    return log_mean(log_w.unflatten(-2, (groups, -1)))[..., 0, :].mean(-2, keepdim=True)


def power_mean(log_w: Tensor, alpha: float) -> Tensor:
    """1/(1 - alpha) log (1/K) sum_k w_k^(1 - alpha), and its limit mean_k log w_k at alpha = 1.

    Centred and by log1p and expm1, so that it holds its digits however near to 1 alpha is.
    """
    power = 1 - alpha
    if power == 0:
        return log_w.mean(-2, keepdim=True)
    centre = (log_w.amax(-2, keepdim=True) if power > 0 else log_w.amin(-2, keepdim=True)).detach()
    return centre + torch.expm1(power * (log_w - centre)).mean(-2, keepdim=True).log1p() / power


def per_datum(
    log_w: Tensor,
    d: Densities,
    batch: Batch,
    rule: Literal["sum", "guide"],
    bound: Callable[[Tensor], Tensor],
) -> Tensor:
    """Take particles and labels out, (C, K, B) -> (B,).

    Summed labels belong to the weight of a particle and go first, log sum_c w_ck. With q(y | x) the bound is taken
    class by class, sum_c pi_c (bound_c - log pi_c): the other order would be lower, for the logarithm of a mean of
    exponentials is convex, and would not reach log p however many particles there are.
    """
    if d.labels and rule == "guide":
        return without_labels(bound(log_w), d, batch, rule)[0]
    return bound(without_labels(log_w, d, batch, rule))[0]


def standing_in(value: Tensor, gradient: Tensor) -> Tensor:
    """A tensor with the value of one and the gradient of another."""
    return gradient + (value - gradient).detach()
