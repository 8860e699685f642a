"""Does each idea help? Variants of one network on MNIST, beside what they are meant to improve on.

    PYRO_VAE_DATA=FOLDER python analysis/benchmarks/variants.py [--epochs 12] [--seeds 3] [--test 2000] [--only NAME]

All have the layers 784-200-200-50 (tanh) and the same epochs, batches and learning rate; test images are the same
for both sides of a comparison, binarised alike, so that differences are paired. Runs that are in the JSON already, made
with the same settings, are not repeated.

Standard errors: of a variant, over the test images of one seed; of a difference, over the seeds where there are
several (the sd of the seeds' mean differences over the root of their number), else over the images.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

import torch
from common import RESULTS, provenance, write
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.capture import same_random_state
from pyro_vae.classification import accuracy
from pyro_vae.data import load
from pyro_vae.evaluation import prepared
from pyro_vae.networks import dense, linear
from pyro_vae.records import versions

NETWORK = ["encoder={kind: mlp, widths: [200, 200], activation: tanh}", "decoder.widths=[200, 200]"]
DATA = ["data={name: mnist, binarize: dynamic, validation: 1000}", "training.batch_size=100"]
FIT = ["training.optimizer.learning_rate=2e-3", "training.schedule={kind: cosine}", "decoder.activation=tanh"]
TWO = ["latent=[{dim: 50}, {dim: 25}]", "prior=[{kind: normal, widths: [100], activation: tanh}, standard_normal]"]
LABELS = "labels={digit: {classes: 10, observed: partly, rule: guide}}"
KEPT = 3000
VARIANTS = {
    "elbo": [],
    "iwae-50": ["objective={kind: iwae, num_particles: 50}"],
    "vamp": ["prior={kind: vamp, components: 200}"],
    "flow-prior": ["prior={kind: flow, transform: coupling, layers: 4, widths: [200]}"],
    "iaf": ["guide={kind: flow, transform: inverse_autoregressive, layers: 2, widths: [200]}"],
    "cvae": ["labels={digit: {classes: 10, observed: always}}"],
    "m2": [LABELS, f"data.labels_kept={KEPT}", "objective={kind: elbo, classification: 10.0}"],
    "cvae-quadrants": ["data.shown={quadrants: 1}", "prior={kind: normal, widths: [200], activation: tanh}"],
    "hvae": [*TWO, "guide={kind: bottom_up_normal, widths: [100]}"],
    "ladder": [*TWO, "guide={kind: ladder, widths: [100], activation: tanh}"],
}
COMPARISONS = [
    ("iwae-50", "elbo", "log p(x)"),
    ("vamp", "elbo", "log p(x)"),
    ("flow-prior", "elbo", "log p(x)"),
    ("iaf", "elbo", "log p(x)"),
    ("cvae", "elbo", "log p(x | y) - log p(x)"),
    ("m2", "classifier", f"accuracy, {KEPT} labels, per cent"),
    ("cvae-quadrants", "deterministic", "log p(x_rest | x_shown)"),
    ("ladder", "hvae", "active units"),
]
SAMPLES = 500


def experiment(name: str, seed: int, epochs: int) -> pv.Experiment:
    words = [*DATA, *NETWORK, *FIT, "latent.dim=50", *VARIANTS[name], f"training.epochs={epochs}", f"seed={seed}"]
    if name in ("hvae", "ladder"):
        words.remove("latent.dim=50")
    return pv.load_experiment("vae-bernoulli", words)


def measure(name: str, seed: int, epochs: int, num_test: int) -> dict:
    """Train a variant; per test image log p, and what else is compared."""
    with tempfile.TemporaryDirectory() as folder:
        run = pv.train(experiment(name, seed, epochs), out=Path(folder) / "run", num_samples=1, quiet=True)
        batch = run.batch("test", range(num_test))
        scores = run.score(batch, SAMPLES)
        found = {
            "log_p": scores.log_likelihood.tolist(),
            "elbo": scores.elbo.tolist(),
            "active_units": run.result["active_units"],
            "active_units_standard_error": run.result["active_units_standard_error"],
            "seconds": run.result["seconds"]["train"],
        }
        if name == "m2":
            labels = run.data.test.attributes["digit"][:num_test]
            found["accuracy"] = accuracy(run.classify(batch, 1).guide["digit"], labels)
            found["bayes_accuracy"] = accuracy(run.classify(batch, 20).marginal("digit"), labels)
    return found


def network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(dense(inputs, (200, 200), "tanh"), linear(200, outputs))


def fitted(module: nn.Module, x: Tensor, target, loss_of, validation, epochs: int, seed: int) -> nn.Module:
    """A deterministic network, binarised anew in every step like the variants; the best epoch on validation data."""
    torch.manual_seed(seed)
    steps, best, state = epochs * (len(x) // 100), math.inf, None
    optimizer = torch.optim.Adam(module.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        some = torch.randint(len(x), (100,))
        loss = loss_of(module, torch.bernoulli(x[some]), target[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % max(1, steps // 50) == 0:
            with torch.no_grad():
                score = loss_of(module, *validation).item()
            if score < best:
                best, state = score, {name: value.clone() for name, value in module.state_dict().items()}
    module.load_state_dict(state)
    return module


def classifier(seed: int, epochs: int, num_test: int) -> dict:
    """The encoder of m2 and its classifier, trained on the kept labels alone, for as many steps."""
    run = experiment("m2", seed, epochs)
    data = load(run.data, seed)
    y = data.train.attributes["digit"]
    kept = (y >= 0).nonzero().flatten()
    x = data.train.x[kept].flatten(1) / 255
    with same_random_state(torch.device("cpu")):
        torch.manual_seed(seed)
        validation = torch.bernoulli(data.validation.x.flatten(1) / 255), data.validation.attributes["digit"]
        module = network(784, 10)

        def loss_of(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            return nn.functional.cross_entropy(m(x), y)

        rounds = epochs * len(data.train) // len(kept)
        module = fitted(module, x, y[kept], loss_of, validation, rounds, seed)
    batch = prepared(data, "test", run, torch.device("cpu"), range(num_test))
    with torch.no_grad():
        probability = module(batch.x.flatten(1)).softmax(1)
    return {"accuracy": accuracy(probability, data.test.attributes["digit"][:num_test])}


def deterministic(seed: int, epochs: int, num_test: int) -> dict:
    """A network of the decoder's size from the shown quadrant to the probabilities of the rest."""
    run = experiment("cvae-quadrants", seed, epochs)
    data = load(run.data, seed)
    shown = data.shown.flatten()
    x = data.train.x.flatten(1) / 255
    with same_random_state(torch.device("cpu")):
        torch.manual_seed(seed)
        validation = torch.bernoulli(data.validation.x.flatten(1) / 255)

        def loss_of(m: nn.Module, x: Tensor, _: Tensor) -> Tensor:
            bce = nn.functional.binary_cross_entropy_with_logits(m(x[:, shown]), x[:, ~shown], reduction="none")
            return bce.sum(1).mean()

        module = network(int(shown.sum()), int((~shown).sum()))
        module = fitted(module, x, torch.zeros(len(x)), loss_of, (validation, None), epochs, seed)
    batch = prepared(data, "test", run, torch.device("cpu"), range(num_test))
    x = batch.x.flatten(1)
    with torch.no_grad():
        bce = nn.functional.binary_cross_entropy_with_logits(module(x[:, shown]), x[:, ~shown], reduction="none")
    return {"log_p": (-bce.sum(1)).double().tolist()}


