"""The declaration of p and q: a `Variant` holds no data and no objective.

    y ~ Categorical                      where there are label sites
    z_L ~ p(z_L | y), ..., z_1 ~ p(z_1 | z_2, y)
    x ~ p(x | z_1, y)
    guide: Q(z | x, y), and Q(y | x) where labels can be missing

`latent` lists the layers from z_1, next to the data, to z_L at the top.
"""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch.nn import ModuleDict

from pyro_vae.guides import GUIDES, DiagonalNormal, Guide, mismatches
from pyro_vae.likelihoods import LIKELIHOODS, Likelihood, Normal
from pyro_vae.networks import MLP, NETWORKS, Network
from pyro_vae.priors import PRIORS, Prior, StandardNormal
from pyro_vae.specs import Count, OneOf, OneOrMore, Seq, Spec

type Sees = Literal["prior", "encoder", "decoder"]
PARTS: tuple[Sees, ...] = ("prior", "encoder", "decoder")
"""What a label can condition."""

MAX_CELLS = 1000
"""Largest product grid of classes that is enumerated."""
RESERVED = ("x", "data", "particles", "chain", "draw", "obs", "feature", "row", "column", "channel")
"""Names of other sites, of Pyro's plates, and of ArviZ's dimensions."""


class Latent(Spec):
    """One layer of latent variables."""

    dim: Count = 20
    """Number of dimensions D."""


class Label(Spec):
    """One label site y."""

    classes: int = Field(ge=2, le=MAX_CELLS)
    """Number of classes C."""
    observed: Literal["always", "partly", "never"] = "always"
    """Whether the label is given with each datum (a conditional model), with some of them, or with none."""
    rule: Literal["sum", "guide"] = "sum"
    """How missing labels are taken out: `sum` exactly, `guide` by q(y | x) (Kingma's M2)."""
    conditions: Annotated[Seq[Sees], Field(min_length=1)] = PARTS
    """What sees the label: p(z | y) where the prior can, q(z | x, y), p(x | z, y), or some of these."""

    @model_validator(mode="after")
    def _conditions_differ(self) -> "Label":
        if len(set(self.conditions)) < len(self.conditions):
            raise ValueError(f"conditions={list(self.conditions)}: names a part twice; name each once")
        if self.conditions == ("encoder",):
            raise ValueError("conditions=['encoder']: the model would not depend on the label; add prior or decoder")
        return self


