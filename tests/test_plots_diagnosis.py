"""Figures of a diagnosis: every number is drawn, and every word can be read."""

import subprocess
import sys
from functools import cache
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from guides import data, guided, model
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from pyro_vae import inference_data, plots
from pyro_vae.diagnosis.aggregate import aggregate_posterior
from pyro_vae.diagnosis.bounds import annealed_log_likelihood, bidirectional
from pyro_vae.diagnosis.calibration import calibrate
from pyro_vae.diagnosis.everything import Findings
from pyro_vae.diagnosis.importance import importance_weights
from pyro_vae.diagnosis.reference import reference_posterior
from pyro_vae.diagnosis.replication import check_predictive
from pyro_vae.diagnosis.report import Convergence, label_numbers, numbers
from pyro_vae.diagnosis.simulation import simulate
from pyro_vae.diagnosis.suboptimality import inference_gaps
from pyro_vae.diagnosis_figures import figures
from pyro_vae.diagnostics.predictive import quantities
from pyro_vae.latent import draw_latents, side_by_side
from pyro_vae.plots.style import bins, inches, shortened, wrapped

DIM, OBSERVED, HELD_OUT, SIMULATED = 3, 8, 40, 100
STEMS = [
    "khat",
    "posterior",
    "moments",
    "log_likelihood",
    "gaps",
    "calibration",
    "aggregate",
    "predictive",
    "labels",
]
DATA = "linear-Gaussian data, test"
rng = np.random.default_rng(0)


@cache
def made(guide):
    """Findings of a VAE with this guide, small ones, and their figures."""
    torch.manual_seed(1)
    W, b = model(latent_dim=DIM)
    vae, observed, held_out = guided(guide, W, b), data(OBSERVED, W, b), data(HELD_OUT, W, b, seed=6)
    found = Findings(
        importance=importance_weights(vae, held_out, 400),
        observed_importance=importance_weights(vae, observed, 400),
        reference=reference_posterior(vae, observed, 100, 50, 2),
        annealed=annealed_log_likelihood(vae, observed, 20, 8),
        sandwich=bidirectional(vae, simulate(vae, held_out, 6), 20, 8),
        gaps=dict.fromkeys(("test", "train"), inference_gaps(vae, observed, 10)),
        calibration=calibrate(vae, held_out, SIMULATED),
        aggregate=aggregate_posterior(vae, held_out),
        checks=check_predictive(vae, held_out, quantities((6,), counts=False), 50, 200),
        sizes={"bidirectional": 20, "annealing": 20},
    )
    z = side_by_side(draw_latents(vae, observed, 200).z)
    chains = inference_data.convergence(side_by_side(found.reference.z).movedim(0, 1))
    chains = Convergence(**{name: torch.as_tensor(values) for name, values in chains.items()})
    n = numbers(found, (z.mean(0), z.std(0)), chains)
    p = torch.rand(200, 4).softmax(1)
    n["labels"] = {"digit": label_numbers(p, p.multinomial(1)[:, 0])}
    names, observations = [f"z_{i}" for i in range(DIM)], list(range(100, 100 + OBSERVED))
    drawn = figures(found, n, z, names, observations, DATA)
    return SimpleNamespace(found=found, numbers=n, z=z, chains=chains, figures=drawn, args=(names, observations, DATA))


@pytest.fixture(params=["exact", "narrow"])
def diagnosis(request, float64):
    return made(request.param)


@pytest.fixture
def exact(float64):
    return made("exact")


def drawn_texts(figure):
    """Every text that is drawn, with its box in pixels; ticks outside of the axes are not."""
    hidden = set()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                    hidden |= {tick.label1, tick.label2}
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in hidden]
    return [(text, text.get_window_extent()) for text in texts]


def assert_readable(figure, overlap=1.0, least=100):
    """Nothing outside of the figure, no two texts on one another, no figure too wide."""
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # by the metrics of that canvas
    width, height = canvas.get_width_height()
    texts = drawn_texts(figure)
    assert len(texts) > 5
    for text, box in texts:
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert inside, f"{text.get_text()!r} at {box.extents} of {width} x {height}"
    for (one, a), (other, b) in combinations(texts, 2):
        across, up = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(across, up) <= overlap, f"{one.get_text()!r} on {other.get_text()!r}"
    for ax in figure.axes:
        assert min(ax.bbox.width, ax.bbox.height) > least, "no room is left for what is to be seen"
    assert figure.get_figwidth() <= 12


