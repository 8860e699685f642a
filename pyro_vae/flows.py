"""Normalising flows, for priors and guides: z = f(eps; c), eps from a simple base, f invertible.

    log p(z | c) = log p_base(f^-1(z; c)) - log |det df/deps|

Each layer gives z_i = g(eps_i; theta_i), g increasing and theta_i the output of a masked network of other
entries and of the context c. One direction of a layer is one pass through its network. In the other one the entries
become known in turn, two halves in a coupling, one by one where it is autoregressive; there, too, every unit of the
network is computed once, as soon as what it sees is known. Both are exact.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from pyro_vae.networks import ACTIVATIONS
from pyro_vae.specs import DeclarationError

BINS = 8
"""Bins of a spline; outside of [-5, 5] it is the identity."""
START = 0.01
"""Factor of the parameters behind each layer's theta, so that a flow starts close to the identity."""


class Flow(nn.Module):
    """f(. ; c), a chain of `layers` of one kind; the order of the entries is reversed from one to the next.

        coupling         g(e) = exp(a) e + b for both halves; the second half's a, b also depend on the first
        spline           the same with g a monotonic rational-quadratic spline
        autoregressive   g(e) = exp(a) e + b, where a_i, b_i depend on all entries before the i-th

    |a| < log 1000. With a single entry every layer is g alone, a function of the context.

    References:
        Density estimation using Real NVP (Dinh, Sohl-Dickstein & Bengio, 2017).
        Masked Autoregressive Flow for Density Estimation (Papamakarios, Pavlakou & Murray, 2017).
        Neural Spline Flows (Durkan, Bekasov, Murray & Papamakarios, 2019).
    """

    def __init__(
        self,
        dim: int,
        context: int,
        kind: Literal["coupling", "spline", "autoregressive"],
        layers: int,
        widths: tuple[int, ...],
        activation: str,
        one_pass: Literal["draw", "score"],
    ) -> None:
        """Build the layers.

        Args:
            dim: number of entries D.
            context: number of entries of c, 0 for none.
            kind: of the layers.
            layers: how many.
            widths: hidden layers of the network in each.
            activation: nonlinearity of those.
            one_pass: the direction that takes one pass through each network: drawing z, or scoring a given z.

        Raises:
            DeclarationError: a network is too narrow for every entry to reach the later ones.
        """
        super().__init__()
        if kind == "autoregressive" and widths and min(widths) < dim:
            raise DeclarationError(
                [f"widths={list(widths)}: an autoregressive flow of {dim} dimensions needs each at least {dim} wide."]
            )
        self.one_pass = one_pass
        self.layers = nn.ModuleList()
        for i in range(layers):
            order = torch.arange(dim) if i % 2 == 0 else torch.arange(dim).flip(0)
            self.layers.append(_layer(dim, context, kind, order, widths, activation))

    def forward(self, base: Any, context: Tensor | None) -> "Flowed":
        """The distribution of f(eps; c), eps ~ base with event (D,), c (..., context)."""
        batch = base.batch_shape if context is None else torch.broadcast_shapes(base.batch_shape, context.shape[:-1])
        transform = _composed([_at(layer, context) for layer in self.layers])
        return Flowed(base.expand(batch), transform if self.one_pass == "draw" else transform.inv)


