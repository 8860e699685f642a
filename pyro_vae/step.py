"""One training step as one function of tensors: fetch, binarise, differentiate, update.

    state, plan, data -> state          in place, nothing read back to the host

Everything a step changes is in a `State`, everything an epoch fixes is in a `Plan` on the device (the order
of the data, the learning rates, the weights of the objective), and the position in the plan is itself a
tensor that the step moves on: the host launches the same call again and again.

Parameters live in a few flat blocks, so that the optimiser is a few dozen operations whatever the network, and
several processes need one all-reduce of the gradient. With g the gradient, t the number of updates:

    m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
    theta = theta - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

An update with anything that is not finite is not applied; the first such step and its flags are latched.

References:
    Adam: A Method for Stochastic Optimization (Kingma & Ba, 2015).
    Decoupled Weight Decay Regularization (Loshchilov & Hutter, 2019).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyro_vae.capture import Program
from pyro_vae.experiment import Optimizer
from pyro_vae.objectives import Terms
from pyro_vae.sites import Batch

METRICS = ("loss", "elbo", "reconstruction", "kl")
"""What is summed over the epoch, per step, after the number of applied steps."""
ALIGNMENT = 16
"""Parameters start at multiples of 64 bytes (float32) in a block, as fast matrix products want."""
LARGE = 2**13
"""Numbers from which a parameter is a block of its own."""


class Layout:
    """Which parameters share a block, and where in it each of them lies.

    A large parameter is a block of its own, so that its gradient is updated with where a matrix product has left
    it; the small ones lie side by side in one, so that a network of many layers needs few operations.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        """Lay out parameters in order."""
        self.shapes = [parameter.shape for parameter in parameters]
        self.sizes = [parameter.numel() for parameter in parameters]
        self.padded = [-(-size // ALIGNMENT) * ALIGNMENT for size in self.sizes]
        small = [i for i, size in enumerate(self.sizes) if size < LARGE]
        self.blocks = [[i] for i, size in enumerate(self.sizes) if size >= LARGE] + [small] * bool(small)

    def flatten(self, tensors: list[Tensor]) -> list[Tensor]:
        """Tensors of the parameters' shapes as one vector per block; the padding is zero."""
        return [
            tensors[block[0]].reshape(-1) if self.sizes[block[0]] >= LARGE else self._joined(tensors, block)
            for block in self.blocks
        ]

    def unflatten(self, vectors: list[Tensor]) -> list[Tensor]:
        """Views of the blocks in the parameters' shapes."""
        found: dict[int, Tensor] = {}
        for vector, block in zip(vectors, self.blocks, strict=True):
            large = self.sizes[block[0]] >= LARGE
            pieces = [vector] if large else vector.split([self.padded[i] for i in block])
            found |= {i: piece[: self.sizes[i]].view(self.shapes[i]) for i, piece in zip(block, pieces, strict=True)}
        return [found[i] for i in range(len(self.sizes))]

    def joined(self, vectors: list[Tensor]) -> Tensor:
        """Everything as one vector in the order of the parameters, as a checkpoint has it."""
        return self._joined(self.unflatten(vectors), range(len(self.sizes)))

    def divided(self, vector: Tensor) -> list[Tensor]:
        """The blocks of what `joined` gave."""
        pieces = zip(vector.split(self.padded), self.sizes, self.shapes, strict=True)
        return self.flatten([piece[:size].view(shape) for piece, size, shape in pieces])

    def _joined(self, tensors: list[Tensor], which: Iterable[int]) -> Tensor:
        pieces = []
        for i in which:
            pieces.append(tensors[i].reshape(-1))
            if self.padded[i] > self.sizes[i]:
                pieces.append(tensors[i].new_zeros(self.padded[i] - self.sizes[i]))
        return torch.cat(pieces)


@dataclass
class State:
    """What a step changes, in place."""

    parameters: list[Tensor]
    """theta, by block."""
    first_moment: list[Tensor]
    """m, by block."""
    second_moment: list[Tensor]
    """v, by block."""
    buffers: list[Tensor]
    """Buffers of the modules, in order."""
    updates: Tensor
    """t: number of updates applied, ()."""
    position: Tensor
    """Step within the epoch, (1,)."""
    totals: Tensor
    """Sums over the epoch: number of applied steps, then METRICS; float64."""
    fault: Tensor
    """Position of the first step that was not applied (-1 if none), then one flag per site that failed."""

    def scalars(self, layout: Layout) -> dict[str, Tensor]:
        """The tensors of the optimiser and the bookkeeping by name, for a checkpoint."""
        moments = {name: layout.joined(getattr(self, name)) for name in MOMENTS}
        return moments | {name: getattr(self, name) for name in COUNTS}

    def restore(self, layout: Layout, tensors: dict[str, Tensor]) -> None:
        """Take back what `scalars` gave."""
        for name in MOMENTS:
            for own, saved in zip(getattr(self, name), layout.divided(tensors[name]), strict=True):
                own.copy_(saved)
        for name in COUNTS:
            getattr(self, name).copy_(tensors[name])


MOMENTS = ("first_moment", "second_moment")
COUNTS = ("updates", "position", "totals", "fault")


class Plan(NamedTuple):
    """What an epoch fixes, on the device."""

    order: Tensor
    """Indices of the data, places in what the step is given, (steps, B)."""
    learning_rates: Tensor
    """(steps,)."""
    weights: dict[str, Tensor]
    """Weights of the objective, each (steps,)."""


class Resident(NamedTuple):
    """Training data on the device, all of them or a chunk; x as it came (uint8 where it is discrete)."""

    x: Tensor
    y: Tensor | None = None
    mask: Tensor | None = None
    given: Tensor | None = None


class Slope(NamedTuple):
    """What a batch says: all that an update needs, and all that several processes add up."""

    gradient: list[Tensor]
    """By block."""
    values: list[Tensor]
    """METRICS, each ()."""
    sites: list[Tensor]
    """log p and log q of every site, summed, each (): for the flags."""
    buffers: list[Tensor]
    """As they are after the batch."""


type Prepare = Callable[[Batch], Batch]
type Step = Callable[[State, Plan, Resident], None]
type Differentiate = Callable[[State, Plan, Resident], Slope]
type Apply = Callable[[State, Plan, Slope], None]


def learning_rate_factors(objective: nn.Module, rates: dict[str, float], layout: Layout) -> list[Tensor] | None:
    """Factors of the learning rate, by block, by the prefix of the parameters' names; None where there are none."""
    if not rates:
        return None
    found = []
    for name, parameter in objective.named_parameters():
        factor = next((value for prefix, value in rates.items() if name.startswith(prefix)), 1.0)
        found.append(torch.full_like(parameter.detach(), factor))
    return layout.flatten(found)


def new_state(objective: nn.Module, layout: Layout, num_flags: int) -> State:
    """The state before the first step; the module's parameters become views of its blocks."""
    parameters = list(objective.parameters())
    blocks = [block.clone() for block in layout.flatten([parameter.detach() for parameter in parameters])]
    for parameter, view in zip(parameters, layout.unflatten(blocks), strict=True):
        parameter.data = view
    device = blocks[0].device
    fault = torch.zeros(1 + num_flags, dtype=torch.int64, device=device)
    fault[0] = -1
    state = State(
        blocks,
        [torch.zeros_like(block) for block in blocks],
        [torch.zeros_like(block) for block in blocks],
        list(objective.buffers()),
        torch.zeros((), dtype=torch.int64, device=device),
        torch.zeros(1, dtype=torch.int64, device=device),
        torch.zeros(1 + len(METRICS), dtype=torch.float64, device=device),
        fault,
    )
    if device.type == "cuda":  # a CUDA graph may only change tensors that stay where they are
        lists = (state.parameters, state.first_moment, state.second_moment, state.buffers)
        for tensor in (*chain(*lists), *(getattr(state, name) for name in COUNTS)):
            torch._dynamo.mark_static_address(tensor)
    return state


def fetch(data: Resident, indices: Tensor, prepare: Prepare) -> Batch:
    """Gather a batch as stored, and make it what is modelled: scaled, binarised or dequantised."""

    def take(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.index_select(0, indices)

    return prepare(Batch(data.x.index_select(0, indices), take(data.y), take(data.mask), take(data.given)))


def make_halves(
    program: Program,
    layout: Layout,
    prepare: Prepare,
    adam: Optimizer,
    clip_norm: float | None,
    factors: list[Tensor] | None = None,
) -> tuple[Differentiate, Apply]:
    """The two halves of a step around a program, between which several processes add up what they found.

    Args:
        program: eager or recorded, `(parameters, buffers, batch, weights) -> Outcome`.
        layout: of the blocks.
        prepare: a batch as stored -> as modelled.
        adam: settings of the update.
        clip_norm: largest norm of the gradient, or None.
        factors: of the learning rate, by block; None where it is the same for all.
    """

    def differentiate(state: State, plan: Plan, data: Resident) -> Slope:
        at = state.position
        batch = fetch(data, plan.order.index_select(0, at)[0], prepare)
        weights = {name: value.index_select(0, at)[0] for name, value in plan.weights.items()}
        parameters = layout.unflatten(state.parameters)
        loss, terms, gradients, buffers = program(parameters, state.buffers, batch, weights)
        values = [loss, *(getattr(terms, name).mean() for name in METRICS[1:])]
        sites = [site.sum() for site in (*terms.log_p.values(), *terms.log_q.values())]
        return Slope(layout.flatten(gradients), values, sites, buffers)

    def apply(state: State, plan: Plan, slope: Slope) -> None:
        gradient = slope.gradient
        norm = torch.stack([block.square().sum() for block in gradient]).sum().sqrt()
        if clip_norm is not None:
            shorter = (clip_norm / (norm + 1e-6)).clamp(max=1.0)
            gradient = [block * shorter for block in gradient]
        finite = torch.isfinite(slope.values[0]) & torch.isfinite(norm)
        rate = plan.learning_rates.index_select(0, state.position)[0]
        update(state, gradient, rate, adam, finite, factors)
        for old, new in zip(state.buffers, slope.buffers, strict=True):
            old.copy_(torch.where(finite, new, old))
        _record(state, slope, norm, finite)

    return differentiate, apply


def make_step(halves: tuple[Differentiate, Apply]) -> Step:
    """The step of a single process; run it under `torch.no_grad()`."""
    differentiate, apply = halves

    def step(state: State, plan: Plan, data: Resident) -> None:
        apply(state, plan, differentiate(state, plan, data))

    return step


def make_shared_step(
    halves: tuple[Differentiate, Apply],
    state: State,
    num_sites: int,
    changing: list[bool],
    share: float,
    add_up: Callable[[Tensor], None],
    compiled: Callable[[Any], Any] = lambda half: half,
) -> Step:
    """The step of one of several processes: each differentiates its part of a batch, and all apply the sum.

    Everything that the processes tell each other is one vector: the gradient, what is recorded, and by how much
    buffers changed, weighted by the process's share of the batch. A NaN of one is a NaN of all.

    Args:
        halves: of the step.
        state: what it changes.
        num_sites: number of sites in `Slope.sites`.
        changing: which buffers a step changes, such as the running moments of a batch norm.
        share: of the batch, B_local / B.
        add_up: sums a tensor over the processes, in place.
        compiled: compiles a half.
    """
    differentiate, apply = halves
    moving = [buffer for buffer, changes in zip(state.buffers, changing, strict=True) if changes]
    lengths = [len(block) for block in state.parameters]
    sizes = [sum(lengths), len(METRICS) + num_sites, *(buffer.numel() for buffer in moving)]
    vector = state.parameters[0].new_zeros(sum(sizes))
    if vector.device.type == "cuda":  # it stays where it is between two CUDA graphs
        torch._dynamo.mark_static_address(vector)

    def before(state: State, plan: Plan, data: Resident, vector: Tensor) -> None:
        slope = differentiate(state, plan, data)
        pairs = zip(slope.buffers, state.buffers, changing, strict=True)
        changes = [(new - old).reshape(-1).to(vector.dtype) for new, old, moves in pairs if moves]
        numbers = torch.stack([number.to(vector.dtype) for number in (*slope.values, *slope.sites)])
        vector.copy_(torch.cat([*slope.gradient, numbers, *changes]) * share)

    def after(state: State, plan: Plan, vector: Tensor) -> None:
        gradient, numbers, *changes = vector.split(sizes)
        scalars, each = list(numbers.unbind()), iter(changes)
        buffers: list[Tensor] = []
        for old, moves in zip(state.buffers, changing, strict=True):
            change = next(each).view(old.shape) if moves else None
            if change is not None and not old.is_floating_point():
                change = change.round().to(old.dtype)  # a counter, which is the same in all processes
            buffers.append(old if change is None else (old + change).to(old.dtype))
        apply(
            state, plan, Slope(list(gradient.split(lengths)), scalars[: len(METRICS)], scalars[len(METRICS) :], buffers)
        )

    before, after = compiled(before), compiled(after)

    def step(state: State, plan: Plan, data: Resident) -> None:
        before(state, plan, data, vector)
        add_up(vector)
        after(state, plan, vector)

    return step


def update(
    state: State,
    gradient: list[Tensor],
    rate: Tensor,
    adam: Optimizer,
    finite: Tensor,
    factors: list[Tensor] | None = None,
) -> None:
    """Apply one step of Adam or AdamW if `finite`."""
    b1, b2 = adam.betas
    t = (state.updates + 1).to(torch.float64)
    dtype = gradient[0].dtype
    root = (1 - b2**t).sqrt()
    # Stacked, because a compiler would otherwise compute these numbers anew for every few parameters.
    numbers = rate / (1 - b1**t) * root, root * adam.eps, finite
    size, small, flag = torch.stack([number.to(dtype) for number in numbers]).unbind()
    applied = flag > 0
    blocks = zip(state.parameters, state.first_moment, state.second_moment, gradient, strict=True)
    for i, (theta, m, v, g) in enumerate(blocks):
        if adam.weight_decay and adam.kind == "adam":
            g = g + adam.weight_decay * theta
        new_m = b1 * m + (1 - b1) * g
        new_v = b2 * v + (1 - b2) * g.square()
        step = size * new_m / (new_v.sqrt() + small)
        if adam.weight_decay and adam.kind == "adamw":
            step = step + (rate * adam.weight_decay).to(dtype) * theta
        new_theta = theta - (step if factors is None else factors[i] * step)
        # `where` and not a branch: the host does not wait for the answer.
        for old, new in ((theta, new_theta), (m, new_m), (v, new_v)):
            old.copy_(torch.where(applied, new, old))
    state.updates.add_(finite)


def flags(terms: Terms) -> list[str]:
    """Names of what is watched, in the order of the flags in `State.fault`."""
    return [*(f"log p at {name}" for name in terms.log_p), *(f"log q at {name}" for name in terms.log_q), "gradient"]


def _record(state: State, slope: Slope, norm: Tensor, finite: Tensor) -> None:
    """Add to the sums of the epoch, latch the first fault, move on."""
    values = torch.stack(slope.values).to(torch.float64)
    row = torch.cat([values.new_ones(1), values])
    state.totals.add_(torch.where(finite, row, torch.zeros_like(row)))
    bad = torch.stack([~torch.isfinite(value) for value in (*slope.sites, norm)]).to(torch.int64)
    latch = ~finite & (state.fault[0] < 0)
    state.fault.copy_(torch.where(latch, torch.cat([state.position, bad]), state.fault))
    state.position.add_(1)