def words(figure):
    return " ".join(text.get_text() for text in figure.findobj(Text)).replace("\n", " ").replace("\u00a0", " ")


def dots(ax):
    return sum(len(points.get_offsets()) for points in ax.collections if hasattr(points, "get_sizes"))


def labelled_lines(ax, start):
    return [line for line in ax.get_lines() if str(line.get_label()).startswith(start)]


@pytest.mark.parametrize("stem", STEMS)
def test_readable(diagnosis, stem):
    assert list(diagnosis.figures) == STEMS
    figure = diagnosis.figures[stem]
    assert DATA in figure.get_suptitle().replace("\n", " ")
    for ax in figure.axes:
        assert ax.get_ylabel() or stem in ("log_likelihood", "predictive")
        assert ax.get_xlabel() or stem == "gaps"
    assert_readable(figure)


def test_khat(diagnosis):
    figure, n = diagnosis.figures["khat"], diagnosis.numbers["importance"]
    left, right = figure.axes
    assert dots(left) == dots(right) == HELD_OUT
    good = round(n["khat"]["good_fraction"] * HELD_OUT)
    assert f"good for {good} of {HELD_OUT} data" in words(figure)
    assert f"threshold {n['khat']['threshold']:.2f}" in words(figure)
    assert any(np.allclose(line.get_ydata(), n["khat"]["threshold"]) for line in left.get_lines())
    exact = bool((diagnosis.found.importance.khat == -torch.inf).all())
    assert ("-inf" in [text.get_text() for text in left.get_yticklabels()]) == exact
    worth = np.sort(np.concatenate([points.get_offsets()[:, 1] for points in right.collections]))
    np.testing.assert_allclose(worth, np.sort(diagnosis.found.importance.effective / 4), rtol=1e-6)


def test_posterior(diagnosis):
    figure = diagnosis.figures["posterior"]
    assert [ax.get_title() for ax in figure.axes] == [f"datum {i}" for i in range(100, 106)]
    assert "first 6 of 8 data" in figure.get_suptitle()
    ratios = []
    for b, ax in enumerate(figure.axes):
        assert ax.get_xlabel() != ax.get_ylabel()
        i, j = (int(name[-1]) for name in (ax.get_xlabel(), ax.get_ylabel()))
        (hmc,), (guide,) = labelled_lines(ax, "HMC: 2 sd"), labelled_lines(ax, "guide: 2 sd")
        draws = diagnosis.z[:, b, [i, j]]
        ends = np.ptp(np.stack(guide.get_data()), axis=1)
        np.testing.assert_allclose(ends, 4 * draws.std(0, correction=0), rtol=1e-2)
        ratios.append(ends / np.ptp(np.stack(hmc.get_data()), axis=1))
        assert hmc.get_linestyle() != guide.get_linestyle()
        assert dots(ax) == 200
    exact = bool((diagnosis.found.importance.khat == -torch.inf).all())
    assert np.mean(ratios) == pytest.approx(1.0 if exact else 0.7, abs=0.12)


def test_moments(diagnosis):
    left, right = diagnosis.figures["moments"].axes
    for ax in (left, right):
        (points,) = [line for line in ax.get_lines() if line.get_marker() == "o"]
        assert len(points.get_xdata()) == OBSERVED * DIM
        assert labelled_lines(ax, "equal")
        assert ax.get_xlim() == ax.get_ylim()
    assert right.get_xscale() == right.get_yscale() == "log"
    ratio = diagnosis.numbers["reference"]["sd_ratio"]["geometric_mean"]
    assert f"{ratio:.2f} times HMC's" in right.get_title().replace("\n", " ")
    bias = diagnosis.numbers["reference"]["bias_over_sd"]["root_mean_square"]
    assert f"{bias:.2g} posterior sd" in left.get_title().replace("\n", " ")


