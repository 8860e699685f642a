"""A likelihood that compares images by the features of a fixed network."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.likelihoods.spec import Decoded, Likelihood, Support
from pyro_vae.networks import Network, Shape
from pyro_vae.specs import DeclarationError, Seq

type Weight = Annotated[float, Field(ge=0)]

BLOCKS = {"random": (1, 1, 1), "vgg11": (1, 1, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
"""Convolutions of each block; a block ends with a pooling of 2 x 2."""
RANDOM_CHANNELS = (16, 32, 64)
FILES = {"vgg11": "vgg11-8a719046.pth", "vgg16": "vgg16-397923af.pth", "vgg19": "vgg19-dcbb9e9d.pth"}
"""ImageNet weights as torchvision publishes them."""
START = 0.01
"""How near to the mean image D starts: features tell it from random pixels so sharply that training would go astray."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of red, green and blue, which the published weights expect to be taken out."""


class Perceptual(Likelihood):
    """Images compared by the features phi_l of a fixed network, not by their pixels alone; no density.

        log p(x | z) = -sum_l weight_l / 2 ||phi_l(x) - phi_l(D(z))||^2 - pixel / 2 ||x - D(z)||^2

    It does not integrate to one, so that no ELBO or log p(x) is reported, and draws of x are D(z) itself. Nothing
    of the network is trained or written into checkpoints. Grey images are repeated to three channels. Set the
    weights by the size of the features: each term is a sum over all of them.

    References:
        Deep Feature Consistent Variational Autoencoder (Hou, Shen, Sun & Qiu, 2017).
    """

    kind: Literal["perceptual"] = "perceptual"
    network: Literal["random", "vgg11", "vgg16", "vgg19"] = "random"
    """VGG (vgg19 in the paper) needs a file of weights; `random`, three fixed random convolutions, needs none."""
    layers: Annotated[Seq[str], Field(min_length=1)] = ("relu1_1", "relu2_1", "relu3_1")
    """Layers l whose features are compared, like relu3_1: the first of the third block."""
    weight: Seq[Weight] | Weight = 1.0
    """weight_l, one number for all layers or one each."""
    pixel: Weight = 1.0
    """Weight of the squared error of the pixels."""
    weights: str | None = None
    """File with torchvision's weights of a VGG; null: the file where torchvision keeps its downloads."""

    datum_at_once: ClassVar[bool] = True
    supports: ClassVar[tuple[Support, ...]] = ("levels", "unit", "binary")
    datum: ClassVar[Literal["any", "vector", "image"]] = "image"
    takes_missing: ClassVar[bool] = False

    @property
    def normalized(self) -> bool:
        """Never."""
        return False

    def accepts(self, support: Support) -> str | None:
        """Images in [0, 1]."""
        if support in self.supports:
            return None
        return f"needs images in [0, 1], and these are {support}: use 'normal', or leave out data.standardize."

    @model_validator(mode="after")
    def _layers_exist(self) -> "Perceptual":
        known = [f"relu{b}_{i}" for b, n in enumerate(BLOCKS[self.network], 1) for i in range(1, n + 1)]
        found = [
            f"layers[{i}]={name!r}: {self.network!r} has {', '.join(known)}"
            for i, name in enumerate(self.layers)
            if name not in known
        ]
        if len(set(self.layers)) < len(self.layers):
            found.append(f"layers={list(self.layers)}: name each layer once")
        if isinstance(self.weight, tuple) and len(self.weight) != len(self.layers):
            found.append(
                f"weight={list(self.weight)}: has {len(self.weight)} entries for {len(self.layers)} layers; give one "
                "per layer, or a single number"
            )
        if self.network == "random" and self.weights is not None:
            found.append(f"weights={self.weights!r}: 'random' reads no file; choose network: vgg19 or leave it out")
        if found:
            raise ValueError("\n".join(found))
        return self

    def layer_weights(self) -> tuple[float, ...]:
        """Weight of each layer."""
        return self.weight if isinstance(self.weight, tuple) else (self.weight,) * len(self.layers)

    def build(self, network: Network, latent_dim: int, shape: Shape) -> "PerceptualLikelihood":
        """Build the decoder, and read the fixed network.

        Raises:
            DeclarationError: data that are no images, too small, or have missing entries; or no file of weights.
        """
        problems = list(self._misfits(shape))
        if problems:
            raise DeclarationError(problems)
        return PerceptualLikelihood(Decoded(network, latent_dim, shape), Features(self), self)

    def _misfits(self, shape: Shape) -> Iterator[str]:
        if len(shape.x) != 3 or shape.x[0] not in (1, 3):
            yield f"kind='perceptual': data must be images of 1 or 3 channels, and these are {shape.x}; use 'normal'."
        elif min(shape.x[1:]) < 2 ** (max(int(name[4]) for name in self.layers) - 1):
            rows, columns = shape.x[1:]
            yield f"layers={list(self.layers)}: images of {rows} x {columns} are too small; leave out the last."
        if shape.masked:
            yield "kind='perceptual': compares whole images, and some entries are missing; use 'normal'."


