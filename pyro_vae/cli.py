"""The command line. Heavy imports happen inside the commands, so that `--help` answers at once.

Every command takes --json (one JSON object on stdout, nothing else) and --quiet. A user's mistake exits 2
with one message per mistake; a fault of ours exits 1; a signal exits 128 + its number, saved. Of several
processes that `torchrun` started one prints; the first alone does what they cannot do together.
"""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyro_vae import cli_compare, cli_diagnose, cli_io, cli_latent, cli_report, cli_sweep, cli_walks, distributed
from pyro_vae.cli_options import Directory, Input, Json, Out, Overrides, Quiet, Samples, SplitName

if TYPE_CHECKING:
    from pyro_vae.runs import Run

LOST = 75
"""Exit code where another process was lost: EX_TEMPFAIL, to be tried again."""

app = typer.Typer(
    name="pyro-vae",
    help="Declare, train and analyse variational autoencoders.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line and exit."""
    code = _guarded(sys.argv[1:])
    if code == LOST:  # what still waits for the process that was lost would wait for ever
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _guarded(arguments: list[str]) -> int:
    """Run a command; the exit code."""
    try:
        if _left_to_the_first(arguments):
            return 0
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: _warn(message)
            app(arguments, standalone_mode=True)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except KeyboardInterrupt:
        if distributed.speaks():
            print("pyro-vae: stopped; nothing was written.", file=sys.stderr)
        return 130
    except Exception as error:
        code, problems = _judged(error)
        if not distributed.speaks():
            return code
        if code == 1:
            raise
        if "--json" in arguments:
            folder = getattr(error, "folder", None)
            print(json.dumps({"error": problems} | ({} if folder is None else {"run": str(folder)})))
        for problem in problems:
            print(f"pyro-vae: {problem}", file=sys.stderr)
        return code
    return 0


def _left_to_the_first(arguments: list[str]) -> bool:
    """Whether a command is not this process's: of several, the first alone does what they cannot do together."""
    world = distributed.described()
    if world.size == 1 or arguments[:1] in [[name] for name in distributed.TOGETHER]:
        return False
    distributed.leave()
    return not world.first


def _warn(message: Warning | str) -> None:
    """A line for what a library warns of; of several processes from the first."""
    if distributed.described().first:
        print(f"pyro-vae: {message}", file=sys.stderr)


def _judged(error: Exception) -> tuple[int, list[str]]:
    """Exit code and message lines of an error: 2 for a user's, 1 for ours, 128 + n for a signal."""
    from pyro_vae.checkpoints import CheckpointError
    from pyro_vae.interruption import Interrupted
    from pyro_vae.specs import DeclarationError
    from pyro_vae.training import NumericsError, out_of_memory

    if isinstance(error, DeclarationError):
        return 2, list(error.problems)
    if isinstance(error, distributed.RankLost):
        return LOST, [f"{error}."]
    if isinstance(error, Interrupted):
        return 128 + error.signum, [str(error)]
    if isinstance(error, CheckpointError | NumericsError):
        return 2, [str(error)]
    if out_of_memory(error):
        return 2, [
            "the data or the networks are too large for the memory; make smaller what is large: encoder.widths, "
            "decoder.widths, latent.dim, training.batch_size, or the data."
        ]
    if isinstance(error, OSError) and error.filename:
        return 2, [f"{str(error.filename).removesuffix('.part')}: {error.strerror}."]
    return 1, []


@app.command("list")
def list_(as_json: Json = False, quiet: Quiet = False) -> None:
    """The vocabulary: named variants, and the parts of every kind."""
    from pyro_vae.card import print_table
    from pyro_vae.experiment import TABLES, named

    parts = {
        noun: {word: (part.__doc__ or "").strip().splitlines()[0] for word, part in table.items()}
        for noun, table in TABLES.items()
    }
    if as_json:
        print(json.dumps({"variants": named(), "parts": parts}))
        return
    for title, words in {"named variant": named(), **parts}.items():
        print_table(title, words)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A named variant or a YAML file.")] = "digits",
    overrides: Overrides = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print an experiment with all its defaults, as YAML."""
    from pyro_vae.experiment import dump, load_experiment

    experiment = load_experiment(name, overrides or [])
    print(json.dumps(experiment.tree()) if as_json else dump(experiment), end="\n" if as_json else "")


@app.command()
def schema(as_json: Json = False, quiet: Quiet = False) -> None:
    """Print the JSON schema of an experiment file, for editors."""
    from pyro_vae.experiment import json_schema

    print(json.dumps(json_schema(), indent=None if as_json else 2))


@app.command()
def validate(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A YAML file, or a named variant.")],
    overrides: Overrides = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check a file, and your own data that it names; says everything that is wrong at once."""
    from pyro_vae.data import OwnData, load
    from pyro_vae.experiment import check, load_experiment
    from pyro_vae.records import PARTS

    experiment = load_experiment(file, overrides or [])
    found: dict[str, Any] = {"file": file, "valid": True}
    text = f"{file}: valid"
    if isinstance(experiment.data, OwnData):  # not what would be downloaded
        data = load(experiment.data, experiment.seed)
        check(experiment, data)
        sizes = {part: len(getattr(data, part)) for part in PARTS}
        found["data"] = {**sizes, "shape": list(data.shape)}
        counts = ", ".join(f"{number} {part}" for part, number in sizes.items())
        text += f"; data of shape {tuple(data.shape)}: {counts}"
    print(json.dumps(found) if as_json else text)


@app.command()
def train(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME or FILE] [key=value ...]", help="What to train.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run directory; a new one in runs/ by default.")
    ] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="Continue the run in this directory.")] = None,
    start_from: Annotated[
        Path | None, typer.Option("--from", help="Start from the parameters (and declaration) of this run.")
    ] = None,
    samples: Samples = 1000,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train; without arguments the embedded digits. Ends with the result card and `run: DIR`."""
    from pyro_vae import launch, runs
    from pyro_vae.experiment import experiment_from, load_experiment
    from pyro_vae.specs import DeclarationError

    world = distributed.join()
    quiet = quiet or as_json
    cli_io.log_to_stderr(quiet or not world.first)
    words = arguments or []
    source = words[0] if words and "=" not in words[0] else None
    overrides = words[1:] if source else words
    if resume is not None:
        if words or out or start_from:
            raise DeclarationError(
                [
                    f"--resume {resume}: continues as declared; drop the other arguments, or start a new run from its "
                    "parameters with --from."
                ]
            )
        run = launch.resume(resume, quiet=quiet, num_samples=samples)
    else:
        if start_from is not None and source is None:
            base = runs.load(start_from)
            experiment, name = experiment_from(base.experiment.tree(), overrides), base.environment["name"]
        else:
            name = source or "digits"
            experiment = load_experiment(name, overrides)
        run = launch.train(
            experiment,
            out=out,
            name=Path(name).stem,
            start_from=start_from,
            quiet=quiet,
            num_samples=samples,
        )
    if world.first:
        _report(run, run.result, as_json)


@app.command()
def evaluate(
    directory: Directory,
    samples: Samples = 1000,
    split: SplitName = "test",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """ELBO, importance-sampled log p(x), KL, active units, k-hat share; writes result.json."""
    world, run = distributed.join(), cli_io.load(directory)
    from pyro_vae.progress import counter
    from pyro_vae.runs import PARTS

    total = len(getattr(world.in_turn(lambda: run.data), split)) if split in PARTS else 0
    shown = counter(total, "evaluating", quiet or as_json or not world.first)
    card = run.evaluate(split, samples, shown, world)
    if world.first:
        _report(run, card, as_json)


@app.command()
def encode(
    directory: Directory,
    input: Input = None,  # noqa: A002 - the option's name
    split: SplitName = "test",
    out: Out = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Mean and sd of q(z | x) per datum, as .npz."""
    run, path = cli_io.load(directory), cli_io.target(out, directory / "codes.npz")
    batch, extra = cli_io.read(run, input, split)
    codes = run.encode(batch)
    arrays = {f"mean_{name}": value for name, value in codes.mean.items()}
    arrays |= {f"sd_{name}": value for name, value in codes.sd.items()}
    cli_io.save_arrays(path, extra | arrays, as_json)


