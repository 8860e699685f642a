"""Figures of the diagnosis of a guide: against importance sampling, HMC, annealing, and the best of its family.

Arrays and numbers in, a `Figure` out. Colour never stands alone: markers, hatches and kinds of line say the same.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae.plots.style import (
    SMALL,
    TEXT,
    blank,
    colours,
    few_ticks,
    heading,
    labelled,
    legend,
    log_axis,
    named_ticks,
    shortened,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

type Numbers = Mapping[str, Any]

GUIDE, POSTERIOR, RESAMPLED = 0, 2, 4
"""Colours of the guide, of what is taken for the posterior, and of draws resampled by importance."""
LEAST_REGION = 0.35
"""Share of the height that each side of the threshold of k-hat has at least, for its name."""
MOST_PANELS = 6
"""Data whose posterior is drawn."""
MOST_POINTS = 500
"""Draws of one datum that are drawn."""
MOST_PAIRED = 50
"""Latent dimensions among which the two that differ most are sought pair by pair."""
MOST_NAMED = 40
"""Data that are named one by one."""
PALE = "0.93"
"""Grey of a region where something should lie."""


def khat_figure(khat: np.ndarray, effective: np.ndarray, report: Numbers, data: str) -> "Figure":
    """Draw k-hat and the effective sample size of each datum, both in the order of k-hat.

    Args:
        khat: (N,); -inf for equal weights, NaN where undetermined.
        effective: effective sample size (N,).
        report: `threshold`, `num_draws`, `good_fraction` and its `standard_error`, as `khat_report` gives them.
        data: what they are.
    """
    order = np.argsort(khat)
    khat, worth = np.asarray(khat, float)[order], 100 * np.asarray(effective, float)[order] / report["num_draws"]
    threshold, palette, at = report["threshold"], colours(), np.arange(1, len(khat) + 1)
    figure = blank(10.5, 4.6)
    left, right = figure.subplots(1, 2)
    low, high = _sides(khat[np.isfinite(khat)], threshold)
    edge = 0.06 * (high - low)
    kinds = {
        "equal weights: k-hat is -inf, the guide is the posterior": (khat == -np.inf, "v", palette[GUIDE]),
        "k-hat below the threshold": (np.isfinite(khat) & (khat < threshold), "o", palette[GUIDE]),
        "k-hat above it": (np.isfinite(khat) & (khat >= threshold), "s", palette[6]),
        "infinite": (khat == np.inf, "^", palette[6]),
        "undetermined: counts as not good": (np.isnan(khat), "x", palette[POSTERIOR]),
    }
    shown = np.clip(np.nan_to_num(khat, nan=np.inf), low - edge, high + edge)
    floor = min(100 / report["num_draws"], worth[worth > 0].min(initial=100.0)) / 1.5
    for label, (some, marker, colour) in kinds.items():
        if some.any():
            style = {"s": 16, "marker": marker, "color": colour, "alpha": 0.8, "linewidths": 1 if marker == "x" else 0}
            left.scatter(at[some], shown[some], label=f"{label} ({some.sum()})", clip_on=False, zorder=3, **style)
            right.scatter(at[some], np.clip(worth[some], floor, None), clip_on=False, zorder=3, **style)
    left.axhspan(low - 2 * edge, threshold, color=PALE, linewidth=0)
    left.axhline(threshold, color="0.2", linestyle="--", label=f"threshold {threshold:.2f}, of S draws min(1 - 1 / log10 S, 0.7)")
    left.set_ylim(low - 2 * edge, high + 2 * edge)
    for y, text in (((low + threshold) / 2, "good: the draws\nsuffice"), ((high + threshold) / 2, "bad: weights too\nheavy-tailed")):
        left.text(1.02, y, text, transform=left.get_yaxis_transform(), rotation=270, va="center", fontsize=SMALL)
    log_axis(right, "y", floor / 1.3, 150)
    right.axhline(max(floor, float(np.median(worth))), color="0.2", linestyle=":", label=f"median {np.median(worth):.3g} %")
    few_ticks(left, x=6, y=6, whole=True)
    few_ticks(right, x=6, whole=True)
    labelled(left, "Pareto k-hat of the importance weights", "data, in the order of k-hat", "k-hat")
    labelled(right, "effective sample size", "data, in the same order", f"% of {report['num_draws']} draws")
    share, error, lost = 100 * report["good_fraction"], 100 * report["standard_error"], int(np.isnan(khat).sum())
    heading(
        figure,
        f"Importance sampling with the guide: k-hat is good for {share:.0f} ± {error:.0f} % of {len(khat)} data "
        f"({data}), undetermined for {lost}",
    )
    legend(figure)
    return figure


def _sides(khat: np.ndarray, threshold: float) -> tuple[float, float]:
    """Limits that hold every finite k-hat and leave room on either side of the threshold."""
    below = threshold - min(khat.min(initial=np.inf), threshold - 0.5)
    above = max(khat.max(initial=-np.inf), threshold + 0.3) - threshold
    ratio = LEAST_REGION / (1 - LEAST_REGION)
    return float(threshold - max(below, ratio * above)), float(threshold + max(above, ratio * below))


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
    some = f"the first {num} of {guide.shape[1]} data" if guide.shape[1] > num else f"{num} data" if num > 1 else "1 datum"
    heading(figure, f"The guide and the posterior by HMC{which}: {some} ({data}){'. ' * bool(warning)}{warning}")
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
            label = f"draws of {name}" if name == "HMC" else "draws of the guide, resampled by importance (PSIR)"
            style = {"linewidths": 0.6 if marker == "x" else 0, "s": 9 if marker == "x" else 6}
            ax.scatter(*some.T, marker=marker, color=colour, alpha=0.35, label=label, **style)
    for name, line, marker, colour in (("HMC", "-", "x", palette[POSTERIOR]), ("guide", "--", "+", palette[GUIDE])):
        mean, (values, vectors) = sets[name].mean(0), np.linalg.eigh(np.cov(sets[name].T, bias=True))
        outline = mean[:, None] + 2 * vectors @ (np.sqrt(values.clip(0))[:, None] * [np.cos(circle), np.sin(circle)])
        ax.plot(*outline, line, color=colour, linewidth=2, label=f"{name}: 2 sd around the mean")
        ax.plot(*mean, marker, color=colour, markersize=8, markeredgewidth=2)


def _steps(ax: "Axes", sets: Mapping[str, np.ndarray]) -> None:
    """Densities of draws in one dimension."""
    palette = colours()
    pooled = np.concatenate([draws[:, 0] for draws in sets.values()])
    edges = _edges(pooled, 40)
    styles = {"HMC": ("-", POSTERIOR, ""), "guide": ("--", GUIDE, ""), "PSIR": (":", RESAMPLED, "guide, resampled by ")}
    for name, draws in sets.items():
        line, colour, before = styles[name]
        heights = np.histogram(draws[:, 0], edges)[0] / len(draws) / np.diff(edges)
        ax.stairs(heights, edges, linestyle=line, color=palette[colour], linewidth=1.8, label=f"{before}{name}")


def _edges(values: np.ndarray, num: int) -> np.ndarray:
    """Bins over all values, also where they are all alike."""
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        half = 0.5 * max(1.0, abs(low))
        return np.linspace(low - half, low + half, 4)
    return np.linspace(low, high, num + 1)
