"""What holds data: `Arrays` as given, `Split`, `StoredSplit` and `Data` as checked, `Declared` as known before."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pyro_vae.data.storage import Stored
from pyro_vae.specs import DeclarationError

type Binarize = Literal["none", "dynamic", "static", "threshold"]
type Support = Literal["binary", "levels", "unit", "real", "counts"]
type Dequantize = Literal["none", "uniform"]


@dataclass(frozen=True, eq=False)
class Arrays:
    """Data in memory, as a reader or a notebook gives them: numpy arrays or tensors, not yet checked.

    Args:
        x: (N, D), (N, H, W), (N, C, H, W), or (N, H, W, C), which is recognised where the last dimension is 1
            or 3 and the second is neither. bool and {0, 1} are binary; integers within 0..255 are levels; the
            rest is real.
        y: integers (N,), or a dict name -> integers (N,); -1 is a missing label. A plain array is called
            "label".
        given: covariates (N, G) that are never modelled.
        mask: bool, shaped like x, True where the entry exists; elsewhere x may hold anything, NaN too.
        test: the test set, likewise; without one, a tenth of the data is held out.
        levels: number of integer levels of x (at most 256), where 256 is wrong.
        names: names of the classes of an attribute, in the order of its integers.
        columns: names of the entries of vectors x.
        given_columns: names of the covariates.
        truth: what simulated data were made with.

    Example:
        >>> import numpy as np
        >>> from pyro_vae.data import ArraysData, load
        >>> data = load(ArraysData(), arrays=Arrays(np.eye(20), y=np.arange(20) % 2))
        >>> len(data.train), len(data.validation), len(data.test), data.support, data.classes("label")
        (16, 2, 2, 'binary', 2)
    """

    x: Any
    y: Any = None
    _: KW_ONLY
    given: Any = None
    mask: Any = None
    test: "Arrays | None" = None
    levels: int | None = None
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    columns: Sequence[str] | None = None
    given_columns: Sequence[str] | None = None
    truth: dict[str, Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set, in memory."""

    x: Tensor
    """(N, *event), as stored: uint8 levels, or float32 or float64."""
    attributes: dict[str, Tensor]
    """Name -> int64 (N,), -1 where the label is missing."""
    given: Tensor | None = None
    """Covariates (N, G), float."""
    mask: Tensor | None = None
    """bool, shaped like x, True where the entry exists; x is 0 elsewhere."""

    def __len__(self) -> int:
        return len(self.x)

    def select(self, indices: Tensor | Sequence[int]) -> "Split":
        """The data at `indices`, copied, in that order."""
        index = torch.as_tensor(indices, device=self.x.device)
        index = index if index.dtype is torch.bool else index.long()
        return self._each(lambda tensor: tensor[index])

    def to(self, device: torch.device | str) -> "Split":
        """The same data on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, function: Callable[[Tensor], Tensor]) -> "Split":
        """The function of every tensor."""
        return Split(
            function(self.x),
            {name: function(labels) for name, labels in self.attributes.items()},
            None if self.given is None else function(self.given),
            None if self.mask is None else function(self.mask),
        )


@dataclass(frozen=True, eq=False)
class StoredSplit:
    """One part of a data set that does not fit in memory: x and mask stay in their files, of which it is some rows."""

    x: Stored
    """The whole file, (N of the file, *event)."""
    attributes: dict[str, Tensor]
    """As in `Split`, of this part alone."""
    given: Tensor | None
    """As in `Split`, of this part alone."""
    mask: Stored | None
    """The whole file, shaped like x."""
    rows: Tensor
    """Which rows of x and mask this part is, int64 (N,)."""

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, indices: Tensor | Sequence[int]) -> Split:
        """The data at `indices`, copied into memory, in that order."""
        index = torch.as_tensor(indices)
        index = index if index.dtype is torch.bool else index.long()
        rows = self.rows[index].numpy()
        return Split(
            torch.from_numpy(self.x.take(rows)),
            {name: labels[index] for name, labels in self.attributes.items()},
            None if self.given is None else self.given[index],
            None if self.mask is None else torch.from_numpy(self.mask.take(rows)),
        )


@dataclass(frozen=True, eq=False)
class Data:
    """A checked and split data set."""

    name: str
    train: Split | StoredSplit
    validation: Split | StoredSplit
    test: Split | StoredSplit
    shape: tuple[int, ...]
    """Event shape: (D,), or (C, H, W) for every image."""
    levels: int | None
    """Number of integer levels of the stored x (2 after static binarization); None: real-valued."""
    binarize: Binarize
    dequantize: Dequantize
    support: Support
    """Where the prepared x lies: in {0, 1}, in levels or anywhere in [0, 1], on the real line, or in 0, 1, 2, ..."""
    num_classes: dict[str, int]
    """Largest label + 1 over all splits, before thinning."""
    truth: dict[str, Tensor] | None = None
    """What simulated data were made with."""
    scaling: tuple[Tensor, Tensor] | None = None
    """Mean and standard deviation of the training data by which x is standardised, each broadcasts to x; float64."""
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the classes of an attribute, where they have names."""
    columns: tuple[str, ...] | None = None
    """Names of the entries of vectors, where they have names."""
    given_columns: tuple[str, ...] | None = None
    """Names of the covariates, where they have names."""
    grey_levels: int | None = None
    """Number of integer levels that static binarization drew from; None: grey values in [0, 1], or another way."""

    shown: Tensor | None = None
    """True where an entry of a datum is given and not modelled, bool, shaped like a datum; None: nowhere."""
    library: bool = False
    """Whether the logarithm of the total count of a datum is its last covariate."""

    @property
    def num_given(self) -> int:
        """Number of covariates that the model sees: those of the data, the shown entries, the library size."""
        own = 0 if self.train.given is None else self.train.given.shape[1]
        return own + (0 if self.shown is None else int(self.shown.sum())) + self.library

    @property
    def conditional_on(self) -> tuple[str, ...]:
        """What log p(x) is given, beside labels: covariates, entries that are shown, the library size."""
        names = self.given_columns or ()
        covariates = () if self.train.given is None else names if 0 < len(names) <= 3 else ("covariates",)
        shown = () if self.shown is None else ("x_shown",)
        return (*covariates, *shown, *(("library size",) if self.library else ()))

    @property
    def discrete(self) -> bool:
        """Whether bits per dimension mean something: binary data have a pmf, dequantised ones bound it."""
        return self.support == "binary" or self.dequantize == "uniform"

    def classes(self, name: str) -> int:
        """Number of classes of the attribute `name`."""
        if name not in self.num_classes:
            known = ", ".join(self.num_classes) or "none"
            raise DeclarationError([f"labels.{name}: {self.name!r} data have no such attribute. Known: {known}."])
        return self.num_classes[name]


class Declared(NamedTuple):
    """What is known of a data set before it is read: enough to check a declaration against."""

    name: str
    support: Support
    shape: tuple[int, ...]
    num_classes: dict[str, int]
    levels: int | None = None
