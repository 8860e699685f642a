"""Multilayer perceptrons."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from pyro_vae.networks.spec import Activation, Network, Shape, dense, fill, join, linear
from pyro_vae.specs import Count, Seq


class MLP(Network):
    """A multilayer perceptron: h_{i+1} = activation(W_i h_i + b_i); `widths: []` is a linear map."""

    kind: Literal["mlp"] = "mlp"
    widths: Seq[Count] = (400, 400)
    """Width of each hidden layer."""
    activation: Activation = "relu"
    """Nonlinearity after each hidden layer."""

    def body(self, shape: Shape) -> "MLPBody":
        """Build the body: x, its mask and the covariates, flattened, through the hidden layers."""
        return MLPBody(self, shape)

    def decoder(self, inputs: int, shape: Shape, outputs: int) -> "MLPDecoder":
        """Build the decoder: hidden layers and a linear map to `outputs` numbers per entry."""
        return MLPDecoder(self, inputs, shape, outputs)


class MLPBody(nn.Module):
    """h = layers([x, mask, given])."""

    def __init__(self, spec: MLP, shape: Shape) -> None:
        super().__init__()
        inputs = math.prod(shape.x) * (2 if shape.masked else 1) + shape.given
        self.masked = shape.masked
        self.layers = dense(inputs, spec.widths, spec.activation)
        self.features = spec.widths[-1] if spec.widths else inputs

    def forward(self, x: Tensor, mask: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        """Features h (B, features) of x (B, *event)."""
        parts = [fill(x, mask).flatten(1), given]
        if self.masked:
            seen = torch.ones_like(x) if mask is None else mask.to(x.dtype)
            parts.insert(1, seen.flatten(1))
        return self.layers(join(*parts)).to(x.dtype)


class MLPDecoder(nn.Module):
    """r = W layers(c) + b, shaped like x."""

    def __init__(self, spec: MLP, inputs: int, shape: Shape, outputs: int) -> None:
        super().__init__()
        self.event = (outputs, *shape.x)
        width = spec.widths[-1] if spec.widths else inputs
        self.layers = dense(inputs, spec.widths, spec.activation)
        self.output = linear(width, math.prod(self.event))

    def forward(self, c: Tensor) -> Tensor:
        """Numbers (..., outputs, *event) from conditions c (..., inputs)."""
        return self.output(self.layers(c)).unflatten(-1, self.event).to(c.dtype)

    @torch.no_grad()
    def start_at(self, r: Tensor) -> None:
        """Begin with outputs around r (outputs, *event): as the bias of the last layer."""
        self.output.bias.copy_(r.flatten())
