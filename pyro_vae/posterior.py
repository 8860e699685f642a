"""The draws of a VAE for some observations, put into an ArviZ DataTree: from model and data to `inference_data`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from pyro_vae import inference_data
from pyro_vae.data import Split
from pyro_vae.experiment import Experiment
from pyro_vae.latent import LatentDraws, draw_latents, draw_posterior, draw_prior, joined
from pyro_vae.records import versions
from pyro_vae.sites import Batch
from pyro_vae.vae import VAE

if TYPE_CHECKING:
    import xarray


def posterior_draws(
    vae: VAE,
    batch: Batch,
    split: Split,
    observations: Sequence[int],
    num_draws: int,
    attributes: Mapping[str, Any],
    num_replicates: int | None = None,
) -> tuple["xarray.DataTree", LatentDraws]:
    """Draw from guide and prior, replicate the data, and arrange all of it.

    Args:
        vae: the model, in evaluation mode.
        batch: N data.
        split: the part of the data set that they are from.
        observations: their indices in it.
        num_draws: S, of each datum and of the prior.
        attributes: facts about the run, stored at the root.
        num_replicates: how many of the draws are turned into data, all by default.

    Returns:
        The tree, and the guide's draws as they are.
    """
    replicates = min(num_draws, num_replicates or num_draws)
    made = draw_posterior(vae, batch, replicates)
    draws = LatentDraws(*made[:4])
    if num_draws > replicates:
        draws = joined([draws, draw_latents(vae, batch, num_draws - replicates)], 0)
    given = None if batch.given is None else batch.given[:1].expand(num_draws, -1)
    prior, generated = draw_prior(vae, num_draws, given, replicates)
    x = cast(Tensor, batch.x)
    chosen = list(observations)
    tree = inference_data.posterior_tree(
        latents=draws.z,
        x_replicated=made.x,
        prior=prior,
        prior_predictive=generated,
        x=x if batch.mask is None else torch.where(batch.mask, x, torch.nan),
        log_p=draws.log_p,
        log_q=draws.log_q,
        observations=chosen,
        labels={n: split.attributes[n][chosen] for n in vae.variant.labels if n in split.attributes},
        label_draws=draws.y,
        attributes=attributes,
    )
    return tree, draws


def attributes(experiment: Experiment, split: str) -> dict[str, Any]:
    """What a tree of draws says of the run that they are from."""
    return {
        "experiment": experiment.tree(),
        "versions": versions(),
        "split": split,
        "inference": "draws of the amortised guide q(z | x), independent, one chain",
    }
