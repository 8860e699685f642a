"""What networks for images share: down to features, up from a start, and how feature maps are normalised."""

import math
from typing import cast

import torch
from torch import Tensor, nn

from pyro_vae.networks.conditions import Conditions
from pyro_vae.networks.layers import Layers, dense, fill, glorot, join, linear
from pyro_vae.networks.spec import Shape
from pyro_vae.specs import DeclarationError

GROUP = 16
"""Least number of feature maps that group normalisation takes together, as in its paper."""


def image(kind: str, shape: Shape) -> tuple[int, int, int]:
    """Channels, rows and columns of the data.

    Raises:
        DeclarationError: the data are no images.
    """
    if len(shape.x) != 3:
        raise DeclarationError(
            [f"kind={kind!r}: data must be images (channels, rows, columns), and these are {shape.x}; use 'mlp'."]
        )
    channels, rows, columns = shape.x
    return channels, rows, columns


def normalise(norm: str, maps: int) -> list[nn.Module]:
    """What normalises feature maps (N, maps, rows, columns); nothing for `none`.

    `batch`: each map over all data; `layer`: all maps of a datum together; `group`: some of its maps together.

    References:
        Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift
        (Ioffe & Szegedy, 2015).
        Group Normalization (Wu & He, 2018).
    """
    if norm == "none":
        return []
    if norm == "batch":
        return [nn.BatchNorm2d(maps)]
    size = next(size for size in range(min(GROUP, maps), maps + 1) if maps % size == 0)
    return [nn.GroupNorm(1 if norm == "layer" else maps // size, maps)]


def convolution(inputs: int, maps: int, kernel: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """A convolution, padded by (kernel - 1) // 2; see `glorot`."""
    return glorot(nn.Conv2d(inputs, maps, kernel, stride, (kernel - 1) // 2, bias=bias))


class ImageBody(nn.Module):
    """h = dense(flatten(convolutions([x, mask])), given)."""

    def __init__(
        self,
        shape: Shape,
        conditions: Conditions,
        convolutions: Layers,
        last: tuple[int, int, int],
        widths: tuple[int, ...],
        activation: str,
    ) -> None:
        """Put a body together; `last` are the maps, rows and columns that the convolutions end with."""
        super().__init__()
        self.masked, self.conditions, self.convolutions = shape.masked, conditions, convolutions
        inputs = math.prod(last) + conditions.joined
        self.layers = dense(inputs, widths, activation, conditions=conditions.modulating)
        self.features = widths[-1] if widths else inputs

    def forward(self, x: Tensor, mask: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        """Features h (B, features) of images x (B, channels, rows, columns)."""
        joined, modulating = self.conditions(given)
        image = fill(x, mask)
        if self.masked:
            seen = torch.ones_like(x) if mask is None else mask.to(x.dtype)
            image = torch.cat([image, seen], 1)
        image = image.to(memory_format=torch.channels_last)  # convolutions are up to twice as fast so
        maps = self.convolutions(image, modulating).flatten(1)
        return self.layers(join(maps, joined), modulating).to(x.dtype)


class ImageDecoder(nn.Module):
    """r = convolutions(reshape(dense(c)))."""

    def __init__(
        self,
        event: tuple[int, ...],
        conditions: Conditions,
        convolutions: Layers,
        start: tuple[int, int, int],
        dense: Layers,
    ) -> None:
        """Put a decoder together.

        Args:
            event: outputs, channels, rows and columns of r.
            conditions: of the decoder.
            convolutions: from the start to outputs x channels maps; the last is a convolution with a bias.
            start: maps, rows and columns that the convolutions start with.
            dense: from the latent, and what is joined to it, to the start.
        """
        super().__init__()
        self.event, self.start = event, start
        self.conditions, self.dense, self.convolutions = conditions, dense, convolutions

    def forward(self, c: Tensor) -> Tensor:
        """Numbers (..., outputs, channels, rows, columns) from conditions c (..., inputs)."""
        z, joined, modulating = self.conditions.split(c.reshape(-1, c.shape[-1]))
        start = self.dense(join(z, joined), modulating).reshape(-1, *self.start)
        image = self.convolutions(start.to(memory_format=torch.channels_last), modulating)
        return image.reshape(*c.shape[:-1], *self.event).to(c.dtype)

    @torch.no_grad()
    def start_at(self, r: Tensor) -> None:
        """Begin with outputs around the mean of r (outputs, channels, rows, columns) in each channel."""
        bias = cast(Tensor, cast(nn.Conv2d, self.convolutions[-1]).bias)
        bias.copy_(r.mean((-2, -1)).flatten())

    @torch.no_grad()
    def shrink(self, factor: float) -> None:
        """Begin nearer to where `start_at` said: the weights of the last layer times a factor."""
        cast(nn.Conv2d, self.convolutions[-1]).weight.mul_(factor)


def dense_to(
    start: tuple[int, int, int], inputs: int, widths: tuple[int, ...], activation: str, conditions: Conditions
) -> Layers:
    """Dense layers of a decoder from `inputs` numbers to the start of its convolutions."""
    width = widths[-1] if widths else inputs
    return Layers(dense(inputs, widths, activation, conditions=conditions.modulating), linear(width, math.prod(start)))
