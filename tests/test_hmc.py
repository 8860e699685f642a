"""Batched HMC: the moments of known densities, each chain on its own."""

import math

import arviz_stats  # noqa: F401 - the accessor below
import numpy as np
import pytest
import torch
from arviz_base import from_dict

from pyro_vae.diagnostics.hmc import Noise, hmc, trajectory, with_slope

pytestmark = pytest.mark.usefixtures("float64")

N, D, C = 6, 3, 4


def run(log_density, start=None, mean=None, sd=None, seed=0, **settings):
    n, d = (N, D) if mean is None else mean.shape
    torch.manual_seed(seed)
    mean = torch.zeros(n, d) if mean is None else mean
    sd = torch.ones(n, d) if sd is None else sd
    start = mean + 2 * sd * torch.randn(C, n, d) if start is None else start
    return hmc(with_slope(log_density), start, sd, **settings)


def z_scores(values, truth):
    """(mean - truth) / MCSE of draws (S, C, ...), with ArviZ's effective sample size."""
    stored = {"posterior": {"f": values.movedim(0, 1).numpy()}}
    ess = from_dict(stored, dims={"f": [f"d{i}" for i in range(values.dim() - 2)]}).posterior.azstats.ess(method="mean")
    error = values.flatten(0, 1).std(0) / torch.as_tensor(np.sqrt(ess["f"].values))
    return (values.mean((0, 1)) - truth) / error


@pytest.fixture
def normals():
    """N normals of different means and covariances."""
    torch.manual_seed(1)
    mean = 5 * torch.randn(N, D)
    root = torch.randn(N, D, D) * torch.logspace(-2, 1, N)[:, None, None]
    return torch.distributions.MultivariateNormal(mean, root @ root.mT + 1e-6 * torch.eye(D))


SLOW = [pytest.param(guide, marks=pytest.mark.slow) for guide in ("exact", "too narrow", "shifted")]


@pytest.mark.parametrize("guide", ["too wide", *SLOW])
def test_normal_posteriors(normals, guide):
    """Whatever the guide that preconditions it; worst of 72 z-scores, 1e-4 false alarms."""
    sd = normals.variance.sqrt() * {"too narrow": 0.1, "too wide": 10.0}.get(guide, 1.0)
    mean = normals.mean + (3 * sd if guide == "shifted" else 0)
    precision = torch.linalg.inv(normals.covariance_matrix)  # faster than its own log_prob

    def log_density(z):
        distance = z - normals.mean
        return -0.5 * torch.einsum("...ni,nij,...nj->...n", distance, precision, distance)

    found = run(log_density, mean=mean, sd=sd, num_draws=300, num_warmup=200)
    assert z_scores(found.z, normals.mean).abs().max() < 5
    assert z_scores((found.z - normals.mean).square(), normals.variance).abs().max() < 5
    torch.testing.assert_close(found.log_density, log_density(found.z))
    assert found.z.shape == (300, C, N, D)
    assert not found.divergent.any()
    assert 0.7 < found.acceptance.mean() < 0.99


@pytest.mark.parametrize("target", [0.3, 0.8])
def test_rejection_makes_up_for_long_steps(target):
    """p ~ exp(-z^4 / 4): E z^2 = 2 Gamma(3/4) / Gamma(1/4); accepting all would be 5 MCSE and more away."""
    truth = 2 * math.gamma(0.75) / math.gamma(0.25)
    found = run(
        lambda z: -0.25 * z.pow(4).sum(-1), mean=torch.zeros(50, 1), sd=torch.ones(50, 1), target=target, num_draws=2000
    )
    scores = z_scores(found.z.square(), truth)
    assert scores.abs().max() < 5
    assert abs(scores.mean()) < 5 / math.sqrt(scores.numel())


def test_chains_do_not_disturb_each_other():
    """One posterior a thousand times narrower, one with an edge, one without a density anywhere but at its start."""

    def log_density(z):
        sd = torch.tensor([1.0, 1e-3, 1.0, 1.0])
        plain = -0.5 * (z / sd[:, None]).square().sum(-1)
        edge = torch.where(z[..., 0] < 0, -torch.inf, 0.0) * torch.tensor([0, 0, 1, 0]).bool()
        edge = edge.nan_to_num(nan=0.0, neginf=-torch.inf)
        nowhere = torch.where((z[..., 0] - 2).abs() < 1e-9, 0.0, torch.nan)
        return torch.where(torch.tensor([False, False, False, True]), nowhere, plain + edge)

    start = torch.rand(C, 4, 2)
    start[:, 3] = 2
    found = run(log_density, start, torch.zeros(4, 2), torch.ones(4, 2), num_draws=300, num_warmup=200)
    truth = torch.tensor([1.0, 1e-6, 1.0])
    assert z_scores(found.z[:, :, :3].square().mean(-1), truth).abs().max() < 5
    assert (found.z[..., 2, 0] > 0).all()
    assert (found.z[:, :, 3] - 2).abs().max() < 1e-6
    assert found.divergent[:, :, 3].any()
    assert not found.divergent[:, :, :2].any()


def test_a_funnel_diverges():
    def log_density(z):
        v, x = z[..., 0], z[..., 1:]
        return -0.5 * (v / 3).square() - 0.5 * x.square().sum(-1) * (-v).exp() - 0.5 * x.shape[-1] * v

    found = run(log_density, mean=torch.zeros(8, 10), sd=torch.ones(8, 10), target=0.5)
    assert found.divergent.any()


def test_steps_are_of_second_order():
    """The energy moves by 1e-4 or less along steps of 0.01; a kick that is no half would move it by a hundredth."""
    scored = with_slope(lambda z: -0.5 * z.square().sum(-1))
    z = torch.randn(C, N, D)
    found = trajectory(scored, z, torch.ones(N, D), *scored(z), torch.full((C, N), 0.01), 7, Noise(z, None))
    assert found.acceptance.min() > 1 - 1e-3
    assert (found.z - z).abs().max() > 0.01


def test_same_seed_same_draws():
    density = torch.distributions.Normal(0.0, 1.0)
    start, sd = torch.ones(C, N, D), torch.ones(N, D)
    found = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(3)
        settings = {"num_draws": 5, "num_warmup": 8, "generator": generator}
        found.append(hmc(with_slope(lambda z: density.log_prob(z).sum(-1)), start, sd, **settings))
        torch.rand(3)
    assert torch.equal(found[0].z, found[1].z)


def test_float32():
    settings = {"num_draws": 50, "num_warmup": 50}
    start, sd = (torch.ones(*shape, dtype=torch.float32) for shape in ((C, N, D), (N, D)))
    assert hmc(with_slope(lambda z: -z.square().sum(-1)), start, sd, **settings).z.dtype == torch.float32


@pytest.mark.parametrize(
    ("start", "sd", "message"),
    [
        (torch.zeros(2, 3), torch.ones(2, 3), r"must be \(C, N, D\), \(N, D\)"),
        (torch.zeros(4, 2, 3), torch.zeros(2, 3), "not positive"),
        (torch.full((4, 2, 3), torch.nan), torch.ones(2, 3), "chain 0, observation 0 is zero or undefined"),
    ],
)
def test_what_cannot_be_drawn_from(start, sd, message):
    with pytest.raises(ValueError, match=message):
        hmc(with_slope(lambda z: -z.square().sum(-1)), start, sd)
