"""Pictures inside a page: data as PNG, the training curves as SVG that follows the colour scheme."""

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae import plots
from pyro_vae.plots.style import colours, few_ticks, legend

WIDEST = 1400
"""Pixels of a figure of the diagnosis; wider ones are made smaller."""
HIGH = 7.0
"""Inches of a figure of vectors."""
LEAST = 28
"""Pixels of an image of data, at least."""
COLOURS = 96
"""Colours that are kept of it: it is lines and a few areas, and a third as large so."""


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """A file as an address that needs no network."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def grid_png(x: np.ndarray, columns: int) -> bytes:
    """Images (N, C, H, W) in rows of `columns`."""
    from PIL import Image

    factor = max(1, math.ceil(LEAST / x.shape[3]))  # the lines between small images would be wide
    large = x.repeat(factor, axis=2).repeat(factor, axis=3)
    picture = (255 * plots.as_grid(large, columns)).round().astype(np.uint8)
    return _png(Image.fromarray(picture))


def vectors_png(x: np.ndarray, title: str, row_labels: Sequence[str], names: Sequence[str]) -> bytes:
    """Vectors (N, D) as heat maps."""
    stream = io.BytesIO()
    figure = plots.data_figure(x, title, row_labels=row_labels, names=names)
    figure.set_figheight(HIGH)  # so that long names of columns leave room for what is said beside the colours
    figure.savefig(stream, format="png")
    return small_png(stream.getvalue())


def small_png(content: bytes | Path) -> bytes:
    """A figure, made small: no wider than a page shows it, in few colours."""
    from PIL import Image

    image = Image.open(io.BytesIO(content) if isinstance(content, bytes) else content).convert("RGB")
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
    return _png(image.quantize(COLOURS))


def _png(image: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def curves_svg(metrics: Sequence[Mapping[str, Any]], name: str) -> str:
    """The training curves; `name` is what a screen reader says.

    The text is text, in the page's own letters and colour.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "curves"}):
        figure = Figure(figsize=(6, 3.8), layout="constrained")
        ax = figure.add_subplot()
        plots.training_curves(metrics, ax).legend().remove()
        few_ticks(ax, x=6, whole="x")
        legend(figure)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True)
    return inline_svg(stream.getvalue(), name, "curves")


def inline_svg(text: str, name: str, prefix: str) -> str:
    """SVG of matplotlib as an element of a page: black is the page's own colour, and its ids are no one else's."""
    body = text[text.index("<svg") :]
    box = re.search(r'viewBox="[^"]*"', body)
    inner = body[body.index(">") + 1 :]
    inner = re.sub(r"<metadata>.*?</metadata>", "", inner, flags=re.DOTALL)
    inner = re.sub(r'\bid="([^"]*)"', rf'id="{prefix}-\1"', inner)
    inner = re.sub(r'(xlink:)?href="#([^"]*)"', rf'href="#{prefix}-\2"', inner)
    inner = re.sub(r"url\(#([^)]*)\)", rf"url(#{prefix}-\1)", inner)
    inner = re.sub(r"font: ?([0-9.]+px) '?[^;\"]*", r"font-size: \1", inner)
    for colour in colours():  # darker on light ground and lighter on dark
        inner = inner.replace(colour, f"color-mix(in srgb, {colour} 78%, currentColor)")
    inner = inner.replace("#000000", "currentColor").replace("*{stroke-linejoin: round; stroke-linecap: butt}", "")
    label = escape(name)
    return f'<svg role="img" aria-label="{label}" {box[0] if box else ""}><title>{label}</title>{inner}'
