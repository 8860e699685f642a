"""Regularisers of the aggregate posterior q(z) = (1/N) sum_n q(z | x_n): total correlation, and MMD.

They depend on the batch as a whole, so that -loss bounds nothing; the ELBO stands in the terms. They are about
the top layer, z_L. Where labels can be missing a class is drawn for each datum from its posterior weights, and
no gradient goes through that draw.
"""

import math
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pyro_vae.objectives.spec import Objective, Terms
from pyro_vae.objectives.terms import factorised, split, terms
from pyro_vae.sites import Batch, Densities, label_weights
from pyro_vae.specs import DeclarationError
from pyro_vae.vae import VAE, densities
from pyro_vae.variant import Variant


class Draws(NamedTuple):
    """One draw of z_L for each datum."""

    site: str
    """Name of z_L."""
    z: Tensor
    """(B, D)."""
    pi: Tensor | None
    """Weights of the classes (C, 1, B), where labels can be missing."""
    drawn: Tensor | None
    """Indicator of the drawn class, like pi."""


def top_draws(vae: VAE, d: Densities) -> Draws:
    """One draw of z_L for each datum, from the densities with one particle."""
    site = list(vae.variant.layers)[-1]
    if not d.labels:
        return Draws(site, d.q[site].value[0], None, None)
    pi = label_weights(d.log_w, d, vae.variant.rule).detach()
    below = pi.cumsum(0) <= torch.rand_like(pi[:1]) * pi.sum(0, keepdim=True)
    cell = below.sum(0, keepdim=True).clamp(max=len(pi) - 1)
    drawn = (torch.arange(len(pi), device=pi.device)[:, None, None] == cell).to(pi.dtype)
    return Draws(site, of_class(d.q[site].value, drawn, event=1), pi, drawn)


def of_class(value: Tensor, drawn: Tensor | None, event: int = 0) -> Tensor:
    """What belongs to the drawn class: (C, 1, B, *event), (1, B, *event) or (B, *event) -> (B, *event)."""
    if drawn is not None and value.dim() - event == 3:
        value = (drawn[(...,) + (None,) * event] * value).sum(0)
    return value[0] if value.dim() - event == 2 else value


class BetaTC(Objective):
    """-loss = E_q[log p(x | z)] - alpha I(x; z) - beta TC(z) - gamma sum_d KL(q(z_d) || p(z_d)).

    TC(z) = KL(q(z) || prod_d q(z_d)); at the draw of datum i, log q(z) = log sum_j u_ij q(z | x_j) over the batch.
    `stratified`: u_ii = 1/N, the others (1 - 1/N)/(B - 1) each, which is unbiased for q(z), and q(z) itself at B = N.
    `weighted`: u_ij = 1/(N B), with which TC is (D - 1) log N too high at B = N, a constant.

    References:
        Isolating Sources of Disentanglement in Variational Autoencoders (Chen et al., 2018).
    """

    kind: Literal["beta_tc"] = "beta_tc"
    bound: ClassVar[bool] = False
    alpha: float = Field(1.0, ge=0)
    """Weight of the mutual information between the datum's number and z."""
    beta: float = Field(6.0, ge=0)
    """Weight of the total correlation."""
    gamma: float = Field(1.0, ge=0)
    """Weight of the KL of each dimension's aggregate."""
    estimator: Literal["stratified", "weighted"] = "stratified"
    """How the batch stands for the training data; Chen et al. call them MSS and MWS."""

    def build(self, vae: VAE, num_data: int | None = None) -> "BetaTCLoss":
        """Build the loss."""
        return BetaTCLoss(vae, self, num_data)

    def misfits(self, variant: Variant) -> list[str]:
        """Guides without a density for each dimension."""
        if variant.guide.density and variant.guide.factorized:
            return []
        return ["objective.kind=beta_tc: " + _FACTORS]


_FACTORS = (
    "needs q(z | x) with a density of its own for each dimension; take guide diagonal_normal, or the objective "
    "factor or mmd."
)


class BetaTCLoss(nn.Module):
    """-ELBO + (alpha - 1) I + (beta - 1) TC + (gamma - 1) sum_d KL_d, which is the same: all four make the ELBO."""

    def __init__(self, vae: VAE, spec: BetaTC, num_data: int | None) -> None:
        super().__init__()
        self.vae, self.spec, self.num_data = vae, spec, num_data

    def forward(self, batch: Batch, weights: dict[str, Tensor]) -> tuple[Tensor, Terms]:
        """Loss (nats per datum) and terms."""
        vae, spec = self.vae, self.spec
        d = densities(vae, batch)
        t = terms(*split(vae, d, closed_form=True), d, batch, vae.variant.rule)
        draws = top_draws(vae, d)
        by_dim, joint = given_each(d, draws)
        log_u = log_shares(batch.size, self.num_data or batch.size, spec.estimator, joint)
        log_q_z = (joint + log_u).logsumexp(1)
        log_q_dims = (by_dim + log_u[..., None]).logsumexp(1).sum(-1)
        log_p = of_class(d.p[draws.site].log_prob, draws.drawn)
        information = joint.diagonal() - log_q_z
        correlation = log_q_z - log_q_dims
        extra = (spec.alpha - 1) * information + (spec.beta - 1) * correlation
        return (extra + (spec.gamma - 1) * (log_q_dims - log_p) - t.elbo).mean(), t


