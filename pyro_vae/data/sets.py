"""The data sets that come with the package, and your own arrays: one class each."""

import json
import math
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from pyro_vae.data.containers import Arrays, Declared
from pyro_vae.data.files import expanded, in_shape, is_table, read_arrays
from pyro_vae.data.spec import DataSpec, OwnData
from pyro_vae.data.tables import read_table
from pyro_vae.specs import Count, DeclarationError, Seq


class DigitsData(DataSpec):
    """Handwritten digits, 1797 images of 8 x 8 in 17 levels, embedded in scikit-learn; 360 are the test set.

    References:
        Optical Recognition of Handwritten Digits (Alpaydin & Kaynak, 1998). https://doi.org/10.24432/C50P49
    """

    name: Literal["digits"] = "digits"

    def declared(self) -> Declared:
        """Grey or binarised 8 x 8 images of ten digits."""
        return self._images((1, 8, 8), {"digit": 10}, levels=17)

    def read(self, seed: int) -> Arrays:
        """Read the images; the test set is the same for every seed, so that results can be compared."""
        pixels, labels = _digits()
        images = pixels.reshape(-1, 8, 8).astype(np.uint8)
        order = np.random.default_rng(0).permutation(len(images))
        test, train = order[:360], order[360:]
        held_out = Arrays(images[test], {"digit": labels[test]})
        return Arrays(images[train], {"digit": labels[train]}, test=held_out, levels=17)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Images (1797, 64) and labels (1797,), from the file of scikit-learn: to import it would take two seconds."""
    package = find_spec("sklearn")
    file = Path(package.origin or "").parent / "datasets" / "data" / "digits.csv.gz" if package else None
    if file is None or not file.is_file():  # scikit-learn keeps it elsewhere, and knows where
        from sklearn.datasets import load_digits

        return load_digits(return_X_y=True)
    table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    return table[:, :-1], table[:, -1]


class SquaresData(DataSpec):
    """Squares on a dark ground, 576 grey images of 16 x 16, one for each row, column, size and shade: known factors.

    What a latent dimension stands for can be measured on them; a tenth, drawn at random, is the test set.

    References:
        dSprites: Disentanglement testing Sprites dataset (Matthey, Higgins, Hassabis & Lerchner, 2017), the model of
        this smaller one.
    """

    name: Literal["squares"] = "squares"

    def declared(self) -> Declared:
        """Grey images of 16 x 16 with four attributes."""
        return self._images((1, 16, 16), {"row": 8, "column": 8, "size": 3, "shade": 3})

    def read(self, seed: int) -> Arrays:
        """Draw every combination once."""
        row, column, size, shade = (axis.flatten() for axis in np.indices((8, 8, 3, 3)))
        x = np.zeros((len(row), 1, 16, 16), np.uint8)
        for image, r, c, s, grey in zip(x[:, 0], row, column, size, shade, strict=True):
            image[r + 1 : r + 4 + 2 * s, c + 1 : c + 4 + 2 * s] = (85, 170, 255)[grey]
        return Arrays(x, {"row": row, "column": column, "size": size, "shade": shade})


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


class ArraysData(OwnData):
    """Your own data: a file of numpy arrays or a table, or arrays given in memory.

    A .npy file holds x. In a .npz file x is the array `x`, `images` or `data`, or else the only one of two or
    more dimensions; `mask` and `given` are what they are in `Arrays`; every other array of N integers is an
    attribute (`y` is called "label"). NAME_test, where there is an x_test, is NAME of the test set;
    NAME_train is the same as NAME. Other arrays are ignored.

    A table is a .csv or .tsv file in UTF-8, which may be packed (.csv.gz): a line of names, then a line per datum,
    separated by commas, semicolons or tabs, with decimal commas only where no comma separates. Columns in `labels`
    are attributes: integers 0..C-1 stay, other integers, true and false, and text become classes in sorted order.
    Columns in `given` are covariates, those in `ignore` are left out, and all others, which must be numbers, are x.
    Empty entries, NA, N/A, NaN, null and ? are missing: x gets a mask and an attribute -1, and `given` may not have
    any. A table is real-valued however many integers it holds, or binary if x is all 0 and 1, unless `levels` is set.

    Example:
        A table of UCI's wine quality, and one of images as Kaggle has them, a pixel per column:

            data: {name: arrays, path: winequality-red.csv, labels: [quality], standardize: true}
            data: {name: arrays, path: train.csv, labels: [label], levels: 256, shape: [28, 28]}
    """

    name: Literal["arrays"] = "arrays"
    path: str | None = None
    """The .npy, .npz, .csv or .tsv file; leave it out for arrays given in memory."""
    labels: Seq[str] = ()
    """Columns of a table that are attributes."""
    given: Seq[str] = ()
    """Columns of a table that are covariates, which are never modelled."""
    ignore: Seq[str] = ()
    """Columns of a table that are left out, such as numbers of rows and dates."""
    levels: Annotated[int, Field(ge=2, le=256)] | None = None
    """Number of integer levels of x in the file; null: 256 for integers within 0..255 in arrays, none in a table."""
    shape: Seq[Count] | None = None
    """What rows of numbers are reshaped to: [rows, columns], [channels, rows, columns] or [rows, columns, 1 or 3]."""

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        problems, roles = [], dict[str, str]()
        advice = ": in a .npz every array of N integers is an attribute already, and labels.NAME.classes=C models it"
        for role in ("labels", "given", "ignore"):
            names = getattr(self, role)
            if names and not (self.path and is_table(Path(self.path))):
                problems.append(
                    f"{role}={_json(names)}: is for tables, and path={_json(self.path)} is none. Name a .csv or .tsv "
                    f"file, or leave {role} out{advice if role == 'labels' else ''}."
                )
            for name in names:
                if name in roles:
                    problems.append(f"{role}={_json(names)}: {name!r} is in {roles[name]} already. Name a column once.")
                roles[name] = role
        for field in ("levels", "shape"):
            value = getattr(self, field)
            if self.path is None and value is not None:
                advice = "Reshape x" if field == "shape" else "Say Arrays(x, levels=...)"
                problems.append(f"{field}={_json(value)}: is for a file, and path is null. {advice} instead.")
        if self.shape is not None and len(self.shape) not in (2, 3):
            allowed = "[rows, columns], [channels, rows, columns] or [rows, columns, 1 or 3]"
            problems.append(f"shape={_json(self.shape)}: must be {allowed}.")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def read(self, seed: int) -> Arrays:
        """Read the file; a .npy is mapped, so that only what is used comes into memory."""
        if self.path is None:
            raise DeclarationError(
                ["data.path=null: must be a .npy, .npz, .csv or .tsv file; or pass data=Arrays(x, y) in Python."]
            )
        path, field = expanded(self.path), f'data.path="{self.path}"'
        if is_table(path):
            roles = {"labels": self.labels, "given": self.given, "ignore": self.ignore}
            arrays = read_table(path, field, **roles, levels=self.levels)
        else:
            arrays = replace(read_arrays(path, field), levels=self.levels)
        return arrays if self.shape is None else self._shaped(arrays, self.shape, field)

    def _shaped(self, arrays: Arrays, shape: tuple[int, ...], field: str) -> Arrays:
        """Rows as images; anything else of another shape is refused."""
        arrays, problems = in_shape(arrays, shape), []
        for x, word in ((arrays.x, "x"), (arrays.x if arrays.test is None else arrays.test.x, "test.x")):
            if x.shape[1:] != shape:
                problems.append(
                    f"data.shape={_json(shape)}: takes rows of {math.prod(shape)} numbers, and {word} of {field} has "
                    f"shape {x.shape}. Correct it, or leave it out."
                )
            if arrays.test is None:
                break
        if problems:
            raise DeclarationError(problems)
        return arrays


def _json(value: object) -> str:
    """A value as a YAML file has it."""
    return json.dumps(value, ensure_ascii=False)


def in_memory(spec: DataSpec) -> ArraysData:
    """The declaration that treats arrays given in memory as `spec` treats its own."""
    return ArraysData(**{field: getattr(spec, field) for field in DataSpec.model_fields if field != spec.word})
