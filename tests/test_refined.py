"""The refined guide: gradient steps on each datum's own ELBO, on models where the best guide is known."""

import exact
import pyro
import pytest
import torch
from parts import CASES, batch
from parts import vae as build

import pyro_vae as pv
from pyro_vae.guides.refined import BASES
from pyro_vae.objectives import ELBO
from pyro_vae.sites import Batch
from pyro_vae.vae import VAE, densities

pytestmark = pytest.mark.filterwarnings("error")


def refined_copy(vae, **fields):
    """The same parameters under a refined guide."""
    base = vae.variant.guide
    other = VAE(vae.variant.replace(guide=pv.Refined(base=base, **fields)), vae.shape.x).double()
    other.load_state_dict(vae.state_dict())
    other.likelihood.scale = vae.likelihood.scale
    return other


@pytest.fixture
def linear():
    """A linear-Gaussian model with orthogonal columns, and a guide whose mean and scale are off."""
    torch.manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(6, 2).double())
    W, b, sigma = q * torch.tensor([1.0, 2.0]), torch.randn(6).double(), 0.5
    vae = exact.linear_vae(W, b, sigma)
    with torch.no_grad():
        vae.heads["z"].raw.output.bias.add_(0.7)
    x = torch.randn(40, 2).double() @ W.T + b + sigma * torch.randn(40, 6).double()
    return vae, x, exact.log_evidence(x, W, b, sigma)


def elbo(vae, x, particles=2000):
    with torch.no_grad():
        return densities(vae, Batch(x), particles).log_w.mean(0)


def test_steps_lead_to_the_exact_posterior(linear):
    """From a guide that is off by some nats to log p(x), for every datum by itself."""
    vae, x, truth = linear
    start, end = elbo(vae, x), elbo(refined_copy(vae, steps=400, learning_rate=0.01).eval(), x)
    assert (truth - start).mean() > 1
    assert (end - start).min() > 0
    assert (truth - end).mean() < 0.1 * (truth - start).mean()  # the last steps follow one draw each


def test_a_datum_is_refined_by_itself(linear):
    """The offsets of a datum depend on its own ELBO alone: without noise they are those of the datum alone."""
    vae, x, _ = linear
    guide = refined_copy(vae, steps=3).eval()
    torch.manual_seed(0)
    together = guide.refined(Batch(x))["z"]
    moved = x.clone()
    moved[1:] += 1.0
    torch.manual_seed(0)
    assert torch.equal(guide.refined(Batch(moved))["z"][0], together[0])
    assert not torch.equal(guide.refined(Batch(moved))["z"][1], together[1])


def test_steps_are_bounded(linear):
    vae, x, _ = linear
    guide = refined_copy(vae, steps=1, learning_rate=0.5, max_norm=2.0).eval()
    assert (guide.refined(Batch(1000 * x))["z"].norm(dim=-1) <= 1.0 + 1e-9).all()


def test_the_encoder_learns_through_the_steps(linear):
    """In training the gradient of the encoder is that of the bound after the steps, by finite differences."""
    vae, x, _ = linear
    guide = refined_copy(vae, steps=2, learning_rate=0.05).train()
    loss_of, weight = ELBO(kl="sampled").build(guide), guide.heads["z"].raw.output.bias

    def loss():
        torch.manual_seed(3)
        return loss_of(Batch(x[:5]), {"beta": torch.tensor(1.0).double()})[0]

    (gradient,) = torch.autograd.grad(loss(), weight)
    with torch.no_grad():
        for i in range(len(weight)):
            values = []
            for step in (1e-5, -1e-5):
                weight[i] += step
                values.append(loss().item())
                weight[i] -= step
            assert gradient[i].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-6)


def test_explicit_offsets_are_used_as_they_are(linear):
    vae, x, _ = linear
    guide = refined_copy(vae, steps=5).eval()
    offsets = {"z": torch.zeros(len(x), 4).double()}
    torch.manual_seed(0)
    plain = densities(vae, Batch(x), 2).log_w
    torch.manual_seed(0)
    assert torch.equal(densities(guide, Batch(x), 2, offsets=offsets).log_w, plain)


@pytest.mark.parametrize("name", ["plain", "M2", "M2, labels summed", "ladder, M2, missing pixels", "two label sites"])
def test_labels_layers_and_missing_pixels(name):
    case = CASES[name]
    base = "ladder" if "latent" in case else "diagonal_normal"
    torch.manual_seed(0)
    vae = build(**case | {"guide": pv.Refined(base=base, steps=2)})
    found = densities(vae.eval(), batch(case), 3)
    assert torch.isfinite(found.log_w).all()
    assert found.log_w.shape[-2:] == (3, 12)


def test_it_is_an_ordinary_pyro_guide(linear):
    """SVI on the registered pair, also with vectorised particles, and Predictive."""
    vae, x, _ = linear
    guide = refined_copy(vae, steps=2)
    model, program = guide.registered()
    loss = pyro.infer.Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    svi = pyro.infer.SVI(model, program, pyro.optim.Adam({"lr": 1e-3}), loss)
    assert svi.step(Batch(x)) > 0
    drawn = pyro.infer.Predictive(guide.eval().guide, num_samples=2)(Batch(x))["z"]
    assert drawn.shape == (2, 40, 2)
    pyro.clear_param_store()


@pytest.mark.parametrize("objective", ["dreg", "reweighted_wake_sleep", "{kind: elbo, gradient: stl, kl: sampled}"])
def test_what_scores_a_draw_twice_refuses_it(objective):
    with pytest.raises(pv.DeclarationError, match="runs the guide twice, and 'refined' is another one each time"):
        pv.load_experiment("digits", ["guide=refined", f"objective={objective}"])


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("layers", [1, 2])
def test_every_base(base, layers):
    latent = [pv.Latent(dim=3), pv.Latent(dim=2)][:layers]
    if BASES[base].simplex:
        pytest.skip("for categorical latents, in test_discrete.py")
    prior = [*["normal"] * (layers - 1), "standard_normal"]
    variant = pv.Variant(latent=latent, prior=prior, guide=pv.Refined(base=base, steps=2), likelihood="bernoulli")
    assert torch.isfinite(densities(VAE(variant, (5,)), Batch(torch.rand(4, 5).round())).log_w).all()
