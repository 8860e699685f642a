"""Convolutional networks for images."""

import math
from typing import Annotated, ClassVar, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pyro_vae.networks.spec import ACTIVATIONS, Activation, Network, Shape, dense, fill, glorot, join, linear
from pyro_vae.specs import Count, DeclarationError, Seq


class Conv(Network):
    """Strided convolutions down, transposed convolutions up, for images of any size and channel count.

    Each layer takes n rows to floor((n + 2p - k) / s) + 1 with p = (k - 1) // 2; the decoder mirrors these
    sizes exactly, whatever the remainder. In a decoder, `channels` are those before each transposed
    convolution; the last one goes to the image.

    References:
        Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks
        (Radford, Metz & Chintala, 2016).
    """

    kind: Literal["conv"] = "conv"
    channels: Annotated[Seq[Count], Field(min_length=1)] = (32, 64)
    """Feature maps of each layer."""
    strides: Seq[Count] | Count = 2
    """Stride of each layer, or one number for all."""
    kernel: int = Field(3, ge=1, le=31)
    """Size of the kernel."""
    widths: Seq[Count] = (256,)
    """Dense layers between the feature maps and the latent."""
    activation: Activation = "relu"
    """Nonlinearity after each layer but the last."""
    batch_norm: bool = False
    """Normalise each feature map over the batch (not for importance bounds: it ties data together)."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of feature maps zeroed in training."""

    image_only: ClassVar[bool] = True

    @model_validator(mode="after")
    def _strides_fit(self) -> "Conv":
        if isinstance(self.strides, tuple) and len(self.strides) != len(self.channels):
            raise ValueError(
                f"strides={list(self.strides)} has {len(self.strides)} entries for {len(self.channels)} "
                "channels: give one stride per layer, or a single number"
            )
        return self

    def layer_strides(self) -> tuple[int, ...]:
        """Stride of each layer."""
        return self.strides if isinstance(self.strides, tuple) else (self.strides,) * len(self.channels)

    def padding(self) -> int:
        """Padding on each side."""
        return (self.kernel - 1) // 2

    def image(self, shape: Shape) -> tuple[int, int, int]:
        """Channels, rows and columns of the data.

        Raises:
            DeclarationError: the data are no images.
        """
        if len(shape.x) != 3:
            raise DeclarationError(
                [f"kind='conv': data must be images (channels, rows, columns), and these are {shape.x}; use 'mlp'."]
            )
        channels, rows, columns = shape.x
        return channels, rows, columns

    def sizes(self, size: tuple[int, int], strides: tuple[int, ...]) -> list[tuple[int, int]]:
        """Rows and columns of the image and after each layer down.

        Raises:
            DeclarationError: the image is too small for that many layers.
        """
        found = [size]
        for stride in strides:
            rows, columns = ((n + 2 * self.padding() - self.kernel) // stride + 1 for n in found[-1])
            if min(rows, columns) < 1:
                raise DeclarationError(
                    [
                        f"channels={list(self.channels)}: an image of {size[0]} x {size[1]} is too small for "
                        f"{len(strides)} layers of kernel {self.kernel}; take fewer layers or a smaller kernel."
                    ]
                )
            found.append((rows, columns))
        return found

    def body(self, shape: Shape) -> "ConvBody":
        """Build the convolutional body."""
        return ConvBody(self, shape)

    def decoder(self, inputs: int, shape: Shape, outputs: int) -> "ConvDecoder":
        """Build the transposed-convolutional decoder."""
        return ConvDecoder(self, inputs, shape, outputs)

    def block(self, layer: nn.Module, channels: int) -> list[nn.Module]:
        """A convolution with what follows it."""
        norm = [nn.BatchNorm2d(channels)] if self.batch_norm else []
        drop = [nn.Dropout2d(self.dropout)] if self.dropout else []
        return [layer, *norm, ACTIVATIONS[self.activation](), *drop]


class ConvBody(nn.Module):
    """h = dense(flatten(convolutions([x, mask])), given)."""

    def __init__(self, spec: Conv, shape: Shape) -> None:
        super().__init__()
        channels, rows, columns = spec.image(shape)
        rows, columns = spec.sizes((rows, columns), spec.layer_strides())[-1]
        self.masked = shape.masked
        width = 2 * channels if shape.masked else channels
        layers: list[nn.Module] = []
        for maps, stride in zip(spec.channels, spec.layer_strides(), strict=True):
            layers += spec.block(glorot(nn.Conv2d(width, maps, spec.kernel, stride, spec.padding())), maps)
            width = maps
        self.convolutions = nn.Sequential(*layers)
        inputs = width * rows * columns + shape.given
        self.layers = dense(inputs, spec.widths, spec.activation)
        self.features = spec.widths[-1] if spec.widths else inputs

    def forward(self, x: Tensor, mask: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        """Features h (B, features) of images x (B, channels, rows, columns)."""
        image = fill(x, mask)
        if self.masked:
            seen = torch.ones_like(x) if mask is None else mask.to(x.dtype)
            image = torch.cat([image, seen], 1)
        image = image.to(memory_format=torch.channels_last)  # convolutions are up to twice as fast so
        return self.layers(join(self.convolutions(image).flatten(1), given)).to(x.dtype)


class ConvDecoder(nn.Module):
    """r = transposed convolutions(reshape(dense(c)))."""

    def __init__(self, spec: Conv, inputs: int, shape: Shape, outputs: int) -> None:
        super().__init__()
        channels, *size = spec.image(shape)
        strides, padding = spec.layer_strides(), spec.padding()
        sizes = spec.sizes((size[0], size[1]), strides[::-1])[::-1]  # smallest first: the encoder's way back
        self.event = (outputs, *shape.x)
        self.start = (spec.channels[0], *sizes[0])
        width = spec.widths[-1] if spec.widths else inputs
        self.dense = nn.Sequential(
            dense(inputs, spec.widths, spec.activation),
            linear(width, math.prod(self.start)),
            ACTIVATIONS[spec.activation](),
        )
        targets = (*spec.channels[1:], outputs * channels)
        layers: list[nn.Module] = []
        for i, (maps, target, stride) in enumerate(zip(spec.channels, targets, strides, strict=True)):
            # What a strided convolution rounds away on the way down is put back on the way up.
            rows, columns = (
                after - ((before - 1) * stride - 2 * padding + spec.kernel)
                for before, after in zip(sizes[i], sizes[i + 1], strict=True)
            )
            extra = (rows, columns)
            up = glorot(nn.ConvTranspose2d(maps, target, spec.kernel, stride, padding, output_padding=extra))
            layers += [up] if i == len(strides) - 1 else spec.block(up, target)
        self.convolutions = nn.Sequential(*layers)

    def forward(self, c: Tensor) -> Tensor:
        """Numbers (..., outputs, channels, rows, columns) from conditions c (..., inputs)."""
        batch = c.shape[:-1]
        start = self.dense(c).reshape(-1, *self.start).to(memory_format=torch.channels_last)
        image = self.convolutions(start)
        return image.reshape(*batch, *self.event).to(c.dtype)

    @torch.no_grad()
    def start_at(self, r: Tensor) -> None:
        """Begin with outputs around the mean of r (outputs, channels, rows, columns) in each channel."""
        bias = cast(nn.ConvTranspose2d, self.convolutions[-1]).bias
        if bias is not None:
            bias.copy_(r.mean((-2, -1)).flatten())
