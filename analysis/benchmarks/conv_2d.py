"""`conv-2d` on MNIST: its test criterion after training, and seconds per epoch beside the same network in Keras 3.

    PYRO_VAE_DATA=FOLDER python analysis/benchmarks/conv_2d.py [--rounds 3] [--run DIR] [--keras-python PYTHON]

First both sides train epochs in turn, from scratch, on all 60,000 images with batches of 128 and Adam; printed
are medians over the rounds and their ratio, and the training criterion of each side as a check that they do the
same work. Then `pyro-vae train conv-2d` runs as declared, or, with --run, a finished run is taken, and

    criterion = mean cross-entropy per pixel + 10^-3 mean KL per latent dimension

is measured on the test images.
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
from common import RESULTS, provenance, write

import pyro_vae as pv
from pyro_vae import plots
from pyro_vae.batches import build
from pyro_vae.data import load
from pyro_vae.evaluation import score
from pyro_vae.launch import initialise
from pyro_vae.records import versions
from pyro_vae.training import Trainer

PIXELS, SAMPLES = 784, 10


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


def criterion(run: pv.Run) -> dict[str, float]:
    """The test criterion and its standard error over images."""
    batch = run.batch("test")
    torch.manual_seed(0)
    scores = score(run.vae, batch, SAMPLES)
    pixels, beta = run.vae.numel, run.experiment.objective.beta
    values = (-scores.reconstruction + beta * scores.kl) / pixels
    cross_entropy, kl = -scores.reconstruction.mean() / pixels, scores.kl.mean() / 2
    error = values.std() / len(values) ** 0.5
    return {
        "value": float(values.mean()),
        "standard_error": float(error),
        "cross_entropy_per_pixel": float(cross_entropy),
        "kl_per_dimension": float(kl),
        "num_data": len(values),
    }


def picture(run: pv.Run) -> Path:
    """Reconstructions and the latent space."""
    axes = pv.latent_scatter(run.encode(run.batch()).mean["z"].numpy(), run.data.test.attributes["digit"].numpy())
    axes.set_title("conv-2d: 10,000 test images at the means of q(z | x)", fontsize=10)
    return plots.save(axes.figure, RESULTS / "conv_2d.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="timed epochs of each side")
    parser.add_argument("--run", help="a finished run of conv-2d, instead of a new one")
    parser.add_argument("--keras-python", default=sys.executable, help="a Python that has keras and a backend")
    args = parser.parse_args()
    timed = speed(args.rounds, args.keras_python)
    with tempfile.TemporaryDirectory() as folder:
        out = args.run or str(Path(folder) / "run")
        if not args.run:
            command = [sys.executable, "-m", "pyro_vae", "train", "conv-2d", "--out", out, "--json"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        run = pv.load(out)
        found, epochs = criterion(run), run.result["epochs"]
        picture(run)
    print(f"test criterion after {epochs} epochs: {found['value']:.4f} ± {found['standard_error']:.4f}")
    for name, seconds in timed["seconds_per_epoch"].items():
        print(f"{name:10s} {seconds:6.1f} s per epoch")
    print(f"ratio      {timed['ratio']:6.2f}")
    result = {"criterion": found, "epochs": epochs, "speed": timed, **provenance(versions())}
    print(write("conv_2d", result))


if __name__ == "__main__":
    main()
