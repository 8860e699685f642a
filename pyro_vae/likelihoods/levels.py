"""Likelihoods of integer levels k = 0, ..., levels - 1, which the data hold as x = k / (levels - 1)."""

import math
from typing import Annotated, Any, ClassVar, Literal

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.likelihoods.spec import Decoded, Likelihood, Support
from pyro_vae.networks import Network, Shape
from pyro_vae.specs import Count

type Levels = Annotated[int, Field(ge=2, le=65536)]

SHARPEST = 0.1
"""Smallest scale of a logistic, in levels: all its mass is then on one or two of them."""


class DiscretizedLogistic(Likelihood):
    """Integer levels as the bins of a mixture of logistics, x = k / (levels - 1).

        P(x | z) = sum_j pi_j [sigmoid((x + h - mu_j) / s_j) - sigmoid((x - h - mu_j) / s_j)]

    with h = 1 / (2 (levels - 1)), half a level; the lowest bin reaches down to -infinity, the highest up to
    infinity, so that the probabilities add up to 1. pi, mu and s are decoded for each entry,
    s = softplus(rho) + 0.1 / (levels - 1). Entries are independent given z, the channels of a pixel too.

    References:
        PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other Modifications
        (Salimans, Karpathy, Chen & Kingma, 2017).
    """

    kind: Literal["discretized_logistic"] = "discretized_logistic"
    components: Count = 5
    """Number of logistics."""
    levels: Levels = 256
    """Number of levels of the data: 256 for 8-bit images."""

    supports: ClassVar[tuple[Support, ...]] = ("levels",)
    discrete: ClassVar[bool] = True

    def accepts(self, support: Support) -> str | None:
        """Undequantised levels only."""
        return _refused(self.supports, support)

    def build(self, network: Network, latent_dim: int, shape: Shape) -> "DiscretizedLogisticLikelihood":
        """Build the mixture whose weights, means and scales are decoded."""
        decoded = Decoded(network, latent_dim, shape, 3 * self.components)
        return DiscretizedLogisticLikelihood(decoded, self.components, self.levels)


def _refused(supports: tuple[Support, ...], support: Support) -> str | None:
    if support in supports:
        return None
    found = {"binary": "binary", "unit": "any number in [0, 1]", "real": "real-valued", "counts": "counts"}
    use = {
        "binary": "use 'bernoulli'",
        "unit": "use 'continuous_bernoulli', or leave out data.dequantize where these are pixels",
        "counts": "use 'poisson' or 'negative_binomial'",
    }.get(support, "use 'normal'")
    return f"gives probabilities of integer levels, and these are {found.get(support, support)}: {use}."


