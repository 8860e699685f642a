"""The result card of a run: what an evaluation measured, beside what is known of the training."""

from pathlib import Path
from typing import Any

from pyro_vae.experiment import Experiment
from pyro_vae.opening import chosen_checkpoints
from pyro_vae.planning import count_parameters
from pyro_vae.records import read_json
from pyro_vae.vae import VAE


def result_card(
    directory: Path, experiment: Experiment, environment: dict[str, Any], vae: VAE, measured: dict[str, Any]
) -> dict[str, Any]:
    """The card, as in result.json.

    Args:
        directory: of the run.
        experiment: its declaration.
        environment: its environment.json.
        vae: the trained model.
        measured: what `evaluation.evaluate` gave.
    """
    last, state = (read_json(folder / "state.json") for folder in chosen_checkpoints(directory))
    return {
        "variant": environment["name"],
        **measured,
        "seconds": {"train": last["seconds"], **measured["seconds"]},
        "epochs": state["epoch"],
        "steps": state["step"],
        "parameters": count_parameters(vae),
        "device": str(next(vae.parameters()).device),
        "precision": experiment.training.precision,
        "compiled": state["compiled"],
        "seed": experiment.seed,
        "versions": environment["versions"],
    }
