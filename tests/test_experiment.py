"""Experiments: named files, defaults, what fits together, schedules."""

import math

import numpy as np
import pytest

import pyro_vae as pv
from pyro_vae.data import load
from pyro_vae.experiment import check, dump, experiment_from, load_experiment, named
from pyro_vae.files import parse_yaml
from pyro_vae.specs import DeclarationError, Spec


def problems(*overrides, name="digits"):
    with pytest.raises(DeclarationError) as caught:
        load_experiment(name, list(overrides))
    return list(caught.value.problems)


# --------------------------------------------------------------------------------------------- named, defaults


def test_the_named_experiments_say_what_they_are():
    assert {"digits", "vae-bernoulli", "vae-gaussian", "vae-sigma", "beta-vae", "autoencoder"} <= set(named())
    for line in named().values():
        assert 20 < len(line) < 120
        assert line.endswith((".", ";")), line


@pytest.mark.parametrize("name", named())
def test_a_named_experiment_shows_every_default_and_is_read_back(name):
    experiment = load_experiment(name)
    text = dump(experiment)
    assert experiment_from(parse_yaml(text, "text")) == experiment
    assert list(_keys(parse_yaml(text, "text"))) == list(_fields(experiment))


def _keys(tree, path=""):
    """Dotted keys of a tree, down to mappings."""
    for key, value in tree.items():
        yield from _keys(value, f"{path}{key}.") if isinstance(value, dict) and value else [path + key]


def _fields(spec, path=""):
    """Dotted fields of a spec, down to specs."""
    for name in type(spec).model_fields:
        value = getattr(spec, name)
        if isinstance(value, dict) and value:  # label sites by name
            for key, site in value.items():
                yield from _fields(site, f"{path}{name}.{key}.")
        else:
            yield from _fields(value, f"{path}{name}.") if isinstance(value, Spec) else [path + name]


def test_the_empty_file_is_the_default_experiment():
    assert experiment_from({}) == pv.Experiment()


