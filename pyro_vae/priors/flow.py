"""Flow priors."""

from typing import ClassVar, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.flows import Flow
from pyro_vae.networks import Activation, Shape, join
from pyro_vae.priors.spec import Prior
from pyro_vae.specs import Count, Seq


class FlowPrior(Prior):
    """p(z_l | z_{l+1}, y, given) of z = f(eps; c), eps ~ N(0, I), c what it conditions on.

    The density costs one pass through each layer's network, and so does a draw, which goes group by group of the
    entries: two in `coupling` and `spline`, D in `masked_autoregressive`.

    References:
        Variational Lossy Autoencoder (Chen, Kingma, Salimans, Duan, Dhariwal, Schulman, Sutskever & Abbeel, 2017).
        Density estimation using Real NVP (Dinh, Sohl-Dickstein & Bengio, 2017).
        Masked Autoregressive Flow for Density Estimation (Papamakarios, Pavlakou & Murray, 2017).
        Neural Spline Flows (Durkan, Bekasov, Murray & Papamakarios, 2019).
    """

    kind: Literal["flow"] = "flow"
    transform: Literal["coupling", "masked_autoregressive", "spline"] = "coupling"
    """Affine halves given each other; affine, each entry given those before; or halves with splines on [-5, 5]."""
    layers: Count = 4
    """Number of layers; the order of the entries is reversed after each."""
    widths: Seq[Count] = (128, 128)
    """Hidden layers of the network in each layer; at least D wide for `masked_autoregressive`."""
    activation: Activation = "elu"
    """Nonlinearity of those."""

    reads_above: ClassVar[bool] = True

    def build(self, dim: int, dim_above: int | None, shape: Shape) -> "FlowPriorModule":
        """Build f."""
        kind: Literal["coupling", "spline", "autoregressive"] = (
            "autoregressive" if self.transform == "masked_autoregressive" else self.transform
        )
        context = (dim_above or 0) + shape.y + shape.given
        return FlowPriorModule(dim, Flow(dim, context, kind, self.layers, self.widths, self.activation, "score"))


class FlowPriorModule(nn.Module):
    """f(eps; c), eps ~ N(0, I)."""

    loc: Tensor

    def __init__(self, dim: int, flow: Flow) -> None:
        super().__init__()
        self.flow = flow
        self.register_buffer("loc", torch.zeros(dim), persistent=False)

    def forward(self, above: Tensor | None, y: Tensor | None, given: Tensor | None) -> dist.Distribution:
        """p(z_l | ...)."""
        conditions = [tensor for tensor in (above, y, given) if tensor is not None]
        base = dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)
        return self.flow(base, join(*conditions) if conditions else None)
