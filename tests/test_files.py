"""YAML in and out, and overrides."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pyro_vae as pv
from pyro_vae.experiment import dump, experiment_from, load_experiment, named
from pyro_vae.files import MAX_BYTES, override, parse_yaml, read_yaml, to_yaml
from pyro_vae.specs import DeclarationError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("010", 10),
        ("0o17", 15),
        ("1:30", "1:30"),
        ("~", None),
        ("null", None),
        ("'1'", "1"),
        ("[1, 2.0, a]", [1, 2.0, "a"]),
        ("{b: {c: 1}}", {"b": {"c": 1}}),
        ("1.0", 1.0),
        ("é", "é"),
    ],
)
def test_yaml_is_version_1_2(text, value):
    read = parse_yaml(f"a: {text}", "f.yaml")["a"]
    assert read == value
    assert type(read) is type(value)


REFUSED = {
    "a: 1\na: 2": 'line 2, column 1: no valid YAML: found duplicate key "a"',
    "a: {b: 1, b: 2}": "found duplicate key",
    "a: &x 1\nb: *x": "anchors and aliases (& and *) are not used here; write it out.",
    "a: &x [*x]": "anchors and aliases",
    "a: *x": "anchors and aliases",
    "a: 2020-01-01": "a: a date is not used here; quote it to make it a string.",
    "a: {b: [2020-01-01 10:00:00]}": "a.b.0: a datetime is not used here",
    "a: 2020-13-45": "no valid YAML: a key, a number or a date in it cannot be read",
    "a: .nan": "a=nan: must be a finite number.",
    "a: [1, -.inf]": "a.1=-inf: must be a finite number.",
    "a: 1e400": "a=inf: must be a finite number.",
    "1: 2": "1: keys are strings; quote it.",
    "a: {true: 1}": "a.True: keys are strings; quote it.",
    "null: 1": "None: keys are strings; quote it.",
    "a: !!python/object/apply:os.system ['true']": "line 1: the tag !!python/object/apply:os.system is not used here",
    "a: !!python/name:os.system": "line 1: the tag !!python/name:os.system is not used here",
    "!foo a: 1": "line 1: the tag !foo is not used here; write the value alone.",
    "a: !!binary aGVsbG8=": "the tag !!binary is not used here",
    "a: !!set {x, y}": "the tag !!set is not used here",
    "a: [1": "line 1, column 6: no valid YAML: expected ',' or ']'",
    "a: 1\n---\nb: 2": "no valid YAML",
    "%YAML 1.1\n---\na: no": "%YAML directives are not used here",
    "a: \x00": "no valid YAML: unacceptable character",
    "- 1\n- 2": "must be a mapping like `variant: {...}`, not list.",
    "text": "must be a mapping like `variant: {...}`, not str.",
    "a: " + "9" * 5000: "no valid YAML: a number in it has more digits than can be read",
    "a: " + "[" * 50_000: "is nested deeper than 50 levels, which no declaration is.",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items(), ids=[repr(text)[:30] for text in REFUSED])
def test_what_a_declaration_never_holds_is_refused(text, message):
    with pytest.raises(DeclarationError) as caught:
        parse_yaml(text, "f.yaml")
    (problem,) = caught.value.problems
    assert problem.startswith("f.yaml: ")
    assert message in problem
    assert problem.count("f.yaml") == 1
    assert "\n" not in problem
    assert len(problem) < 300


def test_strange_values_are_all_named():
    with pytest.raises(DeclarationError) as caught:
        parse_yaml("a: .nan\nb: {c: 2020-01-01}\n3: x", "f.yaml")
    assert len(caught.value.problems) == 3


def test_an_empty_file_is_the_empty_tree():
    assert parse_yaml("", "f") == parse_yaml("# nothing\n", "f") == {}


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "big.yaml").write_text("a: " + "x" * MAX_BYTES)
    (tmp_path / "latin.yaml").write_bytes("a: é".encode("latin-1"))
    (tmp_path / "folder.yaml").mkdir()
    for name, reason in {
        "big.yaml": "is over 1000000 bytes, which no declaration is.",
        "latin.yaml": "cannot be read: it is not UTF-8 text.",
        "folder.yaml": "cannot be read: Is a directory.",
        "none.yaml": "cannot be read: No such file or directory.",
        "x" * 300 + ".yaml": "cannot be read: File name too long.",
    }.items():
        with pytest.raises(DeclarationError) as caught:
            read_yaml(tmp_path / name)
        (problem,) = caught.value.problems
        assert problem.endswith(f".yaml: {reason}")
        assert problem.startswith(str(tmp_path)[:50])
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfseed: 3")
    assert read_yaml(tmp_path / "bom.yaml") == {"seed": 3}


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words
    | st.sampled_from(
        ["no", "yes", "null", "1e-3", "2020-01-01", ".nan", "010", "1:30", "~", "", "- x", "a: b", "&x", "#"]
    )
)
trees = st.dictionaries(
    words.filter(bool),
    st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3)),
    min_size=1,
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(tree=trees)
def test_any_tree_is_written_and_read_without_loss(tree):
    read = parse_yaml(to_yaml(tree), "text")
    assert read == tree
    assert list(read) == list(tree)  # in order


# Fields of every type: integers, floats, choices, unions, lists, mappings, options.
positive = st.floats(1e-6, 1e6)
experiments = st.builds(
    pv.Experiment,
    variant=st.builds(
        pv.Variant,
        latent=st.builds(pv.Latent, dim=st.integers(1, 10**9))
        | st.tuples(st.builds(pv.Latent, dim=st.integers(1, 99))),
        likelihood=st.builds(pv.Normal, scale=st.floats(1e-3, 1e6) | st.sampled_from(["learned", "decoded"])),
        labels=st.dictionaries(st.just("digit"), st.builds(pv.Label, classes=st.integers(10, 1000))),
        guide=st.just(pv.Point()) | st.builds(pv.DiagonalNormal, widths=st.lists(st.integers(1, 512), max_size=3)),
        encoder=st.builds(pv.MLP, widths=st.lists(st.integers(1, 512), max_size=3), activation=st.just("tanh"))
        | st.just(pv.Conv()),
    ),
    objective=st.builds(pv.ELBO, beta=st.floats(0, 1e3), warmup_epochs=st.floats(0, 1)),
    data=st.builds(pv.DigitsData, validation=st.floats(0, 0.99) | st.integers(0, 100)),
    training=st.builds(
        pv.Training,
        epochs=st.integers(1, 10**9),
        optimizer=st.builds(pv.Optimizer, learning_rate=positive, betas=st.tuples(st.floats(0, 0.99), st.just(0.5))),
        schedule=st.builds(pv.Schedule, kind=st.just("cosine"), final=st.floats(1e-9, 1)),
        clip_norm=st.none() | positive,
        early_stopping=st.none() | st.builds(pv.EarlyStopping),
    ),
    seed=st.integers(0, 2**31 - 1),
)


@settings(max_examples=80, deadline=None)
@given(experiment=experiments)
def test_any_experiment_is_written_and_read_without_loss(experiment):
    again = experiment_from(parse_yaml(dump(experiment), "text"))
    assert again == experiment
    assert hash(again) == hash(experiment)
    assert dump(again) == dump(experiment)


# --------------------------------------------------------------------------------------------------- overrides


def changed(*assignments, tree=None):
    return override(tree if tree is not None else {}, assignments, pv.Experiment)


@pytest.mark.parametrize(
    ("assignment", "tree"),
    [
        ("seed=3", {"seed": 3}),
        (" seed = 3 ", {"seed": 3}),
        ("training.optimizer.learning_rate=1e-3", {"training": {"optimizer": {"learning_rate": 1e-3}}}),
        ("latent.dim=2", {"variant": {"latent": {"dim": 2}}}),
        ("variant.latent.dim=2", {"variant": {"latent": {"dim": 2}}}),
        ("latent=[{dim: 2}, {dim: 3}]", {"variant": {"latent": [{"dim": 2}, {"dim": 3}]}}),
        ('latent=[{"dim": 2}, {"dim":3}]', {"variant": {"latent": [{"dim": 2}, {"dim": 3}]}}),
        ("encoder.widths=[10,20]", {"variant": {"encoder": {"widths": [10, 20]}}}),
        ("encoder.widths=[]", {"variant": {"encoder": {"widths": []}}}),
        ("likelihood=normal", {"variant": {"likelihood": {"kind": "normal"}}}),
        ("likelihood.kind=normal", {"variant": {"likelihood": {"kind": "normal"}}}),
        ("prior=[standard_normal]", {"variant": {"prior": ["standard_normal"]}}),
        ("data=mnist", {"data": {"name": "mnist"}}),
        ("data.root=/a=b", {"data": {"root": "/a=b"}}),
        ("data.binarize=no", {"data": {"binarize": "no"}}),
        ("training.clip_norm=null", {"training": {"clip_norm": None}}),
        ("training.device='cpu'", {"training": {"device": "cpu"}}),
        ("training.early_stopping={}", {"training": {"early_stopping": {}}}),
        ("training.early_stopping.patience=3", {"training": {"early_stopping": {"patience": 3}}}),
        ("labels.digit.classes=10", {"variant": {"labels": {"digit": {"classes": 10}}}}),
        ("seed=2020-01-01", {"seed": "2020-01-01"}),
        ("training.optimizer.eps=.inf", {"training": {"optimizer": {"eps": ".inf"}}}),
        ("training.optimizer.eps=NaN", {"training": {"optimizer": {"eps": "NaN"}}}),
    ],
)
def test_an_override_means(assignment, tree):
    assert changed(assignment) == tree


def test_overrides_leave_the_tree_they_get_alone_and_the_last_one_counts():
    tree = {"variant": {"latent": {"dim": 1}}}
    assert changed("latent.dim=2", "latent.dim=3", tree=tree) == {"variant": {"latent": {"dim": 3}}}
    assert tree == {"variant": {"latent": {"dim": 1}}}


def test_another_part_drops_the_fields_of_the_first():
    for tree in ({"likelihood": {"kind": "normal", "scale": 0.1}}, {"likelihood": {"scale": 0.1}}):
        for assignment in ("likelihood=bernoulli", "likelihood.kind=bernoulli", "likelihood={kind: bernoulli}"):
            assert changed(assignment, tree={"variant": tree}) == {"variant": {"likelihood": {"kind": "bernoulli"}}}
        for assignment in ("likelihood=normal", "likelihood.kind=normal", "likelihood={kind: normal}"):
            kept = {"variant": {"likelihood": {"scale": 0.1, "kind": "normal"}}}
            assert changed(assignment, tree={"variant": tree}) == kept


def test_a_list_of_parts_or_one():
    """`prior` can be one part or a list; the rule holds for the one."""

    tree = {"variant": {"prior": ["standard_normal"]}}
    assert changed("prior=standard_normal", tree=tree) == {"variant": {"prior": {"kind": "standard_normal"}}}
    tree = {"variant": {"prior": {"kind": "other", "components": 3}}}
    assert changed("prior.kind=standard_normal", tree=tree) == {"variant": {"prior": {"kind": "standard_normal"}}}


def test_another_data_set_keeps_the_treatment():
    tree = {"data": {"name": "mnist", "binarize": "dynamic", "validation": 0.2, "labels_kept": 100, "root": "/x"}}
    kept = {"data": {"name": "digits", "binarize": "dynamic", "validation": 0.2, "labels_kept": 100}}
    for assignment in ("data.name=digits", "data=digits", "data={name: digits}"):
        assert changed(assignment, tree=tree) == kept


def test_a_bare_word_of_one_spec_keeps_its_other_fields():
    tree = {"training": {"optimizer": {"kind": "adam", "learning_rate": 2e-3}}}
    for assignment in ("training.optimizer=adamw", "training.optimizer.kind=adamw", "training={optimizer: adamw}"):
        found = changed(assignment, tree=tree)["training"]["optimizer"]
        assert found in ({"kind": "adamw", "learning_rate": 2e-3}, "adamw")
    assert changed("training.schedule.final=0.1", tree={"training": {"schedule": "cosine"}}) == {
        "training": {"schedule": {"kind": "cosine", "final": 0.1}}
    }


def test_a_mapping_changes_the_keys_that_it_names():
    tree = load_experiment("digits").tree()
    after = changed("training={epochs: 3}", "objective={beta: 2}", "variant={latent: {dim: 2}}", tree=tree)
    assert after["training"] == tree["training"] | {"epochs": 3}
    assert after["objective"] == tree["objective"] | {"beta": 2}
    assert after["variant"] == tree["variant"] | {"latent": {"dim": 2}}
    labelled = changed("labels={a: {classes: 3}}", "labels={b: {classes: 3}}")
    assert list(labelled["variant"]["labels"]) == ["b"]  # names are values here, not keys of a spec


def test_a_bare_word_in_a_file_gets_fields():
    tree = {"variant": {"likelihood": "normal"}}
    assert changed("likelihood.scale=1", tree=tree) == {"variant": {"likelihood": {"kind": "normal", "scale": 1}}}


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("latent.dim", "'latent.dim': must be key=value, like training.epochs=20."),
        ("=3", "'=3': must be key=value, like training.epochs=20."),
        ("latent..dim=3", "'latent..dim=3': must be key=value, like training.epochs=20."),
        (".=3", "'.=3': must be key=value, like training.epochs=20."),
        ("seed.x=1", "seed.x: seed is 0 and has no 'x'."),
        ("latent.dim.x=3", "variant.latent.dim.x: variant.latent.dim is 8 and has no 'x'."),
        ("likelihood.kind.x=3", "variant.likelihood.kind.x: variant.likelihood.kind is \"bernoulli\" and has no 'x'."),
        ("encoder.widths.0=3", "variant.encoder.widths.0: variant.encoder.widths is [128, 64] and has no '0'."),
        ("latnt.dim=2", "latnt.dim: unknown key. Did you mean 'latent'? Known: variant, objective, data, training, "),
        ("encoder.widths=[1, 2", "encoder.widths: line 1, column 13: no valid YAML: expected ',' or ']'"),
        ("latent={dim: 2", "latent: line 1, column 15: no valid YAML: expected ',' or '}'"),
        ("latent={dim: 2, dim: 3}", "latent: line 1, column 17: no valid YAML: found duplicate key"),
        ('latent={"dim": 2, "dim": 3}', "latent: line 1, column 19: no valid YAML: found duplicate key"),
    ],
)
def test_an_override_that_means_nothing(assignment, problem):
    with pytest.raises(DeclarationError) as caught:
        load_experiment("digits", ["seed=0", assignment, "x"])
    first, second = caught.value.problems  # both are said
    assert first.startswith(problem)
    assert second == "'x': must be key=value, like training.epochs=20."


def test_overrides_of_every_named_experiment_give_the_same_as_editing_it():
    for name in named():
        experiment = load_experiment(name)
        if isinstance(experiment.variant.latent, tuple):
            continue  # several layers
        latent = experiment.variant.latent.replace(dim=3)
        edited = experiment.replace(variant=experiment.variant.replace(latent=latent), seed=7)
        assert load_experiment(name, ["latent.dim=3", "seed=7"]) == edited
