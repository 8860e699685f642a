"""Data as pictures: images in a grid, vectors as heat maps."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyro_vae.plots.style import bare

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OVERSHOOT = 0.5
"""How far beyond [0, 1] pixels may lie and still be clipped: a mean of grey pixels overshoots a little."""
GAP = 1
"""Pixels between two pictures of a grid."""
MOST_NAMES = 60
"""Names of columns that still can be read beside one another."""


def as_grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Arrange images (N, C, H, W) in rows of `columns`, a white line between them.

    Returns:
        One picture (rows, columns, 3) for three channels, (rows, columns) else (the first channel).

    >>> as_grid(np.zeros((5, 1, 8, 8)), columns=3).shape
    (17, 26)
    """
    num, channels, height, width = images.shape
    if images.min() < -OVERSHOOT or images.max() > 1 + OVERSHOOT:  # standardised data, say: show their whole range
        images = (images - images.min()) / (images.max() - images.min())
    rows = math.ceil(num / columns)
    colour = channels == 3
    canvas = np.ones((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3 if colour else 1))
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + GAP), (i % columns) * (width + GAP)
        pixels = image.transpose(1, 2, 0) if colour else image[:1].transpose(1, 2, 0)
        canvas[top : top + height, left : left + width] = np.clip(pixels, 0, 1)
    return canvas if colour else canvas[..., 0]


def data_figure(
    x: np.ndarray | Sequence[np.ndarray],
    title: str,
    columns: int | None = None,
    row_labels: Sequence[str] = (),
    names: Sequence[str] = (),
) -> "Figure":
    """Draw data: images in a grid, vectors as the rows of heat maps.

    Args:
        x: images (N, C, H, W) or vectors (N, D).
        title: what they are.
        columns: images per row, about square by default.
        row_labels: a name for each row of the grid; vectors get a map for each, of as many rows.
        names: of the entries of vectors.
    """
    from matplotlib.figure import Figure

    x = np.asarray(x)
    if x.ndim == 2:
        return _heat_maps(x, title, row_labels or ("",), names)
    columns = columns or math.ceil(math.sqrt(len(x)))
    picture = as_grid(x, columns)
    scale = min(8.0 / picture.shape[1], 10.0 / picture.shape[0], 0.25)  # inches a pixel: one small image stays small
    # Room for the title, however narrow the picture (0.08 inches a letter), and for the names of the rows.
    width = max(picture.shape[1] * scale, 0.08 * len(title)) + 0.1 * max(map(len, row_labels), default=0) + 0.2
    figure = Figure(figsize=(width, picture.shape[0] * scale + 0.5), dpi=120, layout="constrained")
    ax = figure.add_subplot()
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    bare(ax)
    if row_labels:
        height = x.shape[2]
        ax.set_yticks([i * (height + GAP) + (height - 1) / 2 for i in range(len(row_labels))], row_labels)
        ax.tick_params(length=0)
    ax.set_title(title, fontsize=10)
    return figure


def _heat_maps(x: np.ndarray, title: str, labels: Sequence[str], names: Sequence[str]) -> "Figure":
    """Maps side by side, each column in standard deviations from its mean in the first: units may differ."""
    from matplotlib.figure import Figure

    panels = np.split(x, len(labels))
    mean, sd = panels[0].mean(0), panels[0].std(0)
    figure = Figure(figsize=(2 + 5 * len(panels), 5), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, panel, label in zip(axes, panels, labels, strict=True):
        scaled = (panel - mean) / np.where(sd > 0, sd, 1)
        drawn = ax.imshow(scaled, aspect="auto", cmap="cividis", interpolation="nearest", vmin=-2.5, vmax=2.5)
        ax.set(xlabel="feature", title=label)
        if 0 < len(names) <= MOST_NAMES:
            ax.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
            ax.set_xlabel("")
    axes[0].set_ylabel("datum")
    figure.colorbar(drawn, ax=axes, label="standard deviations from the mean of the column", extend="both")
    figure.suptitle(title, fontsize=10)
    return figure
