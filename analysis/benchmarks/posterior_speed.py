"""Effective draws of p(z | x) per second: batched HMC against Pyro's NUTS.

    python analysis/benchmarks/posterior_speed.py [--observations 16] [--chains 4] [--rounds 5]

Both sample the posteriors of the same test data of one trained VAE on digits, four chains each, warm-up and preparation
included in the time. NUTS runs all chains and data in one potential (its vectorised form, several times faster than
chain after chain). Sides take turns, round by round, in one process; what counts is the least bulk effective sample
size over data and latent dimensions, by ArviZ, per second. Means and sds of both are compared, all rounds together.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import pyro
import torch
from common import provenance, write
from pyro.infer.mcmc import MCMC, NUTS
from torch import Tensor

import pyro_vae as pv
from pyro_vae.diagnosis.reference import reference_posterior
from pyro_vae.inference_data import convergence
from pyro_vae.records import versions


def ours(vae: pv.VAE, batch: pv.Batch, args: argparse.Namespace) -> Tensor:
    """Draws (S, C, N, D)."""
    return reference_posterior(vae, batch, args.draws, args.warmup, args.chains).z["z"]


def nuts(vae: pv.VAE, batch: pv.Batch, args: argparse.Namespace) -> Tensor:
    """The same from Pyro."""

    def chains(batch: pv.Batch) -> Tensor:
        with pyro.plate("chain", args.chains, dim=-2):
            return vae.model(batch)

    start = {"z": torch.randn(args.chains, batch.size, vae.variant.layers["z"])}
    kernel = NUTS(chains, jit_compile=args.jit, ignore_jit_warnings=True)
    with pyro.validation_enabled(False):
        mcmc = MCMC(kernel, args.nuts_draws, args.nuts_warmup, initial_params=start, disable_progbar=True)
        mcmc.run(batch)
    return mcmc.get_samples()["z"]


SIDES = {"batched HMC": ours, "Pyro NUTS": nuts}


def summary(rounds: list[dict]) -> dict:
    """Medians over rounds."""
    return {key: statistics.median(r[key] for r in rounds) for key in rounds[0] if key != "draws"} | {
        "ess_per_second_rounds": [r["ess_per_second"] for r in rounds]
    }


def agreement(rounds: dict[str, list[dict]]) -> dict[str, float]:
    """Bias over sd and ratio of the sds (N, D), all rounds together."""
    pooled = {name: torch.cat([r["draws"].flatten(0, 1) for r in some]) for name, some in rounds.items()}
    a, b = pooled.values()
    bias, ratio = (a.mean(0) - b.mean(0)) / b.std(0), a.std(0) / b.std(0)
    return {
        "bias_over_sd_largest": float(bias.abs().max()),
        "bias_over_sd_root_mean_square": float(bias.square().mean().sqrt()),
        "sd_ratio_mean": float(ratio.mean()),
        "sd_ratio_least": float(ratio.min()),
        "sd_ratio_largest": float(ratio.max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--observations", type=int, default=16)
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--nuts-draws", type=int, default=250)
    parser.add_argument("--nuts-warmup", type=int, default=200)
    parser.add_argument("--jit", action="store_true", help="jit_compile of NUTS")
    parser.add_argument("--variant", default="digits")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = pv.train(pv.load_experiment(args.variant, []), out=Path(folder) / "run", quiet=True, num_samples=10)
        vae, batch = run.vae, run.batch("test", range(args.observations))
    torch.manual_seed(0)
    rounds: dict[str, list[dict]] = {name: [] for name in SIDES}
    for i in range(args.rounds):
        for name, side in SIDES.items():
            start = time.perf_counter()
            draws = side(vae, batch, args)
            seconds = time.perf_counter() - start
            found = convergence(draws.movedim(0, 1))
            ess, rhat = float(found["ess_bulk"].min()), float(found["rhat"].max())
            rounds[name].append(
                {
                    "seconds": seconds,
                    "min_bulk_ess": ess,
                    "ess_per_second": ess / seconds,
                    "rhat_max": rhat,
                    "draws": draws,
                }
            )
            speed = f"{seconds:.2f} s, min bulk ESS {ess:.0f}, {ess / seconds:.0f}/s"
            print(f"round {i + 1}, {name}: {speed}, R-hat {rhat:.3f}")
    sides, agrees = {name: summary(some) for name, some in rounds.items()}, agreement(rounds)
    ratio = sides["batched HMC"]["ess_per_second"] / sides["Pyro NUTS"]["ess_per_second"]
    print(f"{'':12} {'seconds':>8} {'min ESS':>8} {'ESS/s':>8} {'R-hat':>6}   medians of {args.rounds} rounds")
    for name, side in sides.items():
        row = f"{side['seconds']:8.2f} {side['min_bulk_ess']:8.0f} {side['ess_per_second']:8.0f}"
        print(f"{name:12} {row} {side['rhat_max']:6.3f}")
    print(f"ratio of ESS/s: {ratio:.1f}")
    print(", ".join(f"{name} {value:.3f}" for name, value in agrees.items()))
    settings = {key: value for key, value in vars(args).items()}
    write("posterior_speed", {**provenance(versions()), "settings": settings, "sides": sides, "ratio": ratio, **agrees})


if __name__ == "__main__":
    main()
