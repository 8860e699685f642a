"""Sweeps: many trainings of one experiment with other values of some of its fields, and which of them is best.

DIR/sweep.yaml       the declaration, every default filled in
DIR/study.journal    Optuna's study: what was drawn, the scores of all epochs
DIR/trial_0007/      an ordinary run
DIR/workers/         who works on which trial now
DIR/sweep.json       the result

Any number of processes work on one directory, on one machine or on several that share a file system: Optuna's
journal is made for that. Each takes the next trial under a lock, so that none is done twice and their number is as
declared. What a sampler draws depends on the seed, the number of the trial and the trials that were done then: one
worker repeats, also after a stop. A trial whose worker is gone is continued from its checkpoint by the next one.
"""

import gc
import logging
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyro_vae import checkpoints, comparable
from pyro_vae.callbacks import Callback
from pyro_vae.data import Arrays, Data
from pyro_vae.data import load as load_data
from pyro_vae.data.sets import in_memory
from pyro_vae.experiment import Experiment, check, declaration_from, dump
from pyro_vae.files import read_yaml
from pyro_vae.interruption import Interrupted, signals
from pyro_vae.launch import new_directory, resume, train
from pyro_vae.ranges import optuna_package
from pyro_vae.records import Metrics, write_text
from pyro_vae.runs import IMPORTANCE_SAMPLES
from pyro_vae.search import Grid, Sweep
from pyro_vae.specs import DeclarationError
from pyro_vae.swept import Swept, claim_path, final_score, gather, score_of, short, trial_folder
from pyro_vae.training import NumericsError, log, out_of_memory
from pyro_vae.workers import Claim, LostClaim, claimed

if TYPE_CHECKING:
    import optuna

TOP = 5
"""Trials that are compared at the end."""


def run_sweep(
    sweep: Sweep,
    data: Arrays | None = None,
    out: Path | str | None = None,
    *,
    name: str = "sweep",
    top: int = TOP,
    quiet: bool = False,
    num_samples: int = IMPORTANCE_SAMPLES,
) -> Swept:
    """Train an experiment with many values of some of its fields, and compare the best.

    Args:
        sweep: the declaration; `load_sweep(FILE)` reads one.
        data: data in memory, instead of those that the experiment names.
        out: directory, a new one under `sweeps/` by default.
        name: what the directory is called after.
        top: how many of the best trials are evaluated and compared on the test data.
        quiet: no progress bars.
        num_samples: importance samples per datum of that.

    Returns:
        The trials, the best first, and the comparison.

    Raises:
        DeclarationError: something in the declaration or the data is wrong; nothing is written.
        Interrupted: a signal asked to stop; everything is saved.
    """
    folder = prepare_sweep(sweep, data, out, name=name)
    return resume_sweep(folder, data, top=top, quiet=quiet, num_samples=num_samples)


def prepare_sweep(
    sweep: Sweep, data: Arrays | None = None, out: Path | str | None = None, *, name: str = "sweep"
) -> Path:
    """Check a sweep and make its directory, for workers that `resume_sweep` it.

    Args:
        sweep: the declaration.
        data: data in memory, instead of those that the experiment names.
        out: directory, a new one under `sweeps/` by default.
        name: what the directory is called after.

    Returns:
        The directory.

    Raises:
        DeclarationError: something in the declaration or the data is wrong; nothing is written.
    """
    optuna_package()
    _refuse_ranks()
    own = sweep.data.located() if data is None else in_memory(sweep.data)
    sweep = sweep.replace(data=own)
    check_sweep(sweep, load_data(sweep.data, sweep.seed, data))
    folder = new_directory(out, name, "sweeps")
    write_text(folder / "sweep.yaml", dump(sweep))
    return folder


def resume_sweep(
    directory: Path | str,
    data: Arrays | None = None,
    *,
    trials: int | None = None,
    top: int = TOP,
    quiet: bool = False,
    num_samples: int = IMPORTANCE_SAMPLES,
) -> Swept:
    """Go on with a sweep, in as many processes at the same time as there is room for.

    Args:
        directory: of the sweep.
        data: the data of a sweep over data in memory.
        trials: new number of trials in all.
        top: how many of the best trials are evaluated and compared on the test data.
        quiet: no progress bars.
        num_samples: importance samples per datum of that.

    Raises:
        DeclarationError: it is no directory of a sweep, or has that many trials already.
        Interrupted: a signal asked to stop; everything is saved.
    """
    optuna_package()
    _refuse_ranks()
    folder = Path(directory)
    if not (folder / "sweep.yaml").is_file():
        raise DeclarationError(
            [f"{directory}: is no directory of a sweep (it has no sweep.yaml); `pyro-vae sweep FILE` makes one."]
        )
    sweep = declaration_from(Sweep, read_yaml(folder / "sweep.yaml"))
    if trials is not None:
        sweep = sweep.replace(sweep=sweep.sweep.replace(trials=trials))
        there = len(list(folder.glob("trial_*")))
        if trials < there:
            raise DeclarationError([f"--trials {trials}: {there} trials are there already; give as many, or more."])
        write_text(folder / "sweep.yaml", dump(sweep))
    return _work(_Place(folder, sweep, data, quiet), top, num_samples)


