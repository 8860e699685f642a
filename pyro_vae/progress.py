"""Progress bars: on a terminal or in a notebook, silent elsewhere."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any


def bar(total: int, text: str, quiet: bool, **options: Any) -> Any:
    """A tqdm bar; in a notebook a widget, where ipywidgets are there to draw it.

    Args:
        total: number of units.
        text: what is done.
        quiet: show nothing; where there is no terminal, nothing is shown anyway.
        options: tqdm's own.
    """
    # tqdm.auto warns at its import that the widgets are missing: in every first notebook, that would be.
    if find_spec("ipywidgets"):
        from tqdm.auto import tqdm
    else:
        from tqdm import tqdm
    return tqdm(total=total, desc=text, disable=quiet or None, **options)


def counter(total: int, text: str, quiet: bool) -> Callable[[int], object]:
    """A callable that moves a bar on by a number of units, and takes the bar away at the end."""
    shown = bar(total, text, quiet, leave=False)

    def forward(num: int) -> None:
        shown.update(num)
        if shown.n >= total:
            shown.close()

    return forward
