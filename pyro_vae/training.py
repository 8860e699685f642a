"""Training: epochs of one compiled step, validation, early stopping, checkpoints that continue bit for bit.

The order of the data is a function of (seed, epoch) alone, and the state of the random generators is saved,
so that a run that was killed and resumed ends in the same bits as one that was not: on the same machine, with
the same versions and number of threads.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae import checkpoints, random_states
from pyro_vae.batches import DTYPES, preparer
from pyro_vae.callbacks import Callback
from pyro_vae.capture import Program, capture, same_random_state, unvalidated, value_and_gradient
from pyro_vae.data import Data
from pyro_vae.distributed import ALONE, RankLost, World
from pyro_vae.experiment import Experiment
from pyro_vae.feeding import feed
from pyro_vae.interruption import Interrupted, signals
from pyro_vae.lowering import for_compiler
from pyro_vae.planning import choose_threads, compile_step, threads
from pyro_vae.progress import bar
from pyro_vae.records import Metrics, truncate_metrics, write_metrics
from pyro_vae.sites import Batch
from pyro_vae.step import (
    METRICS,
    Layout,
    Plan,
    State,
    Step,
    fetch,
    flags,
    learning_rate_factors,
    make_halves,
    make_shared_step,
    make_step,
    new_state,
)
from pyro_vae.vae import VAE
from pyro_vae.validation import Validation

log = logging.getLogger("pyro_vae")

CHECK_EVERY = 200
"""Steps between two looks at the latched fault, each of which waits for the device."""
SLOW, LONG = 0.1, 10.0
"""Share of the time, and seconds, that steps may wait for data before it is said."""


class NumericsError(ArithmeticError):
    """Something in a step was not finite; that step was not applied."""


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that there is not enough memory, on a CPU or a GPU."""
    words = type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error)
    return words or isinstance(error, MemoryError)


@dataclass
class Progress:
    """Where a run is: what a checkpoint holds beside tensors."""

    step: int = 0
    """Steps done."""
    epoch: int = 0
    """Epochs completed."""
    seconds: float = 0.0
    """Time spent in training."""
    compiled: bool = False
    """Whether the step is compiled; a resumed run obeys it."""
    best: float | None = None
    """Best validation score so far."""
    best_step: int | None = None
    waited: int = 0
    """Epochs since the best."""
    stopped: bool = False
    """Whether early stopping ended the run."""


