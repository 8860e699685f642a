"""Ray Tune over an experiment: the same trials as of `pyro-vae sweep`, on a Ray cluster or on this machine.

    pip install 'ray[tune]'
    python analysis/ray_tune.py --trials 4 --epochs 3

Where Ray is not there already, `pyro-vae sweep` needs no server and does the same. Each trial is an ordinary run
directory of its own; the winner is picked by validation ELBO, and its test figures are those of `pyro-vae evaluate`.
"""

import argparse
from pathlib import Path

import pyro_vae as pv


class Report(pv.Callback):
    """Tells Ray the validation ELBO of each epoch; its scheduler ends a trial by ending the process."""

    def metrics(self, row):
        from ray import tune

        if row.split == "validation":
            tune.report({"elbo": row.elbo, "epoch": row.epoch})


def trial(values, words, folder):
    """One trial, in a process of Ray's."""
    from ray import tune

    experiment = pv.load_experiment("digits", [*words, *(f"{field}={value}" for field, value in values.items())])
    out = Path(folder) / tune.get_context().get_trial_name()
    pv.train(experiment, out=out, quiet=True, num_samples=None, callbacks=[Report()])


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("sweeps/ray"))
    chosen = parser.parse_args(arguments)
    from ray import tune

    space = {"latent.dim": tune.randint(2, 33), "training.optimizer.learning_rate": tune.loguniform(1e-4, 1e-2)}
    words, folder = [f"training.epochs={chosen.epochs}"], str(chosen.out.absolute())
    found = tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, words=words, folder=folder), {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="elbo",
            mode="max",
            num_samples=chosen.trials,
            scheduler=tune.schedulers.ASHAScheduler(time_attr="epoch", max_t=chosen.epochs),
        ),
        run_config=tune.RunConfig(storage_path=folder, name="ray"),
    ).fit()
    best = found.get_best_result()
    run = Path(folder) / f"trial_{best.metrics['trial_id']}"
    print(f"best: {best.metrics['elbo']:.3f} nats per datum with {best.config}, in {run}")


if __name__ == "__main__":
    main()
