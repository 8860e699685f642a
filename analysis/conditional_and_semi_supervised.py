"""Labels that are given, few or invented, and parts of images that are missing: five runs, their cards and pictures.

    python analysis/conditional_and_semi_supervised.py [key=value ...]

The main runs of `notebooks/06_conditional_and_semi_supervised.ipynb`, all on the embedded digits. The words hold for
every run: `training.epochs=100`, or `data.name=mnist`, which is looked for in $PYRO_VAE_DATA, then downloaded.
"""

import sys

import torch

import pyro_vae as pv
from pyro_vae.classification import accuracy
from pyro_vae.plots import save

NETWORK = ["encoder.widths=[200]", "decoder.widths=[200]", "training.optimizer.learning_rate=2e-3"]
RUNS = {
    "cvae": ["latent.dim=3"],
    "m2": ["latent.dim=2", "data.labels_kept=100", "objective.classification=20"],
    "mixture-vae": ["latent.dim=5", "objective.warmup_epochs=15"],
    "cvae-quadrants": ["latent.dim=8", "prior.widths=[200]"],
    "missing-pixels": ["latent.dim=8"],
}


def classes(run):
    """Samples of every class or cluster, a column for each."""
    mean = run.sample(60, y=torch.arange(10).repeat(6))[1]
    return pv.data_figure(mean.numpy(), "E[x | z, y], a new z for each image; columns y = 0 ... 9", columns=10)


def analogies(run):
    """The style of test images with other labels; the images themselves on the left."""
    batch = run.batch("test", range(6))
    points = run.locate(batch)
    images = [batch.x, *(run.decode(pv.relabelled(run.vae, points, "digit", digit)) for digit in range(10))]
    return pv.data_figure(torch.stack(images, 1).flatten(0, 1).numpy(), "x; then E[x | z(x), y = 0 ... 9]", columns=11)


def filling(run):
    """What is seen of test images, and mean, sd and draws of the rest."""
    batch = run.batch("test", range(10))
    seen = batch.mask if run.data.shown is None else run.data.shown
    filled = run.impute(batch, num_draws=3)
    rows = [torch.where(seen, batch.x, 0.5), filled.mean, 2 * filled.sd, *filled.draws]
    names = ["seen", "mean", "2 x sd", "draw 1", "draw 2", "draw 3"]
    return pv.data_figure(torch.cat(rows).numpy(), "grey in `seen`: not seen", columns=10, row_labels=names)


def labels(run):
    """Known digits and the most probable ones by Bayes' rule; says how often they agree."""
    batch = run.batch("test", range(min(1000, len(run.data.test))))
    known = run.data.test.attributes["digit"][: batch.size]
    probability = run.classify(batch).marginal("digit")
    share, error = accuracy(probability, known)
    print(f"argmax p(digit | x) is the digit for {100 * share:.1f} ± {100 * error:.1f} % of {batch.size} test images")
    return pv.confusion_figure({"digit": (known.numpy(), probability.argmax(1).numpy())})


PICTURES = {
    "cvae": [classes, analogies, labels],
    "m2": [classes, analogies, labels],
    "mixture-vae": [classes],
    "cvae-quadrants": [filling],
    "missing-pixels": [filling],
}


def main():
    for name, words in RUNS.items():
        experiment = pv.load_experiment(name, [*NETWORK, "training.epochs=50", *words, *sys.argv[1:]])
        run = pv.train(experiment, name=name, num_samples=100)
        print(pv.card_text(run.result))
        for draw in PICTURES[name]:
            print(save(draw(run), run.directory / f"{draw.__name__}.png"))
        print(f"run: {run.directory}")


if __name__ == "__main__":
    try:
        main()
    except pv.DeclarationError as error:
        sys.exit(str(error))
