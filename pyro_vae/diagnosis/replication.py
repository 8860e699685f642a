"""Model checking: do data that the model makes look like the data, by named test quantities?

    posterior predictive   x_rep ~ p(x | z), z ~ q(z | x): each datum against its own replicates
    prior predictive       x_rep ~ p(x | z), z ~ p(z): the data as a set against data from nothing

The first asks whether the decoder can say what was seen, the second whether the model generates what is seen. Missing
entries are left out on both sides alike.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.diagnosis.simulation import simulate
from pyro_vae.diagnostics.predictive import Quantity, SetCheck, Tail, set_check, tail_probability
from pyro_vae.latent import chunks, data_per_chunk, draw_posterior
from pyro_vae.networks import fill
from pyro_vae.sites import Batch
from pyro_vae.specs import DeclarationError
from pyro_vae.vae import VAE


class Check(NamedTuple):
    """What one test quantity says; float64 on the CPU."""

    observed: Tensor
    """T(x) (N,)."""
    posterior: Tensor
    """T(x_rep), z ~ q(z | x) (R, N)."""
    prior: Tensor
    """T(x_rep), z ~ p(z) (M,)."""
    tail: Tail
    """Of each datum among its own replicates."""
    set: SetCheck
    """Of the data among generated ones."""


@torch.no_grad()
def check_predictive(
    vae: VAE,
    batch: Batch,
    quantities: Mapping[str, Quantity],
    num_replicates: int = 100,
    num_generated: int = 1000,
    progress: Callable[[int], object] = lambda n: None,
) -> dict[str, Check]:
    """Compare data with their replicates.

    Args:
        vae: the model, in evaluation mode.
        batch: N data.
        quantities: name -> T, (M, *event) -> (M,); `diagnostics.predictive.quantities` has some for each kind of data.
        num_replicates: R of each datum.
        num_generated: M from the prior.
        progress: called with the number of data just replicated.

    Returns:
        Name -> `Check`.

    Raises:
        DeclarationError: a quantity does not give one finite number per datum.

    References:
        Posterior Predictive Assessment of Model Fitness via Realized Discrepancies (Gelman, Meng & Stern, 1996).
    """
    observed = {name: _values(name, T, _shown(batch.x, batch.mask)) for name, T in quantities.items()}  # type: ignore[arg-type]
    made = simulate(vae, batch, num_generated).batch
    prior = {name: _values(name, T, _shown(made.x, made.mask)) for name, T in quantities.items()}  # type: ignore[arg-type]
    parts: dict[str, list[Tensor]] = {name: [] for name in quantities}
    for part in chunks(batch, data_per_chunk(vae, num_replicates)):
        x = draw_posterior(vae, part, num_replicates).x
        mask = None if part.mask is None else part.mask.expand_as(x).flatten(0, 1)
        flat = _shown(x.flatten(0, 1), mask)
        for name, T in quantities.items():
            parts[name].append(_values(name, T, flat).unflatten(0, x.shape[:2]))
        progress(part.size)
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, columns in parts.items():
        replicated = torch.cat(columns, 1)
        tail = tail_probability(replicated, observed[name])
        found[name] = Check(
            observed[name], replicated, prior[name], tail, set_check(prior[name], observed[name], generator=generator)
        )
    return found


def _shown(x: Tensor, mask: Tensor | None) -> Tensor:
    """x with a legal value for what is missing: the same in the data and in their replicates."""
    return x if mask is None else fill(x, mask)


def _values(name: str, quantity: Quantity, x: Tensor) -> Tensor:
    """T of each datum (M,), float64 on the CPU."""
    values = quantity(x)
    if not isinstance(values, Tensor) or values.shape != x.shape[:1]:
        given = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise DeclarationError(
            [f"quantities[{name!r}]: gave {given} for {len(x)} data; must give a tensor with one number for each."]
        )
    values = values.detach().double().cpu()
    if not bool(values.isfinite().all()):
        at = int((~values.isfinite()).nonzero()[0])
        raise DeclarationError([f"quantities[{name!r}]: gave {float(values[at])} for datum {at}; must be finite."])
    return values
