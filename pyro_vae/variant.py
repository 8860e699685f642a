"""The declaration of p and q: a `Variant` holds no data and no objective.

    y ~ Categorical                      where there are label sites
    z_L ~ p(z_L | y), ..., z_1 ~ p(z_1 | z_2, y)
    x ~ p(x | z_1, y)
    guide: Q(z | x, y), and Q(y | x) where labels can be missing

`latent` lists the layers from z_1, next to the data, to z_L at the top.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

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
    """One layer of latent variables, continuous in R^dim, or `dim` categorical variables, relaxed to the simplex.

    A categorical layer has prior `categorical` and guide `relaxed`, which it means where they are not given. z then
    has dim * classes entries: `dim` points on the simplex, side by side, each nearly the indicator of a class where
    the temperatures of prior and guide are low. log p(x) and its bounds are those of the relaxed model.

    Few classes are summed out exactly, without relaxation, as a label that is never observed, beside a continuous
    layer: `labels: {c: {classes: 10, observed: never}}`, up to 1000 combinations of all such labels.
    """

    kind: Literal["continuous", "categorical"] = "continuous"
    """`continuous`, or `categorical`."""
    dim: Count = 20
    """Number of dimensions D, or of categorical variables."""
    classes: Annotated[int, Field(ge=2, le=10_000)] | None = None
    """Classes of each categorical variable, 10 where not given; None where it is continuous."""

    @property
    def width(self) -> int:
        """Number of entries of z."""
        return self.dim * (self.classes or 1)

    @model_validator(mode="before")
    @classmethod
    def _classes_of_categorical(cls, value: Any) -> Any:
        value = {"kind": value} if value == "categorical" else value
        if isinstance(value, Mapping) and value.get("kind") == "categorical" and value.get("classes") is None:
            return dict(value) | {"classes": 10}
        return value

    @model_validator(mode="after")
    def _classes_are_used(self) -> "Latent":
        if self.kind == "continuous" and self.classes is not None:
            raise ValueError(
                f"classes={self.classes}: has no meaning for a continuous latent; leave it out or set kind: categorical"
            )
        return self


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
        if self.rule == "guide" and self.observed == "always":
            raise ValueError("rule='guide': has no meaning for a label that is observed always; set observed: partly")
        if self.conditions == ("encoder",):
            raise ValueError("conditions=['encoder']: the model would not depend on the label; add prior or decoder")
        return self


def _says_categorical(latent: Any) -> bool:
    """Whether what is given as `latent` declares a single categorical layer."""
    if isinstance(latent, list | tuple):
        return len(latent) == 1 and _says_categorical(latent[0])
    return (latent.get("kind") if isinstance(latent, Mapping) else getattr(latent, "kind", latent)) == "categorical"


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
        """Latent site -> number of entries, from z_1 to the top; a single layer is called z."""
        if isinstance(self.latent, Latent):
            return {"z": self.latent.width}
        return {f"z{i}": layer.width for i, layer in enumerate(self.latent, 1)}

    @property
    def classes(self) -> int:
        """Classes of each variable of a categorical latent; 0 where latents are continuous."""
        return (self.latent if isinstance(self.latent, Latent) else self.latent[0]).classes or 0

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

    @model_validator(mode="before")
    @classmethod
    def _parts_of_categorical(cls, value: Any) -> Any:
        """A categorical latent means its prior and guide, where these are not given or given without their word."""
        if not isinstance(value, Mapping) or not _says_categorical(value.get("latent")):
            return value
        found = dict(value)
        for field, kind in (("prior", "categorical"), ("guide", "relaxed")):
            part = found.get(field, {})
            if isinstance(part, Mapping) and "kind" not in part:
                found[field] = {"kind": kind, **part}
        return found

    @model_validator(mode="after")
    def _latents_fit(self) -> "Variant":
        layers = (self.latent,) if isinstance(self.latent, Latent) else self.latent
        categorical = [layer.kind == "categorical" for layer in layers]
        if any(categorical) and len(layers) > 1:
            raise ValueError(
                "latent: a categorical layer must be the only one, because all layers share one guide, and the prior "
                "`categorical` sees no layer above; take one layer, or labels that are never observed beside them"
            )
        priors = (self.prior,) if isinstance(self.prior, Prior) else self.prior
        found = []
        for field, table, parts in (("prior", PRIORS, priors), ("guide", GUIDES, (self.guide,))):
            for part in parts:
                if part.simplex != any(categorical):
                    known = [word for word, other in table.items() if getattr(other, "simplex", False) is True]
                    found.append(
                        f"{field}={part.tree()[part.word]!r}: is for continuous latents, and these are categorical; "
                        f"take {' or '.join(known)}, or leave it out"
                        if any(categorical)
                        else f"{field}={part.tree()[part.word]!r}: is for categorical latents, and these are "
                        "continuous; set latent.kind=categorical, or take another one"
                    )
        if found:
            raise ValueError("\n".join(found))
        return self

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
        if not any(prior.reads_labels for prior in self.priors.values()):
            blind = "no prior here depends on labels, so that the model would not depend on this one"
            found += [
                f"labels.{name}.conditions={list(label.conditions)}: {blind}; add decoder, or take prior 'normal'"
                for name, label in self.labels.items()
                if "decoder" not in label.conditions
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