def given_each(d: Densities, draws: Draws) -> tuple[Tensor, Tensor]:
    """Score the draw z_i of each datum under the posterior of each datum: its dimensions (B, B, D) and all (B, B).

    Missing labels are averaged out: q(z | x_j) = sum_c pi_jc q(z | x_j, y_c).

    Raises:
        DeclarationError: the guide has no density for each dimension.
    """
    q: Any = d.q[draws.site].fn
    if not factorised(q):
        raise DeclarationError(["objective.kind=beta_tc: " + _FACTORS])
    each = q.base_dist.log_prob(draws.z.reshape(len(draws.z), *[1] * len(q.batch_shape), -1))  # (B, [C], 1, B, D)
    joint = each.sum(-1)
    if draws.pi is not None:
        log_pi = draws.pi.log()
        each = (log_pi[..., None] + each).logsumexp(1) if len(q.batch_shape) == 3 else each
        joint = (log_pi + joint).logsumexp(1) if len(q.batch_shape) == 3 else joint
    return each.squeeze(1), joint.squeeze(1)


def log_shares(B: int, N: int, estimator: Literal["stratified", "weighted"], like: Tensor) -> Tensor:
    """Log shares (B, B) of each posterior j of the batch in the aggregate that is seen from the draw of i."""
    if estimator == "weighted":
        return torch.full_like(like, -math.log(N * B))
    others = math.log((1 - 1 / N) / (B - 1)) if min(N, B) > 1 else 0.0
    itself = torch.eye(B, dtype=torch.bool, device=like.device)
    return torch.where(itself, torch.full_like(like, -math.log(N)), torch.full_like(like, others))


class MMD(Objective):
    """-loss = E_q[log p(x | z)] - (1 - alpha) KL(q(z | x) || p(z)) - (alpha + lambda - 1) MMD^2(q(z), p(z)).

    MMD^2 = E k(z, z') + E k(u, u') - 2 E k(z, u), z, z' ~ q(z), u, u' ~ p(z), estimated without bias from the batch and
    as many draws of the prior; k = exp(-r^2 / c) (`rbf`) or c / (c + r^2) (`imq`), c = 2 D bandwidth^2.

    References:
        InfoVAE: Balancing Learning and Inference in Variational Autoencoders (Zhao, Song & Ermon, 2019).
        Wasserstein Auto-Encoders (Tolstikhin et al., 2018), for the kernel `imq`.
    """

    kind: Literal["mmd"] = "mmd"
    bound: ClassVar[bool] = False
    alpha: float = Field(0.0, le=1)
    """Weight of the mutual information that the KL would take away."""
    strength: float = Field(1000.0, ge=0)
    """The lambda of the equation."""
    kernel: Literal["rbf", "imq"] = "rbf"
    """k."""
    bandwidth: float = Field(1.0, gt=0)
    """Scale of the kernel, in standard deviations of N(0, I)."""

    @model_validator(mode="after")
    def _distance_is_lowered(self) -> "MMD":
        if self.alpha + self.strength < 1:
            raise ValueError(
                f"strength={self.strength:g}: with alpha={self.alpha:g} the discrepancy would be raised; give at least "
                f"{1 - self.alpha:g}"
            )
        return self

    def build(self, vae: VAE, num_data: int | None = None) -> "MMDLoss":
        """Build the loss."""
        return MMDLoss(vae, self)


class MMDLoss(nn.Module):
    """-E_q log p(x | z) + (1 - alpha) KL + (alpha + lambda - 1) MMD^2."""

    def __init__(self, vae: VAE, spec: MMD) -> None:
        super().__init__()
        self.vae, self.spec = vae, spec

    def forward(self, batch: Batch, weights: dict[str, Tensor]) -> tuple[Tensor, Terms]:
        """Loss (nats per datum) and terms."""
        vae, spec = self.vae, self.spec
        d = densities(vae, batch)
        t = terms(*split(vae, d, closed_form=True), d, batch, vae.variant.rule)
        draws = top_draws(vae, d)
        p: Any = d.p[draws.site].fn
        u = of_class(p.rsample() if p.has_rsample else p.sample(), draws.drawn, event=1)
        distance = mmd(draws.z, u, spec.kernel, spec.bandwidth)
        return ((1 - spec.alpha) * t.kl - t.reconstruction).mean() + (spec.alpha + spec.strength - 1) * distance, t


def mmd(z: Tensor, u: Tensor, kernel: Literal["rbf", "imq"], bandwidth: float) -> Tensor:
    """The unbiased estimate of MMD^2 from draws (B, D) of two distributions; it can be negative."""
    B, D = z.shape
    c = 2 * D * bandwidth**2

    def k(a: Tensor, b: Tensor) -> Tensor:
        r2 = (a[:, None] - b).square().sum(-1)
        return (-r2 / c).exp() if kernel == "rbf" else c / (c + r2)

    pairs = max(B * (B - 1), 1)
    within = (k(z, z).sum() + k(u, u).sum() - 2 * B) / pairs  # k(a, a) = 1
    return within - 2 * k(z, u).mean()
