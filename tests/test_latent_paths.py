"""Interpolation, steps, traversals and the grid of the prior: against what geometry and probability say."""

import math

import parts
import pytest
import torch
from mc import assert_close_mc

import pyro_vae as pv
from pyro_vae.latent import Points, average, decode, edit, interpolate, locate, manifold, origin, traverse

pytestmark = pytest.mark.usefixtures("float64")


def located(name="plain", num=4):
    case = parts.CASES[name]
    vae, batch = parts.vae(**case).eval(), parts.batch(case, num)
    return vae, locate(vae, batch, num_particles=3)


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("name", ["plain", "plain, covariates", "two label sites", "ladder"])
def test_a_way_goes_through_its_points(name, spherical):
    """Ends are the codes of the inputs, to the bit, and so is every datum on the way."""
    _, points = located(name)
    way = interpolate(points, steps=5, spherical=spherical)
    assert way.z.shape == (13, points.z.shape[1])
    assert torch.equal(way.z[::4], points.z)
    for part, own in ((way.y, points.y), (way.given, points.given)):
        assert (part is None) == (own is None)
        if own is not None:
            assert torch.equal(part[::4], own)


def test_a_line_is_evenly_spaced():
    _, points = located()
    way = interpolate(points[:2], steps=7).z
    steps = way.diff(dim=0)
    torch.testing.assert_close(steps, steps[:1].expand_as(steps))


def test_labels_change_linearly():
    _, points = located("conditional", 30)
    a, b = (int((points.y[:, c] == 1).nonzero()[0]) for c in (0, 1))
    y = interpolate(points[[a, b]], steps=5).y
    torch.testing.assert_close(y[:, 1], torch.linspace(0, 1, 5))
    torch.testing.assert_close(y.sum(-1), torch.ones(5))


def test_spherical_keeps_the_norm():
    """Of codes of one norm; between norms it changes linearly, and a line would cut the corner."""
    z = torch.randn(2, 6)
    z = 3 * z / z.norm(dim=-1, keepdim=True)
    way = interpolate(Points(z, "z"), 9, spherical=True).z
    torch.testing.assert_close(way.norm(dim=-1), torch.full((9,), 3.0))
    assert interpolate(Points(z, "z"), 9).z.norm(dim=-1)[4] < 2.9
    longer = torch.stack([z[0], 2 * z[1]])
    way = interpolate(Points(longer, "z"), 9, spherical=True).z
    torch.testing.assert_close(way.norm(dim=-1), torch.linspace(3, 6, 9))


def test_spherical_steps_turn_evenly():
    z = torch.randn(2, 6)
    way = interpolate(Points(z, "z"), 9, spherical=True).z
    unit = way / way.norm(dim=-1, keepdim=True)
    angles = (unit[1:] * unit[:-1]).sum(-1).acos()
    total = (z[0] @ z[1] / z[0].norm() / z[1].norm()).acos()
    torch.testing.assert_close(angles, (total / 8).expand(8))
    plane = torch.linalg.matrix_rank(torch.cat([way, z]), atol=1e-8)
    assert plane == 2, "on the great circle of the two"


@pytest.mark.parametrize("z", [[[1.0, 2.0], [2.0, 4.0]], [[1.0, 2.0], [-1.0, -2.0]], [[0.0, 0.0], [1.0, 1.0]]])
def test_where_there_is_no_circle_the_way_is_a_line(z):
    points = Points(torch.tensor(z), "z")
    torch.testing.assert_close(interpolate(points, 5, spherical=True).z, interpolate(points, 5).z)


def test_average():
    _, points = located("plain, covariates")
    mean = average(points)
    torch.testing.assert_close(mean.z, points.z.mean(0, keepdim=True))
    torch.testing.assert_close(mean.given, points.given.mean(0, keepdim=True))
    assert len(mean) == 1


@pytest.mark.parametrize("name", ["plain", "conditional", "M2", "ladder, M2, missing pixels", "plain, covariates"])
def test_edit_at_zero_is_the_reconstruction(name):
    vae, points = located(name)
    direction = torch.randn(points.z.shape[1])
    steps = edit(points, direction, [-2, 0, 0.5])
    assert torch.equal(steps.z[1], points.z)
    x = decode(vae, steps)
    torch.testing.assert_close(x[1], decode(vae, points))
    torch.testing.assert_close(steps.z[2] - points.z, (0.5 * direction).expand_as(points.z))
    torch.testing.assert_close(steps.z[0] - points.z, (-2 * direction).expand_as(points.z))
    assert not torch.allclose(x[0], x[1])


def test_traversal_moves_one_dimension():
    _, points = located()
    values = torch.tensor([-3.0, 0.0, 3.0])
    found = traverse(points, values, [1, 4])
    assert found.z.shape == (2, 3, 4, 5)
    for i, d in enumerate((1, 4)):
        torch.testing.assert_close(found.z[i, :, :, d], values[:, None].expand(3, 4))
        others = [k for k in range(5) if k != d]
        assert torch.equal(found.z[i][..., others], points.z[:, others].expand(3, 4, 4))
    assert traverse(points, values).z.shape == (5, 3, 4, 5)


# --------------------------------------------------------------------------------------------------------------- grids


