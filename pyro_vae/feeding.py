"""The data of the steps of an epoch: held on the device where they fit, else fed to it a chunk ahead of the steps.

A chunk holds the data of the next M steps in their order, M B rows. It lies in the same place each time, so that the
step is the one that runs on data that are held, compiled once: only the indices in its plan are others, places in the
chunk instead of numbers of data. Both train in the same order on the same numbers, to the same bits.

While the steps of one chunk run, threads gather the next one, each its part in the order of the file, into memory
that a GPU copies from by itself. Disks are slow at rows here and there and fast at most of a file in passing: so a
chunk is as large as memory allows, and not one batch.
"""

import math
import time
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae.batches import DTYPES, columns, resident
from pyro_vae.data import Split, StoredSplit
from pyro_vae.data.storage import Stored, room
from pyro_vae.experiment import Experiment
from pyro_vae.step import Plan, Resident

CHUNK_SHARE = 1 / 16
"""Size of a chunk, as a share of what an array in memory may take. One is trained on, one is gathered."""
DEVICE_SHARE = 0.5
"""Share of the free memory of a GPU that the training data may take; the rest is for the step."""
READERS = 4
"""Threads that gather a chunk: while one waits for the disk, the others ask it for more."""


class Held(NamedTuple):
    """Training data on the device, all of them."""

    data: Resident
    waited: float = 0.0
    """Seconds that steps have waited for data."""

    def steps(self, plan: Plan, first: int) -> Generator[Plan]:
        """The plan to give to each step, from the step `first` on."""
        while True:
            yield plan


def feed(
    split: Split | StoredSplit, experiment: Experiment, device: torch.device, batch_size: int, steps: int
) -> "Held | Fed":
    """The training data, held on the device if they fit there, else fed.

    Args:
        split: the training data.
        experiment: the declaration.
        device: what the steps run on.
        batch_size: B, of this process.
        steps: of an epoch.
    """
    entry = 1 if split.x.dtype == torch.uint8 else DTYPES[experiment.training.precision].itemsize
    row = math.prod(split.x.shape[1:]) * (entry + (split.mask is not None))
    most = room()
    if device.type == "cuda":
        free = DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
        held, most = row * len(split) <= free, min(most, free)
    else:
        held = isinstance(split, Split)
    if held:
        return Held(resident(split, experiment, device, training=True))
    per_chunk = min(steps, max(1, int(CHUNK_SHARE * most) // (row * batch_size)))
    return Fed(split, experiment, device, batch_size, steps, per_chunk)


class Fed:
    """Training data of which a chunk is on the device.

    Attributes:
        data: the chunk; the first batch of the data, until an epoch begins.
        waited: seconds that steps have waited for data.
    """

    def __init__(
        self,
        split: Split | StoredSplit,
        experiment: Experiment,
        device: torch.device,
        batch_size: int,
        steps: int,
        per_chunk: int,
    ) -> None:
        """Make room for a chunk of `per_chunk` steps on the device, and for the next one in memory."""
        self.per_chunk, self.num_rows, self.waited = per_chunk, per_chunk * batch_size, 0.0
        self._rows = split.rows.numpy() if isinstance(split, StoredSplit) else None
        y, given = columns(split, experiment, torch.device("cpu"), training=True)
        sources = (split.x, y, split.mask, given)
        self._sources = [Stored(part.numpy()) if isinstance(part, Tensor) else part for part in sources]
        cuda, dtype = device.type == "cuda", DTYPES[experiment.training.precision]

        def empty(source: Stored | None, *, there: bool) -> Tensor | None:
            """A chunk of the source on the device, or in memory."""
            if source is None:
                return None
            kind = dtype if source.dtype.is_floating_point else source.dtype
            shape = (self.num_rows, *source.shape[1:])
            if not there:
                return torch.empty(shape, dtype=kind, pin_memory=cuda)
            made = torch.empty(shape, dtype=kind, device=device)
            if cuda:  # a CUDA graph reads the chunk where it is
                torch._dynamo.mark_static_address(made)
            return made

        self.data, self._next = (
            Resident(*(empty(source, there=there) for source in self._sources))  # type: ignore[arg-type]
            for there in (True, False)
        )
        self._copied = torch.cuda.Event() if cuda else None
        places = torch.arange(steps * batch_size) % self.num_rows
        self._places = places.view(steps, batch_size).to(device)
        self._gather(np.arange(batch_size), 0, Event())
        self._move()

    def steps(self, plan: Plan, first: int) -> Generator[Plan]:
        """The plan to give to each step, from the step `first` on, when its data are in the chunk.

        Close it where the steps end early: its threads end with it.

        Raises:
            DeclarationError: a file has become shorter.
        """
        order, own = plan.order.flatten().cpu().numpy(), plan._replace(order=self._places)
        stop = Event()
        with ThreadPoolExecutor(READERS, "pyro_vae-feed") as pool:
            try:
                following = self._ask(pool, order, first // self.per_chunk, stop)
                for i in range(first, len(plan.order)):
                    if i == first or i % self.per_chunk == 0:
                        start = time.perf_counter()
                        for part in following:
                            part.result()
                        self._move()
                        following = self._ask(pool, order, i // self.per_chunk + 1, stop)
                        self.waited += time.perf_counter() - start
                    yield own
            finally:
                stop.set()

    def _ask(self, pool: ThreadPoolExecutor, order: np.ndarray, chunk: int, stop: Event) -> list[Future[None]]:
        """Have the threads gather the chunk of that number."""
        indices = order[chunk * self.num_rows : (chunk + 1) * self.num_rows]
        share = -(-self.num_rows // READERS)
        return [pool.submit(self._gather, indices[at : at + share], at, stop) for at in range(0, len(indices), share)]

    def _gather(self, indices: np.ndarray, at: int, stop: Event) -> None:
        """Put data where the next chunk is made, from the place `at` on."""
        if self._copied is not None:
            self._copied.synchronize()  # what is there is still on its way to the device
        rows = indices if self._rows is None else self._rows[indices]
        for source, made, chosen in zip(self._sources, self._next[:4], (rows, indices, rows, indices), strict=True):
            if source is not None and made is not None:
                source.take(chosen, made[at : at + len(indices)].numpy(), stop)

    def _move(self) -> None:
        """Bring the next chunk to the device."""
        for made, there in zip(self._next[:4], self.data[:4], strict=True):
            if made is not None and there is not None:
                there.copy_(made, non_blocking=True)
        if self._copied is not None:
            self._copied.record()
