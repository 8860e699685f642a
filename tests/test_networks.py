"""Networks: shapes for every size, batch dimensions, missing entries, precision, gradients."""

import itertools

import pytest
import torch
from torch import nn

from pyro_vae.networks import ACTIVATIONS, MLP, Conv, ResNet, Shape, dense, join, linear
from pyro_vae.specs import DeclarationError

SIZES = [(1, 1), (2, 2), (5, 7), (8, 8), (28, 28), (33, 17)]
KERNELS = [1, 2, 3, 4, 5]
STRIDES = [1, 2, 3, [2, 1], [1, 3]]
NETWORKS = {
    "mlp": (MLP(widths=[7]), (6,)),
    "linear": (MLP(widths=[]), (6,)),
    "mlp on images": (MLP(widths=[7, 5], activation="silu"), (2, 5, 4)),
    "conv": (Conv(channels=[4, 6], widths=[7], activation="elu"), (2, 5, 4)),
    "conv, no dense": (Conv(channels=[4], widths=[], kernel=4, activation="tanh"), (3, 6, 6)),
    "conv, normalised": (Conv(channels=[4, 6], widths=[7], norm="batch", dropout=0.3), (1, 6, 5)),
    "conv, groups": (Conv(channels=[4, 6], widths=[7], norm="group"), (1, 6, 5)),
    "mlp, gated": (MLP(widths=[7, 5], gated=True, norm="layer", dropout=0.2), (6,)),
    "mlp, normalised": (MLP(widths=[7, 5], norm="batch", activation="elu"), (6,)),
    "resnet": (ResNet(channels=[4, 6], widths=[7]), (2, 5, 7)),
    "resnet, normalised": (ResNet(channels=[4], widths=[], norm="batch", dropout=0.2, blocks=2), (3, 6, 6)),
    "resnet, plain": (ResNet(channels=[4, 6], kernel=5, norm="none", activation="elu"), (1, 6, 5)),
}


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS.keys())
def network(request):
    return request.param


