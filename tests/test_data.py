"""Data sets: the split and its labels, the sets of the package, and what is refused.

Statistical assertions allow 5 standard errors of the estimator: a false alarm in about 2 million numbers.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from pyro_vae.data import (
    DATA,
    Arrays,
    ArraysData,
    DataSpec,
    Declared,
    DigitsData,
    LinearGaussianData,
    MNISTData,
    Split,
    load,
    sets,
)
from pyro_vae.data.sets import in_memory
from pyro_vae.specs import DeclarationError

pytestmark = pytest.mark.filterwarnings("error")

SIGMAS = 5.0
RELEASED = ["mnist", "fashion_mnist", "kmnist", "emnist", "omniglot", "cifar10", "svhn", "celeba"]
X = np.random.default_rng(0).normal(size=(20, 3))


def refusal(function: Any, *arguments: Any, **named: Any) -> str:
    """The message with which a call refuses its input."""
    with pytest.raises(DeclarationError) as caught:
        function(*arguments, **named)
    assert all(problem and "\n" not in problem for problem in caught.value.problems)
    return str(caught.value)


def numbered(num_data: int, **fields: Any) -> Arrays:
    """Data whose x is their own number, so that a split shows what went where."""
    return Arrays(np.arange(num_data, dtype=np.float64)[:, None] + 0.5, **fields)


def members(split: Split) -> list[int]:
    return (split.x[:, 0] - 0.5).int().tolist()


# ------------------------------------------------------------------------------------------------ splitting


@pytest.mark.parametrize(
    ("num_data", "validation", "sizes"),
    [
        (100, 0.1, (81, 9, 10)),
        (100, 0, (90, 0, 10)),
        (100, 0.0, (90, 0, 10)),
        (100, 7, (83, 7, 10)),
        (3, 0.01, (1, 1, 1)),
    ],
)
def test_splits_are_disjoint_complete_and_of_the_declared_sizes(
    num_data: int, validation: float, sizes: tuple[int, ...]
) -> None:
    got = load(ArraysData(validation=validation), arrays=numbered(num_data))
    splits = [members(split) for split in (got.train, got.validation, got.test)]
    assert tuple(map(len, splits)) == sizes == (len(got.train), len(got.validation), len(got.test))
    assert sorted(sum(splits, [])) == list(range(num_data))


def test_a_given_test_set_is_used_whole_and_in_order() -> None:
    got = load(ArraysData(validation=5), arrays=numbered(20, test=numbered(4)))
    assert members(got.test) == [0, 1, 2, 3]
    assert sorted(members(got.train) + members(got.validation)) == list(range(20))


def test_the_seed_decides_the_split() -> None:
    first, again, other = (load(ArraysData(), seed, numbered(200)) for seed in (1, 1, 2))
    for part in ("train", "validation", "test"):
        assert members(getattr(first, part)) == members(getattr(again, part))
        # The test set is one for all seeds: a run that starts from another's parameters has not seen it.
        assert (members(getattr(first, part)) == members(getattr(other, part))) == (part == "test")
    # A split in file order would put one class into the test set.
    assert members(first.test) != list(range(20))
    assert members(first.test) != list(range(180, 200))


def test_labels_covariates_and_masks_stay_with_their_datum() -> None:
    n, number = 50, np.arange(50)
    mask = np.ones((n, 2), bool)
    mask[:, 1] = number % 3 > 0
    x = np.stack([number + 0.5, np.where(mask[:, 1], 1.0, np.nan)], 1)
    arrays = Arrays(
        x,
        {"parity": number % 2, "number": number.astype(">i2")},
        given=-number[:, None].astype(np.float32),
        mask=mask,
    )
    got = load(ArraysData(), arrays=arrays)
    for split in (got.train, got.validation, got.test, got.train.select([5, 2]), got.train.to("cpu")):
        which = (split.x[:, 0] - 0.5).long()
        assert split.given is not None
        assert split.mask is not None
        assert torch.equal(split.attributes["number"], which)
        assert torch.equal(split.attributes["parity"], which % 2)
        assert torch.equal(split.given[:, 0], -which.float())
        assert torch.equal(split.mask[:, 1], which % 3 > 0)
        assert torch.equal(split.x[:, 1], (which % 3 > 0).double())  # masked entries are 0
    assert (got.classes("parity"), got.classes("number")) == (2, 50)


def test_select_takes_ranges_index_tensors_and_boolean_tensors() -> None:
    split = load(ArraysData(validation=0), arrays=numbered(20)).train
    expected = split.x[[0, 2]]
    for indices in (range(0, 4, 2), [0, 2], torch.tensor([0, 2]), torch.arange(len(split)) % 20 % 2 == 0):
        assert torch.equal(split.select(indices).x[:2], expected)
    assert len(split.select([])) == 0


def test_data_do_not_share_memory_with_the_callers_arrays() -> None:
    x = np.arange(40.0).reshape(20, 2) + 0.5
    got = load(ArraysData(validation=0), arrays=Arrays(x, test=Arrays(x)))
    x[:] = -1
    assert got.train.x.min() > 0
    assert got.test.x.min() > 0


def test_unknown_attribute_names_the_known_ones() -> None:
    message = refusal(load(ArraysData(), arrays=numbered(20, y=np.arange(20))).classes, "digit")
    assert "labels.digit" in message
    assert "label" in message


# --------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("kept", [0, 1, 10, 37, 100])
def test_labels_are_kept_evenly_over_the_classes(kept: int) -> None:
    y = np.repeat(np.arange(10), np.linspace(20, 200, 10).astype(int))  # unequal classes
    got = load(ArraysData(labels_kept=kept, validation=0.2), arrays=numbered(len(y), y=y))
    labels = got.train.attributes["label"]
    counts = torch.bincount(labels[labels >= 0], minlength=10)
    assert counts.sum() == kept
    assert counts.max() - counts.min() <= 1
    assert (got.validation.attributes["label"] >= 0).all()
    assert (got.test.attributes["label"] >= 0).all()
    known = labels >= 0
    assert torch.equal(labels[known], torch.from_numpy(y)[members(got.train)][known])
    assert got.classes("label") == 10


def test_fewer_labels_are_a_subset_and_the_choice_does_not_change() -> None:
    arrays = numbered(300, y=np.arange(300) % 7)
    few, many, again = (
        load(ArraysData(labels_kept=kept), arrays=arrays).train.attributes["label"] >= 0 for kept in (20, 60, 60)
    )
    assert torch.equal(many, again)
    assert bool((many | ~few).all())


def test_an_exhausted_class_leaves_its_share_to_the_others() -> None:
    y = np.array([0] * 3 + [1] * 100)
    got = load(ArraysData(labels_kept=41, validation=0), arrays=numbered(103, y=y, test=numbered(2)))
    assert torch.bincount(got.train.attributes["label"] + 1).tolist() == [62, 3, 38]


def test_labels_already_missing_are_not_counted_as_kept() -> None:
    y = np.where(np.arange(100) < 90, -1, 0)
    arrays = numbered(100, y=y, test=numbered(2, y=np.zeros(2, int)))
    got = load(ArraysData(labels_kept=10, validation=0), arrays=arrays)
    assert (got.train.attributes["label"] == 0).sum() == 10
    assert "only 10 training data have labels" in refusal(load, ArraysData(labels_kept=11, validation=0), 0, arrays)


def test_several_attributes_are_kept_together() -> None:
    n = np.arange(400)
    got = load(ArraysData(labels_kept=24), arrays=numbered(400, y={"a": n % 2, "b": n % 3}))
    a, b = got.train.attributes["a"], got.train.attributes["b"]
    assert torch.equal(a >= 0, b >= 0)
    known = a >= 0
    assert torch.bincount(a[known] * 3 + b[known]).tolist() == [4] * 6


# ------------------------------------------------------------------------------------------ simulated, digits


@pytest.mark.parametrize("correlated", [False, True])
def test_linear_gaussian_has_the_moments_that_its_truth_says(correlated: bool) -> None:
    n, dim = 60_000, 6
    spec = LinearGaussianData(num_data=n, dim=dim, latent_dim=3, scale=0.4, correlated=correlated)
    got = load(spec, seed=4)
    assert got.truth is not None
    W, b, sigma = got.truth["W"], got.truth["b"], got.truth["sigma"]
    x = torch.cat([got.train.x, got.validation.x, got.test.x])
    assert x.shape == (n, dim)
    assert x.dtype == torch.float64
    assert W.shape == (dim, 3)
    assert b.abs().min() > 0.1
    assert float(sigma) == 0.4
    covariance = W @ W.T + sigma**2 * torch.eye(dim, dtype=torch.float64)
    variance = covariance.diagonal()
    assert ((x.mean(0) - b).abs() <= SIGMAS * (variance / n).sqrt()).all()
    # Var of an entry of the sample covariance of normal data: (S_ii S_jj + S_ij^2) / n
    error = SIGMAS * ((variance[:, None] * variance + covariance**2) / n).sqrt()
    assert ((torch.cov(x.T) - covariance).abs() <= error).all()


def test_columns_are_orthogonal_unless_correlated() -> None:
    for correlated, cosine in ((False, 0.0), (True, 0.5)):
        truth = load(LinearGaussianData(latent_dim=4, correlated=correlated)).truth
        assert truth is not None
        lengths = truth["W"].norm(dim=0)
        assert len(set(lengths.round(decimals=6).tolist())) == 4
        cosines = (truth["W"] / lengths).T @ (truth["W"] / lengths)
        expected = torch.full((4, 4), cosine, dtype=torch.float64).fill_diagonal_(1)
        torch.testing.assert_close(cosines, expected, atol=1e-12, rtol=0)


def test_linear_gaussian_is_decided_by_the_seed() -> None:
    first, again, other = (LinearGaussianData(num_data=50).read(seed) for seed in (0, 0, 1))
    assert first.truth
    assert other.truth
    assert np.array_equal(first.x, again.x)
    assert not np.isclose(first.x, other.x).any()
    assert not torch.isclose(first.truth["W"], other.truth["W"]).any()


def test_digits() -> None:
    got, other = load(DigitsData()), load(DigitsData(), seed=1)
    assert (len(got.train), len(got.validation), len(got.test)) == (1293, 144, 360)
    assert (got.shape, got.levels, got.support, got.classes("digit")) == ((1, 8, 8), 17, "levels", 10)
    assert got.train.x.dtype == torch.uint8
    assert got.train.x.max() == 16
    assert torch.equal(got.test.x, other.test.x)
    assert not torch.equal(got.train.x, other.train.x)
    assert (torch.bincount(got.test.attributes["digit"], minlength=10) > 20).all()


@pytest.mark.parametrize("moved", [False, True])
def test_digits_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch, moved: bool) -> None:
    """Read from its file, or by its own function where it no longer keeps that file."""
    datasets = pytest.importorskip("sklearn.datasets")
    calls: list[bool] = []

    def load_digits(return_X_y: bool) -> Any:
        calls.append(return_X_y)
        return own(return_X_y=return_X_y)

    own = datasets.load_digits
    monkeypatch.setattr(datasets, "load_digits", load_digits)
    if moved:
        monkeypatch.setattr(Path, "is_file", lambda self: False)
    found, expected = sets._digits(), own(return_X_y=True)
    assert calls == [True] * moved
    for mine, theirs in zip(found, expected, strict=True):
        assert np.array_equal(mine, theirs)


def test_to_read_digits_imports_no_scikit_learn() -> None:
    """It would take two seconds of every start."""
    code = "import sys; from pyro_vae.data import DigitsData; DigitsData().read(0); sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_mean_image_belongs_to_its_label() -> None:
    """A zero has an empty middle and a one does not: labels and images were not shuffled apart."""
    got = load(DigitsData())
    middle = got.train.x[:, 0, 3:5, 3:5].double().mean((1, 2))
    digit = got.train.attributes["digit"]
    assert middle[digit == 0].mean() < 4 < 10 < middle[digit == 1].mean()


# ---------------------------------------------------------------------------------------------- bad contents


def spoiled(value: float) -> np.ndarray:
    x = X.copy()
    x[2, 1] = x[4, 0] = value
    return x


BAD_ARRAYS: dict[str, tuple[Arrays, dict[str, Any], str]] = {
    "NaN": (Arrays(spoiled(np.nan)), {}, "data.x: NaN or infinite in 2 of 60 entries, first at [2, 1]"),
    "infinite": (Arrays(spoiled(-np.inf)), {}, "NaN or infinite in 2"),
    "NaN where the mask is True": (
        Arrays(spoiled(np.nan), mask=np.arange(60).reshape(20, 3) != 7),
        {},
        "in 1 of 60",
    ),
    "NaN in the test set": (Arrays(X, test=Arrays(spoiled(np.nan))), {}, "data.test.x: NaN"),
    "no data": (Arrays(X[:0]), {}, "shape (0, 3)"),
    "no columns": (Arrays(X[:, :0]), {}, "shape (20, 0)"),
    "one dimension": (Arrays(X[:, 0]), {}, "must be (N, D), (N, H, W) or (N, C, H, W)"),
    "five dimensions": (Arrays(X.reshape(20, 3, 1, 1, 1)), {}, "shape (20, 3, 1, 1, 1)"),
    "ragged": (Arrays([[1, 2], [3]]), {}, "no rectangular array"),
    "complex": (Arrays(X + 1j), {}, "complex128 values"),
    "dates": (Arrays(np.zeros((20, 2), "datetime64[s]")), {}, "datetime64[s] values"),
    "nothing": (Arrays(None), {}, "Python objects"),
    "mask of another shape": (Arrays(X, mask=X[:, 0] > 0), {}, "data.mask: bool of shape (20,)"),
    "mask of numbers": (Arrays(X, mask=X), {}, "data.mask: float64"),
    "covariates, one-dimensional": (Arrays(X, given=X[:, 0]), {}, "data.given: shape (20,); must be (20, G)"),
    "covariates, too few": (Arrays(X, given=X[:3]), {}, "data.given: shape (3, 3)"),
    "covariates, NaN": (Arrays(X, given=spoiled(np.nan)), {}, "data.given: NaN"),
    "covariates, in one part": (Arrays(X, given=X, test=Arrays(X)), {}, "data.test.given: 0 covariates"),
    "labels below -1": (Arrays(X, np.arange(20) - 2), {}, "data.y: holds -2"),
    "labels of floats": (Arrays(X, {"age": X[:, 0]}), {}, "data.y.age: float64 of shape (20,)"),
    "all labels missing": (Arrays(X, {"age": -np.ones(20, int)}), {}, "data.y.age: every label is -1"),
    "one-hot labels": (Arrays(X, np.eye(20, dtype=int)), {}, "shape (20, 20)"),
    "test labels of their own": (Arrays(X, test=Arrays(X, np.arange(20))), {}, "data.test.y: has label"),
    "scales differ": (
        Arrays(X, test=Arrays(np.ones((5, 3), np.uint8))),
        {},
        "data.test.x: uint8, but x is float64",
    ),
    "above the levels": (Arrays(np.full((20, 2), 32), levels=32), {}, "data.levels=32"),
    "too many levels": (Arrays(np.full((20, 2), 32), levels=1000), {}, "data.levels=1000"),
    "levels of floats": (Arrays(X, levels=32), {}, "data.levels=32: is for integers"),
    "binarize real values": (Arrays(X), {"binarize": "dynamic"}, 'data.binarize="dynamic"'),
    "static, real values": (Arrays(X), {"binarize": "static"}, 'data.binarize="static"'),
    "dequantize floats": (Arrays(X), {"dequantize": "uniform"}, 'data.dequantize="uniform"'),
    "one datum": (Arrays(X[:1]), {}, "data.validation=0.1: of 1 data"),
    "two data": (Arrays(X[:2]), {}, "none to train on"),
    "validation takes all": (Arrays(X), {"validation": 18}, "data.validation=18: of 20 data, 2 are held out"),
    "more labels than data": (Arrays(X, np.arange(20)), {"labels_kept": 17}, "data.labels_kept=17: only 16"),
    "labels kept of none": (Arrays(X), {"labels_kept": 1}, "these data have no labels"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_refused(case: str) -> None:
    arrays, fields, words = BAD_ARRAYS[case]
    message = refusal(load, ArraysData(**fields), 0, arrays)
    assert words in message
    assert message.startswith("data.")


def test_all_mistakes_are_said_at_once() -> None:
    arrays = Arrays(spoiled(np.nan), {"a": X[:, 0], "b": np.arange(3)}, given=X[:3], test=Arrays(X[:, 0]))
    assert len(refusal(load, ArraysData(), 0, arrays).splitlines()) == 5
    message = refusal(load, ArraysData(binarize="dynamic", validation=50, labels_kept=99), 0, Arrays(X, np.arange(20)))
    assert [line.split("=")[0] for line in message.splitlines()] == [
        "data.binarize",
        "data.validation",
        "data.labels_kept",
    ]


# -------------------------------------------------------------------------------------------------- the specs


@pytest.mark.parametrize(
    ("spec", "fields", "words"),
    [
        (DigitsData, {"binarize": "static", "dequantize": "uniform"}, "exclude one another"),
        (DigitsData, {"validation": 1.0}, "validation=1.0"),
        (DigitsData, {"validation": -1}, "validation=-1"),
        (DigitsData, {"validation": float("nan")}, "finite"),
        (DigitsData, {"labels_kept": -1}, "labels_kept=-1"),
        (DigitsData, {"binarize": "dynamc"}, "'dynamic'"),
        (DigitsData, {"path": "x"}, "unknown key"),
        (LinearGaussianData, {"binarize": "threshold"}, 'binarize="threshold"'),
        (LinearGaussianData, {"dequantize": "uniform"}, 'dequantize="uniform"'),
        (LinearGaussianData, {"latent_dim": 11}, "latent_dim=11: must be at most dim=10"),
        (LinearGaussianData, {"scale": 0.0}, "scale=0.0"),
    ],
)
def test_bad_declarations_are_refused(spec: type[DataSpec], fields: dict[str, Any], words: str) -> None:
    assert words in refusal(spec, **fields)


GREY: list[dict[str, Any]] = [
    {},
    {"binarize": "dynamic"},
    {"binarize": "static"},
    {"binarize": "threshold"},
    {"dequantize": "uniform"},
]


@pytest.mark.parametrize(
    "spec",
    [
        *(DigitsData(**fields) for fields in GREY),
        DigitsData(labels_kept=10, validation=0),
        LinearGaussianData(),
        LinearGaussianData(dim=4, latent_dim=2, num_data=50, correlated=True),
    ],
)
def test_what_is_declared_is_what_is_found(spec: DataSpec) -> None:
    got = load(spec)
    assert spec.declared() == Declared(got.name, got.support, got.shape, got.num_classes, got.levels)


def test_every_set_but_ones_own_arrays_is_known_before_it_is_read() -> None:
    known = [name for name, part in DATA.items() if part().declared() is not None]
    assert known == ["digits", "squares", "linear_gaussian", *RELEASED]
    assert DataSpec(name="none").declared() is None


def test_located_survives_another_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    np.save("x.npy", X)
    for given, found in (("x.npy", tmp_path / "x.npy"), ("~/x.npy", tmp_path / "home" / "x.npy")):
        assert ArraysData(path=given).located() == ArraysData(path=str(found))
        assert MNISTData(root=given).located() == MNISTData(root=str(found))
    spec = ArraysData(path="x.npy", binarize="none", validation=3, labels_kept=None).located()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert len(load(spec).validation) == 3
    assert spec.located() == spec
    assert ArraysData(path="~nobody_of_this_name/x").located().path == str(Path("~nobody_of_this_name/x").absolute())


@pytest.mark.parametrize("spec", [DigitsData(validation=3), LinearGaussianData(dim=4), MNISTData(), ArraysData()])
def test_located_changes_nothing_where_no_path_is_given(spec: DataSpec) -> None:
    assert spec.located() == spec


def test_table_and_round_trip() -> None:
    assert list(DATA) == ["digits", "squares", "linear_gaussian", *RELEASED, "arrays", "folder", "hugging_face"]
    for word, part in DATA.items():
        assert issubclass(part, DataSpec)
        cases: list[dict[str, Any]] = [
            {},
            {"validation": 7},
            {"validation": 0},
            {"validation": 0.0, "labels_kept": 3},
        ]
        for fields in cases:
            spec = part(**fields)
            again = part.model_validate_json(spec.model_dump_json())
            assert again == spec
            assert type(again.validation) is type(spec.validation)
            assert spec.name == word
            assert hash(again) == hash(spec)
        assert next(iter(part.model_fields)) == part.word == "name"
        assert all(field.description for name, field in part.model_fields.items() if name != "name")


def test_arrays_in_memory_keep_the_treatment_of_any_declaration() -> None:
    declared = DigitsData(binarize="threshold", validation=3, labels_kept=4)
    got = load(declared, 0, Arrays(X / 10 + 0.5, np.arange(20) % 2))
    assert (got.name, got.binarize, len(got.validation)) == ("arrays", "threshold", 3)
    assert (got.train.attributes["label"] >= 0).sum() == 4
    assert in_memory(declared) == ArraysData(binarize="threshold", validation=3, labels_kept=4)


def test_a_data_set_from_outside_is_one_class() -> None:
    class Bars(DataSpec):
        name: Literal["bars"] = "bars"
        size: int = 4

        def read(self, seed: int) -> Arrays:
            which = np.random.default_rng(seed).integers(0, self.size, 50)
            x = np.zeros((50, self.size, self.size), np.uint8)
            x[np.arange(50), which] = 7
            return Arrays(x, {"row": which}, levels=8)

    got = load(Bars(binarize="dynamic", labels_kept=8), seed=3)
    assert (got.name, got.shape, got.levels, got.support, got.classes("row")) == (
        "bars",
        (1, 4, 4),
        8,
        "binary",
        4,
    )
    assert got.train.x.dtype == torch.uint8
    assert got.train.x.max() == 7
    assert 'data.name="bars": levels=8' in refusal(load, Wrong())


class Wrong(DataSpec):
    """A data set that says less levels than it has."""

    name: Literal["bars"] = "bars"

    def read(self, seed: int) -> Arrays:
        return Arrays(np.full((20, 2), 8), levels=8)


def test_abstract_spec_says_what_to_define() -> None:
    with pytest.raises(TypeError, match="define read"):
        DataSpec(name="none").read(0)


def test_importing_loads_no_data_library() -> None:
    code = "import sys, pyro_vae.data; sys.exit(not {'sklearn', 'torchvision', 'pyro'}.isdisjoint(sys.modules))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=environment)
