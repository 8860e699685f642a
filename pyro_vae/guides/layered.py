"""Guides for several layers of latent variables."""

from typing import Any, ClassVar, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.guides.normal import DiagonalNormalHead
from pyro_vae.guides.spec import Guide, Raw
from pyro_vae.networks import Activation, Shape
from pyro_vae.specs import Count, Seq


class Ladder(Guide):
    """q(z_l | z_{l+1}, x) = N(mu, sigma^2): the encoder's N(m, v) and the prior's N(m_p, v_p), weighted by precision.

        1 / sigma^2 = 1 / v + 1 / v_p,    mu = sigma^2 (m / v + m_p / v_p)

    What was sampled above enters through the prior alone, which must be normal.

    References:
        Ladder Variational Autoencoders (Soenderby, Raiko, Maaloee, Soenderby & Winther, 2016).
    """

    kind: Literal["ladder"] = "ladder"
    widths: Seq[Count] = ()
    """Hidden layers between the encoder's features (with the label) and m, log v."""
    activation: Activation = "relu"
    """Nonlinearity of those layers."""
    top: Literal["encoder", "combined"] = "encoder"
    """At the top layer: the encoder's normal alone, as in the paper, or combined with the prior's there too."""

    def head(
        self,
        features: int,
        neighbour_dim: int | None,
        dim: int,
        shape: Shape,
        layer: tuple[int, int] = (1, 1),
    ) -> "LadderHead":
        """Build the combination; the top layer is the one that nothing was sampled before."""
        raw = Raw(features, None, shape, self.widths, self.activation, 2 * dim)
        return LadderHead(raw, self.combines(top=neighbour_dim is None))

    def combines(self, top: bool) -> bool:
        """Below the top always."""
        return not top or self.top == "combined"


class LadderHead(nn.Module):
    """N(m, v) x N(m_p, v_p), normalised, with (m, log v) = r."""

    def __init__(self, raw: Raw, combines: bool) -> None:
        super().__init__()
        self.raw, self.combines = raw, combines

    def forward(
        self, h: Tensor, neighbour: Tensor | None, y: Tensor | None, p: Any, offset: Tensor | None
    ) -> dist.Distribution:
        """q(z_l | ...)."""
        m, log_v = self.raw(h, None, y, offset).chunk(2, -1)
        if not self.combines:
            return dist.Normal(m, (0.5 * log_v).exp()).to_event(1)
        if not isinstance(getattr(p, "base_dist", None), dist.Normal):
            raise TypeError(f"A ladder guide combines its normal with the prior's, and {p} is none: use another prior.")
        m_p, log_v_p = p.base_dist.loc, 2 * p.base_dist.scale.log()
        weight = torch.sigmoid(log_v_p - log_v)  # (1 / v) / (1 / v + 1 / v_p)
        log_precision = torch.logaddexp(-log_v, -log_v_p)
        return dist.Normal(m_p + weight * (m - m_p), (-0.5 * log_precision).exp()).to_event(1)


class BottomUpNormal(Guide):
    """q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_{L-1}), each N(mu, diag exp(s)).

    References:
        Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2016).
    """

    kind: Literal["bottom_up_normal"] = "bottom_up_normal"
    widths: Seq[Count] = (100, 100)
    """Hidden layers between what a layer sees and its mu, s."""
    activation: Activation = "tanh"
    """Nonlinearity of those layers."""
    skip: bool = False
    """Whether the layers above z_1 see the encoder's features as well as the layer below."""

    order: ClassVar[Literal["top_down", "bottom_up"]] = "bottom_up"

    def head(
        self,
        features: int,
        neighbour_dim: int | None,
        dim: int,
        shape: Shape,
        layer: tuple[int, int] = (1, 1),
    ) -> "BottomUpNormalHead":
        """Build N(mu, diag exp(s))."""
        sees = neighbour_dim is None or self.skip
        raw = Raw(features if sees else 0, neighbour_dim, shape, self.widths, self.activation, 2 * dim)
        return BottomUpNormalHead(DiagonalNormalHead(raw), sees)


class BottomUpNormalHead(nn.Module):
    """N(mu, diag exp(s)) given the layer below, and the features where it sees them."""

    def __init__(self, normal: DiagonalNormalHead, sees_features: bool) -> None:
        super().__init__()
        self.normal, self.sees_features = normal, sees_features

    @property
    def raw(self) -> Raw:
        """What offsets are added to."""
        return self.normal.raw

    def forward(
        self, h: Tensor, neighbour: Tensor | None, y: Tensor | None, p: dist.Distribution | None, offset: Tensor | None
    ) -> dist.Distribution:
        """q(z_l | ...)."""
        return self.normal(h if self.sees_features else None, neighbour, y, p, offset)
