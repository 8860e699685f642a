"""A walk through a latent space as a plain script: train on MNIST, and save a picture of everything.

    python analysis/latent_space.py [key=value ...]

The main run of `notebooks/04_latent_space.ipynb`. MNIST is looked for in $PYRO_VAE_DATA, then downloaded;
`data=digits training.epochs=100` uses the embedded digits instead. For a run that exists already the commands
`pyro-vae interpolate`, `edit`, `manifold`, `sample` and `reconstruct` draw the same.
"""

import sys

import torch

import pyro_vae as pv
from pyro_vae.plots import save

DECLARED = ["data=mnist", "data.binarize=dynamic", "latent.dim=16", "training.epochs=12", "training.batch_size=128"]


def codes(run):
    """Where the test data lie, and what the dimensions are used for."""
    test, digit = run.batch("test"), run.data.test.attributes["digit"].numpy()
    points, used = run.locate(test), run.usage(test)
    axes = pv.principal_axes(points.z)
    yield "kl", pv.kl_per_dimension(used.kl.numpy()).figure
    yield "explained-variance", pv.explained_variance(axes.explained.numpy()).figure
    yield "principal-axes", pv.latent_scatter(axes.coordinates(points.z).numpy(), digit).figure
    yield "aggregate", pv.aggregate_scatter(run.reconstruct(test).z["z"][0].numpy()).figure
    best = used.kl.mean(0).topk(min(6, used.kl.shape[1])).indices.tolist()
    rows = run.decode(pv.traverse(points[:1], torch.linspace(-3, 3, 13), best)).flatten(0, 2)
    yield (
        "traversal",
        pv.data_figure(rows.numpy(), "z_d from -3 to 3", columns=13, row_labels=[f"z_{d}" for d in best]),
    )


def walks(run):
    """Ways between data, directions, and the grid of the prior."""
    few = run.batch("test", range(8))
    points, known = run.locate(few), run.locate(run.batch("train", range(min(5000, len(run.data.train)))))
    for kind in ("linear", "spherical"):
        way = run.decode(pv.interpolate(points[:3], 10, kind == "spherical"))
        yield kind, pv.data_figure(way.numpy(), f"E[x | z], {kind} interpolation of three images", columns=19)
    digit = run.data.train.attributes["digit"][: len(known)]
    attribute = torch.where(digit == 4, 1, torch.where(digit == 9, 0, -1))
    for name, find in (("means", pv.mean_difference), ("classifier", pv.classifier_normal)):
        moved = run.decode(pv.edit(points, find(known.z, attribute), torch.linspace(-1, 2, 10))).movedim(0, 1)
        yield f"edit-{name}", pv.data_figure(moved.flatten(0, 1).numpy(), "z + alpha v, from 9 to 4", columns=10)
    grid = run.decode(run.manifold(20, pv.principal_axes(known.z, 2).axes)).flatten(0, 1)
    yield "manifold", pv.data_figure(grid.numpy(), "E[x | z], quantiles along two principal axes", columns=20)
    near = pv.neighbours(points.z, known.z, 9)[0]
    rows = torch.cat([few.x[:, None], run.batch("train", near.flatten().tolist()).x.reshape(8, 9, *few.x.shape[1:])], 1)
    yield "neighbours", pv.data_figure(rows.flatten(0, 1).numpy(), "x and its nearest codes in training", columns=10)
    maps = (part.numpy() for part in (few.x, *run.predictive(few)))
    yield "uncertainty", pv.uncertainty_figure(*maps, title="the posterior predictive of each pixel")


def main():
    run = pv.train(
        pv.load_experiment("vae-bernoulli", [*DECLARED, *sys.argv[1:]]), name="latent-space", num_samples=200
    )
    print(pv.card_text(run.result))
    for name, figure in (*codes(run), *walks(run)):
        print(save(figure, run.directory / f"{name}.png"))
    print(run.report().path)


if __name__ == "__main__":
    try:
        main()
    except pv.DeclarationError as error:
        sys.exit(str(error))
