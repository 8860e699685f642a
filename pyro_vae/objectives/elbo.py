"""The ELBO."""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pyro_vae.objectives.spec import Objective, Terms, scored_twice
from pyro_vae.objectives.terms import held, split, terms
from pyro_vae.sites import Batch
from pyro_vae.specs import Count, Spec
from pyro_vae.vae import VAE, densities
from pyro_vae.variant import Variant


class Capacity(Spec):
    """A KL that is held at a number of nats, C, which rises linearly from 0."""

    nats: float = Field(25.0, ge=0)
    """C at the end, nats."""
    epochs: float = Field(10.0, ge=0)
    """Epochs over which C rises."""
    gamma: float = Field(100.0, ge=0)
    """Weight of the KL's distance from C."""


class ELBO(Objective):
    """-loss = E_q[log p(x | z)] - beta KL(q(z | x) || p(z)), beta rising linearly over the warm-up.

    With missing labels the KL is that of (y, z) jointly. With `capacity` the loss is
    -E_q[log p(x | z)] + gamma |KL - C|, the KL being the mean of the batch.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014).
        Semi-supervised Learning with Deep Generative Models (Kingma et al., 2014), for `classification`.
        beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework (Higgins et al., 2017).
        Ladder Variational Autoencoders (Soenderby et al., 2016), for the warm-up.
        Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016), for `free_bits`.
        Sticking the Landing (Roeder, Wu & Duvenaud, 2017), for `gradient`.
        Understanding Disentangling in beta-VAE (Burgess et al., 2018), for `capacity`.
        Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing (Fu et al., 2019), for `cycles`.
    """

    kind: Literal["elbo"] = "elbo"
    beta: float = Field(1.0, ge=0)
    """Weight of the KL; the ELBO at beta = 1 is logged beside the loss whatever it is."""
    warmup_epochs: float = Field(0.0, ge=0)
    """Epochs over which beta rises linearly from 0."""
    cycles: Count = 1
    """Warm-ups: before each but the first, beta stays at its height for as many epochs as it rose, then falls to 0."""
    num_particles: Count = 1
    """Draws of z per datum and step, K."""
    kl: Literal["closed_form", "sampled"] = "closed_form"
    """`closed_form` where the pair of q and p has one and labels are not summed out, or always `sampled`."""
    gradient: Literal["plain", "stl"] = "plain"
    """`stl` (sticking the landing) leaves out the part of the gradient whose mean is 0; needs `kl: sampled`."""
    free_bits: float = Field(0.0, ge=0)
    """Nats of the batch's mean KL that each latent dimension has free: sum_d max(free_bits, KL_d).

    A layer whose KL has no parts by dimension has `free_bits` times its dimensions free as a whole.
    """
    capacity: Capacity | None = None
    """Hold the KL at a number of nats instead of weighing it."""
    classification: float = Field(0.0, ge=0)
    """Weight of the mean of -log q(y | x) over the labelled data of a batch; 0.1 in the paper. Needs rule `guide`."""

    @model_validator(mode="after")
    def _fields_fit(self) -> "ELBO":
        found = []
        if self.gradient == "stl" and self.kl != "sampled":
            found.append("gradient='stl': is about a sampled KL; add kl: sampled")
        if self.cycles > 1 and not self.warmup_epochs:
            found.append(f"cycles={self.cycles}: repeats the warm-up; give warmup_epochs too")
        if self.capacity is not None:
            for name, neutral in (("beta", 1.0), ("warmup_epochs", 0.0), ("free_bits", 0.0)):
                if getattr(self, name) != neutral:
                    found.append(f"{name}={getattr(self, name):g}: has no place beside capacity, which replaces beta")
        if found:
            raise ValueError("\n".join(found))
        return self

    def build(self, vae: VAE, num_data: int | None = None) -> "ELBOLoss":
        """Build the loss."""
        return ELBOLoss(vae, self)

    def weights(self, epoch: float) -> dict[str, float]:
        """{"beta": beta at this point}, or {"capacity": C at this point}."""
        if self.capacity is not None:
            return {"capacity": self.capacity.nats * _risen(epoch, self.capacity.epochs)}
        if epoch < self.longest():
            epoch %= 2 * self.warmup_epochs
        return {"beta": self.beta * _risen(epoch, self.warmup_epochs)}

    def longest(self) -> float:
        """Epochs of warm-up, from the start of the first to the end of the last."""
        return self.capacity.epochs if self.capacity else (2 * self.cycles - 1) * self.warmup_epochs

    def misfits(self, variant: Variant) -> list[str]:
        """Labels and dropout that `gradient` and `classification` cannot serve."""
        found = scored_twice(variant, "gradient=stl") if self.gradient == "stl" else []
        if self.gradient == "stl" and variant.missing and variant.rule == "sum":
            found.append(
                "objective.gradient=stl: is biased where labels are summed out (rule: sum); objective "
                "{kind: dreg, num_particles: 1} is the same idea and right there."
            )
        if self.classification and not _classified(variant):
            found.append(
                f"objective.classification={self.classification:g}: needs a label with observed: partly and "
                "rule: guide in variant.labels, which has a q(y | x)."
            )
        return found


