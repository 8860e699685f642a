"""Comparing runs: differences against closed forms, what does not compare, and what ArviZ makes of it."""

import json
import math
import re
import shutil

import exact
import numpy as np
import pytest
import torch
from conftest import TINY, trained
from matplotlib.image import imread
from mc import assert_close_mc
from test_cli import mistake

import pyro_vae as pv
from pyro_vae import comparable, comparison
from pyro_vae.batches import build
from pyro_vae.data import load as load_data
from pyro_vae.inference_data import elpd, stacking_weights
from pyro_vae.plots import comparison_figure
from pyro_vae.records import versions, write_json
from pyro_vae.runs import Run
from pyro_vae.specs import DeclarationError

GREY = ["data.binarize=none", "likelihood=normal"]
LINEAR = [*GREY, "data={name: linear_gaussian, num_data: 3000, dim: 4, latent_dim: 2, correlated: true}"]
OWN = [*GREY, "data=arrays"]
rng = np.random.default_rng(0)
TABLE = {"x": rng.normal(size=(200, 3)), "y": {"site": rng.integers(0, 2, 200)}}


def declared(folder, *words, arrays=None):
    """A run whose model is not trained: all that a comparison asks of one, in no time."""
    experiment = pv.load_experiment("digits", [*TINY, "training.batch_size=32", *words])
    data = load_data(experiment.data, experiment.seed, arrays)
    vae = build(experiment, data, torch.device("cpu"))
    folder.mkdir(parents=True)
    (folder / "experiment.yaml").write_text(pv.dump(experiment))
    shape = {"x": list(vae.shape.x), "given": vae.shape.given, "masked": vae.shape.masked}
    environment = {"name": "digits", "versions": versions(), "shape": shape, "data_in_memory": arrays is not None}
    write_json(folder / "environment.json", environment)
    run = Run(folder, arrays)
    run.vae = vae.eval()
    return run


@pytest.fixture
def make(tmp_path):
    """Runs by name: make(a=words, b=words)."""

    def runs(arrays=None, **words):
        given = arrays if isinstance(arrays, dict) else dict.fromkeys(words, arrays)
        return {name: declared(tmp_path / name, *w, arrays=given[name]) for name, w in words.items()}

    return runs


def linear(W, b, sigma, narrow=1.0):
    """The exact model, its guide's sd times `narrow`."""
    vae = exact.linear_vae(W, b, sigma)
    with torch.no_grad():
        vae.heads["z"].raw.output.bias[W.shape[1] :] += 2 * math.log(narrow)
    return vae.eval()


@pytest.fixture
def linear_runs(make):
    """Two linear-Gaussian models whose log p(x) is known, and that of each of the test data."""
    words = [*LINEAR, "training.precision=float64"]
    runs, truth = make(right=words, wrong=words), {}
    made = runs["right"].data.truth
    W, b, sigma = made["W"], made["b"], made["sigma"].item()
    x = runs["right"].batch("test").x
    for name, model in {"right": (W, b, sigma), "wrong": (1.1 * W, b + 0.2, 1.1 * sigma)}.items():
        runs[name].vae = linear(*model)
        truth[name] = exact.log_evidence(x, *model)
    return runs, truth


@pytest.fixture
def seen(monkeypatch):
    """The batch that each run was scored on, by name of its directory."""
    found, score = {}, Run.score

    def watched(run, batch, *rest):
        found[run.directory.name] = batch
        return score(run, batch, *rest)

    monkeypatch.setattr(Run, "score", watched)
    return found


def row_of(found, name):
    return next(row for row in found.table if row["name"] == name)


def problems(runs, **options):
    with pytest.raises(DeclarationError) as caught:
        pv.compare(runs, **{"num_samples": 2, **options})
    return list(caught.value.problems)


# -------------------------------------------------------------------------------------------------------- the numbers


