"""pyro_vae: variational autoencoders declared as data, trained by SVI in Pyro, diagnosed with ArviZ.

>>> import pyro_vae as pv
>>> experiment = pv.Experiment(variant=pv.Variant(latent=pv.Latent(dim=2)))
>>> run = pv.train(experiment)                                              # doctest: +SKIP
>>> tree = run.posterior(num_draws=1000, observations=range(16))            # doctest: +SKIP
"""

from importlib import import_module, metadata
from typing import Any

__version__ = metadata.version("pyro_vae")

# Where each public name lives. Imported on first use: torch and Pyro take seconds, `--help` must not.
_HOME = {
    "specs": ("DeclarationError", "Part", "Spec", "Table"),
    "networks": ("Conv", "MLP", "NETWORKS", "Network", "ResNet", "Shape"),
    "priors": (
        "CategoricalPrior",
        "FlowPrior",
        "LearnedNormal",
        "Mixture",
        "PRIORS",
        "Prior",
        "StandardNormal",
        "Vamp",
    ),
    "likelihoods": (
        "Bernoulli",
        "Categorical",
        "ContinuousBernoulli",
        "Decoded",
        "DiscretizedLogistic",
        "LIKELIHOODS",
        "Laplace",
        "Likelihood",
        "Mixed",
        "MultivariateNormal",
        "NegativeBinomial",
        "Normal",
        "Perceptual",
        "Poisson",
        "Several",
        "StudentT",
        "ZeroInflatedNegativeBinomial",
        "ZeroInflatedPoisson",
    ),
    "guides": (
        "BottomUpNormal",
        "DiagonalNormal",
        "Diffusion",
        "FlowGuide",
        "FullNormal",
        "GUIDES",
        "Guide",
        "Ladder",
        "LowRankNormal",
        "Point",
        "Raw",
        "Relaxed",
        "Refined",
    ),
    "data": (
        "Arrays",
        "ArraysData",
        "CIFAR10Data",
        "CelebAData",
        "DATA",
        "Data",
        "DataSpec",
        "DigitsData",
        "EMNISTData",
        "FashionMNISTData",
        "FolderData",
        "HuggingFaceData",
        "KMNISTData",
        "LinearGaussianData",
        "MNISTData",
        "OmniglotData",
        "SVHNData",
        "Shown",
        "SquaresData",
    ),
    "variant": ("Label", "Latent", "Variant"),
    "sites": ("Batch", "Densities", "Site", "without_labels"),
    "vae": ("VAE", "densities"),
    "objectives": (
        "BetaTC",
        "Capacity",
        "DReG",
        "ELBO",
        "Factor",
        "IWAE",
        "MMD",
        "OBJECTIVES",
        "Objective",
        "Renyi",
        "ReweightedWakeSleep",
        "Terms",
    ),
    "trackers": ("MLflow", "TRACKERS", "TensorBoard", "Tracker", "TrackerLog", "WandB"),
    "experiment": (
        "EarlyStopping",
        "Experiment",
        "Optimizer",
        "Schedule",
        "Training",
        "dump",
        "load_experiment",
        "named",
        "register",
    ),
    "callbacks": ("Callback",),
    "interruption": ("Interrupted",),
    "training": ("NumericsError",),
    "latent": (
        "Points",
        "average",
        "classifier_normal",
        "edit",
        "interpolate",
        "manifold",
        "mean_difference",
        "neighbours",
        "origin",
        "per_sd",
        "principal_axes",
        "relabelled",
        "traverse",
    ),
    "classification": ("LabelScores",),
    "diagnosis": (
        "aggregate_posterior",
        "annealed_log_likelihood",
        "bidirectional",
        "calibrate",
        "check_predictive",
        "importance_weights",
        "inference_gaps",
        "reference_posterior",
        "simulate",
    ),
    "inference_data": ("equal_draws",),
    "runs": ("Run", "explore", "load"),
    "launch": ("resume", "train"),
    "examination": ("Diagnosis", "diagnose"),
    "comparison": ("Comparison", "compare"),
    "search": ("Search", "Sweep", "load_sweep"),
    "swept": ("Swept",),
    "sweep": ("prepare_sweep", "resume_sweep", "run_sweep"),
    "plots": (
        "LatentSpace",
        "aggregate_scatter",
        "confusion_figure",
        "data_figure",
        "draw_data",
        "explained_variance",
        "kl_per_dimension",
        "latent_scatter",
        "latent_spaces_figure",
        "training_curves",
        "uncertainty_figure",
    ),
    "card": ("card_text",),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE)  # noqa: PLE0605 - ruff wants a literal list


def __getattr__(name: str) -> Any:
    """Import the module that a public name lives in."""
    if name not in _MODULE:
        raise AttributeError(f"module 'pyro_vae' has no attribute {name!r}")
    return getattr(import_module(f"pyro_vae.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
