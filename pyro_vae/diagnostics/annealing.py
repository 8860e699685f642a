r"""Annealed importance sampling: log Z of a target, from below and, where it can be drawn from, from above.

From draws of a base f_0, along f_b ~ f_0^(1 - b) f_1^b with b from 0 to 1,

    log w = sum_t (b_t - b_(t-1)) [log f_1(z_(t-1)) - log f_0(z_(t-1))],   z_t by HMC from z_(t-1), f_(b_t) invariant,

E[w] = Z_1 / Z_0, whatever the number of temperatures and however short the HMC: log of the mean of w is below
log Z_1 / Z_0 on average. Backwards, from draws of the target, w has the mean Z_0 / Z_1, and minus the log of its mean
is above (bidirectional Monte Carlo). Step sizes are fixed before, by a pilot: sizes that learn from the
chain they move would break the equality.

References:
    Annealed importance sampling (Neal, 2001). https://arxiv.org/abs/physics/9803008
    Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse, Ghahramani & Adams, 2015).
    On the Quantitative Analysis of Decoder-Based Generative Models (Wu, Burda, Salakhutdinov & Grosse, 2017).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.diagnostics.hmc import Noise, trajectory


class Scores(NamedTuple):
    """Both ends of the path at some z (C, N, D), nats."""

    base: Tensor
    """log f_0 (C, N)."""
    base_slope: Tensor
    """Its slope along z (C, N, D)."""
    target: Tensor
    """log f_1 (C, N)."""
    target_slope: Tensor
    """Its slope along z (C, N, D)."""


type Ends = Callable[[Tensor], Scores]


class Annealed(NamedTuple):
    """Weights and where the chains ended."""

    log_w: Tensor
    """log weights (C, N), nats; exp has the mean Z_1 / Z_0, or Z_0 / Z_1 backwards."""
    z: Tensor
    """(C, N, D)."""
    acceptance: Tensor
    """Mean over the chains at each temperature (T, N)."""


class Path(NamedTuple):
    """What is fixed before the chains run: T temperatures after the first, and how to move at each."""

    betas: Tensor
    """b_0 = 0, ..., b_T = 1 (T + 1,)."""
    sd: Tensor
    """Scale of the moves at b_1, ..., b_T (T, N, D)."""
    step: Tensor
    """Step sizes in units of sd (T, N)."""
    num_steps: int
    """Leapfrog steps at each temperature."""

    def reversed(self) -> "Path":
        """The same from the target to the base: the moves at b_(T-1), ..., b_0, those at 0 like those at b_1."""
        back = [*range(len(self.step) - 2, -1, -1), 0]
        return Path(self.betas.flip(0), self.sd[back], self.step[back], self.num_steps)


def schedule(num_temperatures: int, like: Tensor) -> Tensor:
    """Temperatures b_0 = 0, ..., b_T = 1, dense at both ends (T + 1,), as in Wu et al.

    >>> [round(b, 2) for b in schedule(4, torch.zeros(1)).tolist()]
    [0.0, 0.1, 0.5, 0.9, 1.0]
    """
    ends = torch.linspace(-4, 4, num_temperatures + 1, dtype=like.dtype, device=like.device).sigmoid()
    return (ends - ends[0]) / (ends[-1] - ends[0])


def pilot(
    ends: Ends,
    z: Tensor,
    base_sd: Tensor,
    target_sd: Tensor,
    num_temperatures: int = 500,
    num_steps: int = 5,
    target: float = 0.8,
    generator: torch.Generator | None = None,
) -> Path:
    """Find step sizes by chains of their own, which are not used otherwise.

    Args:
        ends: log densities of base and target, with slopes.
        z: draws of the base (C, N, D), a few chains.
        base_sd: scale of the base (N, D).
        target_sd: about the scale of the target (N, D), like the guide's sd.
        num_temperatures: T.
        num_steps: leapfrog steps at each.
        target: acceptance to aim at.
        generator: of the random numbers; None: torch's.
    """
    betas = schedule(num_temperatures, z)
    precision = torch.lerp(base_sd**-2, target_sd**-2, betas[1:, None, None])
    noise, log_step = Noise(z, generator), torch.full_like(z[0, :, 0], math.log(0.5))
    steps, scores = [], ends(z)
    for beta, sd in zip(betas[1:], precision.rsqrt(), strict=True):
        z, scores, acceptance = _moved(ends, z, scores, beta, sd, log_step.exp(), num_steps, noise)
        steps.append(log_step)
        log_step = (log_step + 0.5 * (acceptance - target)).clamp(max=math.log(math.pi / 2))
    return Path(betas, precision.rsqrt(), torch.stack(steps).exp(), num_steps)


def anneal(
    ends: Ends,
    z: Tensor,
    path: Path,
    generator: torch.Generator | None = None,
    progress: Callable[[int], object] = lambda n: None,
) -> Annealed:
    """Follow a path with C chains for each of N data.

    Args:
        ends: log densities of base and target, with slopes.
        z: exact draws (C, N, D) of the end where the path begins.
        path: from `pilot`, or its `reversed()`.
        generator: of the random numbers; None: torch's.
        progress: called with 1 after each temperature.

    Returns:
        `Annealed`, weights in float64.

    >>> _ = torch.manual_seed(0)
    >>> def ends(z):  # N(0, 1) and 3 N(2, 1)
    ...     return Scores(-0.5 * z.square().sum(-1), -z, math.log(3) - 0.5 * (z - 2).square().sum(-1), 2 - z)
    >>> ones = torch.ones(1, 1)
    >>> path = pilot(ends, torch.randn(4, 1, 1), ones, ones, num_temperatures=100)
    >>> log_w = anneal(ends, torch.randn(64, 1, 1), path).log_w
    >>> abs(float(log_w.exp().mean()) - 3) < 0.5
    True
    """
    noise, log_w = Noise(z, generator), torch.zeros(z.shape[:2], dtype=torch.float64, device=z.device)
    accepted, scores = [], ends(z)
    for i, (sd, step) in enumerate(zip(path.sd, path.step, strict=True)):
        before, beta = path.betas[i], path.betas[i + 1]
        log_w = log_w + (beta - before).double() * (scores.target.double() - scores.base.double())
        z, scores, acceptance = _moved(ends, z, scores, beta, sd, step, path.num_steps, noise)
        accepted.append(acceptance)
        progress(1)
    return Annealed(log_w, z, torch.stack(accepted))


def _moved(
    ends: Ends, z: Tensor, scores: Scores, beta: Tensor, sd: Tensor, step: Tensor, num_steps: int, noise: Noise
) -> tuple[Tensor, Scores, Tensor]:
    """One trajectory at a temperature: z, its scores, and acceptance (N,) over the chains; the length is jittered."""
    last = scores

    def annealed(found: Scores) -> tuple[Tensor, Tensor]:
        return torch.lerp(found.base, found.target, beta), torch.lerp(found.base_slope, found.target_slope, beta)

    def scored(z: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal last
        last = ends(z)
        return annealed(last)

    jittered = step * (0.5 + noise.uniform())
    found = trajectory(scored, z, sd, *annealed(scores), jittered, num_steps, noise)
    pairs = zip(last, scores, strict=True)
    kept = (torch.where(found.taken if new.dim() < z.dim() else found.taken[..., None], new, old) for new, old in pairs)
    return found.z, Scores(*kept), found.acceptance.mean(0)
