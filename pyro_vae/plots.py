"""Figures: data as pictures, the latent space, the course of a training. Nothing touches pyplot's state.

A grid of data is a matplotlib `Figure` of its own; what has axes is drawn into `ax`, and that is returned.
Colours are those of Petroff (2021), which people of all kinds of colour vision tell apart; classes are written
into the picture as well.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OVERSHOOT = 0.5
"""How far beyond [0, 1] pixels may lie and still be clipped: a mean of grey pixels overshoots a little."""
GAP = 1
"""Pixels between two pictures of a grid."""
MOST_NAMES = 60
"""Names of columns that still can be read beside one another."""
MOST_WRITTEN = 20
"""Classes of a table whose numbers still can be read."""
STYLE = "petroff10"
"""Ten colours.

References:
    Accessible Color Sequences for Data Visualization (Petroff, 2021).
"""


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


def training_curves(metrics: Sequence[Mapping[str, Any]], ax: "Axes | None" = None) -> "Axes":
    """Draw what was minimised, and its two terms, over the epochs; dashed for the validation data.

    Args:
        metrics: the rows of metrics.jsonl, as `run.metrics` gives them; nats per datum.
        ax: where to draw, a new figure by default.
    """
    ax, colours = _axes(ax), _colours()
    terms = {"loss": "loss", "reconstruction": "-E_q[log p(x | z)]", "kl": "KL(q || p)"}
    for (key, text), colour in zip(terms.items(), colours, strict=False):
        for split, line in (("train", "-"), ("validation", "--")):
            rows = [row for row in metrics if row["split"] == split and row[key] is not None]
            values = [-row[key] if key == "reconstruction" else row[key] for row in rows]
            if rows:
                label = text if split == "train" else f"{text}, validation"
                ax.plot([row["epoch"] for row in rows], values, line, color=colour, label=label)
    ax.set(xlabel="epoch", ylabel="nats per datum")
    ax.legend(frameon=False, fontsize=8)
    return ax


def latent_scatter(
    mean: np.ndarray, labels: np.ndarray | None = None, names: Sequence[str] = (), ax: "Axes | None" = None
) -> "Axes":
    """Draw the means of q(z | x) in two dimensions, coloured by class.

    Args:
        mean: E[z | x] (N, D); the first two dimensions are drawn.
        labels: integers (N,), -1 where missing (grey).
        names: names of the classes, their numbers by default.
        ax: where to draw, a new figure by default.
    """
    if mean.ndim != 2 or mean.shape[1] < 2:
        raise ValueError(f"mean has shape {mean.shape}: must be (N, D) with D of at least 2.")
    ax, colours = _axes(ax), _colours()
    labels = np.zeros(len(mean), int) if labels is None else np.asarray(labels)
    several, size = len(np.unique(labels)) > 1, float(np.clip(8000 / max(len(mean), 1), 3, 20))
    for label in np.unique(labels):
        some = mean[labels == label, :2]
        colour = "0.7" if label < 0 else colours[label % len(colours)]
        text = "missing" if label < 0 else names[label] if label < len(names) else str(label)
        ax.scatter(some[:, 0], some[:, 1], s=size, color=colour, alpha=0.6, linewidths=0, label=text)
        if several and label >= 0:
            box = {"facecolor": "white", "edgecolor": colour, "boxstyle": "round,pad=0.2", "alpha": 0.85}
            ax.annotate(text, np.median(some, 0), ha="center", va="center", fontsize=9, bbox=box)
    if several:  # classes that lie on one another hide each other's names
        legend = ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8, markerscale=2)
        for handle in filter(None, legend.legend_handles):
            handle.set_alpha(1.0)
    ax.set(xlabel="E[z_1 | x]", ylabel="E[z_2 | x]", aspect="equal")
    return ax


def confusion_figure(
    labels: Mapping[str, tuple[np.ndarray, np.ndarray]], names: Mapping[str, Sequence[str]] | None = None
) -> "Figure":
    """Draw, for each label site, how often data of a class were given each class, in per cent of the class.

    Args:
        labels: site -> known and found classes (N,) each; -1 is left out.
        names: site -> names of its classes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(labels), 5), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(labels), squeeze=False)[0]
    for ax, (site, (known, found)) in zip(axes, labels.items(), strict=True):
        drawn = _confusion(ax, known, found, (names or {}).get(site, ()))
        ax.set(xlabel="most probable class, argmax p(y | x)", ylabel="known class", title=site)
    figure.colorbar(drawn, ax=axes, label="% of the known class")
    return figure


def _confusion(ax: "Axes", known: np.ndarray, found: np.ndarray, words: Sequence[str]) -> Any:
    """The table of one label site, its numbers written in where they can be read."""
    classes = 1 + int(max(known.max(), found.max()))
    table = np.zeros((classes, classes))
    np.add.at(table, (known[known >= 0], found[known >= 0]), 1)
    share = 100 * table / np.maximum(table.sum(1, keepdims=True), 1)
    drawn = ax.imshow(share, cmap="cividis", vmin=0, vmax=100)
    if classes <= MOST_WRITTEN:
        for i, j in zip(*np.nonzero(table), strict=True):
            colour = "black" if share[i, j] > 50 else "white"
            ax.text(float(j), float(i), f"{share[i, j]:.0f}", ha="center", va="center", color=colour, fontsize=8)
        shown = [words[i] if i < len(words) else str(i) for i in range(classes)]
        ax.set_xticks(range(classes), shown, rotation=90 if max(map(len, shown)) > 2 else 0, fontsize=8)
        ax.set_yticks(range(classes), shown, fontsize=8)
    return drawn


def _axes(ax: "Axes | None") -> "Axes":
    """The axes to draw into."""
    from matplotlib.figure import Figure

    return ax if ax is not None else Figure(figsize=(6, 5), dpi=120, layout="constrained").add_subplot()


def _colours() -> list[str]:
    from matplotlib import style

    return list(style.library[STYLE]["axes.prop_cycle"].by_key()["color"])


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure as PNG, whole or not at all."""
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png")
    part.replace(path)
    return path
