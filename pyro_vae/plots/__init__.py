"""Figures. Nothing touches pyplot's state.

    pictures      data: images in a grid, vectors as heat maps, how sure a model is of each pixel
    curves        the course of a training, classes known and found
    latents       codes, the aggregate posterior, what each dimension is worth, models side by side
    diagnosis     a diagnosis: k-hat, log p(x), what the guide loses
    posteriors    a diagnosis: the guide against draws of Hamiltonian Monte Carlo
    checks        a diagnosis: calibration, the aggregate posterior, predictive checks, labels
    comparison    several models: differences to the best
    style         what they share, and `save`

A function named `..._figure` returns a matplotlib `Figure` of its own; the others draw into `ax` and return that.
Colours are those of Petroff (2021), which people of all kinds of colour vision tell apart; what they say is said by
words, markers, hatches or kinds of line as well.
"""

from pyro_vae.plots.checks import aggregate_figure, calibration_figure, labels_figure, predictive_figure
from pyro_vae.plots.comparison import comparison_figure, rounded
from pyro_vae.plots.curves import MOST_WRITTEN, confusion_figure, training_curves
from pyro_vae.plots.diagnosis import gaps_figure, khat_figure, log_likelihood_figure
from pyro_vae.plots.latents import (
    LatentSpace,
    aggregate_scatter,
    explained_variance,
    kl_per_dimension,
    latent_scatter,
    latent_spaces_figure,
)
from pyro_vae.plots.pictures import (
    GAP,
    MOST_NAMES,
    OVERSHOOT,
    as_grid,
    data_figure,
    draw_data,
    uncertainty_figure,
)
from pyro_vae.plots.posteriors import moments_figure, posterior_figure
from pyro_vae.plots.style import STYLE, save

__all__ = [
    "GAP",
    "MOST_NAMES",
    "MOST_WRITTEN",
    "OVERSHOOT",
    "STYLE",
    "LatentSpace",
    "aggregate_figure",
    "aggregate_scatter",
    "as_grid",
    "calibration_figure",
    "comparison_figure",
    "confusion_figure",
    "data_figure",
    "draw_data",
    "explained_variance",
    "gaps_figure",
    "khat_figure",
    "kl_per_dimension",
    "labels_figure",
    "latent_scatter",
    "latent_spaces_figure",
    "log_likelihood_figure",
    "moments_figure",
    "posterior_figure",
    "predictive_figure",
    "rounded",
    "save",
    "training_curves",
    "uncertainty_figure",
]
