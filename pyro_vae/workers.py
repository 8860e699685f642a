"""Who works on what, where several processes share a folder: claims that end with their process, however that ends.

A claim is a file that names host and process. While it is held, a thread touches it. It is void where its process is
gone (seen at once, on the same host) or where it has not been touched for a while (on another). Ages are told by
the clock of the file system, which is the same for all hosts.
"""

import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyro_vae.distributed import runs

BEAT = 10.0
"""Seconds between two touches."""
STALE = 120.0
"""Seconds without a touch after which a claim is void."""


class LostClaim(Exception):  # noqa: N818 - not an error of this process, which was taken for dead
    """Another worker has taken over."""


class Claim:
    """One worker's hold on one thing."""

    def __init__(self, path: Path) -> None:
        """Take it; only to be called where no other can do so at the same time."""
        self.path, self._own = path, {"host": socket.gethostname(), "process": os.getpid(), "id": uuid.uuid4().hex}
        path.parent.mkdir(exist_ok=True)
        part = path.with_name(f"{path.name}.{self._own['id']}.part")
        part.write_text(json.dumps(self._own), encoding="utf-8")
        part.replace(path)

    def check(self) -> None:
        """Make sure that it is still held.

        Raises:
            LostClaim: it is not.
        """
        if _read(self.path) != self._own:
            raise LostClaim

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep it alive, and let go of it at the end."""
        done = threading.Event()
        thread = threading.Thread(target=self._beat, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            if _read(self.path) == self._own:
                self.path.unlink(missing_ok=True)

    def _beat(self, done: threading.Event) -> None:
        while not done.wait(BEAT):
            if _read(self.path) != self._own:
                return
            try:
                os.utime(self.path)
            except OSError:  # a file system that is away for a moment, or a claim that was lost
                continue


def claimed(path: Path) -> bool:
    """Whether a worker that is alive holds the claim."""
    owner = _read(path)
    if owner is None:
        return False
    if owner.get("host") == socket.gethostname():
        process = owner.get("process", 0)
        if process == os.getpid() or not runs(process):  # the number of this one may have been another's before
            return False
    try:
        return _now(path.parent) - path.stat().st_mtime < STALE
    except FileNotFoundError:
        return False


def _read(path: Path) -> dict[str, Any] | None:
    """Who holds a claim; None where nobody does."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _now(folder: Path) -> float:
    """The time as the file system has it."""
    path = folder / f"{socket.gethostname()}-{os.getpid()}.now"
    path.touch()
    try:
        return path.stat().st_mtime
    finally:
        path.unlink(missing_ok=True)
