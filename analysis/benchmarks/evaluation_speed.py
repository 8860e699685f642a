"""Time of an evaluation, beside a loop by hand, pythae and the bare matrix products; and its memory.

    PYRO_VAE_DATA=FOLDER python analysis/benchmarks/evaluation_speed.py [--run DIR] [--pythae-python PYTHON]

log p(x) by importance sampling, K samples for each of some MNIST test images, other images in every round: ours is
`evaluation.score` as for 10,000 images, with ELBO, k-hat and all; by hand is a loop over images, the encoder once for
each; pythae's is `get_nll`, the same weights in a model of its own. The floor is the decoder's matrix products alone.
Sides take turns, and their estimates must agree. Then transitions of annealing and of HMC, five leapfrog steps each,
all chains of all data at once, against a loop over data by hand (for draws per second against Pyro's NUTS see
`posterior_speed.py`). Last, the peak memory of processes that only evaluate.

A model is trained for a few epochs first, or, with --run, that of a finished run is taken: multilayer perceptrons and
Bernoulli pixels. `--widths 200 200 --latent 50` is the model of Burda et al. (2016).
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import provenance, write
from torch import Tensor, nn
from torch.nn import functional as F

import pyro_vae as pv
from pyro_vae.batches import build
from pyro_vae.data import load
from pyro_vae.diagnosis.bounds import PILOT_CHAINS
from pyro_vae.diagnosis.joint import log_joint, prior_and_joint
from pyro_vae.diagnosis.reference import guide_moments
from pyro_vae.diagnostics.annealing import Path as AnnealingPath
from pyro_vae.diagnostics.annealing import anneal, pilot
from pyro_vae.diagnostics.hmc import Noise, trajectory
from pyro_vae.diagnostics.psis import pareto_khat
from pyro_vae.evaluation import KHAT_DRAWS, evaluate, score, scorer
from pyro_vae.records import versions

PLANNED = 10_000
"""Images of the evaluation that ours is planned for."""
ROWS = (500, 1000, 2500, 5000)
"""Rows of the bare products; the fastest counts."""
CHAINS, STEPS = 16, 5


def linear(module: nn.Module) -> list[nn.Linear]:
    """The linear layers of a module, in order."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