def test_errors_and_resampled_draws_are_drawn_where_given(exact):
    d = exact
    drawn = figures(d.found, d.numbers, d.z, *d.args, resampled=d.z[:50], convergence=d.chains)
    left = drawn["moments"].axes[0]
    (bars,) = [c for c in left.collections if hasattr(c, "get_segments")]
    lengths = [np.ptp(segment[:, 0]) for segment in bars.get_segments()]
    np.testing.assert_allclose(lengths, 4 * d.chains.mcse_mean.flatten(), rtol=1e-6)
    assert dots(drawn["posterior"].axes[0]) == 250
    assert "resampled by importance" in words(drawn["posterior"])


def test_chains_that_did_not_converge_are_told(exact):
    n = {**exact.numbers, "reference": {**exact.numbers["reference"], "rhat_max": 1.5}}
    only = Findings(reference=exact.found.reference)
    drawn = figures(only, n, exact.z, *exact.args)
    for stem in ("posterior", "moments"):
        assert "NOT converged (R-hat up to 1.50)" in words(drawn[stem])


def test_log_likelihood(diagnosis):
    bounds, excess, sandwich = diagnosis.figures["log_likelihood"].axes
    rows = diagnosis.numbers["importance"]["log_likelihood"]
    assert [text.get_text() for text in bounds.get_yticklabels()] == [row["name"] for row in rows]
    values = [line.get_xdata()[0] for line in bounds.get_lines() if line.get_marker() in ("o", ">")]
    np.testing.assert_allclose(values, [row["value"] for row in rows])
    found = diagnosis.found
    difference = found.annealed.value - found.observed_importance.log_likelihood
    shown = next(line for line in excess.get_lines() if line.get_marker() == "o").get_ydata()
    np.testing.assert_allclose(shown, difference.sort()[0])
    order = [str(100 + i) for i in difference.argsort().tolist()]
    assert [text.get_text() for text in excess.get_xticklabels()] == order
    gap = found.sandwich.upper.value - found.sandwich.lower.value
    shown = next(line for line in sandwich.get_lines() if line.get_marker() == "v").get_ydata()
    np.testing.assert_allclose(shown, gap.sort()[0])
    assert sandwich.get_ylim()[0] <= -0.1
    assert sandwich.get_ylim()[1] >= 0.1


def test_gaps(diagnosis):
    (ax,) = diagnosis.figures["gaps"].axes
    n = diagnosis.numbers["gaps"]
    assert [text.get_text().split(":")[0] for text in ax.get_xticklabels()] == ["test", "train"]
    for k, split in enumerate(("test", "train")):
        family, encoder = ax.patches[2 * k : 2 * k + 2]
        assert family.get_height() == pytest.approx(n[split]["approximation"]["value"])
        assert encoder.get_y() + encoder.get_height() == pytest.approx(n[split]["total"]["value"])
        assert family.get_hatch() != encoder.get_hatch()
    full = [line.get_ydata()[0] for line in ax.get_lines() if line.get_marker() == "D"]
    np.testing.assert_allclose(full, [n[s]["approximation_of_full_normal"]["value"] for s in ("test", "train")])


def test_calibration(diagnosis):
    left, right = diagnosis.figures["calibration"].axes
    assert len(labelled_lines(left, f"each of {DIM}")) == DIM
    (joint,), (distance,) = labelled_lines(left, "log p(x, z)"), labelled_lines(left, "TARP")
    assert joint.get_linewidth() == distance.get_linewidth() > 2 * labelled_lines(left, "each")[0].get_linewidth()
    u = diagnosis.found.calibration.pit()["log_joint"].numpy()
    assert joint.get_ydata()[250] == pytest.approx((u <= 0.5).mean() - 0.5)
    assert "1.63 / sqrt(N) = ± 0.163" in words(diagnosis.figures["calibration"])
    points = [line for line in right.get_lines() if line.get_marker() in ("o", "d")]
    assert sum(len(line.get_xdata()) for line in points) == 3 * DIM
    assert [text.get_text() for text in right.get_xticklabels()] == ["50 %", "90 %", "99 %"]
    odds = np.sort(np.concatenate([line.get_ydata() for line in points]))
    share = np.sort(diagnosis.found.calibration.coverage().share.flatten().numpy())
    inside = (share > 0) & (share < 1)
    np.testing.assert_allclose((1 / (1 + np.exp(-odds)))[inside], share[inside], rtol=1e-6)