def _refuse_ranks() -> None:
    """A sweep is many trainings side by side, and no training of several processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise DeclarationError(
            ["WORLD_SIZE: a sweep is not for torchrun; start `pyro-vae sweep --resume DIR` several times instead."]
        )


def check_sweep(sweep: Sweep, data: Data) -> None:
    """Check the ends of all ranges against the data, and that all trials have the same kind of score.

    Raises:
        DeclarationError: everything that is wrong.
    """
    problems, kinds = dict[str, None](), dict[Any, str]()
    if not len(data.validation):
        problems[f"data.validation={sweep.data.validation}: a sweep picks by validation data; set it, like 0.1."] = None
    for values in sweep.sweep.corners():
        experiment = sweep.experiment(values)
        try:
            check(experiment, data)
        except DeclarationError as error:
            problems |= dict.fromkeys(f"sweep.space: {problem}" for problem in error.problems)
        kinds.setdefault(_scored(experiment, data), _words(values))
    (one, where), *others = kinds.items()
    for other, there in others:
        problems[
            f"sweep.space: the score is {one[0]} with {where}, and {other[0]} with {there}; only like with like "
            "compares: make a sweep for each."
        ] = None
    if problems:
        raise DeclarationError(problems)


def _scored(experiment: Experiment, data: Data) -> tuple[Any, ...]:
    """What the score is, in words and in what the words leave out; the same for all trials that compare."""
    variant, objective = experiment.variant, experiment.objective
    if not variant.normalized:
        parts = objective, variant.likelihood
        words = " and ".join(str(getattr(part, part.word)) for part in parts)
        return f"minus the loss of {words} ({variant.why_unnormalized()})", *parts
    discrete = comparable.discrete(variant.likelihood, math.prod(data.shape))
    kind = "probability" if all(discrete) else "mixed probability and density" if any(discrete) else "density"
    return f"the ELBO of {comparable.measured(variant, data.conditional_on)}, a {kind}", discrete


def _words(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{short(name)}={value:.4g}" if isinstance(value, float) else f"{short(name)}={value}"
        for name, value in values.items()
    )


@dataclass(frozen=True, eq=False)
class _Place:
    """What a worker works on."""

    folder: Path
    sweep: Sweep
    arrays: Arrays | None
    quiet: bool


def _work(place: _Place, top: int, num_samples: int) -> Swept:
    """Do trials as long as there are any, then say what has been found."""
    with _optuna_speaks_through_our_log():
        study = _study(place)
        while (taken := _take(place, study)) is not None:
            trial, claim = taken
            with claim.held():
                _do(place, study, trial, claim)
        with _undisturbed(place.folder) as stop:
            return gather(place.folder, place.sweep, study, place.arrays, top, num_samples, place.quiet, stop)


def _study(place: _Place) -> "optuna.Study":
    """Optuna's study in the folder, a new one where there is none."""
    optuna = optuna_package()
    path = str(place.folder / "study.journal")
    backend = optuna.storages.journal.JournalFileBackend(path, optuna.storages.journal.JournalFileOpenLock(path))
    epochs = max(place.sweep.experiment(values).training.epochs for values in place.sweep.sweep.corners())
    return optuna.create_study(
        storage=optuna.storages.JournalStorage(backend),
        pruner=place.sweep.sweep.pruner.build(epochs),
        study_name="sweep",
        direction="maximize",
        load_if_exists=True,
    )