def test_differences_are_those_of_the_closed_form(linear_runs):
    runs, truth = linear_runs
    found = pv.compare(runs, num_samples=400)
    best, other = found.table
    order = ["right", "wrong"]
    assert [best["name"], other["name"]] == order
    assert [best["rank"], other["rank"]] == [1, 2]
    gap = truth[order[1]] - truth[order[0]]
    assert 0 < other["difference"]["monte_carlo_error"] < 0.2 * other["difference"]["standard_error"]
    assert_close_mc(other["difference"]["value"], gap.mean(), other["difference"]["monte_carlo_error"])
    over_data = gap.std().item() / math.sqrt(len(gap))
    assert other["difference"]["standard_error"] == pytest.approx(over_data, rel=0.05)
    for name, row in zip(order, found.table, strict=True):
        assert_close_mc(row["log_likelihood"]["value"], truth[name].mean(), row["monte_carlo_error"])
        error = truth[name].std().item() / math.sqrt(len(gap))
        assert row["log_likelihood"]["standard_error"] == pytest.approx(error, rel=0.05)
        assert row["khat"]["good_fraction"] > 0.7
    combined = math.hypot(best["monte_carlo_error"], other["monte_carlo_error"])
    assert other["difference"]["monte_carlo_error"] == pytest.approx(combined)
    assert best["difference"] == {"value": 0.0, "standard_error": 0.0, "monte_carlo_error": 0.0}
    value, error = -other["difference"]["value"], other["difference"]["standard_error"]
    said = re.fullmatch(
        r"best: right; wrong is (.*) ± (.*) nats per datum worse \((.*) standard errors\)", found.verdict
    )
    assert [float(word) for word in said.groups()] == pytest.approx([value, error, value / error], rel=0.05)
    assert found.warnings == []


def test_monte_carlo_error_is_the_scatter_of_repetitions(linear_runs):
    """Of the mean over data, when only the draws of z change."""
    runs, _ = linear_runs
    values, errors = [], []
    for seed in range(30):
        for run in runs.values():
            run.experiment = run.experiment.replace(seed=seed)
        row = row_of(pv.compare(runs, num_samples=100, observations=50), "right")
        values.append(row["log_likelihood"]["value"])
        errors.append(row["monte_carlo_error"])
    # The standard deviation of 30 values has a relative error of 0.13: five of them are 0.65.
    assert 0.35 < np.std(values, ddof=1) / np.mean(errors) < 1.65


def test_arviz_takes_what_is_returned(linear_runs):
    import arviz as az

    runs, truth = linear_runs
    found = pv.compare(runs, num_samples=400)
    table, n = az.compare(found.elpd, round_to="none"), found.num_data
    assert list(table.index) == [row["name"] for row in found.table]
    for row in found.table:
        theirs = table.loc[row["name"]]
        assert theirs["rank"] == row["rank"] - 1
        assert theirs["elpd_diff"] == pytest.approx(n * row["difference"]["value"])
        assert theirs["dse"] == pytest.approx(n * row["difference"]["standard_error"], rel=1 / n)  # sd by N, not N - 1
        assert theirs["elpd"] == pytest.approx(n * row["log_likelihood"]["value"])
        assert theirs["se"] == pytest.approx(n * row["log_likelihood"]["standard_error"], rel=1 / n)
        assert theirs["weight"] == pytest.approx(row["weight"], abs=1e-3)
        torch.testing.assert_close(
            torch.tensor(found.elpd[row["name"]].elpd_i.values), truth[row["name"]], atol=0.3, rtol=0
        )
        assert "elpd_loo" in str(found.elpd[row["name"]])
    points = az.plot_compare(table, backend="matplotlib").viz["plot"].item().collections
    assert sorted(len(each.get_offsets()) for each in points)[-1] == 2
    khat = az.plot_khat(found.elpd["right"], threshold=found.elpd["right"].good_k, visuals={"hlines": {}})
    drawn = np.concatenate([each.get_offsets() for each in khat.viz["plot"].item().collections])
    finite = found.elpd["right"].pareto_k.values
    np.testing.assert_allclose(np.sort(drawn[:, 1]), np.sort(finite))


def mixture_weights(log_p, steps=5000):
    """Stacking by expectation maximisation, w_r <- mean_i w_r p_ri / sum_s w_s p_si."""
    p = np.exp(log_p - log_p.max(0))
    w = np.full(len(p), 1 / len(p))
    for _ in range(steps):
        w = (w[:, None] * p / (w @ p)).mean(1)
    return w


