"""Priors of categorical latents."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pyro_vae.networks import Shape
from pyro_vae.priors.spec import Conditioned, Prior
from pyro_vae.relaxed import RelaxedCategoricals


class CategoricalPrior(Prior):
    """p(z | y, given): each z_d = softmax((a_d + g_d) / T), g standard Gumbel; a categorical variable, relaxed.

    Uniform, a = 0, or learned: a constant, linear in y and given where these condition the prior. p(z) is the
    density of the relaxed variables, and so are p(x, z) and every bound: they are of the model with relaxed z, which
    is not the model with indicators in their place. A log z below -80 counts as -80.

    References:
        The Concrete Distribution: A Continuous Relaxation of Discrete Random Variables (Maddison, Mnih & Teh, 2017).
        Categorical Reparameterization with Gumbel-Softmax (Jang, Gu & Poole, 2017).
    """

    kind: Literal["categorical"] = "categorical"
    learned: bool = False
    """Whether the logits a are learned, from 0."""
    temperature: float = Field(0.66, gt=0)
    """T: near 0 draws are nearly indicators of one class, far above 1 nearly uniform over the classes."""

    simplex: ClassVar[bool] = True

    @property
    def reads_labels(self) -> bool:  # type: ignore[override]
        """Only with learned logits."""
        return self.learned

    def build(self, dim: int, dim_above: int | None, shape: Shape) -> "CategoricalPriorModule":
        """Build the relaxed variables."""
        conditions = Conditioned(shape.y + shape.given, (), "relu", dim) if self.learned else None
        return CategoricalPriorModule(self.temperature, dim, shape.classes, conditions)


class CategoricalPriorModule(nn.Module):
    """softmax((a + g) / T) with a = 0 or r."""

    zeros: Tensor

    def __init__(self, temperature: float, dim: int, classes: int, conditions: Conditioned | None) -> None:
        super().__init__()
        self.temperature, self.classes, self.conditions = temperature, classes, conditions
        self.register_buffer("zeros", torch.zeros(dim), persistent=False)

    def forward(self, above: Tensor | None, y: Tensor | None, given: Tensor | None) -> RelaxedCategoricals:
        """p(z | y, given)."""
        logits = self.zeros if self.conditions is None else self.conditions(y, given)
        return RelaxedCategoricals(self.temperature, logits, self.classes)
