"""The command `sweep`: many trainings with other values of some fields, by one process or several."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pyro_vae import cli_compare, cli_io
from pyro_vae.cli_options import Json, Quiet, Samples


def sweep(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE] [key=value ...]", help="A YAML file with a section `sweep`.")
    ] = None,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="Trials in all, by all workers.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Directory; a new one in sweeps/ by default.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", help="Go on with the sweep in this directory, beside others that do so."),
    ] = None,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Check, make the directory and stop, for workers that --resume it.")
    ] = False,
    top: Annotated[
        int, typer.Option("--top", min=0, help="How many of the best to evaluate and compare on test data.")
    ] = 5,
    samples: Samples = 1000,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find good values of any fields by the validation ELBO; the best are compared on test data."""
    from pyro_vae.search import load_sweep
    from pyro_vae.specs import DeclarationError
    from pyro_vae.sweep import prepare_sweep, resume_sweep, run_sweep

    quiet = quiet or as_json
    cli_io.log_to_stderr(quiet)
    words = arguments or []
    if resume is not None:
        if words or out or prepare:
            raise DeclarationError(
                [f"--resume {resume}: goes on as declared; drop the other arguments (--trials gives more trials)."]
            )
        found = resume_sweep(resume, trials=trials, top=top, quiet=quiet, num_samples=samples)
    else:
        if not words or "=" in words[0]:
            raise DeclarationError(["FILE: is missing: a YAML file with a section `sweep`, or --resume DIR."])
        number = [] if trials is None else [f"sweep.trials={trials}"]
        declared = load_sweep(words[0], [*words[1:], *number])
        name = Path(words[0]).stem
        if prepare:
            folder = prepare_sweep(declared, out=out, name=name)
            print(json.dumps({"sweep": str(folder)}) if as_json else f"sweep: {folder}")
            return
        found = run_sweep(declared, out=out, name=name, top=top, quiet=quiet, num_samples=samples)
    if as_json:
        print(json.dumps(found.tree(), allow_nan=False))
        return
    cli_io.print_cells(found.cells)
    print("\n".join(found.summary))
    if found.comparison is not None:
        cli_compare.print_comparison(found.comparison)
    print(f"sweep: {found.directory}")
