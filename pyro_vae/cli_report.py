"""`pyro-vae report`: one self-contained HTML page of a run."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pyro_vae import cli_io
from pyro_vae.cli_options import Directory, Json, Out, Quiet

if TYPE_CHECKING:
    from pyro_vae.runs import Run


def report(
    directory: Directory,
    budget: Annotated[
        float,
        typer.Option(
            "--budget", min=0, max=10**7, help="Seconds for a diagnosis where there is none yet; 0 leaves it out."
        ),
    ] = 30,
    out: Out = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """One HTML page of everything, with an explorer of the latent space; needs no network."""
    run, path = cli_io.load(directory), cli_io.target(out, directory / "report.html")
    card = run.result  # refused here, where it is missing, and not after the diagnosis
    if budget and not (run.directory / "diagnostics.json").is_file():
        _diagnose(run, budget, card["split"], quiet or as_json)
    run.report(path)
    if as_json:
        print(json.dumps({"file": str(path), "bytes": path.stat().st_size}))
        return
    print(path)


def _diagnose(run: "Run", budget: float, split: str, quiet: bool) -> None:
    """Make the diagnosis that the page shows, and say so."""
    from pyro_vae.examination import diagnose

    def said(title: str) -> None:
        if not quiet:
            print(f"pyro-vae: {title} ...", file=sys.stderr)

    said(f"diagnosing for about {budget:g} seconds, as there is no diagnostics.json yet (--budget 0 leaves it out)")
    num = min(16, len(getattr(run.data, split)))
    diagnose(run, range(num), budget=budget, split=split, progress=said)
