"""The data sets that come with the package, and your own arrays: one class each."""

import os
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from pyro_vae.data.containers import Arrays, Declared
from pyro_vae.data.files import MNIST_FILES, expanded, find_mnist, read_arrays, read_mnist
from pyro_vae.data.spec import DataSpec
from pyro_vae.specs import Count, DeclarationError


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
        root = expanded(self.root or os.environ.get("PYRO_VAE_DATA") or "~/.cache/pyro_vae")
        files = find_mnist(root)
        failure = "data.download is false"
        if files is None and self.download:
            try:
                from torchvision.datasets import MNIST

                MNIST(str(root), download=True)
                files, failure = find_mnist(root), "the download left no files"
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
        images, digits, test_images, test_digits = read_mnist(files)
        return Arrays(images, {"digit": digits}, test=Arrays(test_images, {"digit": test_digits}), levels=256)

    def located(self) -> Self:
        """The same, the root absolute where one is given; otherwise the environment says where."""
        return self.replace(root=str(expanded(self.root).absolute())) if self.root else self


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
        return read_arrays(expanded(self.path), f'data.path="{self.path}"')

    def located(self) -> Self:
        """The same, the path absolute where there is one."""
        return self if self.path is None else self.replace(path=str(expanded(self.path).absolute()))


def in_memory(spec: DataSpec) -> ArraysData:
    """The declaration that treats arrays given in memory as `spec` treats its own."""
    return ArraysData(**{field: getattr(spec, field) for field in DataSpec.model_fields if field != spec.word})
