"""Mutual information with known factors, against closed forms and quadrature."""

import math

import pytest
import torch

import pyro_vae as pv
from pyro_vae.data import SquaresData, load
from pyro_vae.diagnostics.disentanglement import entropy, mutual_information, mutual_information_gap

pytestmark = pytest.mark.filterwarnings("error")


def factors(n=400):
    return {"a": torch.arange(n) % 4, "b": torch.arange(n) // 4 % 2}


def test_a_dimension_of_its_own_for_each_factor():
    """Well separated codes: I = H, and a gap of 1; all in one dimension: a gap of 1 there too; mixed: none."""
    v = factors()
    own = torch.stack([100.0 * v["a"], 100.0 * v["b"], torch.zeros(400)], 1)
    found = mutual_information_gap(own, torch.ones_like(own), v)
    assert found == pytest.approx({"a": 1.0, "b": 1.0, "mean": 1.0}, abs=1e-6)
    twice = torch.stack([100.0 * v["a"], 100.0 * v["a"]], 1)
    assert mutual_information_gap(twice, torch.ones_like(twice), {"a": v["a"]})["a"] == pytest.approx(0, abs=1e-6)
    none = mutual_information_gap(torch.zeros(400, 3), torch.ones(400, 3), v)
    assert none["mean"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("distance", [0.5, 2.0])
def test_mutual_information_is_that_of_quadrature(distance):
    """Two equally likely normals of sd 1: I = h(mixture) - h(normal)."""
    v = torch.arange(2000) % 2
    mean = (distance * v.double())[:, None].expand(-1, 2)
    draws = torch.stack([mutual_information(mean, torch.ones_like(mean), v, seed=seed)[0] for seed in range(8)])
    z = torch.linspace(-12, 12 + distance, 20_001, dtype=torch.float64)
    p = [torch.distributions.Normal(m, torch.tensor(1.0).double()).log_prob(z).exp() for m in (0.0, distance)]
    mixture = (p[0] + p[1]) / 2
    expected = -(mixture * mixture.log()).sum() * (z[1] - z[0]) - 0.5 * math.log(2 * math.pi * math.e)
    assert abs(draws.mean() - expected) < 5 * draws.std() / math.sqrt(8)


def test_order_of_the_data_does_not_matter():
    v, order = factors(), torch.randperm(400)
    mean, sd = torch.randn(400, 3), torch.rand(400, 3) + 0.1
    there = mutual_information(mean, sd, v["a"], num_draws=20)
    here = mutual_information(mean[order], sd[order], v["a"][order], num_draws=20)
    assert (there - here).abs().max() < 0.05


def test_entropy():
    assert entropy(torch.arange(8)) == pytest.approx(math.log(8))
    assert entropy(torch.zeros(5, dtype=torch.int64)) == 0


@pytest.mark.parametrize(
    ("mean", "known", "words"),
    [
        (torch.zeros(4, 1), {"a": torch.arange(4)}, "D of at least 2"),
        (torch.zeros(4, 2), {}, "factors is empty"),
        (torch.zeros(4, 2), {"a": torch.zeros(4, dtype=torch.int64)}, "never varies"),
    ],
)
def test_what_has_no_gap_is_refused(mean, known, words):
    with pytest.raises(ValueError, match=words):
        mutual_information_gap(mean, torch.ones_like(mean), known)


def test_squares_have_every_combination_once():
    data = load(SquaresData(validation=0))
    assert data.shape == (1, 16, 16)
    assert {name: data.classes(name) for name in data.num_classes} == {"row": 8, "column": 8, "size": 3, "shade": 3}
    assert len(data.train) + len(data.test) == 8 * 8 * 3 * 3
    both = torch.cat([data.train.x.flatten(1), data.test.x.flatten(1)])
    assert len(both.unique(dim=0)) == len(both)


def test_a_run_knows_its_gap(tmp_path):
    words = ["data=squares", "data.binarize=none", "likelihood=normal", "latent.dim=4", "training.epochs=2"]
    run = pv.train(pv.load_experiment("vae-bernoulli", words), out=tmp_path / "run", quiet=True, num_samples=2)
    found = run.mutual_information_gap()
    assert found.keys() == {"row", "column", "size", "shade", "mean"}
    assert all(0 <= value <= 1 for value in found.values())
