"""Evaluation: bounds and importance-sampled log likelihoods of a trained VAE, with standard errors.

    ELBO               E_q[log p(x | z)] - KL(q(z | x) || p(z))
    log p^_K(x)        log (1/K) sum_k w_k, z_k ~ q(z | x); its expectation is a lower bound of log p(x)
    k-hat              tail index of the w_k per datum: above the threshold log p^_K(x) is not to be trusted

K draws are taken in chunks that bound memory, whatever K and the number of data; see `latent.particles`. Each chunk of
data has random numbers of its own, so that the result does not depend on how many processes share the chunks.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pyro_vae.batches import DTYPES, preparer, resident
from pyro_vae.capture import same_random_state
from pyro_vae.data import Data
from pyro_vae.data.storage import at_once
from pyro_vae.diagnostics.importance import RunningLogMeanExp, mean_and_standard_error
from pyro_vae.diagnostics.psis import khat_report, pareto_khat
from pyro_vae.distributed import ALONE, World
from pyro_vae.experiment import Experiment
from pyro_vae.latent import Compile, Particles, moments
from pyro_vae.objectives import split, terms
from pyro_vae.sites import Batch, Densities
from pyro_vae.specs import DeclarationError
from pyro_vae.step import fetch
from pyro_vae.vae import VAE
from pyro_vae.variant import Variant

KHAT_DRAWS = 1000
"""Draws per datum that k-hat is fitted to, at most; its Monte Carlo sd is then 0.13."""
MIN_KHAT_DRAWS = 100
"""Below this there is no tail to fit."""
ACTIVE = 0.01
"""Variance of E_q[z_d] over data above which a unit is active (Burda et al., 2016)."""
PREPARATION = 2**32
"""Added to the seed where data are binarised, so that z does not follow the same random numbers."""
RESAMPLES = 200
"""Resamples of the data behind the standard error of the number of active units."""


class Scores(NamedTuple):
    """Per datum (N,), nats, float64 on the CPU."""

    elbo: Tensor
    reconstruction: Tensor
    kl: Tensor
    log_likelihood: Tensor
    """log p^_K(x)."""
    standard_error: Tensor
    """Monte Carlo standard error of log p^_K(x)."""
    khat: Tensor
    """Pareto k-hat; NaN where undetermined, -inf where the weights are constant."""
    mean: dict[str, Tensor]
    """Latent site -> E_q[z | x] (N, D)."""
    kl_per_layer: dict[str, Tensor]
    """Latent site -> its share of the KL (N,); the rest of it is that of missing labels."""


def blocks(data: Data, part: str, experiment: Experiment, device: torch.device) -> Iterator[Batch]:
    """A split as the model sees it, some data at a time, with the binarisation drawn once from the seed."""
    split, dtype = getattr(data, part), DTYPES[experiment.training.precision]
    num = at_once(data.shape)
    for first in range(0, len(split), num):
        some = split.select(range(first, min(first + num, len(split))))
        own = resident(some, experiment, device, training=False)
        with same_random_state(device):
            torch.manual_seed(experiment.seed + PREPARATION + first)
            block = fetch(own, torch.arange(len(some), device=device), preparer(data, dtype, device))
        yield block


def prepared(
    data: Data, part: str, experiment: Experiment, device: torch.device, observations: Sequence[int] | None = None
) -> Batch:
    """A whole split in memory, or some of its data, as `blocks` gives them.

    Raises:
        DeclarationError: there are no such observations.
    """
    last = len(getattr(data, part)) - 1
    beyond = [i for i in observations or () if not 0 <= i <= last]
    if beyond or (observations is not None and not observations):
        raise DeclarationError([f"observations={beyond}: the {part} data are numbered from 0 to {last}."])
    first, found, picked = 0, list[Batch](), dict[int, Batch]()
    for block in blocks(data, part, experiment, device):
        if observations is None:
            found.append(block)
        for i in {i for i in observations or () if first <= i < first + block.size}:
            picked[i] = block.map(itemgetter(slice(i - first, i - first + 1)))
        first += block.size
    found = found if observations is None else [picked[i] for i in observations]
    columns = zip(*(batch[:4] for batch in found), strict=True)
    joined = (None if column[0] is None else torch.cat(cast(list[Tensor], column)) for column in columns)
    return Batch(*joined)  # type: ignore[arg-type]


class Parts(NamedTuple):
    """What k particles say of each of B data, nats."""

    log_w: Tensor
    """log p(x, z) - log q(z | x), missing labels summed out; broadcasts to (k, B)."""
    averages: Tensor
    """ELBO, reconstruction and KL, averaged over the particles (3, B)."""
    mean: dict[str, Tensor]
    """Latent site -> E_q[z | x] (B, D)."""
    kl_per_layer: dict[str, Tensor]
    """Latent site -> its share of the KL (B,)."""


def scorer(vae: VAE, num_samples: int, num_data: int, compile: Compile = "auto") -> Particles[Parts]:
    """What `score` works with; made once where several batches are scored, so that it is recorded once.

    Args:
        vae: the model, in evaluation mode.
        num_samples: K importance samples per datum.
        num_data: N, planned in all.
        compile: `off`: never; otherwise where the planned work repays it.
    """

    def parts(d: Densities, batch: Batch) -> Parts:
        t = terms(*split(vae, d, closed_form=True), d, batch, vae.variant.rule)
        averages = torch.stack([t.elbo, t.reconstruction, t.kl])
        return Parts(d.summed_log_w, averages, moments(vae, d)[0], t.kl_per_layer)

    return Particles(vae, parts, num_samples, num_data, compile)


@torch.no_grad()
def score(
    vae: VAE,
    batch: Batch,
    num_samples: int,
    progress: Callable[[int], object] = lambda n: None,
    first: int = 0,
    particles: Particles[Parts] | None = None,
) -> Scores:
    """Score every datum of a batch.

    The draws of a datum depend on the random state, on its number and on that of the data scored with it, and not on
    the batches before.

    Args:
        vae: the model, in evaluation mode.
        batch: N data.
        num_samples: K importance samples per datum.
        progress: called with the number of data just done.
        first: number of the first datum in its split.
        particles: a `scorer` of this model and K; a new one by default.
    """
    particles = particles or scorer(vae, num_samples, batch.size)
    device, seed = next(vae.parameters()).device, int(torch.randint(2**48, ()))
    found: list[Scores] = []
    for part in particles.parts(batch):
        with same_random_state(device):
            torch.manual_seed(seed + first)
            found.append(_score_part(particles, part, first))
        first += part.size
        progress(part.size)
    return _joined(found)


def _joined(found: list[Scores]) -> Scores:
    """Scores of several parts, one after the other."""
    sites = found[0].mean
    mean, kl = (
        {name: torch.cat([getattr(s, field)[name] for s in found]) for name in sites} for field in Scores._fields[-2:]
    )
    columns = {name: torch.cat([getattr(scores, name) for scores in found]) for name in Scores._fields[:-2]}
    return Scores(**columns, mean=mean, kl_per_layer=kl)


def _score_part(particles: Particles[Parts], batch: Batch, first: int) -> Scores:
    """Scores of a few data, the first of which has that number."""
    running, kept, done = RunningLogMeanExp(), list[Tensor](), 0
    sums: Any = None
    for k, found in particles(batch):
        log_w = found.log_w.expand(k, batch.size).double().cpu()
        _check(log_w, first)
        running.add(log_w)
        if done < KHAT_DRAWS:
            kept.append(log_w[: KHAT_DRAWS - done])
        done += k
        weighted = tree_map(lambda value, k=k: k * value.double().cpu(), found[1:])
        sums = weighted if sums is None else tree_map(torch.add, sums, weighted)
    (elbo, reconstruction, kl), mean, kl_per_layer = tree_map(lambda value: value / done, sums)
    draws = torch.cat(kept)
    khat = torch.as_tensor(pareto_khat(draws)) if len(draws) >= MIN_KHAT_DRAWS else torch.full_like(elbo, math.nan)
    estimate, error = running.estimate(), running.standard_error()
    return Scores(elbo, reconstruction, kl, estimate, error, khat, mean, kl_per_layer)


def _check(log_w: Tensor, first: int) -> None:
    """Refuse weights (k, B) that are no numbers, of data the first of which has that number."""
    wrong = (log_w.isnan() | (log_w == math.inf)).any(0)
    if bool(wrong.any()):
        at = first + int(wrong.nonzero()[0])
        raise DeclarationError(
            [
                f"observation {at}: log p(x, z) is no number there: its values lie outside of what the model "
                "can score; look at them."
            ]
        )


def evaluate(
    vae: VAE,
    data: Data,
    experiment: Experiment,
    part: str = "test",
    num_samples: int = 1000,
    progress: Callable[[int], object] = lambda n: None,
    world: World = ALONE,
) -> dict[str, Any]:
    """The figures of `result.json` that come from the model and the data.

    Args:
        vae: the trained model.
        data: the data set.
        experiment: the declaration.
        part: "train", "validation" or "test".
        num_samples: K importance samples per datum.
        progress: called with the number of data just done.
        world: the processes that share the work; all get the result.

    Returns:
        The part of the result card that this measures; nats per datum, `{"value", "standard_error"}` over data.
    """
    start, variant = time.perf_counter(), experiment.variant
    normalized = variant.normalized
    if not normalized:
        num_samples = 1  # for the reconstruction, all that is reported
    device = next(vae.parameters()).device
    was_training, found, num_data = vae.training, dict[int, Scores](), 0
    particles = scorer(vae.eval(), num_samples, len(getattr(data, part)), experiment.training.compile)
    every = (some for block in blocks(data, part, experiment, device) for some in particles.parts(block))
    with same_random_state(device):
        for number, some in enumerate(every):
            if number % world.size == world.rank:
                torch.manual_seed(experiment.seed)  # `score` gives every datum a stream of its own from here
                found |= {number: score(vae, some, num_samples, first=num_data, particles=particles)}
            num_data += some.size
            progress(some.size)
    found = {number: scores for shared in world.gather(found) for number, scores in shared.items()}
    scores = _joined([found[number] for number in sorted(found)])
    vae.train(was_training)
    active, active_error = active_units(torch.cat(list(scores.mean.values()), -1))
    khat_draws = min(num_samples, KHAT_DRAWS)
    return {
        "data": data.name,
        "split": part,
        "num_data": num_data,
        "density": variant.density,
        "conditional_on": list(data.conditional_on),
        "elbo": with_error(scores.elbo) if normalized else None,
        "log_likelihood": with_error(scores.log_likelihood) if normalized else None,
        "reconstruction": with_error(scores.reconstruction),
        "kl": with_error(scores.kl) if variant.guide.density else None,
        "kl_per_layer": {name: with_error(kl) for name, kl in scores.kl_per_layer.items()}
        if variant.guide.density
        else None,
        "num_importance_samples": num_samples if normalized else None,
        "bits_per_dim": bits_per_dim(-float(scores.log_likelihood.mean()), data) if _has_bits(variant, data) else None,
        "active_units": active,
        "active_units_standard_error": active_error,
        "latent_dim": sum(variant.layers.values()),
        "khat": khat_report(scores.khat.numpy(), khat_draws) if normalized and khat_draws >= MIN_KHAT_DRAWS else None,
        "seconds": {"evaluate": time.perf_counter() - start},
    }


def active_units(mean: Tensor) -> tuple[int | None, float | None]:
    """Number of units with Var_x(E_q[z_d]) > 0.01, and its standard error by resampling the data.

    Args:
        mean: E_q[z | x] (N, D).

    Returns:
        Number and standard error; None of fewer than two data.

    References:
        Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2016).
    """
    n = len(mean)
    if n < 2:
        return None, None
    centred = mean - mean.mean(0)
    squares, found = centred.square(), list[Tensor]()
    with same_random_state(torch.device("cpu")):
        torch.manual_seed(0)
        for _ in range(RESAMPLES):  # one at a time: all of them would be as large as data that do not fit in memory
            share = torch.bincount(torch.randint(n, (n,)), minlength=n).to(mean.dtype) / n
            found.append((share @ squares - (share @ centred).square()) * n / (n - 1))
    active = (torch.stack(found) > ACTIVE).sum(-1).to(mean.dtype)
    return int((mean.var(0) > ACTIVE).sum()), float(active.std())


def _has_bits(variant: Variant, data: Data) -> bool:
    """Whether bits per dimension mean something: a probability of discrete data, or a density of dequantised ones."""
    fits = variant.likelihood.discrete if data.support in ("binary", "levels") else data.discrete
    return variant.normalized and fits and data.train.mask is None


def bits_per_dim(nll: float, data: Data) -> float:
    """-log2 p per entry; of dequantised data a bound on that of their integer levels.

        bits = NLL / (D ln 2) + log2(levels) if dequantised, because x was scaled from levels to [0, 1]

    References:
        A note on the evaluation of generative models (Theis, van den Oord & Bethge, 2016).
    """
    shift = math.log2(data.levels) if data.dequantize == "uniform" and data.levels else 0.0
    modelled = math.prod(data.shape) - (0 if data.shown is None else int(data.shown.sum()))
    return nll / (modelled * math.log(2)) + shift


def with_error(values: Tensor) -> dict[str, float]:
    """Mean over data (N,) and its standard error, by name."""
    value, error = mean_and_standard_error(values)
    return {"value": value, "standard_error": error}
