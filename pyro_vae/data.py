"""Data sets: what is read, checked and split before training, and what a training step does to a batch.

A *data set* is a spec whose `read(seed)` returns `Arrays`, the same container that a notebook fills by hand;
`load` checks them (every mistake at once), splits them by the seed and thins the labels. Data stay as they
are stored, integer levels k in {0, ..., K-1} as uint8; `prepare` turns a batch into the x that is modelled,
inside the compiled step:

    none                x = k / (K - 1)                       in [0, 1]; real-valued data pass unchanged
    binarize dynamic    x ~ Bernoulli(k / (K - 1))            a new draw each time
    binarize static     x ~ Bernoulli(k / (K - 1))            drawn once, in `load`, the same in every run
    binarize threshold  x = [k / (K - 1) >= 1/2]
    dequantize uniform  x = (k + u) / K,  u ~ Uniform(0, 1)   in (0, 1); log P(k) >= E_u[log p(x)] - D log K

To add a data set, derive from `DataSpec`, give it a `name` and a `read`, and register it.
"""

import gzip
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from pyro_vae.specs import Count, DeclarationError, Part, Table

type Binarize = Literal["none", "dynamic", "static", "threshold"]
type Support = Literal["binary", "unit", "real"]
type Dequantize = Literal["none", "uniform"]

MAX_NPZ_BYTES = 8 * 2**30
"""Most that an .npz may hold unpacked; 200 kB of zip can claim to be any size."""
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error)
MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


