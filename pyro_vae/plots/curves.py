"""The course of a training, and how well classes are found."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae.plots.style import axes, colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_WRITTEN = 20
"""Classes of a table whose numbers still can be read."""


def training_curves(metrics: Sequence[Mapping[str, Any]], ax: "Axes | None" = None) -> "Axes":
    """Draw what was minimised, and its two terms, over the epochs; dashed for the validation data.

    Args:
        metrics: the rows of metrics.jsonl, as `run.metrics` gives them; nats per datum.
        ax: where to draw, a new figure by default.
    """
    ax, palette = axes(ax), colours()
    terms = {"loss": "loss", "reconstruction": "-E_q[log p(x | z)]", "kl": "KL(q || p)"}
    for (key, text), colour in zip(terms.items(), palette, strict=False):
        for split, line in (("train", "-"), ("validation", "--")):
            rows = [row for row in metrics if row["split"] == split and row[key] is not None]
            values = [-row[key] if key == "reconstruction" else row[key] for row in rows]
            if rows:
                label = text if split == "train" else f"{text}, validation"
                ax.plot([row["epoch"] for row in rows], values, line, color=colour, label=label)
    ax.set(xlabel="epoch", ylabel="nats per datum")
    ax.legend(frameon=False, fontsize=8)
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
    panels = figure.subplots(1, len(labels), squeeze=False)[0]
    for ax, (site, (known, found)) in zip(panels, labels.items(), strict=True):
        drawn = _confusion(ax, known, found, (names or {}).get(site, ()))
        ax.set(xlabel="most probable class, argmax p(y | x)", ylabel="known class", title=site)
    figure.colorbar(drawn, ax=panels, label="% of the known class")
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
