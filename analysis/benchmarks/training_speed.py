"""Time per training step: the package's step against Pyro, hand-written PyTorch, NumPyro and pythae, and the floor.

    python analysis/benchmarks/training_speed.py [--setting 784-400-20/128 ...] [--python numpyro=PYTHON ...]

Every side does the same work: the same networks from the same initial weights, Adam, data resident as uint8, and
the batch gathered and binarised inside the step. Each is a process of its own (`peers/`) that computes only when
asked, with the same number of threads. Sides take turns, round by round; printed are medians over rounds and ratios
of medians (theirs / ours). Their losses after the same number of steps are checked to agree. The floor is the matrix
products of the step, at the best rate of the machine.

A setting is NETWORK/BATCH: 784-400-20/128 has one hidden layer of 400 in encoder and decoder and 20 latent
dimensions; a further /iwae-50 trains the bound of 50 particles. Without --setting all of SETTINGS are run, which
takes about 25 minutes on two cores, and the result is written.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from common import provenance, write
from peers.experiments import write_weights
from peers.worker import Setting, images

from pyro_vae.records import versions

FULL = "784-400-20/128"
"""The setting that every side takes part in, and that REQUIRED is about."""
SETTINGS = (
    *(f"784-{sizes}/{batch}" for sizes in ("100-20", "400-20", "200-200-50") for batch in (20, 128, 1024)),
    "784-200-200-50/20/iwae-50",
    "conv-2d/128",
    "resnet-64/16",
)
REQUIRED = {"Pyro SVI": 2.0, "by hand": 1.2, "by hand, compiled": 1.0, "NumPyro, epoch": 1.0, "pythae": 2.5}
"""Least ratios theirs / ours in the setting FULL; that of ours to the floor is at most FLOOR."""
FLOOR = 2.5
TOLERANCE = 0.02
"""Largest difference of losses, relative: Monte Carlo errors and the order of the data, while the loss still falls."""


class Side(NamedTuple):
    """One implementation; of those in a group the fastest one counts."""

    name: str
    group: str
    module: str
    mode: str
    kinds: tuple[str, ...]
    """Settings that it takes part in: `full`, `dense`, `particles`, `images`."""


ALL, DENSE = ("full", "dense", "particles", "images"), ("full", "dense")
OURS = Side("pyro_vae, compiled", "pyro_vae", "ours", "compiled", ALL)
SIDES = (
    OURS,
    Side("pyro_vae, recorded", "recorded", "ours", "recorded", ("full",)),
    Side("pyro_vae, compiled, bfloat16", "bfloat16", "ours", "bfloat16", ALL),
    Side("Pyro SVI, Trace_ELBO", "Pyro SVI", "pyro_side", "Trace_ELBO", DENSE),
    Side("Pyro SVI, TraceMeanField_ELBO", "Pyro SVI", "pyro_side", "TraceMeanField_ELBO", ("full",)),
    Side("Pyro SVI, JitTrace_ELBO", "Pyro SVI", "pyro_side", "JitTrace_ELBO", ("full",)),
    Side("Pyro SVI, RenyiELBO", "Pyro SVI", "pyro_side", "RenyiELBO", ("particles",)),
    Side("PyTorch by hand", "by hand", "by_hand", "eager", ALL),
    Side("PyTorch by hand, fused Adam", "by hand", "by_hand", "fused", ("full",)),
    Side("PyTorch by hand, loss compiled", "by hand, compiled", "by_hand", "loss", ("full", "images")),
    Side("PyTorch by hand, gradient compiled", "by hand, compiled", "by_hand", "whole", ALL),
    Side("PyTorch by hand, gradient and Adam compiled", "by hand, compiled", "by_hand", "optimizer", ("full",)),
    Side("NumPyro, svi.update jitted", "NumPyro, step", "numpyro_side", "step", ("full",)),
    Side("NumPyro, fori_loop over an epoch", "NumPyro, epoch", "numpyro_side", "loop", DENSE),
    Side("pythae, BaseTrainer", "pythae", "pythae_side", "train", DENSE),
    Side("floor: matrix products", "floor", "floor", "products", ("full", "dense", "particles")),
    Side("floor: operations at the best rate", "floor", "floor", "rate", ("full", "dense", "particles")),
    Side("replay of an empty CUDA graph", "replay", "floor", "replay", ALL),
)


def sides(name: str, device: str) -> list[Side]:
    """The sides of a setting."""
    setting = Setting.parse(name)
    dense = "particles" if setting.particles > 1 else "full" if name == FULL else "dense"
    kind = dense if setting.dense else "images"
    return [side for side in SIDES if kind in side.kinds and (side.group != "replay" or device != "cpu")]


def check_steps(setting: Setting) -> list[int]:
    """Steps of the parts of the check: the losses of the last part are compared.

    On the plateau of two hidden layers (`peers.experiments.loaded`) that says less than where the loss falls, as it
    does with one: the sides build both from the same lines. Convolutions fall to the plateau of the mean image in 20
    steps, and leave it, each at a step that depends on the noise alone, in the 40 after them.
    """
    if not setting.dense:
        return [20]
    return [300 if setting.particles > 1 else max(100, 12_000 // setting.batch)] * 2


class Worker:
    """A side in a process of its own."""

    def __init__(self, side: Side, name: str, folder: Path, args: argparse.Namespace) -> None:
        job = {"setting": name, "mode": side.mode, "folder": str(folder), "device": args.device}
        threads, here = str(args.threads), str(Path(__file__).parent)
        env = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "NPROC": threads}
        env["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no pool of compilers beside the other sides
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [here, env.get("PYTHONPATH")]))
        python = args.python.get(side.module.removesuffix("_side"), sys.executable)
        command = [python, "-m", f"peers.{side.module}", json.dumps(job | {"threads": args.threads})]
        self.side, self.times, self.idle, self.steps = side, list[float](), 0.0, 3
        self.log = folder / f"{side.module}-{side.mode}.log"
        with self.log.open("w") as log:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
            self.process = subprocess.Popen(command, text=True, env=env, **pipes)

    def send(self, steps: int) -> None:
        """Ask for so many steps."""
        print(steps, file=self.process.stdin, flush=True)

    def answer(self) -> dict:
        """What it says next; {"missing": why} if it does not run here."""
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"missing": ["stopped", *self.log.read_text().splitlines()][-1]}

    def time(self) -> float:
        """Milliseconds a step, over its number of steps."""
        self.send(self.steps)
        answer = self.answer()
        if "missing" in answer:
            sys.exit(f"{self.side.name}: {answer['missing']}")
        self.idle += answer["idle"]
        return answer["seconds"] / self.steps * 1e3

    def row(self) -> dict[str, object]:
        """What was measured."""
        spread = {
            "median_ms": statistics.median(self.times),
            "fastest_ms": min(self.times),
            "slowest_ms": max(self.times),
        }
        about = {"steps_per_round": self.steps, "loss": self.loss, "note": self.note}
        return {"side": self.side.name, "group": self.side.group} | spread | about

    def close(self) -> None:
        """Let the process end."""
        self.process.stdin.close()


def started(name: str, folder: Path, args: argparse.Namespace) -> tuple[list[Worker], dict[str, str], dict[str, str]]:
    """The sides, compiled, with the losses of the same steps; why others are missing; versions."""
    setting = Setting.parse(name)
    made = images(setting)
    np.save(folder / "images.npy", made)
    if setting.dense:
        write_weights(setting, made, folder / "weights.npz")
    workers = [Worker(side, name, folder, args) for side in sides(name, args.device)]
    missing, found = dict[str, str](), versions()

    def answers() -> None:
        for worker in list(workers):
            answer = worker.answer()
            if "missing" in answer:
                missing[worker.side.name] = answer["missing"]
                workers.remove(worker)
                worker.close()
            found.update({k: v for k, v in answer.get("versions", {}).items() if k not in found})
            worker.note = answer.get("note", getattr(worker, "note", ""))
            worker.loss = answer.get("loss")

    answers()
    for worker in workers:  # one after the other: threads of several that wait for each other take ten times as long
        for steps in check_steps(setting):
            worker.send(steps)
            worker.loss = worker.answer().get("loss")
    return workers, missing, found


class Disagreement(Exception):
    """The sides of a setting do not do the same work."""


def agree(workers: list[Worker]) -> None:
    """Compare the losses."""
    losses = {worker.side.name: worker.loss for worker in workers if worker.loss is not None}
    ours = losses[OURS.name]
    if max(abs(loss - ours) for loss in losses.values()) > TOLERANCE * ours:
        raise Disagreement(f"the sides do not do the same work; their losses are {losses}")


def measure(workers: list[Worker], args: argparse.Namespace) -> float:
    """Rounds in which the sides take turns; processor time of idle sides, as a share of the time they waited."""
    begin = time.perf_counter()
    for worker in workers:
        worker.idle = 0.0
        for _ in range(3):  # until the number of steps fills the time
            worker.steps = max(3, round(args.seconds * 1e3 / worker.time()))
    for number in range(args.rounds):
        turn = number % len(workers)
        for worker in workers[turn:] + workers[:turn]:
            worker.times.append(worker.time())
    return max(worker.idle for worker in workers) / (time.perf_counter() - begin)


def compared(rows: list[dict]) -> dict[str, object]:
    """Ratios theirs / ours of sides and, by the fastest one, of groups; the floor."""
    base = next(row["median_ms"] for row in rows if row["side"] == OURS.name)
    groups: dict[str, float] = {}
    for row in rows:
        row["ratio"] = row["median_ms"] / base
        groups[row["group"]] = min(groups.get(row["group"], np.inf), row["ratio"])
    result: dict[str, object] = {"ms": base, "rows": rows, "ratios": groups}
    floors = {row["side"]: row["median_ms"] for row in rows if row["group"] == "floor"}
    if floors:
        replay = groups.pop("replay", 0.0) * base
        # On a GPU the products are timed as a graph, whose replay is in their time already.
        floors = {side: ms + replay * ("rate" in side) for side, ms in floors.items()}
        result |= {"floor_ms": min(floors.values()), "ours_to_floor": base / min(floors.values())}
        del groups["floor"]
    return result


def run(name: str, args: argparse.Namespace) -> dict[str, object]:
    """One setting."""
    print(f"\n{name}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        workers, missing, found = started(name, Path(folder), args)
        try:
            agree(workers)
            idle = measure(workers, args)
        finally:
            for worker in workers:
                worker.close()
            for worker in workers:
                worker.process.wait()
    result = compared([worker.row() for worker in workers])
    for row in result["rows"]:
        spread = f"{row['median_ms']:8.3f} ms ({row['fastest_ms']:.3f} to {row['slowest_ms']:.3f})"
        loss = "" if row["loss"] is None else f"   loss {row['loss']:.2f}"
        print(f"  {row['side']:44s} {spread:34s} theirs / ours {row['ratio']:5.2f}{loss}")
    for side, why in missing.items():
        print(f"  {side:44s} left out: {why}")
    if "floor_ms" in result:
        print(f"  ours / floor {result['ours_to_floor']:.2f}")
    if idle > 0.02:
        print(f"  idle sides used {100 * idle:.0f} % of a processor: the times are not to be trusted")
    return result | {"missing": missing, "idle_share": idle, "versions": found}


def verdict(result: dict[str, object]) -> dict[str, dict[str, object]]:
    """What is required of the setting FULL, and what was found."""
    found = {
        f"{group} / ours": {"required": f">= {least}", "found": result["ratios"].get(group)}
        for group, least in REQUIRED.items()
    }
    found["ours / floor"] = {"required": f"<= {FLOOR}", "found": result["ours_to_floor"]}
    print(f"\nrequired of {FULL}")
    for what, row in found.items():
        value, (sign, bound) = row["found"], row["required"].split()
        row["met"] = value is not None and (value >= float(bound) if sign == ">=" else value <= float(bound))
        shown = "not measured" if value is None else f"{value:.2f}"
        print(f"  {what:28s} {row['required']:8s} {shown:14s} {'met' if row['met'] else 'NOT MET'}")
    return found


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", nargs="+", default=SETTINGS, help="NETWORK/BATCH or NETWORK/BATCH/iwae-K")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of every side")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.7, help="per side and round")
    parser.add_argument(
        "--python", action="extend", nargs="*", default=[], metavar="NAME=PYTHON", help="of numpyro or pythae"
    )
    parser.add_argument("--out", type=Path, help="the result; by default written only if all settings are run")
    args = parser.parse_args()
    args.python = dict(pair.split("=", 1) for pair in args.python)
    unknown = args.python.keys() - {"numpyro", "pythae"}
    if unknown:
        parser.error(f"--python: {', '.join(unknown)}: can be numpyro or pythae")
    for name, python in args.python.items():
        if shutil.which(python) is None:
            parser.error(f"--python {name}={python}: there is no such program")
    return args


def main() -> None:
    args = parsed()
    settings, problems = dict[str, dict](), list[str]()
    for name in args.setting:
        try:
            settings[name] = run(name, args)
        except Disagreement as problem:  # the other settings took half an hour
            problems.append(f"{name}: {problem}")
    required = verdict(settings[FULL]) if FULL in settings else {}
    every = [result.pop("versions") for result in settings.values()]
    about = provenance({name: version for found in every for name, version in found.items()})
    measured = {"device": args.device, "rounds": args.rounds, "seconds_per_round": args.seconds}
    result = measured | {"settings": settings, "required": required} | about | {"threads": args.threads}
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")
    elif tuple(args.setting) == SETTINGS:
        print(write(f"training_speed_{args.device.split(':')[0]}", result))
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