# ------------------------------------------------------------------------------------------------- containers


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
        truth: what simulated data were made with.

    Example:
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
    truth: dict[str, Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set."""

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
class Data:
    """A checked and split data set."""

    name: str
    train: Split
    validation: Split
    test: Split
    shape: tuple[int, ...]
    """Event shape: (D,), or (C, H, W) for every image."""
    levels: int | None
    """Number of integer levels of the stored x (2 after static binarization); None: real-valued."""
    binarize: Binarize
    dequantize: Dequantize
    support: Support
    """Where the prepared x lies: {0, 1}, [0, 1] or the real line."""
    num_classes: dict[str, int]
    """Largest label + 1 over all splits, before thinning."""
    truth: dict[str, Tensor] | None = None
    """What simulated data were made with."""

    @property
    def discrete(self) -> bool:
        """Whether bits per dimension mean something: binary data have a pmf, dequantised ones bound it."""
        return self.support == "binary" or self.dequantize == "uniform"

    def classes(self, name: str) -> int:
        """Number of classes of the attribute `name`."""
        if name not in self.num_classes:
            known = ", ".join(self.num_classes) or "none"
            raise DeclarationError(
                [f"labels.{name}: {self.name!r} data have no such attribute. Known: {known}."]
            )
        return self.num_classes[name]


# ------------------------------------------------------------------------------------------------------ specs


class Declared(NamedTuple):
    """What is known of a data set before it is read: enough to check a declaration against."""

    name: str
    support: Support
    shape: tuple[int, ...]
    num_classes: dict[str, int]


class DataSpec(Part):
    """Abstract spec of a data set."""

    word: ClassVar[str] = "name"

    name: Any  # a Literal in every data set; declared here so that it comes first
    """Which data set."""
    binarize: Binarize = "none"
    """How grey values become {0, 1}: a new draw per step, one draw for ever, or a threshold at 1/2."""
    dequantize: Dequantize = "none"
    """Whether uniform noise turns integer levels into a continuous x in (0, 1)."""
    validation: float | int = 0.1
    """How many of the training data are kept for validation: a fraction in [0, 1) or a count."""
    labels_kept: Annotated[int, Field(ge=0)] | None = None
    """How many training data keep their labels, evenly over the classes; the others get -1."""

    def read(self, seed: int) -> Arrays:
        """Read or make the data; `seed` is for data that are simulated.

        Raises:
            DeclarationError: the data cannot be had, and what to do about it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define read(seed) -> Arrays.")

    def declared(self) -> Declared | None:
        """What is known without reading; None where only the data can tell."""
        return None

    def _images(self, shape: tuple[int, ...], num_classes: dict[str, int]) -> Declared:
        """What is known of images in integer levels."""
        return Declared(self.name, "unit" if self.binarize == "none" else "binary", shape, num_classes)

    def in_memory(self) -> "ArraysData":
        """The declaration that treats arrays given in memory as this one treats its own."""
        common = {field: getattr(self, field) for field in DataSpec.model_fields if field != self.word}
        return ArraysData(**common)

    @model_validator(mode="after")
    def _check(self) -> Self:
        # Said here and not by the annotation, whose message would name the branches of the union.
        if self.validation < 0 or (isinstance(self.validation, float) and self.validation >= 1):
            raise ValueError(
                f"validation={self.validation}: must be a fraction in [0, 1) or a count, an integer >= 0."
            )
        if self.binarize != "none" and self.dequantize != "none":
            raise ValueError(
                f'binarize="{self.binarize}" and dequantize="{self.dequantize}" exclude one another: '
                "binarized data have no levels left to spread. Set one of them to none."
            )
        return self


class DigitsData(DataSpec):
    """Handwritten digits, 1797 images of 8 x 8 in 17 levels, embedded in scikit-learn; 360 are the test set.

    References:
        Optical Recognition of Handwritten Digits (Alpaydin & Kaynak, 1998). https://doi.org/10.24432/C50P49
    """

    name: Literal["digits"] = "digits"

    def declared(self) -> Declared:
        """Grey or binarised 8 x 8 images of ten digits."""
        return self._images((1, 8, 8), {"digit": 10})

    def read(self, seed: int) -> Arrays:
        """Read the images; the test set is the same for every seed, so that results can be compared."""
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        images = images.reshape(-1, 8, 8).astype(np.uint8)
        order = np.random.default_rng(0).permutation(len(images))
        test, train = order[:360], order[360:]
        held_out = Arrays(images[test], {"digit": labels[test]})
        return Arrays(images[train], {"digit": labels[train]}, test=held_out, levels=17)


class LinearGaussianData(DataSpec):
    """x = W z + b + sigma eps, z and eps ~ N(0, I): every quantity of a VAE on these data has a closed form.

    The columns of W have lengths from 2 down to 1. They are orthogonal, so that the posterior is diagonal,
    unless `correlated`: then the cosine of each pair is 1/2.

    References:
        Probabilistic Principal Component Analysis (Tipping & Bishop, 1999).
        https://doi.org/10.1111/1467-9868.00196
    """

    name: Literal["linear_gaussian"] = "linear_gaussian"
    num_data: Count = 2000
    """Number of data, the test set included."""
    dim: Count = 10
    """Dimension of x."""
    latent_dim: Count = 3
    """Dimension of z; at most `dim`."""
    scale: Annotated[float, Field(gt=0)] = 0.5
    """Standard deviation sigma of the noise."""
    correlated: bool = False
    """Whether the columns of W are correlated instead of orthogonal."""

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        if self.binarize != "none" or self.dequantize != "none":
            word = "binarize" if self.binarize != "none" else "dequantize"
            raise ValueError(
                f'{word}="{getattr(self, word)}": linear_gaussian data are real-valued. Set {word} to none.'
            )
        if self.latent_dim > self.dim:
            raise ValueError(f"latent_dim={self.latent_dim}: must be at most dim={self.dim}.")
        return self

    def declared(self) -> Declared:
        """Real vectors without labels."""
        return Declared(self.name, "real", (self.dim,), {})

    def read(self, seed: int) -> Arrays:
        """Draw W, b and the data; the truth is {"W": (dim, latent_dim), "b": (dim,), "sigma": ()}."""
        rng, latent_dim = np.random.default_rng([seed, 2]), self.latent_dim
        axes = np.linalg.qr(rng.normal(size=(self.dim, latent_dim)))[0]
        if self.correlated:
            axes = axes @ np.linalg.cholesky((np.eye(latent_dim) + 1) / 2).T
        W = axes * np.linspace(2, 1, latent_dim)
        b = rng.uniform(0.5, 1.5, size=self.dim)
        z = rng.normal(size=(self.num_data, latent_dim))
        x = z @ W.T + b + self.scale * rng.normal(size=(self.num_data, self.dim))
        truth = {"W": W, "b": b, "sigma": np.array(self.scale, float)}
        return Arrays(x, truth={name: torch.from_numpy(value) for name, value in truth.items()})


class MNISTData(DataSpec):
    """Handwritten digits, 60,000 + 10,000 grey images of 28 x 28; the test set is the released one.

    References:
        Gradient-based learning applied to document recognition (LeCun et al., 1998).
        https://doi.org/10.1109/5.726791
    """

    name: Literal["mnist"] = "mnist"
    root: str | None = None
    """Folder with the files, or with mnist/ or MNIST/raw/; default $PYRO_VAE_DATA or ~/.cache/pyro_vae."""
    download: bool = True
    """Whether to download the files into `root` where they are not there."""

    def declared(self) -> Declared:
        """Grey or binarised 28 x 28 images of ten digits."""
        return self._images((1, 28, 28), {"digit": 10})

    def read(self, seed: int) -> Arrays:
        """Find the four files, or download them, and read them."""
        root = Path(self.root or os.environ.get("PYRO_VAE_DATA") or "~/.cache/pyro_vae").expanduser()
        files = _find_mnist(root)
        failure = "data.download is false"
        if files is None and self.download:
            try:
                from torchvision.datasets import MNIST

                MNIST(str(root), download=True)
                files, failure = _find_mnist(root), "the download left no files"
            except (ImportError, OSError, RuntimeError) as error:
                failure = f"it cannot be downloaded ({' '.join(str(error).split())})"
        if files is None:
            raise DeclarationError(
                [
                    f'data.root="{root}": MNIST is not there, and {failure}. Put {", ".join(MNIST_FILES)} '
                    "(plain or .gz) into that folder, or name the folder that has them: data.root=FOLDER, or "
                    "the environment variable PYRO_VAE_DATA."
                ]
            )
        images, digits, test_images, test_digits = _read_mnist(files)
        return Arrays(images, {"digit": digits}, test=Arrays(test_images, {"digit": test_digits}), levels=256)


class ArraysData(DataSpec):
    """Your own data: a file of numpy arrays, or arrays given in memory.

    A .npy file holds x. In a .npz file x is the array `x`, `images` or `data`, or else the only one of two or
    more dimensions; `mask` and `given` are what they are in `Arrays`; every other array of N integers is an
    attribute (`y` is called "label"). NAME_test, where there is an x_test, is NAME of the test set;
    NAME_train is the same as NAME. Other arrays are ignored.
    """

    name: Literal["arrays"] = "arrays"
    path: str | None = None
    """The .npy or .npz file; leave it out for arrays given in memory."""

    def read(self, seed: int) -> Arrays:
        """Read the file; a .npy is mapped, so that only what is used comes into memory."""
        if self.path is None:
            raise DeclarationError(
                ["data.path=null: must be a .npy or .npz file; or pass data=Arrays(x, y) in Python."]
            )
        path, field = Path(self.path).expanduser(), f'data.path="{self.path}"'
        if not path.is_file():
            raise DeclarationError([f"{field}: there is no such file. Name a .npy or .npz file."])
        if path.suffix not in (".npy", ".npz"):
            raise DeclarationError([f"{field}: must end in .npy or .npz. Write it with numpy.save or savez."])
        try:
            if path.suffix == ".npy":
                return Arrays(np.lib.format.open_memmap(path, mode="r"))
            return _named(_read_npz(path, field), field)
        except DeclarationError:
            raise
        except (ValueError, OSError, EOFError, MemoryError, RuntimeError, *ZIP_ERRORS) as error:
            advice = (
                "Python objects are not read; save numbers" if "bject" in str(error) else "Write it again"
            )
            text = f"{field}: is no readable {path.suffix} file ({error}). {advice}, with numpy."
            raise DeclarationError([text]) from None


# ------------------------------------------------------------------------------------------------ preparation


def prepare(
    x: Tensor,
    levels: int | None,
    binarize: Binarize,
    dequantize: Dequantize,
    dtype: torch.dtype,
    uniform: Tensor | None = None,
) -> Tensor:
    """The x that is modelled, from x as stored; nothing here depends on values, so it can be captured.

    Args:
        x: any shape, as stored in a `Split`.
        levels: number of integer levels; None where x is real-valued, and then nothing is dequantised.
        binarize: "static" has been drawn by `load` and does nothing here.
        dequantize: as in `DataSpec`.
        dtype: of the result, a floating-point type.
        uniform: draws from Uniform(0, 1), shaped like x, to use instead of new ones.

    Returns:
        x prepared, same shape.

    Example:
        >>> prepare(torch.tensor([0, 100, 255], dtype=torch.uint8), 256, "threshold", "none", torch.float32)
        tensor([0., 0., 1.])
    """
    x = x.to(dtype)
    if dequantize == "uniform" and levels is not None:
        u = torch.rand_like(x) if uniform is None else uniform
        # Inside the open interval, where a logit is finite: u can be 0, and 255 + u rounds to 256 in float32.
        least = torch.finfo(dtype).eps / 2
        return ((x + u.clamp(min=least)) / levels).clamp(max=1 - least)
    p = x if levels is None else x / (levels - 1)
    if binarize == "dynamic":
        return ((torch.rand_like(p) if uniform is None else uniform) < p).to(dtype)
    if binarize == "threshold":
        return (p >= 0.5).to(dtype)
    return p


def load(spec: DataSpec, seed: int = 0, arrays: Arrays | None = None) -> Data:
    """Read, check and split a data set; the same spec and seed give the same data.

    Args:
        spec: the declaration.
        seed: of the split and of simulated data.
        arrays: data in memory instead of those that `spec` names; its other fields hold.

    Raises:
        DeclarationError: everything that is wrong with the data.
    """
    if arrays is None:
        raw, at = spec.read(seed), f'data.name="{spec.name}": '
        if isinstance(spec, ArraysData):
            at = f'data.path="{spec.path}": '
    else:
        if isinstance(spec, ArraysData) and spec.path is not None:
            raise DeclarationError(
                [f'data.path="{spec.path}": arrays are given in memory too. Leave one out.']
            )
        raw, spec, at = arrays, spec.in_memory(), "data."
    parts, levels = _checked(raw, at)
    train = parts[0]
    low, high = (0.0, 1.0) if levels else _range([part.x for part in parts])
    unit = low >= 0 and high <= 1

    problems: list[str] = []
    if spec.binarize != "none" and not unit:
        problems.append(
            f'data.binarize="{spec.binarize}": needs integer levels or values in [0, 1]; x goes from '
            f"{low:g} to {high:g}. Rescale x, or set data.binarize=none."
        )
    if spec.dequantize != "none" and levels is None:
        problems.append(
            f'data.dequantize="{spec.dequantize}": needs integer levels; x is real-valued. Give x as uint8, '
            "or set data.dequantize=none."
        )
    kept, validation, held_out = _split(len(train.x), len(parts) == 1, spec, seed, problems)
    labels = _thinned({name: labels[kept] for name, labels in train.y.items()}, spec.labels_kept, problems)
    num_classes = {name: 1 + int(max(part.y[name].max() for part in parts)) for name in train.y}
    problems += [
        f"{at}y.{name}: every label is -1. Leave it out." for name, num in num_classes.items() if num == 0
    ]
    if problems:
        raise DeclarationError(problems)

    if spec.binarize == "static":
        parts = [replace(part, x=_draw(part.x, levels, stream)) for stream, part in enumerate(parts)]
        levels = 2
    binary = spec.binarize != "none" or (levels == 2 and spec.dequantize == "none")
    return Data(
        name=spec.name,
        train=replace(_taken(parts[0], kept), attributes=labels),
        validation=_taken(parts[0], validation),
        test=_taken(parts[-1], held_out if len(parts) == 1 else np.arange(len(parts[1].x))),
        shape=train.x.shape[1:],
        levels=levels,
        binarize=spec.binarize,
        dequantize=spec.dequantize,
        support="binary" if binary else "unit" if unit else "real",
        num_classes=num_classes,
        truth=raw.truth,
    )


def _split(
    num_data: int, hold_out: bool, spec: DataSpec, seed: int, problems: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the training, validation and held-out test data, each rising: files are read in sequence."""
    num_test = max(1, round(num_data / 10)) if hold_out else 0
    rest = num_data - num_test
    part = spec.validation
    num_validation = part if isinstance(part, int) else max(1, round(part * rest)) if part else 0
    if num_validation >= rest:
        problems.append(
            f"data.validation={part}: of {num_data} data, {num_test} are held out for testing and "
            f"{num_validation} for validation, which leaves none to train on. "
            "Give more data, or a smaller data.validation."
        )
    order = np.random.default_rng([seed, 1]).permutation(num_data)
    cuts = (num_test, num_test + num_validation)
    held_out, validation, train = (np.sort(indices) for indices in np.split(order, cuts))
    return train, validation, held_out


def _thinned(labels: dict[str, np.ndarray], num_kept: int | None, problems: list[str]) -> dict[str, Tensor]:
    """Labels of which only `num_kept` data keep theirs, evenly over the classes.

    With several attributes a datum keeps all or none, evenly over their combinations. The choice has a fixed
    seed, and a smaller number keeps a subset of a larger one.
    """
    if num_kept is not None:
        table = np.stack(list(labels.values()), 1) if labels else np.zeros((0, 0), np.int64)
        known = np.flatnonzero((table >= 0).any(1))
        if num_kept > len(known):
            problems.append(
                f"data.labels_kept={num_kept}: only {len(known)} training data have labels. "
                + ("Give a smaller number." if labels else "Leave it out: these data have no labels.")
            )
        order = np.random.default_rng(0).permutation(known)
        group = np.unique(table[order], axis=0, return_inverse=True)[1].reshape(-1) if len(order) else order
        # Each datum's place in its own class: all the first ones come first, then all the second ones.
        sorted_by_group = np.argsort(group, kind="stable")
        first = np.searchsorted(group[sorted_by_group], group)
        place = np.empty_like(group)
        place[sorted_by_group] = np.arange(len(group))
        chosen = order[np.argsort(place - first, kind="stable")[:num_kept]]
        keep = np.isin(np.arange(len(table)), chosen)
        labels = {name: np.where(keep, values, -1) for name, values in labels.items()}
    return {name: torch.from_numpy(values) for name, values in labels.items()}


def _draw(x: np.ndarray, levels: int | None, stream: int) -> np.ndarray:
    """Bernoulli draws with probabilities x / (levels - 1), from a fixed seed: the same data in every run."""
    rng, drawn = np.random.default_rng([1, stream]), np.empty(x.shape, np.uint8)
    for rows in _blocks(x):
        drawn[rows] = rng.random(x[rows].shape) * ((levels or 2) - 1) < x[rows]
    return drawn


def _taken(part: Arrays, indices: np.ndarray) -> Split:
    """The data at `indices` as tensors; copied, so that neither a caller's array nor a file is shared."""

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array[indices]))

    return Split(
        tensor(part.x),
        {name: tensor(labels) for name, labels in part.y.items()},
        None if part.given is None else tensor(part.given),
        None if part.mask is None else tensor(part.mask),
    )


