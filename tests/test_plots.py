"""Figures: every pixel where it belongs, and nothing outside of the canvas."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from test_plots_diagnosis import assert_readable

from pyro_vae.plots import (
    GAP,
    LatentSpace,
    aggregate_scatter,
    as_grid,
    data_figure,
    draw_data,
    explained_variance,
    kl_per_dimension,
    latent_scatter,
    latent_spaces_figure,
    save,
    training_curves,
    uncertainty_figure,
)

rng = np.random.default_rng(0)
FIGURES = {
    "grey": (rng.random((7, 1, 8, 8)), {}),
    "colour": (rng.random((12, 3, 6, 9)), {"columns": 6}),
    "one": (rng.random((1, 1, 8, 8)), {}),
    "reconstructions": (rng.random((16, 1, 8, 8)), {"columns": 8, "row_labels": ("data", "reconstructed")}),
    "wide": (rng.random((30, 1, 4, 4)), {"columns": 30}),
    "tall": (rng.random((30, 1, 4, 4)), {"columns": 1}),
    "vectors": (rng.normal(size=(40, 10)), {}),
}
each = pytest.mark.parametrize(("x", "options"), FIGURES.values(), ids=FIGURES.keys())


@pytest.mark.parametrize(("channels", "kept"), [(1, 1), (3, 3), (2, 1)])
def test_grid_pixels(channels, kept):
    images = rng.random((5, channels, 4, 3))
    grid = as_grid(images, columns=2)
    assert grid.shape == (3 * 4 + 2 * GAP, 2 * 3 + GAP, *(() if kept == 1 else (3,)))
    covered = np.zeros(grid.shape[:2], bool)
    for i, image in enumerate(images):
        top, left = (i // 2) * (4 + GAP), (i % 2) * (3 + GAP)
        cell = grid[top : top + 4, left : left + 3]
        expected = image[0] if kept == 1 else np.moveaxis(image, 0, -1)
        np.testing.assert_array_equal(cell, expected)
        covered[top : top + 4, left : left + 3] = True
    assert (grid[~covered] == 1).all(), "white between them and where there are none"


def test_grid_is_clipped():
    grid = as_grid(np.array([-1.0, 0.5, 2.0]).reshape(1, 1, 1, 3), 1)
    np.testing.assert_array_equal(grid, [[0, 0.5, 1]])


def test_grid_is_rescaled_where_many_pixels_lie_outside():
    """Standardised data: their whole range; a single outlier changes nothing else."""
    spread = np.linspace(-3, 3, 64).reshape(1, 1, 8, 8)
    np.testing.assert_allclose(as_grid(spread, 1), (spread[0, 0] + 3) / 6)
    noisy = rng.random((2, 1, 8, 8))
    noisy[0, 0, 0, 0] = 9
    np.testing.assert_array_equal(as_grid(noisy, 1)[1:8], noisy[0, 0, 1:])
    assert as_grid(noisy, 1)[0, 0] == 1


@each
def test_nothing_is_clipped(x, options):
    figure = data_figure(x, "Twelve draws of x, given the label", **options)
    FigureCanvasAgg(figure).draw()
    width, height = figure.canvas.get_width_height()
    for ax in figure.axes:
        box = ax.get_tightbbox()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
    assert max(figure.get_size_inches()) < 12
    assert min(figure.get_size_inches()) > 0.5


@each
def test_saved(x, options, tmp_path):
    figure = data_figure(x, "Draws", **options)
    path = save(figure, tmp_path / "it.png")
    assert imread(path).shape[2] == 4
    assert [file.name for file in tmp_path.iterdir()] == ["it.png"]


def test_labels_and_title():
    x, options = FIGURES["reconstructions"]
    figure = data_figure(x, "Reconstructions", **options)
    (ax,) = figure.axes
    assert ax.get_title() == "Reconstructions"
    assert [text.get_text() for text in ax.get_yticklabels()] == ["data", "reconstructed"]
    assert list(ax.get_yticks()) == [3.5, 12.5], "the middle pixel rows: the first row of pixels is centred on 0"


def test_vectors_are_a_heat_map_in_units_of_each_column():
    """Columns of other units, one that never varies; the second map on the scale of the first."""
    x = rng.normal(size=(40, 3)) * [1e-3, 1e3, 0] + [0, 1e4, 7]
    figure = data_figure([*x, *(x + [1e-3, 0, 1])], "Vectors", row_labels=("x", "E[x | z]"), names=("a", "b", "c"))
    first, second, bar = figure.axes
    scaled = np.asarray(first.images[0].get_array())
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(scaled.std(0), [1, 1, 0])
    shift = np.asarray(second.images[0].get_array()) - scaled
    np.testing.assert_allclose(shift, np.broadcast_to([1e-3 / x[:, 0].std(), 0, 1], shift.shape), atol=1e-9)
    assert (first.get_ylabel(), first.get_title(), second.get_title()) == ("datum", "x", "E[x | z]")
    assert [text.get_text() for text in first.get_xticklabels()] == ["a", "b", "c"]
    assert bar.get_ylabel() == "standard deviations from the mean of the column"
    assert figure.get_suptitle() == "Vectors"


def test_pyplot_is_left_alone():
    code = (
        "import sys, numpy as np; from pyro_vae.plots import data_figure; "
        "assert 'matplotlib' not in sys.modules; data_figure(np.zeros((2, 1, 3, 3)), 't'); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def row(epoch, split, loss, elbo=0.0):
    return {"epoch": epoch, "split": split, "loss": loss, "elbo": elbo, "reconstruction": -loss / 2, "kl": loss / 4}


def test_training_curves_show_each_term_of_each_split():
    metrics = [
        row(e, split, 10.0 / e + (split == "validation")) for e in (1, 2, 3) for split in ("train", "validation")
    ]
    ax = training_curves(metrics)
    lines = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
    assert len(lines) == 6
    np.testing.assert_allclose(lines["loss"], [10, 5, 10 / 3])
    np.testing.assert_allclose(lines["-E_q[log p(x | z)], validation"], [5.5, 3, 13 / 6])
    np.testing.assert_allclose(lines["KL(q || p)"], [2.5, 1.25, 2.5 / 3])
    without = [{**r, "kl": None} for r in metrics if r["split"] == "train"]
    assert [line.get_label() for line in training_curves(without).get_lines()] == ["loss", "-E_q[log p(x | z)]"]


def test_latent_scatter_names_and_colours_the_classes():
    mean, labels = rng.normal(size=(60, 3)), np.repeat([-1, 0, 1], 20)
    ax = latent_scatter(mean, labels, names=("cat", "dog"))
    assert [text.get_text() for text in ax.texts] == ["cat", "dog"]
    np.testing.assert_allclose(ax.texts[1].xy, np.median(mean[40:, :2], 0))
    drawn = {tuple(points.get_facecolor()[0]) for points in ax.collections}
    assert len(drawn) == 3
    assert sum(len(points.get_offsets()) for points in ax.collections) == 60
    assert not latent_scatter(mean).texts
    with pytest.raises(ValueError, match="D of at least 2"):
        latent_scatter(mean[:, :1])


def test_figures_are_drawn_where_one_says():
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    assert latent_scatter(rng.normal(size=(5, 2)), ax=ax) is ax
    assert training_curves([row(1, "train", 1.0)], ax=ax) is ax
    assert kl_per_dimension(rng.random((5, 3)), ax=ax) is ax
    assert aggregate_scatter(rng.normal(size=(9, 2)), ax=Figure().add_subplot()).get_xlabel() == "z_0"
    assert explained_variance(np.array([0.7, 0.3]), ax=ax) is ax
    assert draw_data(rng.random((4, 1, 3, 3)), ax=ax) is ax


# ------------------------------------------------------------------------------------------------- the latent space


def test_ellipses_are_two_standard_deviations_of_each_code():
    mean, sd = rng.normal(size=(30, 4)), rng.uniform(0.1, 0.5, size=(30, 4))
    labels = np.arange(30) % 3
    ax = latent_scatter(mean, labels, sd=sd, dims=(2, 0))
    points = [c for c in ax.collections if hasattr(c, "get_sizes") and len(c.get_sizes())]
    ellipses = [c for c in ax.collections if c not in points]
    assert len(ellipses) == 3
    for k, drawn in enumerate(ellipses):
        np.testing.assert_allclose(drawn.get_offsets(), mean[labels == k][:, [2, 0]])
        np.testing.assert_allclose(drawn._widths, 2 * sd[labels == k][:, 2])  # half-widths: 2 sd
        np.testing.assert_allclose(drawn._heights, 2 * sd[labels == k][:, 0])
    (low, high) = ax.get_xlim()
    assert low < (mean - 2 * sd)[:, 2].min()
    assert high > (mean + 2 * sd)[:, 2].max()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("E[z_2 | x]", "E[z_0 | x]")


def test_classes_differ_in_marker_too():
    ax = latent_scatter(rng.normal(size=(30, 2)), np.arange(30) % 3)
    shapes = {len(points.get_paths()[0].vertices) for points in ax.collections}
    assert len(shapes) == 3


def test_few_ellipses_of_many_data():
    ax = latent_scatter(rng.normal(size=(5000, 2)), sd=np.ones((5000, 2)))
    assert 300 < len(ax.collections[1].get_offsets()) <= 400


def test_aggregate_scatter_says_how_much_lies_inside():
    """The circles hold 50, 90 and 99 % of N(0, I); the legend says how much of q(z)."""
    z = rng.normal(size=(4000, 3))
    ax = aggregate_scatter(z, dims=(0, 2))
    radii = {line.get_label(): np.hypot(*line.get_data()).mean() for line in ax.get_lines()}
    for (label, radius), share in zip(radii.items(), (0.5, 0.9, 0.99), strict=True):
        assert 1 - np.exp(-(radius**2) / 2) == pytest.approx(share)
        inside = (np.square(z[:, [0, 2]]).sum(1) < radius**2).mean()
        assert label == f"{100 * share:.0f} % of N(0, I), {100 * inside:.0f} % of q(z)"
    assert "100 % of q(z)" in aggregate_scatter(0.1 * z).get_lines()[0].get_label()


def test_kl_per_dimension_is_sorted_and_has_its_error():
    kl = rng.gamma(2, [[0.1, 3.0, 1.0]], size=(50, 3))
    ax = kl_per_dimension(kl)
    heights = [bar.get_height() for bar in ax.patches]
    np.testing.assert_allclose(heights, kl.mean(0)[[1, 2, 0]])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "2", "0"]
    segments = ax.collections[0].get_segments()
    error = kl.std(0, ddof=1)[[1, 2, 0]] / 50**0.5
    np.testing.assert_allclose([s[1, 1] - s[0, 1] for s in segments], 4 * error)
    total = kl.sum(1)
    assert f"{total.mean():.2f} ± {total.std(ddof=1) / 50**0.5:.2f} nats" in ax.get_title()


def test_explained_variance():
    ax = explained_variance(np.array([0.6, 0.3, 0.1]))
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], [60, 30, 10])
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), [60, 90, 100])


CLASS = np.arange(60) % 5
APART = 8 * np.stack([np.cos(1.3 * CLASS), np.sin(1.3 * CLASS)], 1) + rng.normal(size=(60, 2))


def spaces(num):
    one = LatentSpace(APART, rng.random((16, 1, 8, 8)))
    return {f"model {i}": one._replace(sd=np.ones((60, 2)) if i else None) for i in range(num)}


LATENT = {
    "scatter": lambda: latent_scatter(APART, CLASS, sd=np.ones((60, 2))).figure,
    "aggregate": lambda: aggregate_scatter(rng.normal(size=(90, 2))).figure,
    "kl": lambda: kl_per_dimension(rng.random((9, 20))).figure,
    "kl of many": lambda: kl_per_dimension(rng.random((9, 200))).figure,
    "explained": lambda: explained_variance(np.full(50, 0.02)).figure,
    "two spaces": lambda: latent_spaces_figure(spaces(2), "An autoencoder and a VAE", CLASS),
    "uncertainty": lambda: uncertainty_figure(*rng.random((4, 6, 1, 28, 28)), title="The posterior predictive"),
}


@pytest.mark.parametrize("name", LATENT)
def test_latent_figures_are_readable(name):
    assert_readable(LATENT[name](), least=20 if name == "uncertainty" else 100)  # bars of colour are narrow


def test_spaces_are_side_by_side():
    figure = latent_spaces_figure(spaces(2), "title", CLASS)
    upper = figure.axes[:2]
    assert [ax.get_title() for ax in upper] == ["model 0", "model 1"]
    assert [any("Ellipse" in type(c).__name__ for c in ax.collections) for ax in upper] == [False, True]


def test_uncertainty_has_one_scale_per_row_and_no_colour_between_pictures():
    x, mean, sd, of_mean = rng.random((4, 3, 3, 5, 5))
    figure = uncertainty_figure(x, mean, sd, 0.1 * of_mean, "title")
    pictures, first, second = figure.axes[:3]
    assert [text.get_text() for text in pictures.get_yticklabels()] == ["x", "mean"]
    for ax, values in ((first, sd), (second, 0.1 * of_mean)):
        shown = np.asarray(ax.images[0].get_array())
        expected = np.sqrt(np.square(values).mean(1))
        np.testing.assert_allclose(shown[:, :5], expected[0] / expected.max())
        assert np.isnan(shown[:, 5]).all()


def test_rows_and_columns_have_names_where_the_pictures_are():
    ax = draw_data(rng.random((6, 1, 4, 5)), columns=3, row_labels=("a", "b"), column_labels=("x", "$y", "z"))
    assert list(ax.get_yticks()) == [1.5, 6.5]
    assert list(ax.get_xticks()) == [2, 8, 14]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["x", "$y", "z"]
