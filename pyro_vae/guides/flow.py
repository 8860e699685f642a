"""Flow guides."""

from typing import ClassVar, Literal

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae.flows import Flow
from pyro_vae.guides.spec import Guide, Raw
from pyro_vae.networks import Activation, Shape, join
from pyro_vae.specs import Count, Seq


class FlowGuide(Guide):
    """q(z | x) of z = f(mu + exp(s / 2) eps; h), eps ~ N(0, I), h the encoder's features.

    A draw and its own density cost one pass through each layer's network. The density of any other z costs two; the
    first of them goes group by group of the entries, two in `coupling` and `spline`, D in `inverse_autoregressive`.

    References:
        Improved Variational Inference with Inverse Autoregressive Flow (Kingma, Salimans, Jozefowicz, Chen,
        Sutskever & Welling, 2016).
        Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015).
        Neural Spline Flows (Durkan, Bekasov, Murray & Papamakarios, 2019).
    """

    kind: Literal["flow"] = "flow"
    factorized: ClassVar[bool] = False
    moments: ClassVar[bool] = False
    transform: Literal["inverse_autoregressive", "coupling", "spline"] = "inverse_autoregressive"
    """Affine, each entry given those before; affine halves given each other; or halves with splines on [-5, 5]."""
    layers: Count = 4
    """Number of layers; the order of the entries is reversed after each."""
    widths: Seq[Count] = (128, 128)
    """Hidden layers of the network in each layer; at least D wide for `inverse_autoregressive`."""
    activation: Activation = "elu"
    """Nonlinearity of those."""

    def head(
        self,
        features: int,
        neighbour_dim: int | None,
        dim: int,
        shape: Shape,
        layer: tuple[int, int] = (1, 1),
    ) -> "FlowHead":
        """Build the base and f."""
        kind: Literal["coupling", "spline", "autoregressive"] = (
            "autoregressive" if self.transform == "inverse_autoregressive" else self.transform
        )
        context = features + (neighbour_dim or 0) + shape.y
        flow = Flow(dim, context, kind, self.layers, self.widths, self.activation, "draw")
        return FlowHead(Raw(features, neighbour_dim, shape, (), self.activation, 2 * dim), flow)


class FlowHead(nn.Module):
    """f(N(mu, diag exp(s)); c) with (mu, s) = r, c = [h, neighbour, y]."""

    def __init__(self, raw: Raw, flow: Flow) -> None:
        super().__init__()
        self.raw, self.flow = raw, flow

    def forward(
        self, h: Tensor, neighbour: Tensor | None, y: Tensor | None, p: dist.Distribution | None, offset: Tensor | None
    ) -> dist.Distribution:
        """q(z_l | ...)."""
        mu, log_variance = self.raw(h, neighbour, y, offset).chunk(2, -1)
        base = dist.Normal(mu, (0.5 * log_variance).exp()).to_event(1)
        return self.flow(base, join(h, neighbour, y))
