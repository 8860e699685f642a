"""Figures of what can be checked without another posterior: simulations, the aggregate, replicates, labels.

Arrays and numbers in, a `Figure` out. Colour never stands alone: markers, hatches and kinds of line say the same.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae.diagnostics.predictive import EXTREME
from pyro_vae.plots.style import (
    GUIDE,
    PALE,
    POSTERIOR,
    TEXT,
    TITLE,
    WIDEST,
    bins,
    blank,
    colours,
    few_ticks,
    fine,
    heading,
    inches,
    labelled,
    legend,
    named_ticks,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KOLMOGOROV = 1.63
"""Times 1 / sqrt(N): the distance from uniform that N numbers exceed in 1 % of the cases."""
SHARES = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
"""Shares that are written at axes of log-odds."""
MOST_POINTS = 2000
"""Draws of each kind that are drawn."""
NAMES = 7
"""Points of the names of latent dimensions."""
MOST_COLUMNS = 5
"""Test quantities side by side."""


def calibration_figure(
    latents: np.ndarray,
    log_joint: np.ndarray,
    distance: np.ndarray,
    coverage: tuple[np.ndarray, np.ndarray, np.ndarray],
    data: str,
) -> "Figure":
    """Draw how uniform the ranks of simulated latents among the guide's draws are, and what intervals hold.

    Args:
        latents: ranks of each latent, spread over [0, 1] (N, D).
        log_joint: of log p(x, z) (N,).
        distance: of the distance from a point of reference (N,).
        coverage: probability of each interval (P,), share that it held (P, D), standard error of the share (P,).
        data: what they are like.
    """
    num, dim = latents.shape
    figure, palette, grid = blank(11, 5), colours(), np.linspace(0, 1, 501)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    band = KOLMOGOROV / math.sqrt(num)
    text = f"99 % of uniform ranks stay inside: ± {KOLMOGOROV} / sqrt(N) = ± {band:.3f}"
    left.axhspan(-band, band, color=PALE, linewidth=0, label=text)
    left.axhline(0, color="0.5", linewidth=1)

    def apart(u: np.ndarray) -> np.ndarray:
        return np.searchsorted(np.sort(u), grid, side="right") / num - grid

    for d in range(dim):
        label = f"each of {dim} latent dimensions" if dim > 1 else "the latent dimension"
        left.plot(grid, apart(latents[:, d]), color=palette[GUIDE], linewidth=0.8, alpha=0.6, label=label)
    left.plot(grid, apart(log_joint), color=palette[POSTERIOR], linewidth=2.2, label="log p(x, z)")
    left.plot(grid, apart(distance), "--", color=palette[4], linewidth=2.2, label="TARP: distance from a reference")
    few_ticks(left, x=5, y=6)
    left.set_xlim(0, 1)
    labelled(
        left, "ranks: distribution less the uniform one", "rank among the guide's draws, from 0 to 1", "difference"
    )
    _coverage(right, *coverage, num)
    heading(figure, f"Calibration of the guide on {num} data simulated from the model ({data})")
    legend(figure)
    return figure


def _coverage(ax: "Axes", nominal: np.ndarray, share: np.ndarray, error: np.ndarray, num: int) -> None:
    """Log-odds of the share that intervals held, side by side for the latents, against that of their probability."""
    least = 0.5 / num  # a share of 0 or 1 has no finite log-odds

    def odds(p: np.ndarray | float) -> np.ndarray:
        p = np.clip(p, least, 1 - least)
        return np.log(p / (1 - p))

    at = odds(nominal)
    half = 0.35 * np.diff(np.sort(at)).min(initial=1.0)
    ends = np.array([at.min() - 1.6 * half, at.max() + 1.6 * half])
    ax.plot(ends, ends, color="0.5", linewidth=1, label="as it should be")
    for x, p, e in zip(at, nominal, error, strict=True):
        low, high = odds(p - 2 * e), odds(p + 2 * e)
        ax.fill_between(
            [x - half, x + half], low, high, color="0.85", linewidth=0, label="± 2 standard errors of a calibrated one"
        )
    dim = share.shape[1]
    spread = np.linspace(-0.85, 0.85, dim) * half if dim > 1 else np.zeros(1)
    shown = odds(share)
    inside = (share > 0) & (share < 1)
    x = at[:, None] + spread
    style: dict[str, Any] = {"linestyle": "none", "color": colours()[GUIDE], "markersize": 4 if dim < 20 else 2.5}
    ax.plot(x[inside], shown[inside], "o", label="coverage of one latent dimension", **style)
    if not inside.all():
        ax.plot(x[~inside], shown[~inside], "d", label="none or all of the simulations", **style)
    low, high = min(shown.min(), ends[0]) - 0.3, max(shown.max(), ends[1]) + 0.3
    ticks = [p for p in SHARES if low <= odds(p) <= high and (high - low < 9 or p not in (0.05, 0.25, 0.75, 0.95))]
    ax.set(xlim=ends, ylim=(low, high))
    ax.set_xticks(at, [f"{100 * p:g} %" for p in nominal])
    ax.set_yticks([float(odds(p)) for p in ticks], [f"{100 * p:g} %" for p in ticks])
    labelled(ax, "coverage of central intervals", "probability of the interval", "share that it held (log-odds)")


def aggregate_figure(
    z: np.ndarray,
    prior: np.ndarray,
    names: Sequence[str],
    data: str,
    kl_per_dim: np.ndarray | None,
    variance_of_means: np.ndarray,
    collapsed: Sequence[int] = (),
    p_value: float | None = None,
) -> "Figure":
    """Draw what each latent dimension is worth, and draws of the aggregate posterior over those of the prior.

    Args:
        z: one draw of q(z | x) for each datum (N, D).
        prior: draws of the prior (M, D).
        names: of the latent dimensions.
        data: what they are.
        kl_per_dim: mean KL(q(z_d | x) || p(z_d)) (D,), nats; None: the variance of the means is drawn instead.
        variance_of_means: Var E_q[z_d | x] (D,).
        collapsed: numbers of the dimensions that know nothing of x.
        p_value: of the MMD test of q(z) against p(z).
    """
    dim = z.shape[1]
    longest = max(inches(shortened(name), NAMES) for name in names)
    figure = blank(WIDEST, 5 + (longest if dim * longest > 6 else 0))
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    worth = variance_of_means if kl_per_dim is None else kl_per_dim
    order = np.argsort(-worth, kind="stable")
    _worth(left, worth[order], np.isin(order, list(collapsed)), [names[i] for i in order])
    unit = "variance of E[z | x] over the data" if kl_per_dim is None else "KL(q(z_d | x) || p(z_d)), nats per datum"
    left.set_ylabel(unit, fontsize=TEXT)
    shown = order[:2]
    _two_sets(right, z[:, shown], prior[:, shown], [shortened(names[i]) for i in shown])
    test = "" if p_value is None else f" (MMD\u00a0test: p\u00a0=\u00a0{p_value:.2g})"
    right.set_title(f"q(z) and the prior{test}", fontsize=TITLE)
    heading(figure, f"What the latents tell of x, and whether q(z) is the prior: {len(z)} data ({data})")
    legend(figure)
    return figure


def _worth(ax: "Axes", worth: np.ndarray, gone: np.ndarray, names: Sequence[str]) -> None:
    """A bar for each latent dimension; a cross on those that are collapsed, whose bars have next to no height."""
    palette, at = colours(), np.arange(len(worth))
    if not gone.all():
        ax.bar(at[~gone], worth[~gone], color=palette[GUIDE], label="tells of x")
    if gone.any():
        lost = [shortened(names[i], 12) for i in at[gone]]
        text = f"collapsed ({len(lost)}): {', '.join(lost[:6])}{', …' if len(lost) > 6 else ''}"
        ax.bar(at[gone], worth[gone], color="white", hatch="////", edgecolor="0.3", linewidth=0.5)
        ax.plot(at[gone], worth[gone], "x", color=palette[POSTERIOR], clip_on=False, label=text)
    few_ticks(ax, y=6)
    ax.set_xlim(-0.6, len(worth) - 0.4)
    labelled(ax, f"{len(worth)} latent dimension{'s' * (len(worth) > 1)}, sorted", "latent dimension")
    named_ticks(ax, names, NAMES)


def _two_sets(ax: "Axes", z: np.ndarray, prior: np.ndarray, names: Sequence[str]) -> None:
    """Draws of q(z) over those of the prior: points in two dimensions, densities in one."""
    colour = colours()[GUIDE]
    few_ticks(ax, x=5, y=5)
    if len(names) == 2:
        circles: dict[str, Any] = {"s": 12, "facecolors": "none", "edgecolors": "0.6", "linewidths": 0.7, "alpha": 0.7}
        crosses: dict[str, Any] = {"s": 12, "marker": "+", "color": colour, "linewidths": 0.7, "alpha": 0.7}
        ax.scatter(*prior[:MOST_POINTS].T, label="draws of the prior p(z)", **circles)
        ax.scatter(*z[:MOST_POINTS].T, label="draws of the aggregate q(z)", **crosses)
        labelled(ax, "", names[0], names[1])
        return
    edges = bins(np.concatenate([z, prior]), fine(z, prior))
    for draws, line, shade, label in ((prior, "--", "0.4", "prior p(z)"), (z, "-", colour, "aggregate q(z)")):
        heights = np.histogram(draws, edges)[0] / len(draws) / np.diff(edges)
        ax.stairs(heights, edges, linestyle=line, color=shade, linewidth=1.8, label=label)
    labelled(ax, "", names[0], "probability density")


def predictive_figure(checks: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], data: str) -> "Figure":
    """Draw test quantities of data and of generated data, and where each datum lies among its own replicates.

    Args:
        checks: name of the quantity -> T of the data (N,), T of generated data (M,), predictive p-values (N,).
        data: what they are.
    """
    blocks = math.ceil(len(checks) / MOST_COLUMNS)
    across = math.ceil(len(checks) / blocks)
    figure = blank(min(WIDEST, max(6.0, 3 * across)), 1.2 + 4.6 * blocks)
    axes = figure.subplots(2 * blocks, across, squeeze=False)
    for k, (name, (observed, generated, p)) in enumerate(checks.items()):
        block, column = divmod(k, across)
        _quantity(axes[2 * block, column], shortened(name), observed, generated)
        _tail(axes[2 * block + 1, column], p)
        if column:
            for ax in axes[2 * block : 2 * block + 2, column]:
                ax.set_ylabel("")
    for k in range(len(checks), across * blocks):
        for row in (0, 1):
            axes[2 * (k // across) + row, k % across].remove()
    heading(figure, f"Test quantities T of {len(observed)} data ({data}) and of {len(generated)} data from the model")
    legend(figure)
    return figure


def _quantity(ax: "Axes", name: str, observed: np.ndarray, generated: np.ndarray) -> None:
    """Densities of T; what lies far out is counted in the bins at the ends."""
    pooled = np.concatenate([observed, generated])
    inner = np.array([np.quantile(pooled, 0.01, method="higher"), np.quantile(pooled, 0.99, method="lower")])
    far = np.ptp(pooled) > 4 * np.ptp(inner) > 0
    shown = pooled.clip(*inner) if far else pooled
    edges, palette = bins(shown, fine(observed, generated)), colours()
    note = ", farther ones at the ends" if far else ""
    for values, line, colour, label in (
        (generated, "--", palette[POSTERIOR], "data from the model, z ~ p(z)"),
        (observed, "-", palette[GUIDE], "data"),
    ):
        heights = np.histogram(values.clip(edges[0], edges[-1]), edges)[0] / len(values) / np.diff(edges)
        ax.stairs(heights, edges, linestyle=line, color=colour, linewidth=1.6, label=label)
    few_ticks(ax, x=4, y=4)
    labelled(ax, name, f"T(x){note}", "density")


def _tail(ax: "Axes", p: np.ndarray) -> None:
    """Predictive p-values, the extreme ones counted."""
    num = 20 if len(p) >= 100 else 10
    ax.hist(p, list(np.linspace(0, 1, num + 1)), color="0.75", edgecolor="0.4", linewidth=0.6)
    text = "uniform; those of a right model lie nearer to 1/2"
    ax.axhline(len(p) / num, color=colours()[POSTERIOR], linestyle=":", linewidth=1.8, label=text)
    text = f"beyond {EXTREME:g} and {1 - EXTREME:g}: extreme; {200 * EXTREME:g} % by chance"
    for end in (EXTREME, 1 - EXTREME):
        ax.axvline(end, color="0.2", linestyle="--", linewidth=1, label=text)
    share = 100 * np.mean((p < EXTREME) | (p > 1 - EXTREME))
    few_ticks(ax, x=4, y=4, whole="y")
    ax.set_xlim(0, 1)
    labelled(ax, f"extreme: {share:.0f} %", "p = P(T(x_rep) ≥ T(x))", "data")


def labels_figure(sites: Mapping[str, Mapping[str, Any]], data: str) -> "Figure":
    """Draw how often the most probable class is right against how probable the model finds it.

    Args:
        sites: label site -> `confidence`, `share` and `share_standard_error` of each bin, `num_data`, and
            `expected_calibration_error` (`value`, `standard_error`).
        data: what they are.
    """
    across = min(3, len(sites))
    rows = math.ceil(len(sites) / across)
    figure, colour = blank(max(6.5, 4 * across), 1 + 3.8 * rows), colours()[GUIDE]
    axes = figure.subplots(rows, across, squeeze=False).flat
    for ax, (site, found) in zip(axes, sites.items(), strict=False):
        share, error = 100 * np.asarray(found["share"]), 200 * np.asarray(found["share_standard_error"])
        ax.plot([0, 100], [0, 100], color="0.5", linewidth=1, label="as it should be")
        label = "data of similar confidence, ± 2 standard errors"
        ax.errorbar(
            100 * np.asarray(found["confidence"]),
            share,
            np.minimum(error, [share, 100 - share]),
            fmt="o-",
            color=colour,
            capsize=3,
            markersize=5,
            label=label,
        )
        ax.set(xlim=(-3, 103), ylim=(-3, 103))
        few_ticks(ax, x=5, y=5)
        off = found["expected_calibration_error"]
        text = f"expected calibration error {100 * off['value']:.1f} ± {100 * off['standard_error']:.1f} %"
        title = f"{shortened(site)}, {found['num_data']} data: {text}"
        labelled(ax, title, "confidence: p(y | x) of the top class, %", "share that is right, %")
    for ax in figure.axes[len(sites) :]:
        ax.remove()
    heading(figure, f"Reliability of the probabilities of labels ({data})")
    legend(figure)
    return figure
