"""What is decided before computing: the device, the number of threads, and whether and how to record and compile."""

import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.fx import GraphModule

from pyro_vae.data import Data
from pyro_vae.distributed import World, described
from pyro_vae.experiment import Experiment
from pyro_vae.lowering import for_compiler
from pyro_vae.specs import DeclarationError
from pyro_vae.vae import VAE
from pyro_vae.variant import Variant

COMPILE_PAYS = {"cpu": 20_000, "cuda": 5_000}
"""Planned steps from which a compilation (6 to 40 s cold) repays itself, at 1 to 2 ms saved a step on a CPU."""
RECORDING_PAYS = 500
"""Calls of a function from which recording it (about a second) repays itself, at 2 ms of effect handlers in each."""
COMPILED_CALLS_PAY = {"cpu": 2**32, "cuda": 2**40}
"""Numbers in the widest tensors of all calls from which compiling it repays itself; a CPU saves 5 ns a number."""
SMALL_STEP = 10_000_000
"""Multiplications per pass, parameters x batch x classes x draws, below which a step takes about a millisecond."""


def choose_device(name: str) -> torch.device:
    """The device of a declaration; `auto` is a GPU where there is one, of several processes one for each.

    Raises:
        DeclarationError: a GPU is asked for where there is none.
    """
    world = described()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and world.size > 1:
        return _own_gpu(device, world)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        number = torch.cuda.device_count() or "no"
        raise DeclarationError([f"training.device={name!r}: {number} GPU is visible here; use auto or cpu."])
    return device


def _own_gpu(device: torch.device, world: World) -> torch.device:
    """The GPU of this process, one of several on this machine."""
    number, there = world.local_size, torch.cuda.device_count()
    if device.index is not None:
        advice = "cuda takes one for each, and a single process is started without torchrun"
        raise DeclarationError([f"training.device='{device}': is one GPU, for {number} processes; {advice}."])
    if number > there:
        advice = f"start torchrun with --nproc-per-node {there}, or set training.device=cpu" if there else "use cpu"
        raise DeclarationError([f"training.device='cuda': {number} processes and {there or 'no'} GPU here; {advice}."])
    torch.cuda.set_device(world.local_rank)
    return torch.device("cuda", world.local_rank)


def check_world(experiment: Experiment, world: World) -> None:
    """Refuse more processes than there are data in a batch.

    Raises:
        DeclarationError: some would have nothing to do.
    """
    size = experiment.training.batch_size
    if size < world.size:
        advice = "raise it, or start fewer with torchrun --nproc-per-node"
        raise DeclarationError(
            [f"training.batch_size={size}: is shared by {world.size} processes, which need a datum each; {advice}."]
        )


def choose_threads(experiment: Experiment, vae: VAE) -> int:
    """Threads of the training steps on a CPU: one where a step is so small that a second one only waits.

    Two threads that wait for one another in every operation are no faster on an idle machine, and twenty
    times slower on a busy one. Several processes share the cores of their machine, unless OMP_NUM_THREADS, which
    torchrun sets to 1, says how many each takes.
    """
    variant, world = experiment.variant, described()
    dense = not (variant.encoder.image_only or variant.decoder.image_only)
    rows = experiment.training.batch_size * variant.cells * experiment.objective.draws()
    work = rows * count_parameters(vae) / world.size
    share = 1 if "OMP_NUM_THREADS" in os.environ else world.local_size
    return 1 if dense and work < SMALL_STEP else max(1, torch.get_num_threads() // share)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Compute with that many threads, and with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def planned_steps(experiment: Experiment, data: Data) -> int:
    """Steps of the whole training; a short last batch is dropped in each epoch."""
    return experiment.training.epochs * (len(data.train) // experiment.training.batch_size)


def decide_compile(experiment: Experiment, data: Data, device: torch.device) -> tuple[bool, str]:
    """Whether to compile the step, and why, from the declaration alone and never by timing."""
    wish, capturable = experiment.training.compile, experiment.variant.capturable and experiment.objective.capturable
    steps = planned_steps(experiment, data)
    if not capturable:
        return False, "a part of this variant cannot be recorded: the eager program runs"
    if wish == "off":
        return False, "compile=off: the recorded graph runs uncompiled"
    if device.type == "cpu" and not _has_compiler():
        return False, (
            "no C++ compiler with Python's headers was found: the recorded graph runs uncompiled; install g++ and "
            "python3-dev for speed"
        )
    if wish == "on":
        return True, "compile=on"
    pays = COMPILE_PAYS[device.type]
    relation = "repay" if steps >= pays else "do not repay"
    return steps >= pays, f"compile=auto: {steps} planned steps {relation} a compilation (from {pays})"


type Treatment = Literal["eager", "recorded", "compiled"]


def choose_treatment(
    variant: Variant, calls: int, numbers: int, device: torch.device, compile: Literal["auto", "on", "off"]
) -> Treatment:
    """What to do with a function of the densities before it is called again and again; never by timing.

    Args:
        variant: the declaration.
        calls: planned, of the function.
        numbers: in the widest tensor of a call, over all calls.
        device: that it runs on.
        compile: `off` forbids it.
    """
    if not variant.capturable or calls < RECORDING_PAYS:
        return "eager"
    pays = compile != "off" and numbers >= COMPILED_CALLS_PAY[device.type]
    return "compiled" if pays and (device.type == "cuda" or _has_compiler()) else "recorded"


def _has_compiler() -> bool:
    """Whether a C++ compiler and Python's headers, which compiled steps include, are there."""
    compiler = (os.environ.get("CXX") or "g++").split()[0]
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return shutil.which(compiler) is not None and headers.exists()


def compile_step[T: Callable[..., Any]](step: T, device: torch.device) -> T:
    """Compile a step, or half of one; on a GPU with CUDA graphs, on a CPU with PyTorch's own random numbers.

    With the latter a compiled step draws what an uncompiled one draws, at no cost that could be measured. Each
    compiled step has code of its own: PyTorch keeps what it compiled by code object, and few versions of each,
    so that the ninth training of a process would fail. The shapes of a training never change, so that the
    checks that would choose among versions, a twentieth of a small step, are left out, and so are those of indices
    and strides inside, which stand in the innermost loops: the recorded program has run with all of them.
    """
    function = cast(FunctionType, step)
    own = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    return cast(T, torch.compile(own, fullgraph=True, dynamic=False, options=_options(device)))


def compile_recording(recorded: GraphModule, device: torch.device) -> Any:
    """Compile a recording, which has code of its own, like a step."""
    return torch.compile(for_compiler(recorded, device), fullgraph=True, dynamic=False, options=_options(device))


def _options(device: torch.device) -> dict[str, Any]:
    options: dict[str, Any] = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
    options |= dict.fromkeys(("assert_indirect_indexing", "size_asserts", "alignment_asserts"), False)
    # Without patterns, which would put sums and products together again; the calls of the kernels in C++ take a
    # seventh less of a small step than in Python, and compile no slower.
    cpu = {"fallback_random": True, "pattern_matcher": False, "cpp_wrapper": True}
    return options | ({"triton.cudagraphs": True} if device.type == "cuda" else cpu)


def count_parameters(module: nn.Module) -> int:
    """Number of learned numbers."""
    return sum(parameter.numel() for parameter in module.parameters())
