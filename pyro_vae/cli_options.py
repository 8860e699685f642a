"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results only, no progress.")]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]", help="Overrides.")]
Samples = Annotated[int, typer.Option("--samples", "-k", min=1, max=10**8, help="Importance samples per datum, K.")]
SplitName = Annotated[str, typer.Option("--split", help="train, validation or test.")]
Input = Annotated[
    Path | None,
    typer.Option("--input", help="A .npy, .npz, .csv or image file, or a folder of images, instead of a split."),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="File to write, inside DIR by default.")]
Seed = Annotated[
    int | None, typer.Option("--seed", min=0, max=2**31 - 1, help="Seed of the draws; the run's own by default.")
]
LabelNames = Annotated[list[str] | None, typer.Option("--label", help="NAME=CLASS, by number or name.")]
Observations = Annotated[
    list[int] | None,
    typer.Option("--observation", "-i", min=0, help="Number of a datum, from 0; repeat it for more."),
]
Attribute = Annotated[
    str | None, typer.Option("--attribute", help="NAME or NAME=CLASS, an attribute or label of the training data.")
]
