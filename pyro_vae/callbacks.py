"""What follows a training: callbacks are told its start, every epoch and its end."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyro_vae.experiment import Experiment
from pyro_vae.records import Metrics
from pyro_vae.specs import DeclarationError

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
