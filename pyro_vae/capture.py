"""From a Pyro program to a recorded function.

Pyro's effect handlers cost more than a small VAE's arithmetic, and need to run only once:

    program(parameters, buffers, batch, weights) -> (loss, terms, gradients, buffers)

is pure: nothing hidden is read or written but the random state. The gradient is taken *inside* by
`torch.autograd.grad`; recorded outside of it, the gradients of hooks, custom functions and inner gradients
would be silently wrong. `make_fx` runs it once and keeps its tensor operations.

What a recording bakes in: Python numbers (those that change enter as tensors), shapes, and the mode
(training or evaluation) of the modules.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor, nn
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.sites import Batch


class Outcome(NamedTuple):
    """What a program returns; the tensors carry no graph."""

    loss: Tensor
    terms: Any
    gradients: list[Tensor]
    buffers: list[Tensor]


type Program = Callable[[list[Tensor], list[Tensor], Batch, dict[str, Tensor]], Outcome]


def value_and_gradient(objective: nn.Module, autocast: torch.dtype | None = None) -> Program:
    """The eager program: loss, terms and gradients of an objective as a pure function.

    Args:
        objective: module whose forward(batch, weights) returns (loss, terms).
        autocast: lower precision in which matrix products may run.
    """
    names = [name for name, _ in objective.named_parameters()]
    buffer_names = [name for name, _ in objective.named_buffers()]

    def program(parameters: list[Tensor], buffers: list[Tensor], batch: Batch, weights: dict[str, Tensor]) -> Outcome:
        leaves = [parameter.detach().requires_grad_() for parameter in parameters]
        fresh = [buffer.clone() for buffer in buffers]  # modules update their buffers in place
        swapped = dict(zip(names, leaves, strict=True)) | dict(zip(buffer_names, fresh, strict=True))
        device = leaves[0].device.type
        precision = torch.autocast(device, autocast) if autocast else contextlib.nullcontext()
        with torch.enable_grad():
            with precision:
                loss, terms = functional_call(objective, swapped, (batch, weights))
            gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        terms = torch.utils._pytree.tree_map_only(Tensor, Tensor.detach, terms)
        filled = [
            torch.zeros_like(leaf) if gradient is None else gradient
            for leaf, gradient in zip(leaves, gradients, strict=True)
        ]
        return Outcome(loss.detach(), terms, filled, fresh)

    return program


def capture(
    objective: nn.Module, batch: Batch, weights: dict[str, Tensor], autocast: torch.dtype | None = None
) -> GraphModule:
    """Record the program of an objective on an example batch; the random state is as before afterwards.

    The recording replays for other batches of the same shapes, for other parameters, buffers, weights and
    random states. It must run under `torch.no_grad()`, or its outputs would carry a second graph.
    """
    parameters = [parameter.detach() for parameter in objective.parameters()]
    buffers = list(objective.buffers())
    return record(value_and_gradient(objective, autocast), parameters, buffers, batch, weights)


def record(
    function: Callable[..., Any],
    *example: Any,
    decompositions: Mapping[torch._ops.OpOverload, Callable[..., Any]] | None = None,
) -> GraphModule:
    """Record a pure function of tensors on an example; the random state is as before afterwards.

    Args:
        function: what it reads beside its arguments, like the parameters of a module, is baked in.
        example: arguments of the shapes that it will have, as tensors or containers of tensors.
        decompositions: operations that are recorded as several simpler ones, and how.
    """
    device = next(value.device for value in torch.utils._pytree.tree_leaves(example) if isinstance(value, Tensor))
    # A context with one fake mode, or the shape of every single result would be noted by one of its own: half the time.
    noting = tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True)))
    with unvalidated(), same_random_state(device), noting:
        recorded = make_fx(function, decomposition_table=decompositions)(*example)
    return _any_layout(recorded)


def simplify(recorded: GraphModule) -> GraphModule:
    """Take out of a recording what nothing needs, and compute once what does not depend on its arguments.

    What parameters were when it was recorded is baked in, and so are the results of operations on them alone; random
    numbers stay random. A recording that runs as it is, uncompiled, takes half the time.
    """
    graph = recorded.graph
    graph.eliminate_dead_code()
    constants: dict[Node, Any] = {}
    for node in list(graph.nodes):
        known = [constants.get(argument) for argument in node.all_input_nodes]
        if node.op == "get_attr":
            constants[node] = getattr(recorded, node.target)
        elif node.op == "call_function" and not _random(node) and (node.target in SHAPED or None not in known):
            arguments, keywords = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: _known(n, constants))
            with torch.no_grad():
                constants[node] = node.target(*arguments, **keywords)
        elif node.op == "call_function" and _changes_nothing(node):
            node.replace_all_uses_with(node.args[0])
    for i, (node, value) in enumerate(constants.items()):
        if node.op != "get_attr" and isinstance(value, Tensor):
            recorded.register_buffer(name := f"_folded_{i}", value)
            with graph.inserting_before(node):
                node.replace_all_uses_with(graph.get_attr(name))
    graph.eliminate_dead_code()
    recorded.recompile()
    return recorded


SHAPED = {getattr(torch.ops.aten, name).default for name in ("ones_like", "zeros_like", "full_like")}
"""Operations that look at the shape of their argument alone."""


def _known(node: Node, constants: dict[Node, Any]) -> Any:
    """The value of a node, or something of its shape."""
    if node in constants:
        return constants[node]
    made = node.meta["val"]  # no tensor with values, but one that knows its shape
    return torch.empty(made.shape, dtype=made.dtype, device=made.device)


def _random(node: Node) -> bool:
    """Whether an operation draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


COPIES = {getattr(torch.ops.aten, name).default for name in ("alias", "clone", "detach", "expand", "reshape")}


def _changes_nothing(node: Node) -> bool:
    """Whether an operation returns its argument: in a recording without operations in place a copy is one, too."""
    if node.target not in COPIES or not isinstance(node.args[0], Node):
        return False
    made, given = node.meta.get("val"), node.args[0].meta.get("val")
    return isinstance(made, Tensor) and isinstance(given, Tensor) and made.shape == given.shape


def _any_layout(recorded: GraphModule) -> GraphModule:
    """Let a recording hold for any memory layout.

    A view is recorded for the strides that a tensor happened to have. A compiler may lay out the feature maps of
    a convolution otherwise, where only a reshape, which is a view wherever it can be one, still exists.
    """
    for node in recorded.graph.nodes:
        if node.target in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default):
            node.target = torch.ops.aten.reshape.default
    recorded.recompile()
    return recorded


@contextlib.contextmanager
def unvalidated() -> Iterator[None]:
    """Switch off argument checks of distributions, which read values back to the host; restored at the end."""
    with pyro.validation_enabled(False):
        yield


@contextlib.contextmanager
def same_random_state(device: torch.device) -> Iterator[None]:
    """Leave the random state of the CPU and of `device` as it was."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        yield
