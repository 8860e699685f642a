"""Normalisation, gates and dropout: what they compute, what they tie together, and what of them is recorded."""

from typing import get_args

import pyro
import pytest
import torch
from test_capture import compare
from torch import nn
from torch.nn import functional as F

import pyro_vae as pv
from pyro_vae.capture import capture
from pyro_vae.networks import MLP, Conv, ResNet, Shape
from pyro_vae.networks.images import normalise
from pyro_vae.networks.layers import Gated
from pyro_vae.objectives import ELBO
from pyro_vae.sites import Batch
from pyro_vae.specs import DeclarationError
from pyro_vae.vae import VAE

IMAGE = (1, 9, 7)
KINDS = {
    "mlp": MLP(widths=[7, 5], activation="tanh"),
    "conv": Conv(channels=[4, 6], widths=[7], activation="elu"),
    "resnet": ResNet(channels=[4, 6], widths=[7]),
}
WEIGHTS = {"beta": torch.tensor(1.0)}


def cases(*norms):
    """Every kind of network with every norm that it has, or with these."""
    words = {name: get_args(type(spec).model_fields["norm"].annotation) for name, spec in KINDS.items()}
    return [
        pytest.param(KINDS[name].replace(norm=word), id=f"{name}, {word}")
        for name in KINDS
        for word in words[name]
        if word in (norms or words[name])
    ]


def vae_of(spec, **changes):
    network = spec.replace(**changes)
    return VAE(pv.Variant(latent={"dim": 3}, likelihood="bernoulli", encoder=network, decoder=network), IMAGE)


