"""A decoder as a list of operations that a page runs by itself.

E[x | z, y, given] of one datum is recorded, what does not depend on these three is computed, and each operation that is
left is translated to one on flat arrays; `program.js` runs them. Weights are float32.

    name, out, size, [in, ...], number, ...        array `out` of that size is what `name` makes of other arrays

Whatever only moves entries (slices, permutations, expansions, repeated pixels) becomes one operation `take` with the
places where they come from, and nothing at all where they stay as they are.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions
from torch.fx import Node

from pyro_vae.capture import record, simplify
from pyro_vae.report.arrays import Packer
from pyro_vae.vae import VAE

MOST_NUMBERS = 2_000_000
"""Weights that a page may hold."""
MOST_PRODUCTS = 200_000_000
"""Multiplications for one image: above, dragging would not be fluid."""
MOST_OPERATIONS = 4000


class UntranslatableError(Exception):
    """A decoder has an operation that pages do not know, or is too large for one."""


class Value(NamedTuple):
    """An array of the program."""

    slot: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


def translate(vae: VAE, packer: Packer) -> dict[str, Any]:
    """Translate E[x | z_1, y, given] of a datum; its constants go to the packer.

    Raises:
        UntranslatableError: a page cannot run it.
    """
    some = next(vae.likelihood.parameters())
    widths = {"z": next(iter(vae.variant.layers.values())), "y": vae.shape.y, "given": vae.shape.given}
    names = [name for name, width in widths.items() if width]
    example = [torch.full((1, widths[name]), 0.5, device=some.device, dtype=some.dtype) for name in names]

    def mean(*inputs: Tensor) -> Tensor:
        return vae.decoded(**dict(zip(names, inputs, strict=True))).mean

    try:
        with torch.no_grad():
            recorded = simplify(record(mean, *example, decompositions=dict(core_aten_decompositions().items())))
    except Exception as error:  # whatever a likelihood that was registered from outside does: the page has a grid then
        raise UntranslatableError(f"its mean cannot be recorded: {error}") from error
    translation = Translation(packer)
    for node in recorded.graph.nodes:
        if node.op == "placeholder":
            translation.input(node, names[len(translation.inputs)])
        elif node.op == "get_attr":
            translation.constants[node] = getattr(recorded, node.target)
        elif node.op == "call_function":
            translation.call(node)
        elif node.op == "output":
            return translation.finished(node.args[0])
    raise UntranslatableError("it returns nothing")


class Translation:
    """The arrays and operations so far."""

    def __init__(self, packer: Packer) -> None:
        self.packer = packer
        self.inputs: dict[str, int] = {}
        self.constants: dict[Node, Tensor] = {}
        self.values: dict[Node, Any] = {}
        """Node -> `Value`, or several where it returns several."""
        self.held: dict[int, int] = {}
        """Array of the packer -> array of the program."""
        self.operations: list[list[Any]] = []
        self.slots, self.products = 0, 0

    def input(self, node: Node, name: str) -> None:
        """z, y or given."""
        self.inputs[name] = self.slots
        self.values[node] = self._new(tuple(node.meta["val"].shape))

    def call(self, node: Node) -> None:
        """Translate an operation."""
        name = getattr(node.target, "_opname", getattr(node.target, "__name__", ""))
        try:
            self._call(node, name)
        except KeyError as error:  # of `constants`
            raise UntranslatableError(f"pages know {node.target} of constants alone") from error

    def _call(self, node: Node, name: str) -> None:
        if name == "getitem":
            self.values[node] = self.values[node.args[0]][node.args[1]]  # type: ignore[index]
        elif name in MOVES:
            self.values[node] = self._moved(node)
        elif name in ENTRYWISE:
            self.values[node] = self._entrywise(node, name)
        elif name in KNOWN:
            self.values[node] = KNOWN[name](self, *node.args, **node.kwargs)
        else:
            raise UntranslatableError(f"pages do not know {node.target}")

    def finished(self, node: Any) -> dict[str, Any]:
        """The program."""
        out = self.value(node)
        if self.packer.size > MOST_NUMBERS or self.products > MOST_PRODUCTS or len(self.operations) > MOST_OPERATIONS:
            raise UntranslatableError(
                f"it is too large for a page: {self.packer.size:,} numbers, {self.products:,} multiplications"
            )
        return {
            "inputs": self.inputs,
            "constants": [[slot, number] for number, slot in self.held.items()],
            "operations": self.operations,
            "output": out.slot,
            "size": out.size,
        }

    def value(self, node: Any) -> Value:
        """The array of an argument: computed, a constant, or a number."""
        if isinstance(node, Node) and node in self.values:
            return self.values[node]
        tensor = self.constants[node] if isinstance(node, Node) else torch.tensor(float(node))
        return self.constant(tensor.detach().cpu().numpy().astype(np.float32))

    def constant(self, array: np.ndarray) -> Value:
        """A constant: float32, or int32 for places."""
        number = self.packer.add(array)
        if number not in self.held:
            self.held[number] = self._new(()).slot
        return Value(self.held[number], array.shape)

    def emit(self, name: str, shape: Sequence[int], inputs: Sequence[Value], *parameters: float) -> Value:
        """Add an operation."""
        out = self._new(tuple(shape))
        self.operations.append([name, out.slot, out.size, [value.slot for value in inputs], *parameters])
        return out

    def take(self, value: Value, places: Tensor) -> Value:
        """Entries of a value by their place in it."""
        if places.numel() == value.size and torch.equal(places.flatten(), torch.arange(value.size)):
            return Value(value.slot, tuple(places.shape))
        return self.emit("take", places.shape, [value, self.constant(places.numpy().astype(np.int32))])

    def like(self, value: Value, shape: Sequence[int]) -> Value:
        """A value as broadcast to a shape; a single number stays one."""
        places = torch.arange(value.size).reshape(value.shape)
        return value if value.size == 1 else self.take(value, places.expand(*shape))

    def permuted(self, value: Value, dims: Sequence[int]) -> Value:
        """A value with its dimensions in that order."""
        return self.take(value, torch.arange(value.size).reshape(value.shape).permute(*dims))

    def _new(self, shape: tuple[int, ...]) -> Value:
        self.slots += 1
        return Value(self.slots - 1, shape)

    def _moved(self, node: Node) -> Any:
        """What an operation that only moves entries does to their places."""
        value = self.value(node.args[0])
        places = torch.arange(value.size).reshape(value.shape)
        rest = torch.fx.node.map_arg(node.args[1:], lambda n: self.constants[n].cpu())
        moved = node.target(places, *rest)  # type: ignore[operator]
        return self.take(value, moved) if isinstance(moved, Tensor) else [self.take(value, part) for part in moved]

    def _entrywise(self, node: Node, name: str) -> Value:
        """An operation on each entry, its arguments broadcast."""
        word, defaults = ENTRYWISE[name]
        numbers = [*node.args, *defaults[len(node.args) - 1 :]]
        if name == "clamp":
            low, high = (*node.args, None, None)[1:3]
            numbers = [node.args[0], -math.inf if low is None else low, math.inf if high is None else high]
        if node.kwargs.get("alpha", 1) != 1 or node.kwargs.get("approximate", "none") != "none":
            raise UntranslatableError(f"pages do not know {node.target} with {node.kwargs}")
        shape = tuple(node.meta["val"].shape)
        return self.emit(word, shape, [self.like(self.value(number), shape) for number in numbers])


def _linear(t: Translation, x: Any, weight: Any, bias: Any = None) -> Value:
    """x W + b; W is a constant (inputs, outputs)."""
    w, given = t.constants.get(weight), t.value(x)
    if w is None or w.dim() != 2:
        raise UntranslatableError("pages do not know products of two computed matrices")
    rows, (inputs, outputs) = given.size // w.shape[0], w.shape
    t.products += rows * inputs * outputs
    operands = [given, t.constant(_array(w.T))] + ([] if bias is None else [t.value(bias)])
    if bias is not None and operands[-1].size != outputs:
        raise UntranslatableError("pages do not know a bias that differs from row to row")
    return t.emit("linear", (rows, outputs), operands, rows, inputs, outputs)


def _addmm(t: Translation, bias: Any, x: Any, weight: Any, beta: float = 1, alpha: float = 1) -> Value:
    if (beta, alpha) != (1, 1):
        raise UntranslatableError("pages know no scaled products")
    return _linear(t, x, weight, bias)


def _convolution(
    t: Translation, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int,
) -> Value:  # fmt: skip
    given, w = t.value(x), t.constants.get(weight)
    if w is None or w.dim() != 4 or groups != 1 or set(dilation) != {1}:
        raise UntranslatableError("pages know no convolution with groups or dilation")
    (_, _, rows, columns), (kernel, width) = given.shape, w.shape[2:]
    maps, source = (w.shape[1], w.shape[0]) if transposed else (w.shape[0], w.shape[1])
    sizes = zip((rows, columns), (kernel, width), stride, padding, output_padding, strict=True)
    if transposed:
        out = [(n - 1) * s - 2 * p + k + more for n, k, s, p, more in sizes]
    else:
        out = [(n + 2 * p - k) // s + 1 for n, k, s, p, _ in sizes]
    t.products += maps * source * kernel * width * (rows * columns if transposed else math.prod(out))
    weights = w if not transposed else w.transpose(0, 1)  # (maps out, maps in, rows, columns) in either case
    operands = [given, t.constant(_array(weights))] + ([] if bias is None else [t.value(bias)])
    numbers = (source, rows, columns, maps, *out, kernel, width, *stride, *padding)
    return t.emit("up" if transposed else "down", (1, maps, *out), operands, *numbers)


def _batch_norm(
    t: Translation, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> list[Value]:  # fmt: skip
    """In evaluation: (x - mean) / sd * weight + bias, a constant scale and shift for each map."""
    given = t.value(x)
    loc, scale = t.constants[mean], (t.constants[variance] + eps).rsqrt()
    scale = scale if weight is None else scale * t.constants[weight]
    shift = -loc * scale if bias is None else t.constants[bias] - loc * scale
    inner = math.prod(given.shape[2:])
    constants = [t.constant(_array(scale)), t.constant(_array(shift))]
    return [t.emit("scale", given.shape, [given, *constants], inner)]


def _layer_norm(t: Translation, x: Any, shape: Sequence[int], weight: Any, bias: Any, eps: float) -> list[Value]:
    given, inner = t.value(x), math.prod(shape)
    return [_scaled(t, t.emit("norm", given.shape, [given], given.size // inner, eps), weight, bias, 1)]


def _group_norm(
    t: Translation, x: Any, weight: Any, bias: Any, num: int, maps: int, entries: int, groups: int, eps: float
) -> list[Value]:
    given = t.value(x)
    return [_scaled(t, t.emit("norm", given.shape, [given], num * groups, eps), weight, bias, entries)]


def _scaled(t: Translation, value: Value, weight: Any, bias: Any, inner: int) -> Value:
    """weight x + bias, if there are any; each of them for `inner` entries in a row."""
    if weight is None:
        return value
    shift = t.constants[weight] * 0 if bias is None else t.constants[bias]
    constants = [t.constant(_array(t.constants[weight])), t.constant(_array(shift))]
    return t.emit("scale", value.shape, [value, *constants], inner)


def _reduced(word: str) -> Callable[..., Value]:
    """An operation that takes dimensions together: they come last, and then each run of entries becomes one."""

    def reduce(t: Translation, x: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
        given = t.value(x)
        dims = range(len(given.shape)) if dim in (None, []) else [dim] if isinstance(dim, int) else dim
        dims = [d % len(given.shape) for d in dims]
        rest = [d for d in range(len(given.shape)) if d not in dims]
        last = t.permuted(given, [*rest, *dims])
        shape = [1 if d in dims else n for d, n in enumerate(given.shape) if keepdim or d not in dims]
        return t.emit(word, shape, [last], math.prod(given.shape[d] for d in dims))

    return reduce


def _softmax(t: Translation, x: Any, dim: int, half: bool = False) -> Value:
    given = t.value(x)
    order = [d for d in range(len(given.shape)) if d != dim % len(given.shape)] + [dim % len(given.shape)]
    last = t.permuted(given, order)
    found = t.emit("softmax", last.shape, [last], given.shape[dim])
    return t.permuted(found, [order.index(d) for d in range(len(order))])


def _cat(t: Translation, parts: Sequence[Any], dim: int = 0) -> Value:
    values = [t.value(part) for part in parts]
    starts = np.cumsum([0, *(value.size for value in values)])
    places = [
        torch.arange(value.size).reshape(value.shape) + int(start) for value, start in zip(values, starts, strict=False)
    ]
    side_by_side = t.emit("cat", (int(starts[-1]),), values)
    return t.take(side_by_side, torch.cat(places, dim))


def _index_put(t: Translation, x: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Value:
    """Only where nothing is put: a mean that is undefined nowhere."""
    if len(indices) == 1 and t.constants[indices[0]].dtype == torch.bool and not bool(t.constants[indices[0]].any()):
        return t.value(x)
    raise UntranslatableError("pages know no assignment to entries")


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(np.float32)


MOVES = {
    "view", "reshape", "_unsafe_view", "squeeze", "unsqueeze", "permute", "transpose", "t", "expand", "slice", "select",
    "index", "flip", "clone", "alias", "detach", "split", "split_with_sizes", "unbind", "repeat",
}  # fmt: skip
ENTRYWISE: dict[str, tuple[str, tuple[float, ...]]] = {
    name: (name, ())
    for name in (
        "add", "sub", "mul", "div", "pow", "maximum", "minimum", "where", "gt", "lt", "ge", "le", "eq", "ne", "relu",
        "sigmoid", "tanh", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "abs", "neg", "reciprocal", "gelu", "erf",
        "logical_and", "logical_or", "logical_not", "clamp", "sin", "cos",
    )
} | {"leaky_relu": ("leaky_relu", (0.01,)), "elu": ("elu", (1.0, 1.0, 1.0)), "_to_copy": ("copy", ())}  # fmt: skip
"""Operation -> its word, and what its further arguments are by default."""
KNOWN: dict[str, Callable[..., Any]] = {
    "mm": _linear,
    "addmm": _addmm,
    "convolution": _convolution,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": lambda t, x, w, b, m, v, momentum, eps: _batch_norm(
        t, x, w, b, m, v, eps=eps
    ),
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "sum": _reduced("sum"),
    "mean": _reduced("mean"),
    "amax": _reduced("amax"),
    "_softmax": _softmax,
    "cat": _cat,
    "index_put_": _index_put,
    "index_put": _index_put,
}
