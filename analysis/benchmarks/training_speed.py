"""Time per training step: the compiled step against Pyro's SVI and hand-written PyTorch.

    python analysis/benchmarks/training_speed.py [--hidden 400] [--latent 20] [--batch 128] [--rounds 9]

Every side does the same work: the same networks, Adam, data resident as uint8, the batch gathered and
binarised inside the step. Sides take turns, round by round, in one process; printed are medians over rounds
and ratios of medians (theirs / ours). The loss that each side reports after its steps is checked to agree.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import pyro
import torch
import torch.nn.functional as F
from common import provenance, write
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.capture import capture, unvalidated
from pyro_vae.planning import compile_step
from pyro_vae.records import versions
from pyro_vae.step import Layout, Plan, Resident, fetch, make_step, new_state

PIXELS, NUM_DATA, RATE = 784, 10_000, 1e-3


def variant(hidden: int, latent: int) -> pv.Variant:
    network = pv.MLP(widths=[hidden])
    return pv.Variant(latent=pv.Latent(dim=latent), likelihood=pv.Bernoulli(), encoder=network, decoder=network)


def prepare(raw: Tensor) -> Tensor:
    p = raw.to(torch.float32) / 255
    return (torch.rand_like(p) < p).to(torch.float32)


def prepared(raw: pv.Batch) -> pv.Batch:
    return raw._replace(x=prepare(raw.x))


class ByHand(nn.Module):
    """The VAE that people write: two layers each way, cross-entropy, closed-form KL."""

    def __init__(self, hidden: int, latent: int) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(PIXELS, hidden), nn.Linear(hidden, 2 * latent)
        self.decoder, self.output = nn.Linear(latent, hidden), nn.Linear(hidden, PIXELS)

    def forward(self, x: Tensor) -> Tensor:
        mu, log_variance = self.head(F.relu(self.encoder(x))).chunk(2, -1)
        z = mu + (0.5 * log_variance).exp() * torch.randn_like(mu)
        logits = self.output(F.relu(self.decoder(z)))
        kl = 0.5 * (mu.square() + log_variance.exp() - 1 - log_variance).sum(-1)
        return (F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1) + kl).mean()


type Side = Callable[[int], float]


def ours(data: Tensor, order: Tensor, hidden: int, latent: int, compiled: bool) -> Side:
    vae = pv.VAE(variant(hidden, latent), (PIXELS,)).to(data.device)
    objective = pv.ELBO().build(vae)
    layout = Layout(list(objective.parameters()))
    state = new_state(objective, layout, 4)
    resident = Resident(data)
    one = torch.ones((), device=data.device)
    program = capture(objective, fetch(resident, order[0], prepared), {"beta": one})
    step = make_step(program, layout, prepared, pv.Optimizer(learning_rate=RATE), None)
    if compiled:
        step = compile_step(step, data.device)
    steps = len(order)
    plan = Plan(order, torch.full((steps,), RATE, device=data.device), {"beta": one.expand(steps).clone()})

    def run(num: int) -> float:
        state.position.zero_()
        state.totals.zero_()
        with torch.no_grad(), unvalidated():
            for _ in range(num):
                step(state, plan, resident)
        count, loss, *_ = state.totals.tolist()
        return loss / count

    return run


def pyro_svi(data: Tensor, order: Tensor, hidden: int, latent: int, elbo: object) -> Side:
    vae = pv.VAE(variant(hidden, latent), (PIXELS,)).to(data.device)
    svi = SVI(*vae.registered(), pyro.optim.Adam({"lr": RATE}), elbo)

    def run(num: int) -> float:
        loss = 0.0
        with pyro.validation_enabled(False):
            for i in range(num):
                batch = pv.Batch(prepare(data.index_select(0, order[i])))
                loss += svi.step(batch) / batch.size
        return loss / num

    return run


def by_hand(data: Tensor, order: Tensor, hidden: int, latent: int, compiled: bool) -> Side:
    model = ByHand(hidden, latent).to(data.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    loss_of = torch.compile(lambda x: model(prepare(x))) if compiled else lambda x: model(prepare(x))

    def run(num: int) -> float:
        total = torch.zeros((), device=data.device)
        for i in range(num):
            loss = loss_of(data.index_select(0, order[i]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return total.item() / num

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=400)
    parser.add_argument("--latent", type=int, default=20)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=200, help="steps per side and round")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.manual_seed(0)
    data = (torch.rand(NUM_DATA, PIXELS).square() * 255).to(torch.uint8).to(args.device)
    order = torch.stack([torch.randperm(NUM_DATA)[: args.batch] for _ in range(args.steps)]).to(args.device)
    common = (data, order, args.hidden, args.latent)
    sides: dict[str, Side] = {
        "pyro_vae, compiled": ours(*common, compiled=True),
        "pyro_vae, recorded": ours(*common, compiled=False),
        "pyro.infer.SVI, Trace_ELBO": pyro_svi(*common, Trace_ELBO()),
        "pyro.infer.SVI, TraceMeanField_ELBO": pyro_svi(*common, TraceMeanField_ELBO()),
        "PyTorch by hand": by_hand(*common, compiled=False),
        "PyTorch by hand, torch.compile": by_hand(*common, compiled=True),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    losses: dict[str, float] = {}
    for run in sides.values():  # warm-up, and compilation
        run(args.steps)
    for _ in range(args.rounds):
        for name, run in sides.items():
            start = time.perf_counter()
            losses[name] = run(args.steps)  # every side ends by reading its loss, which waits for the device
            times[name].append((time.perf_counter() - start) / args.steps * 1e3)
    first = next(iter(sides))
    base = statistics.median(times[first])
    rows = []
    for name, values in times.items():
        ordered, median = sorted(values), statistics.median(values)
        row = {"side": name, "median_ms": median, "fastest_ms": ordered[0], "slowest_ms": ordered[-1]}
        rows.append(row | {"ratio": median / base, "loss": losses[name]})
        spread = f"{median:7.3f} ms ({ordered[0]:.3f} to {ordered[-1]:.3f})"
        print(f"{name:40s} {spread}   theirs / ours {median / base:5.2f}   loss {losses[name]:.2f}")
    apart = max(losses.values()) - min(losses.values())
    assert apart < 0.01 * losses[first], f"the sides do not do the same work: {losses}"
    setting = {key: getattr(args, key) for key in ("hidden", "latent", "batch", "rounds", "steps", "device")}
    name = f"training_speed_784-{args.hidden}-{args.latent}_batch{args.batch}_{args.device}"
    path = write(name, {"setting": setting, "rows": rows, **provenance(versions())})
    print(path)


if __name__ == "__main__":
    main()
