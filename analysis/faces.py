"""Faces: train on 30 of the 40 Olivetti persons, put glasses and smiles on the others, and check that it worked.

    python analysis/faces.py [key=value ...]

The run of `notebooks/07_faces.ipynb`, with both kinds of directions and two kinds of person classifiers. The faces are
looked for in $PYRO_VAE_DATA/olivetti/olivetti.npz (arrays `images` (400, 64, 64), `person`, `glasses`, `smile`).
"""

import os
import sys

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import pyro_vae as pv
from pyro_vae.plots import save

DECLARED = ["data=arrays", "data.validation=0", "latent.dim=32", "training.epochs=300"]
DECLARED += ["encoder={kind: mlp, widths: [256]}", "decoder={kind: mlp, widths: [256]}"]
NAMES = ("person", "glasses", "smile")
STEP, RANDOM = 1.5, 40
FINDS = {"classifier's normal": pv.classifier_normal, "difference of means": pv.mean_difference}
PERSONS = {
    "logistic regression": LogisticRegression(C=1.0, max_iter=3000),
    "linear discriminant": LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto"),
}


def read():
    """The faces of 30 persons to learn from, and those of the 10 others."""
    folder = os.environ.get("PYRO_VAE_DATA")
    if not folder:
        sys.exit("PYRO_VAE_DATA: names no folder; set it to the one that holds olivetti/olivetti.npz.")
    faces = np.load(f"{folder}/olivetti/olivetti.npz")
    test = np.isin(faces["person"], np.random.default_rng(0).permutation(40)[:10])
    parts = [(faces["images"][w][:, None], {name: faces[name][w].astype(int) for name in NAMES}) for w in (~test, test)]
    return pv.Arrays(*parts[0], test=pv.Arrays(*parts[1]))


def flat(x):
    return x.flatten(1).numpy()


def reduced(classifier):
    return make_pipeline(PCA(60, random_state=0), classifier)


def share(values):
    return f"{100 * np.mean(values):5.1f} ± {100 * np.std(values) / len(values) ** 0.5:.1f} %"


def check(run, name):
    """Is the attribute seen after a step, and is the person still the same? Says so; yields pictures."""
    known, asked = run.locate(run.batch("train")), run.locate(run.batch("test"))
    attribute, there = run.data.train.attributes[name], run.data.test.attributes[name]
    photographs = np.concatenate([flat(run.batch("train").x), flat(run.decode(known))])
    sees = reduced(LogisticRegression(C=0.01, max_iter=3000)).fit(photographs, np.tile(attribute.numpy(), 2))
    without = (there == 0).nonzero().flatten()
    persons, own = run.data.test.attributes["person"].numpy(), run.data.test.attributes["person"][without].numpy()
    spread = torch.distributions.MultivariateNormal(torch.zeros(known.z.shape[1]), torch.cov(known.z.T))
    print(f"\n{name}: {len(without)} faces without, step {STEP} v")
    for kind, find in FINDS.items():
        v = find(known.z, attribute)
        others = spread.sample((RANDOM,))
        others = others / others.norm(dim=1, keepdim=True) * v.norm()
        before, after = (flat(run.decode(pv.edit(asked[without], v, [a]))[0]) for a in (0, STEP))
        p, q = (sees.predict_proba(x)[:, 1] for x in (before, after))
        print(f"  {kind}: probability rises for {share(q > p)}, from {p.mean():.2f} to {q.mean():.2f}")
        random = [flat(run.decode(pv.edit(asked[without], r, [STEP]))[0]) for r in others]
        for what, classifier in PERSONS.items():
            who = reduced(classifier).fit(flat(run.batch("test").x), persons)
            here, there_ = who.predict(after) == own, np.mean([who.predict(x) == own for x in random], 0)
            plain = share(who.predict(before) == own)
            print(f"    person by {what}: {plain} before, {share(here)} after,", end=" ")
            print(f"{share(there_)} after random steps; difference {share(here - there_)}")
        rows = run.decode(pv.edit(asked[without[::14]], v, torch.linspace(-1, 2, 7))).movedim(0, 1).flatten(0, 1)
        heads = [f"{a:g}" for a in torch.linspace(-1, 2, 7).tolist()]
        title = f"persons never seen: E[x | z + alpha v], v towards {name}"
        yield f"{name}-{kind.split()[0]}", pv.data_figure(rows.numpy(), title, columns=7, column_labels=heads)


def main():
    torch.manual_seed(0)
    experiment = pv.load_experiment("face-grey", [*DECLARED, *sys.argv[1:]])
    run = pv.train(experiment, data=read(), name="faces", num_samples=100)
    print(pv.card_text(run.result))
    for name in ("glasses", "smile"):
        for stem, figure in check(run, name):
            print(save(figure, run.directory / f"{stem}.png"))


if __name__ == "__main__":
    try:
        main()
    except pv.DeclarationError as error:
        sys.exit(str(error))
