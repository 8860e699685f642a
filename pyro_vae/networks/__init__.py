"""Networks: the maps between data, features and parameters of distributions.

An *encoder body* maps a batch of data to features, once per batch:

    h = body(x, mask, given)            x (B, *event) -> h (B, features)

A *decoder* maps the concatenated conditions of one particle to `outputs` numbers per entry of the datum:

    r = decoder(c)                      c (..., inputs) -> r (..., outputs, *event)

with any leading batch dimensions (C, K, B), which it broadcasts over and never adds to or sums.
"""

from pyro_vae.networks.conv import Conv
from pyro_vae.networks.layers import dense, fill, glorot, join, linear
from pyro_vae.networks.mlp import MLP
from pyro_vae.networks.resnet import ResNet
from pyro_vae.networks.spec import ACTIVATIONS, Activation, Network, Shape
from pyro_vae.specs import Table

NETWORKS = Table("network", Network, MLP, Conv, ResNet)

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "NETWORKS",
    "Activation",
    "Conv",
    "Network",
    "ResNet",
    "Shape",
    "dense",
    "fill",
    "glorot",
    "join",
    "linear",
]