class ByHand:
    """The same densities as one writes them, for one datum at a time."""

    def __init__(self, vae: pv.VAE) -> None:
        self.encoder = [*linear(vae.body), *linear(vae.heads["z"])]
        self.decoder = linear(vae.likelihood)
        self.activation = {"relu": torch.relu, "tanh": torch.tanh}[vae.variant.decoder.activation]

    def network(self, layers: list[nn.Linear], h: Tensor) -> Tensor:
        for layer in layers[:-1]:
            h = self.activation(layer(h))
        return layers[-1](h)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z) (S,) of draws z (S, D) and one datum x (784,)."""
        logits = self.network(self.decoder, z)
        log_p = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        return log_p - 0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)

    @torch.no_grad()
    def log_likelihood(self, x: Tensor, num_samples: int, batch: int = 1000) -> Tensor:
        """log p(x) (N,) of x (N, 784)."""
        found = []
        for datum in x:
            mu, s = self.network(self.encoder, datum[None]).chunk(2, -1)
            log_w = []
            for _ in range(num_samples // batch):
                eps = torch.randn(batch, mu.shape[-1], device=x.device)
                log_q = -0.5 * (eps.square() + s + math.log(2 * math.pi)).sum(-1)
                log_w.append(self.log_joint(datum, mu + (0.5 * s).exp() * eps) - log_q)
            found.append(torch.cat(log_w).logsumexp(0) - math.log(num_samples))
        return torch.stack(found).cpu()

    def slope(self, x: Tensor, z: Tensor, beta: Tensor | float) -> tuple[Tensor, Tensor]:
        """log of p(z) p(x | z)^beta (S,), and its slope along z."""
        z = z.detach().requires_grad_()
        prior = -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
        log_p = torch.lerp(prior, self.log_joint(x, z), beta)
        return log_p.detach(), torch.autograd.grad(log_p.sum(), z)[0]

    def transition(self, x: Tensor, z: Tensor, sd: Tensor, step: Tensor, beta: Tensor | float) -> tuple[Tensor, Tensor]:
        """One trajectory of chains z (S, D), and its acceptance (S,)."""
        v = torch.randn_like(z)
        scale = (step * (0.5 + torch.rand(len(z), device=z.device)))[:, None] * sd
        log_p, slope = self.slope(x, z, beta)
        before, new = log_p - 0.5 * v.square().sum(-1), z
        for _ in range(STEPS):
            v = v + 0.5 * scale * slope
            new = new + scale * v
            log_p, slope = self.slope(x, new, beta)
            v = v + 0.5 * scale * slope
        acceptance = (log_p - 0.5 * v.square().sum(-1) - before).exp().clamp(max=1)
        return torch.where((torch.rand_like(acceptance) < acceptance)[:, None], new, z), acceptance

    def annealed(self, x: Tensor, z: Tensor, path: AnnealingPath) -> Tensor:
        """Log weights (C, N) of chains z (C, N, D)."""
        found = []
        for n, datum in enumerate(x):
            at, log_w = z[:, n], torch.zeros(len(z), device=x.device)
            for i, beta in enumerate(path.betas[1:]):
                with torch.no_grad():
                    prior = -0.5 * (at.square() + math.log(2 * math.pi)).sum(-1)
                    log_w += (beta - path.betas[i]) * (self.log_joint(datum, at) - prior)
                at, _ = self.transition(datum, at, path.sd[i, n], path.step[i, n], beta)
            found.append(log_w)
        return torch.stack(found, 1)

    def moved(self, x: Tensor, z: Tensor, sd: Tensor, step: Tensor, transitions: int) -> Tensor:
        """Acceptance (transitions, C, N) of HMC from z (C, N, D)."""
        found = []
        for n, datum in enumerate(x):
            at, own = z[:, n], []
            for _ in range(transitions):
                at, acceptance = self.transition(datum, at, sd[n], step[n], 1.0)
                own.append(acceptance)
            found.append(torch.stack(own))
        return torch.stack(found, -1)


class Pythae:
    """`pythae_nll.py` in a process of its own, which computes only when asked."""

    def __init__(self, python: str, by_hand: ByHand, x: Tensor, args: argparse.Namespace, folder: Path) -> None:
        arrays = {"x": x.cpu().numpy(), "activation": np.array(by_hand.activation.__name__)}
        for name, layers in (("encoder", by_hand.encoder), ("decoder", by_hand.decoder)):
            for i, layer in enumerate(layers):
                arrays[f"{name}.{i}.weight"] = layer.weight.detach().cpu().numpy()
                arrays[f"{name}.{i}.bias"] = layer.bias.detach().cpu().numpy()
        np.savez(folder / "weights.npz", **arrays)
        script, threads = Path(__file__).parent / "pythae_nll.py", str(torch.get_num_threads())
        command = [python, str(script), str(folder / "weights.npz"), args.device, threads]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit("pythae did not start: name a Python that has it: --pythae-python; or leave it out: --no-pythae")
        return json.loads(line)

    def log_likelihood(self, first: int, count: int, samples: int, batch: int) -> tuple[Tensor, float]:
        """log p(x) (N,), and its own seconds."""
        asked = {"first": first, "count": count, "samples": samples, "batch": batch}
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        answer = self._answer()
        return torch.tensor(answer["values"], dtype=torch.float64), answer["seconds"]


@torch.no_grad()
def products(layers: list[nn.Linear], rows: int, slope: bool = False) -> Callable[[], None]:
    """The bare matrix products of so many rows, and with `slope` those of the way back too."""
    h = torch.randn(rows, layers[0].in_features, device=layers[0].weight.device)
    weights = [layer.weight.detach() for layer in layers]

    def run() -> None:
        value = h
        for weight in weights:
            value = value @ weight.T
        for weight in weights[::-1] if slope else ():
            value = value @ weight
        value[0, 0].item()

    return run


def timed(call: Callable[[], object]) -> tuple[object, float]:
    """What a call returns, and its seconds."""
    start = time.perf_counter()
    found = call()
    return found, time.perf_counter() - start


def spread(values: list[float], unit: float) -> dict[str, float]:
    """Median, least and largest, in units."""
    return {"median": statistics.median(values) / unit, "least": min(values) / unit, "largest": max(values) / unit}


def table(title: str, rows: dict[str, dict[str, float]], unit: str) -> None:
    """Print times beside the first row's, and add their ratio."""
    print(f"{title}: medians (least to largest)")
    for name, row in rows.items():
        row["ratio"] = row["median"] / rows["pyro_vae"]["median"]
        print(
            f"  {name:40s} {row['median']:9.4f} {unit} ({row['least']:.4f} to {row['largest']:.4f}) {row['ratio']:6.2f}"
        )


