"""Data as pictures: images in a grid, vectors as heat maps."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae.plots.style import DPI, SMALL, TITLE, axes, bare, blank, heading

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OVERSHOOT = 0.5
"""How far beyond [0, 1] pixels may lie and still be clipped: a mean of grey pixels overshoots a little."""
OUTLIERS = 0.01
"""Share of pixels that may lie beyond, and are clipped."""
GAP = 1
"""Pixels between two pictures of a grid."""
MOST_NAMES = 60
"""Names of columns that still can be read beside one another."""


def as_grid(images: np.ndarray, columns: int, between: float = 1.0) -> np.ndarray:
    """Arrange images (N, C, H, W) in rows of `columns`, a white line between them.

    Args:
        images: in [0, 1]; what goes far beyond is brought into it.
        columns: images per row.
        between: the value of what lies between them.

    Returns:
        One picture (rows, columns, 3) for three channels, (rows, columns) else (the first channel).

    >>> as_grid(np.zeros((5, 1, 8, 8)), columns=3).shape
    (17, 26)
    """
    num, channels, height, width = images.shape
    # Standardised data, say: show their whole range. A few pixels of draws with noise may lie anywhere.
    if np.mean((images < -OVERSHOOT) | (images > 1 + OVERSHOOT)) > OUTLIERS:
        images = (images - images.min()) / (images.max() - images.min())
    rows = math.ceil(num / columns)
    colour = channels == 3
    size = (rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3 if colour else 1)
    canvas = np.full(size, between)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + GAP), (i % columns) * (width + GAP)
        pixels = image.transpose(1, 2, 0) if colour else image[:1].transpose(1, 2, 0)
        canvas[top : top + height, left : left + width] = np.clip(pixels, 0, 1)
    return canvas if colour else canvas[..., 0]


def draw_data(
    x: np.ndarray | Sequence[np.ndarray],
    ax: "Axes | None" = None,
    columns: int | None = None,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
    cmap: str = "gray",
    limits: tuple[float, float] = (0, 1),
) -> "Axes":
    """Draw images in a grid; vectors as the rows of a heat map, in standard deviations from the mean of each column.

    Args:
        x: images (N, C, H, W) or vectors (N, D).
        ax: where to draw, a new figure by default.
        columns: images per row, about square by default.
        row_labels: a name for each row of the grid.
        column_labels: a name for each of its columns.
        title: what they are.
        cmap: colours of grey images.
        limits: what is black, and what is white, in grey images.
    """
    ax, x = axes(ax), np.asarray(x)
    if x.ndim == 2:
        _heat_map(ax, x, x)
    else:
        columns = columns or math.ceil(math.sqrt(len(x)))
        low, high = limits
        scaled = x if limits == (0, 1) else (x - low) / ((high - low) or 1)
        grid = as_grid(scaled, columns, 1.0 if cmap == "gray" else np.nan)  # no colour stands for nothing
        ax.imshow(grid, cmap=cmap, vmin=0, vmax=1, interpolation="nearest")
        bare(ax)
        height, width = x.shape[2] + GAP, x.shape[3] + GAP
        if row_labels:
            ax.set_yticks([i * height + (x.shape[2] - 1) / 2 for i in range(len(row_labels))], row_labels)
        if column_labels:
            ax.set_xticks([i * width + (x.shape[3] - 1) / 2 for i in range(len(column_labels))], column_labels)
        ax.tick_params(length=0)
        for text in (*ax.get_yticklabels(), *ax.get_xticklabels()):
            text.set_parse_math(False)
    ax.set_title(title, fontsize=TITLE, parse_math=False)
    return ax


def data_figure(
    x: np.ndarray | Sequence[np.ndarray],
    title: str,
    columns: int | None = None,
    row_labels: Sequence[str] = (),
    names: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> "Figure":
    """Draw data: images in a grid, vectors as the rows of heat maps.

    Args:
        x: images (N, C, H, W) or vectors (N, D).
        title: what they are.
        columns: images per row, about square by default.
        row_labels: a name for each row of the grid; vectors get a map for each, of as many rows.
        names: of the entries of vectors.
        column_labels: a name for each column of the grid of images.
    """
    from matplotlib.figure import Figure

    x = np.asarray(x)
    if x.ndim == 2:
        return _heat_maps(x, title, row_labels or ("",), names)
    columns = columns or math.ceil(math.sqrt(len(x)))
    wide, high = columns * (x.shape[3] + GAP) - GAP, math.ceil(len(x) / columns) * (x.shape[2] + GAP) - GAP
    scale = min(8.0 / wide, 10.0 / high, 0.25)  # inches a pixel: one small image stays small
    # Room for the title, however narrow the picture (0.08 inches a letter), and for the names of the rows.
    width = max(wide * scale, 0.08 * len(title)) + 0.1 * max(map(len, row_labels), default=0) + 0.2
    figure = Figure(figsize=(width, high * scale + (0.7 if column_labels else 0.5)), dpi=DPI, layout="constrained")
    draw_data(x, figure.add_subplot(), columns, row_labels, column_labels, title)
    return figure


def uncertainty_figure(x: np.ndarray, mean: np.ndarray, sd: np.ndarray, sd_of_mean: np.ndarray, title: str) -> "Figure":
    """Draw how sure a model is of every pixel of images that it has seen: bright where it is not.

    Args:
        x: images (N, C, H, W).
        mean: of the posterior predictive, likewise.
        sd: of the posterior predictive, the noise of p(x | z) included.
        sd_of_mean: of E[x | z] over draws of z: what the code leaves open.
        title: what they are.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    num, (height, width) = len(x), x.shape[2:]
    scale = min(9.0 / (num * (width + GAP)), 0.25)
    row = (height + GAP) * scale
    figure = blank(max(num * (width + GAP) * scale, 0.08 * len(title)) + 2.2, 4 * row + 1.3)
    # Pictures of one shape leave room at their sides, into which names of rows may run.
    figure.get_layout_engine().set(w_pad=0.25)  # type: ignore[union-attr, call-arg]
    panels = figure.subplots(3, 1, height_ratios=(2, 1, 1))
    draw_data([*x, *mean], panels[0], num, ("x", "mean"))
    for ax, values, name in zip(panels[1:], (sd, sd_of_mean), ("sd", "sd of\nE[x | z]"), strict=True):
        maps = np.sqrt(np.square(values).mean(1, keepdims=True))  # over channels
        top = float(maps.max())
        draw_data(maps, ax, num, (name,), cmap="inferno", limits=(0.0, top))
        bar = figure.colorbar(ScalarMappable(Normalize(0, top), "inferno"), ax=ax, aspect=8)
        bar.ax.tick_params(labelsize=SMALL)
        bar.set_ticks([0.0, top], labels=["0", f"{top:.2g}"])
    heading(figure, title)
    return figure