class DiscretizedLogisticLikelihood(nn.Module):
    """Mixture with pi = softmax(r_1..r_K), mu = r_K+1..r_2K, s from the last K."""

    def __init__(self, decoded: Decoded, components: int, levels: int) -> None:
        super().__init__()
        self.decoded, self.components, self.levels = decoded, components, levels
        self.sharpest = SHARPEST / (levels - 1)

    def forward(self, z: Tensor, y: Tensor | None, given: Tensor | None) -> dist.Distribution:
        """p(x | z, y, given)."""
        logits, loc, rho = self.decoded.stacked(z, y, given).chunk(3, -1)
        return LogisticBins(logits, loc, F.softplus(rho) + self.sharpest, self.levels)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Spread the logistics over the data x (N, *event): about their mean, as wide as they vary."""
        mean, sd = x.mean(0), x.std(0, correction=0).clamp_min(0.5 / (self.levels - 1))
        share = (torch.arange(self.components, device=x.device, dtype=x.dtype) + 0.5) / self.components
        # Variance of the whole: that of the means, and that of one logistic, (pi s)^2 / 3.
        means = torch.special.ndtri(share)
        width = (1 - means.square().mean()).clamp_min(0.05).sqrt() * math.sqrt(3) / math.pi
        rho = torch.expm1(width * sd).log()
        self.decoded.start_at(
            *(torch.zeros_like(mean) for _ in share), *(mean + sd * m for m in means), *(rho for _ in share)
        )


class _LevelsSupport(constraints.Constraint):
    """Values k * spacing, k = 0, ..., levels - 1."""

    is_discrete, event_dim = True, 0

    def __init__(self, levels: int, spacing: float) -> None:
        self.levels, self.spacing = levels, spacing
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """True where the value is one of the levels."""
        k = value / self.spacing
        return ((k - k.round()).abs() < 1e-2) & (k > -0.5) & (k < self.levels - 0.5)


class LogisticBins(dist.TorchDistribution):
    """A mixture of logistics in bins about the levels x = k / (levels - 1).

    log_prob is never a difference of nearly equal numbers: with a < b the ends of a bin,

        sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, levels: int) -> None:
        """Keep the parameters.

        Args:
            logits: of the weights (..., K).
            loc: means (..., K), in units of x.
            scale: scales (..., K), in units of x.
            levels: number of levels.
        """
        self.logits, self.loc, self.scale = torch.broadcast_tensors(logits, loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape[:-1], validate_args=None)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The levels."""
        return _LevelsSupport(self.levels, 1 / (self.levels - 1))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LogisticBins":
        """The same with larger batch dimensions."""
        shape = (*batch_shape, self.loc.shape[-1])
        logits, loc, scale = (t.expand(shape) for t in (self.logits, self.loc, self.scale))
        return LogisticBins(logits, loc, scale, self.levels)

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x), nats."""
        if self._validate_args:
            self._validate_sample(value)
        x, half = value[..., None], 0.5 / (self.levels - 1)
        below = F.logsigmoid((x + half - self.loc) / self.scale)
        above = F.logsigmoid(-(x - half - self.loc) / self.scale)
        between = below + above + (-torch.expm1(-2 * half / self.scale)).log()
        log_p = torch.where(x < half, below, torch.where(x > 1 - half, above, between))
        return (self.logits.log_softmax(-1) + log_p).logsumexp(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of the levels: of a logistic, rounded."""
        shape = self._extended_shape(sample_shape)
        logits, loc, scale = (t.expand(*shape, t.shape[-1]) for t in (self.logits, self.loc, self.scale))
        gumbel = -torch.empty_like(logits).exponential_().log()
        which = (logits + gumbel).argmax(-1, keepdim=True)
        u = torch.rand(shape, dtype=loc.dtype, device=loc.device)
        x = loc.gather(-1, which)[..., 0] + scale.gather(-1, which)[..., 0] * (u.log() - (-u).log1p())
        return (x * (self.levels - 1)).round().clamp(0, self.levels - 1) / (self.levels - 1)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """E[k] = sum_k P(K > k) and E[k^2] = sum_k (2 k + 1) P(K > k); a loop, as all levels at once are many."""
        weights = self.logits.softmax(-1)
        first, second = torch.zeros_like(self.loc[..., 0]), torch.zeros_like(self.loc[..., 0])
        for k in range(self.levels - 1):
            beyond = (weights * torch.sigmoid((self.loc - (k + 0.5) / (self.levels - 1)) / self.scale)).sum(-1)
            first, second = first + beyond, second + (2 * k + 1) * beyond
        return first, second

    @property
    def mean(self) -> Tensor:
        """E[x], exact."""
        return self._moments()[0] / (self.levels - 1)

    @property
    def variance(self) -> Tensor:
        """Var[x], exact."""
        first, second = self._moments()
        return (second - first.square()) / (self.levels - 1) ** 2


class Categorical(Likelihood):
    """One probability per level, x = k / (levels - 1): P(x | z) = softmax(D(z))_k.

    It knows no order of the levels, and its decoder has `levels` outputs per entry: for few levels, or for codes.
    It starts at the shares of the levels in the training data, one datum more of each.

    References:
        Pixel Recurrent Neural Networks (van den Oord, Kalchbrenner & Kavukcuoglu, 2016).
    """

    kind: Literal["categorical"] = "categorical"
    levels: Levels = 256
    """Number of levels, or of codes."""
    codes: bool = False
    """x holds the codes 0, ..., levels - 1 as they are; a column of 'mixed' always does."""

    supports: ClassVar[tuple[Support, ...]] = ("levels", "binary", "counts")
    discrete: ClassVar[bool] = True

    def accepts(self, support: Support) -> str | None:
        """Levels; codes where they are declared, which 0 and 1 are too."""
        if support == "binary" and (self.codes or self.levels == 2):
            return None
        if support == "counts" and not self.codes:
            return "needs levels k / (levels - 1), and these are counts: set codes=true if they are codes 0, 1, ..."
        if support == "levels" and self.codes:
            return "needs codes 0, 1, ..., and these are levels k / (levels - 1): leave out codes."
        return _refused(("counts",) if self.codes else ("levels",), support)

    def build(self, network: Network, latent_dim: int, shape: Shape) -> "CategoricalLikelihood":
        """Build Categorical(softmax(D(z)))."""
        spacing = 1.0 if self.codes else 1 / (self.levels - 1)
        return CategoricalLikelihood(Decoded(network, latent_dim, shape, self.levels), spacing)


class CategoricalLikelihood(nn.Module):
    """Categorical(softmax(r)) of the levels k * spacing."""

    def __init__(self, decoded: Decoded, spacing: float) -> None:
        super().__init__()
        self.decoded, self.spacing = decoded, spacing

    def forward(self, z: Tensor, y: Tensor | None, given: Tensor | None) -> dist.Distribution:
        """p(x | z, y, given)."""
        return CategoricalLevels(self.decoded.stacked(z, y, given), self.spacing)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Start at the shares of the levels in the data x (N, *event), one datum more of each."""
        levels = self.decoded.outputs
        k = (x / self.spacing).round().long().clamp(0, levels - 1)
        counts = x.new_ones(levels, *x.shape[1:]).scatter_add_(0, k, torch.ones_like(x))
        self.decoded.start_at(*(counts / (len(x) + levels)).log())


class CategoricalLevels(dist.TorchDistribution):
    """A categorical distribution of the levels k * spacing."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, logits: Tensor, spacing: float) -> None:
        """Keep the logits (..., levels) and the distance of two levels."""
        self.base, self.spacing = dist.Categorical(logits=logits), spacing
        super().__init__(logits.shape[:-1], validate_args=None)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The levels."""
        return _LevelsSupport(self.base.logits.shape[-1], self.spacing)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "CategoricalLevels":
        """The same with larger batch dimensions."""
        logits = self.base.logits
        return CategoricalLevels(logits.expand(*batch_shape, logits.shape[-1]), self.spacing)

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x), nats."""
        if self._validate_args:
            self._validate_sample(value)
        return self.base.log_prob((value / self.spacing).round())

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of the levels."""
        k = self.base.sample(sample_shape).to(self.base.logits.dtype)
        # Divided like the data, so that a drawn level equals theirs bit by bit.
        return k if self.spacing == 1.0 else k / (self.base.logits.shape[-1] - 1)

    @property
    def mean(self) -> Tensor:
        """E[x]; of codes a number without much meaning."""
        return (self.base.probs * self._values()).sum(-1)

    @property
    def variance(self) -> Tensor:
        """Var[x]."""
        return (self.base.probs * (self._values() - self.mean[..., None]).square()).sum(-1)

    def _values(self) -> Tensor:
        logits = self.base.logits
        return self.spacing * torch.arange(logits.shape[-1], device=logits.device, dtype=logits.dtype)
