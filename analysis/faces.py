"""Faces: train on 30 of the 40 Olivetti persons, put glasses and smiles on the others, and check that it worked.

    python analysis/faces.py [key=value ...]

The check of `notebooks/07_faces.ipynb`, with three kinds of directions and three kinds of person classifiers, in four
folds of ten held-out persons. The faces are looked for in $PYRO_VAE_DATA/olivetti/olivetti.npz (arrays `images`
(400, 64, 64), `person`, `glasses`, `smile`).
"""

import os
import sys
from functools import partial

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline

import pyro_vae as pv
from pyro_vae.plots import save

DECLARED = ["data=arrays", "data.validation=0", "latent.dim=32", "training.epochs=100"]
DECLARED += ["encoder={kind: mlp, widths: [256]}", "decoder={kind: mlp, widths: [256]}"]
ATTRIBUTES, FOLDS, STEP, RANDOM = ("glasses", "smile"), 4, 2.0, 40
DISCRIMINANT = partial(LinearDiscriminantAnalysis, solver="eigen", shrinkage="auto")
FINDS = {
    "differences within persons": lambda z, a, person: pv.mean_difference(z, a, person),
    "difference of means": lambda z, a, person: pv.mean_difference(z, a),
    "classifier's normal": lambda z, a, person: pv.classifier_normal(z, a),
}
PERSONS = ("fisherfaces", "logistic regression", "linear discriminant")


def arrays(fold):
    """The faces of 30 persons to learn from, and those of the 10 others."""
    folder = os.environ.get("PYRO_VAE_DATA")
    if not folder:
        sys.exit("PYRO_VAE_DATA: names no folder; set it to the one that holds olivetti/olivetti.npz.")
    faces = np.load(f"{folder}/olivetti/olivetti.npz")
    test = np.isin(faces["person"], np.random.default_rng(0).permutation(40)[10 * fold : 10 * fold + 10])
    names = ("person", *ATTRIBUTES)
    parts = [(faces["images"][w][:, None], {n: faces[n][w].astype(int) for n in names}) for w in (~test, test)]
    return pv.Arrays(*parts[0], test=pv.Arrays(*parts[1]))


def flat(x):
    return x.flatten(1).numpy()


def pictures(run, split):
    """Photographs of a split and their reconstructions, as rows, and their attributes, twice over."""
    batch = run.batch(split)
    x = np.concatenate([flat(batch.x), flat(run.decode(run.locate(batch)))])
    return x, {name: np.tile(y.numpy(), 2) for name, y in getattr(run.data, split).attributes.items()}


class Fisherfaces:
    """The nearest mean of the test persons, in the discriminant space of the training persons.

    References:
        Eigenfaces vs. Fisherfaces: Recognition Using Class Specific Linear Projection
        (Belhumeur, Hespanha & Kriegman, 1997).
    """

    def __init__(self, run):
        (x, known), (gallery, persons) = pictures(run, "train"), pictures(run, "test")
        self.space = make_pipeline(PCA(100, random_state=0), DISCRIMINANT()).fit(x, known["person"])
        self.nearest = NearestCentroid().fit(self.space.transform(gallery), persons["person"])

    def predict(self, x):
        return self.nearest.predict(self.space.transform(x))


def recognisers(run):
    """Person classifiers: one that knows from other persons what does not matter, and two of the test persons alone."""
    x, known = pictures(run, "test")
    own = {"logistic regression": LogisticRegression(C=1.0, max_iter=3000), "linear discriminant": DISCRIMINANT()}
    fitted = {
        what: make_pipeline(PCA(60, random_state=0), classifier).fit(x, known["person"])
        for what, classifier in own.items()
    }
    return {"fisherfaces": Fisherfaces(run), **fitted}


def measured(run, name, find):
    """For each face without: the attribute's probability, and who is recognised: before, after, after random steps."""
    z, without = run.locate(run.batch("train")).z, (run.data.test.attributes[name] == 0).nonzero().flatten()
    asked, own = run.locate(run.batch("test"))[without], run.data.test.attributes["person"][without].numpy()
    v = find(z, run.data.train.attributes[name], run.data.train.attributes["person"])
    spread, even = torch.randn(RANDOM, len(z)) @ (z - z.mean(0)), torch.randn(RANDOM, z.shape[1])
    steps = (0 * v, v, *(u / u.norm() * v.norm() for u in (*spread, *even)))
    images = [flat(run.decode(pv.edit(asked, u, [STEP]))[0]) for u in steps]
    x, known = pictures(run, "train")
    sees = make_pipeline(PCA(60, random_state=0), LogisticRegression(C=0.01, max_iter=3000)).fit(x, known[name])
    found = {"before": sees.predict_proba(images[0])[:, 1], "after": sees.predict_proba(images[1])[:, 1]}
    for what, who in recognisers(run).items():
        same = [who.predict(x) == own for x in images]
        found |= {f"{what}, before": same[0], f"{what}, after": same[1]}
        found |= {f"{what}, random": np.mean(same[2 : 2 + RANDOM], 0), f"{what}, even": np.mean(same[2 + RANDOM :], 0)}
    return found


def share(values):
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values) / len(values) ** 0.5:.1f} %"


def told(name, kind, found):
    p, q = found["before"], found["after"]
    print(f"\n{name}, {kind}, {len(p)} faces without, step {STEP} v")
    print(f"  probability rises for {share(q > p)}, from {p.mean():.2f} to {q.mean():.2f}")
    for what in PERSONS:
        before, after, random, even = (found[f"{what}, {when}"] for when in ("before", "after", "random", "even"))
        print(f"  person by {what}: before {share(before)}, after {share(after)}")
        print(f"    after a random step, spread as the codes are {share(random)}; difference {share(after - random)}")
        print(f"    after a random step, spread evenly           {share(even)}; difference {share(after - even)}")


def picture(run, name, find):
    """Some of the held-out faces without the attribute, on the way towards it."""
    without = (sum(run.data.test.attributes[a] for a in ATTRIBUTES) == 0).nonzero().flatten()[::15]
    known = run.data.train.attributes
    v = find(run.locate(run.batch("train")).z, known[name], known["person"])
    alphas = torch.linspace(-1, 2, 7)
    rows = run.decode(pv.edit(run.locate(run.batch("test"))[without], v, alphas)).movedim(0, 1).flatten(0, 1)
    title = f"persons never seen in training: E[x | z + alpha v], v towards {name}, alpha below"
    return pv.data_figure(rows.numpy(), title, columns=7, column_labels=[f"{a:g}" for a in alphas.tolist()])


def main():
    torch.manual_seed(0)
    experiment = pv.load_experiment("face-grey", [*DECLARED, *sys.argv[1:]])
    runs = [pv.train(experiment, data=arrays(fold), name=f"faces-{fold}", num_samples=100) for fold in range(FOLDS)]
    print(pv.card_text(runs[0].result))
    for name in ATTRIBUTES:
        print(save(picture(runs[0], name, FINDS["differences within persons"]), runs[0].directory / f"{name}.png"))
        for kind, find in FINDS.items():
            parts = [measured(run, name, find) for run in runs]
            told(name, kind, {key: np.concatenate([part[key] for part in parts]) for key in parts[0]})


if __name__ == "__main__":
    try:
        main()
    except pv.DeclarationError as error:
        sys.exit(str(error))