def _heat_maps(x: np.ndarray, title: str, labels: Sequence[str], names: Sequence[str]) -> "Figure":
    """Maps side by side, each column in standard deviations from its mean in the first: units may differ."""
    from matplotlib.figure import Figure

    panels = np.split(x, len(labels))
    figure = Figure(figsize=(2 + 5 * len(panels), 5), dpi=120, layout="constrained")
    columns = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, panel, label in zip(columns, panels, labels, strict=True):
        drawn = _heat_map(ax, panel, panels[0])
        ax.set(title=label)
        if 0 < len(names) <= MOST_NAMES:
            ax.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
            ax.set_xlabel("")
    for ax in columns[1:]:
        ax.set_ylabel("")
    figure.colorbar(drawn, ax=columns, label="standard deviations from the mean of the column", extend="both")
    figure.suptitle(title, fontsize=10)
    return figure


def _heat_map(ax: "Axes", x: np.ndarray, like: np.ndarray) -> Any:
    """Vectors (N, D) in standard deviations from the mean of each column of others."""
    mean, sd = like.mean(0), like.std(0)
    scaled = (x - mean) / np.where(sd > 0, sd, 1)
    ax.set(xlabel="feature", ylabel="datum")
    return ax.imshow(scaled, aspect="auto", cmap="cividis", interpolation="nearest", vmin=-2.5, vmax=2.5)
