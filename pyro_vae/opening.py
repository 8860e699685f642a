"""What a run directory is opened with: declaration, checkpoints, data as they were in training, the trained VAE."""

import os
from pathlib import Path
from typing import Any

import torch

from pyro_vae import checkpoints
from pyro_vae.batches import DTYPES
from pyro_vae.capture import same_random_state
from pyro_vae.data import Arrays, Data, read_input
from pyro_vae.data import load as load_data
from pyro_vae.experiment import Experiment, experiment_from
from pyro_vae.files import read_yaml
from pyro_vae.fitting import input_misfits
from pyro_vae.planning import choose_device
from pyro_vae.records import data_record, read_json
from pyro_vae.specs import DeclarationError
from pyro_vae.vae import VAE


def chosen_checkpoints(directory: Path) -> tuple[Path, Path]:
    """The newest checkpoint, and the one that holds the model: the best where training stopped early."""
    root = directory / "checkpoints"
    newest = checkpoints.latest(root)
    if newest is None:
        found = "no whole checkpoint" if checkpoints.steps(root) else "no checkpoint yet"
        raise DeclarationError([f"{directory}: holds {found}; train it anew."])
    best = read_json(newest / "state.json")["best_step"]
    return newest, newest if best is None else checkpoints.step_folder(root, best)


def read_experiment(directory: Path) -> Experiment:
    """The declaration of a run.

    Raises:
        DeclarationError: it is no run directory.
    """
    if not os.path.isfile(directory / "experiment.yaml"):  # Path.is_file raises where a name is too long
        raise DeclarationError(
            [f"{directory}: is no run directory (it has no experiment.yaml); `pyro-vae train` makes one."]
        )
    return experiment_from(read_yaml(directory / "experiment.yaml"))


def read_data(directory: Path, experiment: Experiment, environment: dict[str, Any], arrays: Arrays | None) -> Data:
    """The data set, read and split as in training.

    Args:
        directory: of the run.
        experiment: its declaration.
        environment: its environment.json.
        arrays: the data of a run that was trained on data in memory.

    Raises:
        DeclarationError: the data are others than those of the training, or in memory and not given.
    """
    if environment.get("data_in_memory", False) and arrays is None:
        raise DeclarationError(
            [f"{directory}: was trained on arrays in memory; give them: load(directory, data=Arrays(x, y))."]
        )
    data, spec = load_data(experiment.data, experiment.seed, arrays), experiment.data
    now, then = data_record(data), environment.get("data", {})
    changed = [f"{what} {now[what]}, and was {then[what]}" for what in now if now[what] != then.get(what, now[what])]
    if changed:
        raise DeclarationError(
            [
                f"{spec.where()}: is not what {directory} was trained on: {'; '.join(changed)}. Restore the data, or "
                "train again; new data are scored and encoded with --input."
            ]
        )
    return data


def read_own(path: Path, data: Data, experiment: Experiment, need_labels: bool) -> Data:
    """A file of the user's own, treated as the data of the training were; it is the test part.

    Raises:
        DeclarationError: its shape or values are not those that the model was trained on.
    """
    own = read_input(path, data, experiment.data)
    problems = input_misfits(experiment.variant, experiment.data, own, need_labels)
    if problems:
        raise DeclarationError([f"--input {path}: {problem}" for problem in problems])
    return own


def read_vae(directory: Path, experiment: Experiment, environment: dict[str, Any]) -> VAE:
    """The trained model and guide, in evaluation mode."""
    tensors, _ = checkpoints.load(chosen_checkpoints(directory)[1])
    shape, training = environment["shape"], experiment.training
    built = tuple(shape["x"]), shape["given"], shape["masked"], experiment.data.standardize
    with same_random_state(torch.device("cpu")):  # the start that is drawn here is overwritten below
        vae = VAE(experiment.variant, *built)
    device = choose_device(training.device if torch.cuda.is_available() else "cpu")  # trained on a GPU, read anywhere
    vae = vae.to(device=device, dtype=DTYPES[training.precision])
    checkpoints.restore(vae, tensors["model"], directory)
    return vae.eval()
