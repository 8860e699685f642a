"""What every benchmark writes beside its numbers, and where."""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

RESULTS = Path(__file__).parent.parent / "results"


def machine() -> str:
    """Processor, cores and GPU in words."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {os.cpu_count()} cores{gpu}"


def placeless(argument: str) -> str:
    """An argument without where things are on this machine, which is of no interest elsewhere."""
    name, equals, value = argument.rpartition("=")
    return f"{name}{equals}PATH" if value.startswith("/") else argument


def provenance(versions: dict[str, str]) -> dict[str, object]:
    """Command, date, commit, machine and versions."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "command": " ".join(["python", str(Path(sys.argv[0])), *map(placeless, sys.argv[1:])]),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "versions": versions,
    }


def write(name: str, result: dict[str, object]) -> Path:
    """Write analysis/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path
