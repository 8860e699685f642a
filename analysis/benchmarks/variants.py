"""Does each idea help? Variants of one network on MNIST, beside what they are meant to improve on.

    PYRO_VAE_DATA=FOLDER python analysis/benchmarks/variants.py [--epochs 14] [--short 6] [--seeds 0 1] [--test 2000]

All have the layers 784-200-200-50 (tanh), the same batches and learning rate, and the two sides of a comparison the
same epochs: fewer (--short) beside 50 particles, which cost nine times as much. Test images are the same for both,
binarised alike, so that differences are paired. Runs that are in the JSON already, made with the same settings, are not
repeated, and several processes may share the work.

Active units are counted in two ways: Var_x(E_q[z]) > 0.01 (Burda et al., 2016), and KL > 0.01 nats on average
(Soenderby et al., 2016), which alone tells for a layer whose prior moves with the layer above.

Standard errors: of a variant, over the test images; of a difference, the larger of that over the images and that over
the seeds.
"""

import argparse
import functools
import itertools
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
from pyro_vae.diagnostics.importance import mean_and_standard_error
from pyro_vae.evaluation import ACTIVE, active_units, prepared
from pyro_vae.networks import dense, linear
from pyro_vae.objectives import split
from pyro_vae.records import versions, write_text
from pyro_vae.vae import densities

NETWORK = ["encoder={kind: mlp, widths: [200, 200], activation: tanh}", "decoder.widths=[200, 200]"]
DATA = ["data={name: mnist, binarize: dynamic, validation: 1000}", "training.batch_size=100"]
FIT = ["training.optimizer.learning_rate=2e-3", "training.schedule={kind: cosine}", "decoder.activation=tanh"]
TWO = ["latent=[{dim: 50}, {dim: 25}]", "prior=[{kind: normal, widths: [100], activation: tanh}, standard_normal]"]
WARMUP = "objective={kind: elbo, warmup_epochs: 3}"
LABELS = "labels={digit: {classes: 10, observed: partly, rule: guide}}"
KEPT = 3000
VARIANTS = {
    "elbo": [],
    "elbo-short": [],
    "iwae-50": ["objective={kind: iwae, num_particles: 50}"],
    "vamp": ["prior={kind: vamp, components: 200}"],
    "flow-prior": ["prior={kind: flow, transform: coupling, layers: 4, widths: [200]}"],
    "iaf": ["guide={kind: flow, transform: inverse_autoregressive, layers: 2, widths: [200]}"],
    "cvae": ["labels={digit: {classes: 10, observed: always}}"],
    # With 50 dimensions z tells the class as well, and the label is left aside for long.
    "m2": [LABELS, "latent.dim=10", f"data.labels_kept={KEPT}", "objective={kind: elbo, classification: 20.0}"],
    "cvae-quadrants": ["data.shown={quadrants: 1}", "prior={kind: normal, widths: [200], activation: tanh}"],
    "hvae": [*TWO, "guide={kind: bottom_up_normal, widths: [100]}"],
    "hvae-warmup": [*TWO, "guide={kind: bottom_up_normal, widths: [100]}", WARMUP],
    "ladder": [*TWO, "guide={kind: ladder, widths: [100], activation: tanh}", WARMUP],  # as its paper has it
}
SHORT = ("elbo-short", "iwae-50")
COMPARISONS = [
    ("iwae-50", "elbo-short", "log p(x)"),
    ("vamp", "elbo", "log p(x)"),
    ("flow-prior", "elbo", "log p(x)"),
    ("iaf", "elbo", "log p(x)"),
    ("cvae", "elbo", "log p(x | y) - log p(x)"),
    ("m2", "classifier", f"accuracy, {KEPT} labels, per cent of all test images"),
    ("cvae-quadrants", "deterministic", "log p(x_rest | x_shown)"),
    ("ladder", "hvae", "active units by variance"),
    ("ladder", "hvae-warmup", "active units by variance"),
    ("ladder", "hvae", "active units by KL"),
    ("ladder", "hvae-warmup", "active units by KL"),
    ("ladder", "hvae", "log p(x)"),
    ("ladder", "hvae-warmup", "log p(x)"),
]
FIELDS = {"accuracy": "correct", "by variance": "units_by_variance", "by KL": "units_by_kl"}
"""What is compared -> where a run has it; else log p of each image."""
SAMPLES = 500
KL_DRAWS = 200
RUNS = RESULTS / "variants_runs.json"
"""Per image, so that a stopped benchmark goes on; not committed."""


def experiment(name: str, seed: int, epochs: int) -> pv.Experiment:
    words = [*DATA, *NETWORK, *FIT, "latent.dim=50", *VARIANTS[name], f"training.epochs={epochs}", f"seed={seed}"]
    if TWO[0] in VARIANTS[name]:
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
            "units_by_variance": active_units(torch.cat(list(scores.mean.values()), -1)),
            "seconds": run.result["seconds"]["train"],
        }
        if TWO[0] in VARIANTS[name]:
            found["units_by_kl"] = units_by_kl(run, num_test)
        if name == "m2":
            labels = run.data.test.attributes["digit"]
            found["correct"] = correct(run.classify(run.batch("test"), 1).guide["digit"], labels)
            found["bayes_accuracy"] = accuracy(run.classify(batch, 20).marginal("digit"), labels[:num_test])
    return found


