"""Fixtures that every test shares."""

import logging
import os
import shutil

# Tests run side by side (pytest-xdist): two processes of two threads each would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyro
import pytest
import torch

import pyro_vae as pv
from pyro_vae import cli

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(autouse=True)
def _same_start():
    """Every test starts from one seed, with Pyro's checks on, nothing in its param store, and no level of the log."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    log = logging.getLogger("pyro_vae")
    level = log.level
    with pyro.validation_enabled(True):
        yield
    log.setLevel(level)  # a command that is called in this process sets one


@pytest.fixture
def float64():
    """float64 by default, for exact comparisons."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(params=DEVICES)
def device(request):
    return torch.device(request.param)


@pytest.fixture
def shared_data():
    """The folder with MNIST and other data, where PYRO_VAE_DATA names it."""
    folder = os.environ.get("PYRO_VAE_DATA")
    if not folder:
        pytest.skip("PYRO_VAE_DATA does not name a folder with the data")
    return folder


TINY = [
    "latent.dim=2",
    "encoder.widths=[16]",
    "decoder.widths=[16]",
    "training.epochs=2",
    "training.batch_size=256",
]
LABELS = "labels={digit: {classes: 10, observed: always}}"


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """One trained run; tests that change it take a copy."""
    return trained(tmp_path_factory, *TINY)


@pytest.fixture(scope="session")
def conditional_run(tmp_path_factory):
    """p(x | digit, z), the digit always given."""
    return trained(tmp_path_factory, *TINY, LABELS)


def trained(tmp_path_factory, *overrides):
    out = tmp_path_factory.mktemp("trained") / "run"
    return pv.train(
        pv.load_experiment("digits", overrides), out=out, name="digits", quiet=True, num_samples=20
    ).directory


@pytest.fixture
def copy(tiny_run, tmp_path):
    """A run to damage."""
    return shutil.copytree(tiny_run, tmp_path / "copy")


@pytest.fixture
def say(capsys):
    """Run a command: its exit code, stdout and stderr."""

    def run(*arguments):
        code = cli._guarded([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def done(say):
    """Run a command that must succeed: its stdout."""

    def run(*arguments):
        code, out, err = say(*arguments)
        assert (code, err) == (0, "")
        return out

    return run


@pytest.fixture
def refused(say):
    """Run a command that must exit 2 without a traceback or output: the lines of its message."""

    def run(*arguments):
        code, out, err = say(*arguments)
        assert (code, out) == (2, "")
        assert "Traceback" not in err
        return err.splitlines()

    return run
