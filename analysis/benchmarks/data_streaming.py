"""Training on a file that is larger than the memory given to data: one pass over two million rows of 784 bytes.

    python analysis/benchmarks/data_streaming.py [--rows 2000000] [--folder FOLDER] [--cold]

A VAE 784-400-20 with dynamic binarisation, batch 128, compiled, is trained once on every row of a temporary file in
FOLDER (by default the system's folder for such files, 1.6 GB), while data in memory may take `--limit` MB, so that its
rows are fed to the steps. All through the pass the memory of the process is looked at: anonymous memory and pages of
files apart, from the moment that the step is compiled. Then steps that are fed and steps on as many rows as fit in
memory take turns, round by round. With --cold the file is thrown out of the system's cache again and again, as it
would be if it were larger than all memory; otherwise it stays there where there is room.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from common import provenance, write

import pyro_vae as pv
from pyro_vae.batches import build
from pyro_vae.capture import unvalidated
from pyro_vae.data import load, storage
from pyro_vae.feeding import Fed, Held
from pyro_vae.planning import threads
from pyro_vae.records import versions
from pyro_vae.training import Trainer

WORDS = [
    "data=arrays",
    "data.binarize=dynamic",
    "data.validation=0",
    "latent.dim=20",
    "encoder.widths=[400]",
    "decoder.widths=[400]",
    "training.batch_size=128",
    "training.epochs=1",
    "training.compile=on",
]
WARM = 200
"""Steps before memory counts: the first one compiles."""


def written(path: Path, rows: int) -> None:
    """Strokes of grey on black, each row another."""
    rng = np.random.default_rng(0)
    x = np.lib.format.open_memmap(path, "w+", np.uint8, (rows, 784))
    for first in range(0, rows, 10_000):
        some = x[first : first + 10_000]
        some[:] = rng.integers(0, 256, some.shape, np.uint8) * (rng.random(some.shape, np.float32) < 0.2)
        storage.release(some)
    x.flush()


def trainer(x: np.ndarray, folder: Path) -> Trainer:
    """A training on all of x; a few other data are the test set that every data set has."""
    experiment = pv.load_experiment("vae-bernoulli", WORDS)
    data = load(experiment.data, arrays=pv.Arrays(x, test=pv.Arrays(np.array(x[:100])), levels=256))
    return Trainer(experiment, data, build(experiment, data, torch.device("cpu")), folder, compiled=True, quiet=True)


def memory() -> tuple[float, float]:
    """RssAnon and RssFile of this process, MB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) / 1024, int(lines["RssFile"].split()[0]) / 1024


class Watch(threading.Thread):
    """Looks at the memory every twentieth of a second; with a file, throws it out of the cache each time."""

    def __init__(self, one: Trainer, cold: Path | None) -> None:
        super().__init__()
        self.one, self.cold, self.over, self.seen = one, cold, threading.Event(), list[tuple[int, float, float]]()

    def run(self) -> None:
        file = None if self.cold is None else os.open(self.cold, os.O_RDONLY)
        while not self.over.wait(0.05):
            self.seen.append((self.one.progress.step, *memory()))
            if file is not None:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)

    def figures(self) -> dict[str, dict[str, float]]:
        """Of each kind of memory, MB: at the start, the most, at the end, and the most less the start."""
        seen = [row for row in self.seen if row[0] >= WARM]
        return {
            kind: {
                "start": column[0],
                "peak": max(column),
                "end": column[-1],
                "growth": max(column) - column[0],
            }
            for kind, column in zip(("anonymous", "files"), list(zip(*seen, strict=True))[1:], strict=True)
        }


def one_pass(path: Path, folder: Path, cold: bool) -> tuple[Trainer, dict]:
    """Train once on every row of the file; what it took."""
    before = memory()
    start = time.perf_counter()
    fed = trainer(np.load(path, mmap_mode="r"), folder)
    assert isinstance(fed.feed, Fed), "the data fit in memory: give a smaller --limit"
    loading = time.perf_counter() - start
    watch = Watch(fed, path if cold else None)
    watch.start()
    fed.feed.waited = 0.0
    fed.run()
    watch.over.set()
    watch.join()
    chunk = sum(part.nbytes for part in fed.train_data[:4] if part is not None) / 2**20
    return fed, {
        "steps": fed.progress.step,
        "seconds": fed.progress.seconds,
        "seconds_loading": loading,
        "seconds_waited": fed.feed.waited,
        "share_waited": fed.feed.waited / fed.progress.seconds,
        "chunk_mb": chunk,
        "memory_mb_before": {"anonymous": before[0], "files": before[1]},
        "memory_mb": watch.figures(),
    }


@torch.no_grad()
def turns(fed: Trainer, held: Trainer, rounds: int, steps: int) -> dict[str, list[float]]:
    """Milliseconds a step of both, round by round; held data begin anew where an epoch is over."""
    found: dict[str, list[float]] = {"fed": [], "held": []}
    with closing(fed.feed.steps(fed.plan(1), 0)) as plans, unvalidated(), threads(1):
        plan = held.plan(0)
        held.step(held.state, plan, held.train_data)  # compiles
        fed.step(fed.state, next(plans), fed.train_data)
        for _ in range(rounds):
            start = time.perf_counter()
            for _ in range(steps):
                fed.step(fed.state, next(plans), fed.train_data)
            found["fed"].append((time.perf_counter() - start) / steps * 1e3)
            held.state.position.zero_()
            start = time.perf_counter()
            for _ in range(steps):
                held.step(held.state, plan, held.train_data)
            found["held"].append((time.perf_counter() - start) / steps * 1e3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--folder", help="where the temporary file goes")
    parser.add_argument("--limit", type=float, default=256, help="MB that data in memory may take")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--no-write", action="store_true", help="print the result and keep no file of it")
    args = parser.parse_args()
    storage.MEMORY_SHARE = args.limit * 2**20 / storage.memory_bytes()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        path = Path(name) / "x.npy"
        written(path, args.rows)
        fed, passed = one_pass(path, Path(name) / "fed", args.cold)
        x = np.array(np.load(path, mmap_mode="r")[: min(args.rows, int(storage.room() / 784))])
        held = trainer(x, Path(name) / "held")
        assert isinstance(held.feed, Held)
        steps = min(args.steps, held.steps_per_epoch - 1, (fed.steps_per_epoch - 1) // args.rounds)
        found = turns(fed, held, args.rounds, steps)
        medians = {side: statistics.median(times) for side, times in found.items()}
        result = {
            **provenance(versions()),
            "setting": {
                "rows": args.rows,
                "file_mb": path.stat().st_size / 2**20,
                "limit_mb": args.limit,
                "cold": args.cold,
                "batch": 128,
                "rounds": args.rounds,
                "steps": steps,
            },
            "pass": passed,
            "ms_per_step": medians,
            "ms_per_step_rounds": found,
            "ratio": medians["fed"] / medians["held"],
        }
    for kind, mb in passed["memory_mb"].items():
        print(f"{kind}: {mb['start']:.0f} MB at the start, at most {mb['peak']:.0f}, {mb['end']:.0f} at the end")
    print(f"waited for data: {100 * passed['share_waited']:.2f} % of {passed['seconds']:.1f} s")
    print(f"ms a step: {medians['fed']:.3f} fed, {medians['held']:.3f} held, ratio {result['ratio']:.3f}")
    if not args.no_write:
        print(write("data_streaming", result))


if __name__ == "__main__":
    main()
