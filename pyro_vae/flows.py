"""Normalising flows, for priors and guides: z = f(eps; c), eps from a simple base, f invertible.

    log p(z | c) = log p_base(f^-1(z; c)) - log |det df/deps|

Each layer gives z_i = g(eps_i; theta_i), g increasing and theta_i the output of a masked network of other
entries and of the context c. One direction of a layer costs one pass through its network, the other as many
as its entries depend on each other in turn: 2 in a coupling, D where it is autoregressive. Both are exact.
"""

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
        transform = _composed([layer(context) for layer in self.layers])
        return Flowed(base.expand(batch), transform if self.one_pass == "draw" else transform.inv)


class InFullPrecision(nn.Module):
    """A network whose output has the dtype of its input, whatever precision it ran in."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """network(x)."""
        return self.network(x).to(x.dtype)


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
    if hasattr(layer, "hyper"):
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
