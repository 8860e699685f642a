"""Directions and neighbours, against closed forms and scikit-learn."""

import pytest
import torch
from mc import assert_close_mc
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

import pyro_vae as pv
from pyro_vae.latent import classifier_normal, mean_difference, neighbours, per_sd, principal_axes

pytestmark = pytest.mark.usefixtures("float64")
N = 3000


def codes(num=N, dim=6):
    """Correlated codes of different variances, not centred."""
    return torch.randn(num, dim) @ torch.randn(dim, dim) + torch.arange(dim)


def two_groups(num=N):
    """An attribute that moves z by a known vector, and correlates with nothing else."""
    a = torch.arange(num) % 2
    shift = torch.tensor([2.0, -1.0, 0.0, 0.5])
    noise = torch.randn(num, 4) * torch.tensor([1.0, 0.5, 2.0, 1.0])
    return noise + a[:, None] * shift, a, shift


def test_mean_difference_finds_the_shift():
    z, a, shift = two_groups()
    error = 2 * torch.tensor([1.0, 0.5, 2.0, 1.0]) / N**0.5
    assert_close_mc(mean_difference(z, a), shift, error)
    torch.testing.assert_close(mean_difference(z, 1 - a), -mean_difference(z, a))


def test_differences_within_groups_leave_out_what_tells_the_groups_apart():
    """An attribute that comes with some groups more than with others: the plain difference is far off."""
    group = torch.arange(N) % 10
    a = (torch.rand(N) < group / 9).long()
    own = 5 * torch.randn(10, 4)
    own[:, 0] = 3.0 * torch.arange(10)
    shift = torch.tensor([2.0, -1.0, 0.0, 0.5])
    z = own[group] + a[:, None] * shift + torch.randn(N, 4)
    counts = torch.stack([torch.stack([(a[group == g] == side).sum() for side in (0, 1)]) for g in range(1, 9)])
    error = (1 / counts.double()).sum(1).mean().div(8).sqrt()  # groups 0 and 9 have one side only
    assert_close_mc(mean_difference(z, a, group), shift, error.expand(4))
    assert mean_difference(z, a)[0] > 5
    order = torch.randperm(N)
    torch.testing.assert_close(mean_difference(z[order], a[order], group[order]), mean_difference(z, a, group))
    with pytest.raises(pv.DeclarationError, match="in none of them there are data with the attribute"):
        mean_difference(z, a, torch.arange(N))
    with pytest.raises(pv.DeclarationError, match=r"groups: has shape \(3,\), and there are 3000 codes"):
        mean_difference(z, a, group[:3])


def test_classifier_normal_is_that_of_the_linear_discriminant():
    """For normal groups of one covariance the logistic regression's normal is Sigma^-1 (m_1 - m_0)."""
    z, a, shift = two_groups(20_000)
    v = classifier_normal(z, a)
    best = shift / torch.tensor([1.0, 0.5, 2.0, 1.0]).square()
    assert torch.nn.functional.cosine_similarity(v, best, dim=0) > 0.995
    assert torch.nn.functional.cosine_similarity(mean_difference(z, a), best, dim=0) < 0.9, "so that they differ"
    n = v / v.norm()
    groups = [z[a == k] @ n for k in (0, 1)]
    torch.testing.assert_close(v.norm(), groups[1].mean() - groups[0].mean(), msg="as far as the groups are apart")


@pytest.mark.parametrize("find", [mean_difference, classifier_normal])
def test_directions_do_not_depend_on_the_order(find):
    z, a, _ = two_groups(400)
    a[::7] = -1
    order = torch.randperm(400)
    torch.testing.assert_close(find(z[order], a[order]), find(z, a), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(find(z, torch.where(a < 0, a, 1 - a)), -find(z, a), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("find", [mean_difference, classifier_normal])
def test_unknown_attributes_are_left_out(find):
    z, a, _ = two_groups(400)
    spoilt = torch.cat([z, torch.full((9, 4), 1e3)])
    torch.testing.assert_close(find(spoilt, torch.cat([a, torch.full((9,), -1)])), find(z, a))


@pytest.mark.parametrize("find", [mean_difference, classifier_normal])
@pytest.mark.parametrize("attribute", [torch.zeros(9), torch.ones(9), torch.full((9,), -1)])
def test_both_groups_are_needed(find, attribute):
    with pytest.raises(pv.DeclarationError, match=r"there must be data with it \(1\) and data without it \(0\)"):
        find(torch.randn(9, 2), attribute)
    with pytest.raises(pv.DeclarationError, match="and there are 5 codes"):
        find(torch.randn(5, 2), attribute)


@pytest.mark.parametrize("num", [None, 2])
@pytest.mark.parametrize("size", [(N, 6), (4, 6)])
def test_principal_axes_are_those_of_scikit_learn(num, size):
    z = codes(*size)
    found, known = principal_axes(z, num), PCA(num if num else min(size[0] - 1, size[1])).fit(z.numpy())
    torch.testing.assert_close(found.mean, torch.as_tensor(known.mean_))
    torch.testing.assert_close(found.axes, torch.as_tensor(known.components_), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.sd.square(), torch.as_tensor(known.explained_variance_))
    torch.testing.assert_close(found.explained, torch.as_tensor(known.explained_variance_ratio_))
    torch.testing.assert_close(found.coordinates(z), torch.as_tensor(known.transform(z.numpy())), rtol=1e-6, atol=1e-8)
    order = torch.randperm(len(z))
    torch.testing.assert_close(principal_axes(z[order], num).axes, found.axes, rtol=1e-6, atol=1e-8)


def test_number_of_axes_is_checked():
    for num in (0, 4):
        with pytest.raises(pv.DeclarationError, match=f"num={num}: 4 codes of 6 dimensions have 1 to 3 axes"):
            principal_axes(codes(4), num)
    with pytest.raises(pv.DeclarationError, match="take two or more"):
        principal_axes(codes(1))


def test_per_sd_is_one_standard_deviation():
    z, v = codes(), torch.randn(6)
    s = per_sd(v, z)
    torch.testing.assert_close(s / s.norm(), v / v.norm())
    torch.testing.assert_close(s.norm(), (z @ (v / v.norm())).std())
    torch.testing.assert_close(per_sd(7 * v, z), s)
    axes = principal_axes(z)
    torch.testing.assert_close(per_sd(axes.axes[0], z).norm(), axes.sd[0])
    with pytest.raises(pv.DeclarationError, match="direction: has length 0"):
        per_sd(torch.zeros(6), z)


def test_neighbours_are_those_of_scikit_learn(monkeypatch):
    z, among = codes(50), codes()
    distance, index = NearestNeighbors(n_neighbors=5).fit(among.numpy()).kneighbors(z.numpy())
    for pairs in (2**23, 7 * N):
        monkeypatch.setattr("pyro_vae.latent.directions.PAIRS", pairs)
        found = neighbours(z, among, 5)
        assert torch.equal(found[0], torch.as_tensor(index))
        torch.testing.assert_close(found[1], torch.as_tensor(distance))
    assert torch.equal(neighbours(among[:9], among, 1)[0][:, 0], torch.arange(9))
    with pytest.raises(pv.DeclarationError, match=f"num=0: there are {N} codes"):
        neighbours(z, among, 0)