def moved(module, by=0.3):
    """The module with every parameter off its start."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return module


def images(n=6, p=0.4):
    return Batch(torch.bernoulli(torch.full((n, *IMAGE), p)))


# ----------------------------------------------------------------------------------------------------------- gates


def test_gated_is_its_equation():
    decoder = MLP(widths=[7], gated=True).decoder(3, Shape((4,)), 1).double()
    (gated,) = decoder.layers
    c = torch.randn(5, 3).double()
    (W, b), (V, d) = ((layer.weight, layer.bias) for layer in (gated.value, gated.gate))
    h = (c @ W.T + b) / (1 + torch.exp(-(c @ V.T + d)))
    torch.testing.assert_close(decoder(c)[:, 0], h @ decoder.output.weight.T + decoder.output.bias)


def test_a_gate_takes_the_activations_place():
    with pytest.raises(DeclarationError, match=r"activation=tanh: a gate stands in place"):
        MLP(gated=True, activation="tanh")
    spec = MLP(gated=True)
    assert MLP.model_validate(spec.tree()) == spec, "the default, written out, is no mistake"
    assert not any(isinstance(layer, nn.ReLU) for layer in spec.body(Shape((4,))).modules())


# -------------------------------------------------------------------------------------------------- normalisations


def test_norms_are_torchs():
    h = 3 * torch.randn(8, 48, 5, 4) + 2
    for norm, expected in (
        ("layer", F.layer_norm(h, h.shape[1:])),
        ("group", F.group_norm(h, 3)),
        ("batch", F.batch_norm(h, None, None, training=True)),
    ):
        (layer,) = normalise(norm, 48)
        torch.testing.assert_close(layer(h), expected)
    assert normalise("none", 48) == []


@pytest.mark.parametrize(("maps", "groups"), [(1, 1), (4, 1), (16, 1), (17, 1), (32, 2), (34, 2), (48, 3), (256, 16)])
def test_groups_hold_at_least_sixteen_maps_or_all(maps, groups):
    (layer,) = normalise("group", maps)
    assert layer.num_groups == groups


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_mlp_normalises_before_the_activation(norm):
    decoder = MLP(widths=[7], norm=norm, activation="elu", dropout=0.3).decoder(3, Shape((4,)), 1).double()
    first, normalisation, activation, dropout = decoder.layers
    decoder.train()
    dropout.eval()
    c = 5 * torch.randn(20, 3).double() + 1
    h = F.linear(c, first.weight, first.bias)
    dim = 0 if norm == "batch" else -1
    normal = (h - h.mean(dim, keepdim=True)) / (h.var(dim, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = F.elu(normal) @ decoder.output.weight.T + decoder.output.bias
    torch.testing.assert_close(decoder(c)[:, 0], expected)
    assert (first.bias is None) == (norm == "batch"), "a bias before batch norm would be taken away again"


@pytest.mark.parametrize("spec", cases())
def test_batch_norm_ties_rows_together_and_nothing_else_does(spec):
    """In training, whether a row is what it is in another batch; in evaluation it always is."""
    decoder = moved(spec.decoder(3, Shape(IMAGE), 1)).double()
    body = moved(spec.body(Shape(IMAGE))).double()
    c, x = torch.randn(6, 3).double(), torch.randn(6, *IMAGE).double()
    for training in (True, False):
        for module, rows in ((decoder.train(training), c), (body.train(training), x)):
            few, all_rows = module(rows[:3]), module(rows)[:3]
            tied = not torch.allclose(few, all_rows, rtol=1e-8, atol=1e-10)
            assert tied == (training and spec.norm == "batch")


@pytest.mark.parametrize("spec", cases("batch"))
def test_batch_norm_is_over_all_rows(spec):
    """Leading dimensions (C, K, B) are rows; the running statistics are those of one batch of C K B."""
    a, b = (spec.decoder(3, Shape(IMAGE), 1).double() for _ in range(2))
    b.load_state_dict(a.state_dict())
    c = torch.randn(2, 3, 4, 3).double()
    torch.testing.assert_close(a(c), b(c.reshape(-1, 3)).reshape(2, 3, 4, 1, *IMAGE))
    assert list(a.buffers())
    for one, other in zip(a.buffers(), b.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_running_statistics_are_the_means():
    """After one step with momentum 0.1: 0.1 of the batch's mean, 0.9 of the start."""
    body = MLP(widths=[7], norm="batch").body(Shape((4,))).double()
    x = torch.randn(50, 4).double() + 3
    h = x @ body.layers[0].weight.T
    body(x)
    norm = body.layers[1]
    torch.testing.assert_close(norm.running_mean, 0.1 * h.mean(0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * h.var(0))


@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("spec", cases())
def test_captured_is_eager(spec, mode):
    """Loss, gradients and buffers, with dropout and particles."""
    objective = ELBO(num_particles=2).build(moved(vae_of(spec, dropout=0.2))).train(mode)
    compare(objective, images(), images(p=0.6), tolerance=1e-5)


@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("spec", cases("batch"))
def test_running_statistics_move_in_training_only(spec, mode):
    """In the recorded step, of the encoder and of the decoder; the eager module's own stay."""
    objective = ELBO().build(vae_of(spec)).train(mode)
    before = {name: buffer.clone() for name, buffer in objective.named_buffers()}
    parameters = [p.detach() for p in objective.parameters()]
    with torch.no_grad():
        after = capture(objective, images(), WEIGHTS)(parameters, list(objective.buffers()), images(), WEIGHTS).buffers
    moves = {name for name, new in zip(before, after, strict=True) if not torch.equal(before[name], new)}
    running = {name for name in before if "running" in name or "num_batches" in name}
    assert moves == (running if mode else set())
    assert any("body" in name for name in running)
    assert any("likelihood" in name for name in running)
    assert all(torch.equal(before[name], buffer) for name, buffer in objective.named_buffers())


@pytest.mark.parametrize("spec", cases())
def test_state_dict_round_trip(spec):
    """Running statistics are part of what is saved."""
    first, second = vae_of(spec), vae_of(spec)
    objective = ELBO().build(first)
    with torch.no_grad(), pyro.validation_enabled(False):
        objective(images(), WEIGHTS)  # moves the running statistics
    second.load_state_dict(first.state_dict())
    c, x = torch.randn(5, 3), images().x
    first.eval(), second.eval()
    assert torch.equal(first.likelihood.decoded.network(c), second.likelihood.decoded.network(c))
    assert torch.equal(first.body(x), second.body(x))


@pytest.mark.parametrize("spec", cases())
def test_device_meta(spec):
    vae = vae_of(spec, dropout=0.2).to("meta")
    with pyro.validation_enabled(False):
        batch, weights = Batch(images().x.to("meta")), {"beta": torch.tensor(1.0, device="meta")}
        loss, _ = ELBO().build(vae)(batch, weights)
    loss.backward()
    assert all(parameter.grad is not None for parameter in vae.parameters())


@pytest.mark.parametrize("spec", cases())
def test_dropout_is_of_training(spec):
    decoder = moved(spec.replace(dropout=0.5).decoder(3, Shape(IMAGE), 1))
    c = torch.randn(6, 3)
    assert not torch.equal(decoder(c), decoder(c))
    decoder.eval()
    assert torch.equal(decoder(c), decoder(c))


def test_gated_dropout_is_after_the_gate():
    layers = MLP(widths=[7], gated=True, norm="layer", dropout=0.2).body(Shape((4,))).layers
    assert [type(layer) for layer in layers] == [Gated, nn.LayerNorm, nn.Dropout]
