"""What a prior is: the abstract spec."""

from typing import ClassVar

from torch import nn

from pyro_vae.networks import Shape
from pyro_vae.specs import Part


class Prior(Part):
    """Abstract spec of a prior."""

    reads_above: ClassVar[bool] = False
    """Whether it conditions on the layer above; every layer below the top must."""

    def build(self, dim: int, dim_above: int | None, shape: Shape) -> nn.Module:
        """Build p(z_l | ...) for `dim` latent dimensions; `dim_above` is None at the top."""
        raise TypeError(f"{type(self).__name__} builds no prior.")
