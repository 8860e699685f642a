"""Random states in checkpoints: those of every process, so that one that goes on draws what it would have drawn."""

import torch
from torch import Tensor

from pyro_vae.distributed import World, derived


def saved(world: World, device: torch.device) -> dict[str, Tensor]:
    """The states of all processes by name; those of the first one without a number."""
    own = {"random_state": torch.get_rng_state()}
    if device.type == "cuda":
        own["random_state_cuda"] = torch.cuda.get_rng_state(device)
    return {
        f"{name}_{rank}" if rank else name: state
        for rank, states in enumerate(world.gather(own))
        for name, state in states.items()
    }


def restore(states: dict[str, Tensor] | None, world: World, device: torch.device, seed: int, step: int) -> None:
    """Seed a fresh training; give one that goes on the random state that it had.

    A process that there was not when the checkpoint was made begins a stream of its own.

    Args:
        states: what `saved` gave, perhaps among other tensors; None for a fresh training.
        world: the processes that train together.
        device: of the training.
        seed: of the experiment.
        step: steps done.
    """
    suffix = "" if world.first else f"_{world.rank}"
    if states is None:
        torch.manual_seed(world.seed(seed))
    elif f"random_state{suffix}" not in states:
        torch.manual_seed(derived(seed, world.rank, step))
    else:
        torch.set_rng_state(states[f"random_state{suffix}"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(states[f"random_state_cuda{suffix}"], device)
