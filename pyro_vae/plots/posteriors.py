"""Figures of a guide against the posterior by Hamiltonian Monte Carlo: draws of some data, moments of all.

Arrays in, a `Figure` out. Colour never stands alone: markers and kinds of line say the same.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae.plots.style import (
    GUIDE,
    POSTERIOR,
    bins,
    blank,
    colours,
    few_ticks,
    fine,
    heading,
    labelled,
    legend,
    log_axis,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESAMPLED = 4
"""Colour of draws resampled by importance."""
PSIR = "guide, resampled by importance (PSIR)"
MOST_PANELS = 6
"""Data whose posterior is drawn."""
MOST_POINTS = 500
"""Draws of one datum that are drawn."""
MOST_PAIRED = 50
"""Latent dimensions among which the two that differ most are sought pair by pair."""


def posterior_figure(
    guide: np.ndarray,
    reference: np.ndarray,
    names: Sequence[str],
    observations: Sequence[int],
    data: str,
    resampled: np.ndarray | None = None,
    warning: str = "",
) -> "Figure":
    """Draw the guide over the posterior by HMC, for a few data, in the two dimensions in which they differ most.

    Args:
        guide: draws of the guide (S, B, D).
        reference: draws of HMC (R, B, D).
        names: of the latent dimensions.
        observations: numbers of the data, B.
        data: what they are.
        resampled: draws of the guide resampled by importance (P, B, D).
        warning: a sentence to be seen, such as that the chains have not converged.
    """
    num = min(guide.shape[1], MOST_PANELS)
    columns = min(num, 3)
    rows = math.ceil(num / columns)
    figure = blank(max(5.5, 3.6 * columns), 1.3 + 3.1 * rows)
    for b, ax in zip(range(num), figure.subplots(rows, columns, squeeze=False).flat, strict=False):
        sets = {"guide": guide[:, b], "HMC": reference[:, b]} | ({} if resampled is None else {"PSIR": resampled[:, b]})
        i, j = _most_different(sets["guide"], sets["HMC"])
        (_steps if i == j else _ellipses)(ax, {name: draws[:, [i, j]] for name, draws in sets.items()})
        few_ticks(ax, x=4, y=4)
        upwards = "probability density" if i == j else shortened(names[j])
        labelled(ax, f"datum {observations[b]}", shortened(names[i]), upwards)
    for ax in figure.axes[num:]:
        ax.remove()
    several = guide.shape[2] > 2
    which = " in the two latent dimensions in which they differ most" if several else ""
    some = (
        f"the first {num} of {guide.shape[1]} data" if guide.shape[1] > num else f"{num} data" if num > 1 else "1 datum"
    )
    heading(figure, f"The guide and the posterior by HMC{which}: {some} ({data}){_said(warning)}")
    legend(figure)
    return figure


def _most_different(guide: np.ndarray, reference: np.ndarray) -> tuple[int, int]:
    """The two dimensions with the largest divergence (KL, both ways) between normals with the moments of the draws."""
    dim = guide.shape[1]
    if dim < 3:
        return 0, dim - 1
    scale = np.maximum(reference.std(0), 1e-30)
    a, b = (draws.astype(float) / scale for draws in (guide, reference))
    ratio, shift = (a.var(0) + 1e-6) / (b.var(0) + 1e-6), np.square(a.mean(0) - b.mean(0))
    alone = ratio + 1 / ratio + shift
    some = np.sort(np.argsort(-alone)[:MOST_PAIRED])
    pairs = np.stack(np.triu_indices(len(some), 1), 1)
    p, q = (_pairwise(draws[:, some], pairs) for draws in (a, b))
    d = (a.mean(0) - b.mean(0))[some][pairs]
    inverse_p, inverse_q = np.linalg.inv(p), np.linalg.inv(q)
    traces = np.einsum("nij,nji->n", inverse_p, q) + np.einsum("nij,nji->n", inverse_q, p)
    i, j = pairs[np.argmax(traces + np.einsum("ni,nij,nj->n", d, inverse_p + inverse_q, d))]
    return int(some[i]), int(some[j])


def _pairwise(draws: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Covariances of pairs of dimensions (P, 2, 2), positive definite."""
    covariance = np.cov(draws.T, bias=True) + 1e-6 * np.eye(draws.shape[1])
    return covariance[pairs[:, :, None], pairs[:, None, :]]


