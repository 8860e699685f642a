"""Plain test parts: a conditional prior, a ladder head, and VAEs that put the whole contract to use."""

from typing import ClassVar, Literal

import pyro.distributions as dist
import torch
from torch import nn

from pyro_vae.guides import Guide, Raw
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import MLP, dense, join, linear
from pyro_vae.priors import Prior, StandardNormal
from pyro_vae.sites import Batch
from pyro_vae.vae import VAE
from pyro_vae.variant import Label, Latent, Variant

X = 20
NETWORK = MLP(widths=[16], activation="tanh")


class ConditionalNormal(Prior):
    """p(z_l | z_{l+1}, y) = N(mu(z_{l+1}, y), diag exp(s))."""

    kind: Literal["test_conditional_normal"] = "test_conditional_normal"
    reads_above: ClassVar[bool] = True
    normal: ClassVar[bool] = True

    def build(self, dim, dim_above, shape):
        return ConditionalNormalPrior(dim, dim_above, shape)


class ConditionalNormalPrior(nn.Module):
    def __init__(self, dim, dim_above, shape):
        super().__init__()
        self.net = nn.Sequential(dense(dim_above + shape.y, (16,), "tanh"), linear(16, 2 * dim))

    def forward(self, above, y, given):
        mu, s = self.net(join(above, y)).chunk(2, -1)
        return dist.Normal(mu, (0.5 * s).exp()).to_event(1)


class LadderGuide(Guide):
    """Precision-weighted combination of the encoder's normal and the model's (Soenderby et al., 2016)."""

    kind: Literal["test_ladder"] = "test_ladder"

    def combines(self, top):
        return True

    def head(self, features, neighbour_dim, dim, shape, layer=(1, 1)):
        return LadderHead(Raw(features, None, shape, (), "tanh", 2 * dim))


class LadderHead(nn.Module):
    def __init__(self, raw):
        super().__init__()
        self.raw = raw

    def forward(self, h, neighbour, y, p, offset):
        mu, s = self.raw(h, None, y, offset).chunk(2, -1)
        p = p.base_dist
        a, b = (-s).exp(), p.scale**-2
        return dist.Normal((mu * a + p.loc * b) / (a + b), (a + b) ** -0.5).to_event(1)


class BottomUpGuide(Guide):
    """q(z_1 | x) q(z_2 | z_1, x)."""

    kind: Literal["test_bottom_up"] = "test_bottom_up"
    order: ClassVar[Literal["top_down", "bottom_up"]] = "bottom_up"

    def head(self, features, neighbour_dim, dim, shape, layer=(1, 1)):
        return BottomUpHead(Raw(features, neighbour_dim, shape, (), "tanh", 2 * dim))


class BottomUpHead(nn.Module):
    def __init__(self, raw):
        super().__init__()
        self.raw = raw

    def forward(self, h, neighbour, y, p, offset):
        assert p is None
        mu, s = self.raw(h, neighbour, y, offset).chunk(2, -1)
        return dist.Normal(mu, (0.5 * s).exp()).to_event(1)


def vae(latent=(5,), guide=None, labels=None, masked=False, given=0):
    several = len(latent) > 1
    variant = Variant(
        latent=[Latent(dim=d) for d in latent] if several else Latent(dim=latent[0]),
        prior=[*[ConditionalNormal()] * (len(latent) - 1), StandardNormal()] if several else StandardNormal(),
        likelihood=Bernoulli(),
        labels=labels or {},
        guide=guide or (LadderGuide() if several else "diagonal_normal"),
        encoder=NETWORK,
        decoder=NETWORK,
    )
    return VAE(variant, (X,), given=given, masked=masked)


def label(observed="partly", rule="guide", classes=4):
    return Label(classes=classes, observed=observed, rule="sum" if observed == "always" else rule)


CASES = {
    "plain": {},
    "plain, covariates": {"given": 3},
    "ladder": {"latent": (5, 3)},
    "ladder, missing pixels": {"latent": (5, 3), "masked": True},
    "three layers bottom-up": {"latent": (5, 4, 3), "guide": BottomUpGuide()},
    "conditional": {"labels": {"y": label("always")}},
    "M2": {"labels": {"y": label()}},
    "M2, labels summed": {"labels": {"y": label(rule="sum")}},
    "mixture": {"labels": {"y": label("never", "sum")}},
    "two label sites": {"labels": {"y": label(), "style": label("never", classes=3)}},
    "always and partly": {"labels": {"y": label(), "style": label("always", classes=3)}},
    "ladder, M2, missing pixels": {"latent": (5, 3), "labels": {"y": label()}, "masked": True},
    "ladder, labels summed, missing pixels, covariates": {
        "latent": (5, 3),
        "labels": {"y": label(rule="sum")},
        "masked": True,
        "given": 2,
    },
}


def batch(case, size=12, known=0.5):
    """Data for a case: NaN where a pixel is missing, -1 where a label is."""
    x = torch.bernoulli(torch.full((size, X), 0.4))
    mask = torch.rand(size, X) > 0.3 if case.get("masked") else None
    if mask is not None:
        x = torch.where(mask, x, torch.nan)
    columns = []
    for site in case.get("labels", {}).values():
        y = torch.randint(0, site.classes, (size,))
        columns.append(y if site.observed == "always" else torch.where(torch.rand(size) < known, y, -1))
    y = None if not columns else columns[0] if len(columns) == 1 else torch.stack(columns, -1)
    given = torch.randn(size, case["given"]) if case.get("given") else None
    return Batch(x, y, mask, given)
