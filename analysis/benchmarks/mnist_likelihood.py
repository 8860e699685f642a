"""log p(x) of `mnist-mlp` on the dynamically binarised MNIST test set, as the command line gives it.

    PYRO_VAE_DATA=FOLDER python analysis/benchmarks/mnist_likelihood.py [key=value ...]

Trains with `pyro-vae train mnist-mlp`, evaluates all 10,000 test images with 1000 importance samples, and
writes the result card and a picture of reconstructions into analysis/results/.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from common import RESULTS, provenance, write

import pyro_vae as pv
from pyro_vae import plots


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "pyro_vae", "train", "mnist-mlp", *sys.argv[1:], "--out", str(out), "--json"]
        card = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        card.pop("run")
        run = pv.load(out)
        draws = run.reconstruct(run.batch("test", range(12)))
        x, mean = run.batch("test", range(12)).x, draws.x_mean[0]
        _, generated, _ = run.sample(24, seed=1)
        picture = plots.data_figure(
            torch.cat([x, mean, generated]).cpu().numpy(),
            "MNIST: binarised test images, their reconstructions E[x | z], and two rows drawn from the prior",
            columns=12,
            row_labels=("x", "E[x | z]", "prior", "prior"),
        )
        RESULTS.mkdir(exist_ok=True)
        plots.save(picture, RESULTS / "mnist_mlp.png")
    versions = card.pop("versions")
    print(write("mnist_mlp", {"card": card, **provenance(versions)}))


if __name__ == "__main__":
    main()
