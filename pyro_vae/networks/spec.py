"""What a network is, and what all of them are made of: shapes, joins, linear layers and how they start."""

from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pyro_vae.specs import Part

type Activation = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "tanh"]


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


def join(*tensors: Tensor | None) -> Tensor:
    """Concatenate along the last dimension, broadcasting the batch dimensions; None is left out.

    >>> join(torch.zeros(5, 1, 2), None, torch.zeros(3, 4)).shape
    torch.Size([5, 3, 6])
    """
    present = [tensor for tensor in tensors if tensor is not None]
    if len(present) == 1:
        return present[0]
    batch = torch.broadcast_shapes(*[tensor.shape[:-1] for tensor in present])
    return torch.cat([tensor.expand(*batch, tensor.shape[-1]) for tensor in present], -1)


def glorot[M: nn.Linear | nn.Conv2d | nn.ConvTranspose2d](layer: M) -> M:
    """The layer with Glorot's uniform weights and zero bias.

    PyTorch's own start shrinks the features in each layer: a convolutional VAE then needs twice the steps.

    References:
        Understanding the difficulty of training deep feedforward neural networks (Glorot & Bengio, 2010).
    """
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer; see `glorot`."""
    return glorot(nn.Linear(inputs, outputs))


def dense(inputs: int, widths: tuple[int, ...], activation: str) -> nn.Sequential:
    """Linear layers of the given widths, each followed by the activation; no layer at all for ()."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [linear(inputs, width), ACTIVATIONS[activation]()]
        inputs = width
    return nn.Sequential(*layers)


class Network(Part):
    """Abstract spec of a network; builds a body for the guide and a decoder for the likelihood."""

    image_only: ClassVar[bool] = False
    """Whether data must be images (channels, rows, columns)."""

    def body(self, shape: Shape) -> nn.Module:
        """Build the encoder body; the module's `features` is the width of h."""
        raise TypeError(f"{type(self).__name__} builds no encoder.")

    def decoder(self, inputs: int, shape: Shape, outputs: int) -> nn.Module:
        """Build the decoder from `inputs` features to `outputs` numbers per entry of x."""
        raise TypeError(f"{type(self).__name__} builds no decoder.")


def fill(x: Tensor, mask: Tensor | None) -> Tensor:
    """Missing entries become 0 before any arithmetic: NaN x 0 is NaN."""
    return x if mask is None else torch.where(mask, x, torch.zeros_like(x))
