"""log p(x, z) of a VAE as a function of z alone: what samplers, annealing and fits work on.

The latents of all layers stand side by side, z (K, B, D). Missing labels are summed out, missing entries left out,
labels and covariates that are given are conditioned on: log p(x, z | y). Each function is recorded once, so that the
programs' effect handlers run no more; the guide, which is conditioned on z, drops out of the recording.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from pyro_vae.capture import record, simplify
from pyro_vae.diagnostics.annealing import Ends, Scores
from pyro_vae.diagnostics.hmc import Scored
from pyro_vae.latent import layered
from pyro_vae.sites import Batch
from pyro_vae.specs import DeclarationError
from pyro_vae.vae import VAE, densities


def check_continuous(vae: VAE) -> None:
    """Refuse latents that are not real-valued.

    Raises:
        DeclarationError: they lie on a simplex.
    """
    if vae.variant.guide.simplex:
        raise DeclarationError(
            [
                "variant.latent.kind=categorical: a relaxed code lives on a simplex, where Hamiltonian Monte Carlo has "
                "no place; declare it as a label that is observed never, which is summed out exactly."
            ]
        )


def log_joint(vae: VAE, batch: Batch, num: int) -> Scored:
    """log p(x, z | y) and its slope along z, for z (num, B, D).

    Args:
        vae: the model, in evaluation mode.
        batch: B data.
        num: chains or draws per datum; a recording holds for as many only.

    Returns:
        z (num, B, D) -> log p (num, B), nats, and slope (num, B, D); no graph is kept.
    """

    def scored(z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_p = densities(vae, batch, num, layered(vae, z)).log_model().expand(z.shape[:-1])
            (slope,) = torch.autograd.grad(log_p.sum(), z)
        return log_p.detach(), slope

    return cast(Scored, _recorded(scored, _example(vae, batch, num)))


def prior_and_joint(vae: VAE, batch: Batch, num: int) -> Ends:
    """Both ends of the path of annealed importance sampling: log p(z | y) and log p(x, z | y), with their slopes.

    Args:
        vae: the model, in evaluation mode.
        batch: B data; labels that can be missing must be missing, or log p(z) would be log p(y, z).
        num: chains per datum.

    Returns:
        z (num, B, D) -> `Scores`; no graph is kept.
    """

    def ends(z: Tensor) -> Scores:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            d = densities(vae, batch, num, layered(vae, z))
            prior, joint = (d.log_model(leave_out).expand(z.shape[:-1]) for leave_out in ("x", ""))
            (prior_slope,) = torch.autograd.grad(prior.sum(), z, retain_graph=True)
            (joint_slope,) = torch.autograd.grad(joint.sum(), z)
        return Scores(prior.detach(), prior_slope, joint.detach(), joint_slope)

    return cast(Ends, _recorded(ends, _example(vae, batch, num)))


def _example(vae: VAE, batch: Batch, num: int) -> Tensor:
    """Some z (num, B, D) that no prior calls impossible."""
    some = next(vae.parameters())
    return torch.randn(num, batch.size, sum(vae.variant.layers.values()), dtype=some.dtype, device=some.device)


def _recorded(function: Callable[[Tensor], Any], example: Tensor) -> Callable[[Tensor], Any]:
    """The function as its tensor operations, without those that nothing needs."""
    recorded = simplify(record(function, example))

    def replayed(z: Tensor) -> Any:
        with torch.no_grad():
            return recorded(z)

    return replayed
