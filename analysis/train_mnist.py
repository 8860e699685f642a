"""A first VAE as a plain script: train on MNIST, look at it, save the pictures in the run directory.

    python analysis/train_mnist.py [key=value ...]

The run of `notebooks/01_first_vae.ipynb`. MNIST is looked for in $PYRO_VAE_DATA, then downloaded;
`data=digits` uses the embedded digits instead.
"""

import sys

import arviz as az

import pyro_vae as pv
from pyro_vae.plots import save

DECLARED = ["data=mnist", "data.binarize=dynamic", "latent.dim=2", "training.epochs=15", "training.batch_size=128"]


def main() -> None:
    experiment = pv.load_experiment("vae-bernoulli", [*DECLARED, *sys.argv[1:]])
    run = pv.train(experiment, name="first-vae", num_samples=200)
    print(pv.card_text(run.result))

    batch = run.batch("test")
    first = run.batch("test", range(12))
    reconstructed = run.reconstruct(first).x_mean[0]
    pictures = {
        "curves": pv.training_curves(run.metrics).figure,
        "reconstructions": pv.data_figure(
            [*first.x.numpy(), *reconstructed.numpy()], "x above E[x | z]", columns=12, row_labels=("x", "E[x | z]")
        ),
        "samples": pv.data_figure(run.sample(64)[1].numpy(), "E[x | z], z from the prior"),
        "latent": pv.latent_scatter(run.encode(batch).mean["z"].numpy(), run.data.test.attributes["digit"]).figure,
    }
    for name, figure in pictures.items():
        print(save(figure, run.directory / f"{name}.png"))

    tree = run.posterior(num_draws=1000, observations=[0])
    print(az.summary(tree, kind="stats"))
    print(f"run: {run.directory}")


if __name__ == "__main__":
    try:
        main()
    except pv.DeclarationError as error:
        sys.exit(str(error))
