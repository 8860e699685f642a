"""Several processes that train or evaluate one model together: who they are, and what they tell each other.

`torchrun` starts them and says in the environment of each which one it is:

    torchrun --nproc-per-node 2 -m pyro_vae train mnist.yaml

Each has its own part of every batch, of the data that are evaluated and of those that are diagnosed. The first, of rank
0, alone writes and prints. What they tell each other goes through `torch.distributed`: by gloo between CPUs,
and by NCCL where tensors are on GPUs.

A process that is lost breaks the connections to it. The others notice at the next exchange and end too; the first of
all that has something to say says it, and the others are silent.
"""

import functools
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vae.specs import DeclarationError

if TYPE_CHECKING:
    from torch import Tensor

PATIENCE = 1800.0
"""Seconds that a process waits for the others, which may be compiling; a lost one is noticed at once."""
LAG = 4
"""Steps between a word to the others and the moment when all act on it: so nobody waits for the answer."""
TOGETHER = ("train", "evaluate", "diagnose")
"""Commands that several processes do together; the others are done by the first one."""


class RankLost(RuntimeError):  # noqa: N818 - as in "connection lost"
    """Another process of the run ended; nothing more can be done together."""


@dataclass(frozen=True)
class World:
    """All processes of a run, as one of them sees it."""

    rank: int = 0
    """Number of this process."""
    size: int = 1
    """Number of processes."""
    local_rank: int = 0
    """Number of this process among those of this machine."""
    local_size: int = 1
    """Number of processes of this machine."""
    patience: float = field(default=PATIENCE, repr=False, compare=False)
    """Seconds that each waits for another that is alive."""
    store: Any = field(default=None, repr=False, compare=False)
    """Where each can leave a word that outlives it."""
    processes: tuple[tuple[str, int], ...] = field(default=(), repr=False, compare=False)
    """Machine and process number of each rank."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def part(self, num: int) -> range:
        """Which of `num` things are this process's.

        >>> [World(rank, 3).part(128) for rank in range(3)]
        [range(0, 43), range(43, 86), range(86, 128)]
        """
        each, rest = divmod(num, self.size)
        start = self.rank * each + min(self.rank, rest)
        return range(start, start + each + (self.rank < rest))

    def seed(self, seed: int) -> int:
        """The seed of this process's random numbers: that of a single process in the first one."""
        return seed if self.first else derived(seed, self.rank)

    def once[T](self, function: Callable[[], T]) -> T:
        """Call a function in the first process alone; all get what it returned."""
        if self.size == 1:
            return function()
        told: tuple[Any, str | None] = (None, None)
        if self.first:
            try:
                told = (function(), None)
            except BaseException as error:
                self._tell((None, f"{type(error).__name__}: {error}"))
                raise
        found, problem = self._tell(told)
        if problem is not None:
            raise RankLost(f"rank 0 ended: {problem}")
        return found

    def in_turn[T](self, function: Callable[[], T]) -> T:
        """Call a function in the first process, then in one of every other machine, then in the rest.

        What the first one downloads or makes, the others find.
        """
        if self.size == 1:
            return function()
        turn, found = 0 if self.first else 1 if self.local_rank == 0 else 2, list[T]()
        for now in range(3):
            if now == turn:
                found.append(function())
            self.largest(0)
        return found[0]

    def gather(self, value: Any) -> list[Any]:
        """What every process has, in order of rank, tensors on the CPU; in all processes."""
        if self.size == 1:
            return [value]
        import torch
        from torch.utils._pytree import tree_map_only

        value, found = tree_map_only(torch.Tensor, torch.Tensor.cpu, value), [None] * self.size
        with self._listening():
            torch.distributed.all_gather_object(found, value)
        return found

    def largest(self, number: int) -> int:
        """The largest of the numbers of all processes; each waits for the others."""
        return max(self.gather(number))

    def add_up(self, tensor: "Tensor") -> None:
        """Sum a tensor over the processes, in place; on a GPU nothing waits for the answer."""
        if self.size == 1:
            return
        import torch

        with self._listening():
            torch.distributed.all_reduce(tensor)

    def spread(self, tensors: list["Tensor"]) -> None:
        """Give every process the first one's tensors, in place."""
        if self.size == 1:
            return
        import torch

        with self._listening():
            for tensor in tensors:
                torch.distributed.broadcast(tensor, 0)

    def agreement(self) -> Callable[[int], int]:
        """A function to be called in every step with a number: the largest that any process gave `LAG` calls ago.

        All processes get the same answer in the same step.
        """
        if self.size == 1:
            return lambda number: number
        import torch

        pending: deque[tuple[Any, Tensor]] = deque()

        def agreed(number: int) -> int:
            told = torch.tensor([number])
            with self._listening():
                work = torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX, async_op=True)
                pending.append((work, told))
                if len(pending) <= LAG:
                    return 0
                work, told = pending.popleft()
                work.wait()
            return int(told)

        return agreed

    def speaks(self) -> bool:
        """Whether it falls to this process to say why all of them end: true for the first one that asks."""
        if self.size == 1 or self.store is None:
            return self.first
        try:
            return bool(self.store.add("ended", 1) == 1)
        except RuntimeError:  # the store went with the process that kept it
            return True

    def _tell(self, value: Any) -> Any:
        """What the first process says, in all."""
        import torch

        told = [value]
        with self._listening():
            torch.distributed.broadcast_object_list(told, 0, device=torch.device("cpu"))
        return told[0]

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """What goes wrong in an exchange is that another process is gone."""
        try:
            yield
        except RuntimeError as error:
            gone = " and ".join(f"rank {rank}" for rank in self._gone())
            reason = "" if gone else f" ({str(error).strip().partition('. ')[0]})"
            lost = gone or "another process"
            raise RankLost(f"{lost} of {self.size} was lost{reason}, and the others end too") from error

    def _gone(self) -> list[int]:
        """Ranks of processes of this machine that run no more."""
        here = socket.gethostname()
        for _ in range(20):
            gone = [rank for rank, (host, pid) in enumerate(self.processes) if host == here and not runs(pid)]
            if gone:
                return gone
            time.sleep(0.05)
        return []