def _take(place: _Place, study: "optuna.Study") -> tuple["optuna.Trial", Claim] | None:
    """The next trial, for this worker alone: one whose worker is gone, or a new one; None where all are begun."""
    optuna, search, folder = optuna_package(), place.sweep.sweep, place.folder
    lock = optuna.storages.journal.JournalFileOpenLock(str(folder / "next"))
    with _undisturbed(folder):
        lock.acquire()
        try:
            trials = study.get_trials(deepcopy=False)
            left = [
                trial
                for trial in trials
                if trial.state.name == "RUNNING" and not claimed(claim_path(folder, trial.number))
            ]
            waiting = [trial.number for trial in trials if trial.state.name == "WAITING"]
            if not left and len(trials) - len(waiting) >= search.number:
                return None
            number = left[0].number if left else waiting[0] if waiting else len(trials)
            # A sampler of its own for every trial: what it draws does not depend on which process asks.
            seed = np.random.SeedSequence([place.sweep.seed, number]).generate_state(1)
            study.sampler = search.sampler.build(int(seed[0]))
            if left:
                trial = optuna.Trial(study, left[0]._trial_id)
            else:
                if isinstance(search.sampler, Grid) and not waiting:
                    study.enqueue_trial(search.combination(number))
                trial = study.ask()
            search.suggest(trial)
            return trial, Claim(claim_path(folder, number))
        finally:
            lock.release()


def _do(place: _Place, study: "optuna.Study", trial: "optuna.Trial", claim: Claim) -> None:
    """Train a trial to its end, and tell the study what came of it."""
    optuna, number = optuna_package(), trial.number
    values = place.sweep.sweep.suggest(trial)
    log.info(f"trial {number}: {_words(values)}")
    try:
        score = _trained(place, trial, values, _Report(trial, claim))
        claim.check()
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        log.info(f"trial {number}: pruned")
    except Interrupted as stop:
        raise Interrupted(stop.signum, place.folder, command="sweep") from None
    except LostClaim:
        log.warning(f"trial {number}: another worker has taken over")
    except Exception as error:
        text = str(error) or type(error).__name__
        trial.set_user_attr("error", text)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        if isinstance(error, DeclarationError):
            raise DeclarationError(
                [f"trial {number}, {_words(values)}: {problem}" for problem in error.problems]
            ) from None
        if not isinstance(error, NumericsError) and not out_of_memory(error):
            raise
        log.warning(f"trial {number}: failed: {text.splitlines()[0]}")
    else:
        study.tell(trial, score)
        log.info(f"trial {number}: {score:.3f}")


def _trained(place: _Place, trial: "optuna.Trial", values: dict[str, Any], report: "_Report") -> float:
    """Train, or go on where there is a checkpoint; the score."""
    gc.collect()  # what the trial before has held, also one that ran out of memory
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    folder = trial_folder(place.folder, trial.number)
    if checkpoints.latest(folder / "checkpoints") is not None:
        resume(folder, place.arrays, quiet=place.quiet, num_samples=None, callbacks=[report])
    else:
        shutil.rmtree(folder, ignore_errors=True)  # what was left before the first checkpoint
        experiment, name = place.sweep.experiment(values), f"{place.folder.name}, trial {trial.number}"
        train(experiment, place.arrays, folder, name=name, quiet=place.quiet, num_samples=None, callbacks=[report])
    score = final_score(folder)
    if not math.isfinite(score):
        raise NumericsError(f"the validation score is {score}")
    return score


class _Report(Callback):
    """Tells the study the score of each epoch, and ends a trial that the pruner gives up."""

    def __init__(self, trial: "optuna.Trial", claim: Claim) -> None:
        self.trial, self.claim = trial, claim
        told = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        self.told = max(told, default=0)
        """The last epoch that was reported, before a stop: what comes after the checkpoint comes again."""

    def metrics(self, row: Metrics) -> None:
        """Report a row of the validation data."""
        if row.split != "validation":
            return
        self.claim.check()
        if row.epoch > self.told:
            self.trial.report(score_of(row), row.epoch)
        if self.trial.should_prune():
            raise optuna_package().TrialPruned


@contextmanager
def _undisturbed(folder: Path) -> Iterator[Any]:
    """Note a signal, and stop at the end or where the callable that this gives is called."""
    with signals() as caught:

        def stop() -> None:
            if caught:
                raise Interrupted(caught[0], folder, command="sweep")

        yield stop
        stop()


@contextmanager
def _optuna_speaks_through_our_log() -> Iterator[None]:
    """Optuna's warnings as lines of our log, its reports of every trial not at all."""
    theirs = logging.getLogger("optuna")
    handlers, level = theirs.handlers, theirs.level
    theirs.handlers = [_Forward()]
    theirs.setLevel(logging.WARNING)
    try:
        yield
    finally:
        theirs.handlers = handlers
        theirs.setLevel(level)


class _Forward(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log.log(record.levelno, record.getMessage())