def _risen(epoch: float, epochs: float) -> float:
    """Share of a linear rise over `epochs`."""
    return min(epoch / epochs, 1.0) if epochs else 1.0


def _classified(variant: Variant) -> list[str]:
    """The label sites with a classifier and some known labels."""
    return [name for name, site in variant.labels.items() if site.observed == "partly" and site.rule == "guide"]


class ELBOLoss(nn.Module):
    """-(1/B) sum_b [E_q log p(x | z) - beta KL] and what is added to it, with the ELBO at beta = 1 in the terms."""

    def __init__(self, vae: VAE, spec: ELBO) -> None:
        super().__init__()
        self.vae, self.spec = vae, spec

    def forward(self, batch: Batch, weights: dict[str, Tensor]) -> tuple[Tensor, Terms]:
        """Loss (nats per datum) and terms."""
        vae, spec = self.vae, self.spec
        d = densities(vae, batch, spec.num_particles)
        if spec.gradient == "stl":
            d = held(vae, batch, d, {name: d.q[name].value for name in vae.variant.layers}, spec.num_particles)
        t = terms(*split(vae, d, spec.kl == "closed_form"), d, batch, vae.variant.rule)
        if spec.capacity is not None:
            loss = spec.capacity.gamma * (t.kl.mean() - weights["capacity"]).abs() - t.reconstruction.mean()
        else:
            beta = weights["beta"]
            loss = -((1 - beta) * t.reconstruction + beta * t.elbo).mean()  # reconstruction - beta kl
            if spec.free_bits:
                loss = loss + beta * shortfall(t, vae.variant.layers, spec.free_bits)
        if spec.classification:
            loss = loss + spec.classification * surprise(vae, batch)
        return loss, t


def shortfall(t: Terms, layers: dict[str, int], free_bits: float) -> Tensor:
    """What is added to the KL to make it sum_d max(free_bits, KL_d), KL_d the mean of the batch."""
    missing = []
    for name, dim in layers.items():
        if name in t.kl_per_dim:
            missing.append((free_bits - t.kl_per_dim[name].mean(0)).clamp(min=0).sum())
        else:
            missing.append((free_bits * dim - t.kl_per_layer[name].mean()).clamp(min=0))
    return torch.stack(missing).sum()


def surprise(vae: VAE, batch: Batch) -> Tensor:
    """Mean of -log q(y | x) over the labelled data, summed over the label sites; 0 without any."""
    h = vae.features(batch)
    found = h.new_zeros(())
    if batch.y is None:
        return found
    sites = list(vae.variant.labels)
    for name in _classified(vae.variant):
        y = batch.y.reshape(batch.size, -1)[:, sites.index(name)]
        known = y >= 0
        log_q = vae.classifiers[name](h).log_prob(y.clamp(min=0))
        found = found - torch.where(known, log_q, torch.zeros_like(log_q)).sum() / known.sum().clamp(min=1)
    return found
