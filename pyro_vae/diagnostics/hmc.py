r"""Hamiltonian Monte Carlo of many small posteriors at once: C chains for each of N data, no chain waiting for another.

The density of z (D numbers) is given up to a constant; z = s u, with s from the guide, is moved by

    H(u, v) = -log p(s u) + |v|^2 / 2,      v ~ N(0, I) in each iteration,

along leapfrog steps, and accepted with probability min(1, exp(-(H' - H))). Step sizes are each chain's own
(dual averaging), s is estimated anew in the warm-up, and the length of a trajectory is jittered. Acceptance is per
chain and datum, so that the posteriors are independent, whatever is computed side by side.

References:
    MCMC using Hamiltonian dynamics (Neal, 2011). https://arxiv.org/abs/1206.1901
    The No-U-Turn Sampler (Hoffman & Gelman, 2014): dual averaging. https://arxiv.org/abs/1111.4246
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

type Scored = Callable[[Tensor], tuple[Tensor, Tensor]]
"""z (C, N, D) -> log p up to a constant (C, N) and its slope along z (C, N, D), nats."""

DIVERGENT = 1000.0
"""Error of the energy, in nats, above which a trajectory has left what the steps can follow (as in Stan)."""
TRAJECTORY = math.pi / 2
"""Length of a trajectory in units of s: a quarter of the period of a normal, after which its draws are independent."""
MAX_STEPS = 64
"""Leapfrog steps of one trajectory, at most."""


class Draws(NamedTuple):
    """What HMC returns: S draws of C chains for each of N data."""

    z: Tensor
    """Draws (S, C, N, D)."""
    log_density: Tensor
    """log p at the draws, up to the constant, nats (S, C, N)."""
    energy: Tensor
    """H at the start of each trajectory, nats (S, C, N); its spread against that of its steps is the BFMI."""
    acceptance: Tensor
    """Probability of acceptance of each trajectory (S, C, N)."""
    divergent: Tensor
    """Trajectories whose energy went astray, bool (S, C, N)."""
    step_size: Tensor
    """Of each chain and datum, in units of s (C, N)."""
    num_steps: int
    """Leapfrog steps of a trajectory after the warm-up."""


class StepSize:
    """Dual averaging of log step sizes (C, N) towards an acceptance of `target`."""

    def __init__(self, log_step: Tensor, target: float) -> None:
        """Start at these; the first steps explore around ten times as much."""
        self.target, self.centre, self.count = target, log_step + math.log(10), 0
        self.log_step, self.average, self.error = log_step, torch.zeros_like(log_step), torch.zeros_like(log_step)

    def update(self, acceptance: Tensor) -> None:
        """Learn from the acceptance (C, N) of one trajectory."""
        self.count += 1
        t, weight = self.count, 1 / (self.count + 10)
        self.error = (1 - weight) * self.error + weight * (self.target - acceptance)
        self.log_step = (self.centre - math.sqrt(t) / 0.05 * self.error).clamp(max=math.log(TRAJECTORY))
        decay = t**-0.75
        self.average = decay * self.log_step + (1 - decay) * self.average


def with_slope(log_density: Callable[[Tensor], Tensor]) -> Scored:
    """A log density (C, N, D) -> (C, N) together with its slope, by autograd."""

    def scored(z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_p = log_density(z)
            (slope,) = torch.autograd.grad(log_p.sum(), z)
        return log_p.detach(), slope

    return scored


def hmc(
    scored: Scored,
    start: Tensor,
    sd: Tensor,
    num_draws: int = 500,
    num_warmup: int = 300,
    target: float = 0.8,
    generator: torch.Generator | None = None,
    progress: Callable[[int], object] = lambda n: None,
) -> Draws:
    r"""Draw from N densities with C chains each.

    Args:
        scored: log p and its slope, each chain and datum on its own; see `with_slope`.
        start: where the chains begin (C, N, D), best overdispersed.
        sd: s (N, D), like the guide's sd, positive; estimated anew in the warm-up.
        num_draws: S, draws kept of each chain.
        num_warmup: W, draws before them, in which step sizes and s adapt.
        target: acceptance that step sizes aim at.
        generator: of the random numbers; None: torch's.
        progress: called with 1 after each of the W + S trajectories.

    Returns:
        `Draws`.

    Raises:
        ValueError: shapes that do not agree, an sd that is not positive, a start where the density is 0 or undefined.

    >>> _ = torch.manual_seed(0)
    >>> normal = with_slope(lambda z: -0.5 * z.square().sum(-1))
    >>> found = hmc(normal, torch.randn(4, 3, 2), torch.ones(3, 2))
    >>> found.z.shape, bool((found.z.std((0, 1)) - 1).abs().max() < 0.1)
    (torch.Size([500, 4, 3, 2]), True)
    """
    _check(start, sd)
    noise = Noise(start, generator)
    z = start
    log_p, slope = scored(z)
    if not bool(log_p.isfinite().all() and slope.isfinite().all()):
        chain, datum = (int(i) for i in (~(log_p.isfinite() & slope.isfinite().all(-1))).nonzero()[0])
        raise ValueError(f"start: the density of chain {chain}, observation {datum} is zero or undefined there.")
    steps = StepSize(torch.full_like(log_p, math.log(0.5)), target)
    windows = _windows(num_warmup)
    seen: list[Tensor] = []
    kept: list[tuple[Tensor, ...]] = []
    step, num_steps = steps.log_step.exp(), 0
    for i in range(num_warmup + num_draws):
        adapting = i < num_warmup
        if adapting:
            step, num_steps = steps.log_step.exp(), _num_steps(steps.log_step)
        elif i == num_warmup:
            log_step = steps.average if num_warmup else steps.log_step
            step, num_steps = log_step.exp(), _num_steps(log_step)
        # Each chain's trajectory has a length of its own: a common one may be a period of some posterior.
        length = TRAJECTORY * (0.5 + noise.uniform()) / num_steps
        found = trajectory(scored, z, sd, log_p, slope, torch.minimum(step, length), num_steps, noise)
        z, log_p, slope = found.z, found.log_p, found.slope
        if adapting:
            steps.update(found.acceptance)
            if windows.start <= i < windows.stop:
                seen.append(z)
            if i == windows.stop - 1 and len(seen) > 1:
                sd = _rescaled(sd, torch.stack(seen))
                steps = StepSize(steps.average.clamp(min=math.log(1e-3)), target)
        else:
            kept.append((z, log_p, found.energy, found.acceptance, found.divergent))
        progress(1)
    z, log_p, energy, acceptance, divergent = (torch.stack(column) for column in zip(*kept, strict=True))
    return Draws(z, log_p, energy, acceptance, divergent, step, num_steps)


class Moved(NamedTuple):
    """Where a trajectory ended, or began where it was rejected; (C, N), z and slope (C, N, D)."""

    z: Tensor
    log_p: Tensor
    slope: Tensor
    energy: Tensor
    acceptance: Tensor
    divergent: Tensor
    taken: Tensor


class Noise:
    """Random numbers in the dtype and on the device of the chains."""

    def __init__(self, like: Tensor, generator: torch.Generator | None) -> None:
        """Numbers for chains `like` (C, N, D)."""
        self.like, self.generator = like, generator

    def normal(self) -> Tensor:
        """N(0, 1), (C, N, D)."""
        return torch.empty_like(self.like).normal_(generator=self.generator)

    def uniform(self) -> Tensor:
        """Between 0 and 1, (C, N)."""
        return torch.empty_like(self.like[..., 0]).uniform_(generator=self.generator)


def _check(start: Tensor, sd: Tensor) -> None:
    if start.dim() != 3 or sd.shape != start.shape[1:]:
        raise ValueError(f"start, sd have shapes {tuple(start.shape)}, {tuple(sd.shape)}; must be (C, N, D), (N, D).")
    if not bool((sd > 0).all() and sd.isfinite().all()):
        raise ValueError("sd: holds values that are not positive and finite.")


def _windows(num_warmup: int) -> range:
    """The iterations whose draws tell s: the middle of the warm-up; step sizes settle before and after."""
    return range(num_warmup // 4, 3 * num_warmup // 4)


def _num_steps(log_step: Tensor) -> int:
    """Leapfrog steps that let nine of ten chains go the whole length with the step size they can take."""
    slow = float(log_step.flatten().float().quantile(0.1).exp())
    return max(1, min(MAX_STEPS, math.ceil(TRAJECTORY / slow)))


def _rescaled(sd: Tensor, seen: Tensor) -> Tensor:
    """s of the draws seen (T, C, N, D), shrunk a little as in Stan."""
    n = seen.shape[0] * seen.shape[1]
    return (n / (n + 5) * seen.var((0, 1)) + 5 / (n + 5) * 1e-3 * sd.square()).sqrt()


def trajectory(
    scored: Scored,
    z: Tensor,
    sd: Tensor,
    log_p: Tensor,
    slope: Tensor,
    step: Tensor,
    num_steps: int,
    noise: Noise,
) -> Moved:
    """One trajectory of each chain, accepted or not: kicks of v by the slope and moves of z along v, in units of s."""
    v = noise.normal()
    energy = 0.5 * v.square().sum(-1) - log_p
    scale = step[..., None] * sd
    new_z, new_log_p, new_slope = z, log_p, slope
    for i in range(num_steps):
        v = torch.addcmul(v, scale, new_slope, value=1.0 if i else 0.5)
        new_z = torch.addcmul(new_z, scale, v)
        new_log_p, new_slope = scored(new_z)
    v = torch.addcmul(v, scale, new_slope, value=0.5)
    error = 0.5 * v.square().sum(-1) - new_log_p - energy
    error = torch.where(error.isnan(), torch.inf, error)
    acceptance = (-error).exp().clamp(max=1)
    taken = noise.uniform() < acceptance
    return Moved(
        torch.where(taken[..., None], new_z, z),
        torch.where(taken, new_log_p, log_p),
        torch.where(taken[..., None], new_slope, slope),
        energy,
        acceptance,
        error > DIVERGENT,
        taken,
    )