# ----------------------------------------------------------------------------------------------------- checks


def _checked(raw: Arrays, at: str) -> tuple[list[Arrays], int | None]:
    """The data, and the test data where there are any, as native numpy arrays; and the number of levels.

    Args:
        raw: the data as given.
        at: what the lines of an error begin with.
    """
    problems: list[str] = []
    checked = [_checked_part(raw, at, problems)]
    if raw.test is not None:
        checked.append(_checked_part(raw.test, f"{at}test.", problems))
    parts = [part for part in checked if part is not None]
    if len(parts) == 2:
        parts = _agreeing(parts[0], parts[1], at, problems)
    levels = None
    if not problems:
        xs, levels = _in_levels([part.x for part in parts], raw.levels, at, problems)
        parts = [replace(part, x=x) for part, x in zip(parts, xs, strict=True)]
    if problems:
        raise DeclarationError(problems)
    return parts, levels


def _checked_part(raw: Arrays, at: str, problems: list[str]) -> Arrays | None:
    """One part, checked by itself: x (N, *event), 0 where its mask is False; None where x is no use."""
    x = _numeric(raw.x, f"{at}x", problems)
    if x is None:
        return None
    if x.ndim not in (2, 3, 4) or x.size == 0:
        problems.append(f"{at}x: shape {x.shape}; must be (N, D), (N, H, W) or (N, C, H, W), none of them 0.")
        return None
    mask = None if raw.mask is None else _numeric(raw.mask, f"{at}mask", problems)
    if mask is not None and (mask.dtype != bool or mask.shape != x.shape):
        problems.append(
            f"{at}mask: {mask.dtype} of shape {mask.shape}; must be bool of the shape {x.shape} of x, True "
            "where the entry exists."
        )
    elif mask is not None:
        x = np.where(mask, x, np.zeros((), x.dtype))
        mask = _channels_first(mask)
    _finite(x, f"{at}x", "Remove them, or give a mask that is False there (numpy.isfinite(x)).", problems)
    given = None if raw.given is None else _numeric(raw.given, f"{at}given", problems)
    if given is not None:
        if given.ndim != 2 or len(given) != len(x):
            problems.append(f"{at}given: shape {given.shape}; must be ({len(x)}, G), one row per datum.")
        given = given if given.dtype.kind == "f" else given.astype(np.float32)
        _finite(given, f"{at}given", "Remove them: covariates cannot be missing.", problems)
    return Arrays(_channels_first(x), _labels(raw.y, len(x), at, problems), given=given, mask=mask)


