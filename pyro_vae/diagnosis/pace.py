"""How much of a diagnosis fits a budget: what an evaluation of the model costs here, and sizes that follow from it.

Two timings of the model tell a cost a + b n of n particles at once. Sizes are rounded down to 1, 2 or 5 times a power
of ten, so that the noise of a timing seldom changes what is computed.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from pyro_vae.capture import unvalidated
from pyro_vae.diagnosis.joint import check_continuous, log_joint
from pyro_vae.latent import particles_per_chunk
from pyro_vae.sites import Batch
from pyro_vae.specs import DeclarationError
from pyro_vae.vae import VAE, densities

FEW, MANY = 4, 64
"""Particles of each datum in the two timings."""
REPEATS, PATIENCE = 20, 0.3
"""Calls behind a timing, fewer where they take more than so many seconds: the fastest tells what others disturb."""


class TooLittle(Exception):
    """A part of the diagnosis does not fit its share of the budget; the text says what it needs."""


class Pace(NamedTuple):
    """Seconds that the model takes: a + b n for n particles of one datum each."""

    forward: tuple[float, float]
    """(a, b) of model and guide."""
    gradient: tuple[float, float]
    """(a, b) of log p(x, z) with its slope; NaN where latents are not real-valued."""

    def density(self, rows: int) -> float:
        """Seconds for the density of so many particles, in however many chunks."""
        return self.forward[0] + self.forward[1] * rows

    def slope(self, rows: int) -> float:
        """Seconds for log p(x, z) and its slope at so many particles at once."""
        return self.gradient[0] + self.gradient[1] * rows


def measured(vae: VAE, batch: Batch) -> Pace:
    """Time the model on some data.

    Args:
        vae: the model, in evaluation mode.
        batch: B data, a few.
    """
    many = max(FEW + 1, min(MANY, particles_per_chunk(vae, batch.size)))
    rows = FEW * batch.size, many * batch.size

    def forward(num: int) -> Callable[[], object]:
        def call() -> None:
            with torch.no_grad(), unvalidated():
                densities(vae, batch, num)

        return call

    def gradient(num: int) -> Callable[[], object]:
        scored = log_joint(vae, batch, num)
        z = torch.zeros(num, batch.size, sum(vae.variant.layers.values())).to(next(vae.parameters()))
        return lambda: scored(z)

    try:
        check_continuous(vae)
        slopes = _line(rows, [_seconds(gradient(num)) for num in (FEW, many)])
    except DeclarationError:
        slopes = math.nan, math.nan
    return Pace(_line(rows, [_seconds(forward(num)) for num in (FEW, many)]), slopes)


def _seconds(call: Callable[[], object]) -> float:
    """The least of some timings, after a call that does not count."""
    call()
    found, first = list[float](), time.perf_counter()
    while len(found) < REPEATS and time.perf_counter() - first < PATIENCE:
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


def _line(rows: tuple[int, int], seconds: list[float]) -> tuple[float, float]:
    """(a, b) of a + b n through two timings, neither below zero."""
    b = max(0.0, (seconds[1] - seconds[0]) / (rows[1] - rows[0]))
    return max(0.0, seconds[0] - b * rows[0]), max(b, 1e-9)


def fitting(seconds: float, cost: Callable[[int], float], least: int, most: int) -> int:
    """The largest size whose cost fits, between `least` and `most`.

    Args:
        seconds: there are.
        cost: size -> seconds, rising.
        least: below it the answer is worth nothing.
        most: above it nothing is gained.

    Returns:
        `most`, or 1, 2 or 5 times a power of ten, or `least`.

    Raises:
        TooLittle: not even `least` fits.

    >>> fitting(10.0, lambda n: 0.03 * n, least=50, most=1000)
    200
    """
    if cost(most) <= seconds:
        return most
    sizes = [k * 10**power for power in range(7, -1, -1) for k in (5, 2, 1)]
    for size in sizes:
        if least <= size < most and cost(size) <= seconds:
            return size
    if cost(least) <= seconds:
        return least
    raise TooLittle(f"needs about {cost(least):.1f} s and had {seconds:.1f} s; raise the budget")