@pytest.mark.parametrize("level", [-90.0, -760.0, -7000.0, 2000.0])
def test_weights_are_those_of_the_best_mixture_however_large_log_p(level):
    """az.compare itself gives 1/3 each where exp(log p) underflows or overflows."""
    shared = level + 30 * rng.normal(size=300)
    log_p = np.stack([shared + 2 * rng.normal(size=300) + 0.3, shared, shared - 20 + rng.normal(size=300)])
    elpds = {name: elpd(values, np.zeros(300), 100, 100, range(300)) for name, values in zip("abc", log_p, strict=True)}
    found = stacking_weights(elpds)
    np.testing.assert_allclose(list(found.values()), mixture_weights(log_p), atol=2e-3)
    assert stacking_weights(dict(reversed(elpds.items()))) == pytest.approx(found, abs=1e-6)


def test_elpd_counts_what_is_undetermined_as_bad():
    found = elpd(np.array([-3.0, -5.0]), np.array([np.nan, -np.inf]), 500, 500, [8, 3])
    assert found.pareto_k.values.tolist() == [np.inf, -np.inf]
    assert found.elpd_i["obs"].values.tolist() == [8, 3]
    assert (found.elpd, found.n_samples, found.n_data_points, found.warning) == (-8.0, 500, 2, True)
    assert found.se == pytest.approx(math.sqrt(2) * 1.0)
    assert found.good_k == pytest.approx(1 - 1 / math.log10(500))
    assert not elpd(np.zeros(2), np.zeros(2), 500, 500, [0, 1]).warning
    assert elpd(np.zeros(2), np.full(2, np.nan), 50, 50, [0, 1]).pareto_k is None


def test_a_datum_without_probability(make):
    """log p = -inf is not a number of nats: the difference is undetermined, and the model comes last."""
    runs = make(a=LINEAR, b=LINEAR)
    scores = {name: run.score(run.batch("test", range(40)), 5) for name, run in runs.items()}
    scores["a"].log_likelihood[3] = -math.inf
    found = comparison._compared(runs, scores, "test", list(range(40)), 5, None)
    assert [row["name"] for row in found.table] == ["b", "a"]
    assert row_of(found, "a")["log_likelihood"]["value"] is None
    assert set(row_of(found, "a")["difference"].values()) == {None}
    assert found.verdict == "best: b; a gives some data no probability at all"
    assert sum(row["weight"] for row in found.table) == pytest.approx(1)
    json.dumps(found.tree(), allow_nan=False)
    assert "undetermined" in found.text()


def test_the_same_run_twice_is_not_told_apart(linear_runs):
    run = linear_runs[0]["wrong"]
    found = pv.compare({"one": run, "two": run}, num_samples=20, observations=30)
    assert row_of(found, "two")["difference"]["value"] == row_of(found, "two")["difference"]["standard_error"] == 0
    assert found.verdict == "best: one; two is not told apart (0.000 ± 0.000 nats per datum)"
    assert [row["weight"] for row in found.table] == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (-0.19, 0.1, "is not told apart (-0.19 ± 0.10 nats per datum)"),
        (-0.21, 0.1, "is 0.21 ± 0.10 nats per datum worse (2.1 standard errors)"),
        (-1.932, 0.1013, "is 1.93 ± 0.10 nats per datum worse (19 standard errors)"),
        (-0.000191, 0.0000123, "is 0.000191 ± 0.000012 nats per datum worse (16 standard errors)"),
        (-1.0, 0.0, "is 1.000 ± 0.000 nats per datum worse (the same for every datum)"),
        (-1.0, None, "is 1.000 nats per datum worse; the standard error is undetermined"),
    ],
)
def test_verdict(value, error, words):
    rows = [{"name": "a"}, {"name": "b", "difference": {"value": value, "standard_error": error}}]
    assert pv.Comparison(rows, {}, "x", (), "test", 10, 5).verdict == f"best: a; b {words}"


def test_a_guide_that_misses_the_tails_is_said_to_give_a_bound(linear_runs):
    runs, _ = linear_runs
    made = runs["right"].data.truth
    runs["right"].vae = linear(made["W"], made["b"], made["sigma"].item(), narrow=0.3)
    found = pv.compare(runs, num_samples=500, observations=60)
    (note,) = found.warnings
    assert note.startswith("right: k-hat is good for ")
    assert "its log p(x) is a lower bound, and the comparison favours the guide that fits" in note
    assert f"note: {note}" in found.text()
    few = pv.compare(runs, num_samples=50, observations=60)
    assert few.warnings == [f"{name}: k-hat is undetermined: takes 100 importance samples or more" for name in
                            [row["name"] for row in few.table]]  # fmt: skip


