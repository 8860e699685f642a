"""What figures share: colours, where text goes so that it fits, and how a figure is written.

Layouts see to it that nothing is clipped above or below, but not that a line of text is short enough: text that may be
long is measured and broken into lines here. None of it is read as mathematics: names may hold dollar signs.
"""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE = "petroff10"
"""Ten colours.

References:
    Accessible Color Sequences for Data Visualization (Petroff, 2021).
"""
DPI = 120
WIDEST = 12.0
"""Inches."""
HEADING, TITLE, TEXT, SMALL = 11, 10, 9, 8
"""Sizes of letters, in points: of a figure's heading, a panel's title, the names of its axes, and their numbers."""
GUIDE, POSTERIOR = 0, 2
"""Colours of the guide, and of what is taken for the posterior."""
PALE = "0.93"
"""Grey of a region where something should lie."""
LONGEST = 28
"""Letters of a name; longer ones lose their middle."""


def colours() -> list[str]:
    """The ten colours."""
    from matplotlib import style

    return list(style.library[STYLE]["axes.prop_cycle"].by_key()["color"])


def blank(width: float, height: float) -> "Figure":
    """An empty figure, in inches, that makes room for its text by itself."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)  # type: ignore[union-attr, call-arg]
    return figure


def axes(ax: "Axes | None") -> "Axes":
    """The axes to draw into."""
    return ax if ax is not None else blank(6, 5).add_subplot()


def bare(ax: "Axes") -> None:
    """No ticks and no frame."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def shortened(text: str, most: int = LONGEST) -> str:
    """The text in one line, without its middle where it is too long.

    >>> shortened("a name that is much too long", most=11)
    'a nam…long'
    """
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most // 2].rstrip()}…{text[-(most - most // 2 - 1) :].lstrip()}"


