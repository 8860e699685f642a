"""The recorded program equals the eager one on other inputs, parameters, buffers, weights and random states."""

import os
from typing import Literal

import parts
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.capture import capture, record, same_random_state, simplify, value_and_gradient
from pyro_vae.networks import Network
from pyro_vae.objectives import ELBO
from pyro_vae.planning import compile_step
from pyro_vae.sites import Batch
from pyro_vae.step import (
    LARGE,
    Layout,
    Plan,
    Resident,
    learning_rate_factors,
    make_halves,
    make_step,
    new_state,
    update,
)
from pyro_vae.vae import VAE

WEIGHTS = {"beta": torch.tensor(0.5)}


def conv_vae(norm="batch", dropout=0.2):
    network = {"kind": "conv", "channels": [4, 8], "norm": norm, "dropout": dropout, "widths": [16]}
    variant = pv.Variant(latent=pv.Latent(dim=3), likelihood="bernoulli", encoder=network, decoder=network)
    return VAE(variant, (1, 9, 7))


def moved(buffer):
    """A buffer with other values; masks and orders of units stay, because with others it is another network."""
    if buffer.is_floating_point():
        return 1.1 * buffer + 0.05
    return buffer + 3 if buffer.ndim == 0 and buffer.dtype != torch.bool else buffer.clone()


def compare(objective, traced, other, tolerance=0.0, weights=("beta",)):
    """Record on `traced`, run on `other` with moved parameters, buffers and weights; the worst difference."""
    before = torch.get_rng_state()
    at_first, weights = ({name: torch.tensor(value) for name in weights} for value in (0.5, 0.9))
    recorded, eager = capture(objective, traced, at_first), value_and_gradient(objective)
    assert torch.equal(torch.get_rng_state(), before), "recording must not move the random state"
    parameters = [p.detach() + 0.01 * torch.randn_like(p) for p in objective.parameters()]
    buffers = [moved(b) for b in objective.buffers()]
    torch.manual_seed(11)
    expected = eager(parameters, buffers, other, weights)
    torch.manual_seed(11)
    with torch.no_grad():
        found = recorded(parameters, buffers, other, weights)
    flat = torch.utils._pytree.tree_leaves
    assert len(flat(found)) == len(flat(expected))
    for a, b in zip(flat(found), flat(expected), strict=True):
        assert not a.requires_grad
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    assert all(torch.isfinite(g).all() for g in expected.gradients)
    assert sum(bool((g != 0).any()) for g in expected.gradients) > len(parameters) // 2


@pytest.mark.parametrize("case", parts.CASES.values(), ids=parts.CASES.keys())
@pytest.mark.parametrize("known", [0.5, *(pytest.param(k, marks=pytest.mark.slow) for k in (0.0, 1.0))])
def test_captured_is_eager_on_every_contract_case(case, known):
    """Traced with half of the labels known, run with half, none and all of them."""
    objective = ELBO(num_particles=2).build(parts.vae(**case))
    compare(objective, parts.batch(case), parts.batch(case, known=known))


@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
def test_captured_is_eager_with_buffers_and_dropout(mode):
    objective = ELBO().build(conv_vae()).train(mode)
    x = [torch.bernoulli(torch.full((6, 1, 9, 7), p)) for p in (0.3, 0.6)]
    compare(objective, Batch(x[0]), Batch(x[1]))


def test_training_moves_the_running_mean_and_evaluation_does_not():
    for mode in (True, False):
        objective = ELBO().build(conv_vae()).train(mode)
        x = Batch(torch.bernoulli(torch.full((6, 1, 9, 7), 0.3)))
        buffers = list(objective.buffers())
        with torch.no_grad():
            after = capture(objective, x, WEIGHTS)(
                [p.detach() for p in objective.parameters()], buffers, x, WEIGHTS
            ).buffers
        moved = any(not torch.equal(a, b) for a, b in zip(buffers, after, strict=True))
        assert moved == mode


def test_every_likelihood_and_guide_is_captured_exactly():
    for likelihood in (
        "bernoulli",
        "continuous_bernoulli",
        {"scale": "per_pixel"},
        {"scale": "decoded"},
        {"scale": 0.3},
    ):
        for guide in ("diagonal_normal", "point"):
            variant = pv.Variant(
                latent={"dim": 2}, likelihood=likelihood, guide=guide, encoder={"widths": [8]}, decoder={"widths": [8]}
            )
            objective = ELBO(num_particles=2).build(VAE(variant, (5,)))
            x = torch.rand(2, 4, 5).round() if likelihood == "bernoulli" else torch.rand(2, 4, 5)
            compare(objective, Batch(x[0]), Batch(x[1]))