# ------------------------------------------------------------------------------------------------------- the same data


def test_every_run_sees_the_same_x_in_any_order(make, seen):
    """Dynamic binarisation draws by the seed: what the run with the smallest drew is given to all."""
    runs = make(late=["seed=5"], early=["seed=2"], other=["seed=9", "training.precision=float64"])
    found = pv.compare(runs, num_samples=3)
    assert torch.equal(seen["early"].x, runs["early"].batch("test").x)
    assert not torch.equal(seen["early"].x, runs["late"].batch("test").x)
    for name in runs:
        assert torch.equal(seen[name].x.float(), seen["early"].x)
    assert seen["other"].x.dtype == torch.float64
    assert found.drawn == "data.binarize=dynamic"
    assert "x with data.binarize=dynamic drawn once for all" in found.text()
    again = pv.compare(dict(reversed(runs.items())), num_samples=3)
    assert again.tree() == found.tree()
    assert list(again.elpd) == list(found.elpd)


def test_dequantised_x_is_drawn_once_too(make, seen):
    words = ["data.binarize=none", "data.dequantize=uniform", "likelihood=normal"]
    found = pv.compare(make(a=[*words, "seed=1"], b=[*words, "seed=2"]), num_samples=2, observations=20)
    assert torch.equal(seen["a"].x, seen["b"].x)
    assert found.drawn == "data.dequantize=uniform (17 levels)"


def test_shown_entries_are_those_of_the_x_that_is_scored(make, seen):
    words = ["data.shown={quadrants: 2}", "prior=normal"]
    found = pv.compare(make(a=[*words, "seed=1"], b=[*words, "seed=2"]), num_samples=2, observations=20)
    for batch in (seen["a"], seen["b"]):
        assert torch.equal(batch.given, batch.x[..., :4].reshape(20, -1))
        assert torch.equal(batch.x, seen["a"].x)
    assert found.conditional_on == ("x_shown",)
    assert found.title.startswith("log p(x | x_shown), nats per datum; test, 20 data, 2 importance samples")


def test_units_that_only_the_networks_see_do_not_matter(make, seen, tmp_path):
    """x is the same with data.standardize, and each run gets the covariates that its own networks know."""
    np.save(tmp_path / "mask.npy", np.array([True, False, False]))
    words = [*OWN, f"data.shown.mask={tmp_path / 'mask.npy'}"]
    runs = make(pv.Arrays(10 + 3 * TABLE["x"]), a=words, b=[*words, "data.standardize=true"])
    found = pv.compare(runs, num_samples=2)
    assert torch.equal(seen["a"].x, seen["b"].x)
    assert not torch.allclose(seen["a"].given, seen["b"].given)
    assert found.drawn is None


def test_observations_are_drawn_once_for_all(make, seen):
    runs = make(a=["seed=1"], b=["seed=2"])
    counted = []
    found = pv.compare(runs, num_samples=2, observations=40, progress=counted.append)
    assert sum(counted) == 2 * 40
    assert found.num_data == 40
    rows = found.elpd["a"].elpd_i["obs"].values
    assert (np.diff(rows) > 0).all()
    assert rows.max() > 200, "spread over the test set, which may be sorted"
    assert torch.equal(seen["b"].x, runs["a"].batch("test", rows.tolist()).x)
    again = pv.compare(runs, num_samples=2, observations=40)
    assert again.tree() == found.tree()


def test_label_sites_in_another_order_are_the_same(make):
    arrays = pv.Arrays(TABLE["x"], {"a": TABLE["y"]["site"], "b": rng.integers(0, 3, 200)})
    a, b = "a: {classes: 2, observed: always}", "b: {classes: 3, observed: always}"
    words = OWN
    found = pv.compare(make(arrays, one=[*words, f"labels={{{a}, {b}}}"], two=[*words, f"labels={{{b}, {a}}}"]),
                       num_samples=2)  # fmt: skip
    assert found.subject == "log p(x|y)"


# ------------------------------------------------------------------------------------------------------ what is refused

