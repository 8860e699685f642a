"""A guide that starts from the amortised one and is then fitted to each datum."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import nn

from pyro_vae.guides.correlated import FullNormal, LowRankNormal
from pyro_vae.guides.flow import FlowGuide
from pyro_vae.guides.layered import BottomUpNormal, Ladder
from pyro_vae.guides.normal import DiagonalNormal
from pyro_vae.guides.relaxed import Relaxed
from pyro_vae.guides.spec import Guide
from pyro_vae.networks import Network, Shape
from pyro_vae.specs import Count, OneOf, Table

BASES = Table("guide", Guide, DiagonalNormal, FullNormal, LowRankNormal, FlowGuide, Ladder, BottomUpNormal, Relaxed)
"""Guides that can be refined: those with raw outputs."""


class Refined(Guide):
    """q(z | x) = q(z; r(x) + d_k), the amortised raw outputs r(x) moved by k gradient steps on the datum's own ELBO.

        d_0 = 0,    d_{j+1} = d_j + rate * g_j,    g_j = dELBO(x; r(x) + d_j) / dd_j, from one draw of z

    A g_j that is longer than max_norm, for a datum and layer, is shortened to it. In training the gradient goes through
    the steps, so that the encoder learns to be a good start. The steps draw at random: what scores the same draws twice
    needs a guide that is the same both times, and refuses this one.

    References:
        Semi-Amortized Variational Autoencoders (Kim, Wiseman, Miller, Sontag & Rush, 2018).
    """

    kind: Literal["refined"] = "refined"
    base: Annotated[Guide, OneOf(BASES, "diagonal_normal")] = DiagonalNormal()
    """The amortised guide to start from."""
    steps: Count = 5
    """Number of gradient steps k."""
    learning_rate: float = Field(0.1, gt=0)
    """Size of the steps."""
    max_norm: float = Field(5.0, gt=0)
    """Longest gradient, in nats per raw output, that is followed as it is."""

    repeatable: ClassVar[bool] = False

    @property
    def order(self) -> Literal["top_down", "bottom_up"]:  # type: ignore[override]
        """That of the base."""
        return self.base.order

    @property
    def factorized(self) -> bool:  # type: ignore[override]
        """Whether the base is."""
        return self.base.factorized

    @property
    def moments(self) -> bool:  # type: ignore[override]
        """Whether the base knows its own."""
        return self.base.moments

    @property
    def simplex(self) -> bool:  # type: ignore[override]
        """Whether the base is."""
        return self.base.simplex

    def body(self, network: Network, shape: Shape) -> nn.Module:
        """Build the base's encoder body."""
        return self.base.body(network, shape)

    def combines(self, top: bool) -> bool:
        """Whether the base does."""
        return self.base.combines(top)

    def head(
        self, features: int, neighbour_dim: int | None, dim: int, shape: Shape, layer: tuple[int, int] = (1, 1)
    ) -> nn.Module:
        """Build the base's head."""
        return self.base.head(features, neighbour_dim, dim, shape, layer)
