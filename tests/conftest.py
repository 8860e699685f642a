"""Fixtures that every test shares."""

import os

import pyro
import pytest
import torch

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(autouse=True)
def _same_start():
    """Every test starts from one seed, with Pyro's checks on and nothing in its param store."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    with pyro.validation_enabled(True):
        yield


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
