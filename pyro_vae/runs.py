"""Runs: a directory that holds one training, and everything that is done with it.

DIR/experiment.yaml    the declaration, every default filled in
DIR/environment.json   versions, machine, command, what was decided
DIR/metrics.jsonl      one JSON object a line
DIR/checkpoints/       safetensors, newest and best
DIR/result.json        the result card
DIR/posterior.nc       draws as an ArviZ DataTree, once asked for
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae import checkpoints, inference_data, latent
from pyro_vae.capture import same_random_state
from pyro_vae.data import Arrays, Data, read_input
from pyro_vae.data import load as load_data
from pyro_vae.evaluation import Scores, evaluate, prepared, score
from pyro_vae.experiment import Experiment, check, dump, experiment_from
from pyro_vae.files import read_yaml
from pyro_vae.specs import DeclarationError
from pyro_vae.training import (
    Trainer,
    build,
    choose_device,
    count_parameters,
    decide_compile,
    log,
    read_metrics,
)
from pyro_vae.vae import VAE, Batch

if TYPE_CHECKING:
    import xarray

PARTS = ("train", "validation", "test")
PACKAGES = ("pyro_vae", "torch", "pyro-ppl", "arviz", "numpy", "pydantic")
IMPORTANCE_SAMPLES = 1000
INITIAL_DATA = 10_000
"""Training data that a data-dependent start looks at, at most."""


class Run:
    """One training, in memory and on disk.

    Example:
        >>> run = load("runs/digits-20260101-120000")                           # doctest: +SKIP
        >>> run.result["log_likelihood"]["value"]                               # doctest: +SKIP
        -17.2
    """

    def __init__(self, directory: Path | str, arrays: Arrays | None = None) -> None:
        """Open a run directory.

        Args:
            directory: where it is.
            arrays: the data, for a run that was trained on data in memory.

        Raises:
            DeclarationError: it is no run directory.
        """
        self.directory = Path(directory)
        if not (self.directory / "experiment.yaml").is_file():
            raise DeclarationError(
                [f"{directory}: is no run directory (it has no experiment.yaml); `pyro-vae train` makes one."]
            )
        self._arrays = arrays
        self.experiment: Experiment = experiment_from(read_yaml(self.directory / "experiment.yaml"))

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r})"

    @cached_property
    def data(self) -> Data:
        """The data set, read and split as in training."""
        in_memory = self.environment.get("data_in_memory", False)
        if in_memory and self._arrays is None:
            raise DeclarationError(
                [f"{self.directory}: was trained on arrays in memory; give them: load(directory, data=Arrays(x, y))."]
            )
        return load_data(self.experiment.data, self.experiment.seed, self._arrays)

    @cached_property
    def vae(self) -> VAE:
        """The trained model and guide, in evaluation mode."""
        folder = self._checkpoint()
        tensors, _ = checkpoints.load(folder)
        shape = self.environment["shape"]
        vae = VAE(self.experiment.variant, tuple(shape["x"]), shape["given"], shape["masked"])
        device = choose_device(self.experiment.training.device)
        dtype = torch.float64 if self.experiment.training.precision == "float64" else torch.float32
        vae = vae.to(device=device, dtype=dtype)
        vae.load_state_dict(tensors["model"])
        return vae.eval()

    def _checkpoint(self) -> Path:
        """The checkpoint that the run ended with: the best where it stopped early, else the newest."""
        root = self.directory / "checkpoints"
        newest = checkpoints.latest(root)
        if newest is None:
            raise DeclarationError(
                [f"{self.directory}: holds no checkpoint yet; `pyro-vae train --resume {self.directory}` trains it."]
            )
        state = json.loads((newest / "state.json").read_text())
        best = state["best_step"]
        return newest if best is None else checkpoints.step_folder(root, best)

    @property
    def environment(self) -> dict[str, Any]:
        """Where and how the run was made."""
        return json.loads((self.directory / "environment.json").read_text())

    @property
    def result(self) -> dict[str, Any]:
        """The result card."""
        path = self.directory / "result.json"
        if not path.is_file():
            raise DeclarationError([f"{self.directory}: has no result yet; `pyro-vae evaluate` makes one."])
        return json.loads(path.read_text())

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return read_metrics(self.directory)

    def batch(self, part: str = "test", observations: Iterable[int] | None = None) -> Batch:
        """Data as the model sees them, binarised as in evaluation.

        Args:
            part: "train", "validation" or "test".
            observations: which of them, all by default.
        """
        if part not in PARTS:
            raise DeclarationError([f"split={part!r}: must be one of {', '.join(PARTS)}."])
        device = next(self.vae.parameters()).device
        whole = prepared(self.data, part, self.experiment, device)
        if observations is None:
            return whole
        indices = list(observations)
        beyond = [i for i in indices if not 0 <= i < whole.size]
        if beyond or not indices:
            raise DeclarationError(
                [f"observations={beyond or indices}: the {part} data are numbered from 0 to {whole.size - 1}."]
            )
        at = torch.tensor(indices, device=device)
        return whole.map(lambda tensor: tensor[at])

    def read(self, path: Path | str) -> Batch:
        """A file of the user's own data, treated as the training data were.

        Args:
            path: .npy or .npz, as for `data: {name: arrays}`.

        Raises:
            DeclarationError: its shape or values are not those that the model was trained on.
        """
        own = read_input(Path(path), self.data)
        return prepared(own, "test", self.experiment, next(self.vae.parameters()).device)

    def evaluate(
        self,
        split: str = "test",
        num_samples: int = IMPORTANCE_SAMPLES,
        progress: Callable[[int], object] = lambda n: None,
    ) -> dict[str, Any]:
        """Evaluate and write the result card.

        Args:
            split: which data.
            num_samples: K importance samples per datum.
            progress: called with the number of data just done.

        Returns:
            The card, as in result.json.
        """
        if split not in PARTS:
            raise DeclarationError([f"split={split!r}: must be one of {', '.join(PARTS)}."])
        if not len(getattr(self.data, split)):
            raise DeclarationError([f"split={split!r}: holds no data; set data.validation or choose another."])
        measured = evaluate(self.vae, self.data, self.experiment, split, num_samples, progress)
        folder = self._checkpoint()
        state, environment = json.loads((folder / "state.json").read_text()), self.environment
        seconds = {"train": state["seconds"], **measured.pop("seconds")}
        card = {
            "variant": environment["name"],
            **measured,
            "seconds": seconds,
            "epochs": state["epoch"],
            "steps": state["step"],
            "parameters": count_parameters(self.vae),
            "device": str(next(self.vae.parameters()).device),
            "precision": self.experiment.training.precision,
            "compiled": state["compiled"],
            "seed": self.experiment.seed,
            "versions": environment["versions"],
        }
        write_json(self.directory / "result.json", card)
        return card

    def score(
        self, batch: Batch, num_samples: int = IMPORTANCE_SAMPLES, progress: Callable[[int], object] = lambda n: None
    ) -> Scores:
        """Log p(x) per datum by importance sampling, with Monte Carlo standard error and k-hat."""
        if not self.experiment.variant.normalized:
            raise DeclarationError([f"{self.directory}: {why_unnormalized(self.experiment)}; there is no log p(x)."])
        with self._seeded():
            return score(self.vae, batch, num_samples, progress)

    def encode(self, batch: Batch, num_particles: int = 1) -> latent.Codes:
        """Mean and sd of q(z | x) per datum."""
        with self._seeded():
            return latent.encode(self.vae, batch, num_particles)

    def sample(self, num: int = 64, y: Tensor | None = None, seed: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Generated x, their means and the top latent, each (num, ...)."""
        with self._seeded(seed):
            return latent.sample(self.vae, num, y)

    def reconstruct(self, batch: Batch, num_draws: int = 1, seed: int | None = None) -> latent.Draws:
        """Draws from the posterior and what they reconstruct, (S, B, ...)."""
        with self._seeded(seed):
            return latent.draw_posterior(self.vae, batch, num_draws)

    def posterior(
        self, num_draws: int = 1000, observations: Iterable[int] = range(16), split: str = "test", save: bool = True
    ) -> "xarray.DataTree":
        """Draws of the guide as an ArviZ DataTree, also written to posterior.nc.

        Args:
            num_draws: S, per observation.
            observations: indices into the split.
            split: which data.
            save: whether to write posterior.nc.
        """
        chosen = list(observations)
        batch = self.batch(split, chosen)
        with self._seeded():
            draws = latent.draw_posterior(self.vae, batch, num_draws)
            given = None if batch.given is None else batch.given[:1].expand(num_draws, -1)
            prior, generated = latent.draw_prior(self.vae, num_draws, given)
        columns = [] if batch.y is None else batch.y.reshape(batch.size, -1).unbind(-1)
        assert batch.x is not None  # noqa: S101 - a batch of data
        tree = inference_data.posterior_tree(
            latents=draws.z,
            x_replicated=draws.x,
            prior=prior,
            prior_predictive=generated,
            x=batch.x,
            log_p=draws.log_p,
            log_q=draws.log_q,
            observations=chosen,
            labels=dict(zip(self.experiment.variant.labels, columns, strict=True)) if columns else {},
            label_draws=draws.y,
            attributes={
                "experiment": self.experiment.tree(),
                "versions": versions(),
                "split": split,
                "inference": "draws of the amortised guide q(z | x), independent, one chain",
            },
        )
        if save:
            inference_data.save(tree, self.directory / "posterior.nc")
        return tree

    def _seeded(self, seed: int | None = None) -> "_Seeded":
        return _Seeded(self.experiment.seed if seed is None else seed, next(self.vae.parameters()).device)


