"""What two processes check together; `test_distributed.py` starts them, and reads what they found.

Arguments: a folder to work in, which holds `single`, a run that one process began.
"""

import json
import os
import shutil
import signal
import sys
import traceback
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae import checkpoints, step, training, validation
from pyro_vae.batches import build
from pyro_vae.capture import same_random_state, unvalidated, value_and_gradient
from pyro_vae.data import load, storage
from pyro_vae.distributed import ALONE, join
from pyro_vae.feeding import Fed
from pyro_vae.planning import choose_device
from pyro_vae.specs import DeclarationError
from pyro_vae.step import make_halves
from pyro_vae.training import Trainer

SMALL = ["latent.dim=2", "encoder.widths=[16]", "decoder.widths=[16]", "training.epochs=3", "training.batch_size=255"]
"""255 data for two processes are 128 and 127."""


def small(*words, name="digits"):
    return pv.load_experiment(name, [*SMALL, *words])


def trainer(folder, world, *words, name="digits", compiled=False):
    experiment = small(*words, name=name)
    data = load(experiment.data)
    vae = build(experiment, data, torch.device("cpu"))
    return Trainer(experiment, data, vae, folder, compiled, quiet=True, world=world)


@torch.no_grad()
def steps(own, num, seed):
    with same_random_state(torch.device("cpu")), unvalidated():
        torch.manual_seed(seed)
        plan = own.plan(0)
        for _ in range(num):
            own.step(own.state, plan, own.train_data)
    return own.state


def near(found, expected, tolerance=1e-5):
    if isinstance(found, list):
        found, expected = torch.cat(found), torch.cat(expected)
    error = float((found - expected).norm() / expected.norm())
    assert error < tolerance, error


def same_everywhere(world, tensors):
    for other in world.gather(list(tensors)):
        assert all(torch.equal(a, b) for a, b in zip(tensors, other, strict=True))


def check_without_noise(world, folder, compiled=False):
    """Two processes make the step of one: gradient, sums of the epoch, and three updates."""
    words = ["training.clip_norm=1"]
    together, alone = (
        trainer(folder, w, *words, name="autoencoder-l2", compiled=compiled and w is world) for w in (world, ALONE)
    )
    assert together.plan(0).order.shape[1] == len(world.part(255))
    a, b = steps(together, 1, 0), steps(alone, 1, 0)
    near(a.first_moment, b.first_moment)  # a tenth of the gradient
    near(a.totals, b.totals)
    near(steps(together, 2, 0).parameters, steps(alone, 2, 0).parameters)
    same_everywhere(world, [*a.parameters, *a.second_moment, a.totals])


def check_compiled(world, folder):
    check_without_noise(world, folder, compiled=True)


def check_noise(world, folder):
    """With noise the gradient is the sum of those of the parts, each under its process's random numbers."""
    words = ["data.binarize=dynamic", "encoder.norm=batch"]
    together, alone = trainer(folder, world, *words), trainer(folder, ALONE, *words)
    parts = alone.layout, alone.prepare, alone.experiment.training.optimizer, None
    differentiate, _ = make_halves(value_and_gradient(alone.objective), *parts)
    gradient, changes = [torch.zeros_like(block) for block in alone.state.parameters], [0] * len(alone.state.buffers)
    with torch.no_grad(), unvalidated():
        for other in (replace(world, rank=0), replace(world, rank=1)):
            part, plan = other.part(255), alone.plan(0)
            torch.manual_seed(other.seed(0))
            own = plan._replace(order=plan.order[:, part.start : part.stop])
            slope = differentiate(alone.state, own, alone.train_data)
            gradient = [g + len(part) / 255 * own for g, own in zip(gradient, slope.gradient, strict=True)]
            pairs = zip(changes, slope.buffers, alone.state.buffers, strict=True)
            changes = [change + len(part) / 255 * (new - old) for change, new, old in pairs]
    after = [old + change for old, change in zip(alone.state.buffers, changes, strict=True)]
    state = steps(together, 1, world.seed(0))
    near(state.first_moment, [0.1 * g for g in gradient])
    moved = 0
    for found, expected, old in zip(state.buffers, after, alone.state.buffers, strict=True):
        assert torch.allclose(found.double(), expected.double(), rtol=1e-5, atol=1e-6)
        moved += not torch.equal(found, old)
    assert moved == 3  # mean, variance and counter of the one batch norm
    same_everywhere(world, [*state.parameters, *state.buffers])
    together._restore_random_state()
    first = world.gather(torch.rand(1))
    assert not torch.equal(*first), "the noise of the processes is the same"


