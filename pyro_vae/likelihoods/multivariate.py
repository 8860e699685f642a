"""A normal likelihood whose noise is correlated across the entries of a datum."""

import contextlib
import math
from typing import Any, ClassVar, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.likelihoods.location_scale import MinScale
from pyro_vae.likelihoods.spec import Decoded, Likelihood
from pyro_vae.networks import Network, Shape
from pyro_vae.specs import Count, DeclarationError

LARGEST = 4096
"""Most entries of a datum with a full covariance, whose factor has that many squared parameters."""


class MultivariateNormal(Likelihood):
    """One noise covariance for the whole datum: p(x | z) = N(x; D(z), Sigma).

        full:      Sigma = L L',                   L lower triangular, L_ii = min_scale + exp(rho_i)
        low_rank:  Sigma = W W' + diag(sigma^2),   W with `rank` columns, sigma_i^2 = min_scale^2 + exp(rho_i)

    Sigma is learned, the same for every z. It starts at the variances of the training data, D at their mean.
    Of a datum with missing entries the density is the exact marginal of those that exist.

    References:
        Pattern Recognition and Machine Learning, section 2.3 and 12.2 (Bishop, 2006).
    """

    kind: Literal["multivariate_normal"] = "multivariate_normal"
    covariance: Literal["full", "low_rank"] = "full"
    """`full`, or `low_rank`: a few directions and a diagonal."""
    rank: Count = 5
    """Number of directions of `low_rank`."""
    min_scale: MinScale = 1e-3
    """Lower bound of each L_ii or sigma_i: without one, a perfect reconstruction has an unbounded density."""

    def build(self, network: Network, latent_dim: int, shape: Shape) -> "MultivariateNormalLikelihood":
        """Build N(D(z), Sigma).

        Raises:
            DeclarationError: a full covariance of too many entries.
        """
        numel = math.prod(shape.x)
        if self.covariance == "full" and numel > LARGEST:
            raise DeclarationError(
                [f"covariance='full': a datum has {numel} entries, at most {LARGEST} are possible; use 'low_rank'."]
            )
        return MultivariateNormalLikelihood(Decoded(network, latent_dim, shape), self, shape)


class MultivariateNormalLikelihood(nn.Module):
    """N(r_1, Sigma)."""

    def __init__(self, decoded: Decoded, spec: MultivariateNormal, shape: Shape) -> None:
        super().__init__()
        self.decoded, self.min_scale, self.event = decoded, spec.min_scale, shape.x
        self.full = spec.covariance == "full"
        numel = math.prod(shape.x)
        self.rho = nn.Parameter(torch.zeros(numel))
        # W = 0 would stay there: the gradient of W W' vanishes. L = diag does not.
        start = torch.zeros(numel, numel) if self.full else 0.1 * torch.randn(numel, spec.rank) / spec.rank**0.5
        self.factor = nn.Parameter(start)

    def forward(self, z: Tensor, y: Tensor | None, given: Tensor | None) -> dist.Distribution:
        """p(x | z, y, given)."""
        (r,) = self.decoded(z, y, given)
        loc = r.flatten(-len(self.event))
        with full_precision(loc):
            if self.full:
                scale = self.factor.tril(-1) + (self.min_scale + self.rho.exp()).diag_embed()
                return WholeNormal(dist.MultivariateNormal(loc, scale_tril=scale), self.event)
            variance = self.min_scale**2 + self.rho.exp()
            return WholeNormal(dist.LowRankMultivariateNormal(loc, self.factor, variance), self.event)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Start D at the mean of the data x (N, *event), Sigma at their variances about it, uncorrelated."""
        variance = x.var(0, correction=0).flatten()
        least = 0.01 * variance.mean() + self.min_scale**2 + 1e-8
        if self.full:
            self.rho.copy_((variance.clamp_min(least).sqrt() - self.min_scale).clamp_min(1e-4 * least.sqrt()).log())
        else:
            self.rho.copy_((variance - self.min_scale**2).clamp_min(least).log())
            self.factor.normal_().mul_(0.1 * (variance.clamp_min(least) / self.factor.shape[-1]).sqrt()[:, None])
        self.decoded.start_at(x.mean(0))


def full_precision(tensor: Tensor) -> contextlib.AbstractContextManager:
    """No autocast: products of covariances lose their sense, and their Cholesky factors, in 8 bits."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else contextlib.nullcontext()


class WholeNormal(dist.TorchDistribution):
    """A multivariate normal of a whole datum, in the datum's own shape; or of those of its entries that exist.

    Where entries are missing, `base` holds a covariance in which they are independent of the others, with
    variance 1, and their residual is taken as 0: they add -log(2 pi) / 2 each, which is taken off again.
    """

    datum_at_once: ClassVar[bool] = True
    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(
        self,
        base: dist.MultivariateNormal | dist.LowRankMultivariateNormal,
        event: tuple[int, ...],
        seen: Tensor | None = None,
        whole: dist.MultivariateNormal | dist.LowRankMultivariateNormal | None = None,
    ) -> None:
        """Keep the parts.

        Args:
            base: the distribution of the flattened datum, event (D,).
            event: shape of the datum.
            seen: (..., D), True where the entry exists; None: all do.
            whole: the distribution of all entries, of which moments and draws are; `base` by default.
        """
        self.base, self.event, self.seen, self.whole = base, torch.Size(event), seen, whole or base
        super().__init__(base.batch_shape, self.event, validate_args=None)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        """Every real datum."""
        return constraints.independent(constraints.real, len(self.event))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "WholeNormal":
        """The same with larger batch dimensions."""
        shape = torch.Size(batch_shape)
        return WholeNormal(self.base.expand(shape), self.event, self.seen, self.whole.expand(shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """log p of the entries that exist, nats."""
        if self._validate_args:
            self._validate_sample(value)
        x = value.flatten(-len(self.event))
        with full_precision(x):
            if self.seen is None:
                return self.base.log_prob(x)
            log_p = self.base.log_prob(torch.where(self.seen, x, self.base.loc))
            return log_p + 0.5 * math.log(2 * math.pi) * (~self.seen).sum(-1)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of the whole datum, also where entries of x are missing."""
        return self.whole.rsample(sample_shape).unflatten(-1, self.event)

    @property
    def mean(self) -> Tensor:
        """E[x]."""
        return self.whole.mean.unflatten(-1, self.event)

    @property
    def variance(self) -> Tensor:
        """Var[x] of each entry."""
        return self.whole.variance.unflatten(-1, self.event)

    def marginal(self, mask: Tensor) -> "WholeNormal":
        """The distribution of the entries where the mask (..., *event) is True; of the others it says nothing."""
        seen = mask.flatten(-len(self.event))
        with full_precision(self.base.loc):
            return WholeNormal(_marginal(self.base, seen), self.event, seen, self.whole)


def _marginal(base: Any, seen: Tensor) -> Any:
    """The same normal, but entries that are not seen (..., D) are independent of the others, with variance 1."""
    if isinstance(base, dist.LowRankMultivariateNormal):
        factor, variance = base._unbroadcasted_cov_factor, base._unbroadcasted_cov_diag
        factor = torch.where(seen[..., None], factor, torch.zeros_like(factor))
        return dist.LowRankMultivariateNormal(base.loc, factor, torch.where(seen, variance, torch.ones_like(variance)))
    factor = base._unbroadcasted_scale_tril
    both = seen[..., :, None] & seen[..., None, :]
    one = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    covariance = torch.where(both, factor @ factor.mT, one)
    return dist.MultivariateNormal(base.loc, scale_tril=torch.linalg.cholesky_ex(covariance).L)
