"""What is made of a recording for the compiler of a CPU is the same function."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, conv2d, conv_transpose2d, linear

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


CONVOLUTIONS = {
    "one channel": (1, 4, {"padding": 1}),
    "one channel, strides": (1, 4, {"stride": 2, "padding": 1}),
    "one channel, strides that leave a row": (1, 4, {"stride": 3, "padding": 2}),
    "one channel, dilated": (1, 4, {"stride": 2, "padding": 2, "dilation": 2}),
    "colours": (3, 4, {"padding": 1}),
    "groups": (2, 4, {"padding": 1, "groups": 2}),
    "upsampling": (3, 4, {"stride": 2, "padding": 1, "output_padding": 1}),
    "upsampling one channel": (1, 4, {"stride": 2, "padding": 1}),
}


def gradients(name, with_bias=True):
    """The gradients of a convolution with respect to all that it is given, and an example."""
    num_in, num_out, options = CONVOLUTIONS[name]
    transposed = name.startswith("upsampling")
    convolve = conv_transpose2d if transposed else conv2d
    shape = (num_in, num_out) if transposed else (num_out, num_in // options.get("groups", 1))
    shapes = (3, num_in, 9, 11), (*shape, 3, 3), (num_out,)
    example = [torch.randn(shape, dtype=torch.float64) for shape in shapes][: 2 + with_bias]
    weights = torch.randn_like(convolve(*example, **options))

    def function(*given):
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_() for tensor in given]
            return torch.autograd.grad((convolve(*leaves, **options) * weights).sum(), leaves)

    return function, example


def backward(recorded):
    return [node.args for node in recorded.graph.nodes if "convolution_backward" in str(node.target)]


@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_gradients_of_a_convolution(name, with_bias):
    function, example = gradients(name, with_bias)
    recorded = record(function, *example)
    expected = recorded(*example)
    made = for_compiler(recorded, CPU)
    made.graph.lint()
    assert not any(mask[2] for *_, mask in backward(made)), "a bias is summed with what comes before"
    assert len(backward(made)) == (2 if name.startswith("one channel") else 1)
    for found, exact in zip(made(*example), expected, strict=True):
        torch.testing.assert_close(found, exact)


def test_one_channel_is_given_the_other_role():
    """The weight's gradient is that of a transposed convolution, whose layout the many channels decide."""
    function, example = gradients("one channel")
    made = for_compiler(record(lambda *given: function(*given)[1:], *example), CPU)
    made.graph.eliminate_dead_code()
    ((upstream, x, *_, transposed, _, _, mask),) = backward(made)
    assert transposed
    assert mask == [False, True, False]
    assert [tensor.meta["val"].shape[1] for tensor in (upstream, x)] == [1, 4]


def test_a_gpu_is_given_the_recording():
    recorded = record(linear, torch.randn(5, 3), torch.randn(4, 3), torch.randn(4))
    before = targets(recorded)
    assert targets(for_compiler(recorded, torch.device("cuda"))) == before