def check_nan(world, folder):
    """A value of one process that is not finite stops all, at the same step, and is not applied."""
    own = trainer(
        folder / f"nan-{world.rank}", world, "data=linear_gaussian", "training.batch_size=51", name="vae-sigma"
    )
    if world.rank == 1:
        own.train_data.x[own.plan(0).order[2, 0]] = torch.nan
    before = torch.cat(own.state.parameters)
    with pytest.raises(pv.NumericsError, match=r"step 2 \(epoch 1, .*log p at x"):
        own.run()
    after = torch.cat(own.state.parameters)
    assert torch.isfinite(after).all()
    assert not torch.equal(after, before)  # the other steps were applied
    same_everywhere(world, [*own.state.parameters, own.state.fault])


class Stopper:
    """In place of the progress bar: asks one process to stop."""

    def __init__(self, at):
        self.at, self.done = at, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self):
        self.done += 1
        if self.done == self.at:
            os.kill(os.getpid(), signal.SIGTERM)

    def set_postfix(self, *_, **__):
        pass


def weights(folder):
    return checkpoints.load(checkpoints.latest(folder / "checkpoints"))


def check_stop_and_resume(world, folder):
    """One process is asked to stop: all do, at the same step; what is resumed ends in the same bits."""
    experiment, plain = small("data.binarize=dynamic"), training.bar
    straight = pv.train(experiment, out=folder / "straight", quiet=True, num_samples=5)
    training.bar = lambda *_, **__: Stopper(3 if world.rank == 1 else -1)
    try:
        with pytest.raises(pv.Interrupted, match="SIGTERM"):
            pv.train(experiment, out=folder / "cut", quiet=True, num_samples=5)
    finally:
        training.bar = plain
    stopped = world.once(lambda: weights(folder / "cut")[1]["step"])
    assert 3 <= stopped < 3 + 2 * 4, stopped
    world.once(lambda: shutil.copytree(folder / "cut", folder / "copy"))
    resumed = pv.resume(folder / "cut", quiet=True, num_samples=5)
    a, b = straight.vae.state_dict(), resumed.vae.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    same_everywhere(world, list(a.values()))
    assert resumed.environment["processes"] == 2


def check_single_resumed_by_two(world, folder):
    run = pv.resume(folder / "single", quiet=True, num_samples=5)
    same_everywhere(world, list(run.vae.state_dict().values()))
    assert run.result["epochs"] == 3


def check_early_stopping(world, folder):
    rule = "training.early_stopping={patience: 1, min_delta: 1000}"
    run = pv.train(small("training.epochs=9", rule), out=folder / "early", quiet=True, num_samples=5)
    assert set(world.gather(run.result["epochs"])) == {1}
    same_everywhere(world, list(run.vae.state_dict().values()))


def check_validation(world, folder):
    """Every process has the score of all validation data, that of one process."""
    plain, validation.BATCH = validation.BATCH, 60  # three batches for two processes
    try:
        made = [trainer(folder, w, "data.binarize=dynamic") for w in (world, ALONE)]
        together, alone = (own.validation.means(own.objective, 0) for own in made)
    finally:
        validation.BATCH = plain
    assert list(together) == list(step.METRICS)
    assert abs(together["loss"] / alone["loss"] - 1) < 1e-6
    assert len(set(world.gather(together["loss"]))) == 1


def check_evaluation(world, folder):
    """The card is that of one process, number for number, though 360 data make four chunks of unequal size."""
    run = pv.load(folder / "straight")
    shared = run.evaluate("test", 120, world=world)
    alone = world.once(lambda: run.evaluate("test", 120))
    for card in (shared, alone):
        del card["seconds"]
    assert shared == alone
    assert shared["num_data"] == 360


def check_fed(world, folder):
    """Of data that do not fit in memory each process is fed its part of every batch, to the same bits."""
    path = folder / "grey.npy"
    world.once(lambda: np.save(path, np.random.default_rng(0).integers(0, 256, (1000, 6), dtype=np.uint8)))
    words, found = ["data=arrays", f"data.path={path}"], []
    for share in (storage.MEMORY_SHARE, 0.0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(storage, "MEMORY_SHARE", share)
            own = trainer(folder, world, *words, name="vae-sigma")
        with torch.no_grad(), unvalidated(), closing(own.feed.steps(own.plan(0), 0)) as plans:
            torch.manual_seed(0)
            for _ in range(3):
                own.step(own.state, next(plans), own.train_data)
        found.append(list(own.vae.parameters()))
    assert isinstance(own.feed, Fed)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def check_refusals(world, folder):
    with pytest.raises(DeclarationError, match="batch_size=1: is shared by 2 processes"):
        pv.train(small("training.batch_size=1"), out=folder / "refused", quiet=True)
    assert not (folder / "refused").exists()
    assert choose_device("cpu").type == "cpu"


CHECKS = {name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")}
SLOW = ("compiled",)


def main(folder, *names):
    world = join(40)
    found = {}
    for name in names or [name for name in CHECKS if name not in SLOW]:
        try:
            CHECKS[name](world, folder)
            found[name] = "passed"
        except (Exception, pytest.fail.Exception):
            found[name] = traceback.format_exc()
            break  # the other process may be elsewhere
    (folder / f"found-{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
