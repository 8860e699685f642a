"""Figures: every pixel where it belongs, and nothing outside of the canvas."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from pyro_vae.plots import GAP, as_grid, data_figure, save

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
    figure.canvas.draw()
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


def test_vectors_are_a_heat_map():
    x, _ = FIGURES["vectors"]
    ax, bar = data_figure(x, "Vectors").axes
    np.testing.assert_array_equal(ax.images[0].get_array(), x)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("feature", "datum", "Vectors")
    assert bar.get_ylabel() == "x"


def test_pyplot_is_left_alone():
    code = (
        "import sys, numpy as np; from pyro_vae.plots import data_figure; "
        "assert 'matplotlib' not in sys.modules; data_figure(np.zeros((2, 1, 3, 3)), 't'); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