def likelihoods(run: pv.Run, args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Milliseconds per image of log p(x), and how far the estimates are apart."""
    vae, K, n = run.vae, args.samples, args.data
    batch = run.batch("test", range(n * (args.rounds + 1)))
    x, by_hand = batch.x.flatten(1), ByHand(vae)
    ours = {"pyro_vae": scorer(vae, K, PLANNED), "pyro_vae, not compiled": scorer(vae, K, PLANNED, compile="off")}
    theirs = None if args.no_pythae else Pythae(args.pythae_python, by_hand, x, args, folder)
    bare = {rows: products(by_hand.decoder, rows) for rows in ROWS}
    seconds: dict[str, list[float]] = {}
    values: dict[str, list[Tensor]] = {}
    errors, rates, first_call = list[Tensor](), {rows: list[float]() for rows in ROWS}, dict[str, float]()

    def note(name: str, value: Tensor | None, took: float, number: int) -> None:
        if number:  # the first round compiles
            seconds.setdefault(name, []).append(took)
            if value is not None:
                values.setdefault(name, []).append(value.double())
        elif name in ours:
            first_call[name] = took

    for number in range(args.rounds + 1):
        some = slice(number * n, (number + 1) * n)
        part = batch.map(lambda t, some=some: t[some])
        for name, particles in ours.items():
            found, took = timed(lambda part=part, particles=particles: score(vae, part, K, particles=particles))
            note(name, found.log_likelihood, took, number)
            if number and name == "pyro_vae":
                errors.append(found.standard_error)
        value, took = timed(lambda some=some: by_hand.log_likelihood(x[some], K))
        note("PyTorch by hand", value, took, number)
        for size in args.pythae_batches if theirs else ():
            value, took = theirs.log_likelihood(some.start, n, K, size)
            note(f"pythae get_nll, batches of {size}", value, took, number)
        for rows, call in bare.items():
            rates[rows].append(timed(call)[1] * K / rows * n)
        _, took = timed(lambda: pareto_khat(torch.randn(min(K, KHAT_DRAWS), n)))
        note("k-hat, within ours", None, took, number)
    if theirs:
        theirs.process.communicate()
    seconds["bare matrix products"] = min(rates.values(), key=statistics.median)
    rows = {name: spread(some, n / 1e3) for name, some in seconds.items()}
    table(f"log p(x), K = {K}, per image", rows, "ms")
    error = torch.cat(errors).square().sum().sqrt() * 2**0.5 / len(torch.cat(errors))
    apart = {}
    for name, some in values.items():
        apart[name] = float((torch.cat(some) - torch.cat(values["pyro_vae"])).mean())
        assert abs(apart[name]) < 6 * error + 1e-4, f"{name} is {apart[name]} nats from ours, standard error {error}"
    return {
        "rows": rows,
        "first_call_seconds": first_call,
        "treatment": ours["pyro_vae"].treatment,
        "difference": {"nats": apart, "standard_error": float(error)},
        "num_data": len(torch.cat(errors)),
        "pythae": theirs.about if theirs else None,
    }


def transitions(run: pv.Run, args: argparse.Namespace) -> dict[str, object]:
    """Milliseconds per transition of a chain of a datum: annealing and HMC, the same path and steps for both sides."""
    vae, B, T = run.vae, args.chain_data, args.temperatures
    batch, by_hand = run.batch("test", range(B)), ByHand(vae)
    x, dim = batch.x.flatten(1), vae.variant.layers["z"]
    (mean, sd), chains = guide_moments(vae, batch), torch.randn(CHAINS, B, dim, device=x.device)
    recording: dict[str, float] = {}
    ends, recording["annealing"] = timed(lambda: prior_and_joint(vae, batch, CHAINS))
    scored, recording["HMC"] = timed(lambda: log_joint(vae, batch, CHAINS))
    start = torch.randn(PILOT_CHAINS, B, dim, device=x.device)
    path = pilot(prior_and_joint(vae, batch, PILOT_CHAINS), start, torch.ones_like(sd), sd, T, STEPS)
    posterior, step = mean + sd * chains, path.step[-1]

    def moved() -> Tensor:
        """Acceptance (T, C, N)."""
        z, noise, found = posterior, Noise(posterior, None), []
        log_p, slope = scored(z)
        for _ in range(T):
            at = trajectory(scored, z, sd, log_p, slope, step * (0.5 + noise.uniform()), STEPS, noise)
            z, log_p, slope = at.z, at.log_p, at.slope
            found.append(at.acceptance)
        return torch.stack(found)

    sides = {
        "annealing": {
            "pyro_vae": lambda: anneal(ends, torch.randn_like(chains), path).log_w.cpu(),
            "PyTorch by hand": lambda: by_hand.annealed(x, torch.randn_like(chains), path).cpu(),
        },
        "HMC": {"pyro_vae": moved, "PyTorch by hand": lambda: by_hand.moved(x, posterior, sd, step, T)},
    }
    bare = {rows: products(by_hand.decoder, rows, slope=True) for rows in ROWS}
    seconds = {kind: {name: list[float]() for name in some} for kind, some in sides.items()}
    values = {kind: {name: list[Tensor]() for name in some} for kind, some in sides.items()}
    rates = {rows: list[float]() for rows in ROWS}
    for number in range(args.rounds + 1):
        for kind, some in sides.items():
            for name, call in some.items():
                value, took = timed(call)
                if number:
                    seconds[kind][name].append(took)
                    values[kind][name].append(value.cpu().double())
        for rows, call in bare.items():
            rates[rows].append(timed(call)[1] * CHAINS * B * T * STEPS / rows)
    result: dict[str, object] = {"recording_seconds": recording}
    for kind in sides:
        seconds[kind]["bare matrix products"] = min(rates.values(), key=statistics.median)
        rows = {name: spread(some, CHAINS * B * T / 1e3) for name, some in seconds[kind].items()}
        table(f"{kind}, a transition of a chain of a datum", rows, "ms")
        # Of the means over chains, data and temperatures: rounds are independent.
        a, b = (torch.stack([value.mean() for value in some]) for some in values[kind].values())
        error = float(((a.var() + b.var()) / len(a)).sqrt())
        difference = float(a.mean() - b.mean())
        assert len(a) < 3 or abs(difference) < 8 * error, f"{kind}: the sides differ by {difference} ± {error}"
        result[kind] = {"rows": rows, "difference": difference, "standard_error": error}
    return result


def memory(case: str, args: argparse.Namespace) -> None:
    """Evaluate, and print the peak memory of this process in MB and the time of a datum; run by `peaks`."""
    if case == "run":
        run, n = pv.load(args.run), args.data
        program = scorer(run.vae, args.samples, PLANNED)
        _, seconds = timed(lambda: score(run.vae, run.batch("test", range(n)), args.samples, particles=program))
    else:
        experiment = pv.load_experiment("vamp", ["guide=flow"])
        data, n = load(experiment.data), args.vamp_data
        data = type(data)(**(vars(data) | {"test": data.test.select(range(n))}))
        vae = build(experiment, data, torch.device(args.device))
        _, seconds = timed(lambda: evaluate(vae, data, experiment, num_samples=args.vamp_samples))
    # ru_maxrss would be at least that of the process that started this one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0]) / 1024
    print(json.dumps({"peak_mb": peak, "ms_per_datum": seconds / n * 1e3, "num_data": n}))


def peaks(args: argparse.Namespace, run: Path) -> dict[str, object]:
    """Peak memory of processes that only evaluate: the run, and a mixture of flows at 100 pseudo-inputs on digits."""
    found = {}
    for case in ("run", "vamp, guide=flow"):
        command = [sys.executable, __file__, *sys.argv[1:], "--memory", case, "--run", str(run)]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found[case] = json.loads(answer.splitlines()[-1])
        print(f"{case}: peak {found[case]['peak_mb']:.0f} MB, {found[case]['ms_per_datum']:.1f} ms per datum")
    return found


def trained(args: argparse.Namespace, folder: Path) -> pv.Run:
    """A model of a few epochs."""
    network = f"{{kind: mlp, widths: {args.widths}}}"
    words = [f"latent.dim={args.latent}", f"encoder={network}", f"decoder={network}", f"training.epochs={args.epochs}"]
    words += ["training.batch_size=128", "training.optimizer.learning_rate=1e-3", f"training.device={args.device}"]
    return pv.train(pv.load_experiment("mnist-mlp", words), out=folder / "run", quiet=True, num_samples=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="a finished run, instead of a new one")
    parser.add_argument("--widths", type=int, nargs="+", default=[400])
    parser.add_argument("--latent", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--samples", type=int, default=5000, help="K; a multiple of 1000")
    parser.add_argument("--data", type=int, default=20, help="images per side and round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--chain-data", type=int, default=16, help="data of annealing and HMC")
    parser.add_argument("--temperatures", type=int, default=30, help="transitions of a chain per side and round")
    parser.add_argument("--vamp-data", type=int, default=20, help="digits for the memory of prior=vamp guide=flow")
    parser.add_argument("--vamp-samples", type=int, default=1000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pythae-python", default=sys.executable, help="a Python that has pythae")
    parser.add_argument("--pythae-batches", type=int, nargs="+", default=[100, 1000], help="samples at a time")
    parser.add_argument("--no-pythae", action="store_true")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        memory(args.memory, args)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = pv.load(args.run) if args.run else trained(args, folder)
        variant = run.experiment.variant
        torch.manual_seed(0)
        result = {
            "network": "-".join(map(str, [784, *variant.encoder.widths, variant.latent.dim])),
            "likelihood": likelihoods(run, args, folder),
            "transitions": transitions(run, args),
            "memory": peaks(args, run.directory),
        }
    names = ("samples", "data", "rounds", "chain_data", "temperatures", "vamp_samples", "device")
    settings = {name: getattr(args, name) for name in names} | {"chains": CHAINS, "steps": STEPS}
    result |= {"settings": settings, **provenance(versions())}
    print(write("evaluation_speed", result))


if __name__ == "__main__":
    main()