def test_the_grid_covers_equal_mass():
    """Each point is the middle, in probability, of a row and of a column that hold 1 / size of N(0, I)."""
    vae = parts.vae(latent=(2,)).eval()
    z = manifold(vae, 8).z
    assert z.shape == (8, 8, 2)
    normal = torch.distributions.Normal(0.0, 1.0)
    middles = (torch.arange(8) + 0.5) / 8
    torch.testing.assert_close(normal.cdf(z[..., 0]), middles.expand(8, 8))
    torch.testing.assert_close(normal.cdf(z[..., 1]), middles.flip(0)[:, None].expand(8, 8))
    draws = torch.randn(200_000, 2)
    # Half-way in probability between neighbours lie the borders of the cells.
    borders = normal.icdf(torch.linspace(0, 1, 9)).clamp(-20, 20)
    share = torch.histogramdd(draws, [borders, borders]).hist / len(draws)
    assert_close_mc(share, 1 / 64, math.sqrt(1 / 64 * (1 - 1 / 64) / len(draws)))


def test_the_grid_of_more_dimensions_holds_the_others():
    vae, points = located("plain")
    z = manifold(vae, 5, (3, 1), around=points[:1]).z
    others = [0, 2, 4]
    assert torch.equal(z[..., others], points.z[0, others].expand(5, 5, 3))
    assert (z[0, :, 3].diff() > 0).all()
    assert (z[:, 0, 1].diff() < 0).all(), "rows fall, as on paper"
    torch.testing.assert_close(manifold(vae, 5, (3, 1)).z[..., others], torch.zeros(5, 5, 3))


def test_the_grid_along_directions():
    """Any two orthonormal ones: N(0, I) looks the same along them; what is orthogonal to them is held."""
    vae, points = located("plain")
    u = torch.linalg.qr(torch.randn(5, 2)).Q.T
    z = manifold(vae, 4, u, around=points[:1]).z
    quantiles = torch.special.ndtri((torch.arange(4) + 0.5) / 4)
    torch.testing.assert_close(z @ u[0], quantiles.expand(4, 4))
    torch.testing.assert_close(z @ u[1], quantiles.flip(0)[:, None].expand(4, 4))
    rest = torch.eye(5) - u.T @ u
    torch.testing.assert_close(z @ rest, (points.z[0] @ rest).expand(4, 4, 5))


def test_a_learned_normal_prior_has_its_own_quantiles():
    vae = pv.VAE(pv.Variant(latent=pv.Latent(dim=3), prior="normal"), (4,)).eval()
    with torch.no_grad():
        vae.priors["z"].raw.constant.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0, 2.0, -1.0]))
    p = vae.priors["z"](None, None, None).base_dist
    z = manifold(vae, 6, (2, 1)).z
    levels = (torch.arange(6) + 0.5) / 6
    torch.testing.assert_close(p.cdf(z)[..., 2], levels.expand(6, 6))
    torch.testing.assert_close(p.cdf(z)[..., 1], levels.flip(0)[:, None].expand(6, 6))
    torch.testing.assert_close(z[..., 0], torch.ones(6, 6))


@pytest.mark.parametrize("prior", ["mixture", "flow", "vamp"])
def test_other_priors_have_the_quantiles_of_their_draws(prior):
    variant = pv.Variant(latent=pv.Latent(dim=2), prior=prior, encoder=pv.MLP(widths=[8]), decoder=pv.MLP(widths=[8]))
    vae = pv.VAE(variant, (4,)).eval()
    z = manifold(vae, 5).z
    with torch.no_grad():
        draws = vae.priors["z"](None, None, None).sample((20_000,)).reshape(-1, 2)
    levels = (torch.arange(5) + 0.5) / 5
    for d, line in ((0, z[0, :, 0]), (1, z[:, 0, 1].flip(0))):
        below = (draws[:, d, None] < line).double().mean(0)
        assert_close_mc(below, levels, (levels * (1 - levels) * (1 / 20_000 + 1 / 10_000)).sqrt())


def test_the_grid_of_layers_is_at_the_top():
    vae, points = located("ladder")
    grid = manifold(vae, 3, around=points[:1])
    assert grid.layer == "z2"
    assert grid.z.shape == (3, 3, 3)
    assert decode(vae, grid).shape == (3, 3, parts.X)


def test_the_grid_of_a_conditional_model_is_of_one_class():
    vae, _ = located("conditional")
    grid = manifold(vae, 3, around=origin(vae, [2]))
    assert grid.y.shape == (3, 3, 4)
    assert (grid.y.argmax(-1) == 2).all()
    with pytest.raises(pv.DeclarationError, match="must hold a class for each label site: y"):
        manifold(vae, 3)


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v, p: interpolate(p[:1]), "points: are 1; interpolation is between two or more"),
        (lambda v, p: interpolate(p, steps=1), "steps=1: must be 2 or more"),
        (lambda v, p: edit(p, torch.zeros(3), [1]), r"direction: has shape \(3,\); z has 5 dimensions"),
        (lambda v, p: traverse(p, [0.0], [5, -1]), r"dims=\[5, -1\]: z has the dimensions 0 to 4"),
        (lambda v, p: manifold(v, 3, (1, 1)), r"axes=\[1, 1\]: must be two different dimensions from 0 to 4"),
        (lambda v, p: manifold(v, 3, (0, 5)), r"axes=\[0, 5\]: must be two different dimensions"),
        (lambda v, p: manifold(v, 3, (0,)), r"axes=\[0\]: must be two different dimensions"),
        (lambda v, p: manifold(v, 3, torch.ones(2, 5)), "must be two orthonormal directions"),
        (lambda v, p: manifold(parts.vae(latent=(1,)), 3), "has one dimension, and a grid needs two; use a traversal"),
    ],
)
def test_refused(call, message):
    with pytest.raises(pv.DeclarationError, match=message):
        call(*located())


def test_a_simplex_has_no_grid():
    variant = pv.Variant(latent={"kind": "categorical", "dim": 2, "classes": 3})
    with pytest.raises(pv.DeclarationError, match="there is no grid of quantiles"):
        manifold(pv.VAE(variant, (4,)).eval(), 3)
