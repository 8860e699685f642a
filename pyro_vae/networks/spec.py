"""What a network is: the abstract spec, and the shapes and words that all of them share."""

from typing import ClassVar, Literal, NamedTuple

from torch import nn

from pyro_vae.specs import Part

type Activation = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "tanh"]
type Conditioning = Literal["concat", "film"]


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


class Shape(NamedTuple):
    """What a datum looks like to the networks."""

    x: tuple[int, ...]
    """Event shape: (D,) for a vector, (channels, rows, columns) for an image."""
    y: int = 0
    """Width of the one-hot labels, all label sites side by side."""
    given: int = 0
    """Number of covariates that are never modelled."""
    masked: bool = False
    """Whether entries can be missing; the encoder then also sees which."""
    classes: int = 0
    """Classes of each latent variable where these are categorical, 0 where they are continuous."""


class Network(Part):
    """Abstract spec of a network; builds a body for the guide and a decoder for the likelihood."""

    image_only: ClassVar[bool] = False
    """Whether data must be images (channels, rows, columns)."""

    def body(self, shape: Shape) -> nn.Module:
        """Build the encoder body; the module's `features` is the width of h."""
        raise TypeError(f"{type(self).__name__} builds no encoder.")

    def decoder(self, inputs: int, shape: Shape, outputs: int) -> nn.Module:
        """Build the decoder from `inputs` features to `outputs` numbers per entry of x.

        The last `shape.y + shape.given` of the inputs are the labels and covariates.
        """
        raise TypeError(f"{type(self).__name__} builds no decoder.")
