"""Guides: the amortised encoder Q, a body shared by the heads of all sites.

    body(x, mask, given)                   -> features h (B, F), once per batch
    classifier(h)                          -> q(y | x), where labels can be missing and the rule is `guide`
    head(h, neighbour, y, p_l, offset)     -> q(z_l | ...), event (D_l,)

`neighbour` is the latent sampled just before this one, p_l the model's distribution at this site (None in a
bottom-up guide), `offset` (B, raw outputs) is added to the head's raw output: the handle of refined guides.
"""

from pyro_vae.guides.normal import DiagonalNormal, Point
from pyro_vae.guides.spec import Classifier, Guide, Raw
from pyro_vae.specs import Table

GUIDES = Table("guide", Guide, DiagonalNormal, Point)

__all__ = ["GUIDES", "Classifier", "DiagonalNormal", "Guide", "Point", "Raw"]
