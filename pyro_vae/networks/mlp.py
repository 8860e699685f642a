"""Multilayer perceptrons."""

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pyro_vae.networks.conditions import Conditions
from pyro_vae.networks.layers import Layers, dense, fill, join, linear
from pyro_vae.networks.spec import Activation, Conditioning, Network, Shape
from pyro_vae.specs import Count, Seq


class MLP(Network):
    """A multilayer perceptron: h_{i+1} = activation(W_i h_i + b_i); `widths: []` is a linear map.

    With `gated: true` a layer is (W h + b) * sigmoid(V h + c). Normalisation comes after W, then the modulation
    of `conditioning: film`, then the activation, then dropout.

    Batch normalisation takes its mean and variance over all rows of a batch: data, particles and classes. It so
    ties data together, and the loss of a datum depends on the others in its batch: in training, no bound holds
    datum by datum. In evaluation the running mean and variance stand in.

    References:
        Language Modeling with Gated Convolutional Networks (Dauphin et al., 2017).
        FiLM: Visual Reasoning with a General Conditioning Layer (Perez et al., 2018).
    """

    kind: Literal["mlp"] = "mlp"
    widths: Seq[Count] = (400, 400)
    """Width of each hidden layer."""
    activation: Activation = "relu"
    """Nonlinearity after each hidden layer."""
    gated: bool = False
    """A learned gate in place of the activation."""
    norm: Literal["none", "batch", "layer"] = "none"
    """Normalise each hidden layer: over the batch (it ties data together), or over the features of a datum."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of hidden features zeroed in training."""
    conditioning: Conditioning = "concat"
    """How labels and covariates enter: joined to the input, or scaling and shifting every hidden layer (`film`)."""
    embedding: Count | None = None
    """Width of a learned linear map that labels and covariates pass first."""

    @model_validator(mode="after")
    def _fields_fit(self) -> "MLP":
        found = []
        if self.gated and self.activation != MLP.model_fields["activation"].default:
            found.append(
                f"activation={self.activation}: a gate stands in place of the activation; leave it out, "
                "or set gated=false"
            )
        if not self.widths and self.conditioning == "film":
            found.append("conditioning=film: widths=[] has no hidden layer to scale and shift; give one, or use concat")
        if found:
            raise ValueError("\n".join(found))
        return self

    def body(self, shape: Shape) -> "MLPBody":
        """Build the body: x, its mask and the covariates, flattened, through the hidden layers."""
        return MLPBody(self, shape)

    def decoder(self, inputs: int, shape: Shape, outputs: int) -> "MLPDecoder":
        """Build the decoder: hidden layers and a linear map to `outputs` numbers per entry."""
        return MLPDecoder(self, inputs, shape, outputs)

    def hidden(self, inputs: int, conditions: int) -> Layers:
        """The hidden layers."""
        return dense(
            inputs,
            self.widths,
            self.activation,
            conditions=conditions,
            gated=self.gated,
            norm=self.norm,
            dropout=self.dropout,
        )


class MLPBody(nn.Module):
    """h = layers([x, mask, given])."""

    def __init__(self, spec: MLP, shape: Shape) -> None:
        super().__init__()
        self.masked = shape.masked
        self.conditions = Conditions("encoder", shape.given, spec.conditioning, spec.embedding)
        inputs = math.prod(shape.x) * (2 if shape.masked else 1) + self.conditions.joined
        self.layers = spec.hidden(inputs, self.conditions.modulating)
        self.features = spec.widths[-1] if spec.widths else inputs

    def forward(self, x: Tensor, mask: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        """Features h (B, features) of x (B, *event)."""
        joined, modulating = self.conditions(given)
        parts = [fill(x, mask).flatten(1), joined]
        if self.masked:
            seen = torch.ones_like(x) if mask is None else mask.to(x.dtype)
            parts.insert(1, seen.flatten(1))
        return self.layers(join(*parts), modulating).to(x.dtype)


class MLPDecoder(nn.Module):
    """r = W layers(c) + b, shaped like x."""

    def __init__(self, spec: MLP, inputs: int, shape: Shape, outputs: int) -> None:
        super().__init__()
        self.event = (outputs, *shape.x)
        known = shape.y + shape.given
        self.conditions = Conditions("decoder", known, spec.conditioning, spec.embedding)
        inputs += self.conditions.joined - known
        self.layers = spec.hidden(inputs, self.conditions.modulating)
        self.output = linear(spec.widths[-1] if spec.widths else inputs, math.prod(self.event))

    def forward(self, c: Tensor) -> Tensor:
        """Numbers (..., outputs, *event) from conditions c (..., inputs)."""
        z, joined, modulating = self.conditions.split(c.reshape(-1, c.shape[-1]))  # rows: batch norm knows no others
        r = self.output(self.layers(join(z, joined), modulating))
        return r.reshape(*c.shape[:-1], *self.event).to(c.dtype)

    @torch.no_grad()
    def start_at(self, r: Tensor) -> None:
        """Begin with outputs around r (outputs, *event): as the bias of the last layer."""
        self.output.bias.copy_(r.flatten())

    @torch.no_grad()
    def shrink(self, factor: float) -> None:
        """Begin nearer to where `start_at` said: the weights of the last layer times a factor."""
        self.output.weight.mul_(factor)