class Trainer:
    """One training: the objective, the compiled step and the state it changes."""

    def __init__(
        self,
        experiment: Experiment,
        data: Data,
        vae: VAE,
        folder: Path,
        compiled: bool,
        quiet: bool = False,
        callbacks: Sequence[Callback] = (),
        world: World = ALONE,
    ) -> None:
        """Move the data to the device, record the step, and compile it if so decided.

        Args:
            experiment: the declaration.
            data: the checked data.
            vae: the model; its parameters are trained in place.
            folder: run directory.
            compiled: what `decide_compile` said, or what the run that is resumed says.
            quiet: no progress bar.
            callbacks: what is told the start and every epoch; the end is for the caller to tell.
            world: the processes that train together, each on its part of every batch.
        """
        training = experiment.training
        self.world, self.agreed = world, world.agreement()
        self.part = world.part(training.batch_size)
        self.callbacks = callbacks if world.first else ()
        self.experiment, self.data, self.vae, self.folder, self.quiet = experiment, data, vae, folder, quiet
        self.device = next(vae.parameters()).device
        with same_random_state(torch.device("cpu")):  # an objective's own networks start from the seed too
            torch.manual_seed(experiment.seed)
            self.objective = experiment.objective.build(vae, len(data.train)).to(self.device).train()
        self.prepare = preparer(data, DTYPES[training.precision], self.device)
        self.steps_per_epoch = len(data.train) // training.batch_size
        self.feed = feed(data.train, experiment, self.device, len(self.part), self.steps_per_epoch)
        self.train_data = self.feed.data
        self.progress = Progress(compiled=compiled)
        self.layout = Layout(list(self.objective.parameters()))
        example, weights = self._example()
        self.flag_names = self._flag_names(example, weights)
        self.state: State = new_state(self.objective, self.layout, len(self.flag_names))
        world.spread([*self.state.parameters, *self.state.buffers])
        self.step = self._make_step(example, weights)
        self.validation = Validation(data, experiment, self.prepare, self.device, world)

    def _example(self) -> tuple[Batch, dict[str, Tensor]]:
        """A first batch and the first weights, to record the program on."""
        indices = torch.arange(len(self.part), device=self.device)
        with same_random_state(self.device):
            batch = fetch(self.train_data, indices, self.prepare)
        weights = self.experiment.objective.weights(0.0)
        dtype = DTYPES[self.experiment.training.precision]
        return batch, {name: torch.tensor(v, device=self.device, dtype=dtype) for name, v in weights.items()}

    @torch.no_grad()
    def _flag_names(self, example: Batch, weights: dict[str, Tensor]) -> list[str]:
        """What is watched. Pyro's own checks of values run here, once, before they are switched off."""
        self.objective.eval()
        try:
            with same_random_state(self.device):
                _, terms = self.objective(example, weights)
        except ValueError as error:
            if "Expected" not in str(error):
                raise
            raise NumericsError(
                "before the first step a distribution already has parameters or values that are none: the data may be "
                "too large for the networks. Set data.standardize=true, or rescale x."
            ) from None
        self.objective.train()
        return flags(terms)

    def _make_step(self, example: Batch, weights: dict[str, Tensor]) -> Step:
        training = self.experiment.training
        autocast = torch.bfloat16 if training.precision == "bfloat16" else None
        if self.experiment.variant.capturable and self.experiment.objective.capturable:
            recorded = capture(self.objective, example, weights, autocast)
            program: Program = for_compiler(recorded, self.device) if self.progress.compiled else recorded
        else:
            program = value_and_gradient(self.objective, autocast)
        factors = learning_rate_factors(self.objective, self.experiment.objective.learning_rates(), self.layout)
        halves = make_halves(program, self.layout, self.prepare, training.optimizer, training.clip_norm, factors)

        def compiled[T: Callable[..., Any]](step: T) -> T:
            return compile_step(step, self.device) if self.progress.compiled else step

        if self.world.size == 1:
            return compiled(make_step(halves))
        share = len(self.part) / training.batch_size
        changing, sites = self._changing(program, example, weights), len(self.flag_names) - 1
        return make_shared_step(halves, self.state, sites, changing, share, self.world.add_up, compiled)

    @torch.no_grad()
    def _changing(self, program: Program, example: Batch, weights: dict[str, Tensor]) -> list[bool]:
        """Which buffers a step changes, by one step that is not applied."""
        parameters, buffers = self.layout.unflatten(self.state.parameters), self.state.buffers
        with same_random_state(self.device), unvalidated():
            after = program(parameters, buffers, example, weights).buffers
        return [not torch.equal(old, new) for old, new in zip(buffers, after, strict=True)]

    def plan(self, epoch: int) -> Plan:
        """Order, learning rates and weights of an epoch (from 0): a function of the declaration alone.

        Of several processes each has its part of every batch.
        """
        training, steps = self.experiment.training, self.steps_per_epoch
        generator = torch.Generator().manual_seed(self.experiment.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.data.train), generator=generator)[: steps * training.batch_size]
        at = [epoch + i / steps for i in range(steps)]
        # The rate is that of the middle of a step: a warm-up then starts above 0 and a decay ends above its end.
        rate, half = training.optimizer.learning_rate, 0.5 / steps
        rates = [rate * training.schedule.factor(now + half, training.epochs) for now in at]
        weights = [self.experiment.objective.weights(now + half) for now in at]
        dtype = DTYPES[training.precision]
        return Plan(
            order.view(steps, training.batch_size)[:, self.part.start : self.part.stop].to(self.device),
            torch.tensor(rates, dtype=dtype, device=self.device),
            {
                name: torch.tensor([weight[name] for weight in weights], dtype=dtype, device=self.device)
                for name in weights[0]
            },
        )

    def run(self) -> Progress:
        """Train to the end, from wherever the progress is.

        Raises:
            NumericsError: a step was not finite.
            Interrupted: a signal asked to stop; the state is saved.
            RankLost: another process ended; the last checkpoint is good.
        """
        try:
            return self._run()
        except RankLost as lost:
            advice = f"the last checkpoint is good, and training goes on from it with: train --resume {self.folder}"
            raise RankLost(f"{lost}; {advice}") from lost

    def _run(self) -> Progress:
        training, progress = self.experiment.training, self.progress
        self._start()
        total = training.epochs * self.steps_per_epoch
        shown = bar(total, "training", self.quiet, initial=progress.step, unit="step")
        number = choose_threads(self.experiment, self.vae)
        with shown, signals() as caught, same_random_state(self.device), threads(number):
            self._restore_random_state()
            self._clock = time.perf_counter()
            while progress.epoch < training.epochs and not progress.stopped:
                self._epoch(shown, caught)
            if number := self.world.largest(max(caught, default=0)):
                raise Interrupted(number, self.folder)  # it came after the last step, and everything is saved
            if progress.best_step is not None:
                self._load_best()
        if self.feed.waited > max(LONG, SLOW * progress.seconds):
            log.warning(
                f"the steps waited for data for {self.feed.waited:.0f} of {progress.seconds:.0f} s: they do not fit in "
                "memory, and the disk is slow; put them on a faster one, or give the machine more memory"
            )
        return progress

    def _start(self) -> None:
        """Save where a fresh run starts, so that one that ends early starts there again; tell the callbacks."""
        with same_random_state(self.device):
            root = self.folder / "checkpoints"
            if self.world.once(lambda: self.progress.step == 0 and checkpoints.latest(root) is None):
                self._restore_random_state()
                self.save()
            for callback in self.callbacks:
                callback.start(self.experiment, self.folder, self.progress.step)

    def _tell(self, rows: list[Metrics]) -> None:
        """Hand the rows of an epoch to the callbacks, one after the other."""
        with same_random_state(self.device):
            for callback in self.callbacks:
                for row in rows:
                    callback.metrics(row)

    def _epoch(self, shown: Any, caught: list[int]) -> None:
        """One epoch or the rest of it, and what is measured, saved and told at its end."""
        training, progress = self.experiment.training, self.progress
        plan, first = self.plan(progress.epoch), int(self.state.position)
        with torch.no_grad(), unvalidated(), closing(self.feed.steps(plan, first)) as plans:
            for i, own in zip(range(first, self.steps_per_epoch), plans, strict=False):
                self.step(self.state, own, self.train_data)
                progress.step += 1
                shown.update()
                number = self.agreed(caught[0] if caught else 0)
                if number or (i + 1) % CHECK_EVERY == 0:
                    self._raise_on_fault(plan)
                if number:
                    self._read_clock()
                    self.save()
                    raise Interrupted(number, self.folder)
        self._raise_on_fault(plan)
        progress.epoch += 1
        self._read_clock()
        rows = [self._train_metrics(plan)]
        if len(self.validation):
            rows.append(self._metrics("validation", self.validation.means(self.objective, progress.epoch)))
        self.state.totals.zero_()
        self.state.position.zero_()
        if self.world.first:
            write_metrics(self.folder, rows)
        shown.set_postfix({rows[-1].split: f"{rows[-1].loss:.2f}"}, refresh=False)
        better = self._early_stopping(rows[-1])
        last = progress.stopped or progress.epoch == training.epochs
        if better or last or progress.epoch % training.checkpoint_every == 0:
            self.save()
        self._tell(rows)

    def _read_clock(self) -> None:
        """Seconds of training so far, everything included: steps, validation, checkpoints."""
        now = time.perf_counter()
        self.progress.seconds += now - self._clock
        self._clock = now

    def _raise_on_fault(self, plan: Plan) -> None:
        fault = self.state.fault.tolist()
        if fault[0] < 0:
            return
        sites = [name for name, bad in zip(self.flag_names, fault[1:], strict=True) if bad] or ["the loss"]
        step = self.progress.epoch * self.steps_per_epoch + fault[0]
        batch = plan.order[fault[0]].tolist()
        first = "set data.standardize=true for data of large numbers, " if step == 0 else ""
        raise NumericsError(
            f"step {step} (epoch {self.progress.epoch + 1}, batch of training data {batch[:8]}...): not finite: "
            f"{', '.join(sites)}. The step was not applied, and the last checkpoint is good. To go on, "
            f"{first}lower training.optimizer.learning_rate, set training.clip_norm, or raise the likelihood's "
            "min_scale."
        )

    def _train_metrics(self, plan: Plan) -> Metrics:
        count, *sums = self.state.totals.tolist()
        values = dict(zip(METRICS, (value / count for value in sums), strict=True))
        beta = plan.weights["beta"][-1].item() if "beta" in plan.weights else None
        return self._metrics("train", values, plan.learning_rates[-1].item(), beta)

    def _metrics(
        self, split: str, values: dict[str, Any], rate: float | None = None, beta: float | None = None
    ) -> Metrics:
        if not self.experiment.variant.normalized:
            values = values | {"elbo": None}
        if not self.experiment.variant.guide.density:
            values = values | {"kl": None}
        progress = self.progress
        return Metrics(
            progress.step, progress.epoch, split, **values, seconds=progress.seconds, learning_rate=rate, beta=beta
        )

    def _early_stopping(self, row: Metrics) -> bool:
        """Note the validation score; whether it is the best so far."""
        rule, progress = self.experiment.training.early_stopping, self.progress
        if rule is None:
            return False
        score = row.elbo if row.elbo is not None else -row.loss
        if progress.best is None or score > progress.best + rule.min_delta:
            progress.best, progress.best_step, progress.waited = score, progress.step, 0
            return True
        progress.waited += 1
        progress.stopped = progress.waited >= rule.patience
        return False

    # -------------------------------------------------------------------------------------------- checkpoints

    def save(self) -> None:
        """Write a checkpoint; the one before it, and the best, stay."""
        root = self.folder / "checkpoints"
        random = random_states.saved(self.world, self.device)
        if not self.world.first:
            return
        own = {k: v for k, v in self.objective.state_dict().items() if not k.startswith("vae.")}
        tensors = {"model": self.vae.state_dict(), "optimizer": self.state.scalars(self.layout) | random}
        if own:
            tensors["objective"] = own
        checkpoints.save(checkpoints.step_folder(root, self.progress.step), tensors, asdict(self.progress))
        kept = {*checkpoints.steps(root)[-2:], self.progress.best_step or self.progress.step}
        checkpoints.prune(root, kept)

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint."""
        tensors, state = self.world.once(lambda: checkpoints.load(folder))
        model = {f"vae.{name}": tensor for name, tensor in tensors["model"].items()}
        checkpoints.restore(self.objective, model | tensors.get("objective", {}), self.folder)
        self.state.restore(self.layout, tensors["optimizer"])
        self._random_state = tensors["optimizer"]
        self.progress = Progress(**state)
        self.world.once(lambda: truncate_metrics(self.folder, self.progress.step))

    _random_state: dict[str, Tensor] | None = None

    def _restore_random_state(self) -> None:
        random_states.restore(self._random_state, self.world, self.device, self.experiment.seed, self.progress.step)

    def _load_best(self) -> None:
        """End with the weights of the best epoch."""
        root = self.folder / "checkpoints"
        best = checkpoints.step_folder(root, self.progress.best_step or 0)
        tensors, _ = self.world.once(lambda: checkpoints.load(best))
        self.vae.load_state_dict(tensors["model"])