def moved(module, by=0.1):
    """The module with every parameter off its start, in evaluation and training alike."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return module


def count_layers(module, kind):
    return sum(isinstance(layer, kind) for layer in module.modules())


# ------------------------------------------------------------------------------------------------------------- mlp


def test_no_widths_is_a_linear_map():
    spec = MLP(widths=[])
    decoder = spec.decoder(3, Shape((2, 2)), 5)
    a, b = torch.randn(2, 3)
    assert decoder(a).shape == (5, 2, 2)
    torch.testing.assert_close(decoder(a) + decoder(b), decoder(a + b) + decoder(torch.zeros(3)))
    body = spec.body(Shape((4,), given=2))
    x, given = torch.randn(6, 4), torch.randn(6, 2)
    assert body.features == 6
    assert torch.equal(body(x, given=given), torch.cat([x, given], -1))
    assert list(body.parameters()) == []


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_equals_plain_torch(activation):
    spec = MLP(widths=[7, 5], activation=activation)
    body, decoder = spec.body(Shape((4,))), spec.decoder(3, Shape((4,)), 2)
    function = ACTIVATIONS[activation]()
    x, c = torch.randn(6, 4), torch.randn(6, 3)
    first, _, second, _ = body.layers
    torch.testing.assert_close(body(x), function(second(function(first(x)))))
    first, _, second, _ = decoder.layers
    expected = decoder.output(function(second(function(first(c)))))
    torch.testing.assert_close(decoder(c), expected.reshape(6, 2, 4))


def test_linear_is_glorots():
    layer = linear(300, 500)
    bound = (6 / 800) ** 0.5
    assert layer.weight.abs().max() <= bound
    assert layer.weight.abs().max() > 0.99 * bound
    assert torch.equal(layer.bias, torch.zeros(500))
    assert len(dense(3, (), "relu")) == 0


# ------------------------------------------------------------------------------------------------------------ conv


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_conv_mirrors_every_size(size, kernel):
    """Wherever the encoder can go down, the decoder comes back to exactly the image; else the size is refused."""
    built = 0
    for strides, channels in itertools.product(STRIDES, (1, 2, 3)):
        for widths in ([3], []):
            spec = Conv(channels=[2, 3], strides=strides, kernel=kernel, widths=widths)
            shape = Shape((channels, *size))
            try:
                spec.sizes(size, spec.layer_strides())
                spec.sizes(size, spec.layer_strides()[::-1])
            except DeclarationError:
                continue
            body, decoder = spec.body(shape), spec.decoder(4, shape, 2)
            built += 1
            h = body(torch.randn(2, channels, *size))
            assert h.shape == (2, body.features)
            assert decoder(torch.randn(2, 4)).shape == (2, 2, channels, *size)
    assert built or (kernel in (2, 4, 5) and min(size) <= 2)


@pytest.mark.parametrize(
    ("size", "kernel", "strides", "expected"),
    [
        ((28, 28), 3, (2, 2), [(28, 28), (14, 14), (7, 7)]),
        ((28, 28), 4, (2, 2), [(28, 28), (14, 14), (7, 7)]),
        ((33, 17), 3, (2, 3), [(33, 17), (17, 9), (6, 3)]),
        ((5, 7), 2, (1, 2), [(5, 7), (4, 6), (2, 3)]),
        ((1, 1), 3, (2, 2), [(1, 1), (1, 1), (1, 1)]),
    ],
)
def test_sizes(size, kernel, strides, expected):
    assert Conv(kernel=kernel).sizes(size, strides) == expected


def test_too_small_an_image_is_refused():
    for build in (lambda s: s.body(Shape((1, 4, 9))), lambda s: s.decoder(3, Shape((1, 4, 9)), 1)):
        with pytest.raises(DeclarationError) as error:
            build(Conv(channels=[4, 4, 4], kernel=4))
        assert "an image of 4 x 9 is too small for 3 layers of kernel 4" in str(error.value)
        assert "fewer layers or a smaller kernel" in str(error.value)


def test_vectors_are_no_images():
    for build in (lambda s: s.body(Shape((9,))), lambda s: s.decoder(3, Shape((9,)), 1)):
        with pytest.raises(DeclarationError, match="images"):
            build(Conv())


def test_strides_are_one_per_layer():
    with pytest.raises(DeclarationError, match="one stride per layer"):
        Conv(channels=[4, 4], strides=[2, 2, 2])
    with pytest.raises(DeclarationError, match="channels"):
        Conv(channels=[])


def test_decoder_strides_are_the_other_way_round():
    """The first stride of a decoder is that of its first transposed convolution."""
    decoder = Conv(channels=[4, 4], strides=[1, 2]).decoder(3, Shape((1, 8, 8)), 1)
    assert decoder.start == (4, 4, 4)
    ups = [layer for layer in decoder.convolutions if isinstance(layer, nn.ConvTranspose2d)]
    assert [up.stride for up in ups] == [(1, 1), (2, 2)]


def test_norm_and_dropout_follow_every_layer_but_the_last_of_the_decoder():
    spec, shape = Conv(channels=[4, 4], norm="batch", dropout=0.2), Shape((1, 8, 8))
    assert count_layers(spec.body(shape), nn.BatchNorm2d) == count_layers(spec.body(shape), nn.Dropout2d) == 2
    assert count_layers(spec.decoder(3, shape, 1), nn.BatchNorm2d) == 1
    assert isinstance(spec.decoder(3, shape, 1).convolutions[-1], nn.ConvTranspose2d)
    assert count_layers(Conv().body(shape), nn.BatchNorm2d) == count_layers(Conv().body(shape), nn.Dropout2d) == 0


# ------------------------------------------------------------------------------------------------------------ both


def test_batch_dimensions_are_a_loop(network):
    spec, x = network
    decoder = spec.decoder(4, Shape(x), 2).eval()
    c = torch.randn(3, 2, 5, 4)
    found = decoder(c)
    assert found.shape == (3, 2, 5, 2, *x)
    for index in itertools.product(range(3), range(2), range(5)):
        torch.testing.assert_close(found[index], decoder(c[index]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fill", [torch.nan, torch.inf, 1e30])
def test_missing_entries_do_not_leak(network, fill):
    """Whatever stands in a missing entry, features and gradients are the same; that it is missing is seen."""
    spec, x = network
    body = spec.body(Shape(x, masked=True)).eval()
    data, mask = torch.randn(5, *x), torch.rand(5, *x) > 0.4
    found = []
    for value in (0.0, fill):
        h = body(torch.where(mask, data, value), mask)
        gradients = torch.autograd.grad(h.square().sum(), list(body.parameters())) if list(body.parameters()) else ()
        found.append((h, *gradients))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
        assert torch.isfinite(b).all()
    zero = torch.where(mask, data, 0.0)
    assert not torch.allclose(body(zero, mask), body(zero, torch.ones_like(mask)))
    assert torch.equal(body(zero), body(zero, torch.ones_like(mask))), "no mask: everything is there"


def test_a_mask_is_obeyed_where_none_was_declared(network):
    spec, x = network
    body = spec.body(Shape(x)).eval()
    data, mask = torch.randn(5, *x), torch.rand(5, *x) > 0.4
    assert torch.equal(body(torch.where(mask, data, torch.nan), mask), body(torch.where(mask, data, 0.0)))


def test_covariates_are_used(network):
    spec, x = network
    body = spec.body(Shape(x, given=3)).eval()
    data, given = torch.randn(5, *x), torch.randn(5, 3, requires_grad=True)
    h = body(data, given=given)
    (gradient,) = torch.autograd.grad((h * torch.randn(h.shape[-1])).sum(), given)  # normalised ones add up to 0
    assert (gradient != 0).any(-1).all()


def test_every_parameter_gets_a_gradient(network):
    spec, x = network
    body, decoder = spec.body(Shape(x, given=2, masked=True)), spec.decoder(4, Shape(x), 2)
    moved(body), moved(decoder)  # what starts at 0 keeps gradients from those before it
    h = body(torch.randn(64, *x), torch.rand(64, *x) > 0.2, torch.randn(64, 2))
    loss = (h * torch.randn_like(h)).sum() + decoder(torch.randn(64, 4)).square().sum()
    for module in (body, decoder):
        for name, parameter in module.named_parameters():
            (gradient,) = torch.autograd.grad(loss, parameter, retain_graph=True)
            assert torch.isfinite(gradient).all(), name
            assert (gradient != 0).any(), name


def test_lower_precision_gives_the_dtype_of_the_input(network):
    spec, x = network
    body, decoder = spec.body(Shape(x, given=2)).eval(), spec.decoder(4, Shape(x), 2).eval()
    data, given, c = torch.randn(5, *x), torch.randn(5, 2), torch.randn(5, 4)
    expected = body(data, given=given), decoder(c)
    with torch.autocast("cpu", torch.bfloat16):
        found = body(data, given=given), decoder(c)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)
    assert not torch.equal(found[1], expected[1]), "the products ran in bfloat16"


def test_float64(network):
    spec, x = network
    body, decoder = spec.body(Shape(x)).double(), spec.decoder(4, Shape(x), 1).double()
    assert body(torch.randn(5, *x, dtype=torch.float64)).dtype == torch.float64
    assert decoder(torch.randn(5, 4, dtype=torch.float64)).dtype == torch.float64


def test_join_broadcasts():
    a, b = torch.randn(5, 1, 2), torch.randn(3, 4)
    joined = join(a, None, b)
    assert joined.shape == (5, 3, 6)
    assert torch.equal(joined[4, 2], torch.cat([a[4, 0], b[2]]))
    assert join(a, None) is a
