"""What networks are made of: joins, linear layers and how they start, and layers that a condition modulates."""

import torch
from torch import Tensor, nn

from pyro_vae.networks.spec import ACTIVATIONS


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


def fill(x: Tensor, mask: Tensor | None) -> Tensor:
    """Missing entries become 0 before any arithmetic: NaN x 0 is NaN."""
    return x if mask is None else torch.where(mask, x, torch.zeros_like(x))


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


def zero[M: nn.Linear | nn.Conv2d](layer: M) -> M:
    """The layer with all its weights 0: what it adds to is unchanged at the start."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A linear layer; see `glorot`."""
    return glorot(nn.Linear(inputs, outputs, bias))


class Conditioned(nn.Module):
    """Abstract: a module of features h and a condition c (or None)."""


class Layers(nn.Sequential):
    """Modules one after another; those that are conditioned see c too."""

    def forward(self, h: Tensor, c: Tensor | None = None) -> Tensor:
        """The last features."""
        for layer in self:
            h = layer(h, c) if isinstance(layer, Conditioned | Layers) else layer(h)
        return h


class Film(Conditioned):
    """h -> (1 + gamma(c)) h + beta(c) for each feature, gamma and beta linear in c and 0 at the start.

    References:
        FiLM: Visual Reasoning with a General Conditioning Layer (Perez et al., 2018).
    """

    def __init__(self, conditions: int, features: int) -> None:
        super().__init__()
        self.output = zero(nn.Linear(conditions, 2 * features))

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        """Modulated features, of h (N, features) or feature maps (N, features, rows, columns), by c (N, conditions)."""
        gamma, beta = self.output(c).unflatten(-1, (2, -1)).unbind(-2)
        entries = (1,) * (h.dim() - c.dim())
        return (1 + gamma.reshape(*gamma.shape, *entries)) * h + beta.reshape(*beta.shape, *entries)


def film(conditions: int, features: int) -> list[nn.Module]:
    """What modulates features by a condition of some width; nothing for 0."""
    return [Film(conditions, features)] if conditions else []


class Gated(nn.Module):
    """h -> (W h + b) * sigmoid(V h + c).

    References:
        Language Modeling with Gated Convolutional Networks (Dauphin et al., 2017).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.value, self.gate = linear(inputs, outputs), linear(inputs, outputs)

    def forward(self, h: Tensor) -> Tensor:
        """Features (..., outputs) of h (..., inputs)."""
        return self.value(h) * self.gate(h).sigmoid()


def dense(
    inputs: int,
    widths: tuple[int, ...],
    activation: str,
    *,
    conditions: int = 0,
    gated: bool = False,
    norm: str = "none",
    dropout: float = 0.0,
) -> Layers:
    """Linear layers of the given widths, each followed by the activation; no layer at all for ().

    Args:
        inputs: width of h.
        widths: of each layer.
        activation: word of `ACTIVATIONS`; without a meaning where layers are gated.
        conditions: width of the condition that modulates each layer, 0 for none.
        gated: a gate in place of the activation.
        norm: `batch` (rows (N, inputs) only), `layer` or `none`, before the activation.
        dropout: share of features zeroed after the activation.
    """
    layers: list[nn.Module] = []
    for width in widths:
        # A bias that batch normalisation takes away again would only be noise.
        layers.append(Gated(inputs, width) if gated else linear(inputs, width, bias=norm != "batch"))
        if norm != "none":
            layers.append(nn.BatchNorm1d(width) if norm == "batch" else nn.LayerNorm(width))
        layers += film(conditions, width)
        layers += [] if gated else [ACTIVATIONS[activation]()]
        layers += [nn.Dropout(dropout)] if dropout else []
        inputs = width
    return Layers(*layers)
