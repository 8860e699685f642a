"""One training step as one function of tensors: fetch, binarise, differentiate, update.

    state, plan, data -> state          in place, nothing read back to the host

Everything a step changes is in a `State`, everything an epoch fixes is in a `Plan` on the device (the order
of the data, the learning rates, the weights of the objective), and the position in the plan is itself a
tensor that the step moves on: the host launches the same call again and again.

Parameters live in one flat vector, so that the optimiser is a dozen operations whatever the network, and
several processes need one all-reduce of the gradient. With g the gradient, t the number of updates:

    m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
    theta = theta - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

An update with anything that is not finite is not applied; the first such step and its flags are latched.

References:
    Adam: A Method for Stochastic Optimization (Kingma & Ba, 2015).
    Decoupled Weight Decay Regularization (Loshchilov & Hutter, 2019).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_vae.capture import Program
from pyro_vae.experiment import Optimizer
from pyro_vae.objectives import Terms
from pyro_vae.sites import Batch

METRICS = ("loss", "elbo", "reconstruction", "kl")
"""What is summed over the epoch, per step, after the number of applied steps."""
ALIGNMENT = 16
"""Parameters start at multiples of 64 bytes (float32) in the flat vector, as fast matrix products want."""


class Layout:
    """Where each parameter lies in the flat vector."""

    def __init__(self, parameters: list[Tensor]) -> None:
        """Lay out parameters in order."""
        self.shapes = [parameter.shape for parameter in parameters]
        self.sizes = [parameter.numel() for parameter in parameters]
        self.padded = [-(-size // ALIGNMENT) * ALIGNMENT for size in self.sizes]

    def flatten(self, tensors: list[Tensor]) -> Tensor:
        """Pack tensors of the parameters' shapes into a vector; the padding is zero."""
        pieces = []
        for tensor, size, padded in zip(tensors, self.sizes, self.padded, strict=True):
            pieces.append(tensor.reshape(-1))
            if padded > size:
                pieces.append(tensor.new_zeros(padded - size))
        return torch.cat(pieces)

    def unflatten(self, flat: Tensor) -> list[Tensor]:
        """Views of the vector in the parameters' shapes."""
        pieces = flat.split(self.padded)
        return [piece[:size].view(shape) for piece, size, shape in zip(pieces, self.sizes, self.shapes, strict=True)]


@dataclass
class State:
    """What a step changes, in place."""

    parameters: Tensor
    """theta, flat."""
    first_moment: Tensor
    """m, flat."""
    second_moment: Tensor
    """v, flat."""
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

    def scalars(self) -> dict[str, Tensor]:
        """The tensors of the optimiser and the bookkeeping by name, for a checkpoint."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("parameters", "buffers")}


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


type Prepare = Callable[[Batch], Batch]
type Step = Callable[[State, Plan, Resident], None]


def learning_rate_factors(objective: nn.Module, rates: dict[str, float], layout: Layout) -> Tensor | None:
    """Factors of the learning rate, flat, by the prefix of the parameters' names; None where there are none."""
    if not rates:
        return None
    found = []
    for name, parameter in objective.named_parameters():
        factor = next((value for prefix, value in rates.items() if name.startswith(prefix)), 1.0)
        found.append(torch.full_like(parameter, factor))
    return layout.flatten(found).detach()


def new_state(objective: nn.Module, layout: Layout, num_flags: int) -> State:
    """The state before the first step; the module's parameters become views of the flat vector."""
    parameters = list(objective.parameters())
    flat = layout.flatten([parameter.detach() for parameter in parameters])
    for parameter, view in zip(parameters, layout.unflatten(flat), strict=True):
        parameter.data = view
    device = flat.device
    fault = torch.zeros(1 + num_flags, dtype=torch.int64, device=device)
    fault[0] = -1
    state = State(
        flat,
        torch.zeros_like(flat),
        torch.zeros_like(flat),
        list(objective.buffers()),
        torch.zeros((), dtype=torch.int64, device=device),
        torch.zeros(1, dtype=torch.int64, device=device),
        torch.zeros(1 + len(METRICS), dtype=torch.float64, device=device),
        fault,
    )
    if device.type == "cuda":  # a CUDA graph may only change tensors that stay where they are
        for tensor in (state.parameters, *state.buffers, *state.scalars().values()):
            torch._dynamo.mark_static_address(tensor)
    return state


