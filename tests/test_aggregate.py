"""ELBO surgery, the kernel two-sample test and collapsed dimensions, against closed forms and at stated error rates."""

import math

import pytest
import torch
from mc import assert_close_mc

from pyro_vae.diagnostics import aggregate
from pyro_vae.diagnostics.aggregate import collapsed, mmd_test, surgery
from pyro_vae.diagnostics.calibration import uniformity

pytestmark = pytest.mark.usefixtures("float64")


def scores(mean, s, num_draws):
    """log q(z | x_n), log q(z) and log p(z) (S, N) at draws of q(z | x_n) = N(mean_n, s^2); p = N(0, 1)."""
    z = mean + s * torch.randn(num_draws, len(mean))
    q = torch.distributions.Normal(mean, s)
    log_q_all = q.log_prob(z[..., None])  # (S, N, M)
    aggregate = log_q_all.logsumexp(-1) - math.log(len(mean))
    return q.log_prob(z), aggregate, torch.distributions.Normal(0.0, 1.0).log_prob(z)


@pytest.mark.parametrize(
    ("mean", "information"),
    [
        pytest.param(torch.full((40,), 1.5), 0.0, id="identical"),
        pytest.param(torch.tensor([-9.0, 9.0]).repeat(20), math.log(2), id="two groups"),
        pytest.param(100 * torch.arange(40.0), math.log(40), id="all apart"),
    ],
)
def test_information_of_groups_that_are_far_apart(mean, information):
    """I = log of the number of groups; KL(N(m, s^2) || N(0, 1)) = (m^2 + s^2 - 1) / 2 - log s for the sum."""
    s = 0.8
    own, every, prior = scores(mean.double(), s, num_draws=2000)
    found = surgery(own, every, prior)
    kl = ((mean.double().square() + s**2 - 1) / 2 - math.log(s)).mean()
    draws_only = (own - prior).std(0).square().mean().div(own.numel()).sqrt()
    assert_close_mc(found.mutual_information[0], information, 1e-9)
    assert_close_mc(found.kl[0], kl, draws_only)  # false alarm 6e-7
    assert_close_mc(found.kl_to_prior[0], kl - information, draws_only)
    assert found.log_num_data == math.log(40)


def test_aggregate_that_is_the_prior():
    """x ~ N(0, 1 - s^2), q(z | x) = N(x, s^2): q(z) = p(z) and I = -log s."""
    s = 0.5
    found = surgery(*scores(math.sqrt(1 - s**2) * torch.randn(1500), s, num_draws=1))
    assert_close_mc(found.mutual_information[0], -math.log(s), found.mutual_information[1])
    assert_close_mc(found.kl[0], -math.log(s), found.kl[1])
    assert abs(found.kl_to_prior[0]) < 0.01  # its bias is 5e-4, its sd 1e-3
    assert found.kl[0] == found.mutual_information[0] + found.kl_to_prior[0]


def test_standard_errors_are_those_of_new_data():
    """Ratio to the sd over 300 data sets; that sd is known to 4 %, and 20 % off is five of those."""
    found = [surgery(*scores(0.7 * torch.randn(40) + 1, 0.5, num_draws=10)) for _ in range(300)]
    for term in ("kl", "mutual_information", "kl_to_prior"):
        value, error = torch.tensor([getattr(one, term) for one in found]).unbind(1)
        assert 0.8 < error.mean() / value.std() < 1.2, term


def test_surgery_takes_a_mixture_over_more_data():
    own, prior = torch.zeros(2, 5), torch.full((2, 5), -3.0)
    found = surgery(own, own - math.log(50), prior, num_data=50)
    assert found.mutual_information == pytest.approx((math.log(50), 0.0))
    assert found.log_num_data == math.log(50)


def naive_mmd2(x, y, h):
    """Means of k over the pairs of distinct draws, pair by pair."""

    def k(a, b):
        return math.exp(-float((a - b).square().sum()) / (2 * h**2))

    def within(a):
        return sum(k(a[i], a[j]) for i in range(len(a)) for j in range(len(a)) if i != j) / (len(a) * (len(a) - 1))

    return within(x) + within(y) - 2 * sum(k(a, b) for a in x for b in y) / (len(x) * len(y))


