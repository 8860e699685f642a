"""Distances of the features of a fixed network: torchvision's VGG, in no checkpoint, refused where it has no sense."""

import pytest
import torch
import torchvision
from test_likelihoods import LINEAR, build

import pyro_vae as pv
from pyro_vae.likelihoods import Perceptual
from pyro_vae.likelihoods.perceptual import FILES, IMAGENET, Features
from pyro_vae.networks import MLP, Shape
from pyro_vae.specs import DeclarationError
from pyro_vae.vae import VAE

IMAGE = (3, 8, 8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of VGG-11 in a file like torchvision's, and its feature layers."""
    torch.manual_seed(5)
    features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"]).eval()
    path = tmp_path_factory.mktemp("weights") / "vgg11.pth"
    state = {f"features.{name}": value for name, value in features.state_dict().items()}
    torch.save(state | {"classifier.0.weight": torch.zeros(2, 2)}, path)
    return str(path), features


@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_torchvisions(weights, channels):
    path, vgg = weights
    names = ["relu1_1", "relu3_2", "relu4_1"]
    x = torch.rand(2, 5, channels, 16, 16)
    found = Features(Perceptual(network="vgg11", layers=names, weights=path))(x)
    h = (x.flatten(0, 1).expand(-1, 3, -1, -1) - torch.tensor(IMAGENET[0])[:, None, None]) / torch.tensor(IMAGENET[1])[
        :, None, None
    ]
    for name, features, last in zip(names, found, (1, 9, 12), strict=True):  # indices of these ReLUs
        torch.testing.assert_close(features, vgg[: last + 1](h).flatten(1).unflatten(0, (2, 5)), msg=name)


def test_order_of_the_layers_does_not_matter(weights):
    path, _ = weights
    x = torch.rand(4, *IMAGE)
    ab = Features(Perceptual(network="vgg11", layers=["relu1_1", "relu2_1"], weights=path))(x)
    ba = Features(Perceptual(network="vgg11", layers=["relu2_1", "relu1_1"], weights=path))(x)
    assert torch.equal(ab[0], ba[1])
    assert torch.equal(ab[1], ba[0])


@pytest.mark.parametrize("weight", [0.7, [0.5, 2.0]])
def test_log_prob_by_hand(weight):
    spec = Perceptual(layers=["relu1_1", "relu3_1"], weight=weight, pixel=0.3)
    likelihood, z, x = build(spec, IMAGE), torch.randn(2, 5, 3), torch.rand(5, *IMAGE)
    p = likelihood(z, None, None)
    assert p.batch_shape == (2, 5)
    assert p.event_shape == IMAGE
    (image,) = likelihood.decoded(z, None, None)
    expected = -0.15 * (x - image).square().flatten(2).sum(-1)
    weights = weight if isinstance(weight, list) else [weight] * 2
    for w, a, b in zip(weights, likelihood.features(x), likelihood.features(image), strict=True):
        expected = expected - 0.5 * w * (a - b).square().sum(-1)
    torch.testing.assert_close(p.log_prob(x), expected)
    torch.testing.assert_close(p.expand((3, 2, 5)).log_prob(x), expected.expand(3, 2, 5))
    assert p.sample((4,)).shape == (4, 2, 5, *IMAGE)
    torch.testing.assert_close(p.mean, image)


def test_it_is_best_at_the_image_itself_and_starts_at_the_average():
    likelihood, x = build(Perceptual(), IMAGE), torch.rand(50, *IMAGE)
    likelihood.initialise(x)
    p = likelihood(torch.zeros(3), None, None)
    torch.testing.assert_close(p.mean, x.mean(0).to(p.mean.dtype))
    assert p.log_prob(p.mean) == 0
    assert p.log_prob(x[0]) < 0


def test_the_network_is_frozen_and_in_no_checkpoint():
    small = MLP(widths=[8])
    variant = pv.Variant(latent=pv.Latent(dim=2), likelihood=Perceptual(), encoder=small, decoder=small)
    vae = VAE(variant, IMAGE)
    assert not any("features" in name for name, _ in vae.named_parameters())
    assert not any("features" in name for name in vae.state_dict())
    assert vae.double().likelihood.features.relu1_1_weight.dtype == torch.float64
    assert not variant.normalized
    torch.manual_seed(1)
    a = Features(Perceptual())
    torch.manual_seed(2)
    state = torch.get_rng_state()
    b = Features(Perceptual())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(a.buffers(), b.buffers(), strict=True))


