r"""log p(x) of a trained VAE by importance sampling and by annealing, paired, and from both sides on simulated data.

    pyro-vae train mnist-mlp latent.dim=20 encoder.widths=[400] decoder.widths=[400] training.epochs=30 \
        training.batch_size=128 training.optimizer.learning_rate=1e-3 --out runs/bounds
    python analysis/benchmarks/likelihood_bounds.py --run runs/bounds [--data 32] [--temperatures 1000]

Each is a lower bound on average; annealing never looks at the guide. On data from the model, annealing backwards from
the exact latents bounds log p(x) from above (bidirectional Monte Carlo). Differences are paired over the data.
"""

import argparse
import time
from pathlib import Path

import torch
from common import provenance, write

import pyro_vae as pv
from pyro_vae.evaluation import with_error
from pyro_vae.records import versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=int, default=32)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--temperatures", type=int, default=1000)
    parser.add_argument("--chains", type=int, default=16)
    args = parser.parse_args()
    run = pv.load(args.run)
    torch.manual_seed(0)
    batch, seconds = run.batch("test", range(args.data)), {}

    def timed(name: str, call):
        start = time.perf_counter()
        found = call()
        seconds[name] = time.perf_counter() - start
        print(f"{name}: {seconds[name]:.0f} s", flush=True)
        return found

    weights = timed("importance", lambda: pv.importance_weights(run.vae, batch, args.samples))
    annealing = args.temperatures, args.chains
    annealed = timed("annealing", lambda: pv.annealed_log_likelihood(run.vae, batch, *annealing))
    simulated = pv.simulate(run.vae, batch, args.data)
    lower, upper = timed("bidirectional", lambda: pv.bidirectional(run.vae, simulated, *annealing))
    found = {
        "elbo": with_error(weights.elbo),
        f"iwae_{args.samples}": with_error(weights.log_likelihood),
        "annealed": with_error(annealed.value),
        "annealed_minus_iwae": with_error(annealed.value - weights.log_likelihood),
        "acceptance": float(annealed.acceptance.mean()),
        "simulated_lower": with_error(lower.value),
        "simulated_upper": with_error(upper.value),
        "simulated_gap": with_error(upper.value - lower.value),
    }
    for name, value in found.items():
        print(name, value if isinstance(value, float) else f"{value['value']:.3f} ± {value['standard_error']:.3f}")
    settings = {key: value for key, value in vars(args).items() if key != "run"} | {"data_set": run.data.name}
    experiment = run.experiment.tree()
    write(
        "likelihood_bounds",
        {
            **provenance(versions()),
            "settings": settings,
            "seconds": seconds,
            **found,
            "experiment": {key: experiment[key] for key in ("variant", "training", "seed")},
        },
    )


if __name__ == "__main__":
    main()
