"""The residual network: sizes, its start, its blocks, memory layout."""

import itertools

import pytest
import torch
from test_capture import compare
from torch import nn
from torch.nn import functional as F

import pyro_vae as pv
from pyro_vae.networks import ResNet, Shape
from pyro_vae.networks.resnet import Residual, Up
from pyro_vae.objectives import ELBO
from pyro_vae.sites import Batch
from pyro_vae.specs import DeclarationError
from pyro_vae.vae import VAE

SIZES = [(1, 1), (2, 3), (13, 17), (28, 28), (33, 16), (64, 64)]


def moved(module, by=0.1):
    """The module with every parameter off its start."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_size(size):
    """Down to ceil(n / 2) at each resolution, and back to exactly the image."""
    for channels, maps, kernel in itertools.product((1, 3), ([4], [4, 3, 5]), (1, 3, 5)):
        spec, shape = ResNet(channels=maps, kernel=kernel, widths=[3]), Shape((channels, *size))
        body, decoder = spec.body(shape), spec.decoder(4, shape, 2)
        down = body.convolutions(torch.randn(2, channels, *size))
        smallest = tuple(-(-n // 2 ** len(maps)) for n in size)
        assert down.shape == (2, maps[-1], *smallest)
        assert body(torch.randn(2, channels, *size)).shape == (2, body.features) == (2, 3)
        assert decoder.start == (maps[-1], *smallest)
        assert decoder(torch.randn(2, 4)).shape == (2, 2, channels, *size)


def test_large_and_odd():
    spec, shape = ResNet(channels=[2, 2, 2, 2], widths=[]), Shape((3, 218, 178))
    assert spec.sizes((218, 178)) == [(218, 178), (109, 89), (55, 45), (28, 23), (14, 12)]
    assert spec.body(shape)(torch.randn(1, 3, 218, 178)).shape == (1, 2 * 14 * 12)
    assert spec.decoder(4, shape, 1)(torch.randn(1, 4)).shape == (1, 1, 3, 218, 178)


def test_up_repeats_and_cuts_off():
    h = torch.randn(2, 3, 4, 3)
    up = Up((7, 6))(h)
    assert up.shape == (2, 3, 7, 6)
    for i, j in itertools.product(range(7), range(6)):
        assert torch.equal(up[..., i, j], h[..., i // 2, j // 2])


def test_a_block_is_its_equation():
    spec = ResNet(channels=[32], kernel=3)
    block = moved(Residual(spec, 32, 0)).double()
    n1, _, first, n2, _, second = block.layers
    h = torch.randn(2, 32, 5, 4).double()
    assert n1.num_groups == n2.num_groups == 2
    inner = F.conv2d(F.silu(n1(h)), first.weight, first.bias, padding=1)
    expected = h + F.conv2d(F.silu(n2(inner)), second.weight, second.bias, padding=1)
    torch.testing.assert_close(block(h), expected)


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
def test_a_block_starts_as_the_identity(norm):
    block, h = Residual(ResNet(norm=norm), 8, 0), torch.randn(3, 8, 4, 4)
    assert torch.equal(block(h), h)
    assert not torch.equal(moved(block)(h), h)


@pytest.mark.parametrize("blocks", [1, 3])
def test_number_of_blocks(blocks):
    spec, shape = ResNet(channels=[4, 5, 6], blocks=blocks), Shape((1, 16, 16))
    for module in (spec.body(shape), spec.decoder(3, shape, 1)):
        found = [block.layers[-1].out_channels for block in module.modules() if isinstance(block, Residual)]
        assert sorted(found) == sorted(blocks * [4, 5, 6])
    assert found == blocks * [6] + blocks * [5] + blocks * [4], "a decoder goes from the smallest up"


def test_even_kernels_are_refused():
    with pytest.raises(DeclarationError, match=r"kernel=4: must be odd"):
        ResNet(kernel=4)
    for build in (lambda s: s.body(Shape((9,))), lambda s: s.decoder(3, Shape((9,)), 1)):
        with pytest.raises(DeclarationError, match="kind='resnet': data must be images"):
            build(ResNet())


def test_start_at_the_mean():
    """Outputs differ from the mean of each channel by what comes from the latent; by nothing if that is 0."""
    decoder = ResNet(channels=[4], widths=[5]).decoder(3, Shape((2, 6, 5)), 2)
    r = torch.randn(2, 2, 6, 5)
    decoder.start_at(r)
    with torch.no_grad():
        decoder.convolutions[-1].weight.zero_()
    torch.testing.assert_close(decoder(torch.randn(3)), r.mean((-2, -1), keepdim=True).expand_as(r))


@pytest.mark.parametrize("likelihood", ["bernoulli", "normal"])
def test_a_model_starts_at_the_mean_of_the_data(likelihood):
    torch.manual_seed(0)
    variant = pv.Variant(latent={"dim": 4}, likelihood=likelihood, encoder="resnet", decoder="resnet")
    vae = VAE(variant, (3, 16, 16))
    x = (0.2 * torch.rand(40, 3, 16, 16) + torch.tensor([0.1, 0.4, 0.7])[:, None, None]).clamp(0, 1)
    x = x.round() if likelihood == "bernoulli" else x
    vae.initialise(x)
    target = x.mean((0, 2, 3))
    bias = vae.likelihood.decoded.network.convolutions[-1].bias
    found = bias.sigmoid() if likelihood == "bernoulli" else bias
    torch.testing.assert_close(found, target, atol=0.02, rtol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_recorded_for_either_memory_layout(layout):
    """Recorded on images channels first, run on such or on images channels last."""
    network = ResNet(channels=[4, 20], widths=[7])
    vae = VAE(pv.Variant(latent={"dim": 3}, encoder=network, decoder=network), (3, 9, 7))
    other = torch.randn(6, 3, 9, 7).contiguous(memory_format=layout)
    compare(ELBO(num_particles=2).build(moved(vae)), Batch(torch.randn(6, 3, 9, 7)), Batch(other), tolerance=1e-5)


def test_feature_maps_are_channels_last():
    spec, seen = ResNet(channels=[4, 6]), []
    body, decoder = spec.body(Shape((3, 8, 8))), spec.decoder(4, Shape((3, 8, 8)), 1)
    for module in [*body.modules(), *decoder.modules()]:
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, inputs, out: seen.append(inputs[0]))
    body(torch.randn(2, 3, 8, 8))
    decoder(torch.randn(2, 4))
    assert seen
    assert all(h.is_contiguous(memory_format=torch.channels_last) for h in seen if min(h.shape[-2:]) > 1)


def test_features_neither_vanish_nor_explode():
    """Through ten blocks: features and outputs start in the order of the input."""
    spec, shape = ResNet(channels=[16, 32], blocks=5), Shape((3, 16, 16))
    h, r = spec.body(shape)(torch.randn(20, 3, 16, 16)), spec.decoder(8, shape, 1)(torch.randn(20, 8))
    assert 0.1 < h.std() < 3
    assert 0.1 < r.std() < 3
