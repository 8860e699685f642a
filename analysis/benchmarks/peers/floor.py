"""The matrix products of a step and nothing else: what no implementation can go below.

`products`: those very products, forward and backward, back to back into memory that is there already; the input
layer has no gradient of its input. On a GPU they are one CUDA graph. `rate`: as many operations at the rate of the
best of a few large products. `replay`: the replay of a CUDA graph that holds one trivial operation.
"""

import time
from collections.abc import Callable

import torch
from peers.worker import Job, Run, serve

LARGE = (512, 1024, 2048, 4096)
"""Sizes of square products; the best rate counts."""

type Call = Callable[[], object]


def layers(job: Job) -> list[tuple[int, int, int, int]]:
    """(rows, inputs, outputs, number of products) of each layer."""
    setting = job.setting
    encoder = [(setting.batch, *layer, 3 if i else 2) for i, layer in enumerate(setting.encoder)]
    return encoder + [(setting.batch * setting.particles, *layer, 3) for layer in setting.decoder]


def product(job: Job, rows: int, inputs: int, outputs: int, number: int) -> Call:
    """The products of a layer: forward, gradient of the weights, and with three of them that of the input."""
    sizes = (rows, inputs), (outputs, inputs), (rows, outputs), (outputs, inputs), (rows, inputs)
    x, w, y, dw, dx = (torch.randn(*size, device=job.device) for size in sizes)
    products = [(x, w.t(), y), (y.t(), x, dw), (y, w, dx)][:number]

    def call() -> None:
        for left, right, out in products:
            torch.mm(left, right, out=out)

    return call


def step(job: Job) -> Call:
    """The products of all layers."""
    calls = [product(job, *layer) for layer in layers(job)]

    def call() -> None:
        for each in calls:
            each()

    return replayed(job, call)


def replayed(job: Job, call: Call) -> Call:
    """The call, on a GPU as a CUDA graph: launches would take longer than small products."""
    return graph(call) if job.device.startswith("cuda") else call


def graph(call: Call) -> Call:
    """The call as a CUDA graph."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    made = torch.cuda.CUDAGraph()
    with torch.cuda.graph(made):
        call()
    return made.replay


def seconds(job: Job, call: Call, times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
    if job.device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def square(job: Job, size: int) -> Call:
    a, b, out = (torch.randn(size, size, device=job.device) for _ in range(3))
    return lambda: torch.mm(a, b, out=out)


def large(job: Job) -> tuple[Call, int]:
    """The product of the best rate, and its operations."""
    rates = {}
    for size in LARGE if job.device.startswith("cuda") else LARGE[:-1]:
        call = square(job, size)
        seconds(job, call, 2)
        rates[size] = max(2 * size**3 / seconds(job, call, 1) for _ in range(5))
    best = max(rates, key=rates.__getitem__)
    return square(job, best), 2 * best**3


def build(job: Job) -> tuple[Run, dict]:
    torch.set_num_threads(job.threads)
    operations = sum(2 * rows * inputs * outputs * number for rows, inputs, outputs, number in layers(job))
    if job.mode == "rate":
        call, size = large(job)
        share = operations / size  # of a large product, one step
    elif job.mode == "products":
        call, share = step(job), 1.0
    else:
        one = torch.ones(1, device=job.device)
        call, share = graph(lambda: one.mul_(1)), 1.0

    def run(steps: int) -> float:
        """Seconds of so many steps."""
        times = max(1, round(steps * share))
        return seconds(job, call, times) * steps * share / times

    return run, {"versions": {"torch": torch.__version__}, "note": f"{operations / 1e6:.1f} million operations a step"}


if __name__ == "__main__":
    serve(build, timed=True)
