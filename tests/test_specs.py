"""Declarations: strictness, messages, tables, the schema, and a part added from outside."""

import json
import math
from typing import Annotated, Literal

import jsonschema
import pyro.distributions as dist
import pytest
from torch import nn

import pyro_vae as pv
from pyro_vae import specs
from pyro_vae.experiment import TABLES, dump, experiment_from, json_schema, load_experiment, named
from pyro_vae.files import parse_yaml
from pyro_vae.likelihoods import LIKELIHOODS, Decoded, Likelihood
from pyro_vae.specs import DeclarationError, OneOf, Part, Spec, Table


def problems(tree):
    with pytest.raises(DeclarationError) as caught:
        experiment_from(tree)
    assert str(caught.value).splitlines() == list(caught.value.problems)
    return list(caught.value.problems)


# ------------------------------------------------------------------------------------------------- strictness

LATENT, RATE, SCALE = "variant.latent.dim", "training.optimizer.learning_rate", "variant.likelihood.scale"


def at(path, value):
    """The tree that holds a value at a dotted path."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (LATENT, True, f"{LATENT}=true: must be an integer."),
        (LATENT, "10", f'{LATENT}="10": must be an integer.'),
        (LATENT, 10.0, f"{LATENT}=10.0: must be an integer."),
        (LATENT, None, f"{LATENT}=null: must be an integer."),
        (LATENT, 0, f"{LATENT}=0: must be greater than or equal to 1."),
        (LATENT, 10**26, f"{LATENT}={10**26}: must be less than or equal to 1000000000."),
        ("seed", 1.0, "seed=1.0: must be an integer."),
        ("seed", 2**31, f"seed={2**31}: must be less than or equal to {2**31 - 1}."),
        (RATE, math.inf, f"{RATE}=Infinity: must be a finite number."),
        (RATE, math.nan, f"{RATE}=NaN: must be a finite number."),
        (RATE, "1e-3", f'{RATE}="1e-3": must be a number.'),
        (RATE, True, f"{RATE}=true: must be a number."),
        (SCALE, "learnt", f"{SCALE}=\"learnt\": must be a number or 'learned', 'per_pixel' or 'decoded'."),
        (SCALE, -1, f"{SCALE}=-1: must be greater than 0 or 'learned', 'per_pixel' or 'decoded'."),
        (SCALE, 1e-5, f"{SCALE}=1e-05 is below min_scale=0.001: lower min_scale."),
        ("data.validation", True, "data.validation=true: must be a number or an integer."),
        ("data.validation", 1.5, "data.validation=1.5: must be a fraction in [0, 1) or a count, an integer >= 0."),
        ("training.device", "gpu", 'training.device="gpu": must be auto, cpu, cuda or cuda:NUMBER.'),
        ("training.optimizer", "sgd", "training.optimizer.kind=\"sgd\": must be 'adam' or 'adamw'."),
        ("training.optimizer.betas", [0.9, 1], "training.optimizer.betas.1=1: must be less than 1."),
        ("training.optimizer.betas", [0.9], "training.optimizer.betas.1: is required; give it a value."),
        ("variant.encoder.widths", 10, "variant.encoder.widths=10: must be a list, like [10]."),
        ("variant.latent", 3, "variant.latent=3: must be a mapping of: kind, dim, classes."),
        ("variant.latent", [], "variant.latent=[]: give at least one layer, like latent: {dim: 20}."),
        ("variant.labels", ["digit"], 'variant.labels=["digit"]: must be a mapping.'),
        ("variant.labels.digit", {}, "variant.labels.digit.classes: is required; give it a value."),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(path, value, message):
    assert problems(at(path, value)) == [message]


@pytest.mark.parametrize(
    ("path", "value", "hint"),
    [
        ("variant.latent.dmi", 3, "variant.latent.dmi: unknown key. Did you mean 'dim'? Latent has: kind, dim, "),
        ("vriant", {}, "vriant: unknown key. Did you mean 'variant'? Experiment has: variant, objective, data, "),
        ("data.binarise", "none", "data.binarise: unknown key. Did you mean 'binarize'? DigitsData has: name, "),
        ("training.optimizer.zzz", 1, "training.optimizer.zzz: unknown key. Optimizer has: kind, learning_rate, "),
        ("variant.likelihood.grey", True, "variant.likelihood.grey: unknown key. Normal has: kind, scale, "),
        ("variant.likelihood", "bernouli", "variant.likelihood: no likelihood is called 'bernouli'. Did you mean 'be"),
        ("data.name", "mnits", "data: no data set is called 'mnits'. Did you mean 'mnist'? Known: digits, "),
        ("variant.prior", ["standard"], "variant.prior.0: no prior is called 'standard'. Did you mean 'standard_n"),
        ("variant.likelihood.kind", 5, "variant.likelihood: no likelihood is called 5. Known: bernoulli, "),
        ("variant.likelihood", 5, "variant.likelihood: must be a likelihood: one of bernoulli, "),
        ("variant.likelihood", None, "variant.likelihood: must be a likelihood: one of bernoulli, "),
    ],
)
def test_an_unknown_word_gets_the_known_ones(path, value, hint):
    (problem,) = problems(at(path, value))
    assert problem.startswith(hint)


@pytest.mark.parametrize("word", ["os.system", "builtins.eval", "pyro_vae.likelihoods.Normal", "../x.py", "__import__"])
def test_a_file_cannot_name_code(word):
    (problem,) = problems(at("variant.likelihood.kind", word))
    assert problem.startswith(f"variant.likelihood: no likelihood is called {word!r}.")


def test_all_mistakes_of_a_tree_at_once():
    tree = {
        "variant": {
            "latent": {"dim": 0},
            "likelihood": {"scale": "learnt"},
            "prior": "nrmal",
            "encoder": {"widths": [8, "x", 0]},
            "labels": {"digit": {"clases": 10}},
        },
        "training": {"epochs": 0, "optimizer": {"eps": -1}},
        "seed": -1,
    }
    fields = [problem.split("=")[0].split(": ")[0] for problem in problems(tree)]
    assert fields == [
        "variant.latent.dim",
        "variant.prior",
        "variant.likelihood.scale",
        "variant.labels.digit.classes",
        "variant.labels.digit.clases",
        "variant.encoder.widths.1",
        "variant.encoder.widths.2",
        "training.epochs",
        "training.optimizer.eps",
        "seed",
    ]


def test_a_long_value_is_cut():
    (problem,) = problems(at(LATENT, "é" * 500))
    assert len(problem) < 130
    assert 'variant.latent.dim="ééé' in problem


def test_python_says_the_same_as_a_file():
    with pytest.raises(DeclarationError, match=r"^dim=0: must be greater than or equal to 1\.$"):
        pv.Latent(dim=0)
    with pytest.raises(DeclarationError, match=r"^scale=1e-05 is below min_scale=0\.001: lower min_scale\.$"):
        pv.Normal(scale=1e-5)
    with pytest.raises(DeclarationError, match=r"^variant\.latent\.dim=true: must be an integer\.$"):
        pv.Experiment(variant={"latent": {"dim": True}})


# --------------------------------------------------------------------------------------------- values of specs


def test_a_bare_word_is_the_mapping_with_it():
    short = {"variant": {"likelihood": "bernoulli", "guide": "diagonal_normal"}, "data": "digits"}
    long = {"variant": {"likelihood": {"kind": "bernoulli"}, "guide": {"kind": "diagonal_normal"}}}
    for tree in (short, long):
        tree["data"] = {"name": "digits", "binarize": "dynamic"}
    assert experiment_from(short) == experiment_from(long)
    assert experiment_from({"data": "linear_gaussian"}).data == pv.LinearGaussianData()
    assert experiment_from({"training": {"schedule": "cosine"}}).training.schedule == pv.Schedule(kind="cosine")


def test_lists_are_kept_as_tuples_and_specs_are_frozen_and_hashable():
    for widths in ([8, 4], (8, 4)):
        network = pv.MLP(widths=widths)
        assert network.widths == (8, 4)
        assert {network: 1}[pv.MLP(widths=[8, 4])] == 1
    experiments = [load_experiment(name) for name in named()]
    experiments.append(load_experiment("digits", ["labels={digit: {classes: 10}}"]))
    assert len(set(experiments)) == len(experiments)
    for owner, field in ((network, "widths"), (experiments[0], "seed"), (experiments[0].variant, "latent")):
        with pytest.raises(ValueError, match="frozen"):
            setattr(owner, field, getattr(owner, field))


def test_replace_validates():
    network = pv.MLP(widths=[8], activation="tanh")
    assert network.replace(widths=[4]) == pv.MLP(widths=[4], activation="tanh")
    assert network.widths == (8,)
    with pytest.raises(DeclarationError, match=r"^widths\.0=0: must be"):
        network.replace(widths=[0])
    with pytest.raises(DeclarationError, match=r"^width: unknown key\. Did you mean 'widths'\?"):
        network.replace(width=[4])
    with pytest.raises(DeclarationError, match="needs data in"):
        pv.Experiment().replace(variant=pv.Variant(likelihood="bernoulli"))


def test_every_field_of_every_part_says_what_it_is():
    """Descriptions come from the docstrings below the fields; the schema shows them in editors."""
    for part in (cls for table in TABLES.values() for cls in table.values()):
        assert part.__doc__, part
        for name, field in part.model_fields.items():
            assert name == part.word or field.description, (part, name)


# -------------------------------------------------------------------------------------------------- the schema


def schema_errors(tree):
    schema = json_schema()
    validator = jsonschema.Draft202012Validator
    validator.check_schema(schema)
    return list(validator(schema).iter_errors(tree))


@pytest.mark.parametrize("name", named())
def test_the_schema_takes_every_named_experiment(name):
    from pyro_vae.experiment import source_tree

    assert not schema_errors(source_tree(name))
    assert not schema_errors(load_experiment(name).tree())


SHORT = [
    {},
    {"variant": {"likelihood": "bernoulli", "prior": ["standard_normal"], "latent": [{"dim": 2}]}},
    {"variant": {"likelihood": {"scale": 0.5}}},
    {"data": "mnist", "objective": "elbo"},
    {"data": {"binarize": "dynamic"}, "variant": {"likelihood": "bernoulli"}},
    {"training": {"schedule": "cosine", "optimizer": "adamw", "early_stopping": {}, "device": "cuda:1"}},
]
BAD = [
    {"variant": {"latent": {"dmi": 2}}},
    {"variant": {"latent": 2}},
    {"variant": {"likelihood": "bernouli"}},
    {"variant": {"likelihood": {"kind": "bernoulli", "scale": 1}}},
    {"variant": {"likelihood": {"grey": True}}},
    {"data": {"root": "/x"}},
    {"seed": 1.5},
    {"seed": "1"},
    {"training": {"schedule": "cosin"}},
    {"training": {"device": "gpu"}},
    {"training": {"optimizer": {"betas": [0.9, 0.99, 0.999]}}},
    {"labels": {}},
]


@pytest.mark.parametrize("tree", SHORT, ids=str)
def test_the_schema_takes_what_loading_takes(tree):
    if "bernoulli" not in str(tree) or "binarize" in str(tree):
        experiment_from(tree)
    assert not schema_errors(tree)


@pytest.mark.parametrize("tree", BAD, ids=str)
def test_the_schema_refuses_what_loading_refuses(tree):
    assert problems(tree)
    assert schema_errors(tree)


# ------------------------------------------------------------------------------------- a part from the outside


class Laplace(Likelihood):
    """p(x | z) = Laplace(x; D(z), b)."""

    kind: Literal["test_laplace"] = "test_laplace"
    width: float = 0.3
    """b."""

    def build(self, network, latent_dim, shape):
        return LaplaceLikelihood(Decoded(network, latent_dim, shape), self.width)


class LaplaceLikelihood(nn.Module):
    def __init__(self, decoded, width):
        super().__init__()
        self.decoded, self.width = decoded, width

    def forward(self, z, y, given):
        (loc,) = self.decoded(z, y, given)
        return dist.Laplace(loc, self.width)


@pytest.fixture
def laplace():
    """The part registered, and taken away again."""
    assert pv.register(Laplace) is Laplace  # usable as a decorator
    yield
    del LIKELIHOODS._parts["test_laplace"]


def test_an_unregistered_part_is_unknown():
    assert "test_laplace" not in LIKELIHOODS
    assert problems(at("variant.likelihood", "test_laplace"))


@pytest.mark.usefixtures("laplace")
def test_a_registered_likelihood_is_a_word_everywhere(capsys):
    text = "variant: {likelihood: {kind: test_laplace, width: 0.5}}"
    experiment = experiment_from(parse_yaml(text, "text"))
    assert experiment.variant.likelihood == Laplace(width=0.5)
    assert experiment_from(parse_yaml(dump(experiment), "again")) == experiment
    assert load_experiment("vae-sigma", ["likelihood=test_laplace"]).variant.likelihood == Laplace()
    for tree in ({"kind": "test_laplace", "width": 1}, "test_laplace"):
        assert not schema_errors(at("variant.likelihood", tree))
    assert schema_errors(at("variant.likelihood", {"kind": "test_laplace", "width": "1"}))
    (problem,) = problems(at("variant.likelihood", {"kind": "test_laplace", "widht": 1}))
    assert "Did you mean 'width'? Laplace has: kind, width." in problem
    (problem,) = problems(at("variant.likelihood", "test_laplac"))
    assert "Did you mean 'test_laplace'?" in problem

    from pyro_vae.cli import _guarded

    assert _guarded(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["parts"]["likelihood"]
    assert listed["test_laplace"] == "p(x | z) = Laplace(x; D(z), b)."


@pytest.mark.usefixtures("laplace")
def test_a_registered_likelihood_trains(tmp_path):
    overrides = ["likelihood=test_laplace", "latent.dim=2", "encoder.widths=[16]", "decoder.widths=[16]"]
    experiment = load_experiment("vae-sigma", [*overrides, "training.epochs=1", "training.batch_size=256"])
    run = pv.train(experiment, out=tmp_path / "run", quiet=True, num_samples=20)
    assert math.isfinite(run.result["log_likelihood"]["value"])
    assert pv.load(run.directory).experiment.variant.likelihood == Laplace()


class Entry:
    def __init__(self, value):
        self.value = value

    def load(self):
        return self.value


def test_an_installed_package_is_asked_the_first_time_a_word_is_unknown(monkeypatch):
    asked = []

    def entry_points(group):
        asked.append(group)
        return [Entry(Laplace), Entry("no part")]

    monkeypatch.setattr(specs, "entry_points", entry_points)
    table = Table("likelihood", Likelihood, pv.Normal)
    assert "normal" in table
    assert asked == []
    assert table["test_laplace"] is Laplace
    with pytest.raises(KeyError):
        table["other"]
    assert asked == ["pyro_vae.parts"]  # once


def test_an_entry_point_of_another_kind_is_left_alone(monkeypatch):
    monkeypatch.setattr(specs, "entry_points", lambda group: [Entry(Laplace)])
    assert Table("guide", pv.Guide, pv.DiagonalNormal).find("test_laplace") is None


def test_what_cannot_be_registered_is_a_type_error():
    class Taken(Likelihood):
        kind: Literal["normal"] = "normal"

    class Wordless(Likelihood):
        pass

    class NoDefault(Likelihood):
        kind: Literal["test_nothing"]

    with pytest.raises(TypeError, match=r"likelihood 'normal' is taken by pyro_vae\.likelihoods\.normal\.Normal"):
        pv.register(Taken)
    for part in (Wordless, NoDefault):
        with pytest.raises(TypeError, match=rf"{part.__name__} needs a field `kind: Literal"):
            pv.register(part)
    for thing in (Spec, pv.Latent, nn.Linear, "normal", pv.Normal()):
        with pytest.raises(TypeError, match=r"is no part: derive it from one of pyro_vae\.\{Likelihood, Prior"):
            pv.register(thing)
    assert pv.register(pv.Normal) is pv.Normal  # the same one again is no mistake
    with pytest.raises(TypeError, match=r"is no guide: derive it from pyro_vae\.Guide"):
        Table("guide", pv.Guide, pv.Normal)


def test_tables_keep_their_order_and_dispatch_keeps_the_path():
    class Base(Part):
        pass

    class Leaf(Base):
        kind: Literal["leaf"] = "leaf"
        size: int = 1

    table = Table("tree", Base, Leaf)

    class Node(Base):
        kind: Literal["node"] = "node"
        inner: Annotated[Base, OneOf(table, "leaf")] = Leaf()

    table.add(Node)
    assert list(table) == ["leaf", "node"]
    assert len(table) == 2
    deep = Node(inner={"kind": "node", "inner": {"kind": "node", "inner": {"size": 3}}})
    assert deep.inner.inner.inner == Leaf(size=3)
    assert Node(**deep.tree()) == deep
    with pytest.raises(DeclarationError, match=r"^inner\.inner\.inner\.size=\"3\": must be an integer\.$"):
        Node(inner={"kind": "node", "inner": {"kind": "node", "inner": {"size": "3"}}})
