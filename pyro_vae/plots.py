"""Figures: data as pictures. Each takes arrays and returns a matplotlib `Figure`; nothing touches pyplot's state."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OVERSHOOT = 0.5
"""How far beyond [0, 1] pixels may lie and still be clipped: a mean of grey pixels overshoots a little."""
GAP = 1
"""Pixels between two pictures of a grid."""


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


def data_figure(x: np.ndarray, title: str, columns: int | None = None, row_labels: tuple[str, ...] = ()) -> "Figure":
    """Draw data: images in a grid, vectors as the rows of a heat map.

    Args:
        x: images (N, C, H, W) or vectors (N, D).
        title: what they are.
        columns: images per row, about square by default.
        row_labels: a name for each row of the grid.
    """
    from matplotlib.figure import Figure

    if x.ndim == 2:
        return _heat_map(x, title)
    columns = columns or math.ceil(math.sqrt(len(x)))
    picture = as_grid(x, columns)
    scale = min(8.0 / picture.shape[1], 10.0 / picture.shape[0], 0.25)  # inches a pixel: one small image stays small
    # Room for the title, however narrow the picture (0.08 inches a letter), and for the names of the rows.
    width = max(picture.shape[1] * scale, 0.08 * len(title)) + 0.1 * max(map(len, row_labels), default=0) + 0.2
    figure = Figure(figsize=(width, picture.shape[0] * scale + 0.5), dpi=120, layout="constrained")
    ax = figure.add_subplot()
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    _bare(ax)
    if row_labels:
        height = x.shape[2]
        ax.set_yticks([i * (height + GAP) + (height - 1) / 2 for i in range(len(row_labels))], row_labels)
        ax.tick_params(length=0)
    ax.set_title(title, fontsize=10)
    return figure


def _bare(ax: "Axes") -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def _heat_map(x: np.ndarray, title: str) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    ax = figure.add_subplot()
    drawn = ax.imshow(x, aspect="auto", cmap="cividis", interpolation="nearest")
    figure.colorbar(drawn, ax=ax, label="x")
    ax.set(xlabel="feature", ylabel="datum", title=title)
    return figure


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure as PNG, whole or not at all."""
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png")
    part.replace(path)
    return path
