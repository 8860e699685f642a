"""Normal guides with correlations between the dimensions."""

import math
from typing import Any, ClassVar, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.kl import register_kl

from pyro_vae.guides.spec import Guide, Raw
from pyro_vae.networks import Activation, Shape
from pyro_vae.specs import Count, Seq


class FullNormal(Guide):
    """q(z | x) = N(z; mu(x), L L'), L lower triangular with diagonal exp(s / 2).

    The raw output is (mu, s, entries of L below the diagonal, row by row); where the latter are 0 it is the
    diagonal normal. It has D (D + 3) / 2 numbers, and scoring z costs D^2 per draw.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014).
    """

    kind: Literal["full_normal"] = "full_normal"
    factorized: ClassVar[bool] = False
    widths: Seq[Count] = ()
    """Hidden layers between the encoder's features (with the label and the layer above) and the raw output."""
    activation: Activation = "relu"
    """Nonlinearity of those layers."""

    def head(
        self,
        features: int,
        neighbour_dim: int | None,
        dim: int,
        shape: Shape,
        layer: tuple[int, int] = (1, 1),
    ) -> "FullNormalHead":
        """Build N(mu, L L')."""
        outputs = 2 * dim + dim * (dim - 1) // 2
        return FullNormalHead(Raw(features, neighbour_dim, shape, self.widths, self.activation, outputs), dim)


class FullNormalHead(nn.Module):
    """N(mu, L L') with (mu, s, entries of L below its diagonal exp(s / 2)) = r."""

    def __init__(self, raw: Raw, dim: int) -> None:
        super().__init__()
        self.raw, self.dim = raw, dim

    def forward(
        self, h: Tensor, neighbour: Tensor | None, y: Tensor | None, p: dist.Distribution | None, offset: Tensor | None
    ) -> dist.Distribution:
        """q(z_l | ...)."""
        D, r = self.dim, self.raw(h, neighbour, y, offset)
        mu, s, below = r[..., :D], r[..., D : 2 * D], r[..., 2 * D :]
        column = torch.arange(D, device=r.device)
        row = column[:, None]
        place = torch.where(row > column, D + 1 + row * (row - 1) // 2 + column, torch.where(row == column, 1 + row, 0))
        numbers = torch.cat([torch.zeros_like(s[..., :1]), (0.5 * s).exp(), below], -1)
        return CorrelatedNormal(mu, scale_tril=numbers[..., place])


class CorrelatedNormal(dist.MultivariateNormal):
    """N(mu, L L'), with a KL to a diagonal normal."""


class LowRankNormal(Guide):
    """q(z | x) = N(z; mu(x), diag exp(s(x)) + W(x) W(x)'), W of D x `rank`.

    The raw output is (mu, s, W row by row); where W is 0 it is the diagonal normal.

    References:
        Gaussian Variational Approximation With a Factor Covariance Structure (Ong, Nott & Smith, 2018).
    """

    kind: Literal["low_rank_normal"] = "low_rank_normal"
    factorized: ClassVar[bool] = False
    rank: Count = 2
    """Number of columns of W."""
    widths: Seq[Count] = ()
    """Hidden layers between the encoder's features (with the label and the layer above) and the raw output."""
    activation: Activation = "relu"
    """Nonlinearity of those layers."""

    def head(
        self,
        features: int,
        neighbour_dim: int | None,
        dim: int,
        shape: Shape,
        layer: tuple[int, int] = (1, 1),
    ) -> "LowRankNormalHead":
        """Build N(mu, diag exp(s) + W W')."""
        outputs = dim * (2 + self.rank)
        return LowRankNormalHead(Raw(features, neighbour_dim, shape, self.widths, self.activation, outputs), dim)


class LowRankNormalHead(nn.Module):
    """N(mu, diag exp(s) + W W') with (mu, s, W) = r."""

    def __init__(self, raw: Raw, dim: int) -> None:
        super().__init__()
        self.raw, self.dim = raw, dim

    def forward(
        self, h: Tensor, neighbour: Tensor | None, y: Tensor | None, p: dist.Distribution | None, offset: Tensor | None
    ) -> dist.Distribution:
        """q(z_l | ...)."""
        D, r = self.dim, self.raw(h, neighbour, y, offset)
        W = r[..., 2 * D :].unflatten(-1, (D, -1))
        return FactorNormal(r[..., :D], (0.5 * r[..., D : 2 * D]).exp(), W)


class FactorNormal(dist.TorchDistribution):
    """N(loc, diag scale^2 + W W').

    With A = W / scale and C = I + A'A = Q Q', r = (z - loc) / scale:

        log det = 2 sum log scale + 2 sum log diag Q,    (z - loc)' Sigma^-1 (z - loc) = |r|^2 - |Q^-1 A'r|^2

    Torch's own multiplies matrices in the lower precision of autocast, where Cholesky does not exist.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, factor: Tensor) -> None:
        """Take loc (..., D), scale (..., D) and W (..., D, rank), of equal batch shapes."""
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)
        self.loc, self.scale, self.factor = loc, scale, factor
        self.over = factor / scale[..., None]  # A
        eye = torch.eye(factor.shape[-1], dtype=loc.dtype, device=loc.device)
        self.chol = torch.linalg.cholesky_ex(eye + (self.over[..., None] * self.over[..., None, :]).sum(-3))[0]

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FactorNormal":
        """The same over a larger batch."""
        batch = torch.Size(batch_shape)
        loc, scale = (tensor.expand(batch + self.event_shape) for tensor in (self.loc, self.scale))
        return FactorNormal(loc, scale, self.factor.expand(batch + self.factor.shape[-2:]))

    @property
    def mean(self) -> Tensor:
        """E[z]."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Var[z]."""
        return self.scale.square() + self.factor.square().sum(-1)

    def _half_log_det(self) -> Tensor:
        return self.scale.log().sum(-1) + self.chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def entropy(self) -> Tensor:
        """-E[log q], nats."""
        return self._half_log_det() + 0.5 * self.loc.shape[-1] * (1 + math.log(2 * math.pi))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - as in torch
        """Draw loc + scale eps + W eps'."""
        shape = torch.Size(sample_shape) + self.batch_shape
        common = torch.randn(*shape, 1, self.factor.shape[-1], dtype=self.loc.dtype, device=self.loc.device)
        own = torch.randn(*shape, *self.event_shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.scale * own + (self.factor * common).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(value)."""
        r = (value - self.loc) / self.scale
        explained = torch.linalg.solve_triangular(self.chol, (self.over * r[..., None]).sum(-2)[..., None], upper=False)
        distance = r.square().sum(-1) - explained.square().sum((-2, -1))
        return -0.5 * (distance + value.shape[-1] * math.log(2 * math.pi)) - self._half_log_det()


@register_kl(CorrelatedNormal, dist.Independent)
@register_kl(FactorNormal, dist.Independent)
def _kl_to_diagonal(q: Any, p: Any) -> Tensor:
    """KL(q || p) = -H(q) - log p(mean of q) + sum var(q) / (2 var(p)), for a diagonal normal p."""
    if not isinstance(p.base_dist, dist.Normal) or p.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    return -q.entropy() - p.log_prob(q.mean) + 0.5 * (q.variance / p.base_dist.variance).sum(-1)