def test_aggregate(diagnosis):
    left, right = diagnosis.figures["aggregate"].axes
    kl = diagnosis.found.aggregate.kl_per_dim
    np.testing.assert_allclose([bar.get_height() for bar in left.patches], kl.sort(descending=True)[0])
    order = [f"z_{i}" for i in kl.argsort(descending=True)]
    assert [text.get_text() for text in left.get_xticklabels()] == order
    assert [right.get_xlabel(), right.get_ylabel()] == order[:2]
    assert dots(right) == 2 * HELD_OUT
    assert "p = " in words(diagnosis.figures["aggregate"])


def test_predictive(diagnosis):
    axes = diagnosis.figures["predictive"].axes
    assert [ax.get_title() for ax in axes[:4]] == ["mean", "sd", "smallest", "largest"]
    for top, bottom in zip(axes[:4], axes[4:], strict=True):
        for steps in top.patches:
            heights, edges, _ = steps.get_data()
            assert (heights * np.diff(edges)).sum() == pytest.approx(1)
        assert len({steps.get_linestyle() for steps in top.patches}) == 2
        assert sum(bar.get_height() for bar in bottom.patches) == HELD_OUT
        assert bottom.get_lines()[0].get_ydata()[0] == HELD_OUT / len(bottom.patches)


def test_labels(diagnosis):
    (ax,) = diagnosis.figures["labels"].axes
    n = diagnosis.numbers["labels"]["digit"]
    (points,) = [line for line in ax.get_lines() if line.get_marker() == "o"]
    np.testing.assert_allclose(points.get_data(), 100 * np.array([n["confidence"], n["share"]]))
    error = n["expected_calibration_error"]
    assert f"{100 * error['value']:.1f} ± {100 * error['standard_error']:.1f} %" in words(ax.figure)


def test_sections_that_are_missing_have_no_figure(exact):
    d = exact
    assert figures(Findings(), {}, d.z, *d.args) == {}
    part = Findings(annealed=d.found.annealed, sandwich=d.found.sandwich)
    drawn = figures(part, {"labels": {}}, d.z, *d.args)
    assert list(drawn) == ["log_likelihood"]
    assert len(drawn["log_likelihood"].axes) == 1
    assert_readable(drawn["log_likelihood"])
    drawn = figures(Findings(importance=d.found.importance), d.numbers, d.z, *d.args)
    assert list(drawn) == ["khat", "log_likelihood", "gaps", "labels"]
    assert len(drawn["log_likelihood"].axes) == 1


LONG = "a data set whose name is as long as a sentence, for someone called it after $ every $ thing in_it, validation"


@pytest.mark.parametrize(
    ("khat", "ticks"),
    [
        (np.full(5, -np.inf), {"-inf"}),
        (np.full(5, np.nan), {"no number"}),
        (np.array([-np.inf, 0.3, np.nan, 9.0, np.inf]), {"-inf", "no number"}),
        (np.array([-7.0]), set()),
    ],
)
def test_khat_of_any_kind(khat, ticks):
    report = {"threshold": 0.7, "num_draws": 2000, "good_fraction": 0.5, "standard_error": 0.1}
    figure = plots.khat_figure(khat, np.linspace(0, 2000, len(khat)), report, LONG)
    left, right = figure.axes
    assert dots(left) == dots(right) == len(khat)
    shown = {text.get_text() for text in left.get_yticklabels()}
    assert shown & {"-inf", "no number"} == ticks
    for points in (*left.collections, *right.collections):
        places = points.get_offsets()
        assert np.isfinite(places).all()
        low, high = points.axes.get_ylim()
        assert ((places[:, 1] >= low) & (places[:, 1] <= high)).all()
    lost = int(np.isnan(khat).sum())
    assert (f"undetermined for {lost}" in words(figure)) == (lost > 0)
    assert_readable(figure)


