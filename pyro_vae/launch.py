"""Starting and continuing runs: `train` makes a directory and fills it, `resume` goes on in one."""

import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from pyro_vae import checkpoints
from pyro_vae.batches import build
from pyro_vae.callbacks import Callback, checked, finish, tracked
from pyro_vae.capture import same_random_state
from pyro_vae.data import Arrays, Data
from pyro_vae.data import load as load_data
from pyro_vae.data.sets import in_memory
from pyro_vae.evaluation import prepared
from pyro_vae.experiment import Experiment, check, dump, load_experiment
from pyro_vae.interruption import Interrupted, signals
from pyro_vae.networks import fill
from pyro_vae.planning import choose_device, choose_threads, decide_compile, planned_steps
from pyro_vae.progress import counter
from pyro_vae.records import data_record, read_json, versions, write_json, write_text
from pyro_vae.runs import IMPORTANCE_SAMPLES, Run
from pyro_vae.specs import DeclarationError
from pyro_vae.training import Trainer, log
from pyro_vae.vae import VAE

INITIAL_DATA = 10_000
"""Training data that a data-dependent start looks at, at most."""


def train(
    experiment: Experiment | None = None,
    data: Arrays | None = None,
    out: Path | str | None = None,
    *,
    name: str | None = None,
    start_from: Run | Path | str | None = None,
    quiet: bool = False,
    num_samples: int | None = IMPORTANCE_SAMPLES,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train an experiment and evaluate it.

    Args:
        experiment: the declaration, `digits` by default.
        data: data in memory, instead of those that the experiment names.
        out: run directory, a new one under `runs/` by default.
        name: what the result card calls the variant.
        start_from: a run whose parameters to start from.
        quiet: no progress bar.
        num_samples: importance samples per datum of the evaluation; None leaves it out.
        callbacks: what is told the start, every epoch and the end.

    Returns:
        The finished run.

    Raises:
        DeclarationError: something in the declaration or the data is wrong, and nothing is written; or a tracker
            cannot be opened, and the run is there to be resumed.
        NumericsError: a step was not finite; the last checkpoint stays.
        Interrupted: a signal asked to stop; the state is saved.
    """
    if not isinstance(experiment, Experiment | None):
        raise DeclarationError(
            [f"experiment={experiment!r}: must be an Experiment; pyro_vae.load_experiment(NAME or FILE) reads one."]
        )
    name = name or ("digits" if experiment is None else "custom")
    experiment = experiment or load_experiment("digits")
    callbacks = (*tracked(experiment), *checked(callbacks))  # trackers first: another may end the training
    own = experiment.data.located() if data is None else in_memory(experiment.data)
    experiment = experiment.replace(data=own)
    loaded = load_data(experiment.data, experiment.seed, data)
    check(experiment, loaded)
    device = choose_device(experiment.training.device)
    vae = build(experiment, loaded, device)
    if start_from is not None:
        _start_from(vae, start_from)
    else:
        initialise(vae, loaded, experiment, device)
    folder = new_directory(out, name)
    compiled, reason = decide_compile(experiment, loaded, device)
    write_text(folder / "experiment.yaml", dump(experiment))
    environment = _environment(name, experiment, vae, device, reason, data is not None) | {"data": data_record(loaded)}
    write_json(folder / "environment.json", environment)
    run = Run(folder, data)
    run.data = loaded
    log.info(reason)
    if not quiet:
        _warn_of_few_steps(experiment, loaded)
    return _finish(run, Trainer(experiment, loaded, vae, folder, compiled, quiet, callbacks), quiet, num_samples)


FEW_STEPS = 500
"""Steps below which a network has hardly learned anything."""


def _warn_of_few_steps(experiment: Experiment, data: Data) -> None:
    """Say so where a declaration that suits more data makes only a few steps on these."""
    size, epochs, steps = experiment.training.batch_size, experiment.training.epochs, planned_steps(experiment, data)
    if steps < FEW_STEPS:
        log.warning(
            f"{len(data.train)} training data make {steps} steps in all, which is few: lower "
            f"training.batch_size={size} or raise training.epochs={epochs}"
        )


def resume(
    directory: Path | str,
    data: Arrays | None = None,
    *,
    quiet: bool = False,
    num_samples: int | None = IMPORTANCE_SAMPLES,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Continue a run that was stopped or killed, from its newest whole checkpoint.

    Args:
        directory: the run.
        data: the data of a run trained on data in memory.
        quiet: no progress bar.
        num_samples: importance samples per datum of the evaluation; None leaves it out.
        callbacks: what is told the start, every epoch and the end.
    """
    own = checked(callbacks)
    run = Run(directory, data)
    callbacks = (*tracked(run.experiment), *own)
    check(run.experiment, run.data)
    root = run.directory / "checkpoints"
    checkpoints.sweep(root)
    newest = checkpoints.latest(root)
    if newest is None:
        found = "holds no whole checkpoint" if checkpoints.steps(root) else "was stopped before its first checkpoint"
        raise DeclarationError([f"{directory}: {found}; train it anew."])
    vae = build(run.experiment, run.data, choose_device(run.experiment.training.device))
    compiled = read_json(newest / "state.json")["compiled"]
    trainer = Trainer(run.experiment, run.data, vae, run.directory, compiled, quiet, callbacks)
    trainer.load(newest)
    if trainer.progress.stopped or trainer.progress.epoch >= run.experiment.training.epochs:
        log.info("the training was finished: nothing is left of it but the evaluation")
    return _finish(run, trainer, quiet, num_samples)


def _finish(run: Run, trainer: Trainer, quiet: bool, num_samples: int | None) -> Run:
    """Train and evaluate; whatever comes of it, the callbacks are told the end."""
    card = None
    try:
        trainer.run()
        run.vae = trainer.vae.eval()
        card = None if num_samples is None else _evaluate(run, quiet, num_samples)
    finally:
        finish(trainer.callbacks, card)
    return run


def _evaluate(run: Run, quiet: bool, num_samples: int) -> dict[str, Any]:
    part = next(part for part in ("test", "validation", "train") if len(getattr(run.data, part)))
    with signals() as caught:

        def stop_or_count(number: int) -> None:
            if caught:
                raise Interrupted(caught[0], run.directory, trained=True)
            count(number)

        count = counter(len(getattr(run.data, part)), "evaluating", quiet)
        return run.evaluate(part, num_samples, stop_or_count)


def initialise(vae: VAE, data: Data, experiment: Experiment, device: torch.device) -> None:
    """Start the likelihood at the average of some of the training data, and priors among them."""
    generator = torch.Generator().manual_seed(experiment.seed)
    some = torch.randperm(len(data.train), generator=generator)[:INITIAL_DATA]
    batch = prepared(replace(data, train=data.train.select(some)), "train", experiment, device)
    x = cast(Tensor, batch.x)
    if batch.mask is not None:
        x = filled(x, batch.mask)
    with same_random_state(device):
        torch.manual_seed(experiment.seed)
        vae.initialise(x)


def filled(x: Tensor, exists: Tensor) -> Tensor:
    """x (N, *event) with the values of other data in place of what is missing; 0 where an entry never exists.

    >>> filled(torch.tensor([[1.0], [0.0], [3.0], [0.0]]), torch.tensor([[True], [False], [True], [False]]))
    tensor([[1.],
            [3.],
            [3.],
            [3.]])
    """
    flat, seen = fill(x, exists).flatten(1), exists.flatten(1)
    first = seen.int().argsort(dim=0, descending=True, stable=True)  # the data in which an entry exists come first
    turn = torch.arange(len(x), device=x.device)[:, None] % seen.sum(0).clamp(min=1)
    return torch.where(seen, flat, flat.gather(0, first.gather(0, turn))).view_as(x)


def _start_from(vae: VAE, source: Run | Path | str) -> None:
    """Copy another run's parameters, if they have the same names and shapes."""
    other = source if isinstance(source, Run) else Run(source)
    there = {name: tuple(tensor.shape) for name, tensor in other.vae.state_dict().items()}
    here = {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}
    for name in {**here, **there}:
        if there.get(name) != here.get(name):
            shapes = f"{name} has shape {there.get(name, 'none')} there and {here.get(name, 'none')} here"
            raise DeclarationError(
                [
                    f"{other.directory}: its parameters do not fit this variant: {shapes}; keep latent, "
                    "likelihood, guide and networks as they are there."
                ]
            )
    vae.load_state_dict(other.vae.state_dict())


def new_directory(out: Path | str | None, name: str, root: str = "runs") -> Path:
    """Make a new directory for a run, or for what `root` holds.

    Raises:
        DeclarationError: it exists and is not empty, or cannot be made.
    """
    folder = Path(out) if out is not None else Path(root) / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    while out is None and folder.exists():
        number += 1
        folder = folder.with_name(f"{folder.name.split('.')[0]}.{number}")
    try:
        if folder.exists() and any(folder.iterdir()):
            raise DeclarationError(
                [f"{folder}: is there already and not empty; choose another --out, or --resume {folder}."]
            )
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeclarationError([f"{folder}: cannot be made ({error.strerror}); choose another --out."]) from None
    if not os.access(folder, os.W_OK):
        raise DeclarationError([f"{folder}: cannot be written to; choose another --out."])
    return folder


def _environment(
    name: str, experiment: Experiment, vae: VAE, device: torch.device, reason: str, in_memory: bool
) -> dict[str, Any]:
    """What the numbers may depend on beside the declaration."""
    shape = vae.shape
    return {
        "name": name,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions(),
        "machine": platform.machine(),
        "system": platform.system(),
        "threads": choose_threads(experiment, vae),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "compile": reason,
        "shape": {"x": list(shape.x), "given": shape.given, "masked": shape.masked},
        "data_in_memory": in_memory,
    }
