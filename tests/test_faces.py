"""Attribute arithmetic does what it says: glasses on faces of persons that a short training has never seen."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

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
    found = faces.measured(run, "glasses", pv.classifier_normal)
    assert np.mean(found["after"] > found["before"]) > 0.9
    assert np.mean(found["after"]) > np.mean(found["before"]) + 0.1
    kept = found["logistic regression, after"] - found["logistic regression, random"]
    assert kept.mean() > -2 * kept.std() / len(kept) ** 0.5
    away = faces.measured(run, "glasses", lambda z, a: -pv.classifier_normal(z, a))
    assert np.mean(away["after"] > away["before"]) < 0.1
    attribute = run.data.train.attributes["glasses"]
    chance = faces.measured(run, "glasses", lambda z, a: torch.randn(z.shape[1]) * z.std(0))
    assert np.mean(chance["after"] > chance["before"]) < 0.9, "a direction of no meaning does not"
    assert set(attribute.unique().tolist()) == {0, 1}