@app.command()
def score(
    directory: Directory,
    input: Input = None,  # noqa: A002 - the option's name
    split: SplitName = "test",
    samples: Samples = 1000,
    out: Out = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Log p(x) per datum in nats, with standard error and k-hat, as .npz."""
    from pyro_vae.card import density_words
    from pyro_vae.diagnostics.importance import mean_and_standard_error
    from pyro_vae.progress import counter

    run, path = cli_io.load(directory), cli_io.target(out, directory / "scores.npz")
    batch, extra = cli_io.read(run, input, split)
    scores = run.score(batch, samples, counter(batch.size, "scoring", quiet or as_json))
    names = ("log_likelihood", "standard_error", "khat", "elbo")
    arrays = {name: getattr(scores, name) for name in names}
    density, conditional_on = run.experiment.variant.density, run.data.conditional_on
    mean, error = mean_and_standard_error(scores.log_likelihood)
    figure = {"value": mean, "standard_error": error if batch.size > 1 else None}
    said: dict[str, Any] = {"density": density, "conditional_on": list(conditional_on)}
    said |= {"log_likelihood": figure, "num_data": batch.size}
    cli_io.save_arrays(path, extra | arrays, as_json, said=said)
    if not as_json:
        spread = f" ± {error:.3f}" if batch.size > 1 else ""
        drawn = ", x binarised at random as in training" if run.data.binarize == "dynamic" else ""
        subject = density_words(density, conditional_on)
        print(f"log p({subject}): {mean:.3f}{spread} nats per datum, {batch.size} data{drawn}")


for command in (
    cli_latent.sample,
    cli_latent.reconstruct,
    cli_walks.interpolate,
    cli_walks.edit,
    cli_walks.manifold,
    cli_latent.impute,
    cli_latent.classify,
    cli_diagnose.diagnose,
    cli_report.report,
    cli_compare.compare,
    cli_sweep.sweep,
):
    app.command()(command)


def _report(run: "Run", card: dict[str, Any], as_json: bool) -> None:
    """The result card, and where the run is."""
    if as_json:
        print(json.dumps(card | {"run": str(run.directory)}))
        return
    from pyro_vae.card import print_card

    print_card(card)
    print(f"run: {run.directory}")
