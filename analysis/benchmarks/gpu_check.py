"""Run the tests that need a GPU and record on what they passed.

    python analysis/benchmarks/gpu_check.py

Writes analysis/results/gpu.json: commit, machine, date, and pytest's closing line.
"""

import subprocess
import sys
from pathlib import Path

import torch
from common import provenance, write

from pyro_vae.records import versions

ROOT = Path(__file__).parent.parent.parent


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("There is no GPU here: nothing was run and nothing is recorded.")
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q"]
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(result.stdout)
    closing = result.stdout.strip().splitlines()[-1]
    print(write("gpu", {"exit_code": result.returncode, "pytest": closing, **provenance(versions())}))
    sys.exit(result.returncode)


if __name__ == "__main__":
    main()