def test_a_file_a_name_or_neither(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("variant: {latent: {dim: 3}}\nseed: 5\n")
    assert load_experiment(str(path), ["seed=6"]) == pv.Experiment(variant=pv.Variant(latent=pv.Latent(dim=3)), seed=6)
    (tmp_path / "plain").write_text("seed: 5")
    assert load_experiment(str(tmp_path / "plain")).seed == 5
    for source, message in {
        "digts": "'digts': no variant of that name and no file. Did you mean 'digits'? `pyro-vae list` shows all.",
        "": "'': no variant of that name and no file. Known: ",
        str(tmp_path): f"'{tmp_path}': no variant of that name and no file.",
        "none.yaml": "none.yaml: there is no such file; `pyro-vae list` names what comes along.",
        "x" * 300 + ".yaml": "x.yaml: there is no such file",
        "x" * 300: "no variant of that name and no file",
    }.items():
        with pytest.raises(DeclarationError) as caught:
            load_experiment(source)
        (problem,) = caught.value.problems
        assert message in problem


# ------------------------------------------------------------------------------------------ what fits together

GREY = "data.binarize=none"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([GREY], "variant.likelihood: 'bernoulli' needs data in {0, 1}, and these are grey: set data.binarize=dynamic"),
        (
            ["likelihood=continuous_bernoulli"],
            "variant.likelihood: 'continuous_bernoulli' is a density on grey data in [0, 1], and these are binary: use",
        ),
        (
            ["data=linear_gaussian", GREY],
            "variant.likelihood: 'bernoulli' needs data in {0, 1}, and these are real-valued: use 'normal'.",
        ),
        (
            ["data=linear_gaussian", GREY, "likelihood=continuous_bernoulli"],
            "variant.likelihood: 'continuous_bernoulli' needs data in [0, 1], and these are real-valued: use 'normal'.",
        ),
        (
            ["objective.warmup_epochs=300"],
            "objective.warmup_epochs=300: is longer than training (training.epochs=200), so that beta would never",
        ),
        (
            ["training.schedule.warmup_epochs=300"],
            "training.schedule.warmup_epochs=300 is longer than training (epochs=200): the rate would never be reached",
        ),
        (
            ["training.schedule={kind: constant, final: 0.5}"],
            "training.schedule.final: has no effect on a constant schedule; choose linear, cosine or exponential.",
        ),
        (
            ["data=linear_gaussian", GREY, "likelihood=normal", "encoder=conv"],
            "variant.encoder: 'conv' needs images, and 'linear_gaussian' holds vectors of 10 numbers; use 'mlp'.",
        ),
        (
            ["data=linear_gaussian", GREY, "likelihood=normal", "decoder=conv"],
            "variant.decoder: 'conv' needs images, and 'linear_gaussian' holds vectors of 10 numbers; use 'mlp'.",
        ),
        (
            ["data=linear_gaussian", GREY, "likelihood=normal", "labels.digit.classes=10"],
            "variant.labels.digit: 'linear_gaussian' has no attribute of that name. It has no labels; remove the label",
        ),
        (
            ["labels.digt.classes=10"],
            "variant.labels.digt: 'digits' has no attribute of that name. Did you mean 'digit'? It has: digit.",
        ),
        (["labels.digit.classes=9"], "variant.labels.digit.classes=9: 'digits' has 10 classes; set it to 10."),
        (
            ["data.labels_kept=100"],
            "data.labels_kept=100: no label site is observed partly, so that it has no effect; remove it, or declare",
        ),
        (
            ["data.labels_kept=100", "labels.digit={classes: 10, observed: always}"],
            "data.labels_kept=100: no label site is observed partly",
        ),
        (
            ["data.dequantize=uniform"],
            'data.binarize="dynamic" and dequantize="uniform" exclude one another',
        ),
        (["latent=[{dim: 2}, {dim: 3}]"], "variant.prior: 1 for 2 layers of latent; give a list with one prior per"),
        (
            ["latent=[{dim: 2}, {dim: 3}]", "prior=[standard_normal, standard_normal]"],
            "variant.prior[0]: 'standard_normal' ignores the layer above, so that z2 would be unused",
        ),
        (["labels.x={classes: 2, observed: never}"], "variant.labels.x: must be an identifier other than x, data, "),
        (["labels.z={classes: 2, observed: never}"], "variant.labels.z: must be an identifier other than x, data, "),
        (["labels={a-b: {classes: 2, observed: never}}"], "variant.labels.a-b: must be an identifier other than x, "),
        (
            ["labels={a: {classes: 40, observed: never}, b: {classes: 40, observed: never}}"],
            "variant.labels: 1600 combinations of missing labels; at most 1000 are enumerated.",
        ),
        (
            ["labels={a: {classes: 2, observed: never}, b: {classes: 2, observed: never, rule: guide}}"],
            "variant.labels: missing labels must share one rule; set all to 'sum' or all to 'guide'.",
        ),
    ],
)
def test_what_does_not_fit_is_explained(overrides, message):
    (problem,) = problems(*overrides)
    assert problem.startswith(message)
    assert problem.endswith(".")
    assert "Value error" not in problem


@pytest.mark.parametrize(
    "overrides",
    [
        [GREY, "likelihood={kind: bernoulli, grey: true}"],
        [GREY, "likelihood=continuous_bernoulli"],
        [GREY, "likelihood=normal"],
        ["encoder=conv", "decoder=conv"],
        ["data=linear_gaussian", GREY, "likelihood=normal"],
        ["objective.warmup_epochs=200", "training.schedule.warmup_epochs=200"],
        ["training.schedule={kind: constant}"],
        ["labels.digit={classes: 10, observed: always}"],
        ["labels.digit={classes: 12, observed: partly}", "data.labels_kept=100"],
        ["labels.cluster={classes: 5, observed: never}"],
        ["data=arrays", GREY],  # only the data can tell
    ],
)
def test_what_fits_is_not_refused(overrides):
    load_experiment("digits", overrides)


