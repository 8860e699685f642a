"""Figures: every pixel where it belongs, and nothing outside of the canvas."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from pyro_vae.plots import GAP, as_grid, data_figure, latent_scatter, save, training_curves

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