@torch.no_grad()
def units_by_kl(run: pv.Run, num_test: int) -> tuple[int, float]:
    """Number of units with a mean KL(q || p) above 0.01 nats, and its standard error by resampling the images."""
    found = []
    for first in range(0, num_test, 100):
        d = densities(run.vae, run.batch("test", range(first, first + 100)), KL_DRAWS)
        layers = split(run.vae, d, closed_form=True)[2].values()
        found.append(torch.cat([kl.expand(KL_DRAWS, *kl.shape[-2:]).mean(0) for kl in layers], -1))
    kl = torch.cat(found)
    resampled = torch.stack([kl[torch.randint(len(kl), (len(kl),))].mean(0) for _ in range(100)])
    return int((kl.mean(0) > ACTIVE).sum()), (resampled > ACTIVE).sum(1).double().std().item()


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


def classifier(seed: int, epochs: int, _: int) -> dict:
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
    batch = prepared(data, "test", run, torch.device("cpu"), range(len(data.test)))
    with torch.no_grad():
        return {"correct": correct(module(batch.x.flatten(1)), data.test.attributes["digit"])}


def correct(scores: Tensor, labels: Tensor) -> list[float]:
    """100 for each image whose class has the highest score, else 0: its mean is the accuracy in per cent."""
    return (100.0 * (scores.argmax(1) == labels)).tolist()


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


def stored(setting: dict) -> dict:
    """The runs that were made with these settings, by any process."""
    found = json.loads(RUNS.read_text()) if RUNS.exists() else {}
    return found.get("runs", {}) if found.get("setting") == setting else {}


def compared(runs: dict, better: str, worse: str, what: str) -> dict | None:
    """Both sides and the paired difference with their standard errors; None where no seed has both."""
    seeds = [key.split()[1] for key in runs if key.startswith(f"{better} ")]
    seeds = sorted(seed for seed in seeds if f"{worse} {seed}" in runs)
    if not seeds:
        return None
    key = next((field for words, field in FIELDS.items() if words in what), "log_p")
    values, errors = [], []
    for name in (better, worse):
        found = torch.tensor([runs[f"{name} {seed}"][key] for seed in seeds], dtype=torch.float64)
        if key in ("log_p", "correct"):  # (seeds, images)
            values.append(found)
            errors.append(mean_and_standard_error(found.mean(0))[1])
        else:  # (seeds, value and standard error)
            values.append(found[:, :1])
            errors.append(found[0, 1].item())
    difference = values[0] - values[1]
    over_images = mean_and_standard_error(difference.mean(0))[1] if difference.shape[1] > 1 else math.hypot(*errors)
    over_seeds = mean_and_standard_error(difference.mean(1))[1] if len(seeds) > 1 else 0.0
    return {
        "comparison": f"{better} against {worse}",
        "what": what,
        "seeds": len(seeds),
        "sides": {
            name: {"value": value.mean().item(), "standard_error": error}
            for name, value, error in zip((better, worse), values, errors, strict=True)
        },
        "difference": {
            "value": difference.mean().item(),
            "standard_error": max(over_images, over_seeds),
            "over_images": over_images,
            "over_seeds": over_seeds if len(seeds) > 1 else None,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--short", type=int, default=6, help="epochs of iwae-50 and what it is compared with")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--only", nargs="*", default=None)
    arguments = parser.parse_args()
    setting = {key: vars(arguments)[key] for key in ("epochs", "short", "test")}
    setting |= {"samples": SAMPLES, "variants": VARIANTS}
    others = {"classifier": classifier, "deterministic": deterministic}
    for seed, name in itertools.product(arguments.seeds, [*VARIANTS, *others]):
        if f"{name} {seed}" in stored(setting) or (arguments.only and name not in arguments.only):
            continue
        start, epochs = time.perf_counter(), arguments.short if name in SHORT else arguments.epochs
        result = others.get(name, functools.partial(measure, name))(seed, epochs, arguments.test)
        print(f"{name}, seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
        write_text(RUNS, json.dumps({"setting": setting, "runs": stored(setting) | {f"{name} {seed}": result}}))
    runs = stored(setting)
    found = list(filter(None, (compared(runs, *comparison) for comparison in COMPARISONS)))
    for row in found:
        both = ", ".join(f"{name} {s['value']:.2f} ± {s['standard_error']:.2f}" for name, s in row["sides"].items())
        d = row["difference"]
        print(f"{row['what']}: {both}, difference {d['value']:+.2f} ± {d['standard_error']:.2f} ({row['seeds']} seeds)")
    longest: dict[str, float] = {}
    for key, run in runs.items():
        name = key.split()[0]
        longest[name] = max(longest.get(name, 0.0), run.get("seconds", 0.0))
    setting.pop("variants")
    print(write("variants", {"setting": setting, "comparisons": found, "seconds": longest, **provenance(versions())}))


if __name__ == "__main__":
    main()
