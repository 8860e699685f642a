"""A likelihood for tables whose columns are of several kinds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, cast

import pyro.distributions as dist
import torch
from pydantic import Discriminator, Tag, model_validator
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.likelihoods.bernoulli import Bernoulli
from pyro_vae.likelihoods.continuous import Laplace, StudentT
from pyro_vae.likelihoods.counts import (
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)
from pyro_vae.likelihoods.levels import Categorical
from pyro_vae.likelihoods.normal import Normal
from pyro_vae.likelihoods.spec import Decoded, Likelihood, Support
from pyro_vae.networks import Network, Shape
from pyro_vae.specs import Count, DeclarationError, OneOf, Seq, Spec, Table

# A table of its own: a column that could be 'mixed' again would have a schema without end.
COLUMNS = Table(
    "column's likelihood",
    Likelihood,
    Normal,
    Laplace,
    StudentT,
    Bernoulli,
    Categorical,
    Poisson,
    NegativeBinomial,
    ZeroInflatedPoisson,
    ZeroInflatedNegativeBinomial,
)

type Part = Annotated[Likelihood, OneOf(COLUMNS, "normal")]


class Several(Spec):
    """Columns next to each other that are of one kind, and share what it learns for all entries."""

    of: Part = Normal()
    """Likelihood of each of them."""
    times: Count = 1
    """How many columns."""


def _several(value: Any) -> str:
    return "several[]" if isinstance(value, Several) or (isinstance(value, Mapping) and "of" in value) else "one[]"


type Column = Annotated[
    Annotated[Part, Tag("one[]")] | Annotated[Several, Tag("several[]")],
    Discriminator(_several),
]


class Mixed(Likelihood):
    """One likelihood per column of a table, around one decoder: p(x | z) = prod_i p_i(x_i | D_i(z)).

    D gives every column as many numbers as its likelihood needs, so that columns are independent given z. Columns
    of `categorical` hold codes 0, 1, ..., levels - 1; those of `bernoulli` 0 and 1. The data must not be
    standardised unless every column is real-valued.

        likelihood: {kind: mixed, columns: [bernoulli, {kind: categorical, levels: 5}, {of: normal, times: 3}]}

    References:
        Handling incomplete heterogeneous data using VAEs (Nazabal, Olmos, Ghahramani & Valera, 2020).
    """

    kind: Literal["mixed"] = "mixed"
    columns: Seq[Column] = ()
    """One likelihood per column, in their order; {of: normal, times: 3} stands for three. Empty: all are normal."""

    datum: ClassVar[Literal["any", "vector", "image"]] = "vector"
    scales: ClassVar[bool] = True

    @model_validator(mode="after")
    def _columns_can_be_columns(self) -> "Mixed":
        found = []
        for i, part in enumerate(self.columns):
            part = part.of if isinstance(part, Several) else part
            if getattr(part, "library", False):
                found.append(f"columns[{i}].library=true: a library is shared out over a whole datum; leave it out")
            if not part.normalized:
                found.append(f"columns[{i}].grey=true: is no density of a column; leave it out")
        if found:
            raise ValueError("\n".join(found))
        return self

    def accepts(self, support: Support) -> str | None:
        """Any data: what a column holds is looked at when the model starts."""
        return None

    def groups(self, numel: int) -> list[tuple[Likelihood, int]]:
        """The likelihoods with the number of columns that each stands for.

        Raises:
            DeclarationError: they are not as many as the data have columns.
        """
        parts = [(part.of, part.times) if isinstance(part, Several) else (part, 1) for part in self.columns]
        parts = parts or [(Normal(), numel)]
        declared = sum(times for _, times in parts)
        if declared != numel:
            raise DeclarationError(
                [
                    f"columns: {declared} of them for data of {numel} columns; give one likelihood per column, "
                    "several like {of: normal, times: 3}."
                ]
            )
        return [(part.replace(codes=True) if isinstance(part, Categorical) else part, times) for part, times in parts]

    def build(self, network: Network, latent_dim: int, shape: Shape) -> "MixedLikelihood":
        """Build the columns' likelihoods around one decoder.

        Raises:
            DeclarationError: the data are no vectors, or of another number of columns.
        """
        if len(shape.x) != 1:
            raise DeclarationError([f"kind='mixed': data must be tables (columns,), and these are {shape.x}."])
        return MixedLikelihood(network, latent_dim, shape, self.groups(shape.x[0]))


class Given(Network):
    """Stands for the decoder of a column: r = c, numbers that the shared decoder gave."""

    kind: Literal["given"] = "given"

    def decoder(self, inputs: int, shape: Shape, outputs: int) -> "GivenOutputs":
        """Nothing to build; remember how many numbers are needed."""
        return GivenOutputs(outputs)


class GivenOutputs(nn.Module):
    """r = c."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.start: Tensor | None = None

    def forward(self, c: Tensor) -> Tensor:
        """Numbers (..., outputs, columns), as they are."""
        return c

    def start_at(self, r: Tensor) -> None:
        """Keep where the outputs should begin, (outputs, columns)."""
        self.start = r