def fetch(data: Resident, indices: Tensor, prepare: Prepare) -> Batch:
    """Gather a batch as stored, and make it what is modelled: scaled, binarised or dequantised."""

    def take(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.index_select(0, indices)

    return prepare(Batch(data.x.index_select(0, indices), take(data.y), take(data.mask), take(data.given)))


def make_step(
    program: Program,
    layout: Layout,
    prepare: Prepare,
    adam: Optimizer,
    clip_norm: float | None,
    factors: Tensor | None = None,
) -> Step:
    """Build the step around a program.

    Args:
        program: eager or recorded, `(parameters, buffers, batch, weights) -> Outcome`.
        layout: of the flat vector.
        prepare: a batch as stored -> as modelled.
        adam: settings of the update.
        clip_norm: largest norm of the gradient, or None.
        factors: of the learning rate, flat like the parameters; None where it is the same for all.

    Returns:
        The step; run it under `torch.no_grad()`.
    """

    def step(state: State, plan: Plan, data: Resident) -> None:
        at = state.position
        batch = fetch(data, plan.order.index_select(0, at)[0], prepare)
        weights = {name: value.index_select(0, at)[0] for name, value in plan.weights.items()}
        parameters = layout.unflatten(state.parameters)
        loss, terms, gradients, buffers = program(parameters, state.buffers, batch, weights)
        gradient = layout.flatten(gradients)
        norm = gradient.square().sum().sqrt()
        if clip_norm is not None:
            gradient = gradient * (clip_norm / (norm + 1e-6)).clamp(max=1.0)
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        rate = plan.learning_rates.index_select(0, at)[0]
        update(state, gradient, rate, adam, finite, factors)
        for old, new in zip(state.buffers, buffers, strict=True):
            old.copy_(torch.where(finite, new, old))
        _record(state, loss, terms, norm, finite)

    return step


def update(
    state: State, gradient: Tensor, rate: Tensor, adam: Optimizer, finite: Tensor, factors: Tensor | None = None
) -> None:
    """Apply one step of Adam or AdamW if `finite`."""
    theta, (b1, b2) = state.parameters, adam.betas
    if adam.weight_decay and adam.kind == "adam":
        gradient = gradient + adam.weight_decay * theta
    t = (state.updates + 1).to(torch.float64)
    m = b1 * state.first_moment + (1 - b1) * gradient
    v = b2 * state.second_moment + (1 - b2) * gradient.square()
    # Stacked, because a compiler would otherwise compute these powers anew for every parameter.
    size, root = torch.stack([(rate / (1 - b1**t)).to(theta.dtype), (1 - b2**t).sqrt().to(theta.dtype)]).unbind()
    step = size * m / (v.sqrt() / root + adam.eps)
    decay = (rate * adam.weight_decay).to(theta.dtype) * theta if adam.kind == "adamw" and adam.weight_decay else None
    if decay is not None:
        step = step + decay
    theta = theta - (step if factors is None else factors * step)
    # `where` and not a branch: the host does not wait for the answer.
    state.parameters.copy_(torch.where(finite, theta, state.parameters))
    state.first_moment.copy_(torch.where(finite, m, state.first_moment))
    state.second_moment.copy_(torch.where(finite, v, state.second_moment))
    state.updates.add_(finite)


def flags(terms: Terms) -> list[str]:
    """Names of what is watched, in the order of the flags in `State.fault`."""
    return [*(f"log p at {name}" for name in terms.log_p), *(f"log q at {name}" for name in terms.log_q), "gradient"]


def _record(state: State, loss: Tensor, terms: Terms, norm: Tensor, finite: Tensor) -> None:
    """Add to the sums of the epoch, latch the first fault, move on."""
    values = torch.stack([loss, *(getattr(terms, name).mean() for name in METRICS[1:])]).to(torch.float64)
    row = torch.cat([values.new_ones(1), values])
    state.totals.add_(torch.where(finite, row, torch.zeros_like(row)))
    sites = [site.sum() for site in (*terms.log_p.values(), *terms.log_q.values())]
    bad = torch.stack([~torch.isfinite(value) for value in (*sites, norm)]).to(torch.int64)
    latch = ~finite & (state.fault[0] < 0)
    state.fault.copy_(torch.where(latch, torch.cat([state.position, bad]), state.fault))
    state.position.add_(1)