ALWAYS = "labels={digit: {classes: 10, observed: always}}"
LIKE = "only like with like compares. Leave one out."
ALIKE = "train both on the same data, treated alike"
REFUSED = {
    "density": ([], [ALWAYS], [f"b: measures log p(x|y) with y = digit, and a log p(x); {LIKE}"]),
    "conditional": (
        ["prior=normal"],
        ["prior=normal", "data.shown={quadrants: 1}"],
        [f"b: measures log p(x | x_shown), and a log p(x); {LIKE}", "b: the shown part of x of its test data is not "],
    ),
    "shown": (
        ["data.shown={quadrants: 2}"],
        ["data.shown={quadrants: 1}"],
        [f"b: the shown part of x of its test data is not that of a; {ALIKE}."],
    ),
    "unnormalised": (
        GREY,
        ["data.binarize=none", "likelihood={kind: bernoulli, grey: true}"],
        ["b: its likelihood is declared unnormalised; it has no log p(x) to compare. Leave it out."],
    ),
    "point": (
        [],
        ["guide=point", "objective={kind: elbo, beta: 0}"],
        ["b: its guide is a point, not a density; it has no log p(x) to compare. Leave it out."],
    ),
    "probabilities": (
        GREY,
        ["data.binarize=none", "likelihood={kind: discretized_logistic, levels: 17}"],
        ["b: variant.likelihood='discretized_logistic' and 'normal' of a are not both probabilities, or both "],
    ),
    "drawn": (
        [],
        ["data.binarize=threshold"],
        [f"b: has data.binarize=threshold, and a data.binarize=dynamic, which are densities of different x; {ALIKE}."],
    ),
    "dequantised": (
        GREY,
        [*GREY, "data.dequantize=uniform"],
        ["b: has data.dequantize=uniform (17 levels), and a data.binarize=none, which are densities of different x"],
    ),
    "binarised": (
        ["data.binarize=static"],
        ["data.binarize=threshold"],
        [f"b: x of its test data is not that of a (data.binarize=threshold and static); {ALIKE}."],
    ),
    "other data": (
        GREY,
        [*GREY, "data=squares"],
        [f"b: its test data are 58 of shape (1, 16, 16), those of a 360 of shape (1, 8, 8); {ALIKE}."],
    ),
    "simulated": (
        LINEAR,
        [*LINEAR, "seed=1"],
        [f"b: x of its test data is not that of a; {ALIKE}, with the same seed (here 1 and 0)."],
    ),
    "missing": (
        ["data.missing=0.2"],
        ["data.missing=0.4"],
        [
            "b: what is missing of its test data is not that of a (data.missing=0.4 and 0.2); ",
            "b: x of its test data is not that of a (data.missing=0.4 and 0.2); ",
        ],
    ),
}