def pair(value: float, error: float) -> str:
    """A number and its standard error, which keeps two digits, but no more than four decimals.

    >>> pair(0.0541, 0.0493), pair(-90.123, 2.31), pair(0.5, float("nan"))
    ('0.054 ± 0.049', '-90.1 ± 2.3', '0.5')
    """
    if not math.isfinite(error):
        return f"{value:.3g}"
    digits = min(max(1 - math.floor(math.log10(error)), 0), 4) if error > 0 else 4
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def inches(text: str, size: float) -> float:
    """Width of a line of text in letters of so many points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    return text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0] / 72


def wrapped(text: str, width: float, size: float) -> str:
    """The text in lines that are no wider than so many inches.

    >>> wrapped("two words", width=0.6, size=10).splitlines()
    ['two', 'words']
    """
    letters = max(1, int(width * 72 / (0.4 * size)))
    while True:
        lines = textwrap.wrap(text, letters)
        if letters == 1 or all(inches(line, size) <= width for line in lines):
            return "\n".join(lines)
        letters = max(1, min(letters - 1, int(0.95 * letters)))


def heading(figure: "Figure", text: str) -> None:
    """Write what the figure shows above it."""
    text = wrapped(text, 0.96 * figure.get_figwidth(), HEADING)
    figure.suptitle(text, fontsize=HEADING, parse_math=False)


def labelled(ax: "Axes", title: str = "", x: str = "", y: str = "") -> None:
    """Write the title and the names of the axes, in lines that fit, and small numbers at few ticks."""
    width, height = _slot(ax)
    ax.set_title(wrapped(title, 0.75 * width, TITLE), fontsize=TITLE, parse_math=False)
    ax.set_xlabel(wrapped(x, 0.75 * width, TEXT), fontsize=TEXT, parse_math=False)
    ax.set_ylabel(wrapped(y, 0.6 * height, TEXT), fontsize=TEXT, parse_math=False)
    ax.tick_params(labelsize=SMALL)


def _slot(ax: "Axes") -> tuple[float, float]:
    """Inches of the figure that belong to these axes and what is written around them."""
    spec, figure = ax.get_subplotspec(), ax.get_figure(root=True)
    if spec is None or figure is None:
        return 6.0, 5.0
    grid, (width, height) = spec.get_gridspec(), figure.get_size_inches()
    wide, high = (np.asarray(ratios) for ratios in (grid.get_width_ratios(), grid.get_height_ratios()))
    return width * wide[spec.colspan.start] / wide.sum(), height * high[spec.rowspan.start] / high.sum()


def few_ticks(ax: "Axes", x: int | None = None, y: int | None = None, whole: str = "") -> None:
    """At most so many ticks on an axis, at round numbers that are written out; at whole ones on the axis `whole`."""
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    for axis, num in ((ax.xaxis, x), (ax.yaxis, y)):
        if num is not None:
            axis.set_major_locator(MaxNLocator(num, integer=axis.axis_name == whole, steps=[1, 2, 2.5, 5, 10]))
            formatter = ScalarFormatter(useOffset=False)
            formatter.set_powerlimits((-4, 7))
            axis.set_major_formatter(formatter)
            axis.get_offset_text().set_fontsize(SMALL)


def ranked(ax: "Axes", num: int, first: int = 1) -> None:
    """An x axis for the ranks of so many data."""
    few_ticks(ax, x=6, whole="x")
    if num == 1:
        ax.set_xticks([first])
    ax.set_xlim(first - 0.6 - 0.03 * num, first + num - 0.4 + 0.03 * num)


def log_axis(ax: "Axes", which: Literal["x", "y"], low: float, high: float) -> None:
    """A logarithmic axis from `low` to `high` with a few plain numbers, however near or far the two are."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    ax.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    ticks, decades = list[float](), math.log10(high / low)
    if decades < 1:
        ticks = list(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
    else:
        every, parts = math.ceil(decades / 6), (1, 2, 5) if decades < 2 else (1,)
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [part * 10.0**power for power in powers if power % every == 0 for part in parts]
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def bins(values: np.ndarray, num: int) -> np.ndarray:
    """Edges of at most so many bins over all values: none is empty because the values are discrete, or all alike.

    >>> bins(np.array([3.0, 3.0]), 2)
    array([1.5, 2.5, 3.5, 4.5])
    >>> bins(np.array([0.0, 3.0, 1.0, 7.0]), 4)
    array([-0.5,  1.5,  3.5,  5.5,  7.5])
    """
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        half = 0.5 * max(1.0, abs(low))
        return np.linspace(low - half, low + half, 4)
    places = np.unique(np.round((values - low) / (high - low), 9))
    steps = places / np.diff(places).min()
    if steps[-1] < 1000 and np.allclose(steps, np.round(steps), atol=1e-3):  # multiples of something, like counts
        last = round(steps[-1])
        every = math.ceil((last + 1) / num)
        return low + (high - low) / last * (every * np.arange(math.ceil((last + 1) / every) + 1) - 0.5)
    return np.linspace(low, high, int(np.clip(len(places) // 2, min(10, num), num)) + 1)


def fine(*values: np.ndarray) -> int:
    """So many bins that the one of the fewest values is no mere noise."""
    return int(np.clip(1.5 * math.sqrt(min(map(len, values))), 8, 40))


def named_ticks(ax: "Axes", names: Sequence[str], size: float = SMALL) -> None:
    """Names at 0, 1, 2, ... of the x axis: upright where they are many or long, every second or so if more still."""
    short, room = [shortened(name) for name in names], 0.85 * _slot(ax)[0] / max(1, len(names))
    upright = max((inches(name, size) for name in short), default=0) > 0.9 * room
    every = max(1, math.ceil(1.15 * size / 72 / room)) if upright else 1
    ax.set_xticks(
        range(0, len(short), every), short[::every], rotation=90 if upright else 0, fontsize=size, parse_math=False
    )


def legend(figure: "Figure") -> None:
    """Below the figure: everything in it that has a label, once, in as many columns as there is room for."""
    from matplotlib.patches import Patch

    found: dict[str, Any] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    width = 0.96 * figure.get_figwidth()
    labels = [wrapped(label, width - 1, SMALL) for label in found]
    widths = np.array([0.6 + max(inches(line, SMALL) for line in label.splitlines()) for label in labels])
    columns = len(labels)
    while columns > 1 and sum(part.max() for part in np.array_split(widths, columns)) > width:  # as they are filled
        columns -= 1
    drawn = figure.legend(
        list(found.values()), labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=SMALL
    )
    for text in drawn.get_texts():
        text.set_parse_math(False)
    for shown in drawn.legend_handles:
        if shown is not None and not isinstance(shown, Patch):
            shown.set_alpha(1.0)


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure as PNG, whole or not at all."""
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png")
    part.replace(path)
    return path