@pytest.mark.parametrize("dim", [1, 50])
def test_any_number_of_dimensions(dim):
    names = [f"a_rather_long_site_name_{i}" for i in range(dim)]
    guide, hmc = rng.normal(size=(2, 100, 20, dim)) * 1e3 + 1e5
    observations = [100_000 + i for i in range(20)]
    figure = plots.posterior_figure(guide, hmc, names, observations, LONG)
    assert len(figure.axes) == 6
    if dim == 1:
        assert figure.axes[0].get_ylabel() == "probability density"
        assert len(figure.axes[0].patches) == 2
    assert_readable(figure)
    assert_readable(plots.moments_figure((guide.mean(0), guide.std(0)), (hmc.mean(0), hmc.std(0)), LONG))
    pit, share = rng.random((200, dim + 2)), rng.binomial(200, [[0.5], [0.9], [0.99]], (3, dim)) / 200
    coverage = np.array([0.5, 0.9, 0.99]), share, np.array([0.035, 0.02, 0.007])
    figure = plots.calibration_figure(pit[:, 2:], pit[:, 0], pit[:, 1], coverage, LONG)
    assert_readable(figure)
    kl = np.sort(rng.exponential(size=dim))
    gone = list(range(1, dim, 3))
    kl[gone] = 1e-4
    z = rng.normal(size=(2, 300, dim))
    figure = plots.aggregate_figure(*z, names, LONG, kl, kl, gone, p_value=0.005)
    assert len(figure.axes[0].patches) == dim
    assert sum(bar.get_hatch() is not None for bar in figure.axes[0].patches) == len(gone)
    assert [len(line.get_xdata()) for line in labelled_lines(figure.axes[0], "collapsed")] == [len(gone)] * bool(gone)
    assert len(figure.axes[0].get_xticklabels()) == dim
    assert_readable(figure)


def test_dimensions_that_differ_most_are_drawn():
    """Means alike, sd alike: only the correlation of dimensions 3 and 7 differs, and a diagonal guide misses it."""
    guide, hmc = rng.normal(size=(2, 2000, 2, 10))
    hmc[..., 7] = 0.9 * hmc[..., 3] + np.sqrt(1 - 0.81) * hmc[..., 7]
    figure = plots.posterior_figure(guide, hmc, [str(i) for i in range(10)], [0, 1], "data")
    assert [(ax.get_xlabel(), ax.get_ylabel()) for ax in figure.axes] == [("3", "7")] * 2


def test_a_guide_that_is_a_point():
    guide, hmc = np.zeros((50, 3, 4)), rng.normal(size=(50, 3, 4))
    assert_readable(plots.posterior_figure(guide, hmc, list("abcd"), [0, 1, 2], "data"))
    figure = plots.moments_figure((guide.mean(0), guide.std(0)), (hmc.mean(0), hmc.std(0)), "data")
    (zero,) = labelled_lines(figure.axes[1], "an sd of 0")
    assert len(zero.get_xdata()) == 12
    assert_readable(figure)
    assert_readable(plots.moments_figure((hmc.mean(0), hmc.std(0)), (guide.mean(0), guide.std(0)), "data"))


def test_bars_of_the_variance_where_there_is_no_kl():
    variance = np.array([0.2, 0.9, 0.5])
    figure = plots.aggregate_figure(*rng.normal(size=(2, 50, 3)), list("abc"), "data", None, variance)
    left, right = figure.axes
    assert [bar.get_height() for bar in left.patches] == [0.9, 0.5, 0.2]
    assert left.get_ylabel() == "variance of E[z | x] over the data"
    assert (right.get_xlabel(), right.get_ylabel()) == ("b", "c")
    assert_readable(figure)


def test_a_single_observation():
    guide, hmc = rng.normal(size=(2, 50, 1, 2))
    figure = plots.posterior_figure(guide, hmc, ["z_0", "z_1"], [12], LONG, warning="Beware")
    assert len(figure.axes) == 1
    assert figure.get_suptitle().endswith("Beware")
    assert_readable(figure)
    one = np.array([0.3])
    figure = plots.log_likelihood_figure([], LONG, excess=(one, one), observations=[12], sides=(one, one, one))
    assert_readable(figure)