@pytest.mark.parametrize(("a", "b", "lines"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_compare(make, a, b, lines):
    runs = make(a=a, b=b)
    found = problems(runs)
    assert len(found) == len(lines)
    for line, start in zip(found, lines, strict=True):
        assert line.startswith(start)
    assert len(problems(dict(reversed(runs.items())))) == len(lines)


def test_every_run_that_does_not_compare_is_named(make):
    runs = make(a=[], b=[ALWAYS], c=["data.binarize=static"])
    assert [line[:2] for line in problems(runs)] == ["b:", "c:"]


def test_other_labels_and_covariates_are_refused(make):
    words = OWN
    x, y = TABLE["x"], TABLE["y"]["site"]
    same = pv.Arrays(x, {"site": y})
    arrays = {"a": same, "b": pv.Arrays(x, {"site": 1 - y})}
    always = [*words, "labels={site: {classes: 2, observed: always}}"]
    assert problems(make(arrays, a=always, b=always))[0].startswith(
        "b: label 'site' of its test data is not that of a;"
    )


def test_labels_that_are_summed_out_may_differ(make):
    words = [*OWN, "labels={site: {classes: 2, observed: partly}}"]
    x, y = TABLE["x"], TABLE["y"]["site"]
    runs = make({"a": pv.Arrays(x, {"site": y}), "b": pv.Arrays(x, {"site": 1 - y})}, a=words, b=words)
    assert pv.compare(runs, num_samples=2).density == "x"


@pytest.mark.parametrize("field", ["given", "mask"])
def test_what_is_given_and_what_is_missing_must_agree(make, field):
    words, x = OWN, TABLE["x"]
    one, two = (rng.random((200, 3)) for _ in range(2))
    one, two = (one, two) if field == "given" else (one > 0.2, two > 0.2)
    runs = make({"a": pv.Arrays(x, **{field: one}), "b": pv.Arrays(x, **{field: two})}, a=words, b=words)
    what = {"given": "what is given (covariates)", "mask": "what is missing"}[field]
    assert problems(runs)[0].startswith(f"b: {what} of its test data is not that of a")


def test_validation_data_of_another_seed_are_refused(make):
    runs = make(a=["data.binarize=static"], b=["data.binarize=static", "seed=1"])
    assert pv.compare(runs, num_samples=2, observations=10).num_data == 10
    (line,) = problems(runs, split="validation")
    assert line.endswith("treated alike, with the same seed (here 1 and 0).")


def test_a_mixed_table_is_compared_column_by_column():
    normal, several = pv.Normal(), pv.Mixed(columns=[pv.Bernoulli(), pv.Several(of=pv.Normal(), times=2)])
    assert comparable.discrete(several, 3) == (True, False, False)
    assert comparable.discrete(normal, 3) == (False, False, False)
    assert comparable.discrete(pv.Mixed(), 3) == (False, False, False)


def test_what_is_no_run_is_refused(make, tmp_path):
    import xarray

    runs, tree = make(a=[]), xarray.DataTree()
    run, folder = runs["a"], tmp_path / "a"
    assert problems([run]) == ["runs: 1 given, and a comparison takes two or more; add another."]
    assert problems(run) == [f"runs={run!r}: must be two runs or more, like [pv.load(DIR), pv.load(DIR)]."]
    draws = "draws, which do not tell log p(x) of held-out data; give"
    assert problems([run, tree]) == [f"runs[1]: is a DataTree of {draws} the run itself."]
    assert problems(tree) == [f"runs: is a DataTree of {draws} the run itself."]
    assert problems({"a": run, "b": folder / "posterior.nc"}) == [
        f"b={str(folder / 'posterior.nc')!r}: holds {draws} the run directory, {folder}."
    ]
    assert problems({"a": run, "b": str(folder)}) == [
        f"b={str(folder)!r}: must be a Run; give pyro_vae.load({str(folder)!r})."
    ]
    assert problems([run, 3, None]) == [
        f"runs[{i}]={value}: must be a Run; pyro_vae.load(DIR) opens one." for i, value in ((1, 3), (2, None))
    ]
    assert problems(7) == ["runs=7: must be a Run; pyro_vae.load(DIR) opens one."]
    assert problems([run, Run(folder)]) == [f"{folder}: is given more than once; give it once."]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"num_samples": 0}, "num_samples=0: must be at least 1; 1000 is usual."),
        ({"split": "tset"}, "split='tset': must be one of train, validation, test."),
        ({"observations": 1}, "observations=1: must be 2 to 360, or left out for all test data."),
        ({"observations": 361}, "observations=361: must be 2 to 360, or left out for all test data."),
    ],
)
def test_options_are_checked(make, options, line):
    assert problems(make(a=[], b=[]), **options) == [line]


def test_a_split_without_data_is_refused(make):
    words = ["data.validation=0"]
    (line,) = problems(make(a=words, b=words), split="validation")
    assert line == "split='validation': holds 0 data, and a standard error takes two; choose another."


def test_names_are_the_shortest_ends_that_differ(tmp_path):
    paths = [tmp_path / end for end in ("one/seed0/vae", "two/seed0/vae", "two/seed0/vamp", "vae")]
    runs = [declared(path) for path in paths]
    assert list(comparable.named(runs)) == ["one/seed0/vae", "two/seed0/vae", "vamp", f"{tmp_path.name}/vae"]


# ----------------------------------------------------------------------------------------------------- the command line


@pytest.fixture(scope="session")
def wider_run(tmp_path_factory):
    return trained(tmp_path_factory, *TINY, "latent.dim=3", "seed=4")


LONG = "[wide] and with a name that leaves no room for numbers on a line of a terminal"