def test_no_file_says_where_to_get_it_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(
        DeclarationError, match=r"download\.pytorch\.org/models/vgg19-dcbb9e9d\.pth.*checkpoints|checkpoints.*"
    ) as caught:
        build(Perceptual(network="vgg19"), IMAGE)
    text = str(caught.value)
    assert "weights=null" in text
    assert str(tmp_path / "checkpoints" / "vgg19-dcbb9e9d.pth") in text
    assert "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth" in text
    with pytest.raises(DeclarationError, match=r"weights='nowhere\.pth'"):
        build(Perceptual(network="vgg16", weights="nowhere.pth"), IMAGE)


def test_files_are_torchvisions():
    """The names that torchvision's own downloads have."""
    for word, name in FILES.items():
        weights = torchvision.models.get_model_weights(word).IMAGENET1K_V1
        assert weights.url == f"https://download.pytorch.org/models/{name}"


def test_the_cache_of_torchvision_is_read(weights, tmp_path, monkeypatch):
    path, _ = weights
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / FILES["vgg11"]).symlink_to(path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    x = torch.rand(2, *IMAGE)
    found = Features(Perceptual(network="vgg11"))(x)
    given = Features(Perceptual(network="vgg11", weights=path))(x)
    assert all(torch.equal(a, b) for a, b in zip(found, given, strict=True))


def test_files_of_something_else_are_refused(weights, tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"w": [1, 2]}, tmp_path / "other.pth")
    for name in ("text.pth", "other.pth"):
        with pytest.raises(DeclarationError, match="no file of torchvision's weights|has 0 convolutions") as caught:
            build(Perceptual(network="vgg11", weights=str(tmp_path / name)), IMAGE)
        assert len(caught.value.problems) == 1
    with pytest.raises(DeclarationError, match="has 8 convolutions, and vgg16 13"):
        build(Perceptual(network="vgg16", weights=weights[0]), IMAGE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": ["relu4_1"]}, r"layers\[0\]='relu4_1': 'random' has relu1_1, relu2_1, relu3_1"),
        ({"network": "vgg11", "layers": ["relu1_2"]}, r"'vgg11' has relu1_1, relu2_1, relu3_1, relu3_2"),
        ({"layers": ["relu1_1", "relu1_1"]}, "name each layer once"),
        ({"layers": []}, "layers"),
        ({"weight": [1.0]}, "has 1 entries for 3 layers"),
        ({"weight": -1.0}, "weight"),
        ({"weights": "a.pth"}, "'random' reads no file"),
    ],
    ids=str,
)
def test_mistakes_in_the_declaration(fields, message):
    with pytest.raises(DeclarationError, match=message):
        Perceptual(**fields)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (Shape((12,)), "data must be images"),
        (Shape((2, 8, 8)), "of 1 or 3 channels"),
        (Shape((1, 8, 3)), "images of 8 x 3 are too small"),
        (Shape((1, 8, 8), masked=True), "some entries are missing"),
    ],
    ids=str,
)
def test_data_that_it_cannot_compare(shape, message):
    with pytest.raises(DeclarationError, match=message):
        Perceptual().build(LINEAR, 3, shape)
    assert Perceptual().build(LINEAR, 3, Shape((1, 4, 4)))


def test_accepts():
    assert all(Perceptual().accepts(support) is None for support in ("binary", "unit", "levels"))
    assert "data.standardize" in Perceptual().accepts("real")


@pytest.mark.parametrize("decoder", ["mlp", "conv", "resnet"])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_starts_near_the_mean_image(decoder, norm):
    """Noise of a normalised decoder would lie much further from the data than their mean does."""
    torch.manual_seed(0)
    x = torch.rand(8, 3, 1, 1) * torch.ones(8, 3, 16, 16)
    variant = pv.Variant(likelihood="perceptual", decoder={"kind": decoder, "norm": norm})
    vae = VAE(variant, (3, 16, 16))
    vae.likelihood.initialise(x)
    loc = vae.likelihood(torch.randn(8, vae.variant.latent.dim), None, None).mean
    assert (loc - x.mean(0)).abs().mean() < 0.02