def test_many_and_odd_values_of_log_p():
    rows = [{"name": name, "value": -1e6, "standard_error": 0.1, "is": "lower bound in expectation"} for name in "ab"]
    rows.append({"name": "c", "value": -1e6 + 5, "standard_error": np.nan, "is": "estimate, no bound"})
    excess, error = rng.normal(size=100) * 1e3, np.full(100, np.nan)
    sides = rng.normal(size=(3, 100)) ** 2
    figure = plots.log_likelihood_figure(rows, LONG, 10, (excess, error), range(100), tuple(sides))
    assert_readable(figure)
    figure = plots.log_likelihood_figure(rows, LONG, 10, (excess[:20], error[:20]), range(50_000, 50_020))
    assert [int(text.get_text()) - 50_000 for text in figure.axes[1].get_xticklabels()] == excess[
        :20
    ].argsort().tolist()
    assert_readable(figure)


def gap(value):
    return {"value": value, "standard_error": 0.001}


def test_gaps_that_are_none():
    """Noise around zero: no more than a line on an axis that goes to 0.1 nats; a loss below zero hides nothing."""
    row = {"num_data": 32, "total": gap(-0.001), "approximation": gap(0.002), "amortisation": gap(-0.003)}
    figure = plots.gaps_figure({"validation": row}, LONG)
    (ax,) = figure.axes
    assert ax.get_ylim()[1] >= 0.1
    family, encoder = ax.patches
    assert family.get_x() + family.get_width() == pytest.approx(encoder.get_x()), "beside, and not over it"
    assert_readable(figure)


def test_test_quantities_of_any_kind():
    values = {
        "constant": (np.full(50, 3.0), np.full(80, 3.0)),
        "counts": (rng.poisson(5, 50), rng.poisson(5, 80)),
        "an outlier": (rng.normal(size=50), np.append(rng.normal(size=79), 1e9)),
        "a name that is far too long for such a panel": (rng.normal(size=50) * 1e-7, rng.normal(size=80) * 1e-7),
        "_hidden": (rng.integers(0, 2, 50) * 1e6, rng.integers(0, 2, 80) * 1e6),
    }
    checks = {name: (a.astype(float), b.astype(float), rng.random(50)) for name, (a, b) in values.items()}
    figure = plots.predictive_figure(checks, LONG)
    assert len(figure.axes) == 10
    assert_readable(figure)
    for ax in figure.axes:
        for steps in ax.patches:
            if hasattr(steps, "get_data"):
                heights, edges, _ = steps.get_data()
                assert (heights * np.diff(edges)).sum() == pytest.approx(1)


def test_bins():
    counts = np.array([0.0, 1.0, 2.0, 5.0, 40.0])
    edges = bins(counts, 25)
    assert np.diff(edges) == pytest.approx(2)
    assert edges[0] == -0.5
    assert edges[-1] >= 40
    np.testing.assert_allclose(bins(counts / 64, 25), edges / 64)
    assert len(bins(rng.normal(size=1000), 25)) == 26


def test_many_label_sites():
    p = torch.rand(100, 3).softmax(1)
    found = label_numbers(p, p.multinomial(1)[:, 0])
    figure = plots.labels_figure({name: found for name in ("digit", "a_label_with_quite_a_name", "c", "$d$")}, LONG)
    assert len(figure.axes) == 4
    assert "$d$" in words(figure)
    assert_readable(figure)


def test_text_fits():
    text = "some words that take a lot of room, and oneverylongwordthatmustbebrokensomewhereinthemiddle"
    lines = wrapped(text, 2.0, 9).splitlines()
    assert max(inches(line, 9) for line in lines) <= 2
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrapped("", 1.0, 9) == ""
    assert len(shortened("x" * 100, 20)) == 20


def test_no_pyplot():
    code = (
        "import sys, numpy as np; from pyro_vae import plots; assert 'matplotlib' not in sys.modules; "
        "plots.calibration_figure(np.random.rand(9, 1), *np.random.rand(2, 9), (np.array([.9]), np.ones((1, 1)), "
        "np.array([.1])), 'data'); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
