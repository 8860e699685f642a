"""What goes into the model and the guide, and what comes out: batches, sites, densities, and labels taken out of them.

Batch dimensions are right-aligned (C, K, B): classes at -3, particles at -2, data at -1.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

IMPOSSIBLE = -1e30
"""Log probability of a class that contradicts a known label: exp gives 0, and 0 x IMPOSSIBLE is 0, not NaN."""


class Batch(NamedTuple):
    """What a model and a guide see.

    Attributes:
        x: data (B, *event), or None to generate `n` of them.
        y: integer labels (B,) for one label site, (B, sites) for several; -1 where missing.
        mask: like x, True where the entry exists.
        given: covariates (B, G).
        n: number of data to generate if x is None.
    """

    x: Tensor | None
    y: Tensor | None = None
    mask: Tensor | None = None
    given: Tensor | None = None
    n: int | None = None

    @property
    def size(self) -> int:
        """Number of data B."""
        if self.x is not None:
            return self.x.shape[0]
        if self.n is None:
            raise ValueError("Batch(x=None) generates: say how many data, Batch(x=None, n=16).")
        return self.n

    def map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with a function applied to each of its tensors."""
        tensors = (None if tensor is None else function(tensor) for tensor in self[:4])
        return Batch(*tensors)  # type: ignore[arg-type]


class Site(NamedTuple):
    """One random variable of a trace: its distribution, value and log_prob (broadcasts to (C, K, B), nats)."""

    fn: dist.Distribution
    value: Tensor
    log_prob: Tensor


class Densities(NamedTuple):
    """Every site of the model p and of the guide q, on the same latents."""

    p: dict[str, Site]
    q: dict[str, Site]
    labels: tuple[str, ...] = ()
    """Label sites that can be missing."""

    @property
    def log_w(self) -> Tensor:
        """The log importance weight log p(x, y, z) - log q(z | x, y), (C, K, B) or (K, B), nats."""
        log_q = [site.log_prob for name, site in self.q.items() if name not in self.labels]
        return total(site.log_prob for site in self.p.values()) - total(log_q)

    @property
    def summed_log_w(self) -> Tensor:
        """`log_w` with missing labels summed out, broadcasts to (K, B): exact whatever the rule, so p(x) = E[exp]."""
        return self.log_w.logsumexp(0) if self.labels else self.log_w

    def log_model(self, leave_out: str = "") -> Tensor:
        """log p of every site of the model but one, missing labels summed out, broadcasts to (K, B), nats."""
        log_p = total(site.log_prob for name, site in self.p.items() if name != leave_out)
        return log_p.logsumexp(0) if self.labels else log_p


def total(terms: Iterable[Tensor]) -> Tensor:
    """Sum of tensors that broadcast; there is always at least one site."""
    return functools.reduce(torch.add, terms)


def one_hot(y: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Indicator (..., classes) of y (...), all zero where y is -1; unlike `F.one_hot` it can be recorded."""
    return (y[..., None] == torch.arange(classes, device=y.device)).to(dtype)


def observed(p_x: Any, mask: Tensor) -> Any:
    """The distribution of the entries that exist; of the others it says nothing.

    Entries that are independent given z are masked. Where they are not (the event is the whole datum), the
    distribution's own `marginal(mask)` leaves the others out.
    """
    return p_x.marginal(mask) if p_x.event_dim else p_x.mask(mask)


def sites(trace: Any) -> dict[str, Site]:
    """The random variables of a trace, by name."""
    trace.compute_log_prob()
    return {
        name: Site(node["fn"], node["value"], node["unscaled_log_prob"])
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and name not in ("data", "particles")
    }


def label_weights(log_w: Tensor, d: Densities, rule: Literal["sum", "guide"]) -> Tensor:
    """Weight of each cell of missing labels, broadcasts to (C, K, B): w_c / sum w_c (`sum`) or q(y_c | x) (`guide`)."""
    if rule == "sum":
        return log_w.softmax(0)
    return total(d.q[name].log_prob for name in d.labels).exp()


def without_labels(log_w: Tensor, d: Densities, batch: Batch, rule: Literal["sum", "guide"]) -> Tensor:
    """Take the missing labels out: (C, K, B) -> (K, B), before any objective, which so knows nothing of labels.

        sum:    log sum_c w_c                             exact
        guide:  sum_c pi_c (log w_c - log pi_c)           pi = q(y | x), one-hot where the label is known

    Known labels are already in `d`: the model gives contradicting cells no probability, and so does q(y | x).

    References:
        Semi-supervised Learning with Deep Generative Models (Kingma, Rezende, Mohamed & Welling, 2014).
    """
    if not d.labels:
        return log_w
    if rule == "sum":
        return log_w.logsumexp(0)
    log_pi = total(d.q[name].log_prob for name in d.labels)
    return (log_pi.exp() * (log_w - log_pi)).sum(0)
