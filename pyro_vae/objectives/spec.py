"""What an objective is: the abstract spec, and what it reports."""

from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from pyro_vae.specs import Part
from pyro_vae.vae import VAE
from pyro_vae.variant import Variant


class Terms(NamedTuple):
    """What an objective reports beside its loss, per datum, nats."""

    elbo: Tensor
    reconstruction: Tensor
    kl: Tensor
    log_p: dict[str, Tensor]
    log_q: dict[str, Tensor]
    kl_per_dim: dict[str, Tensor]
    """Layer -> KL of each dimension (B, D), where the layer's KL has such parts."""
    kl_per_layer: dict[str, Tensor]
    """Layer -> its KL (B,), for every layer; labels are not among them."""


class Objective(Part):
    """Abstract spec of an objective."""

    bound: ClassVar[bool] = True
    """Whether -loss bounds log p per datum; a regulariser of the aggregate posterior does not."""

    def build(self, vae: VAE, num_data: int | None = None) -> nn.Module:
        """Build the loss; `num_data` is the number of training data N, None if every batch is all of them."""
        raise TypeError(f"{type(self).__name__} builds no objective.")

    def draws(self) -> int:
        """Draws of z for each datum in a step: K where there is a field `num_particles`."""
        return getattr(self, "num_particles", 1)

    def weights(self, epoch: float) -> dict[str, float]:
        """The numbers that change in training, after `epoch` epochs (fractions count)."""
        return {}

    def longest(self) -> float:
        """Epochs that the schedule of the weights needs to end."""
        return 0.0

    def misfits(self, variant: Variant) -> list[str]:
        """What of a variant this objective cannot serve, one line each."""
        return []

    def learning_rates(self) -> dict[str, float]:
        """Prefix of parameter names of the loss module -> factor on the learning rate; 1 for all others."""
        return {}


def scored_twice(variant: Variant, name: str) -> list[str]:
    """The misfit of an objective that draws from the guide and then scores the draw in a second run of it."""
    if not variant.guide.repeatable:
        word = variant.guide.tree()["kind"]
        return [
            f"objective.{name}: runs the guide twice, and {word!r} is another one each time; take another of the two."
        ]
    dropout = getattr(variant.encoder, "dropout", 0.0)
    if not dropout:
        return []
    return [
        f"objective.{name}: runs the encoder twice, and variant.encoder.dropout={dropout:g} would drop other units "
        "the second time; set it to 0, or take another objective."
    ]
