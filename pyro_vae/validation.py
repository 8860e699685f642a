"""The validation data in training: scored by the objective, with the same draws in every epoch."""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from pyro_vae.batches import resident
from pyro_vae.capture import same_random_state, unvalidated
from pyro_vae.data import Data, StoredSplit
from pyro_vae.distributed import World, derived
from pyro_vae.experiment import Experiment
from pyro_vae.sites import Batch
from pyro_vae.step import METRICS, fetch

BATCH = 512
"""Data in one batch."""


class Validation:
    """The validation data, or this process's part of them; prepared once where they are in memory."""

    def __init__(
        self,
        data: Data,
        experiment: Experiment,
        prepare: Callable[[Batch], Batch],
        device: torch.device,
        world: World,
    ) -> None:
        """Prepare the data.

        Args:
            data: the data set.
            experiment: the declaration.
            prepare: a batch as stored -> as modelled.
            device: of the training.
            world: the processes that share the work.
        """
        self.split, self.experiment, self.prepare = data.validation, experiment, prepare
        self.device, self.world = device, world
        self._held = None if isinstance(self.split, StoredSplit) else list(self._batches())

    def __len__(self) -> int:
        return len(self.split)

    def _batches(self) -> Iterator[Batch]:
        """This process's batches, prepared: the same binarisation in every epoch."""
        for first in list(range(0, len(self.split), BATCH))[self.world.rank :: self.world.size]:
            some = self.split.select(range(first, min(first + BATCH, len(self.split))))
            data = resident(some, self.experiment, self.device, training=False)
            with same_random_state(self.device):
                torch.manual_seed(self.experiment.seed + first)
                batch = fetch(data, torch.arange(len(some), device=self.device), self.prepare)
            yield batch

    @torch.no_grad()
    def means(self, objective: nn.Module, epoch: int) -> dict[str, float]:
        """The mean of each of METRICS over the data, nats.

        Args:
            objective: forward(batch, weights) -> (loss, terms).
            epoch: epochs completed. The weights are those at the end of their schedule, so that the scores of
                different epochs are comparable.
        """
        spec = self.experiment.objective
        weights = {
            name: torch.tensor(value, dtype=torch.float64, device=self.device)
            for name, value in spec.weights(max(float(epoch), spec.longest())).items()
        }
        sums = torch.zeros(len(METRICS), dtype=torch.float64, device=self.device)
        objective.eval()
        with same_random_state(self.device), unvalidated():
            for i, batch in enumerate(self._batches() if self._held is None else self._held):
                # Its own seed for each batch, whichever process has it.
                torch.manual_seed(derived(self.experiment.seed, i * self.world.size + self.world.rank))
                loss, terms = objective(batch, weights)
                means = [loss, *(getattr(terms, name).mean() for name in METRICS[1:])]
                sums += torch.stack([mean.to(torch.float64) for mean in means]) * batch.size
        objective.train()
        self.world.add_up(sums)
        return dict(zip(METRICS, (sums / len(self)).tolist(), strict=True))
