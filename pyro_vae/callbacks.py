"""What follows a training: callbacks are told its start, every epoch and its end; declared trackers are among them."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyro_vae.experiment import Experiment
from pyro_vae.records import Metrics, read_json, write_json
from pyro_vae.specs import DeclarationError, Spec
from pyro_vae.trackers import Declared, Tracker, TrackerLog

log = logging.getLogger("pyro_vae")


class Callback:
    """What a training tells others as it goes; override what you need.

    Called in the process that writes the run, never inside a step, and the random state of the training is kept
    from what a callback draws. An exception ends the training and reaches the caller as it is; of `metrics`, the
    epoch is then written, and saved where a checkpoint was due.
    """

    def start(self, experiment: Experiment, folder: Path, step: int) -> None:
        """Before the first step.

        Args:
            experiment: the declaration.
            folder: the run directory; its experiment.yaml and a first checkpoint are there.
            step: steps done before, more than 0 of a run that is resumed.
        """

    def metrics(self, row: Metrics) -> None:
        """After each epoch, once for each split that is measured: the rows that metrics.jsonl has."""

    def finish(self, card: dict[str, Any] | None) -> None:
        """At the end, however it ends, also where `start` failed.

        Args:
            card: the result card; None where training or evaluation did not come to an end, or without evaluation.
        """


def checked(callbacks: Sequence[Callback]) -> tuple[Callback, ...]:
    """The callbacks, if that is what they are.

    Raises:
        DeclarationError: something else is among them.
    """
    if not isinstance(callbacks, Sequence) or isinstance(callbacks, str):
        raise DeclarationError([f"callbacks={callbacks!r}: must be a list, like [MyCallback()]."])
    found = [f"callbacks={item!r}: is no pyro_vae.Callback." for item in callbacks if not isinstance(item, Callback)]
    if found:
        raise DeclarationError(found)
    return tuple(callbacks)


def finish(callbacks: Sequence[Callback], card: dict[str, Any] | None) -> None:
    """Tell every callback the end; what one of them raises keeps no other from it.

    Args:
        callbacks: whom to tell.
        card: the result card; None where an error is on its way, which then stays the one that the caller sees.
    """
    failures: list[Exception] = []
    for callback in callbacks:
        try:
            callback.finish(card)
        except Exception as error:
            failures.append(error)
    for failure in failures if card is None else failures[1:]:
        log.warning(f"a callback failed at the end of the training: {type(failure).__name__}: {failure}")
    if failures and card is not None:
        raise failures[0]


# ------------------------------------------------------------------------------------------------------------ trackers

KNOWN = "trackers.json"
"""File of a run directory: by which name each tracker knows the run."""
RETRY_SECONDS = 300
"""From a failure of a tracker, whose clients wait long themselves, to the next attempt."""


class Tracked(Callback):
    """Feeds a tracker. One that fails in the middle does not end the training: what was not sent is sent later."""

    def __init__(self, tracker: Tracker) -> None:
        """Feed `tracker`, once the training starts."""
        self.tracker, self.word = tracker, tracker.tree()["kind"]
        self.log: TrackerLog | None = None
        self.step, self.retry_at = 0, 0.0
        self.waiting: list[tuple[dict[str, float], int]] = []
        self.warned = False

    def start(self, experiment: Experiment, folder: Path, step: int) -> None:
        """Open the tracker.

        Raises:
            DeclarationError: it cannot be opened.
        """
        path, self.step = folder / KNOWN, step
        known = read_json(path) if path.exists() else {}
        try:
            self.log = self.tracker.open(flat(experiment), folder, step, known.get(self.word))
        except Exception as error:
            advice = f"put that right, then go on with: pyro-vae train --resume {folder}"
            raise DeclarationError([f"training.trackers={self.word}: {brief(error)}; {advice}"]) from error
        if self.log.name is not None:
            write_json(path, known | {self.word: self.log.name})

    def metrics(self, row: Metrics) -> None:
        """Send a row."""
        values = {name: value for name, value in row._asdict().items() if name not in ("step", "split")}
        self.step = row.step
        self.waiting.append((named(row.split, values), row.step))
        if time.monotonic() >= self.retry_at:
            self._guarded(self._send)

    def finish(self, card: dict[str, Any] | None) -> None:
        """Send what waits and the figures of the card, and close."""
        if self.log is None:
            return
        if card is not None:
            self.waiting.append((figures(card), self.step))
        self._guarded(self._send)
        whole, close = card is not None, self.log.close
        self._guarded(lambda: close(whole))
        if self.waiting:
            log.warning(f"training.trackers={self.word}: lacks what was not sent: {len(self.waiting)} rows")

    def _send(self) -> None:
        while self.waiting and self.log is not None:
            self.log.write(*self.waiting[0])
            del self.waiting[0]

    def _guarded(self, action: Callable[[], None]) -> None:
        """Do something that may fail, with a warning the first time that it does."""
        try:
            action()
        except Exception as error:
            self.retry_at = time.monotonic() + RETRY_SECONDS
            if not self.warned:
                log.warning(f"training.trackers={self.word}: {brief(error)}; metrics.jsonl has everything")
            self.warned = True


def tracked(experiment: Experiment) -> list[Callback]:
    """The trackers of a declaration.

    Raises:
        DeclarationError: the package of one is not installed.
    """
    trackers = experiment.training.trackers
    missing = [
        f"training.trackers={tracker.tree()['kind']}: needs a package that is not installed: "
        f"pip install '{tracker.install or tracker.module}'."
        for tracker in trackers
        if tracker.missing()
    ]
    if missing:
        raise DeclarationError(missing)
    return [Tracked(tracker) for tracker in trackers]


def flat(spec: Spec) -> Declared:
    """A declaration as dotted names and scalars; lists are JSON.

    >>> from pyro_vae.experiment import Optimizer
    >>> flat(Optimizer())["betas"]
    '[0.9, 0.999]'
    """

    def leaves(tree: dict[str, Any], prefix: str) -> Declared:
        found: Declared = {}
        for name, value in tree.items():
            if isinstance(value, dict):
                found |= leaves(value, f"{prefix}{name}.")
            else:
                found[prefix + name] = value if isinstance(value, bool | int | float | str) else json.dumps(value)
        return found

    return leaves(spec.tree(), "")


def named(owner: str, values: dict[str, float | None]) -> dict[str, float]:
    """The values that there are, by names like "train/elbo"."""
    return {f"{owner}/{name}": value for name, value in values.items() if value is not None}


def figures(card: dict[str, Any]) -> dict[str, float]:
    """The figures of a result card and their standard errors.

    >>> figures({"split": "test", "elbo": {"value": -17.5, "standard_error": None}, "kl": None})
    {'result/elbo': -17.5}
    """
    found: dict[str, float | None] = {}
    for name, figure in card.items():
        if isinstance(figure, dict) and "value" in figure:
            found |= {name: figure["value"], f"{name}_standard_error": figure["standard_error"]}
    return named("result", found)


def brief(error: Exception) -> str:
    """An error of another program on a line that can be read."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 200 else f'{text[:197]}...'}"
