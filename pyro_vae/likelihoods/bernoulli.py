"""Likelihoods of pixels in [0, 1]: Bernoulli and continuous Bernoulli."""

from typing import ClassVar, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.likelihoods.spec import Decoded, Likelihood, Support
from pyro_vae.networks import Network, Shape


class Bernoulli(Likelihood):
    """p(x | z) = prod_i D_i(z)^x_i (1 - D_i(z))^(1 - x_i), D = sigmoid of the decoder.

    With `grey: true` x may lie anywhere in [0, 1]: this is then the cross-entropy of grey pixels, not a
    density (it does not integrate to one), so that no ELBO or log p(x) is reported.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014).
    """

    kind: Literal["bernoulli"] = "bernoulli"
    grey: bool = False
    """Allow grey pixels: cross-entropy, unnormalised."""

    supports: ClassVar[tuple[Support, ...]] = ("binary",)
    discrete: ClassVar[bool] = True

    @property
    def normalized(self) -> bool:
        """False for grey pixels."""
        return not self.grey

    def accepts(self, support: Support) -> str | None:
        """Grey data only as a declared cross-entropy."""
        if support == "binary" or (support in ("levels", "unit") and self.grey):
            return None
        if support == "real":
            return "needs data in {0, 1}, and these are real-valued: use 'normal'."
        if support == "counts":
            return "needs data in {0, 1}, and these are counts: use 'poisson'."
        return (
            "needs data in {0, 1}, and these are grey: set data.binarize=dynamic, or use "
            "'continuous_bernoulli', or declare the unnormalised cross-entropy with grey=true."
        )

    def build(self, network: Network, latent_dim: int, shape: Shape) -> "BernoulliLikelihood":
        """Build Bernoulli(sigmoid(D(z)))."""
        return BernoulliLikelihood(Decoded(network, latent_dim, shape), self.grey)


class BernoulliLikelihood(nn.Module):
    """Bernoulli(sigmoid(r))."""

    def __init__(self, decoded: Decoded, grey: bool) -> None:
        super().__init__()
        self.decoded, self.grey = decoded, grey

    def forward(self, z: Tensor, y: Tensor | None, given: Tensor | None) -> dist.Distribution:
        """p(x | z, y, given)."""
        (logits,) = self.decoded(z, y, given)
        return dist.Bernoulli(logits=logits, validate_args=False if self.grey else None)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Start every entry at its share of ones in the data x (N, *event), no logit beyond 7.

        References:
            Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2016), whose models start so.
        """
        self.decoded.start_at(x.mean(0).clamp(1e-3, 1 - 1e-3).logit())


class ContinuousBernoulli(Likelihood):
    """p(x | z) = prod_i C(D_i) D_i^x_i (1 - D_i)^(1 - x_i) on [0, 1], normalised by C.

    C grows without bound as D goes to 0 or 1. torch takes it of a D that is kept one rounding unit away from
    both, so that beyond |logit D| = 16 (in float32) the density integrates to a little less than one: log p is
    then bounded, and too low, never too high.

    References:
        The continuous Bernoulli: fixing a pervasive error in variational autoencoders
        (Loaiza-Ganem & Cunningham, 2019).
    """

    kind: Literal["continuous_bernoulli"] = "continuous_bernoulli"

    supports: ClassVar[tuple[Support, ...]] = ("levels", "unit")

    def accepts(self, support: Support) -> str | None:
        """Grey data in [0, 1] only: on binary data the density is unbounded as D goes to 0 or 1."""
        if support == "binary":
            return "is a density on grey data in [0, 1], and these are binary: use 'bernoulli'."
        if support in ("real", "counts"):
            return (
                f"needs data in [0, 1], and these are {'real-valued' if support == 'real' else 'counts'}: use 'normal'."
            )
        return None

    def build(self, network: Network, latent_dim: int, shape: Shape) -> "ContinuousBernoulliLikelihood":
        """Build ContinuousBernoulli(sigmoid(D(z)))."""
        return ContinuousBernoulliLikelihood(Decoded(network, latent_dim, shape))


class ContinuousBernoulliLikelihood(nn.Module):
    """ContinuousBernoulli(sigmoid(r))."""

    def __init__(self, decoded: Decoded) -> None:
        super().__init__()
        self.decoded = decoded

    def forward(self, z: Tensor, y: Tensor | None, given: Tensor | None) -> dist.Distribution:
        """p(x | z, y, given)."""
        (logits,) = self.decoded(z, y, given)
        return dist.ContinuousBernoulli(logits=logits)
