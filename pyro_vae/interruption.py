"""Stopping a run from outside: SIGINT and SIGTERM are noted, the step is finished, the state is saved."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pyro_vae.distributed import RankLost


class Interrupted(Exception):  # noqa: N818 - not an error: the run was asked to stop, and saved
    """The run was asked to stop by a signal; its state is saved."""

    def __init__(self, signum: int, folder: Path, trained: bool = False, command: str = "train") -> None:
        """Keep the signal's number and the run; `trained`: only the evaluation was left; `command`: what goes on."""
        name = signal.Signals(signum).name
        if trained:
            text = f"the evaluation was stopped by {name}; the training is done and saved: pyro-vae evaluate {folder}"
        else:
            text = f"stopped by {name}; the state is saved, and goes on with: pyro-vae {command} --resume {folder}"
        super().__init__(text)
        self.signum, self.folder = signum, folder


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one acts at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handler(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        # A shell starts what it puts into the background with SIGINT ignored; a second one shall act there too.
        ignored = before[number] in (signal.SIG_IGN, None)
        at_once = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, at_once if ignored else before[number])

    for number in before:
        signal.signal(number, handler)
    try:
        yield caught
    finally:
        # torchrun asks the others to stop where one is lost: they are ending, and shall still say why.
        ending = isinstance(sys.exception(), RankLost)
        for number, old in before.items():
            signal.signal(number, signal.SIG_IGN if ending else old)
