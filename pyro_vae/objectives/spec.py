"""What an objective is: the abstract spec, and what it reports."""

from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from pyro_vae.specs import Part
from pyro_vae.vae import VAE


class Terms(NamedTuple):
    """What an objective reports beside its loss, per datum, nats."""

    elbo: Tensor
    reconstruction: Tensor
    kl: Tensor
    log_p: dict[str, Tensor]
    log_q: dict[str, Tensor]
    kl_per_dim: dict[str, Tensor]


class Objective(Part):
    """Abstract spec of an objective."""

    bound: ClassVar[bool] = True
    """Whether -loss bounds log p per datum; a regulariser of the aggregate posterior does not."""

    def build(self, vae: VAE) -> nn.Module:
        """Build the loss."""
        raise TypeError(f"{type(self).__name__} builds no objective.")

    def weights(self, epoch: float) -> dict[str, float]:
        """The numbers that change in training, after `epoch` epochs (fractions count)."""
        return {}

    def longest(self) -> float:
        """Epochs that the schedule of the weights needs to end."""
        return 0.0