class MixedLikelihood(nn.Module):
    """prod_i p_i(x_i | r_i)."""

    mean: Tensor
    sd: Tensor

    def __init__(
        self, network: Network, latent_dim: int, shape: Shape, groups: Sequence[tuple[Likelihood, int]]
    ) -> None:
        super().__init__()
        self.specs, self.widths = [part for part, _ in groups], [times for _, times in groups]
        self.parts = nn.ModuleList(
            part.build(Given(), 0, Shape((times,), masked=shape.masked)) for part, times in groups
        )
        self.outputs = [_given(part).outputs for part in self.parts]
        self.sizes = [outputs * times for outputs, times in zip(self.outputs, self.widths, strict=True)]
        self.decoded = Decoded(network, latent_dim, shape._replace(x=(sum(self.sizes),)))
        # What the encoder sees, column by column, has mean 0 and sd 1; of the training data, so kept in checkpoints.
        self.register_buffer("mean", torch.zeros(shape.x))
        self.register_buffer("sd", torch.ones(shape.x))

    def forward(self, z: Tensor, y: Tensor | None, given: Tensor | None) -> dist.Distribution:
        """p(x | z, y, given)."""
        (r,) = self.decoded(z, y, given)
        found = []
        for part, outputs, numbers in zip(self.parts, self.outputs, r.split(self.sizes, -1), strict=True):
            found.append(part(numbers.unflatten(-1, (outputs, -1)), None, None))
        return Columns(found)

    def for_encoder(self, x: Tensor) -> Tensor:
        """Columns on one scale: log(1 + count), then (value - mean) / sd."""
        return (self._logs(x) - self.mean) / self.sd

    def _logs(self, x: Tensor) -> Tensor:
        columns = x.split(self.widths, -1)
        logs = [
            v.clamp_min(0).log1p() if s.supports == ("counts",) else v for s, v in zip(self.specs, columns, strict=True)
        ]
        return torch.cat(logs, -1)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Start every column as its likelihood starts on the data x (N, columns).

        Raises:
            DeclarationError: a column holds what its likelihood gives no probability.
        """
        columns = x.split(self.widths, -1)
        problems = [
            line
            for i, (part, values) in enumerate(zip(self.specs, columns, strict=True))
            for line in _misfits(part, values, sum(self.widths[:i]))
        ]
        if problems:
            raise DeclarationError(problems)
        self.mean.copy_(self._logs(x).mean(0))
        sd = self._logs(x).std(0, correction=0)
        self.sd.copy_(torch.where(sd > 0, sd, torch.ones_like(sd)))
        starts = []
        for part, values in zip(self.parts, columns, strict=True):
            cast(Any, part).initialise(values)
            start, given = None, _given(part)
            start, given.start = given.start, None
            starts.append(start)
        if all(start is not None for start in starts):
            self.decoded.start_at(torch.cat([start.flatten() for start in starts if start is not None]))


def _given(part: nn.Module) -> GivenOutputs:
    return next(module for module in part.modules() if isinstance(module, GivenOutputs))


def _misfits(part: Likelihood, x: Tensor, first: int) -> Iterator[str]:
    """A line for every column of x (N, columns) that is not of the kind declared; the first one is column `first`."""
    whole, least, most = (x == x.round()).all(0), x.amin(0), x.amax(0)
    if isinstance(part, Bernoulli):
        right, needed = whole & (least >= 0) & (most <= 1), "0 and 1"
    elif isinstance(part, Categorical):
        right, needed = whole & (least >= 0) & (most < part.levels), f"codes 0, ..., {part.levels - 1}"
    elif part.supports == ("counts",):
        right, needed = whole & (least >= 0), "counts 0, 1, 2, ..."
    else:
        return
    for i in (~right).nonzero().flatten().tolist():
        word = part.tree()["kind"]
        yield (
            f"variant.likelihood.columns: column {first + i + 1} of x is {word!r}, which needs {needed}, "
            f"and holds numbers between {float(least[i]):g} and {float(most[i]):g}; declare another likelihood "
            "for it, or leave out data.standardize where it is set."
        )


class Columns(dist.TorchDistribution):
    """Independent columns, each group of them with a distribution of its own; batch (..., columns), event ()."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, parts: Sequence[Any]) -> None:
        """Keep the groups' distributions, batch (..., columns of the group) each."""
        self.parts = list(parts)
        batch = torch.broadcast_shapes(*(part.batch_shape[:-1] for part in self.parts))
        self.widths = [part.batch_shape[-1] for part in self.parts]
        super().__init__(torch.Size((*batch, sum(self.widths))), validate_args=None)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether every column is drawn by a differentiable map."""
        return all(part.has_rsample for part in self.parts)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """Numbers; each column checks its own."""
        return constraints.real

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Columns":
        """The same with larger batch dimensions."""
        if batch_shape[-1] != sum(self.widths):
            raise ValueError(f"{sum(self.widths)} columns cannot be expanded to {batch_shape[-1]}.")
        batch = torch.Size(batch_shape[:-1])
        return Columns([p.expand((*batch, width)) for p, width in zip(self.parts, self.widths, strict=True)])

    def log_prob(self, value: Tensor) -> Tensor:
        """log p of each column."""
        values = value.split(self.widths, -1)
        return self._stacked([part.log_prob(x) for part, x in zip(self.parts, values, strict=True)])

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, column by column."""
        return self._stacked([part.sample(sample_shape) for part in self.parts])

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws that carry gradients."""
        return self._stacked([part.rsample(sample_shape) for part in self.parts])

    @property
    def mean(self) -> Tensor:
        """E[x]; of codes a number without much meaning."""
        return self._stacked([part.mean for part in self.parts])

    @property
    def variance(self) -> Tensor:
        """Var[x]."""
        return self._stacked([part.variance for part in self.parts])

    @staticmethod
    def _stacked(columns: list[Tensor]) -> Tensor:
        """Side by side: (..., columns of a group) each -> (..., columns)."""
        batch = torch.broadcast_shapes(*(column.shape[:-1] for column in columns))
        return torch.cat([column.expand(*batch, column.shape[-1]) for column in columns], -1)
