"""Attribute arithmetic does what it says: glasses on faces of persons that a short training has never seen."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import pyro_vae as pv

SCRIPT = Path(__file__).parent.parent / "analysis" / "faces.py"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def faces():
    """The script, whose functions are what is tested."""
    spec = importlib.util.spec_from_file_location("faces", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_glasses_come_and_persons_stay(faces, shared_data, tmp_path):
    """Seen by a classifier for nearly every face, and the person is recognised at least as often as at random."""
    experiment = pv.load_experiment("face-grey", [*faces.DECLARED, "training.epochs=40"])
    run = pv.train(experiment, data=faces.arrays(0), out=tmp_path / "run", quiet=True, num_samples=10)
    towards = faces.FINDS["differences within persons"]
    found = faces.measured(run, "glasses", towards)
    assert np.mean(found["after"] > found["before"]) > 0.9
    assert np.mean(found["after"]) > np.mean(found["before"]) + 0.1
    kept = found["fisherfaces, after"] - found["fisherfaces, random"]
    assert kept.mean() > -2 * kept.std() / len(kept) ** 0.5
    away = faces.measured(run, "glasses", lambda *known: -towards(*known))
    assert np.mean(away["after"] > away["before"]) < 0.1