class _Seeded:
    """A random state of its own, so that the same call gives the same draws and the caller's state stays."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed, self._fork = seed, same_random_state(device)

    def __enter__(self) -> None:
        self._fork.__enter__()
        torch.manual_seed(self._seed)

    def __exit__(self, *error: Any) -> None:
        self._fork.__exit__(*error)


def why_unnormalized(experiment: Experiment) -> str:
    """Why no log p(x) is reported."""
    if not experiment.variant.guide.density:
        return "its guide is a point, not a density"
    return "its likelihood is declared unnormalised"


def train(
    experiment: Experiment | None = None,
    data: Arrays | None = None,
    out: Path | str | None = None,
    *,
    name: str | None = None,
    start_from: Run | Path | str | None = None,
    quiet: bool = False,
    num_samples: int = IMPORTANCE_SAMPLES,
) -> Run:
    """Train an experiment and evaluate it.

    Args:
        experiment: the declaration, `digits` by default.
        data: data in memory, instead of those that the experiment names.
        out: run directory, a new one under `runs/` by default.
        name: what the result card calls the variant.
        start_from: a run whose parameters to start from.
        quiet: no progress bar.
        num_samples: importance samples per datum of the evaluation.

    Returns:
        The finished run.

    Raises:
        DeclarationError: something in the declaration or the data is wrong; nothing is written.
        NumericsError: a step was not finite; the last checkpoint stays.
        Interrupted: a signal asked to stop; the state is saved.
    """
    from pyro_vae.experiment import load_experiment

    name = name or ("digits" if experiment is None else "custom")
    experiment = experiment or load_experiment("digits")
    experiment = experiment.replace(data=experiment.data.located())
    loaded = load_data(experiment.data, experiment.seed, data)
    check(experiment, loaded)
    device = choose_device(experiment.training.device)
    vae = build(experiment, loaded, device)
    if start_from is not None:
        _start_from(vae, start_from)
    else:
        _initialise(vae, loaded, experiment, device)
    folder = _new_directory(out, name)
    compiled, reason = decide_compile(experiment, loaded, device)
    write_text(folder / "experiment.yaml", dump(experiment))
    environment = _environment(name, vae, device, reason, data is not None)
    write_json(folder / "environment.json", environment)
    run = Run(folder, data)
    run.data = loaded
    log.info(reason)
    return _finish(run, Trainer(experiment, loaded, vae, folder, compiled, quiet), quiet, num_samples)


def resume(
    directory: Path | str, data: Arrays | None = None, *, quiet: bool = False, num_samples: int = IMPORTANCE_SAMPLES
) -> Run:
    """Continue a run that was stopped or killed, from its newest whole checkpoint.

    Args:
        directory: the run.
        data: the data of a run trained on data in memory.
        quiet: no progress bar.
        num_samples: importance samples per datum of the evaluation.
    """
    run = Run(directory, data)
    check(run.experiment, run.data)
    root = run.directory / "checkpoints"
    checkpoints.sweep(root)
    newest = checkpoints.latest(root)
    device = choose_device(run.experiment.training.device)
    vae = build(run.experiment, run.data, device)
    if newest is None:
        compiled = decide_compile(run.experiment, run.data, device)[0]
        _initialise(vae, run.data, run.experiment, device)
    else:
        compiled = json.loads((newest / "state.json").read_text())["compiled"]
    trainer = Trainer(run.experiment, run.data, vae, run.directory, compiled, quiet)
    if newest is not None:
        trainer.load(newest)
    return _finish(run, trainer, quiet, num_samples)


def load(directory: Path | str, data: Arrays | None = None) -> Run:
    """Open a run directory; `data` are the arrays of a run that was trained on data in memory."""
    return Run(directory, data)


def _finish(run: Run, trainer: Trainer, quiet: bool, num_samples: int) -> Run:
    trainer.run()
    run.vae = trainer.vae.eval()
    part = next(part for part in ("test", "validation", "train") if len(getattr(run.data, part)))
    run.evaluate(part, num_samples, progress_bar(len(getattr(run.data, part)), "evaluating", quiet))
    return run


def progress_bar(total: int, text: str, quiet: bool) -> Callable[[int], object]:
    """A callable that moves a progress bar on, silent where there is no terminal."""
    from tqdm.auto import tqdm

    bar = tqdm(total=total, desc=text, disable=quiet or None, leave=False)

    def forward(num: int) -> None:
        bar.update(num)
        if bar.n >= total:
            bar.close()

    return forward


def _initialise(vae: VAE, data: Data, experiment: Experiment, device: torch.device) -> None:
    """Start what knows a data-dependent start from some of the training data."""
    x = prepared(data, "train", experiment, device).x
    if x is not None:
        vae.initialise(x[:INITIAL_DATA])


def _start_from(vae: VAE, source: Run | Path | str) -> None:
    other = source if isinstance(source, Run) else Run(source)
    try:
        vae.load_state_dict(other.vae.state_dict())
    except RuntimeError as error:
        detail = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise DeclarationError(
            [f"{other.directory}: its parameters do not fit this variant ({detail}); keep latent, likelihood, "
             "guide and networks as they are there."]
        ) from None  # fmt: skip


def _new_directory(out: Path | str | None, name: str) -> Path:
    """Make a new directory for a run.

    Raises:
        DeclarationError: it exists and is not empty, or cannot be made.
    """
    folder = Path(out) if out is not None else Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    while out is None and folder.exists():
        number += 1
        folder = folder.with_name(f"{folder.name.split('.')[0]}.{number}")
    try:
        if folder.exists() and any(folder.iterdir()):
            raise DeclarationError(
                [f"{folder}: is there already and not empty; choose another --out, or --resume {folder}."]
            )
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeclarationError([f"{folder}: cannot be made ({error.strerror}); choose another --out."]) from None
    if not os.access(folder, os.W_OK):
        raise DeclarationError([f"{folder}: cannot be written to; choose another --out."])
    return folder


def _environment(name: str, vae: VAE, device: torch.device, reason: str, in_memory: bool) -> dict[str, Any]:
    shape = vae.shape
    return {
        "name": name,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions(),
        "machine": platform.machine(),
        "system": platform.system(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "compile": reason,
        "shape": {"x": list(shape.x), "given": shape.given, "masked": shape.masked},
        "data_in_memory": in_memory,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers depend on."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Write JSON, whole or not at all; numbers that are not finite become null."""
    write_text(path, json.dumps(_finite(tree), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
