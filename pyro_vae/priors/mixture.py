"""Mixtures of normals, with components of their own or the guide's."""

from typing import Any, ClassVar, Literal

import pyro.distributions as dist
import torch
from pydantic import Field
from torch import Tensor, nn

from pyro_vae.networks import Shape, glorot, join
from pyro_vae.priors.spec import Prior
from pyro_vae.specs import Count


class Mixture(Prior):
    """p(z | y, given) = sum_k pi_k N(z; mu_k + A c, diag sigma_k^2), pi = softmax(a + B c), c = [y, given].

    Labels and covariates so move all components together, and say which of them are likely.

    References:
        Approximate Inference for Deep Latent Gaussian Mixtures (Nalisnick, Hertel & Smyth, 2016).
    """

    kind: Literal["mixture"] = "mixture"
    components: Count = 10
    """Number of components."""
    learned: bool = True
    """Whether mu_k and sigma_k are learned; else mu_k stay where they were drawn and sigma_k is 1, pi is learned."""
    spread: float = Field(1.0, gt=0)
    """Standard deviation of the draws of mu_k around 0, at the start or for good."""
    seed: int = Field(0, ge=0)
    """Of the draws of mu_k where they are not learned."""

    def build(self, dim: int, dim_above: int | None, shape: Shape) -> "MixturePrior":
        """Build the mixture."""
        return MixturePrior(self, dim, shape)


class MixturePrior(nn.Module):
    """sum_k pi_k N(mu_k + A c, diag sigma_k^2)."""

    loc: Tensor
    log_variance: Tensor

    def __init__(self, spec: Mixture, dim: int, shape: Shape) -> None:
        super().__init__()
        size, conditions = (spec.components, dim), shape.y + shape.given
        if spec.learned:
            self.loc = nn.Parameter(spec.spread * torch.randn(size))
            self.log_variance = nn.Parameter(torch.zeros(size))
        else:
            generator = torch.Generator().manual_seed(spec.seed)
            self.register_buffer("loc", spec.spread * torch.randn(size, generator=generator))
            self.register_buffer("log_variance", torch.zeros(size), persistent=False)
        self.logits = nn.Parameter(torch.zeros(spec.components))
        self.shift, self.weigh = (
            glorot(nn.Linear(conditions, outputs, bias=False)) if conditions else None
            for outputs in (dim, spec.components)
        )
        self.widest = spec.components * dim

    def forward(self, above: Tensor | None, y: Tensor | None, given: Tensor | None) -> dist.Distribution:
        """p(z | y, given)."""
        loc, logits = self.loc, self.logits
        if self.shift is not None and self.weigh is not None:
            c = join(y, given)
            loc = loc + self.shift(c).to(c.dtype)[..., None, :]
            logits = logits + self.weigh(c).to(c.dtype)
        return mixture(logits, dist.Normal(loc, (0.5 * self.log_variance).exp()).to_event(1))


class Vamp(Prior):
    """p(z | y) = (1/K) sum_k q(z | u_k, y): the guide's own distributions at K pseudo-inputs u_k, which are learned.

    The u_k are in the units that the encoder sees, free to leave the range of the data, and have no missing
    entries; y is that of the datum. With covariates each u_k has learned ones of its own, so that p(z | y) does
    not depend on those of the datum. Batch normalisation in the encoder would mix their statistics with the data's.

    References:
        VAE with a VampPrior (Tomczak & Welling, 2018).
    """

    kind: Literal["vamp"] = "vamp"
    components: Count = 500
    """Number of pseudo-inputs K."""
    start: Literal["data", "random"] = "data"
    """Where they start: at K data drawn from the training data, or at draws from N(mean, sd^2) of each entry."""

    of_guide: ClassVar[bool] = True

    def build(self, dim: int, dim_above: int | None, shape: Shape) -> "VampPrior":
        """Build the pseudo-inputs."""
        return VampPrior(self, dim, shape)


class VampPrior(nn.Module):
    """(1/K) sum_k head(body(u_k), y)."""

    logits: Tensor

    def __init__(self, spec: Vamp, dim: int, shape: Shape) -> None:
        super().__init__()
        self.start, K = spec.start, spec.components
        self.u = nn.Parameter(0.1 * torch.randn(K, *shape.x))  # until `initialise` knows the data
        self.given = nn.Parameter(torch.randn(K, shape.given)) if shape.given else None
        self.register_buffer("logits", torch.zeros(K), persistent=False)
        self.encoder: tuple[nn.Module, ...] = ()
        self.widest = K * dim

    def attach(self, body: nn.Module, head: nn.Module) -> None:
        """Take the guide's body and head; their parameters stay the guide's alone."""
        self.encoder = (body, head)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Start the pseudo-inputs at or around the data x (N, *event), as the encoder sees them; NaN is missing."""
        x = x.to(self.u)
        mean = x.nanmean(0)
        x = torch.where(x.isnan(), mean, x)
        sd, noise = x.std(0, correction=0), torch.randn_like(self.u)
        if self.start == "random":
            self.u.copy_(mean + sd * noise)
            return
        K, N = len(self.u), len(x)
        if K <= N:
            self.u.copy_(x[torch.randperm(N, device=x.device)[:K]])
        else:  # twins would stay twins without noise
            self.u.copy_(x[torch.arange(K, device=x.device) % N] + 0.1 * sd * noise)

    def forward(self, above: Tensor | None, y: Tensor | None, given: Tensor | None) -> dist.Distribution:
        """p(z | y); the components are the last batch dimension of the head's distribution."""
        body, head = self.encoder
        h = body(self.u, None, self.given)
        return mixture(self.logits, head(h, None, None if y is None else y[..., None, :], None, None))


def mixture(logits: Tensor, components: Any) -> dist.Distribution:
    """sum_k softmax(logits)_k components_k, over the last batch dimension of the components."""
    batch = torch.broadcast_shapes(logits.shape, components.batch_shape)
    return dist.MixtureSameFamily(dist.Categorical(logits=logits.expand(batch)), components.expand(batch))
