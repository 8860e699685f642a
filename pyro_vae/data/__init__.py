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

To add a data set, derive from `DataSpec`, give it a `name`, a `read` and, where it is known, a `declared`:

    class Bars(DataSpec):
        name: Literal["bars"] = "bars"

        def read(self, seed: int) -> Arrays:
            return Arrays(x, {"row": row}, levels=8)

In the package it goes into `sets.py` (or `released.py`) and into the table `DATA` below; from outside,
`pyro_vae.register(Bars)`.
Files, each importing from those before it: `storage`, `containers`, `files`, `shown`, `spec`, `checks`, `delimited`,
`tables`, `images`, `folders`, `hugging_face`, `idx`, `matlab`, `layouts`, `download`, `released`, `sets`,
`preparation`, `inputs`.
"""

from pyro_vae.data.containers import Arrays, Binarize, Data, Declared, Dequantize, Split, StoredSplit, Support
from pyro_vae.data.download import ReleasedData
from pyro_vae.data.files import MAX_NPZ_BYTES
from pyro_vae.data.folders import FolderData
from pyro_vae.data.hugging_face import HuggingFaceData
from pyro_vae.data.idx import MNIST_FILES, read_idx
from pyro_vae.data.inputs import read_input
from pyro_vae.data.preparation import load, prepare
from pyro_vae.data.released import (
    CelebAData,
    CIFAR10Data,
    EMNISTData,
    FashionMNISTData,
    KMNISTData,
    MNISTData,
    OmniglotData,
    SVHNData,
)
from pyro_vae.data.sets import ArraysData, DigitsData, LinearGaussianData, SquaresData
from pyro_vae.data.shown import Shown
from pyro_vae.data.spec import DataSpec, OwnData
from pyro_vae.specs import Table

DATA = Table(
    "data set",
    DataSpec,
    DigitsData,
    SquaresData,
    LinearGaussianData,
    MNISTData,
    FashionMNISTData,
    KMNISTData,
    EMNISTData,
    OmniglotData,
    CIFAR10Data,
    SVHNData,
    CelebAData,
    ArraysData,
    FolderData,
    HuggingFaceData,
)

__all__ = [
    "DATA",
    "MAX_NPZ_BYTES",
    "MNIST_FILES",
    "Arrays",
    "ArraysData",
    "CIFAR10Data",
    "CelebAData",
    "Binarize",
    "Data",
    "DataSpec",
    "Declared",
    "Dequantize",
    "DigitsData",
    "EMNISTData",
    "FashionMNISTData",
    "FolderData",
    "HuggingFaceData",
    "KMNISTData",
    "LinearGaussianData",
    "MNISTData",
    "OmniglotData",
    "OwnData",
    "ReleasedData",
    "SVHNData",
    "Shown",
    "Split",
    "SquaresData",
    "StoredSplit",
    "Support",
    "load",
    "prepare",
    "read_idx",
    "read_input",
]
