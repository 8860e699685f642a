"""A linear-Gaussian VAE with the exact guide, and with three wrong ones: what each diagnostic must tell apart."""

import exact
import torch

from pyro_vae.sites import Batch

SIGMA = 0.7
GUIDES = ("exact", "narrow", "shifted", "collapsed")


def model(dim=6, latent_dim=2, correlated=False):
    """W with orthogonal columns (a diagonal guide is exact), or with correlated ones, and b."""
    generator = torch.Generator().manual_seed(3)
    W = torch.randn(dim, latent_dim, generator=generator, dtype=torch.float64)
    if correlated:
        return W + 1.5 * W[:, :1], torch.randn(dim, generator=generator, dtype=torch.float64)
    W = torch.linalg.qr(W)[0] * torch.linspace(1.0, 2.0, latent_dim, dtype=torch.float64)
    return W, torch.randn(dim, generator=generator, dtype=torch.float64)


def data(num, W, b, seed=5):
    generator = torch.Generator().manual_seed(seed)
    z, noise = (torch.randn(num, n, generator=generator, dtype=torch.float64) for n in (W.shape[1], len(b)))
    return Batch(z @ W.T + b + SIGMA * noise)


@torch.no_grad()
def guided(guide, W, b):
    """The VAE with this guide: sd times 0.7, mean off by 0.7 posterior sd, or q(z | x) = p(z)."""
    vae = exact.linear_vae(W, b, SIGMA).eval()
    D, head = W.shape[1], vae.heads["z"].raw.output
    if guide == "narrow":
        head.bias[D:] += 2 * torch.tensor(0.7).log()
    elif guide == "shifted":
        head.bias[:D] += 0.7 * (0.5 * head.bias[D:]).exp()
    elif guide == "collapsed":
        head.weight.zero_()
        head.bias.zero_()
    return vae
