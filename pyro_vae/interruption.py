"""Stopping a run from outside: SIGINT and SIGTERM are noted, the step is finished, the state is saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupted(Exception):  # noqa: N818 - not an error: the run was asked to stop, and saved
    """The run was asked to stop by a signal; its state is saved."""

    def __init__(self, signum: int) -> None:
        """Keep the signal's number."""
        super().__init__(f"stopped by {signal.Signals(signum).name}; resume continues where it was")
        self.signum = signum


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
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, handler)
    try:
        yield caught
    finally:
        for number, old in before.items():
            signal.signal(number, old)
