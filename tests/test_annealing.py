"""Annealed importance sampling: the mean weight is the ratio of the constants, however short the path."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from pyro_vae.diagnostics.annealing import Scores, _moved, anneal, pilot, schedule
from pyro_vae.diagnostics.hmc import Noise, with_slope

pytestmark = pytest.mark.usefixtures("float64")

N, D = 5, 3


class Gaussians:
    """N targets c_n N(mean_n, covariance_n) against a base N(0, I)."""

    def __init__(self):
        torch.manual_seed(0)
        root = torch.randn(N, D, D)
        self.target = MultivariateNormal(torch.randn(N, D), 0.1 * root @ root.mT + 0.05 * torch.eye(D))
        self.log_z = torch.linspace(-50, 10, N)
        self.base = Normal(torch.zeros(N, D), 1.0).expand((N, D))
        self.base_sd, self.target_sd = torch.ones(N, D), self.target.variance.sqrt()

    def ends(self, z):
        base = with_slope(lambda z: self.base.log_prob(z).sum(-1))(z)
        target = with_slope(lambda z: self.log_z + self.target.log_prob(z))(z)
        return Scores(*base, *target)

    def path(self, **settings):
        return pilot(self.ends, self.base.sample((4,)), self.base_sd, self.target_sd, **settings)


@pytest.fixture
def gaussians():
    return Gaussians()


def z_score(log_w, log_z):
    """(mean w / Z - 1) over its standard error, per datum."""
    w = (log_w - log_z).exp()
    return (w.mean(0) - 1) / (w.std(0) / math.sqrt(len(w)))


@pytest.mark.parametrize("num_temperatures", [20, 80])
def test_weights_are_unbiased_both_ways(gaussians, num_temperatures):
    """The mean of w is Z_1 / Z_0 forwards, Z_0 / Z_1 backwards."""
    path = gaussians.path(num_temperatures=num_temperatures)
    forwards = anneal(gaussians.ends, gaussians.base.sample((2000,)), path)
    assert z_score(forwards.log_w, gaussians.log_z).abs().max() < 5
    backwards = anneal(gaussians.ends, gaussians.target.sample((2000,)), path.reversed())
    assert z_score(backwards.log_w, -gaussians.log_z).abs().max() < 5
    assert (forwards.log_w.mean(0) < gaussians.log_z).all()
    assert (-backwards.log_w.mean(0) > gaussians.log_z).all()


def test_more_temperatures_close_the_gap(gaussians):
    gaps = []
    for num_temperatures in (10, 60, 400):
        path = gaussians.path(num_temperatures=num_temperatures)
        below = anneal(gaussians.ends, gaussians.base.sample((100,)), path).log_w.mean(0)
        above = -anneal(gaussians.ends, gaussians.target.sample((100,)), path.reversed()).log_w.mean(0)
        gaps.append((above - below).mean().item())
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.3


def test_draws_end_at_the_target(gaussians):
    path = gaussians.path(num_temperatures=300)
    found = anneal(gaussians.ends, gaussians.base.sample((1000,)), path)
    weights = (found.log_w - found.log_w.logsumexp(0)).exp()[..., None]
    mean = (weights * found.z).sum(0)
    error = (weights.square() * (found.z - mean).square()).sum(0).sqrt()
    assert ((mean - gaussians.target.mean) / error).abs().max() < 5
    assert 0.5 < found.acceptance.mean() < 0.99
    assert found.acceptance.shape == (300, N)


def test_a_path_and_back(gaussians):
    path = gaussians.path(num_temperatures=6)
    back = path.reversed()
    torch.testing.assert_close(back.betas, path.betas.flip(0))
    assert torch.equal(back.step[:-1], path.step[:-1].flip(0))
    assert schedule(7, torch.zeros(1))[0] == 0
    assert schedule(7, torch.zeros(1))[-1] == 1


def test_densities_are_evaluated_once_at_each_point(gaussians):
    """Of a trajectory of L steps at L new points; the scores that come back are those of where the chains are."""
    path, calls = gaussians.path(num_temperatures=20, num_steps=3), []

    def counted(z):
        calls.append(z)
        return gaussians.ends(z)

    found = anneal(counted, gaussians.base.sample((50,)), path)
    assert len(calls) == 1 + 20 * 3
    z, beta, sd = found.z, torch.tensor(0.5), path.sd[10]
    # Steps far too long, so that some chains stay where they are.
    step, noise = 2 * path.step[10], Noise(z, None)
    moved, scores, acceptance = _moved(gaussians.ends, z, gaussians.ends(z), beta, sd, step, 3, noise)
    assert 0.02 < acceptance.mean() < 0.98
    assert (moved == z).all(-1).any()
    for a, b in zip(scores, gaussians.ends(moved), strict=True):
        torch.testing.assert_close(a, b)
