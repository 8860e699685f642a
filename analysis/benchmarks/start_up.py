"""How long the command line takes to answer, and `pyro-vae train` to its first step.

    python analysis/benchmarks/start_up.py [--starts 7]

Each start is a new process, timed from outside: `--help` and `list` to their end, `train` (of the default) until the
first step is done, which a few lines around the command line report. The first start of each kind is not counted: it
fills the caches of the disk, and compiles. `train, compiled, cold` has an empty cache of compiled steps in each start.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import provenance, write

from pyro_vae.records import versions

FIRST_STEP = """
import os, sys
from pyro_vae import cli
from pyro_vae.training import Trainer

make = Trainer.__init__

def init(self, *args, **kwargs):
    make(self, *args, **kwargs)
    step = self.step
    def first(*given):
        step(*given)
        self.state.totals.tolist()  # waits for the device
        os._exit(0)
    self.step = first

Trainer.__init__ = init
cli.main()
"""
COMMAND = ["-m", "pyro_vae"]
TARGETS = {"--help": 0.4, "train, compiled, warm": 6.0}


def seconds(arguments: list[str], cache: str | None = None) -> float:
    """From the start of the process to its end."""
    env = os.environ | ({} if cache is None else {"TORCHINDUCTOR_CACHE_DIR": cache})
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True)
    took = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(arguments[-4:])}: {done.stderr}")
    return took


def train(compile_: str, cache: str | None = None) -> float:
    """From the start of the process to the end of the first step."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", f"training.compile={compile_}", "--out", str(Path(folder) / "run"), "--quiet"]
        return seconds(["-c", FIRST_STEP, *words], cache)


def cold() -> float:
    """The same, with nothing compiled before."""
    with tempfile.TemporaryDirectory() as cache:
        return train("on", cache)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=7, help="of each kind")
    parser.add_argument("--no-write", action="store_true", help="only print")
    args = parser.parse_args()
    kinds = {
        "--help": lambda: seconds([*COMMAND, "--help"]),
        "list": lambda: seconds([*COMMAND, "list"]),
        "train, not compiled": lambda: train("off"),
        "train, compiled, warm": lambda: train("on"),
    }
    for start in kinds.values():
        start()
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(args.starts):
        for name, start in kinds.items():
            times[name].append(start())
    times["train, compiled, cold"] = [cold() for _ in range(max(1, args.starts // 3))]
    rows = {
        name: {"median": statistics.median(found), "fastest": min(found), "slowest": max(found)}
        for name, found in times.items()
    }
    for name, row in rows.items():
        target = f"   target {TARGETS[name]}" if name in TARGETS else ""
        print(f"{name:24s} {row['median']:6.2f} s ({row['fastest']:.2f} to {row['slowest']:.2f}){target}")
    result = {"starts": args.starts, "seconds": rows, "targets": TARGETS, **provenance(versions())}
    if not args.no_write:
        print(write("start_up", result))


if __name__ == "__main__":
    main()