def test_mmd2_of_pairs_in_blocks(monkeypatch):
    z, u = torch.randn(11, 3), torch.randn(14, 3) + 0.5
    expected = naive_mmd2(z, u, torch.pdist(torch.cat([z, u])).median().item())
    assert mmd_test(z, u).mmd2 == pytest.approx(expected, abs=1e-12)
    order = torch.randperm(25)
    marks = torch.zeros(25, 1).index_fill_(0, order[:11], 1.0)
    monkeypatch.setattr(aggregate, "AT_ONCE", 4)
    pool = torch.cat([z, u])
    found = aggregate._mmd2(pool, marks, torch.tensor(0.7))
    assert found.item() == pytest.approx(naive_mmd2(pool[order[:11]], pool[order[11:]], 0.7), abs=1e-12)


def test_mmd2_is_unbiased():
    """N(1, 1) and N(0, 1): 2 h / sqrt(h^2 + 2) (1 - exp(-1 / (2 h^2 + 4))), the mean of 200 estimates."""
    found, expected = [], []
    for _ in range(200):
        z, u = torch.randn(30, 1) + 1, torch.randn(50, 1)
        h = torch.pdist(torch.cat([z, u])).median()
        expected.append(2 * h / (h**2 + 2).sqrt() * (1 - (-1 / (2 * h**2 + 4)).exp()))
        found.append(mmd_test(z, u, num_permutations=1).mmd2)
    difference = torch.tensor(found) - torch.stack(expected)
    assert_close_mc(difference.mean(), 0.0, difference.std() / math.sqrt(200))


def test_p_values_of_draws_of_the_prior_are_uniform():
    """Of 100 repetitions, by Kolmogorov and Smirnov; false alarm 1e-4."""
    p = torch.tensor([mmd_test(torch.randn(20, 2), torch.randn(35, 2), 49).p_value for _ in range(100)])
    assert uniformity(p - torch.rand(100) / 50) > 1e-4


@pytest.mark.parametrize(("shift", "scale"), [(0.3, 1.0), (0.0, 0.7)])
def test_draws_of_something_else_are_told(shift, scale):
    found = mmd_test(shift + scale * torch.randn(500, 2), torch.randn(500, 2))
    assert found.p_value < 0.01
    assert mmd_test(5 + torch.randn(50, 2), torch.randn(50, 2))[1:] == pytest.approx((1 / 201, 0.005), rel=0.02)


def test_p_value_has_the_error_it_says():
    """Over 60 sets of permutations of the same draws, whose sd is known to 9 %."""
    z, u = torch.linspace(-1, 1, 30)[:, None] + 0.3, torch.linspace(-1, 1, 30)[:, None]
    found = [mmd_test(z, u, 50) for _ in range(60)]
    p, error = torch.tensor([one[1:] for one in found]).unbind(1)
    assert 0.05 < p.mean() < 0.5
    assert 0.6 < error.mean() / p.std() < 1.5


def test_generator_decides_the_permutations():
    z, u = torch.randn(30, 1), torch.randn(30, 1)
    first, second = (mmd_test(z, u, 50, torch.Generator().manual_seed(7)) for _ in range(2))
    assert first == second


def test_a_dimension_is_collapsed_where_both_are_small():
    found = collapsed(torch.tensor([0.001, 0.001, 0.5, 0.5]), torch.tensor([0.001, 0.5, 0.001, 0.5]))
    assert found.tolist() == [True, False, False, False]


NAN = torch.full((1, 4), torch.nan)
ONE = torch.zeros(1, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: surgery(ONE, ONE, ONE[0]), "must be one"),
        (lambda: surgery(ONE, NAN, ONE), r"log_q_aggregate\[0, 0\] is NaN"),
        (lambda: surgery(ONE, ONE - math.log(5), ONE), "lacks the datum itself"),
        (lambda: mmd_test(torch.randn(9, 2), torch.randn(9, 3)), "must be"),
        (lambda: mmd_test(torch.randn(9, 2), torch.randn(1, 2)), "at least 2"),
        (lambda: mmd_test(torch.randn(5001, 1), torch.randn(9, 1)), "thin them"),
        (lambda: mmd_test(torch.randn(4, 4), NAN.repeat(4, 1)), r"prior\[0, 0\]"),
        (lambda: mmd_test(torch.zeros(9, 2), torch.zeros(9, 2)), "no bandwidth"),
        (lambda: collapsed(NAN[0], ONE[0]), r"kl_per_dim\[0\] is NaN"),
        (lambda: collapsed(ONE[0], ONE[0, :2]), "must both be"),
    ],
)
def test_what_has_no_answer(call, message):
    with pytest.raises(ValueError, match=message):
        call()
