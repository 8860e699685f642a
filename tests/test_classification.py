"""Labels by Bayes' rule against brute force, and against the closed form of a linear-Gaussian model."""

import math

import parts
import pytest
import torch
from exact import log_evidence
from torch import Tensor

import pyro_vae as pv
from pyro_vae.classification import accuracy, score_labels
from pyro_vae.sites import Batch
from pyro_vae.vae import VAE, densities

pytestmark = pytest.mark.filterwarnings("error")


@torch.no_grad()
def shifted(observed: str, rule: str = "sum", shift: float = 2.0) -> tuple[VAE, Tensor, Tensor, float]:
    """x = W z + shift y + sigma eps with y one of three classes, and an encoder that is nearly exact."""
    torch.manual_seed(0)
    W, sigma, classes = torch.tensor([[1.0], [0.5], [-0.5]]).double(), 0.5, 3
    variant = pv.Variant(
        latent=pv.Latent(dim=1),
        likelihood=pv.Normal(scale=sigma, min_scale=0.0),
        labels={"y": pv.Label(classes=classes, observed=observed, rule=rule)},
        encoder=pv.MLP(widths=[]),
        decoder=pv.MLP(widths=[]),
    )
    vae = VAE(variant, (3,)).double()
    output = vae.likelihood.decoded.network.output
    output.weight.copy_(torch.cat([W, shift * torch.eye(3).double()], 1))
    output.bias.zero_()
    precision = 1 + (W.T @ W).item() / sigma**2
    head, project = vae.heads["z"].raw.output, W.T / sigma**2 / precision
    head.weight.zero_()
    head.weight[0] = torch.cat([project, -project * shift], 1)  # the mean of p(z | x, y): W'(x - shift e_y)
    head.bias.copy_(torch.tensor([0.0, -math.log(precision)], dtype=torch.float64))
    y = torch.randint(0, classes, (40,))
    x = torch.randn(40, 1).double() @ W.T + shift * torch.eye(3).double()[y] + sigma * torch.randn(40, 3).double()
    expected = torch.stack([log_evidence(x, W, shift * torch.eye(3).double()[c], sigma) for c in range(3)], 1)
    return vae, x, expected, y


@pytest.mark.parametrize(("observed", "rule"), [("always", "sum"), ("partly", "sum"), ("partly", "guide")])
def test_the_exact_guide_gives_the_closed_form(observed, rule):
    """log p(x | y) to rounding, whatever the number of samples; p(y | x) and p(n | y) follow."""
    vae, x, expected, y = shifted(observed, rule)
    found = score_labels(vae, Batch(x), num_samples=3)
    torch.testing.assert_close(found.log_likelihood, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.probability, expected.softmax(1))
    torch.testing.assert_close(found.share, expected.softmax(0))
    torch.testing.assert_close(found.marginal("y"), expected.softmax(1))
    assert found.standard_error.max() < 1e-6
    assert (found.guide.keys() == {"y"}) == (rule == "guide" and observed == "partly")
    share, error = accuracy(found.marginal("y"), y)
    assert share > 0.7  # the classes lie 2.8 apart, at a noise of 0.5 and 1
    assert error == pytest.approx(math.sqrt(share * (1 - share) / 40))


def test_labels_of_the_data_are_not_looked_at():
    vae, x, _, y = shifted("partly")
    torch.manual_seed(0)
    with_labels = score_labels(vae, Batch(x, y), 2)
    torch.manual_seed(0)
    assert torch.equal(with_labels.log_likelihood, score_labels(vae, Batch(x), 2).log_likelihood)


def test_several_sites_are_a_grid():
    """Cells of a site that is always observed and of one that can be missing, against one run of each."""
    case = {"labels": {"y": parts.label(classes=4), "style": parts.label("always", classes=3)}}
    torch.manual_seed(1)
    vae = parts.vae(**case).double()
    batch = parts.batch(case)
    batch = Batch(batch.x.double())
    torch.manual_seed(2)
    found = score_labels(vae, batch, num_samples=500)
    assert found.log_likelihood.shape == (12, 12)
    assert found.log_prior.tolist() == pytest.approx([-math.log(12)] * 12)
    torch.testing.assert_close(found.marginal("style").sum(1), torch.ones(12).double())
    for cell in (0, 5, 11):
        y = torch.tensor([[int(found.cells["y"][cell]), int(found.cells["style"][cell])]]).expand(12, -1)
        d = densities(vae, batch._replace(y=y), 4000)
        log_w = (d.log_w - d.p["y"].log_prob)[int(found.cells["y"][cell])]
        expected = log_w.logsumexp(0) - math.log(4000)
        error = (found.standard_error[:, cell] ** 2 + log_w.softmax(0).square().sum(0)).sqrt()
        assert ((found.log_likelihood[:, cell] - expected).abs() < 5 * error).all()


def test_what_cannot_be_classified_is_refused():
    with pytest.raises(pv.DeclarationError, match="there is no label site"):
        score_labels(parts.vae(), Batch(torch.zeros(2, parts.X)))
    point = VAE(pv.Variant(guide="point", labels={"y": parts.label("always")}), (4,))
    with pytest.raises(pv.DeclarationError, match="its guide is a point, not a density"):
        score_labels(point, Batch(torch.zeros(2, 4)))
