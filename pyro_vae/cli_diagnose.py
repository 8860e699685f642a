"""`pyro-vae diagnose`: the whole posterior check."""

import json
import sys
from typing import Annotated

import typer

from pyro_vae import cli_io, distributed
from pyro_vae.cli_options import Directory, Json, Quiet, SplitName


def diagnose(
    directory: Directory,
    observations: Annotated[
        int, typer.Option("--observations", "-n", min=1, max=100, help="Data looked at one by one: the first n.")
    ] = 16,
    draws: Annotated[int, typer.Option("--draws", "-s", min=100, max=100_000, help="Draws of each datum, S.")] = 1000,
    budget: Annotated[
        float, typer.Option("--budget", min=1, max=10**7, help="Seconds for the diagnostics; fewer: less is looked at.")
    ] = 100,
    split: SplitName = "test",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Is the posterior any good? posterior.nc, diagnostics.json, plots/, and a verdict in plain words."""
    from pyro_vae.examination import assist, diagnose

    world, run = distributed.join(2 * budget + distributed.PATIENCE), cli_io.load(directory)
    world.in_turn(lambda: run.check_split(split))
    num = min(observations, len(getattr(run.data, split)))

    def said(title: str) -> None:
        if not (quiet or as_json):
            print(f"pyro-vae: {title} ...", file=sys.stderr)

    if not world.first:
        assist(run, range(num), budget, split, world)
        return
    found = diagnose(run, range(num), draws, budget, split, progress=said, world=world)
    files = [run.directory / name for name in ("posterior.nc", "diagnostics.json", "plots")]
    if as_json:
        print(json.dumps(found.numbers["verdict"] | {"files": [str(path) for path in files]}))
        return
    print(found)
    for path in files:
        print(path)
