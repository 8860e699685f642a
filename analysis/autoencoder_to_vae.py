"""From the autoencoder to the VAE, as a plain script: train both, vary beta and sigma, and save the pictures.

    python analysis/autoencoder_to_vae.py [key=value ...]

The main runs of `notebooks/05_from_autoencoder_to_vae.ipynb`, on all of MNIST, which is looked for in
$PYRO_VAE_DATA, then downloaded; `data=digits training.epochs=100` uses the embedded digits instead. Words given
here hold for every run.
"""

import sys
import time
from pathlib import Path

import torch

import pyro_vae as pv
from pyro_vae.plots import save

DECLARED = ["data=mnist", "training.epochs=5", "training.batch_size=128", "training.optimizer.learning_rate=2e-3"]
TWO = ["latent.dim=2", "encoder.widths=[256, 64]", "decoder.widths=[64, 256]"]
RUNS = {
    "autoencoder": ("autoencoder", *TWO),
    "vae": ("vae-sigma", *TWO),
    "sigma-learned": ("vae-sigma",),
    "sigma-0.05": ("vae-gaussian", "likelihood.scale=0.05"),
    "sigma-0.1": ("vae-gaussian", "likelihood.scale=0.1"),
    "sigma-0.2": ("vae-gaussian", "likelihood.scale=0.2"),
    "beta-0.1": ("vae-gaussian", "objective.beta=0.1"),
    "beta-4": ("vae-gaussian", "objective.beta=4"),
    "beta-16": ("vae-gaussian", "objective.beta=16"),
    "bernoulli-grey": ("vae-bernoulli", "likelihood.grey=true", "data.binarize=none"),
    "logistic-bins": ("vae-sigma", "likelihood={{kind: discretized_logistic, components: 2, levels: {levels}}}"),
}


def train(folder, name):
    variant, *words = RUNS[name]
    experiment = pv.load_experiment(variant, [*DECLARED, *sys.argv[1:]])
    known = experiment.data.declared()
    words = [*DECLARED, *(word.format(levels=known.levels if known else 256) for word in words), *sys.argv[1:]]
    return pv.train(pv.load_experiment(variant, words), out=folder / name, name=name, num_samples=20)


def figure_of(result, key):
    term = result[key]
    return f"{'none':>16}" if term is None else f"{term['value']:9.1f} ± {term['standard_error']:4.1f}"


def pictures(runs):
    plain, vae = runs["autoencoder"], runs["vae"]
    for name, run in (("autoencoder", plain), ("vae", vae)):
        codes = run.encode(run.batch("test")).mean["z"].numpy()
        yield f"codes-{name}", pv.latent_scatter(codes, run.data.test.attributes["digit"].numpy()).figure
        grid = run.decode(run.manifold(15)).flatten(0, 1).clamp(0, 1)
        yield f"grid-{name}", pv.data_figure(grid.numpy(), f"{name}: E[x | z], a grid over N(0, I)", columns=15)
    rows, names = [], []
    for name, run in list(runs.items())[2:]:
        x, mean, _ = run.sample(12)
        rows, names = [*rows, mean, x], [*names, f"{name}: E[x | z]", "x ~ p(x | z)"]
    pixels = torch.cat(rows).clamp(0, 1).numpy()
    yield "samples", pv.data_figure(pixels, "z from the prior", columns=12, row_labels=names)


def main():
    folder = Path("runs") / f"autoencoder-to-vae-{time.strftime('%Y%m%d-%H%M%S')}"
    runs = {name: train(folder, name) for name in RUNS}
    print(f"{'nats per test image':22}{'E_q[log p(x | z)]':>18}{'KL':>18}{'ELBO':>18}")
    for name, run in runs.items():
        print(f"{name:22}" + "".join(f"{figure_of(run.result, key):>18}" for key in ("reconstruction", "kl", "elbo")))
    for name, figure in pictures(runs):
        print(save(figure, folder / f"{name}.png"))


if __name__ == "__main__":
    try:
        main()
    except pv.DeclarationError as error:
        sys.exit(str(error))
