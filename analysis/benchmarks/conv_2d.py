"""`conv-2d` on MNIST: its test criterion after training.

    PYRO_VAE_DATA=FOLDER python analysis/benchmarks/conv_2d.py [--run DIR]

`pyro-vae train conv-2d` runs as declared, or, with --run, a finished run is taken, and

    criterion = mean cross-entropy per pixel + 10^-3 mean KL per latent dimension

is measured on the test images. `conv_2d_speed.py` times its epochs.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from common import RESULTS, provenance, write

import pyro_vae as pv
from pyro_vae import plots
from pyro_vae.evaluation import score
from pyro_vae.records import versions

SAMPLES = 10


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
    parser.add_argument("--run", help="a finished run of conv-2d, instead of a new one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = args.run or str(Path(folder) / "run")
        if not args.run:
            command = [sys.executable, "-m", "pyro_vae", "train", "conv-2d", "--out", out, "--json"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        run = pv.load(out)
        found, epochs = criterion(run), run.result["epochs"]
        picture(run)
    print(f"test criterion after {epochs} epochs: {found['value']:.4f} ± {found['standard_error']:.4f}")
    print(write("conv_2d", {"criterion": found, "epochs": epochs, **provenance(versions())}))


if __name__ == "__main__":
    main()