class Features(nn.Module):
    """phi_l(x) of images in [0, 1]: frozen, and in no checkpoint."""

    def __init__(self, spec: Perceptual) -> None:
        super().__init__()
        self.wanted, self.blocks = spec.layers, BLOCKS[spec.network]
        deepest = max(spec.layers)
        weights = _random() if spec.network == "random" else _read(spec)
        self.names: list[tuple[str, bool]] = []  # layer, and whether it begins a block after a pooling
        for b, convolutions in enumerate(self.blocks, 1):
            for i in range(1, convolutions + 1):
                name = f"relu{b}_{i}"
                if name <= deepest:
                    kernel, bias = next(weights)
                    self.register_buffer(f"{name}_weight", kernel, persistent=False)
                    self.register_buffer(f"{name}_bias", bias, persistent=False)
                    self.names.append((name, i == 1 and b > 1))
        for name, values in zip(("mean", "sd"), IMAGENET, strict=True):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of images x (..., channels, rows, columns), flattened (..., numbers), one tensor per layer."""
        batch = x.shape[:-3]
        h = x.reshape(-1, *x.shape[-3:])
        h = (h.expand(-1, 3, -1, -1) - self.get_buffer("mean")) / self.get_buffer("sd")
        found = {}
        for name, pooled in self.names:
            h = F.max_pool2d(h, 2) if pooled else h
            h = F.conv2d(h, self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias"), padding=1).relu()
            found[name] = h.to(x.dtype).flatten(1).unflatten(0, batch) if batch else h.to(x.dtype).flatten()
        return [found[name] for name in self.wanted]


def _random() -> Iterator[tuple[Tensor, Tensor]]:
    """Fixed random convolutions: the same in every process, whatever the random state."""
    generator, inputs = torch.Generator("cpu").manual_seed(0), 3
    for maps in RANDOM_CHANNELS:
        kernel = torch.randn(maps, inputs, 3, 3, generator=generator, dtype=torch.float32)
        yield kernel * (2 / (9 * inputs)) ** 0.5, torch.zeros(maps)
        inputs = maps


def _read(spec: Perceptual) -> Iterator[tuple[Tensor, Tensor]]:
    """Kernel and bias of each convolution of a VGG, in their order.

    Raises:
        DeclarationError: there is no file, or it holds other things.
    """
    name = FILES[spec.network]
    path = Path(spec.weights) if spec.weights else Path(torch.hub.get_dir()) / "checkpoints" / name
    field = f"variant.likelihood.weights={spec.weights!r}" if spec.weights else "variant.likelihood.weights=null"
    if not path.is_file():
        raise DeclarationError(
            [
                f"{field}: {spec.network} needs its ImageNet weights, and there is no file {str(path)!r}. Download "
                f"https://download.pytorch.org/models/{name} to there, or to a place that weights names."
            ]
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        kernels = [key for key, value in state.items() if key.startswith("features.") and value.dim() == 4]
        found = [(state[key], state[key.removesuffix("weight") + "bias"]) for key in kernels]
    except Exception as error:  # noqa: BLE001 - whatever a file that is none of torchvision's makes torch raise
        raise DeclarationError([f"{field}: {str(path)!r} is no file of torchvision's weights ({error})."]) from None
    if len(found) != sum(BLOCKS[spec.network]):
        raise DeclarationError(
            [f"{field}: {str(path)!r} has {len(found)} convolutions, and {spec.network} {sum(BLOCKS[spec.network])}."]
        )
    yield from found


class PerceptualLikelihood(nn.Module):
    """The distance of phi(x) from phi(r)."""

    weight: Tensor

    def __init__(self, decoded: Decoded, features: Features, spec: Perceptual) -> None:
        super().__init__()
        self.decoded, self.features = decoded, features
        self.weights, self.pixel = spec.layer_weights(), spec.pixel

    def forward(self, z: Tensor, y: Tensor | None, given: Tensor | None) -> dist.Distribution:
        """p(x | z, y, given), up to a factor that depends on z."""
        (loc,) = self.decoded(z, y, given)
        return FeatureDistance(loc, self.features, self.weights, self.pixel)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Start D at the mean of the images x (N, channels, rows, columns)."""
        self.decoded.start_at(x.mean(0))
        self.decoded.shrink(START)


class FeatureDistance(dist.TorchDistribution):
    """exp(-distance of the features - distance of the pixels): no density, and its draws are its mean."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True
    support = constraints.independent(constraints.real, 3)

    def __init__(self, loc: Tensor, features: Features, weights: tuple[float, ...], pixel: float) -> None:
        """Keep the image D(z) (..., channels, rows, columns) and what compares it."""
        self.loc, self.features, self.weights, self.pixel = loc, features, weights, pixel
        super().__init__(loc.shape[:-3], loc.shape[-3:], validate_args=None)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FeatureDistance":
        """The same with larger batch dimensions."""
        loc = self.loc.expand(*batch_shape, *self.event_shape)
        return FeatureDistance(loc, self.features, self.weights, self.pixel)

    def log_prob(self, value: Tensor) -> Tensor:
        """The negative distance, nats."""
        found = -0.5 * self.pixel * (value - self.loc).square().flatten(-3).sum(-1)
        for weight, a, b in zip(self.weights, self.features(value), self.features(self.loc), strict=True):
            found = found - 0.5 * weight * (a - b).square().sum(-1)
        return found

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """D(z)."""
        return self.loc.expand(self._extended_shape(sample_shape))

    @property
    def mean(self) -> Tensor:
        """D(z)."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Zero, like that of its draws."""
        return torch.zeros_like(self.loc)

    def marginal(self, mask: Tensor) -> "FeatureDistance":
        """There is none: a feature depends on many pixels."""
        raise DeclarationError(["variant.likelihood: 'perceptual' compares whole images, and entries are missing."])
