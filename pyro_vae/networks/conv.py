"""Convolutional networks for images."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from torch import nn

from pyro_vae.networks.conditions import Conditions
from pyro_vae.networks.images import ImageBody, ImageDecoder, convolution, dense_to, image, normalise
from pyro_vae.networks.layers import Layers, film, glorot
from pyro_vae.networks.spec import ACTIVATIONS, Activation, Conditioning, Network, Shape
from pyro_vae.specs import Count, DeclarationError, Seq


class Conv(Network):
    """Strided convolutions down, transposed convolutions up, for images of any size and channel count.

    Each layer takes n rows to floor((n + 2p - k) / s) + 1 with p = (k - 1) // 2; the decoder mirrors these
    sizes exactly, whatever the remainder. In a decoder, `channels` are those before each transposed
    convolution; the last one goes to the image.

    References:
        Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks
        (Radford, Metz & Chintala, 2016).
        Group Normalization (Wu & He, 2018).
        FiLM: Visual Reasoning with a General Conditioning Layer (Perez et al., 2018).
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
    norm: Literal["none", "batch", "group", "layer"] = "none"
    """Normalise feature maps: over the batch (it ties data together), in groups, or all maps of a datum."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of feature maps zeroed in training."""
    conditioning: Conditioning = "concat"
    """How labels and covariates enter: joined where layers are dense, or scaling and shifting all (`film`)."""
    embedding: Count | None = None
    """Width of a learned linear map that labels and covariates pass first."""

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

    def body(self, shape: Shape) -> ImageBody:
        """Build the convolutional body."""
        width, rows, columns = image(self.kind, shape)
        strides = self.layer_strides()
        last = self.sizes((rows, columns), strides)[-1]
        conditions = Conditions("encoder", shape.given, self.conditioning, self.embedding)
        width = 2 * width if shape.masked else width
        layers: list[nn.Module] = []
        for maps, stride in zip(self.channels, strides, strict=True):
            down = convolution(width, maps, self.kernel, stride, bias=self.norm != "batch")
            layers += [down, *self.after(maps, conditions.modulating)]
            width = maps
        return ImageBody(shape, conditions, Layers(*layers), (width, *last), self.widths, self.activation)

    def decoder(self, inputs: int, shape: Shape, outputs: int) -> ImageDecoder:
        """Build the transposed-convolutional decoder."""
        channels, rows, columns = image(self.kind, shape)
        strides = self.layer_strides()
        sizes = self.sizes((rows, columns), strides[::-1])[::-1]  # smallest first: the encoder's way back
        known = shape.y + shape.given
        conditions = Conditions("decoder", known, self.conditioning, self.embedding)
        start = (self.channels[0], *sizes[0])
        dense = dense_to(start, inputs - known + conditions.joined, self.widths, self.activation, conditions)
        layers = [*film(conditions.modulating, start[0]), ACTIVATIONS[self.activation]()]
        targets = (*self.channels[1:], outputs * channels)
        for i, (maps, target) in enumerate(zip(self.channels, targets, strict=True)):
            last = i == len(targets) - 1
            layers.append(self.up(maps, target, strides[i], sizes[i], sizes[i + 1], bias=last or self.norm != "batch"))
            layers += [] if last else self.after(target, conditions.modulating)
        return ImageDecoder((outputs, *shape.x), conditions, Layers(*layers), start, dense)

    def up(
        self, maps: int, target: int, stride: int, before: tuple[int, int], after: tuple[int, int], bias: bool
    ) -> nn.ConvTranspose2d:
        """A transposed convolution between two sizes."""
        # What a strided convolution rounds away on the way down is put back on the way up.
        rows, columns = (
            n - ((m - 1) * stride - 2 * self.padding() + self.kernel) for m, n in zip(before, after, strict=True)
        )
        extra = (rows, columns)
        return glorot(
            nn.ConvTranspose2d(maps, target, self.kernel, stride, self.padding(), output_padding=extra, bias=bias)
        )

    def after(self, maps: int, conditions: int) -> list[nn.Module]:
        """What follows a convolution."""
        drop = [nn.Dropout2d(self.dropout)] if self.dropout else []
        return [*normalise(self.norm, maps), *film(conditions, maps), ACTIVATIONS[self.activation](), *drop]
