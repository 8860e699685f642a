"""Labels and covariates in a network: joined, embedded, or scaling and shifting its features."""

import pyro
import pytest
import torch
from test_capture import compare
from torch import nn

import pyro_vae as pv
from pyro_vae.networks import MLP, Conv, ResNet, Shape
from pyro_vae.networks.layers import Film, Layers
from pyro_vae.objectives import ELBO
from pyro_vae.sites import Batch
from pyro_vae.specs import DeclarationError
from pyro_vae.vae import VAE

IMAGE = (1, 9, 7)
KINDS = {
    "mlp": MLP(widths=[7, 5], activation="tanh"),
    "mlp, gated": MLP(widths=[7, 5], gated=True, norm="layer"),
    "conv": Conv(channels=[4, 6], widths=[7], activation="elu", norm="group"),
    "resnet": ResNet(channels=[4, 6], widths=[7], blocks=2),
}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def spec(request):
    return request.param


def moved(module, by=0.3):
    """The module with every parameter off its start."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return module.double()


def films(module):
    return [layer for layer in module.modules() if isinstance(layer, Film)]


# ------------------------------------------------------------------------------------------------------------ film


@pytest.mark.parametrize("features", [(6,), (6, 3, 2)], ids=["features", "feature maps"])
def test_film_is_its_equation(features):
    layer = moved(Film(4, 6))
    h, c = torch.randn(5, *features).double(), torch.randn(5, 4).double()
    found = layer(h, c)
    for n in range(5):
        gamma, beta = (layer.output.weight @ c[n] + layer.output.bias).chunk(2)
        for i in range(6):
            torch.testing.assert_close(found[n, i], (1 + gamma[i]) * h[n, i] + beta[i])


def test_film_at_zero_is_no_conditioning(spec):
    """At its start the network is the one without labels, whatever the labels are; moved, it is not."""
    decoder = spec.replace(conditioning="film").decoder(4 + 5, Shape(IMAGE, y=3, given=2), 2).double()
    plain = spec.decoder(4, Shape(IMAGE), 2).double()
    added = tuple(f"{name}." for name, module in decoder.named_modules() if isinstance(module, Film))
    state = [value for name, value in decoder.state_dict().items() if not name.startswith(added)]
    plain.load_state_dict(dict(zip(plain.state_dict(), state, strict=True)))
    z, *known = (torch.randn(6, n).double() for n in (4, 5, 5))
    a, b = (decoder(torch.cat([z, c], -1)) for c in known)
    assert torch.equal(a, b)
    torch.testing.assert_close(a, plain(z), rtol=1e-12, atol=1e-12)
    moved(decoder)
    a, b = (decoder(torch.cat([z, c], -1)) for c in known)
    assert not torch.allclose(a, b)


def test_film_reaches_every_hidden_layer(spec):
    shape = Shape(IMAGE, y=3, given=2)
    body = spec.replace(conditioning="film").body(shape)
    decoder = spec.replace(conditioning="film").decoder(9, shape, 1)
    expected = {
        "mlp": (2, 2),
        "conv": (3, 3),  # two convolutions and a dense layer; a dense layer, the start and a convolution
        "resnet": (5, 5),  # four blocks and a dense layer
    }
    assert (len(films(body)), len(films(decoder))) == expected[spec.kind]
    assert all(film.output.in_features == 2 for film in films(body)), "the body sees covariates"
    assert all(film.output.in_features == 5 for film in films(decoder))
    assert all((film.output.weight == 0).all() and (film.output.bias == 0).all() for film in films(decoder))


@pytest.mark.parametrize("embedding", [None, 3])
@pytest.mark.parametrize("conditioning", ["concat", "film"])
def test_every_parameter_and_condition_has_a_gradient(spec, conditioning, embedding):
    declared, shape = spec.replace(conditioning=conditioning, embedding=embedding), Shape(IMAGE, y=3, given=2)
    body, decoder = moved(declared.body(shape)), moved(declared.decoder(9, shape, 2))
    c, given = (torch.randn(32, n, dtype=torch.float64, requires_grad=True) for n in (9, 2))
    h, r = body(torch.randn(32, *IMAGE).double(), given=given), decoder(c)
    loss = (h * torch.randn_like(h)).sum() + (r * torch.randn_like(r)).sum()
    found = torch.autograd.grad(loss, [c, given, *body.parameters(), *decoder.parameters()])
    assert all(torch.isfinite(g).all() for g in found)
    assert (found[0] != 0).all(), "z, labels and covariates of every datum"
    assert (found[1] != 0).all()
    assert all((g != 0).any() for g in found)


@pytest.mark.parametrize("conditioning", ["concat", "film"])
def test_batch_dimensions_and_rows(spec, conditioning):
    """Leading dimensions (C, K, B) are a loop; each row is what it would be alone."""
    declared, shape = spec.replace(conditioning=conditioning, embedding=4), Shape(IMAGE, y=3, given=2)
    decoder = moved(declared.decoder(9, shape, 2))
    c = torch.randn(3, 2, 4, 9, dtype=torch.float64)
    found = decoder(c)
    assert found.shape == (3, 2, 4, 2, *IMAGE)
    for i in range(3):
        for k in range(2):
            for b in range(4):
                torch.testing.assert_close(found[i, k, b], decoder(c[i, k, b]))
    body = moved(declared.body(shape))
    x, given = torch.randn(4, *IMAGE).double(), torch.randn(4, 2).double()
    h = body(x, given=given)
    for b in range(4):
        torch.testing.assert_close(h[b], body(x[b : b + 1], given=given[b : b + 1])[0])


# ------------------------------------------------------------------------------------------------------- embedding


def test_embedding_comes_first(spec):
    """The embedded network is the other one with labels and covariates multiplied by E."""
    shape = Shape(IMAGE, y=3, given=2)
    decoder = moved(spec.replace(embedding=4).decoder(9, shape, 1))
    plain = spec.decoder(8, Shape(IMAGE, y=4), 1).double()
    state = {k: v for k, v in decoder.state_dict().items() if not k.startswith("conditions.")}
    plain.load_state_dict(state)
    z, known = torch.randn(6, 4).double(), torch.randn(6, 5).double()
    embedded = known @ decoder.conditions.embedding.weight.T
    expected = plain(torch.cat([z, embedded], -1))
    torch.testing.assert_close(decoder(torch.cat([z, known], -1)), expected)
    assert decoder.conditions.embedding.bias is None


# --------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(("field", "value"), [("conditioning", "film"), ("embedding", 4)])
def test_without_labels_or_covariates_it_is_refused(spec, field, value):
    declared = spec.replace(**{field: value})
    for build, role, known in (
        (lambda: declared.decoder(4, Shape(IMAGE), 1), "decoder", "labels or covariates"),
        (lambda: declared.body(Shape(IMAGE, y=3)), "encoder", "covariates"),
    ):
        with pytest.raises(DeclarationError) as error:
            build()
        assert str(error.value).startswith(f"{role}.{field}={value}: ")
        assert known in str(error.value)


def test_both_mistakes_at_once():
    with pytest.raises(DeclarationError) as error:
        MLP(conditioning="film", embedding=3).decoder(4, Shape((5,)), 1)
    assert len(error.value.problems) == 2


def test_film_needs_a_hidden_layer():
    with pytest.raises(DeclarationError, match=r"conditioning=film: widths=\[\] has no hidden layer"):
        MLP(widths=[], conditioning="film")
    for spec in (Conv(channels=[4], widths=[]), ResNet(channels=[4], widths=[])):
        decoder = spec.replace(conditioning="film").decoder(6, Shape(IMAGE, y=2), 1)
        assert films(decoder), "an image network always has one"


# ------------------------------------------------------------------------------------------------------ in a model


def conditional(spec, conditioning="film", embedding=3):
    labels = {"y": pv.Label(classes=3, observed="partly"), "style": pv.Label(classes=2)}
    networks = {
        "encoder": spec.replace(conditioning=conditioning),
        "decoder": spec.replace(conditioning=conditioning, embedding=embedding),
    }
    return VAE(pv.Variant(latent=pv.Latent(dim=3), likelihood="bernoulli", labels=labels, **networks), IMAGE, given=2)


def batch(n=6):
    y = torch.stack([torch.randint(-1, 3, (n,)), torch.randint(0, 2, (n,))], -1)
    return Batch(torch.rand(n, *IMAGE).round(), y, given=torch.randn(n, 2))


def test_captured_is_eager(spec):
    """Labels that are enumerated, particles, films that have moved."""
    compare(ELBO(num_particles=2).build(moved(conditional(spec)).float()), batch(), batch(), tolerance=1e-5)


def test_conditional_model_on_device_meta(spec):
    vae = conditional(spec).to("meta")
    data = Batch(*(t if t is None or not torch.is_tensor(t) else t.to("meta") for t in batch()))
    with pyro.validation_enabled(False):
        loss, _ = ELBO().build(vae)(data, {"beta": torch.tensor(1.0, device="meta")})
    loss.backward()
    assert all(parameter.grad is not None for parameter in vae.parameters())


def test_layers_pass_the_condition_on():
    c = torch.randn(5, 2)
    film = moved(Film(2, 4)).float()
    nested = Layers(Layers(nn.Linear(4, 4), film), nn.Tanh())
    h = torch.randn(5, 4)
    assert torch.equal(nested(h, c), film(nested[0][0](h), c).tanh())