@pytest.fixture
def two(tiny_run, wider_run, tmp_path):
    """Two trained runs with names."""
    return [shutil.copytree(run, tmp_path / name) for run, name in ((tiny_run, "small"), (wider_run, LONG))]


def test_compare_prints_a_table_and_a_sentence(done, two, tmp_path):
    text = done("compare", *two, "-k", 100, "--observations", 50, "--out", tmp_path / "found.png")
    lines = text.splitlines()
    assert lines[0].startswith("log p(x), nats per datum; test, 50 data, 100 importance samples, x with data.binarize")
    assert any(LONG in line for line in lines if "│" in line)
    assert sum(line.startswith("best: ") for line in lines) == 1
    assert lines[-1] == str(tmp_path / "found.png")
    assert imread(tmp_path / "found.png").std() > 0.02


def test_compare_as_json(done, two, tmp_path):
    words = ["compare", "-k", 20, "--observations", 50, "--json"]
    found = json.loads(done(*words, *two), parse_constant=pytest.fail)
    assert found["density"] == "x"
    assert found["conditional_on"] == []
    assert (found["split"], found["num_data"], found["num_importance_samples"]) == ("test", 50, 20)
    assert {row["name"]: row["run"] for row in found["runs"]} == {path.name: str(path) for path in two}
    for rank, row in enumerate(found["runs"], 1):
        assert row["rank"] == rank
        assert row["khat"] is None
        assert row["monte_carlo_error"] > 0
        assert row["difference"]["value"] <= 0
        assert row["log_likelihood"]["standard_error"] > 0
    assert sum(row["weight"] for row in found["runs"]) == pytest.approx(1)
    assert json.loads(done(*words, *reversed(two))) == found
    single = json.loads(done("compare", *two, "-k", 1, "--observations", 50, "--json"), parse_constant=pytest.fail)
    assert [row["monte_carlo_error"] for row in single["runs"]] == [None, None]


def test_compare_refuses(refused, two, conditional_run, tmp_path):
    assert mistake(refused, "compare", two[0]) == "runs: 1 given, and a comparison takes two or more; add another."
    assert "log p(x|y) with y = digit; only like with like compares" in mistake(
        refused, "compare", two[0], conditional_run
    )
    assert mistake(refused, "compare", *two, "--out", tmp_path).startswith(f"--out {tmp_path}: is a directory")
    lines = refused("compare", two[0] / "posterior.nc", tmp_path / "none", two[0])
    assert lines[0].endswith(f"give the run directory, {two[0]}.")
    assert "is no run directory" in lines[1]
    assert mistake(refused, "compare", *two, "--split", "x").startswith("split='x': must be one of")
    line = mistake(refused, "compare", *two, "--split", "validation")
    assert "x of its validation data is not that of" in line


# ---------------------------------------------------------------------------------------------------------- the picture


def test_figure():
    def row(name, value, error, good):
        khat = None if good is None else {"good_fraction": good}
        return {"name": name, "difference": {"value": value, "standard_error": error}, "khat": khat}

    rows = [row("a", 0.0, 0.0, 1.0), row("b", -1.5, 0.2, 0.3), row("c", -2.0, None, 0.9), row("d", None, None, None)]
    figure = comparison_figure(rows, "log p(x|y)")
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b", "c", "d"]
    assert ax.get_xlabel() == "log p(x|y) less that of the best, nats per datum ± 1 standard error"
    assert [text.get_text() for text in ax.texts] == ["best", "-1.50 ± 0.20", "-2.000 ± undetermined", "undetermined"]
    dots = [bars.lines[0] for bars in ax.containers]
    assert [dot.get_xydata()[0].tolist() for dot in dots] == [[0.0, 0.0], [-1.5, 1.0], [-2.0, 2.0]]
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [False, True, False]
    (segment,) = ax.containers[1].lines[2][0].get_segments()
    np.testing.assert_allclose(segment[:, 0], [-1.7, -1.3])
    assert ax.get_ylim() == (3.5, -0.5), "the best at the top"
    assert "a lower bound" in ax.get_legend().get_texts()[0].get_text()
    assert comparison_figure(rows[:1]).axes[0].get_legend() is None
    figure.draw_without_rendering()
    box, size = ax.get_tightbbox(), figure.canvas.get_width_height()
    assert box.x0 >= 0
    assert box.x1 <= size[0]
