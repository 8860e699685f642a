"""Guides of categorical latents."""

from typing import ClassVar, Literal

import pyro.distributions as dist
import torch
from pydantic import Field
from torch import Tensor, nn

from pyro_vae.guides.spec import Guide, Raw
from pyro_vae.networks import Activation, Shape
from pyro_vae.relaxed import FLOOR, RelaxedCategoricals
from pyro_vae.specs import Count, Seq

MARGIN = 14.0
"""Nats between the least logit and what would draw `FLOOR`; noise exceeds it with probability exp(-14) = 1e-6."""


class Relaxed(Guide):
    """q(z | x): each z_d = softmax((a_d + g_d) / T), a_d = log(softmax(r_d) + exp(-m)), g standard Gumbel; r raw.

    q(z | x) is the density of the relaxed variables, so that with the prior `categorical` every bound is a bound: of
    the model with relaxed z. The log probabilities stay above about -m = 14 - 80 T: a draw that needed a smaller log z
    than float32 can hold, -80 here, would have the wrong density, and the bound would be too high.

    Where T is not the prior's, even a variable that says nothing of x has a KL: 0.49 nats for 10 classes at 0.66 and
    0.5. Importance weights have a finite variance where T is below twice the prior's.

    References:
        The Concrete Distribution: A Continuous Relaxation of Discrete Random Variables (Maddison, Mnih & Teh, 2017).
        Categorical Reparameterization with Gumbel-Softmax (Jang, Gu & Poole, 2017).
    """

    kind: Literal["relaxed"] = "relaxed"
    widths: Seq[Count] = ()
    """Hidden layers between the encoder's features (with the label) and the logits."""
    activation: Activation = "relu"
    """Nonlinearity of those layers."""
    temperature: float = Field(0.66, ge=0.25)
    """T; below 0.25 float32 cannot hold what is drawn."""

    factorized: ClassVar[bool] = False
    moments: ClassVar[bool] = False
    simplex: ClassVar[bool] = True

    def head(
        self, features: int, neighbour_dim: int | None, dim: int, shape: Shape, layer: tuple[int, int] = (1, 1)
    ) -> "RelaxedHead":
        """Build the relaxed variables."""
        raw = Raw(features, neighbour_dim, shape, self.widths, self.activation, dim)
        return RelaxedHead(raw, self.temperature, shape.classes)


class RelaxedHead(nn.Module):
    """softmax((log(softmax(r) + exp(-m)) + g) / T)."""

    def __init__(self, raw: Raw, temperature: float, classes: int) -> None:
        super().__init__()
        self.raw, self.temperature, self.classes = raw, temperature, classes
        self.least = FLOOR * temperature + MARGIN  # -m

    def forward(
        self, h: Tensor, neighbour: Tensor | None, y: Tensor | None, p: dist.Distribution | None, offset: Tensor | None
    ) -> RelaxedCategoricals:
        """q(z_l | ...)."""
        r = self.raw(h, neighbour, y, offset)
        log_probs = r.unflatten(-1, (-1, self.classes)).log_softmax(-1)
        logits = torch.logaddexp(log_probs, torch.full_like(log_probs, self.least))
        return RelaxedCategoricals(self.temperature, logits.flatten(-2), self.classes)
