"""What the sides of `training_speed.py` share: the setting, the data, and a loop that computes only when asked.

A side is a process of its own, `python -m peers.SIDE JOB`, JOB a JSON object with `setting`, `mode`, `folder`,
`device` and `threads`. It prints {"versions", "note"} once it is built, or {"missing"} where its library is not
there. Each line on stdin is a number of steps, answered after as many by {"seconds", "loss", "idle"}: the time they
took, their mean loss in nats per datum, and the processor time that the process has used since its last answer.

Only numpy is needed here, so that every library can have an environment of its own.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

RATE, BETAS, EPS = 1e-3, (0.9, 0.999), 1e-8
"""Adam, of every side."""


class Missing(Exception):
    """This side cannot run here, and why."""


type Run = Callable[[int], float]
"""Makes so many steps; their mean loss in nats per datum."""


@dataclass(frozen=True)
class Setting:
    """What is trained: `784-400-20/128`, `784-200-200-50/20/iwae-50`, `conv-2d/128`, `resnet-64/16`."""

    network: str
    batch: int
    particles: int = 1

    @staticmethod
    def parse(name: str) -> "Setting":
        network, batch, *objective = name.split("/")
        return Setting(network, int(batch), int(objective[0].removeprefix("iwae-")) if objective else 1)

    @property
    def dense(self) -> bool:
        """Whether the networks are multilayer perceptrons."""
        return self.network[0].isdigit()

    @property
    def sizes(self) -> list[int]:
        """Entries of x, hidden widths of the encoder, dimension of the latent."""
        return [int(size) for size in self.network.split("-")]

    @property
    def encoder(self) -> list[tuple[int, int]]:
        """Inputs and outputs of each layer; the last one gives mu and log sigma^2."""
        sizes = self.sizes
        return list(zip(sizes, [*sizes[1:-1], 2 * sizes[-1]], strict=False))

    @property
    def decoder(self) -> list[tuple[int, int]]:
        """Inputs and outputs of each layer."""
        sizes = self.sizes[::-1]
        return list(zip(sizes, sizes[1:], strict=False))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a datum as stored."""
        return {"conv-2d": (28, 28), "resnet-64": (3, 64, 64)}[self.network] if not self.dense else (self.sizes[0],)

    @property
    def num_data(self) -> int:
        """About 50 MB of them, at most 60,000."""
        return min(60_000, 48_000_000 // int(np.prod(self.shape)))


class Job(NamedTuple):
    """What a worker is asked for."""

    setting: Setting
    mode: str
    folder: Path
    device: str
    threads: int

    def images(self) -> np.ndarray:
        """The data (N, ...), uint8."""
        return np.load(self.folder / "images.npy")

    def weights(self) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[tuple[np.ndarray, np.ndarray]]]:
        """Initial (W (out, in), b) of each layer, encoder and decoder: the same for every side."""
        with np.load(self.folder / "weights.npz") as file:
            arrays = [file[name] for name in file.files]
        pairs = list(zip(arrays[::2], arrays[1::2], strict=True))
        return pairs[: len(self.setting.encoder)], pairs[len(self.setting.encoder) :]


def images(setting: Setting) -> np.ndarray:
    """Images of ten hidden factors, so that there is something to learn: round(255 sigmoid(a u - 1.5)), u ~ N(0, I)."""
    rng, size = np.random.default_rng(0), int(np.prod(setting.shape))
    a = rng.standard_normal((10, size), dtype=np.float32)
    made = np.empty((setting.num_data, size), np.uint8)
    for part in np.array_split(made, 20):
        u = rng.standard_normal((len(part), 10), dtype=np.float32)
        part[:] = np.rint(255 / (1 + np.exp(1.5 - u @ a)))
    return made.reshape(-1, *setting.shape)


def batches(num_data: int, batch: int, steps: int, permutation: Callable[[int], object]) -> Iterator:
    """Indices of `steps` batches, of a new order in every epoch; a short last batch is dropped."""
    while steps > 0:
        order, here = permutation(num_data), min(steps, num_data // batch)
        for i in range(here):
            yield order[i * batch : (i + 1) * batch]
        steps -= here


def serve(build: Callable[[Job], tuple[Run, dict]], *, timed: bool = False) -> None:
    """Build the side of the job on the command line, and answer.

    Args:
        build: a job -> the run, and what to say of it: {"versions": ..., "note": ...}.
        timed: what the run returns are seconds that it has taken itself; there is no loss.
    """
    # Whatever a library prints goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**answer: object) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    given = json.loads(sys.argv[1])
    job = Job(Setting.parse(given["setting"]), given["mode"], Path(given["folder"]), given["device"], given["threads"])
    try:
        run, about = build(job)
    except (ModuleNotFoundError, Missing) as error:
        say(missing=str(error))
        return
    say(**about)
    used = time.process_time()
    for line in sys.stdin:
        idle = time.process_time() - used
        start = time.perf_counter()
        value = run(int(line))
        seconds = value if timed else time.perf_counter() - start
        used = time.process_time()
        say(seconds=seconds, loss=None if timed else value, idle=idle)
