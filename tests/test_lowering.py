"""What is made of a recording for the compiler of a CPU is the same function."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, linear

from pyro_vae.capture import record
from pyro_vae.lowering import bernoulli_log_prob, for_compiler

CPU = torch.device("cpu")


def targets(recorded):
    return [str(node.target) for node in recorded.graph.nodes]


def log_prob(logits, x):
    """As Pyro's Bernoulli computes it, summed over the entries of a datum."""
    logits, x = torch.broadcast_tensors(logits, x)
    return (-binary_cross_entropy_with_logits(logits, x, reduction="none")).reshape(*x.shape[:2], -1).sum(-1)


@pytest.mark.parametrize("num", [1, 3, 11, 16, 784])
def test_bernoulli_log_prob_in_double_precision(num):
    logits = 20 * torch.randn(50, num, dtype=torch.float64)
    x = torch.rand(50, num, dtype=torch.float64)
    expected = (
        x * logits.sigmoid().clamp(min=1e-300).log() + (1 - x) * (-logits).sigmoid().clamp(min=1e-300).log()
    ).sum(-1)
    torch.testing.assert_close(bernoulli_log_prob(logits, x), expected, rtol=1e-12, atol=1e-12)


def test_bernoulli_log_prob_is_as_exact_as_entry_by_entry():
    """In single precision, against double; far out too, where exp underflows."""
    for scale in (0.1, 3.0, 40.0, 200.0):
        logits, x = scale * torch.randn(500, 784), (torch.rand(500, 784) > 0.5).float()
        exact = bernoulli_log_prob(logits.double(), x.double())
        entrywise = -binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
        error, usual = ((found - exact).abs().max() for found in (bernoulli_log_prob(logits, x), entrywise))
        assert error <= 2 * usual + 1e-4


def test_sums_of_log_probabilities_become_one():
    logits, x = torch.randn(5, 2, 1, 4, 6), (torch.rand(2, 1, 4, 6) > 0.5).float()
    recorded = record(log_prob, logits, x)
    expected = recorded(logits, x)
    made = for_compiler(recorded, CPU)
    assert not any("binary_cross_entropy" in target for target in targets(made))
    torch.testing.assert_close(made(logits, x), expected)
    other = torch.randn_like(logits)
    torch.testing.assert_close(made(other, x), log_prob(other, x))


@pytest.mark.parametrize(
    "function",
    [
        lambda logits, x: binary_cross_entropy_with_logits(logits, x, reduction="none"),
        lambda logits, x: (-binary_cross_entropy_with_logits(logits, x, reduction="none")).reshape(5, -1).sum(0),
        lambda logits, x: (-binary_cross_entropy_with_logits(logits, x, x, reduction="none")).reshape(5, -1).sum(-1),
        lambda logits, x: (
            (-binary_cross_entropy_with_logits(logits, x, pos_weight=x + 1, reduction="none")).reshape(5, -1).sum(-1)
        ),
    ],
    ids=["entries", "over data", "weighted", "positive weights"],
)
def test_other_uses_of_the_cross_entropy_stay(function):
    logits, x = torch.randn(5, 6), torch.rand(5, 6)
    recorded = record(function, logits, x)
    expected, before = recorded(logits, x), targets(recorded)
    made = for_compiler(recorded, CPU)
    assert targets(made) == before
    assert torch.equal(made(logits, x), expected)


def test_entries_that_are_used_besides_stay():
    def both(logits, x):
        entries = -binary_cross_entropy_with_logits(logits, x, reduction="none")
        return entries.reshape(5, -1).sum(-1), entries

    recorded = record(both, torch.randn(5, 6), torch.rand(5, 6))
    before = targets(recorded)
    assert targets(for_compiler(recorded, CPU)) == before


def test_a_dense_layer_is_a_product_and_a_sum():
    x, w, b = torch.randn(5, 3), torch.randn(4, 3), torch.randn(4)
    recorded = record(linear, x, w, b)
    expected = recorded(x, w, b)
    assert "aten.addmm.default" in targets(recorded)
    made = for_compiler(recorded, CPU)
    assert "aten.addmm.default" not in targets(made)
    torch.testing.assert_close(made(x, w, b), expected)


def test_a_gpu_is_given_the_recording():
    recorded = record(linear, torch.randn(5, 3), torch.randn(4, 3), torch.randn(4))
    before = targets(recorded)
    assert targets(for_compiler(recorded, torch.device("cuda"))) == before
