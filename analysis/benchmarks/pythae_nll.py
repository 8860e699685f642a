"""A VAE of pythae with given weights, whose `get_nll` computes when it is asked; started by `evaluation_speed.py`.

    python analysis/benchmarks/pythae_nll.py WEIGHTS.npz DEVICE THREADS

The file holds x (N, 784), the encoder's and the decoder's layers in order as encoder.0.weight, encoder.0.bias, ..., and
the activation. For every line {"first", "count", "samples", "batch"} on stdin it prints {"seconds", "values"}: log p(x)
of each of these data. Needs pythae and torch, and nothing of pyro_vae: an environment of its own.
"""

import json
import sys
import time
from importlib.metadata import version

import numpy as np
import torch
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import nn


def layers(arrays: dict[str, np.ndarray], part: str) -> list[nn.Linear]:
    """The linear layers of a part."""
    found = []
    while f"{part}.{len(found)}.weight" in arrays:
        weight, bias = (torch.from_numpy(arrays[f"{part}.{len(found)}.{name}"]) for name in ("weight", "bias"))
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight.data, layer.bias.data = weight, bias
        found.append(layer)
    return found


class Encoder(BaseEncoder):
    def __init__(self, linear: list[nn.Linear], activation: type[nn.Module]) -> None:
        BaseEncoder.__init__(self)
        self.network = nn.Sequential(*(module for layer in linear[:-1] for module in (layer, activation())), linear[-1])

    def forward(self, x: torch.Tensor) -> ModelOutput:
        mu, log_variance = self.network(x.reshape(len(x), -1)).chunk(2, -1)
        return ModelOutput(embedding=mu, log_covariance=log_variance)


class Decoder(BaseDecoder):
    def __init__(self, linear: list[nn.Linear], activation: type[nn.Module]) -> None:
        BaseDecoder.__init__(self)
        hidden = (module for layer in linear[:-1] for module in (layer, activation()))
        self.network = nn.Sequential(*hidden, linear[-1], nn.Sigmoid())

    def forward(self, z: torch.Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.network(z))


def main() -> None:
    arrays, device = dict(np.load(sys.argv[1])), sys.argv[2]
    torch.set_num_threads(int(sys.argv[3]))
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[str(arrays["activation"])]
    encoder, decoder = layers(arrays, "encoder"), layers(arrays, "decoder")
    config = VAEConfig(input_dim=(arrays["x"].shape[1],), latent_dim=decoder[0].in_features, reconstruction_loss="bce")
    model = VAE(config, Encoder(encoder, activation), Decoder(decoder, activation)).to(device).eval()
    x = torch.from_numpy(arrays["x"]).to(device)
    print(json.dumps({"pythae": version("pythae"), "torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        some = x[asked["first"] : asked["first"] + asked["count"]]
        start = time.perf_counter()
        with torch.no_grad():
            values = [float(model.get_nll(x[None], asked["samples"], asked["batch"])) for x in some]
        print(json.dumps({"seconds": time.perf_counter() - start, "values": values}), flush=True)


if __name__ == "__main__":
    main()
