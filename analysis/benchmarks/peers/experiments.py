"""The settings of `training_speed.py` as experiments of the package, and the weights that every side starts from."""

from pathlib import Path

import numpy as np
import torch
from peers.worker import RATE, Setting
from torch import nn

import pyro_vae as pv
from pyro_vae.batches import build
from pyro_vae.data import load
from pyro_vae.launch import initialise


def experiment(setting: Setting, precision: str = "float32") -> pv.Experiment:
    """The declaration of a setting."""
    if setting.dense:
        *widths, dim = setting.sizes[1:]
        networks = {"encoder": pv.MLP(widths=widths), "decoder": pv.MLP(widths=widths[::-1])}
        variant = pv.Variant(latent=pv.Latent(dim=dim), likelihood=pv.Bernoulli(), **networks)
        objective = pv.ELBO() if setting.particles == 1 else pv.IWAE(num_particles=setting.particles)
        data = pv.ArraysData(binarize="dynamic", validation=0)
    elif setting.network == "conv-2d":
        named = pv.load_experiment("conv-2d")
        variant, objective, data = named.variant, named.objective, pv.ArraysData(validation=0)
    else:
        network = pv.ResNet(channels=[32, 64, 128])
        likelihood = pv.Bernoulli(grey=True)
        variant = pv.Variant(latent=pv.Latent(dim=32), likelihood=likelihood, encoder=network, decoder=network)
        objective, data = pv.ELBO(), pv.ArraysData(validation=0)
    training = pv.Training(
        epochs=1000, batch_size=setting.batch, optimizer=pv.Optimizer(learning_rate=RATE), precision=precision
    )
    return pv.Experiment(variant=variant, objective=objective, data=data, training=training)


def loaded(setting: Setting, images: np.ndarray, device: str, precision: str = "float32") -> tuple:
    """(experiment, data, vae) as `pyro_vae.train` makes them, before the first step.

    Two hidden layers in a row train for a while without using z, and leave that plateau at a step that depends on the
    noise alone. With the larger weights of He et al. (2015) it comes after those steps in which losses are compared.
    """
    declared = experiment(setting, precision)
    data = load(declared.data, declared.seed, pv.Arrays(images, test=pv.Arrays(images[:16])))
    vae = build(declared, data, torch.device(device))
    initialise(vae, data, declared, torch.device(device))
    if setting.dense:
        torch.manual_seed(0)
        for layer in (*_linear(vae.body), *_linear(vae.likelihood)[:-1]):
            drawn = torch.empty(layer.weight.shape)  # on the CPU, so that they are the same for every device
            layer.weight.data.copy_(nn.init.kaiming_uniform_(drawn, nonlinearity="relu"))
    return declared, data, vae


def _linear(module: nn.Module) -> list[nn.Linear]:
    """Its dense layers, in the order in which they are passed."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def write_weights(setting: Setting, images: np.ndarray, path: Path) -> None:
    """The initial weights of dense layers, encoder first, in the order in which they are passed."""
    _, _, vae = loaded(setting, images, "cpu")
    layers = [layer for part in (vae.body, vae.heads, vae.likelihood) for layer in _linear(part)]
    arrays = [tensor.detach().numpy() for layer in layers for tensor in (layer.weight, layer.bias)]
    np.savez(path, *arrays)
