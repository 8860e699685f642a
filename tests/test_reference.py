"""The reference posterior against the conjugate one, quadrature and Pyro's NUTS, for any kind of variant."""

import math

import exact
import pytest
import torch
from pyro.infer.mcmc import MCMC, NUTS
from test_hmc import z_scores

import pyro_vae as pv
from pyro_vae.diagnosis.reference import reference_posterior
from pyro_vae.sites import Batch, total
from pyro_vae.vae import VAE, densities

pytestmark = pytest.mark.usefixtures("float64")

SMALL = pv.MLP(widths=[8], activation="tanh")
W = torch.tensor([[2.0, 1.0], [0.0, 1.5], [1.0, -1.0], [0.5, 0.5]], dtype=torch.float64)
B = torch.tensor([0.5, -1.0, 0.0, 2.0], dtype=torch.float64)


def built(shape=(4,), seed=0, **fields):
    torch.manual_seed(seed)
    vae = VAE(pv.Variant(encoder=SMALL, decoder=SMALL, **fields), shape).double().eval()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return vae


def moments(draws, first, second):
    """Worst z-score of the means and of the squares."""
    scores = torch.cat([z_scores(draws, first).flatten(), z_scores(draws.square(), second).flatten()])
    return scores.abs().max()


def by_quadrature(vae, batch, points=401):
    """E[z | x, y] and E[z^2 | x, y] (B, 1) of a single latent, on a grid."""
    grid = torch.linspace(-8, 8, points)
    latents = {"z": grid[:, None, None].expand(points, batch.size, 1)}
    with torch.no_grad():
        d = densities(vae, batch, points, latents)
    log_p = total(site.log_prob for site in d.p.values())
    p = (log_p.logsumexp(0) if d.labels else log_p).expand(points, batch.size).softmax(0)
    return (p * grid[:, None]).sum(0)[:, None], (p * grid.square()[:, None]).sum(0)[:, None]


@pytest.mark.parametrize("guide", ["best", "wrong"])
def test_conjugate_posterior(guide):
    """Mean and second moments of a correlated posterior that no diagonal guide matches; worst of 40 z-scores."""
    vae = exact.linear_vae(W, B, 0.7)
    if guide == "wrong":
        with torch.no_grad():
            vae.heads["z"].raw.output.bias.add_(1.5)
    torch.manual_seed(0)
    x = torch.randn(8, 2) @ W.T + B + 0.7 * torch.randn(8, 4)
    mean, precision = exact.posterior(x, W, B, 0.7)
    covariance = torch.linalg.inv(precision)
    draws = reference_posterior(vae, Batch(x)).z["z"]
    assert moments(draws, mean, mean.square() + covariance.diagonal()) < 5
    product = z_scores((draws - mean).prod(-1), covariance[0, 1])
    assert product.abs().max() < 5


def labelled(**label):
    return built(latent=pv.Latent(dim=1), labels={"y": pv.Label(classes=3, **label)})


@pytest.mark.parametrize("kind", ["always", "partly", "never", "missing pixels", "student_t", "flow prior"])
def test_one_latent_by_quadrature(kind):
    torch.manual_seed(1)
    batch = Batch(2 * torch.randn(6, 4))
    y = torch.tensor([0, 1, 2, -1, -1, 1])
    if kind in ("always", "partly", "never"):
        vae = labelled(observed=kind)
        batch = batch._replace(y={"always": y.clamp(min=0), "partly": y, "never": torch.full((6,), -1)}[kind])
    elif kind == "missing pixels":
        vae = built(latent=pv.Latent(dim=1))
        batch = batch._replace(x=torch.where(torch.rand(6, 4) < 0.5, torch.nan, batch.x))
        batch = batch._replace(mask=~batch.x.isnan())
    elif kind == "student_t":
        vae = built(latent=pv.Latent(dim=1), likelihood="student_t")
    else:
        vae = built(latent=pv.Latent(dim=1), prior={"kind": "flow", "layers": 2, "widths": [8]})
    draws = reference_posterior(vae, batch).z["z"]
    assert moments(draws, *by_quadrature(vae, batch)) < 5


def test_layers():
    """Two layers of one latent each, by quadrature in the plane."""
    vae = built(latent=[pv.Latent(dim=1)] * 2, prior=[{"kind": "normal", "widths": [8]}, "standard_normal"])
    batch, axis = Batch(torch.randn(3, 4)), torch.linspace(-6, 6, 301)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        values = {name: grid[:, None, i : i + 1].expand(-1, 3, 1) for i, name in enumerate(("z1", "z2"))}
        p = total(site.log_prob for site in densities(vae, batch, len(grid), values).p.values()).softmax(0)
    found = reference_posterior(vae, batch, num_draws=1000)
    for i, draws in enumerate(found.z.values()):
        value = grid[:, None, i]
        assert moments(draws[..., 0], (p * value).sum(0), (p * value.square()).sum(0)) < 5


def test_log_p_is_that_of_the_draws():
    vae, batch = labelled(observed="partly"), Batch(torch.randn(3, 4), torch.tensor([0, -1, 2]))
    found = reference_posterior(vae, batch, num_draws=4, num_warmup=4)
    z = found.z["z"][-1]
    d = densities(vae, batch, len(z), {"z": z})
    torch.testing.assert_close(found.hmc.log_density[-1], total(s.log_prob for s in d.p.values()).logsumexp(0))


def test_agrees_with_nuts():
    """Pyro's own sampler on the same model: means differ by less than 5 of their standard errors."""
    vae = built(latent=pv.Latent(dim=2))
    batch = Batch(torch.randn(2, 4))
    found = reference_posterior(vae, batch, num_draws=1000).z["z"]
    torch.manual_seed(5)
    mcmc = MCMC(NUTS(vae.model), num_samples=500, warmup_steps=200, disable_progbar=True)
    mcmc.run(batch)
    other = mcmc.get_samples()["z"]
    scale = math.sqrt(1 / 500 + 1 / 250)  # effective sample sizes are larger
    assert ((found.mean((0, 1)) - other.mean(0)) / other.std(0)).abs().max() < 5 * scale


def test_chunks_make_no_difference_to_shapes(monkeypatch):
    vae, batch = built(latent=pv.Latent(dim=2)), Batch(torch.randn(5, 4))
    monkeypatch.setattr("pyro_vae.diagnosis.reference.data_per_chunk", lambda *_: 2)
    done = []
    found = reference_posterior(vae, batch, 7, 6, 3, done.append)
    assert found.z["z"].shape == (7, 3, 5, 2)
    assert found.hmc.divergent.shape == (7, 3, 5)
    assert found.hmc.step_size.shape == (3, 5)
    assert sum(done) == 13 * 5


def test_relaxed_codes_are_refused():
    vae = VAE(pv.Variant(latent="categorical", prior="categorical", guide="relaxed"), (4,))
    with pytest.raises(pv.DeclarationError, match=r"variant.latent.kind=categorical: .* observed never"):
        reference_posterior(vae, Batch(torch.zeros(2, 4)))
