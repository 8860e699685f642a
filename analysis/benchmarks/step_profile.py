"""What a training step spends its time on, kernel by kernel, beside the matrix products that it cannot do without.

    python analysis/benchmarks/step_profile.py [784-400-20/128] [--mode recorded] [--device cuda] [--json FILE]

The step is that of `pyro_vae.train`, as in `training_speed.py`. Of every kernel: calls and microseconds a step, its
own time only, and its share; what is left of the step is the host between kernels. A profiled step is slower than
one that is not: the first line has both. Of the floor's products: the same, each timed back to back.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch._inductor.config as inductor
from common import provenance
from peers import floor, ours
from peers.worker import Job, Run, Setting, images
from torch.profiler import ProfilerActivity, profile

from pyro_vae.records import versions


def milliseconds(run: Run, steps: int) -> float:
    start = time.perf_counter()
    run(steps)  # ends by reading the loss, which waits for the device
    return (time.perf_counter() - start) / steps * 1e3


def kernels(run: Run, steps: int, device: str) -> tuple[list[dict[str, object]], float]:
    """Rows of the table, the largest first, and milliseconds a profiled step."""
    gpu = device.startswith("cuda")
    activities = [ProfilerActivity.CUDA] if gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as found:
        took = milliseconds(run, steps)
    rows = []
    for event in found.key_averages():
        total = event.self_device_time_total if gpu else event.self_cpu_time_total
        if total > 0:
            each = {"calls_per_step": event.count / steps, "us_per_step": total / steps}
            rows.append({"kernel": event.key} | each | {"share": total / steps / took / 1e3})
    return sorted(rows, key=lambda row: -row["us_per_step"]), took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", nargs="?", default="784-400-20/128", help="as of training_speed.py")
    parser.add_argument("--mode", default="compiled", choices=["compiled", "recorded", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--top", type=int, default=40, help="rows to print")
    parser.add_argument("--json", type=Path, help="write all rows there")
    args = parser.parse_args()
    inductor.cpp.enable_kernel_profile = True  # compiled kernels have names
    setting = Setting.parse(args.setting)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", images(setting))
        job = Job(setting, args.mode, Path(folder), args.device, args.threads)
        run, about = ours.build(job)
    run(20)
    alone = milliseconds(run, args.steps)
    rows, took = kernels(run, args.steps, args.device)
    rest = took * 1e3 - sum(row["us_per_step"] for row in rows)
    print(f"{args.setting}, {about['note']}: {alone:.3f} ms a step, {took:.3f} ms profiled")
    print(f"{'kernel':72s} {'calls':>7s} {'us a step':>10s} {'share':>7s}")
    for row in rows[: args.top]:
        each = f"{row['calls_per_step']:7.2f} {row['us_per_step']:10.1f} {100 * row['share']:6.1f}%"
        print(f"{row['kernel'][:72]:72s} {each}")
    print(f"{'between kernels':72s} {'':7s} {rest:10.1f} {rest / took / 10:6.1f}%")
    result = {"setting": args.setting, "ms": alone, "profiled_ms": took, "kernels": rows, "rest_us": rest}
    if setting.dense:
        result["floor"] = below(job, alone)
    if args.json:
        args.json.write_text(json.dumps(result | provenance(versions()), indent=2) + "\n")


def below(job: Job, took: float) -> dict[str, float]:
    """Microseconds of each layer's products alone, and the step's time over their sum."""
    found = {}
    for rows, inputs, outputs, number in floor.layers(job):
        call = floor.replayed(job, floor.product(job, rows, inputs, outputs, number))
        floor.seconds(job, call, 20)
        found[f"{rows} x {inputs} x {outputs}, {number} products"] = floor.seconds(job, call, 300) / 300 * 1e6
    print("\nmatrix products alone")
    for name, each in found.items():
        print(f"{name:72s} {'':7s} {each:10.1f}")
    total = sum(found.values())
    print(f"{'sum; step / sum':72s} {'':7s} {total:10.1f} {took * 1e3 / total:7.2f}")
    return found


if __name__ == "__main__":
    main()