def training_step(
    vae, compiled, adam=None, clip=None, batch_size=8, steps=12, device="cpu", memory=torch.preserve_format
):
    objective = ELBO().build(vae).train()
    layout = Layout(list(objective.parameters()))
    x = Batch(torch.zeros(batch_size, *vae.shape.x, device=device))
    halves = make_halves(
        capture(objective, x, {"beta": torch.tensor(1.0, device=device)}),
        layout,
        lambda raw: Batch((torch.rand_like(raw.x, dtype=torch.float32) < raw.x / 255).to(torch.float32)),
        adam or pv.Optimizer(learning_rate=1e-2),
        clip,
    )
    step = make_step(halves)
    state = new_state(objective, layout, 4)
    x = torch.randint(0, 256, (128, *vae.shape.x), dtype=torch.uint8).to(device, memory_format=memory)
    data = Resident(x)
    order = torch.stack([torch.randperm(128)[:batch_size] for _ in range(steps)]).to(device)
    plan = Plan(order, torch.linspace(1e-2, 1e-3, steps).to(device), {"beta": torch.linspace(0, 1, steps).to(device)})
    return compile_step(step, torch.device(device)) if compiled else step, state, plan, data


@pytest.mark.skipif(not any(map(os.path.exists, ("/usr/bin/g++", "/usr/bin/clang++"))), reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_is_captured_draw_by_draw():
    """Twelve steps with dynamic binarisation, dropout, batch norm, changing rate and beta; compiled once."""
    states, graphs = [], torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for compiled in (False, True):
        torch.manual_seed(3)
        vae = conv_vae(dropout=0.0)
        # A large eps: a bias before batch norm has gradient 0 up to rounding, whose sign Adam would amplify.
        step, state, plan, data = training_step(vae, compiled, pv.Optimizer(eps=1e-2))
        torch.manual_seed(4)
        with torch.no_grad():
            for _ in range(len(plan.order)):
                step(state, plan, data)
        states.append(state)
    captured, compiled = states
    torch.testing.assert_close(compiled.parameters, captured.parameters, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(compiled.totals, captured.totals, rtol=1e-5, atol=1e-5)
    for a, b in zip(compiled.buffers, captured.buffers, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert int(compiled.updates) == len(plan.order)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == graphs + 1, "compiled once"
    assert counters["graph_break"] == {}


@pytest.mark.parametrize("kind", ["adam", "adamw"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_update_is_torchs(kind, decay):
    spec = pv.Optimizer(kind=kind, weight_decay=decay, betas=[0.8, 0.95], eps=1e-6)
    theta = torch.randn(50, dtype=torch.float64)
    module = torch.nn.Linear(1, 1)
    theirs = theta.clone().requires_grad_()
    optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind](
        [theirs], lr=0.05, betas=(0.8, 0.95), eps=1e-6, weight_decay=decay
    )
    layout = Layout([theta])
    state = new_state(module.double(), Layout(list(module.parameters())), 1)
    blocks = layout.flatten([theta])
    state.parameters = blocks
    state.first_moment, state.second_moment = ([torch.zeros_like(block) for block in blocks] for _ in range(2))
    for _ in range(20):
        g = torch.randn(50, dtype=torch.float64)
        theirs.grad = g.clone()
        optimizer.step()
        update(state, layout.flatten([g]), torch.tensor(0.05, dtype=torch.float64), spec, torch.tensor(True))
    torch.testing.assert_close(layout.unflatten(state.parameters)[0], theirs.detach(), rtol=1e-10, atol=1e-12)


def test_each_parameter_moves_at_its_own_rate():
    """Whichever block it lies in: a large one of its own, or the one of the small."""
    module = torch.nn.ModuleDict({"fast": torch.nn.Linear(100, 100), "slow": torch.nn.Linear(100, 100)})
    layout = Layout(list(module.parameters()))
    assert len(layout.blocks) == 3
    factors = learning_rate_factors(module, {"slow": 0.25}, layout)
    state, start = new_state(module, layout, 1), [p.detach().clone() for p in module.parameters()]
    gradient = layout.flatten([torch.ones_like(p) for p in start])
    update(state, gradient, torch.tensor(0.1), pv.Optimizer(), torch.tensor(True), factors)
    moved = [(before - after).mean().item() for before, after in zip(start, module.parameters(), strict=True)]
    assert moved == pytest.approx([0.1, 0.1, 0.025, 0.025], rel=1e-4)


def test_clipping_bounds_the_gradient():
    for clip, bound in ((None, 1.0), (1e-9, 1e-6)):
        torch.manual_seed(0)
        step, state, plan, data = training_step(conv_vae(), False, pv.Optimizer(eps=1e-4), clip)
        start = everything(state)
        with torch.no_grad():
            step(state, plan, data)
        moved = (everything(state) - start).abs().max().item()
        assert (moved < bound) == (clip is not None or moved < bound)
        if clip is None:
            unclipped = moved
    assert moved < 1e-3 * unclipped


def everything(state):
    """Parameters and moments as one vector."""
    return torch.cat([*state.parameters, *state.first_moment, *state.second_moment])


def test_layout_round_trips():
    """Large parameters alone, small ones together, and all of them in their own order in a checkpoint."""
    tensors = [torch.randn(3, 5), torch.randn(LARGE), torch.randn(()), torch.randn(200, 101), torch.randn(17)]
    layout = Layout(tensors)
    blocks = layout.flatten(tensors)
    assert [len(block) for block in blocks] == [LARGE, 200 * 101, 16 + 16 + 32]
    assert all(torch.equal(a, b) for a, b in zip(layout.unflatten(blocks), tensors, strict=True))
    saved = layout.joined(blocks)
    assert saved.numel() % 16 == 0
    assert torch.equal(saved[:15], tensors[0].flatten())
    assert torch.equal(saved[16 : 16 + LARGE], tensors[1])
    assert all(torch.equal(a, b) for a, b in zip(layout.divided(saved), blocks, strict=True))


def test_same_random_state_restores():
    torch.manual_seed(1)
    with same_random_state(torch.device("cpu")):
        torch.rand(5)
    first = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(first, torch.rand(1))


def test_a_step_that_is_not_finite_is_not_applied():
    step, state, plan, data = training_step(conv_vae(), False)
    plan.weights["beta"][2] = torch.nan
    with torch.no_grad():
        for i in range(4):
            before = everything(state)
            step(state, plan, data)
            assert torch.equal(before, everything(state)) == (i == 2)
    assert state.fault[0] == 2
    assert int(state.updates) == 3
    assert state.totals[0] == 3


class PlainConv(Network):
    """Convolutions as one writes them, with no word about memory layouts."""

    kind: Literal["plain_conv"] = "plain_conv"

    def body(self, shape):
        convolutions = nn.Conv2d(1, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()
        return PlainConvBody(nn.Sequential(*convolutions, nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU()))


class PlainConvBody(nn.Module):
    features = 64 * 14 * 14

    def __init__(self, convolutions):
        super().__init__()
        self.convolutions = convolutions

    def forward(self, x, mask=None, given=None):
        return self.convolutions(x).flatten(1)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(os.path.exists, ("/usr/bin/g++", "/usr/bin/clang++"))), reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize(
    "encoder", [PlainConv(), pv.Conv(channels=[32, 64, 64], strides=[1, 2, 1]), pv.ResNet(channels=[32, 64])]
)
def test_compiled_convolutions_have_a_layout_of_their_own(encoder):
    """Feature maps that a compiler lays out channels last, where the recording had them channels first."""
    variant = pv.Variant(latent={"dim": 2}, encoder=encoder, decoder={"widths": [8]})
    states = []
    for compiled in (False, True):
        torch.manual_seed(3)
        step, state, plan, data = training_step(
            VAE(variant, (1, 28, 28)), compiled, batch_size=128, steps=3, memory=torch.channels_last
        )
        torch.manual_seed(4)
        with torch.no_grad():
            for _ in range(len(plan.order)):
                step(state, plan, data)
        states.append(state)
    torch.testing.assert_close(states[1].totals, states[0].totals, rtol=1e-4, atol=1e-4)


def test_simplified_recordings_do_the_same():
    """Constants are folded, copies dropped, other arguments followed, and random numbers stay random."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 5), nn.Softplus(), nn.Linear(5, 1))

    def slope(z):
        with torch.enable_grad():
            z = z.detach().clone().requires_grad_()
            noise = torch.randn_like(z) + torch.randn(3)  # that depends on no argument
            wide = (z + noise).reshape(2, 6).reshape(4, 3).T.reshape(4, 3)
            value = network(wide).expand(4, 1) * network[0].weight.exp().sum() * torch.ones_like(z).sum()
            return torch.autograd.grad(value.sum(), z)[0], noise

    recorded, simplified = record(slope, torch.zeros(4, 3)), simplify(record(slope, torch.zeros(4, 3)))
    assert len(simplified.graph.nodes) < len(recorded.graph.nodes) - 5
    z, noises = torch.randn(4, 3), []
    for seed in (1, 2):
        found = []
        for function in (slope, recorded, simplified):
            torch.manual_seed(seed)
            found.append(function(z))
        for other in found[1:]:
            torch.testing.assert_close(other, found[0])
        noises.append(found[2][1])
    assert not torch.equal(*noises)
