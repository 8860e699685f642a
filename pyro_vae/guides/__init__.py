"""Guides: the amortised encoder Q, a body shared by the heads of all sites.

    body(x, mask, given)                   -> features h (B, F), once per batch
    classifier(h)                          -> q(y | x), where labels can be missing and the rule is `guide`
    head(h, neighbour, y, p_l, offset)     -> q(z_l | ...), event (D_l,)

`neighbour` is the latent sampled just before this one, p_l the model's distribution at this site (None where the
head does not combine it with its own), `offset` (B, raw outputs) is added to the head's raw output: the handle of
refined guides.
"""

from pyro_vae.guides.correlated import FullNormal, LowRankNormal
from pyro_vae.guides.diffusion import Diffusion
from pyro_vae.guides.flow import FlowGuide
from pyro_vae.guides.layered import BottomUpNormal, Ladder
from pyro_vae.guides.normal import DiagonalNormal, Point
from pyro_vae.guides.refined import Refined
from pyro_vae.guides.relaxed import Relaxed
from pyro_vae.guides.spec import Classifier, Guide, Raw, mismatches
from pyro_vae.specs import Table

GUIDES = Table(
    "guide",
    Guide,
    DiagonalNormal,
    Point,
    FullNormal,
    LowRankNormal,
    FlowGuide,
    Ladder,
    BottomUpNormal,
    Diffusion,
    Refined,
    Relaxed,
)

__all__ = [
    "GUIDES",
    "BottomUpNormal",
    "Classifier",
    "DiagonalNormal",
    "Diffusion",
    "FlowGuide",
    "FullNormal",
    "Guide",
    "Ladder",
    "LowRankNormal",
    "Point",
    "Raw",
    "Refined",
    "Relaxed",
    "mismatches",
]
