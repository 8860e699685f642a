"""Which of six variants? Train them, and compare log p(x) of the same test data with paired standard errors.

    python analysis/choosing_a_variant.py [key=value ...]

The comparison of `notebooks/08_choosing_a_variant.ipynb`, on the embedded digits. The words hold for every variant:
`seed=1`, `training.epochs=100` (12 or more), or `data.name=mnist`, which is looked for in $PYRO_VAE_DATA, then
downloaded.
"""

import sys

import arviz as az

import pyro_vae as pv
from pyro_vae.plots import comparison_figure, save

SAME = ["encoder.widths=[200]", "decoder.widths=[200]", "training.optimizer.learning_rate=2e-3", "training.epochs=50"]
WARM_UP = "objective.warmup_epochs=12"
VARIANTS = {
    "z of 2": ("vae-bernoulli", "latent.dim=2"),
    "z of 10": ("vae-bernoulli", "latent.dim=10"),
    "full guide": ("vae-bernoulli", "latent.dim=10", "guide=full_normal"),
    "vamp prior": ("vamp", "latent.dim=10", WARM_UP),
    "iwae": ("iwae", "latent.dim=10", "objective.num_particles=10"),
    "ladder": ("ladder", "latent=[{dim: 10}, {dim: 5}]", WARM_UP),
}


def main():
    runs = {}
    for name, (variant, *words) in VARIANTS.items():
        experiment = pv.load_experiment(variant, [*SAME, *words, *sys.argv[1:]])
        runs[name] = pv.train(experiment, name=name, num_samples=100)
        print(f"{name}: {runs[name].result['seconds']['train']:.0f} s, run: {runs[name].directory}")

    comparison = pv.compare(runs, observations=min(1000, runs["iwae"].result["num_data"]))
    print(comparison)
    table = az.compare(comparison.elpd, round_to="none")
    print(table[["rank", "elpd", "elpd_diff", "dse", "weight"]].round(2))

    first = runs[comparison.table[0]["name"]]
    first.evaluate(num_samples=1000)
    print(pv.card_text(first.result))
    print(save(comparison_figure(comparison.table, comparison.subject), first.directory / "comparison.png"))
    print(
        save(pv.data_figure(first.sample(64)[1].numpy(), "E[x | z], z from the prior"), first.directory / "samples.png")
    )


if __name__ == "__main__":
    try:
        main()
    except pv.DeclarationError as error:
        sys.exit(str(error))
