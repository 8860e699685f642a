"""Figures of the diagnosis of a guide: against importance sampling, HMC, annealing, and the best of its family.

Arrays and numbers in, a `Figure` out. Colour never stands alone: markers, hatches and kinds of line say the same.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae.plots.style import (
    GUIDE,
    PALE,
    POSTERIOR,
    SMALL,
    blank,
    colours,
    few_ticks,
    heading,
    labelled,
    legend,
    log_axis,
    named_ticks,
    pair,
    ranked,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

type Numbers = Mapping[str, Any]

LEAST_REGION = 0.35
"""Share of the height that each side of the threshold of k-hat has at least, for its name."""
MOST_NAMED = 40
"""Data that are named one by one."""
NATS = 0.1
"""A difference that matters; no axis shows less, so that nothing is made of smaller ones."""


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
    figure = blank(11, 4.8)
    left, right = figure.subplots(1, 2)
    finite = np.isfinite(khat)
    low, high = _sides(khat[finite], threshold)
    edge = 0.09 * (high - low)
    kinds = {
        "equal weights: the guide is the posterior": (khat == -np.inf, "v", palette[GUIDE]),
        "k-hat below the threshold": (finite & (khat < threshold), "o", palette[GUIDE]),
        "k-hat above it": (finite & (khat >= threshold), "s", palette[6]),
        "infinite": (khat == np.inf, "^", palette[6]),
        "undetermined: counts as not good": (np.isnan(khat), "x", palette[POSTERIOR]),
    }
    shown = np.clip(np.nan_to_num(khat, nan=np.inf), low - edge, high + edge)
    zero = bool((worth <= 0).any())
    floor = min(1.0, worth[worth > 0].min(initial=100.0)) / (3 if zero else 1.3)
    for label, (some, marker, colour) in kinds.items():
        if some.any():
            style: dict[str, Any] = {"s": 16, "marker": marker, "color": colour, "alpha": 0.8, "zorder": 3}
            style["linewidths"] = 1 if marker == "x" else 0
            left.scatter(at[some], shown[some], label=f"{label} ({some.sum()})", **style)
            right.scatter(at[some], np.clip(worth[some], floor, None), **style)
    text = f"threshold {threshold:.2f} = min(1 - 1 / log10 S, 0.7), S = {report['num_draws']} draws"
    left.axhspan(low - 2 * edge, threshold, color=PALE, linewidth=0)
    left.axhline(threshold, color="0.2", linestyle="--", label=text)
    left.set_ylim(low - 2 * edge, high + 2 * edge)
    for y, text in (
        ((low - 2 * edge + threshold) / 2, "good: the draws\nsuffice"),
        ((high + 2 * edge + threshold) / 2, "bad: weights too\nheavy-tailed"),
    ):
        style = {
            "rotation": 270,
            "va": "center",
            "multialignment": "center",
            "fontsize": SMALL,
            "transform": left.get_yaxis_transform(),
        }
        left.text(1.02, y, text, **style)
    log_axis(right, "y", floor / 1.2, 130)
    if zero:
        right.set_yticks([*right.get_yticks(), floor], [*(f"{tick:g}" for tick in right.get_yticks()), "0"])
    middle = float(np.median(worth))
    right.axhline(max(floor, middle), color="0.2", linestyle=":", label=f"median effective sample size: {middle:.3g} %")
    for ax in (left, right):
        ranked(ax, len(khat))
    _khat_ticks(left, low, high, edge, khat)
    labelled(left, "Pareto k-hat of the importance weights", "data, in the order of k-hat", "k-hat")
    labelled(right, "effective sample size", "data, in the same order", f"% of {report['num_draws']} draws")
    good, lost = int((khat < threshold).sum()), int(np.isnan(khat).sum())
    share = f"{100 * report['good_fraction']:.1f} ± {100 * report['standard_error']:.1f} %"
    unknown = f", undetermined for {lost}" if lost else ""
    heading(
        figure,
        f"Importance sampling with the guide: k-hat is good for {good} of {len(khat)} data, {share}{unknown} ({data})",
    )
    legend(figure)
    return figure


def _khat_ticks(ax: "Axes", low: float, high: float, edge: float, khat: np.ndarray) -> None:
    """Numbers between the limits, and words for what lies beyond them because it is no number."""
    from matplotlib.ticker import MaxNLocator

    numbers = MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    ticks = {float(y): f"{y:g}".replace("-", "−") for y in numbers if low <= y <= high}
    for y, here, word in (
        (low - edge, khat == -np.inf, "-inf"),
        (high + edge, np.isnan(khat) | (khat == np.inf), "no number"),
    ):
        if here.any():
            ticks = {tick: text for tick, text in ticks.items() if abs(tick - y) > edge} | {y: word}
    ax.set_yticks(list(ticks), list(ticks.values()))


def _sides(khat: np.ndarray, threshold: float) -> tuple[float, float]:
    """Limits that hold every finite k-hat and leave room on either side of the threshold."""
    below = threshold - min(khat.min(initial=np.inf), threshold - 0.5)
    above = max(khat.max(initial=-np.inf), threshold + 0.3) - threshold
    ratio = LEAST_REGION / (1 - LEAST_REGION)
    return float(threshold - max(below, ratio * above)), float(threshold + max(above, ratio * below))


def log_likelihood_figure(
    bounds: Sequence[Numbers],
    data: str,
    num_data: int = 0,
    excess: tuple[np.ndarray, np.ndarray] | None = None,
    observations: Sequence[int] = (),
    sides: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> "Figure":
    """Draw what each method says of log p(x): a panel for each of the three that is given.

    Args:
        bounds: `name`, `value`, `standard_error` and what it `is`, for each estimate of the mean over the data.
        data: what they are.
        num_data: behind `bounds`.
        excess: annealing minus importance sampling for each observed datum (B,), and its Monte Carlo standard error.
        observations: numbers of those data.
        sides: log p(x) of simulated data by bidirectional Monte Carlo, from below and from above (N,), and the Monte
            Carlo standard error of their difference.
    """
    there = [bool(bounds), excess is not None, sides is not None]
    widths = [width for width, here in zip((4.4, 3.8, 3.8), there, strict=True) if here]
    figure = blank(max(6.0, sum(widths)), 4.8)
    panels = iter(figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0])
    if bounds:
        _bounds(next(panels), bounds, num_data)
    if excess is not None:
        _excess(next(panels), *excess, observations)
    if sides is not None:
        _sandwich(next(panels), *sides)
    heading(figure, f"log p(x), by one method and another ({data})")
    legend(figure)
    return figure


def _bounds(ax: "Axes", bounds: Sequence[Numbers], num_data: int) -> None:
    """A row for each estimate, a triangle that points to log p(x) where it is a lower bound."""
    palette = colours()
    for y, row in enumerate(bounds):
        style: dict[str, Any] = {"fmt": "o", "color": palette[POSTERIOR], "label": "estimate, no bound"}
        if "lower bound" in row["is"]:
            style = {"fmt": ">", "color": palette[GUIDE], "label": "lower bound in expectation"}
            style["markerfacecolor"] = "white"
        ax.errorbar(row["value"], y, xerr=row["standard_error"], capsize=3, **style)
    ax.set_yticks(range(len(bounds)), [row["name"] for row in bounds], parse_math=False)
    ax.set_ylim(len(bounds) - 0.5, -0.5)
    ax.margins(x=0.1)
    few_ticks(ax, x=4)
    labelled(ax, f"importance sampling: mean over {num_data} data", "nats per datum ± 1 standard error over data")


def _excess(ax: "Axes", excess: np.ndarray, error: np.ndarray, observations: Sequence[int]) -> None:
    """A dot for each observed datum, sorted."""
    order = np.argsort(excess)
    ax.axhline(0, color="0.5", linewidth=1)
    style: dict[str, Any] = {"fmt": "o", "color": colours()[GUIDE], "markersize": 4, "elinewidth": 1, "capsize": 2}
    label = "one datum, ± 2 Monte Carlo standard errors"
    ax.errorbar(range(len(order)), excess[order], _bars(error[order]), label=label, **style)
    ranked(ax, len(order), first=0)
    if len(order) <= MOST_NAMED:
        named_ticks(ax, [str(observations[i]) for i in order])
    _no_closer(ax)
    text = "number of the datum, sorted" if len(order) <= MOST_NAMED else "data, sorted"
    labelled(ax, f"annealing minus importance sampling: {len(order)} {_data(order)}", text, "difference, nats")


def _sandwich(ax: "Axes", lower: np.ndarray, upper: np.ndarray, error: np.ndarray) -> None:
    """From the lower to the upper side of each simulated datum, sorted."""
    order = np.argsort(upper - lower)
    gap, at, palette = (upper - lower)[order], np.arange(1, len(order) + 1), colours()
    ax.axhline(0, color="0.5", linewidth=1)
    ax.vlines(at, 0, gap, color="0.75", linewidth=4)
    ax.plot(at, np.zeros(len(gap)), "^", color=palette[GUIDE], markersize=5, label="lower side, a bound in expectation")
    label = "upper side, a bound in expectation, ± 2 Monte Carlo standard errors"
    style: dict[str, Any] = {"fmt": "v", "color": palette[POSTERIOR], "markersize": 5, "elinewidth": 1, "capsize": 2}
    ax.errorbar(at, gap, _bars(error[order]), label=label, **style)
    ranked(ax, len(gap))
    _no_closer(ax)
    spread = gap.std(ddof=1) / math.sqrt(len(gap)) if len(gap) > 1 else math.nan
    title = f"both sides of {len(gap)} simulated {_data(order)}: {pair(gap.mean(), spread)} nats apart"
    labelled(ax, title.replace(" ± ", "\u00a0±\u00a0"), "data, sorted", "nats above the lower side")


def _data(some: np.ndarray) -> str:
    return "datum" if len(some) == 1 else "data"


def _bars(error: np.ndarray) -> np.ndarray:
    """Two standard errors, none where there is no error to tell."""
    return 2 * np.nan_to_num(error, nan=0.0, posinf=0.0)


def _no_closer(ax: "Axes") -> None:
    """A y axis that makes nothing of differences that do not matter."""
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, -NATS), max(high, NATS))
    few_ticks(ax, y=6)


def gaps_figure(splits: Mapping[str, Numbers], data: str) -> "Figure":
    """Draw what the guide loses, nats per datum: to its family and, on top of it, to amortisation.

    Args:
        splits: name of the data -> `approximation`, `amortisation`, `total` and, where there is one,
            `approximation_of_full_normal`, each `value` and `standard_error`; and `num_data`.
        data: what they are.
    """
    figure, palette = blank(max(6.5, 2.5 + 2 * len(splits)), 5), colours()
    ax = figure.add_subplot()
    bar: dict[str, Any] = {"width": 0.25, "edgecolor": "white", "linewidth": 0.5}
    dot: dict[str, Any] = {"capsize": 3, "color": "0.1", "fmt": "."}
    names = []
    for x, (split, row) in enumerate(splits.items()):
        family, encoder, whole = row["approximation"], row["amortisation"], row["total"]
        at = x - 0.125, x + 0.125
        ax.bar(at[0], family["value"], color=palette[GUIDE], hatch="//", label="approximation gap: the family", **bar)
        style = {"color": palette[1], "hatch": "..", "label": "amortisation gap, on top of it: the encoder", **bar}
        ax.bar(at[1], encoder["value"], bottom=family["value"], **style)
        ax.errorbar(at[0], family["value"], family["standard_error"], label="± 1 standard error over the data", **dot)
        ax.errorbar(at[1], whole["value"], whole["standard_error"], **dot)
        full = row.get("approximation_of_full_normal")
        if full:
            text = "what the best normal with a full covariance would lose"
            style = {"fmt": "D", "color": palette[POSTERIOR], "capsize": 3, "label": text}
            ax.errorbar(x + 0.36, full["value"], full["standard_error"], **style)
        names.append(
            f"{shortened(split)}: {row['num_data']} data\n{pair(whole['value'], whole['standard_error'])} nats in all"
        )
    ax.axhline(0, color="0.2", linewidth=1)
    ax.set_xticks(range(len(names)), names, parse_math=False)
    ax.set_xlim(-0.6, len(names) - 0.4)
    low, high = ax.get_ylim()
    high = max(high, NATS)
    ax.set_ylim(min(low, -0.04 * high), high)
    few_ticks(ax, y=6)
    labelled(ax, "", "", "log p(x) - ELBO, nats per datum")
    heading(figure, f"What the guide loses, and to what ({data})")
    legend(figure)
    return figure