def _ellipses(ax: "Axes", sets: Mapping[str, np.ndarray]) -> None:
    """Draws in two dimensions: points of what is exact, and what holds 2 sd around the mean of guide and HMC."""
    palette = colours()
    circle = np.linspace(0, 2 * np.pi, 100)
    for name, marker, colour in (("HMC", "o", palette[POSTERIOR]), ("PSIR", "x", palette[RESAMPLED])):
        if name in sets:
            some = sets[name][:: math.ceil(len(sets[name]) / MOST_POINTS)]
            label = f"{name}, draws" if name == "HMC" else PSIR
            style: dict[str, Any] = {"linewidths": 0.6 if marker == "x" else 0, "s": 9 if marker == "x" else 6}
            ax.scatter(*some.T, marker=marker, color=colour, alpha=0.35, label=label, **style)
    for name, line, marker, colour in (("HMC", "-", "x", palette[POSTERIOR]), ("guide", "--", "+", palette[GUIDE])):
        mean, (values, vectors) = sets[name].mean(0), np.linalg.eigh(np.cov(sets[name].T, bias=True))
        outline = mean[:, None] + 2 * vectors @ (np.sqrt(values.clip(0))[:, None] * [np.cos(circle), np.sin(circle)])
        ax.plot(*outline, line, color=colour, linewidth=2, label=f"{name}: 2 sd around the mean")
        ax.plot(*mean, marker, color=colour, markersize=8, markeredgewidth=2)


def _steps(ax: "Axes", sets: Mapping[str, np.ndarray]) -> None:
    """Densities of draws in one dimension."""
    palette = colours()
    edges = bins(np.concatenate([draws[:, 0] for draws in sets.values()]), fine(*sets.values()))
    styles = {"HMC": ("-", POSTERIOR, "HMC"), "guide": ("--", GUIDE, "guide"), "PSIR": (":", RESAMPLED, PSIR)}
    for name, draws in sets.items():
        line, colour, label = styles[name]
        heights = np.histogram(draws[:, 0], edges)[0] / len(draws) / np.diff(edges)
        ax.stairs(heights, edges, linestyle=line, color=palette[colour], linewidth=1.8, label=label)


def moments_figure(
    guide: tuple[np.ndarray, np.ndarray],
    reference: tuple[np.ndarray, np.ndarray],
    data: str,
    error: np.ndarray | None = None,
    warning: str = "",
) -> "Figure":
    """Draw mean and sd of the guide against those of the posterior by HMC: a dot per datum and latent dimension.

    Args:
        guide: mean and sd (B, D).
        reference: mean and sd of the draws of HMC (B, D).
        data: what they are.
        error: Monte Carlo standard error of HMC's means (B, D).
        warning: a sentence to be seen, such as that the chains have not converged.
    """
    figure = blank(10, 5.6)
    left, right = figure.subplots(1, 2)
    (guide_mean, guide_sd), (mean, sd) = ([part.ravel() for part in pair] for pair in (guide, reference))
    positive = (sd > 0) & (guide_sd > 0)
    error = np.zeros(len(mean)) if error is None else error.ravel()
    pad = 0.05 * max(np.ptp([mean, guide_mean]), 1e-3)
    _against(
        left,
        mean,
        guide_mean,
        2 * error,
        min(mean.min(), guide_mean.min()) - pad,
        max(mean.max(), guide_mean.max()) + pad,
    )
    every = np.concatenate([sd, guide_sd])
    low = every[every > 0].min(initial=1.0 if (every == 0).all() else np.inf) / (1.15 if positive.all() else 2)
    high = max(1.15 * every.max(), 2 * low)
    shown = [np.where(positive, values, np.nan) for values in (sd, guide_sd)]
    _against(right, shown[0], shown[1], math.sqrt(2) * error, low, high)  # the error of the sd of a normal
    if not positive.all():
        zero = [np.maximum(values[~positive], low) for values in (sd, guide_sd)]
        right.plot(*zero, "v", color=colours()[GUIDE], clip_on=False, label="an sd of 0")
    for which in ("x", "y"):
        log_axis(right, which, low, high)
    few_ticks(left, x=5, y=5)
    apart = np.sqrt(np.square((guide_mean - mean)[sd > 0] / sd[sd > 0]).mean()) if (sd > 0).any() else math.nan
    labelled(left, f"means: {apart:.2g} posterior sd apart (root mean square)", "HMC: E[z | x]", "guide: E[z | x]")
    text = "sd: 0 on one side"
    if positive.any():
        ratio = np.exp(np.log(guide_sd[positive] / sd[positive]).mean())
        text = f"sd: the guide's is {ratio:.2f} times HMC's (geometric mean)"
    labelled(right, text, "HMC: sd of z given x", "guide: sd of z given x")
    num, dim = reference[0].shape
    heading(figure, f"Moments of the guide and of HMC: {num} data by {dim} latent dimensions ({data}){_said(warning)}")
    legend(figure)
    return figure


def _against(ax: "Axes", x: np.ndarray, y: np.ndarray, error: np.ndarray, low: float, high: float) -> None:
    """Dots that should lie on the identity."""
    ax.plot([low, high], [low, high], color="0.5", linewidth=1, label="equal")
    ax.set(xlim=(low, high), ylim=(low, high))
    label = "one latent dimension of one datum" + (
        ", ± 2 Monte Carlo standard errors of HMC (of an sd: as if normal)" if error.any() else ""
    )
    style: dict[str, Any] = {"fmt": "o", "markersize": 3.5, "alpha": 0.6, "markeredgewidth": 0, "elinewidth": 0.6}
    ax.errorbar(x, y, xerr=error, color=colours()[GUIDE], label=label, **style)


def _said(warning: str) -> str:
    return f". {warning}" if warning else ""
