"""The result card: what each figure is, and that memory stays bounded whatever K."""

import math
from dataclasses import replace

import exact
import pytest
import torch

import pyro_vae as pv
from pyro_vae import evaluation
from pyro_vae.batches import build
from pyro_vae.capture import unvalidated
from pyro_vae.data import load
from pyro_vae.evaluation import bits_per_dim, evaluate, score
from pyro_vae.specs import DeclarationError

TINY = ["latent.dim=3", "encoder.widths=[16]", "decoder.widths=[16]"]


def untrained(*overrides, name="digits"):
    experiment = pv.load_experiment(name, [*TINY, *overrides])
    data = load(experiment.data)
    return experiment, data, build(experiment, data, torch.device("cpu"))


def test_bits_per_dim():
    binary, grey = load(pv.DigitsData(binarize="dynamic")), load(pv.DigitsData(dequantize="uniform"))
    assert bits_per_dim(64 * math.log(2), binary) == pytest.approx(1.0)
    # A uniform density on [0, 1]^D has NLL 0, and spends log2(17) bits on each of 17 levels.
    assert bits_per_dim(0.0, grey) == pytest.approx(math.log2(17))


def test_grey_data_have_no_bits_and_grey_bernoulli_no_likelihood():
    experiment, data, vae = untrained("data.binarize=none", "likelihood={kind: normal}")
    assert evaluate(vae, data, experiment, num_samples=5)["bits_per_dim"] is None
    experiment, data, vae = untrained("data.binarize=none", "likelihood={kind: bernoulli, grey: true}")
    card = evaluate(vae, data, experiment, num_samples=5)
    assert card["elbo"] is None
    assert card["log_likelihood"] is None
    assert card["kl"]["value"] > 0


def test_units_that_ignore_the_data_are_not_active():
    experiment, data, vae = untrained()
    head = vae.heads["z"].raw.output
    with torch.no_grad():
        head.weight[1].zero_()  # mu of the second dimension is constant
        head.weight[[0, 2]] *= 5
    assert evaluate(vae, data, experiment, num_samples=5)["active_units"] == 2


def test_khat_needs_draws():
    experiment, data, vae = untrained()
    assert evaluate(vae, data, experiment, num_samples=50)["khat"] is None
    report = evaluate(vae, data, experiment, num_samples=120)["khat"]
    assert report["num_draws"] == 120
    assert report["threshold"] == pytest.approx(1 - 1 / math.log10(120))


def test_khat_sees_a_guide_that_is_too_narrow():
    """k = 1 - s^2 for a guide of sd s times the posterior's; the exact guide has no tail at all."""
    torch.set_default_dtype(torch.float64)
    try:
        W, b = torch.tensor([[1.0], [0.5]]), torch.tensor([0.1, 0.2])
        x = torch.randn(100, 2)
        right, narrow = exact.linear_vae(W, b, 0.5), exact.linear_vae(W, b, 0.5)
        with torch.no_grad():
            narrow.heads["z"].raw.output.bias[1] += 2 * math.log(0.4)
        good, bad = (score(vae, pv.Batch(x), 1000).khat for vae in (right, narrow))
    finally:
        torch.set_default_dtype(torch.float32)
    assert (good == -math.inf).all()
    assert 0.6 < bad.mean() < 0.9


def test_active_units_have_an_error():
    mean = torch.zeros(400, 3, dtype=torch.float64)
    mean[:, 0] = torch.randn(400)  # surely active
    mean[:, 1] = 0.1 * torch.randn(400, dtype=torch.float64)  # variance 0.01: on the edge
    number, error = evaluation.active_units(mean)
    assert number in (1, 2)
    assert 0.3 < error < 0.6  # a coin toss has 0.5
    assert evaluation.active_units(mean[:, ::2])[1] == 0.0
    assert evaluation.active_units(mean[:1]) == (None, None)


def test_kl_per_layer_adds_up():
    """The KL of the layers is that of all latents; with labels, theirs is the rest."""
    words = ["latent=[{dim: 3}, {dim: 2}]", "prior=[normal, standard_normal]", "guide=ladder"]
    experiment, data, vae = untrained(*words)
    found = evaluate(vae, data, experiment, num_samples=5)
    assert found["kl_per_layer"].keys() == {"z1", "z2"}
    assert sum(kl["value"] for kl in found["kl_per_layer"].values()) == pytest.approx(found["kl"]["value"], abs=1e-6)
    assert all(kl["standard_error"] > 0 for kl in found["kl_per_layer"].values())


def test_a_datum_that_cannot_be_scored_is_named():
    _, _, vae = untrained("data.binarize=none", "likelihood={kind: normal}")
    x = torch.zeros(250, 1, 8, 8)
    x[130, 0, 2, 2] = 1e30
    with pytest.raises(DeclarationError, match="observation 130: log p"):
        score(vae.eval(), pv.Batch(x), 2)


def test_bits_need_probabilities_of_binary_data():
    experiment, data, vae = untrained("likelihood={kind: normal}", "data.binarize=none")
    data = replace(data, support="binary")
    assert evaluate(vae, data, experiment, num_samples=5)["bits_per_dim"] is None


def test_the_widest_tensor_is_that_of_the_hidden_layers():
    _, _, vae = untrained("decoder.widths=[500]")
    assert vae.widest == 500
    _, _, vae = untrained("decoder={kind: conv, channels: [64, 32], widths: [16]}")
    assert vae.widest >= 32 * 4 * 4


def test_evaluation_leaves_the_model_and_the_random_state_alone():
    experiment, data, vae = untrained()
    vae.train()
    state = torch.get_rng_state()
    before = [p.clone() for p in vae.parameters()]
    first, second = (evaluate(vae, data, experiment, num_samples=3) for _ in range(2))
    assert vae.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))
    assert first["elbo"] == second["elbo"]


def test_standard_error_is_that_of_the_mean_over_data():
    experiment, data, vae = untrained()
    card = evaluate(vae, data, experiment, num_samples=10)
    batch = evaluation.prepared(data, "test", experiment, torch.device("cpu"))
    torch.manual_seed(experiment.seed)
    elbo = score(vae.eval(), batch, 10).elbo
    assert card["elbo"]["value"] == pytest.approx(elbo.mean().item())
    assert card["elbo"]["standard_error"] == pytest.approx(elbo.std().item() / math.sqrt(len(elbo)))


def test_missing_labels_are_summed_out_of_log_p():
    """log p(x) of a mixture by importance sampling, against a sum over classes of separate estimates."""
    labels = {"digit": {"classes": 3, "observed": "never", "rule": "sum"}}
    experiment = pv.load_experiment("digits", TINY)
    variant = pv.Variant(**{**experiment.variant.tree(), "labels": labels})
    vae = pv.VAE(variant, (1, 8, 8)).eval()
    x = torch.bernoulli(torch.full((10, 1, 8, 8), 0.4))
    scores = score(vae, pv.Batch(x), 3000)
    parts = []
    given = pv.Variant(**{**experiment.variant.tree(), "labels": {"digit": {"classes": 3, "observed": "always"}}})
    conditional = pv.VAE(given, (1, 8, 8)).eval()
    conditional.load_state_dict(vae.state_dict())
    with unvalidated():
        for c in range(3):
            parts.append(score(conditional, pv.Batch(x, torch.full((10,), c)), 3000).log_likelihood - math.log(3))
    brute = torch.stack(parts).logsumexp(0)
    error = scores.standard_error * math.sqrt(2)
    assert ((scores.log_likelihood - brute).abs() < 5 * error + 1e-6).all()
