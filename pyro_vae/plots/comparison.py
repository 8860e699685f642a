"""The figure of a comparison: how far each model is from the best."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyro_vae.plots.style import colours

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def rounded(value: float | None, error: float | None) -> str:
    """A number and its standard error, which keeps two significant digits.

    >>> rounded(-1.9317, 0.1014), rounded(-90.123, None), rounded(None, None), rounded(0.0, 0.0)
    ('-1.93 ± 0.10', '-90.123 ± undetermined', 'undetermined', '0.000 ± 0.000')
    """
    if value is None:
        return "undetermined"
    if error is None:
        return f"{value:.3f} ± undetermined"
    digits = min(max(1 - math.floor(math.log10(error)), 0), 6) if error else 3
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def comparison_figure(rows: Sequence[Mapping[str, Any]], subject: str = "log p(x)", trusted: float = 0.5) -> "Figure":
    """Draw each model's difference to the best, the best at the top, with one paired standard error either side.

    Hollow markers are models whose log p is only a lower bound, by k-hat.

    Args:
        rows: `Comparison.table`.
        subject: what is compared.
        trusted: share of data with a good k-hat from which log p is more than a bound.
    """
    from matplotlib.figure import Figure

    colour = colours()[0]
    longest = max(len(row["name"]) for row in rows)
    figure = Figure(figsize=(6 + 0.07 * longest, 1.4 + 0.4 * len(rows)), dpi=120, layout="constrained")
    ax = figure.add_subplot()
    ax.axvline(0, color="0.6", linewidth=1, zorder=0)
    for y, row in enumerate(rows):
        value, error, khat = row["difference"]["value"], row["difference"]["standard_error"], row["khat"]
        bound = khat is None or khat["good_fraction"] < trusted
        if value is not None:
            face = "white" if bound else colour
            ax.errorbar(value, y, xerr=error, fmt="o", color=colour, markerfacecolor=face, capsize=3)
        words = rounded(value, error) if y else "best"
        ax.annotate(words, (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    ax.set_yticks(range(len(rows)), [row["name"] for row in rows])
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel=f"{subject} less that of the best, nats per datum ± 1 standard error")
    _legend(ax, colour, [row["khat"] for row in rows], trusted)
    return figure


def _legend(ax: Any, colour: str, khats: Sequence[Mapping[str, Any] | None], trusted: float) -> None:
    """What a hollow marker is, where there is one."""
    if all(khat is not None and khat["good_fraction"] >= trusted for khat in khats):
        return
    text = f"k-hat good for fewer than {100 * trusted:.0f} % of the data, or unknown: a lower bound"
    ax.plot([], [], "o", color=colour, markerfacecolor="white", label=text)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=8)
