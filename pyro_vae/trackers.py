"""Trackers: programs that show the curves of many trainings side by side, fed while these run.

    tracker.open(declared, folder, step, known) -> TrackerLog
    log.write(values, step)                                  every epoch, and once the figures of the result card
    log.close(whole)                                         at the end, however it ends

`declared` is the flattened declaration, "training.epochs" -> 100; names of values are like "train/elbo". A tracker is
served by `callbacks.Tracked`: a failure of `open` is reported and nothing is trained; of `write` and `close`, it is
a warning.
"""

import os
import time
from importlib.util import find_spec
from itertools import batched
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pyro_vae.specs import Part, Table

type Word = Annotated[str, Field(min_length=1)]
type Declared = dict[str, bool | int | float | str]


class TrackerLog:
    """One training in a tracker; abstract."""

    name: str | None = None
    """By which the tracker knows the training; kept in the run directory, and given to `open` when it is resumed."""

    def write(self, values: dict[str, float], step: int) -> None:
        """Add values of a step."""
        raise NotImplementedError

    def close(self, whole: bool) -> None:
        """Write what is pending; `whole`: the training and its evaluation came to their end."""


class Tracker(Part):
    """Abstract spec of a tracker."""

    module: ClassVar[str | None] = None
    """What `open` imports and may be missing."""
    install: ClassVar[str] = ""
    """What pip installs it by."""

    def missing(self) -> bool:
        """Whether its package is not installed; a folder that is called like it is none."""
        found = None if self.module is None else find_spec(self.module)
        return self.module is not None and (found is None or found.origin is None)

    def open(self, declared: Declared, folder: Path, step: int, known: str | None) -> TrackerLog:
        """Start a training in the tracker, or go on with one.

        Args:
            declared: the flattened declaration.
            folder: the run directory.
            step: steps done before; values of later steps will be written again.
            known: the `name` of its log, of a training that is resumed.
        """
        raise NotImplementedError


class TensorBoard(Tracker):
    """TensorBoard: event files in DIR/tensorboard, which `tensorboard --logdir runs` shows; no network."""

    module = "tensorboard"
    install = "pyro_vae[tensorboard]"

    kind: Literal["tensorboard"] = "tensorboard"

    def open(self, declared: Declared, folder: Path, step: int, known: str | None) -> TrackerLog:
        """Add an event file to those of the run."""
        return TensorBoardLog(declared, folder / "tensorboard", step)


class TensorBoardLog(TrackerLog):
    """An event file."""

    def __init__(self, declared: Declared, folder: Path, step: int) -> None:
        """Open it; events of steps that are done again are hidden."""
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self.writer = SummaryWriter(folder, purge_step=step + 1 if step else None)
        if step == 0:
            lines = "".join(f"    {name}: {value}\n" for name, value in declared.items())
            self.writer.add_text("experiment", lines, 0)
            events: Any = self.writer.file_writer  # there from the start
            for summary in hparams(declared, {"result/log_likelihood": 0, "result/elbo": 0}):  # its column of figures
                events.add_summary(summary)

    def write(self, values: dict[str, float], step: int) -> None:
        """Add values; a file that is looked at while it grows is flushed."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self, whole: bool) -> None:
        """Close the file."""
        self.writer.close()


class MLflow(Tracker):
    """MLflow: a run at MLFLOW_TRACKING_URI, or in its local store."""

    module = "mlflow"
    install = "pyro_vae[mlflow]"

    kind: Literal["mlflow"] = "mlflow"
    experiment: Word | None = None
    """MLflow's experiment; by default MLFLOW_EXPERIMENT_NAME, or `Default`."""

    def open(self, declared: Declared, folder: Path, step: int, known: str | None) -> TrackerLog:
        """Create a run of MLflow's, or go on in a known one."""
        experiment = self.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")
        return MLflowLog(experiment, declared, folder.name, known)


class MLflowLog(TrackerLog):
    """A run of MLflow's, by its client alone: what the caller has active there stays."""

    def __init__(self, experiment: str, declared: Declared, title: str, known: str | None) -> None:
        """Create it with the declaration as parameters, or set a known one running."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self.client = MlflowClient()
        if known is not None:
            self.client.update_run(known, status="RUNNING")
        else:
            found = self.client.get_experiment_by_name(experiment)
            owner = found.experiment_id if found else self.client.create_experiment(experiment)
            known = self.client.create_run(owner, run_name=title).info.run_id
            for some in batched(declared.items(), 100):  # more at once are refused
                self.client.log_batch(known, params=[Param(name, str(value)) for name, value in some])
        self.name: str = known

    def write(self, values: dict[str, float], step: int) -> None:
        """Log values as metrics."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(self.name, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def close(self, whole: bool) -> None:
        """Set its status."""
        self.client.set_terminated(self.name, "FINISHED" if whole else "KILLED")


class WandB(Tracker):
    """Weights & Biases: a run of the account that `wandb login` names; WANDB_MODE=offline keeps it in DIR/wandb."""

    module = "wandb"
    install = "pyro_vae[wandb]"

    kind: Literal["wandb"] = "wandb"
    project: Word | None = None
    """The project; by default WANDB_PROJECT, or what the account has for runs of none."""

    def open(self, declared: Declared, folder: Path, step: int, known: str | None) -> TrackerLog:
        """Start a run of W&B's, or go on in a known one."""
        return WandBLog(self.project, declared, folder, known)


class WandBLog(TrackerLog):
    """A run of W&B's beside those that the caller may have."""

    def __init__(self, project: str | None, declared: Declared, folder: Path, known: str | None) -> None:
        """Start it; what the training prints stays on the terminal."""
        import wandb

        self.run: Any = wandb.init(
            project=project,
            name=folder.name,
            id=known,
            resume="allow",
            config=dict(declared),
            dir=folder,
            reinit="create_new",
            settings=wandb.Settings(console="off"),
        )
        self.name = self.run.id

    def write(self, values: dict[str, float], step: int) -> None:
        """Log values; those of one step become one row."""
        self.run.log(values, step=step)

    def close(self, whole: bool) -> None:
        """Wait until all is sent."""
        self.run.finish(exit_code=0 if whole else 1)


TRACKERS = Table("tracker", Tracker, TensorBoard, MLflow, WandB)
