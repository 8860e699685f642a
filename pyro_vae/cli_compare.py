"""The command `compare`: runs side by side, with standard errors of their differences."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyro_vae import cli_io
from pyro_vae.cli_options import Json, Quiet, Samples, SplitName

if TYPE_CHECKING:
    from pyro_vae.comparison import Comparison


def compare(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR", help="Run directories, two or more.")],
    samples: Samples = 1000,
    split: SplitName = "test",
    observations: Annotated[
        int | None, typer.Option("--observations", min=2, help="How many data, drawn at random; all by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A PNG to draw the differences into.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Held-out log p(x) of runs on the same data: differences to the best, paired, with standard errors."""
    from pyro_vae import comparable, plots
    from pyro_vae.card import TRUSTED
    from pyro_vae.comparison import compare as measure
    from pyro_vae.plots import comparison_figure
    from pyro_vae.progress import counter
    from pyro_vae.records import PARTS

    target = None if out is None else cli_io.target(out, Path("comparison.png"))
    runs = comparable.opened(directories)
    num = observations or (len(getattr(runs[0].data, split)) if split in PARTS else 0)
    forward = counter(len(runs) * num, "comparing", quiet or as_json)
    found = measure(runs, split, samples, observations, forward)
    picture = None
    if target is not None:
        figure = comparison_figure(found.table, found.subject, TRUSTED)
        picture = plots.save(figure, target.with_name(f"{target.name}.png"))
    if as_json:
        print(json.dumps(found.tree() | ({} if picture is None else {"picture": str(picture)}), allow_nan=False))
        return
    print_comparison(found)
    if picture is not None:
        print(picture)


def print_comparison(found: "Comparison") -> None:
    """The table, the sentence and the notes."""
    print(found.title)
    cli_io.print_cells(found.cells)
    print("\n".join([found.verdict, *(f"note: {line}" for line in found.warnings)]))
