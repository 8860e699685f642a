"""`diagnose` on runs of every kind: what applies is answered, what does not is said, and nothing breaks."""

import pytest
from test_verdict import PACE

import pyro_vae as pv
from pyro_vae.diagnosis import everything

pytestmark = pytest.mark.slow

SMALL = ["encoder.widths=[16]", "decoder.widths=[16]", "training.epochs=2", "training.batch_size=256"]
MODEL = {"importance", "reference", "annealing", "bidirectional", "gaps", "calibration", "aggregate", "predictive"}
TWO_LAYERS = [
    "latent=[{dim: 3}, {dim: 2}]",
    "prior=[{kind: normal, widths: [8]}, {kind: standard_normal}]",
]

KINDS = {
    "layers, bottom up": ("digits", [*TWO_LAYERS, "guide=bottom_up_normal"], MODEL),
    "layers, ladder": ("digits", [*TWO_LAYERS, "guide=ladder"], MODEL),
    "labels partly": (
        "digits",
        ["labels={digit: {classes: 10, observed: partly, rule: guide}}", "data.labels_kept=200"],
        MODEL | {"labels"},
    ),
    "labels never": ("digits", ["labels={digit: {classes: 3, observed: never}}"], MODEL),
    "labels always, learned prior": (
        "digits",
        ["labels={digit: {classes: 10, observed: always}}", "prior={kind: normal, widths: [8]}"],
        MODEL | {"labels"},
    ),
    "missing pixels": ("digits", ["data.missing=0.3"], MODEL),
    "a shown quadrant": ("cvae-quadrants", ["latent.dim=3"], MODEL),
    "a point guide": (
        "digits",
        ["guide=point", "likelihood=normal", "data.binarize=none"],
        {"reference", "annealing", "bidirectional", "aggregate", "predictive"},
    ),
    "grey pixels in a Bernoulli": (
        "digits",
        ["data.binarize=none", "likelihood.grey=true"],
        {"aggregate", "predictive"},
    ),
    "categorical": ("digits", ["latent={kind: categorical, dim: 3, classes: 4}"], {"importance", "aggregate"}),
    "flow": ("digits", ["guide={kind: flow, widths: [16]}", "prior={kind: flow, widths: [16]}"], MODEL),
    "counts": ("counts", ["latent.dim=3"], MODEL),
}


@pytest.mark.parametrize("kind", KINDS)
def test_diagnose(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(everything, "measured", lambda *_: PACE)
    name, words, sections = KINDS[kind]
    run = pv.train(pv.load_experiment(name, [*SMALL, *words]), out=tmp_path / "run", quiet=True, num_samples=10)
    found = pv.diagnose(run, range(3), 100, 500.0)
    assert set(found.numbers["sections"]) >= sections
    assert set(found.numbers["sections"]) | set(found.numbers["skipped"]) >= MODEL
    if found.numbers["skipped"]:
        assert all("budget" not in why for why in found.numbers["skipped"].values())
        assert "not asked: " in str(found)
    assert (run.directory / "posterior.nc").is_file()
    assert len(list((run.directory / "plots").glob("*.png"))) == len(found.figures) > 0
