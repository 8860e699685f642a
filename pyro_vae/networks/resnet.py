"""Residual networks for images."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.networks.conditions import Conditions
from pyro_vae.networks.images import ImageBody, ImageDecoder, convolution, dense_to, image, normalise
from pyro_vae.networks.layers import Conditioned, Layers, film, zero
from pyro_vae.networks.spec import ACTIVATIONS, Activation, Conditioning, Network, Shape
from pyro_vae.specs import Count, Seq


class ResNet(Network):
    """Residual blocks for images: h_{i+1} = h_i + W_2 a(n(W_1 a(n(h_i)))), at resolutions that halve or double.

    A strided convolution leads to each resolution, of ceil(n / 2) rows and columns; on the way up the nearest
    pixel is repeated, what is too much is cut off, and a convolution follows. n normalises, a is the activation
    (in a block, before each convolution), and W_2 starts at 0, so that every block starts as the identity.
    `conditioning: film` modulates what is normalised before W_2.

    Batch normalisation takes its mean and variance over all rows of a batch: data, particles and classes. It so
    ties data together, and the loss of a datum depends on the others in its batch; `group` does not.

    References:
        Identity Mappings in Deep Residual Networks (He, Zhang, Ren & Sun, 2016).
        Group Normalization (Wu & He, 2018).
        Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images (Child, 2021).
        FiLM: Visual Reasoning with a General Conditioning Layer (Perez et al., 2018).
    """

    kind: Literal["resnet"] = "resnet"
    channels: Annotated[Seq[Count], Field(min_length=1)] = (64, 128, 256)
    """Feature maps at each resolution, from the largest to the smallest, in a decoder too."""
    blocks: int = Field(1, ge=1, le=100)
    """Residual blocks at each resolution."""
    kernel: int = Field(3, ge=1, le=31)
    """Size of every kernel, odd."""
    widths: Seq[Count] = (256,)
    """Dense layers between the feature maps and the latent."""
    activation: Activation = "silu"
    """Nonlinearity before each convolution and after each dense layer."""
    norm: Literal["group", "batch", "none"] = "group"
    """Normalise feature maps: in groups, or over the batch (it ties data together)."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of feature maps zeroed in training, before W_2."""
    conditioning: Conditioning = "concat"
    """How labels and covariates enter: joined where layers are dense, or scaling and shifting all (`film`)."""
    embedding: Count | None = None
    """Width of a learned linear map that labels and covariates pass first."""

    image_only: ClassVar[bool] = True

    @model_validator(mode="after")
    def _kernel_is_odd(self) -> "ResNet":
        if self.kernel % 2 == 0:
            raise ValueError(
                f"kernel={self.kernel}: must be odd, so that a block keeps the size; take {self.kernel - 1}"
            )
        return self

    def sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Rows and columns of the image and at each resolution."""
        found = [size]
        for _ in self.channels:
            rows, columns = found[-1]
            found.append((-(-rows // 2), -(-columns // 2)))
        return found

    def body(self, shape: Shape) -> ImageBody:
        """Build the residual body."""
        width, rows, columns = image(self.kind, shape)
        conditions = Conditions("encoder", shape.given, self.conditioning, self.embedding)
        width = 2 * width if shape.masked else width
        layers: list[nn.Module] = []
        for maps in self.channels:
            layers += [convolution(width, maps, self.kernel, 2), *self.residuals(maps, conditions)]
            width = maps
        last = (width, *self.sizes((rows, columns))[-1])
        return ImageBody(shape, conditions, Layers(*layers, *self.ready(width)), last, self.widths, self.activation)

    def decoder(self, inputs: int, shape: Shape, outputs: int) -> ImageDecoder:
        """Build the residual decoder."""
        channels, rows, columns = image(self.kind, shape)
        *sizes, smallest = self.sizes((rows, columns))
        known = shape.y + shape.given
        conditions = Conditions("decoder", known, self.conditioning, self.embedding)
        start = (self.channels[-1], *smallest)
        dense = dense_to(start, inputs - known + conditions.joined, self.widths, self.activation, conditions)
        layers = self.residuals(start[0], conditions)
        width = start[0]
        for maps, size in zip(self.channels[-2::-1], sizes[:0:-1], strict=True):
            layers += [Up(size), convolution(width, maps, self.kernel), *self.residuals(maps, conditions)]
            width = maps
        last = convolution(width, outputs * channels, self.kernel)
        layers += [*self.ready(width), Up(sizes[0]), last]
        return ImageDecoder((outputs, *shape.x), conditions, Layers(*layers), start, dense)

    def residuals(self, maps: int, conditions: Conditions) -> list[nn.Module]:
        """The blocks of one resolution."""
        return [Residual(self, maps, conditions.modulating) for _ in range(self.blocks)]

    def ready(self, maps: int, conditions: int = 0) -> list[nn.Module]:
        """What comes before a convolution."""
        return [*normalise(self.norm, maps), *film(conditions, maps), ACTIVATIONS[self.activation]()]


class Residual(Conditioned):
    """h + W_2 a(n(W_1 a(n(h))))."""

    def __init__(self, spec: ResNet, maps: int, conditions: int) -> None:
        super().__init__()
        drop = [nn.Dropout2d(spec.dropout)] if spec.dropout else []
        first = convolution(maps, maps, spec.kernel, bias=spec.norm != "batch")
        second = zero(convolution(maps, maps, spec.kernel))
        self.layers = Layers(*spec.ready(maps), first, *spec.ready(maps, conditions), *drop, second)

    def forward(self, h: Tensor, c: Tensor | None = None) -> Tensor:
        """Feature maps like h (N, maps, rows, columns), modulated by c (N, conditions)."""
        return h + self.layers(h, c)


class Up(nn.Module):
    """Twice as many rows and columns by repeating each, and of these the first `size`."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, h: Tensor) -> Tensor:
        """Feature maps (N, maps, *size)."""
        rows, columns = self.size
        return F.interpolate(h, scale_factor=2, mode="nearest")[..., :rows, :columns]