ALONE = World()
"""A single process."""


def runs(process: int) -> bool:
    """Whether a process of this machine is alive; one that its parent has not yet looked at is not."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is there, and another user's
        return True
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] if process else ""
    except OSError:  # it ended just now, or this system tells nothing of its processes
        return sys.platform != "linux"
    return state not in ("Z", "X")


def described(environment: Mapping[str, str] = os.environ) -> World:
    """What the environment says of the processes; without a word of them it is a single one.

    Raises:
        DeclarationError: what it says makes no sense, or this is a notebook.

    >>> described({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"})
    World(rank=1, size=2, local_rank=1, local_size=2)
    """
    if "RANK" not in environment or environment.get("WORLD_SIZE", "1") == "1":
        return ALONE
    advice = "start the processes with torchrun --nproc-per-node N -m pyro_vae train ..."
    try:
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local_rank = int(environment.get("LOCAL_RANK", rank))
        local_size = int(environment.get("LOCAL_WORLD_SIZE", size))
    except ValueError:
        words = ", ".join(f"{name}={environment[name]}" for name in ("RANK", "WORLD_SIZE"))
        raise DeclarationError([f"environment: {words} are no numbers of processes; {advice}."]) from None
    if not (0 <= rank < size and 0 <= local_rank < local_size):
        raise DeclarationError([f"environment: RANK={rank} is none of WORLD_SIZE={size} processes; {advice}."])
    if not {"MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
        raise DeclarationError(
            [f"environment: WORLD_SIZE={size}, but MASTER_ADDR and MASTER_PORT do not say where they meet; {advice}."]
        )
    interactive = sys.modules.get("IPython")
    if interactive is not None and interactive.get_ipython() is not None:
        raise DeclarationError(
            [f"environment: WORLD_SIZE={size}, and a notebook is one process: unset it, or in a terminal, {advice}."]
        )
    return World(rank, size, local_rank, local_size)


def join(patience: float = PATIENCE) -> World:
    """Meet the other processes, where `torchrun` started any; a process meets them once, and stays with them.

    Args:
        patience: seconds to wait for another process that is alive.

    Returns:
        Who they are; `ALONE` for a single process, which costs nothing.

    Raises:
        DeclarationError: they cannot meet.
    """
    world = described()
    return world if world.size == 1 else _joined(replace(world, patience=patience))


@functools.cache
def _joined(world: World) -> World:
    """Open the connections; they are closed when the process ends."""
    import atexit

    import torch
    from torch.distributed.rendezvous import rendezvous

    if not torch.distributed.is_available():
        raise DeclarationError(["environment: this PyTorch was built without torch.distributed; run a single process."])
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    limit = timedelta(seconds=world.patience)
    try:
        store, _, _ = next(rendezvous("env://", timeout=limit))
        store = torch.distributed.PrefixStore("pyro_vae", store)
        torch.distributed.init_process_group(
            backend, store=store, rank=world.rank, world_size=world.size, timeout=limit
        )
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(error).strip().splitlines()[0]
        raise DeclarationError([f"environment: {world.size} processes did not meet at {where}: {reason}"]) from None
    atexit.register(torch.distributed.destroy_process_group)
    world = replace(world, store=store)
    return replace(world, processes=tuple(world.gather((socket.gethostname(), os.getpid()))))


def speaks() -> bool:
    """Whether it falls to this process to say why all of them end, met or not."""
    try:
        world = described()
    except DeclarationError:  # which is what is to be said
        return True
    if world.size == 1:
        return True
    torch = sys.modules.get("torch")
    met = torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()
    return join().speaks() if met else world.first


def leave() -> None:
    """Be a single process from now on, with no other to meet."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)


def derived(seed: int, *place: int) -> int:
    """A seed for a place of its own, such as a rank or the number of a datum; neighbours have nothing in common.

    >>> derived(0, 1) != derived(0, 2) != derived(1, 1)
    True
    """
    import numpy as np

    return int(np.random.SeedSequence(seed, spawn_key=place).generate_state(1)[0])