def test_several_misfits_at_once():
    overrides = [GREY, "labels.digt.classes=10", "data.labels_kept=100", "objective.warmup_epochs=300"]
    fields = [problem.split(": ")[0] for problem in problems(*overrides)]
    assert fields == [
        "variant.likelihood",
        "variant.labels.digt",
        "data.labels_kept=100",
        "objective.warmup_epochs=300",
    ]
    labels = "labels={x: {classes: 40, observed: never}, b: {classes: 40, observed: never, rule: guide}}"
    assert len(problems(labels)) == 3


def test_what_only_the_data_can_tell():
    x = np.random.default_rng(0).random((40, 5)).astype(np.float32)
    y = np.arange(40) % 3 - 1  # the first class is missing
    overrides = ["data=arrays", GREY, "labels.label={classes: 2, observed: always}", "encoder=conv"]
    experiment = load_experiment("digits", [*overrides, "training.batch_size=64", "training.early_stopping={}"])
    data = load(experiment.data.replace(validation=0), arrays=pv.Arrays(x, y))
    with pytest.raises(DeclarationError) as caught:
        check(experiment, data)
    fields = [problem.split(": ")[0] for problem in caught.value.problems]
    assert fields == [
        "variant.likelihood",
        "variant.encoder",
        "training.batch_size=64",
        "training.early_stopping",
        "variant.labels.label.observed=always",
        "variant.labels.label.observed=always",
    ]
    good = load_experiment("digits", ["data=arrays", GREY, "likelihood=normal", "training.batch_size=8"])
    check(good, data)


# --------------------------------------------------------------------------------------------------- schedules

EPOCHS = [0, 0.5, 3, 10, 37.25, 99, 100]


@pytest.mark.parametrize("warmup", [0.0, 10.0])
@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        ("constant", lambda t: 1.0),
        ("linear", lambda t: 1 - 0.9 * t),
        ("cosine", lambda t: 0.1 + 0.9 * (1 + math.cos(math.pi * t)) / 2),
        ("exponential", lambda t: math.exp(t * math.log(0.1))),
    ],
)
def test_schedules_follow_their_formulas(kind, formula, warmup):
    final = {} if kind == "constant" else {"final": 0.1}
    schedule = pv.Schedule(kind=kind, warmup_epochs=warmup, **final)
    for epoch in EPOCHS:
        expected = epoch / warmup if epoch < warmup else formula((epoch - warmup) / (100 - warmup))
        assert schedule.factor(epoch, 100) == pytest.approx(expected, rel=1e-12)
    assert schedule.factor(100, 100) == pytest.approx(1.0 if kind == "constant" else 0.1)


def test_a_warm_up_as_long_as_training_ends_at_one():
    schedule = pv.Schedule(kind="cosine", warmup_epochs=4)
    assert [schedule.factor(epoch, 4) for epoch in (0, 1, 2, 4)] == [0, 0.25, 0.5, 1]


def test_beta_rises_linearly_to_its_value():
    objective = pv.ELBO(beta=4, warmup_epochs=8)
    assert [objective.weights(epoch)["beta"] for epoch in (0, 2, 8, 50)] == [0, 1, 4, 4]
    assert pv.ELBO(beta=3).weights(0) == {"beta": 3}


def test_pixels_are_not_binarised_behind_a_density_of_grey_values():
    """A named variant that binarises, and a likelihood of grey values put in: the pictures would be lost."""
    with pytest.raises(DeclarationError, match=r"data.binarize=dynamic: .* set data.binarize=none, or use 'bernoulli'"):
        load_experiment("conv-digits", ["likelihood=normal"])
    load_experiment("conv-digits", ["likelihood=normal", "data.binarize=none"])