class Masked(nn.Module):
    """theta(x, c), where theta_i sees all of c, and of x the entries in groups before the i-th entry's own.

    What c adds to the first layer is computed for c alone, and not again for every x that goes with it. theta has the
    dtype of x, whatever precision the network ran in.
    """

    def __init__(self, network: nn.Sequential, order: Tensor) -> None:
        """Sort the entries, and the units of each hidden layer, by the group with which they can be computed.

        Args:
            network: zuko's masked linear layers, with activations between them.
            order: group of each entry of x (D,), from 0.
        """
        super().__init__()
        self.network, self.groups = network, int(order.max()) + 1
        layers: list[Any] = list(network)[::2]  # zuko's Sequential takes no slices
        self.total = len(layers[-1].bias) // len(order)
        self.register_buffer("units_0", order.argsort(stable=True), persistent=False)
        self.sizes = [order.bincount(minlength=self.groups).tolist()]
        known = order + 1
        for i, layer in enumerate(layers[:-1], 1):
            known = (layer.mask[:, : len(known)] * known).amax(-1)  # with the last of what a unit sees
            self.register_buffer(f"units_{i}", known.argsort(stable=True), persistent=False)
            self.sizes.append(known.bincount(minlength=self.groups).tolist())

    def first(self, c: Tensor | None) -> Tensor:
        """What c (..., C) and the bias add to the first layer (..., units)."""
        layer: Any = self.network[0]
        weight = (layer.mask * layer.weight)[:, len(self.get_buffer("units_0")) :]
        return layer.bias if c is None else nn.functional.linear(c, weight, layer.bias)

    def forward(self, x: Tensor, first: Tensor) -> Tensor:
        """theta (..., D, total) of x (..., D)."""
        layer: Any = self.network[0]
        h = nn.functional.linear(x, (layer.mask * layer.weight)[:, : x.shape[-1]]) + first
        for module in list(self.network)[1:]:
            h = module(h)
        return h.to(x.dtype).unflatten(-1, (-1, self.total))

    def solve(self, y: Tensor, first: Tensor, inverse: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The x (..., D) whose entries are inverse(theta_i(x, c), y_i), a group of them at a time.

        Args:
            y: (..., D).
            first: of c.
            inverse: theta (..., n, total) and y (..., n) of some entries -> x (..., n).
        """
        batch, layers = torch.broadcast_shapes(y.shape[:-1], first.shape[:-1]), self._sorted(first)
        entries, starts = self.get_buffer("units_0"), [0] * len(layers)
        y = y.expand(*batch, y.shape[-1])[..., entries]
        values = [y[..., :0]] * len(layers)  # so far: entries of x, units of each hidden layer
        for group in range(self.groups):
            for i, (weight, bias) in enumerate(layers):
                last = i == len(layers) - 1
                end = starts[i] + (self.sizes[0][group] * self.total if last else self.sizes[i + 1][group])
                h = nn.functional.linear(values[i], weight[starts[i] : end, : values[i].shape[-1]])
                h, starts[i] = h + bias[..., starts[i] : end], end
                if not last:
                    values[i + 1] = torch.cat([values[i + 1], self.network[1](h)], -1)
            done = values[0].shape[-1]
            theta = h.to(y.dtype).unflatten(-1, (-1, self.total))
            values[0] = torch.cat([values[0], inverse(theta, y[..., done : done + theta.shape[-2]])], -1)
        return values[0][..., entries.argsort()]

    def _sorted(self, first: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weights and biases, rows and columns in the order of the units; the bias of the first layer has c in it."""
        layers: list[Any] = list(self.network)[::2]
        units = [self.get_buffer(f"units_{i}") for i in range(len(layers))]
        rows = units[0][:, None] * self.total + torch.arange(self.total, device=first.device)
        found = []
        for i, (layer, row) in enumerate(zip(layers, [*units[1:], rows.flatten()], strict=True)):
            found.append(((layer.mask * layer.weight)[row][:, units[i]], (layer.bias if i else first)[..., row]))
        return found


class Autoregressive(Transform):
    """x -> g(x; theta(x, c)), g entry by entry."""

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, layer: Any, c: Tensor | None) -> None:
        """Fix the context.

        Args:
            layer: zuko's, with a `Masked` network.
            c: context (..., C), or None.
        """
        super().__init__()
        self.layer, self.first = layer, layer.hyper.first(c)

    def _g(self, theta: Tensor) -> Any:
        sizes = [math.prod(shape) for shape in self.layer.shapes]
        parts = zip(theta.split(sizes, -1), self.layer.shapes, strict=True)
        return self.layer.univariate(*(part if shape else part.squeeze(-1) for part, shape in parts))

    def _call(self, x: Tensor) -> Tensor:
        return self._g(self.layer.hyper(x, self.first))(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.layer.hyper.solve(y, self.first, lambda theta, some: self._g(theta).inv(some))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """log |det dy/dx| (...)."""
        return self._g(self.layer.hyper(x, self.first)).log_abs_det_jacobian(x, y).sum(-1)

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both, from one pass."""
        y, log_det = self._g(self.layer.hyper(x, self.first)).call_and_ladj(x)
        return y, log_det.sum(-1)


class InFullPrecision(nn.Module):
    """A network whose output has the dtype of its input, whatever precision it ran in."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """network(x)."""
        return self.network(x).to(x.dtype)


def _at(layer: Any, c: Tensor | None) -> Any:
    """The transform of a layer at a context; a single entry has no network of its own to be autoregressive in."""
    return Autoregressive(layer, c) if hasattr(layer, "passes") else layer(c)


def _layer(dim: int, context: int, kind: str, order: Tensor, widths: tuple[int, ...], activation: str) -> nn.Module:
    """One conditional transformation: zuko's, with autoregressive masks, or with those of two halves."""
    zuko = _zuko()
    univariate: dict[str, Any] = {}
    if kind == "spline":
        univariate = {
            "univariate": partial(zuko.transforms.MonotonicRQSTransform),
            "shapes": [(BINS,), (BINS,), (BINS - 1,)],
        }
    layer = zuko.flows.MaskedAutoregressiveTransform(
        dim,
        context,
        passes=dim if kind == "autoregressive" else 2,
        order=order,
        hidden_features=widths,
        activation=ACTIVATIONS[activation],
        **univariate,
    )
    # A single entry that depends on nothing has no network.
    last = layer.hyper[-1].parameters() if hasattr(layer, "hyper") else layer.phi
    with torch.no_grad():
        for parameter in last:
            parameter.mul_(START)
    if hasattr(layer, "passes"):
        layer.hyper = Masked(layer.hyper, layer.order)
    elif hasattr(layer, "hyper"):
        layer.hyper = InFullPrecision(layer.hyper)
    return layer


def _composed(transforms: list[Transform]) -> Transform:
    return _zuko().transforms.ComposedTransform(*transforms)


def _zuko() -> Any:
    """The module zuko; importing it, which is slow, would switch off every distribution's argument checks."""
    checks = torch.distributions.Distribution._validate_args
    import zuko

    torch.distributions.Distribution.set_default_validate_args(checks)
    return zuko


class Flowed(dist.TorchDistribution):
    """The distribution of f(eps), eps ~ base.

    The last draw is remembered with its eps, so that scoring it (the very tensor, not a clone) inverts nothing.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, base: Any, transform: Any) -> None:
        """Keep the base, event (D,), and f as a transform with `call_and_ladj`."""
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)
        self.base, self.transform = base, transform
        self._drawn: tuple[Tensor, Tensor, Tensor, bool] | None = None

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Flowed":
        """The same over a larger batch."""
        return Flowed(self.base.expand(batch_shape), self.transform)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - as in torch
        """Draw z = f(eps), differentiable."""
        eps = self.base.rsample(sample_shape)
        z, log_det = self.transform.call_and_ladj(eps)
        self._drawn = z, eps, log_det, torch.is_grad_enabled()
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """log p_base(eps) - log |det df/deps| at eps = f^-1(value)."""
        if self._drawn is not None and value is self._drawn[0] and self._drawn[3] >= torch.is_grad_enabled():
            _, eps, log_det, _ = self._drawn
            return self.base.log_prob(eps) - log_det
        # A value that classes share is broadcast first: the transform only takes one of the full batch shape.
        value = value.expand(*torch.broadcast_shapes(value.shape[:-1], self.batch_shape), value.shape[-1])
        eps, log_det = self.transform.inv.call_and_ladj(value)
        return self.base.log_prob(eps) + log_det
