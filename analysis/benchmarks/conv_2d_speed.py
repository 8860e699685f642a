"""`conv-2d` on MNIST: seconds per epoch, beside the same network in Keras 3.

    PYRO_VAE_DATA=FOLDER python analysis/benchmarks/conv_2d_speed.py [--rounds 3] [--keras-python PYTHON]

Both sides train epochs in turn, from scratch, on all 60,000 images with batches of 128 and Adam; printed are medians
over the rounds and their ratio, and the training criterion of each side as a check that they do the same work.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import provenance, write

import pyro_vae as pv
from pyro_vae.batches import build
from pyro_vae.data import load
from pyro_vae.launch import initialise
from pyro_vae.records import versions
from pyro_vae.training import Trainer

PIXELS = 784


class Ours:
    """The trainer's own compiled step, an epoch at a time."""

    def __init__(self, experiment: pv.Experiment, data: pv.Data, folder: Path) -> None:
        device = torch.device("cpu")
        self.vae = build(experiment, data, device)
        initialise(self.vae, data, experiment, device)
        self.trainer, self.epochs = Trainer(experiment, data, self.vae, folder, compiled=True, quiet=True), 0

    def epoch(self) -> tuple[float, float]:
        """Seconds and training criterion of one epoch."""
        trainer = self.trainer
        plan = trainer.plan(self.epochs)
        trainer.state.position.zero_()
        trainer.state.totals.zero_()
        start = time.perf_counter()
        with torch.no_grad():
            for _ in range(trainer.steps_per_epoch):
                trainer.step(trainer.state, plan, trainer.train_data)
        count, loss, *_ = trainer.state.totals.tolist()
        self.epochs += 1
        return time.perf_counter() - start, loss / count / PIXELS


class Keras:
    """`keras_conv_2d.py` in a process of its own, which computes only when asked."""

    def __init__(self, python: str, experiment: pv.Experiment, data: pv.Data, folder: Path) -> None:
        np.save(folder / "images.npy", data.train.x[:, 0].numpy())
        training, script = experiment.training, Path(__file__).parent / "keras_conv_2d.py"
        rate = training.optimizer.learning_rate
        command = [python, str(script), str(folder / "images.npy"), str(training.batch_size), str(rate)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit("Keras did not start: pip install '.[bench]', or name an environment that has it: --keras-python")
        return json.loads(line)

    def epoch(self) -> tuple[float, float]:
        """Seconds and training criterion of one epoch."""
        print(file=self.process.stdin, flush=True)
        answer = self._answer()
        return answer["seconds"], answer["criterion"]


def speed(rounds: int, keras_python: str) -> dict[str, object]:
    """Seconds per epoch of both sides, in turn."""
    experiment = pv.load_experiment("conv-2d", ["data.validation=0", "training.schedule.kind=constant"])
    data = load(experiment.data)
    with tempfile.TemporaryDirectory() as folder:
        keras = Keras(keras_python, experiment, data, Path(folder))
        sides = {"pyro_vae": Ours(experiment, data, Path(folder)), "Keras 3": keras}
        seconds, criteria = ({name: [] for name in sides} for _ in range(2))
        for number in range(rounds + 1):  # the first epoch compiles
            for name, side in sides.items():
                took, criterion = side.epoch()
                print(f"epoch {number + 1}, {name}: {took:.1f} s, training criterion {criterion:.4f}", flush=True)
                criteria[name].append(criterion)
                if number:
                    seconds[name].append(took)
        keras.process.stdin.close()
        keras.process.wait()
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "seconds_per_epoch": median,
        "range": {name: [min(values), max(values)] for name, values in seconds.items()},
        "ratio": median["Keras 3"] / median["pyro_vae"],
        "training_criterion": criteria,
        "rounds": rounds,
        "keras": keras.about,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="timed epochs of each side")
    parser.add_argument("--keras-python", default=sys.executable, help="a Python that has keras and a backend")
    args = parser.parse_args()
    timed = speed(args.rounds, args.keras_python)
    for name, seconds in timed["seconds_per_epoch"].items():
        print(f"{name:10s} {seconds:6.1f} s per epoch")
    print(f"ratio      {timed['ratio']:6.2f}")
    print(write("conv_2d_speed", timed | provenance(versions())))


if __name__ == "__main__":
    main()