def compared(runs: dict, better: str, worse: str, what: str, seeds: int) -> dict:
    """Both sides and the paired difference, with standard errors."""
    key = "accuracy" if "accuracy" in what else "active_units" if "units" in what else "log_p"
    sides, differences, over_data = {}, [], []
    for name in (better, worse):
        found = [runs[f"{name} {seed}"] for seed in range(seeds) if f"{name} {seed}" in runs]
        if key == "log_p":
            values = torch.tensor([run["log_p"] for run in found], dtype=torch.float64)
            means, error = values.mean(1), values[0].std().item() / math.sqrt(values.shape[1])
        elif key == "accuracy":
            means = 100 * torch.tensor([run["accuracy"][0] for run in found], dtype=torch.float64)
            error = 100 * found[0]["accuracy"][1]
        else:
            means = torch.tensor([run["active_units"] for run in found], dtype=torch.float64)
            error = found[0]["active_units_standard_error"]
        sides[name] = {"value": means.mean().item(), "standard_error": error, "seeds": len(found)}
        differences.append(means)
        over_data.append(found)
    n = min(map(len, differences))
    difference = differences[0][:n] - differences[1][:n]
    if n > 1:
        error, over = (difference.std() / math.sqrt(n)).item(), "seeds"
    elif key == "log_p":
        first, second = (torch.tensor(side[0]["log_p"], dtype=torch.float64) for side in over_data)
        error, over = ((first - second).std() / math.sqrt(len(first))).item(), "images"
    else:
        error, over = math.hypot(*(side["standard_error"] for side in sides.values())), "images"
    return {
        "comparison": f"{better} against {worse}",
        "what": what,
        "sides": sides,
        "difference": {"value": difference.mean().item(), "standard_error": error, "over": over},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--only", nargs="*", default=None)
    arguments = parser.parse_args()
    setting = {"epochs": arguments.epochs, "test": arguments.test, "samples": SAMPLES, "variants": VARIANTS}
    kept = RESULTS / "variants_runs.json"  # per image, so that a stopped benchmark goes on; not committed
    stored = json.loads(kept.read_text()) if kept.exists() else {}
    runs = stored.get("runs", {}) if stored.get("setting") == setting else {}
    others = {"classifier": classifier, "deterministic": deterministic}
    for seed in range(arguments.seeds):
        for name in [*VARIANTS, *others]:
            if f"{name} {seed}" in runs or (arguments.only and name not in arguments.only):
                continue
            start = time.perf_counter()
            if name in others:
                runs[f"{name} {seed}"] = others[name](seed, arguments.epochs, arguments.test)
            else:
                runs[f"{name} {seed}"] = measure(name, seed, arguments.epochs, arguments.test)
            print(f"{name}, seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
            kept.write_text(json.dumps({"setting": setting, "runs": runs}))
    found = [
        compared(runs, better, worse, what, arguments.seeds)
        for better, worse, what in COMPARISONS
        if f"{better} 0" in runs and f"{worse} 0" in runs
    ]
    for row in found:
        both = ", ".join(f"{name} {s['value']:.2f} ± {s['standard_error']:.2f}" for name, s in row["sides"].items())
        d = row["difference"]
        print(f"{row['what']}: {both}, difference {d['value']:+.2f} ± {d['standard_error']:.2f} (over {d['over']})")
    longest: dict[str, float] = {}
    for key, run in runs.items():
        name = key.split()[0]
        longest[name] = max(longest.get(name, 0.0), run.get("seconds", 0.0))
    setting.pop("variants")
    print(write("variants", {"setting": setting, "comparisons": found, "seconds": longest, **provenance(versions())}))


if __name__ == "__main__":
    main()
