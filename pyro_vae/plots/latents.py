"""The latent space: codes with what q(z | x) leaves open, the aggregate posterior, what each dimension is worth."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyro_vae.plots.pictures import draw_data
from pyro_vae.plots.style import GUIDE, POSTERIOR, SMALL, axes, blank, colours, heading, labelled, legend, ranked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ELLIPSES = 400
"""Data whose q(z | x) is drawn: more only make a surface."""
MOST_POINTS = 5000
"""Draws that are drawn."""
MARKERS = "os^Dvp*XP<"
"""One for each colour: what colours say, markers say as well."""


def latent_scatter(
    mean: np.ndarray,
    labels: np.ndarray | None = None,
    names: Sequence[str] = (),
    ax: "Axes | None" = None,
    sd: np.ndarray | None = None,
    dims: tuple[int, int] = (0, 1),
) -> "Axes":
    """Draw the means of q(z | x) in two dimensions, by class in colour and marker.

    Args:
        mean: E[z | x] (N, D).
        labels: integers (N,), -1 where missing (grey).
        names: names of the classes, their numbers by default.
        ax: where to draw, a new figure by default.
        sd: standard deviations of q(z | x) (N, D): an ellipse of 2 sd around each mean, of at most 400 data.
        dims: which two dimensions.
    """
    if mean.ndim != 2 or mean.shape[1] <= max(dims):
        raise ValueError(f"mean has shape {mean.shape}: must be (N, D) with D of at least {max(dims) + 1}.")
    ax, palette, mean = axes(ax), colours(), mean[:, list(dims)]
    labels = np.zeros(len(mean), int) if labels is None else np.asarray(labels)
    several, size = len(np.unique(labels)) > 1, float(np.clip(8000 / max(len(mean), 1), 3, 20))
    ellipses = np.arange(0, len(mean), math.ceil(len(mean) / MOST_ELLIPSES)) if sd is not None else np.arange(0)
    for label in np.unique(labels):
        some, colour = labels == label, "0.7" if label < 0 else palette[label % len(palette)]
        text = "missing" if label < 0 else names[label] if label < len(names) else str(label)
        marker = MARKERS[label % len(MARKERS)] if several and label >= 0 else "o"
        ax.scatter(
            mean[some, 0], mean[some, 1], s=size, marker=marker, color=colour, alpha=0.6, linewidths=0, label=text
        )
        if sd is not None:
            chosen = ellipses[some[ellipses]]
            _ellipses(ax, mean[chosen], sd[chosen][:, list(dims)], colour)
        if several and label >= 0:
            box = {"facecolor": "white", "edgecolor": colour, "boxstyle": "round,pad=0.2", "alpha": 0.85}
            at = np.median(mean[some], 0)
            ax.annotate(text, at, ha="center", va="center", fontsize=9, bbox=box, color="black").set_parse_math(False)
    if several:  # classes that lie on one another hide each other's names
        _beside(ax)
    ax.set(xlabel=f"E[z_{dims[0]} | x]", ylabel=f"E[z_{dims[1]} | x]", aspect="equal")
    return ax


def _ellipses(ax: "Axes", mean: np.ndarray, sd: np.ndarray, colour: Any) -> None:
    """2 sd around each mean (N, 2)."""
    from matplotlib.collections import EllipseCollection

    drawn = EllipseCollection(
        4 * sd[:, 0], 4 * sd[:, 1], np.zeros(len(sd)), units="xy", offsets=mean, offset_transform=ax.transData
    )
    drawn.set(facecolor="none", edgecolor=colour, alpha=0.5, linewidth=0.6)
    ax.add_collection(drawn)
    if len(mean):
        ax.update_datalim(np.concatenate([mean - 2 * sd, mean + 2 * sd]))
        ax.autoscale_view()


def _beside(ax: "Axes") -> None:
    """A legend on the right."""
    drawn = ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8, markerscale=2)
    for text in drawn.get_texts():
        text.set_parse_math(False)
    for handle in filter(None, drawn.legend_handles):
        handle.set_alpha(1.0)


def aggregate_scatter(z: np.ndarray, ax: "Axes | None" = None, dims: tuple[int, int] = (0, 1)) -> "Axes":
    """Draw the aggregate posterior q(z) = 1/N sum_n q(z | x_n) over N(0, I), which it should be.

    Args:
        z: one draw of q(z | x) for each datum (N, D).
        ax: where to draw, a new figure by default.
        dims: which two dimensions.
    """
    ax, palette = axes(ax), colours()
    some = z[:: math.ceil(len(z) / MOST_POINTS)][:, list(dims)]
    ax.scatter(
        some[:, 0],
        some[:, 1],
        s=4,
        color=palette[GUIDE],
        alpha=0.35,
        linewidths=0,
        label="draws of q(z), one per datum",
    )
    angle = np.linspace(0, 2 * np.pi, 200)
    for share, line in ((0.5, ":"), (0.9, "--"), (0.99, "-")):
        radius = math.sqrt(-2 * math.log(1 - share))
        inside = (np.square(z[:, list(dims)]).sum(1) < radius**2).mean()
        text = f"{100 * share:.0f} % of N(0, I), {100 * inside:.0f} % of q(z)"
        ax.plot(radius * np.cos(angle), radius * np.sin(angle), line, color=palette[1], linewidth=1.8, label=text)
    ax.set(xlabel=f"z_{dims[0]}", ylabel=f"z_{dims[1]}", aspect="equal")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False, fontsize=SMALL, ncols=2)
    return ax


def kl_per_dimension(kl: np.ndarray, ax: "Axes | None" = None) -> "Axes":
    """Draw what each latent dimension says of x, most first: E_x KL(q(z_d | x) || p(z_d)), with its standard error.

    Args:
        kl: of each datum and dimension (N, D), nats.
        ax: where to draw, a new figure by default.
    """
    ax, palette = axes(ax), colours()
    mean, error = kl.mean(0), kl.std(0, ddof=1) / math.sqrt(len(kl)) if len(kl) > 1 else np.zeros(kl.shape[1])
    order, at = np.argsort(-mean), np.arange(1, kl.shape[1] + 1)
    ax.bar(at, mean[order], color=palette[GUIDE], width=0.8)
    ax.errorbar(at, mean[order], yerr=2 * error[order], fmt="none", color="0.2", elinewidth=1)
    if len(at) <= 30:
        ax.set_xticks(at, [str(d) for d in order], fontsize=SMALL)
        x = "latent dimension d, most informative first"
    else:
        ranked(ax, len(at))
        x = "rank of the latent dimension"
    total = kl.sum(1)
    spread = f" ± {total.std(ddof=1) / math.sqrt(len(total)):.2f}" if len(total) > 1 else ""
    labelled(ax, f"{total.mean():.2f}{spread} nats per datum in all", x, "E_x KL(q(z_d | x) || p(z_d)), nats, ± 2 s.e.")
    return ax


def explained_variance(share: np.ndarray, ax: "Axes | None" = None) -> "Axes":
    """Draw which share of the variance of the codes the first principal axes hold.

    Args:
        share: of each axis (K,), as in `PrincipalAxes.explained`.
        ax: where to draw, a new figure by default.
    """
    ax, palette, at = axes(ax), colours(), np.arange(1, len(share) + 1)
    ax.bar(at, 100 * share, color=palette[GUIDE], label="each")
    ax.plot(at, 100 * np.cumsum(share), "o-", color=palette[POSTERIOR], markersize=3, label="together")
    ranked(ax, len(at))
    ax.set_ylim(0, 105)
    labelled(ax, "", "principal axis of the codes", "share of their variance, %")
    ax.legend(frameon=False, fontsize=SMALL, loc="center right")
    return ax


class LatentSpace(NamedTuple):
    """What `latent_spaces_figure` draws of a model."""

    mean: np.ndarray
    """E[z | x] (N, D)."""
    samples: np.ndarray
    """Data that are decoded from draws of N(0, I) (M, *event)."""
    sd: np.ndarray | None = None
    """Of q(z | x) (N, D); None for an autoencoder, whose codes are points."""


def latent_spaces_figure(
    models: Mapping[str, LatentSpace], title: str, labels: np.ndarray | None = None, names: Sequence[str] = ()
) -> "Figure":
    """Draw models side by side, say an autoencoder and a VAE: where codes lie, and what N(0, I) is decoded to.

    Args:
        models: name -> codes and samples.
        title: what they are of.
        labels: classes of the data (N,).
        names: of the classes.
    """
    figure = blank(4.6 * len(models), 8.2)
    panels = figure.subplots(2, len(models), squeeze=False, height_ratios=(1.15, 1))
    angle = np.linspace(0, 2 * np.pi, 200)
    for (name, model), upper, lower in zip(models.items(), *panels, strict=True):
        latent_scatter(model.mean, labels, names, upper, model.sd)
        own = upper.get_legend()
        if own is not None:
            own.remove()
        upper.plot(2 * np.cos(angle), 2 * np.sin(angle), "--", color="0.2", linewidth=1.2, label="2 sd of N(0, I)")
        labelled(upper, name, "E[z_0 | x]", "E[z_1 | x]")
        draw_data(model.samples, lower, title="decoded from draws of N(0, I)")
    heading(figure, title)
    legend(figure)
    return figure
