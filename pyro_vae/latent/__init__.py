"""The latent space of a built VAE: draws, codes, imputation, and walks through it.

    particles     many particles of many data, in chunks
    draws         draws of the guide and of the prior, moments of the guide
    imputation    missing entries, and the spread of the posterior predictive
    points        where data lie, and what the decoder makes of any point
    paths         interpolation, averages, steps, traversals, the grid of the prior
    directions    attributes and principal axes as directions, nearest neighbours
    usage         what each dimension is used for

Each takes a VAE in evaluation mode and batches or tensors; a `Run` gives them its data and its seed.
"""

from pyro_vae.latent.directions import (
    PrincipalAxes,
    classifier_normal,
    mean_difference,
    neighbours,
    per_sd,
    principal_axes,
)
from pyro_vae.latent.draws import (
    Codes,
    Draws,
    LatentDraws,
    check_finite,
    draw_latents,
    draw_posterior,
    draw_prior,
    encode,
    joined,
    layered,
    moments,
    sample,
    side_by_side,
)
from pyro_vae.latent.imputation import Imputed, Predictive, impute, pasted, predictive
from pyro_vae.latent.particles import Compile, Particles, chunks, collected, data_per_chunk, particles_per_chunk
from pyro_vae.latent.paths import average, edit, interpolate, manifold, origin, traverse
from pyro_vae.latent.points import Points, decode, locate, relabelled
from pyro_vae.latent.usage import Usage, usage

__all__ = [
    "Codes",
    "Compile",
    "Draws",
    "Imputed",
    "LatentDraws",
    "Particles",
    "Points",
    "Predictive",
    "PrincipalAxes",
    "Usage",
    "average",
    "check_finite",
    "chunks",
    "classifier_normal",
    "collected",
    "data_per_chunk",
    "decode",
    "draw_latents",
    "draw_posterior",
    "draw_prior",
    "edit",
    "encode",
    "impute",
    "interpolate",
    "joined",
    "layered",
    "locate",
    "manifold",
    "mean_difference",
    "moments",
    "neighbours",
    "origin",
    "particles_per_chunk",
    "pasted",
    "per_sd",
    "predictive",
    "principal_axes",
    "relabelled",
    "sample",
    "side_by_side",
    "traverse",
    "usage",
]
