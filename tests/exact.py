"""Closed forms of the linear-Gaussian model x = W z + b + sigma eps, z ~ N(0, I), and VAEs that equal it.

log p(x) = log N(x; b, W W' + sigma^2 I)
p(z | x) = N(Lambda^-1 W' (x - b) / sigma^2, Lambda^-1),  Lambda = I + W' W / sigma^2
"""

import torch
from torch import Tensor

from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP
from pyro_vae.vae import VAE
from pyro_vae.variant import Latent, Variant


def log_evidence(x: Tensor, W: Tensor, b: Tensor, sigma: float) -> Tensor:
    """log p(x) (N,), nats."""
    covariance = W @ W.T + sigma**2 * torch.eye(len(b), dtype=x.dtype)
    return torch.distributions.MultivariateNormal(b, covariance).log_prob(x)


def posterior(x: Tensor, W: Tensor, b: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Mean (N, D) and precision (D, D) of p(z | x)."""
    precision = torch.eye(W.shape[1], dtype=x.dtype) + W.T @ W / sigma**2
    return (x - b) @ W @ torch.linalg.inv(precision) / sigma**2, precision


@torch.no_grad()
def linear_vae(W: Tensor, b: Tensor, sigma: float) -> VAE:
    """A linear VAE whose model is the linear-Gaussian one and whose guide is the best diagonal one.

    The guide's mean is the posterior mean and its precisions are the diagonal of Lambda: exact where the
    columns of W are orthogonal.
    """
    dim, latent_dim = W.shape
    linear = MLP(widths=[])
    variant = Variant(
        latent=Latent(dim=latent_dim), likelihood=Normal(scale=sigma, min_scale=0.0), encoder=linear, decoder=linear
    )
    vae = VAE(variant, (dim,)).double()
    vae.likelihood.decoded.network.output.weight.copy_(W)
    vae.likelihood.decoded.network.output.bias.copy_(b)
    vae.likelihood.scale = torch.tensor(sigma, dtype=torch.float64)  # 0.1 in float32 is another number
    mean, precision = posterior(b.new_zeros(1, dim), W, b, sigma)
    head = vae.heads["z"].raw.output
    head.weight.zero_()
    head.weight[:latent_dim] = torch.linalg.inv(precision) @ W.T / sigma**2
    head.bias[:latent_dim] = mean[0]
    head.bias[latent_dim:] = -precision.diagonal().log()
    return vae


def ppca(x: Tensor, latent_dim: int) -> tuple[float, Tensor]:
    """Maximum-likelihood sigma^2 and log p(x) (N,) of probabilistic PCA (Tipping & Bishop, 1999)."""
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    values, vectors = values.flip(0), vectors.flip(1)
    sigma2 = values[latent_dim:].mean()
    W = vectors[:, :latent_dim] * (values[:latent_dim] - sigma2).sqrt()
    return sigma2.item(), log_evidence(x, W, mean, sigma2.sqrt().item())