def _numeric(value: Any, name: str, problems: list[str]) -> np.ndarray | None:
    """The value as an array of numbers, floats as torch has them; None, and a problem, where it is none."""
    try:
        if isinstance(value, Tensor):
            value = value.detach().cpu()
            value = value.float() if value.dtype is torch.bfloat16 else value
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        problems.append(f"{name}: is no rectangular array ({error}). Give one numeric array.")
        return None
    if array.dtype.kind not in "biuf":
        what = "Python objects" if array.dtype.kind == "O" else f"{array.dtype} values"
        problems.append(f"{name}: holds {what}; must be bool, integers or floats. Try .astype(float).")
        return None
    if array.dtype.kind != "f":
        return array
    # Of native byte order; half precision is too coarse to train on, and torch has no more than double.
    return array.astype(np.float32 if array.dtype.itemsize <= 4 else np.float64, copy=False)


def _channels_first(x: np.ndarray) -> np.ndarray:
    """Images as (N, C, H, W); vectors as they are."""
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        return np.moveaxis(x, 3, 1)
    return x


def _blocks(x: np.ndarray) -> Iterator[slice]:
    """Slices of rows of about 2^22 entries, so that temporaries stay small beside a mapped file."""
    rows = max(1, 2**22 // max(1, x[0].size))
    return (slice(start, start + rows) for start in range(0, len(x), rows))


def _finite(x: np.ndarray, name: str, advice: str, problems: list[str]) -> None:
    """Refuse NaN and infinity."""
    if x.dtype.kind != "f" or x.size == 0:
        return
    count, first = 0, None
    for rows in _blocks(x):
        bad = ~np.isfinite(x[rows])
        if bad.any():
            count += int(bad.sum())
            where = np.argwhere(bad)[0]
            where[0] += rows.start
            first = first or where.tolist()
    if count:
        problems.append(f"{name}: NaN or infinite in {count} of {x.size} entries, first at {first}. {advice}")


def _labels(y: Any, num_data: int, at: str, problems: list[str]) -> dict[str, np.ndarray]:
    """The attributes, int64 (N,) each."""
    named = {} if y is None else dict(y) if isinstance(y, Mapping) else {"label": y}
    labels = {}
    for name, values in named.items():
        field = f"{at}y.{name}" if isinstance(y, Mapping) else f"{at}y"
        array = _numeric(values, field, problems)
        if array is None:
            continue
        if array.dtype.kind == "f" or array.shape != (num_data,):
            problems.append(
                f"{field}: {array.dtype} of shape {array.shape}; must be integers of shape ({num_data},), "
                "one label per datum, -1 where it is missing."
            )
        elif array.min() < -1:
            problems.append(f"{field}: holds {array.min()}; must be 0, 1, ..., or -1 where it is missing.")
        else:
            labels[name] = array.astype(np.int64)
    return labels


def _agreeing(train: Arrays, test: Arrays, at: str, problems: list[str]) -> list[Arrays]:
    """Both parts in the same form: labels that the test set lacks are -1, a mask that one lacks is True."""
    if train.x.shape[1:] != test.x.shape[1:]:
        problems.append(f"{at}test.x: one has shape {test.x.shape[1:]}; in x it is {train.x.shape[1:]}.")
    if (train.x.dtype.kind == "f") != (test.x.dtype.kind == "f"):
        problems.append(f"{at}test.x: {test.x.dtype}, but x is {train.x.dtype}. Give both on one scale.")
    if extra := set(test.y) - set(train.y):
        problems.append(f"{at}test.y: has {', '.join(sorted(extra))}, which the training data lack.")
    widths = [0 if part.given is None else part.given.shape[-1] for part in (train, test)]
    if widths[0] != widths[1]:
        problems.append(f"{at}test.given: {widths[1]} covariates; the training data have {widths[0]}.")
    missing = {name: np.full(len(test.x), -1) for name in train.y if name not in test.y}
    test = replace(test, y={**test.y, **missing})
    if (train.mask is None) != (test.mask is None):
        whole = [np.ones(part.x.shape, bool) if part.mask is None else part.mask for part in (train, test)]
        train, test = replace(train, mask=whole[0]), replace(test, mask=whole[1])
    return [train, test]


def _in_levels(
    xs: list[np.ndarray], declared: int | None, at: str, problems: list[str]
) -> tuple[list[np.ndarray], int | None]:
    """Integer and binary x as uint8 and the number of its levels; any other as floats and None."""
    if xs[0].dtype.kind == "f":
        binary = all(((x[rows] == 0) | (x[rows] == 1)).all() for x in xs for rows in _blocks(x))
        if declared is not None:
            problems.append(f"{at}levels={declared}: is for integers, and x is {xs[0].dtype}. Leave it out.")
        return ([x.astype(np.uint8) for x in xs], 2) if binary else (xs, None)
    low, high = _range(xs)
    if declared is None and not 0 <= low <= high <= 255:
        # float32 holds integers up to 2^24 exactly
        dtype = np.float32 if max(-low, high) <= 2**24 else np.float64
        return [x.astype(dtype) for x in xs], None
    levels = declared if declared is not None else 2 if high <= 1 else 256
    if not 2 <= levels <= 256 or low < 0 or high >= levels:
        problems.append(
            f"{at}levels={levels}: must be from 2 to 256, and above every x; x goes from {low:g} to {high:g}."
        )
    return [x.astype(np.uint8, copy=False) for x in xs], levels


def _range(xs: Sequence[np.ndarray]) -> tuple[float, float]:
    """Smallest and largest entry of all the arrays."""
    return float(min(x.min() for x in xs)), float(max(x.max() for x in xs))


# ------------------------------------------------------------------------------------------------------ files


def _read_npz(path: Path, field: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, once its directory says that they fit."""
    with zipfile.ZipFile(path) as directory:
        size = sum(member.file_size for member in directory.infolist())
    if size > MAX_NPZ_BYTES:
        raise DeclarationError(
            [f"{field}: {size} bytes unpacked; must be at most {MAX_NPZ_BYTES}. Save x with numpy.save."]
        )
    with np.load(path, allow_pickle=False) as file:
        return {name: np.asarray(file[name]) for name in file.files}


def _named(arrays: dict[str, np.ndarray], field: str) -> Arrays:
    """Which array of an .npz file is what; see `ArraysData`."""
    train = {name.removesuffix("_train"): a for name, a in arrays.items() if not name.endswith("_test")}
    reserved = ("mask", "given")
    large = [name for name, value in train.items() if value.ndim >= 2 and name not in reserved]
    large = [name for name in ("x", "images", "data") if name in train][:1] or large
    x = large[0] if len(large) == 1 else None
    if x is None:
        found = ", ".join(f"{name} {value.shape}" for name, value in arrays.items()) or "nothing"
        raise DeclarationError([f"{field}: which array is x? It holds {found}. Call the one that is x `x`."])
    num_data = len(train[x]) if train[x].ndim else 0
    attributes = [
        name
        for name, value in train.items()
        if name == "y"
        or (name not in (x, *reserved) and value.dtype.kind in "biu" and value.shape == (num_data,))
    ]

    def part(x: np.ndarray, suffix: str) -> Arrays:
        source = arrays if suffix else train
        labels = {
            "label" if name == "y" else name: source[f"{name}{suffix}"]
            for name in attributes
            if f"{name}{suffix}" in source
        }
        return Arrays(x, labels, given=source.get(f"given{suffix}"), mask=source.get(f"mask{suffix}"))

    test = arrays.get("x_test", arrays.get(f"{x}_test"))
    return replace(part(train[x], ""), test=None if test is None else part(test, "_test"))


def _find_mnist(root: Path) -> list[Path] | None:
    """The four files, plain or gzipped, in the first folder that has them all."""
    for folder in (root, root / "mnist", root / "MNIST" / "raw"):
        plain = [folder / name for name in MNIST_FILES]
        files = [file if file.is_file() else file.with_name(f"{file.name}.gz") for file in plain]
        if all(file.is_file() for file in files):
            return files
    return None


def _read_mnist(files: Sequence[Path]) -> list[np.ndarray]:
    """The four arrays: images, labels, test images, test labels."""
    problems, arrays = [], []
    for path, ndim in zip(files, (3, 1, 3, 1), strict=True):
        try:
            arrays.append(read_idx(path, ndim))
        except (ValueError, OSError, EOFError, zlib.error) as error:
            problems.append(f"data.root: {path}: {error}. Delete the file and fetch it again.")
    if not problems:
        for images, labels in ((0, 1), (2, 3)):
            if len(arrays[images]) != len(arrays[labels]):
                problems.append(
                    f"data.root: {files[images]} holds {len(arrays[images])} images and {files[labels].name} "
                    f"{len(arrays[labels])} labels. Fetch both again, from the same place."
                )
    if problems:
        raise DeclarationError(problems)
    return arrays


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Read an IDX file: bytes 0, 0, 8, ndim, the dimensions as big-endian uint32, the entries as uint8.

    Args:
        path: the file; gzipped if it ends in .gz.
        ndim: number of dimensions that it must have.

    Raises:
        ValueError: it is no such file, or is shorter or longer than it says.
        OSError, EOFError, zlib.error: it cannot be read or unpacked.

    References:
        The MNIST database (LeCun et al.). https://yann.lecun.org/exdb/mnist/
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        head, magic = file.read(4), bytes((0, 0, 8, ndim))
        if head != magic:
            raise ValueError(
                f"begins with {head.hex()}, not {magic.hex()} like IDX files of {ndim} dimensions"
            )
        sizes = file.read(4 * ndim)
        shape = tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, 4 * ndim, 4))
        size = math.prod(shape)
        # A damaged header can say anything; this is three times the largest set of the kind, EMNIST.
        if size >= 2**31:
            raise ValueError(f"its header says {shape}, which is more than any such file holds")
        body = file.read(size + 1)
    if len(body) != size or size == 0:
        more = "more than " * (len(body) > size)
        raise ValueError(f"its header says {shape}, {size} bytes, and {more}{min(len(body), size)} follow")
    return np.frombuffer(body, np.uint8).reshape(shape)


DATA = Table("data set", DataSpec, DigitsData, LinearGaussianData, MNISTData, ArraysData)