class Variant(Spec):
    """What defines the model p and the guide q."""

    latent: OneOrMore[Latent] = Latent()
    """The latent layer, or a list of them from z_1 (next to the data) to the top."""
    prior: OneOrMore[Annotated[Prior, OneOf(PRIORS, "standard_normal")]] = StandardNormal()
    """p(z), or a list with one prior per layer."""
    likelihood: Annotated[Likelihood, OneOf(LIKELIHOODS, "normal")] = Normal()
    """p(x | z)."""
    labels: dict[str, Label] = Field(default_factory=dict)
    """Label sites: name of the attribute in the data -> label."""
    guide: Annotated[Guide, OneOf(GUIDES, "diagonal_normal")] = DiagonalNormal()
    """Q(z | x)."""
    encoder: Annotated[Network, OneOf(NETWORKS, "mlp")] = MLP()
    """Network of the guide."""
    decoder: Annotated[Network, OneOf(NETWORKS, "mlp")] = MLP()
    """Network of the likelihood."""

    def __hash__(self) -> int:
        """Hash of the JSON form: a dict of labels is not hashable itself."""
        return hash(self.model_dump_json())

    @property
    def layers(self) -> dict[str, int]:
        """Latent site -> number of dimensions, from z_1 to the top; a single layer is called z."""
        if isinstance(self.latent, Latent):
            return {"z": self.latent.dim}
        return {f"z{i}": layer.dim for i, layer in enumerate(self.latent, 1)}

    @property
    def priors(self) -> dict[str, Prior]:
        """Latent site -> its prior."""
        priors = (self.prior,) if isinstance(self.prior, Prior) else self.prior
        return dict(zip(self.layers, priors, strict=True))

    @property
    def rule(self) -> Literal["sum", "guide"]:
        """How missing labels are taken out."""
        return next((label.rule for label in self.missing.values()), "sum")

    @property
    def missing(self) -> dict[str, Label]:
        """The label sites that can be missing."""
        return {name: label for name, label in self.labels.items() if label.observed != "always"}

    def seen_by(self, part: Sees) -> list[slice]:
        """Which columns of the one-hot labels, all sites side by side, a part sees."""
        found, start = list[slice](), 0
        for label in self.labels.values():
            if part in label.conditions:
                found.append(slice(start, start + label.classes))
            start += label.classes
        return found

    def label_width(self, part: Sees) -> int:
        """Number of those columns."""
        return sum(columns.stop - columns.start for columns in self.seen_by(part))

    @property
    def cells(self) -> int:
        """Cells of the product grid of the labels that can be missing; 1 without any."""
        return math.prod(label.classes for label in self.missing.values())

    @property
    def density(self) -> Literal["x", "x|y"]:
        """What log p measures: p(x), labels summed out, or p(x | y) where labels are always given."""
        return "x" if len(self.missing) == len(self.labels) else "x|y"

    @property
    def normalized(self) -> bool:
        """Whether the ELBO bounds a log density: the likelihood is one, and so is the guide."""
        return self.likelihood.normalized and self.guide.density

    def why_unnormalized(self) -> str:
        """Why no log p(x) is reported."""
        return (
            "its guide is a point, not a density"
            if not self.guide.density
            else "its likelihood is declared unnormalised"
        )

    @property
    def capturable(self) -> bool:
        """Whether every part can be recorded once and replayed."""
        parts = (self.likelihood, self.guide, self.encoder, self.decoder, *self.priors.values())
        return all(part.capturable for part in parts)

    @model_validator(mode="after")
    def _layers_fit(self) -> "Variant":
        layers = 1 if isinstance(self.latent, Latent) else len(self.latent)
        priors = (self.prior,) if isinstance(self.prior, Prior) else self.prior
        if layers == 0:
            raise ValueError("latent=[]: give at least one layer, like latent: {dim: 20}")
        if len(priors) != layers:
            raise ValueError(
                f"prior: {len(priors)} for {layers} layers of latent; give a list with one prior per layer, "
                "from z_1 to the top"
            )
        for i, prior in enumerate(priors[:-1], 1):
            if not prior.reads_above:
                known = [word for word, part in PRIORS.items() if part.reads_above]
                raise ValueError(
                    f"prior[{i - 1}]: {prior.kind!r} ignores the layer above, so that z{i + 1} would be "  # type: ignore[attr-defined]
                    f"unused; below the top take one of: {', '.join(known) or 'none is registered'}"
                )
        found = mismatches(self.guide, tuple(priors))
        if any(prior.of_guide for prior in priors) and self.seen_by("prior") != self.seen_by("encoder"):
            found.append(
                "labels: a prior that is made of the guide needs every label that conditions the encoder to condition "
                "the prior, and the other way round; give each of them both in `conditions`, or neither"
            )
        if found:
            raise ValueError("\n".join(found))
        return self

    @model_validator(mode="after")
    def _labels_fit(self) -> "Variant":
        taken = (*RESERVED, *self.layers)
        found = [
            f"labels.{name}: must be an identifier other than {', '.join(taken)}; rename the attribute"
            for name in self.labels
            if not name.isidentifier() or name in taken or hasattr(ModuleDict(), name)
        ]
        if self.cells > MAX_CELLS:
            found.append(
                f"labels: {self.cells} combinations of missing labels; at most {MAX_CELLS} are enumerated. "
                "Use fewer classes or observe some of the sites always"
            )
        if len({label.rule for label in self.missing.values()}) > 1:
            found.append("labels: missing labels must share one rule; set all to 'sum' or all to 'guide'")
        if found:
            raise ValueError("\n".join(found))
        return self
