"""The best normal of each datum and the gaps, against the closed forms of a linear-Gaussian model."""

import exact
import pytest
import torch

from pyro_vae.diagnostics.gaps import fit_normal
from pyro_vae.diagnostics.hmc import with_slope

pytestmark = pytest.mark.usefixtures("float64")

SIGMA = 0.7


@pytest.fixture
def model():
    """log p(x, z), log p(x), and the posterior's mean and precision for 6 data."""
    torch.manual_seed(0)
    W, b = torch.randn(5, 3), torch.randn(5)
    x = torch.randn(6, 3) @ W.T + b + SIGMA * torch.randn(6, 5)

    def log_joint(z):
        likelihood = torch.distributions.Normal(z @ W.T + b, SIGMA).log_prob(x).sum(-1)
        return likelihood + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)

    return with_slope(log_joint), exact.log_evidence(x, W, b, SIGMA), *exact.posterior(x, W, b, SIGMA)


def starts(mean):
    return mean + 0.5 * torch.randn_like(mean), torch.full_like(mean, 0.3)


def test_full_covariance_reaches_the_evidence(model):
    scored, log_p, mean, precision = model
    found = fit_normal(scored, *starts(mean), family="full", num_steps=1500)
    assert ((found.elbo - log_p).abs() < 4 * found.standard_error + 2e-3).all()
    covariance = found.scale_tril @ found.scale_tril.mT
    torch.testing.assert_close(covariance, torch.linalg.inv(precision).expand_as(covariance), atol=0.02, rtol=0.1)


def test_gaps_are_those_of_the_closed_forms(model):
    """approximation = (sum log Lambda_ii - log det Lambda) / 2; amortisation = KL(q || p) less that."""
    scored, log_p, mean, precision = model
    guide = mean + 0.2, torch.full_like(mean, 0.5)
    found = fit_normal(scored, *guide, num_steps=1500)
    approximation = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    assert approximation > 0.1, "columns that correlate, or there is nothing to see"
    assert ((log_p - found.elbo - approximation).abs() < 4 * found.standard_error + 2e-3).all()
    q = torch.distributions.MultivariateNormal(guide[0], torch.diag_embed(guide[1].square()))
    p = torch.distributions.MultivariateNormal(mean, precision_matrix=precision)
    amortisation = torch.distributions.kl_divergence(q, p) - approximation
    elbo = log_p - torch.distributions.kl_divergence(q, p)
    assert ((found.elbo - elbo - amortisation).abs() < 4 * found.standard_error + 2e-3).all()
    torch.testing.assert_close(
        found.scale_tril.diagonal(dim1=-2, dim2=-1).square().reciprocal()[0], precision.diagonal(), rtol=0.1, atol=0.0
    )


def test_each_datum_on_its_own():
    """A datum without a finite best normal does not disturb the others."""
    wild = torch.tensor([1.0, 0.0])
    scored = with_slope(lambda z: -0.5 * ((z - 3) ** 2).sum(-1) * wild + z.sum(-1) * (1 - wild) * 10)
    found = fit_normal(scored, torch.zeros(2, 1), torch.ones(2, 1))
    assert (found.mean[0] - 3).abs() < 0.1
