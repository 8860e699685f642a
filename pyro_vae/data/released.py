"""Data sets that others released, one class each: what is in them, and what their files are called."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from pyro_vae.data.containers import Arrays, Declared
from pyro_vae.data.download import ReleasedData
from pyro_vae.data.idx import MNIST_FILES, SIDE, read_parts
from pyro_vae.data.layouts import CELEBA_ATTRIBUTES, attempted, read_celeba, read_omniglot, read_svhn
from pyro_vae.specs import Count, DeclarationError


class IDXData(ReleasedData):
    """Abstract spec of a set in four IDX files, grey images of 28 x 28."""

    attribute: ClassVar[str]
    """What the labels are called."""
    own_names: ClassVar[bool] = False
    """Whether the files cannot be taken for those of another set."""
    packed: ClassVar[bool] = True

    def files(self) -> tuple[str, ...]:
        """Images, labels, test images, test labels."""
        return MNIST_FILES

    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        raise TypeError(f"{type(self).__name__} names no classes: define classes() -> tuple[str, ...].")

    def looked_in(self) -> list[Path]:
        """The folders below the root, and the root itself where it is this set's."""
        # Four sets share their files' names: what the environment names may hold any of them.
        itself = [self.place()] if self.own_names or self.root else []
        return super().looked_in() + itself

    def declared(self) -> Declared:
        """Grey or binarised 28 x 28 images."""
        return self._images((1, SIDE, SIDE), {self.attribute: len(self.classes())})

    def arrays(self, files: Sequence[Path], field: str) -> Arrays:
        """The images and their labels."""
        return read_parts(files, self.attribute, self.classes(), field)


class MNISTData(IDXData):
    """Handwritten digits, 60,000 + 10,000 grey images of 28 x 28; the test set is the released one.

    References:
        Gradient-based learning applied to document recognition (LeCun et al., 1998).
        https://doi.org/10.1109/5.726791
    """

    title: ClassVar[str] = "MNIST"
    folders: ClassVar[tuple[str, ...]] = ("mnist", "MNIST/raw")
    attribute: ClassVar[str] = "digit"
    own_names: ClassVar[bool] = True  # the names are MNIST's; the others took them over

    name: Literal["mnist"] = "mnist"

    def classes(self) -> tuple[str, ...]:
        """The ten digits."""
        return tuple(digits)


class FashionMNISTData(IDXData):
    """Articles of clothing, 60,000 + 10,000 grey images of 28 x 28 in 10 classes.

    References:
        Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms (Xiao et al., 2017).
        https://arxiv.org/abs/1708.07747
    """

    title: ClassVar[str] = "FashionMNIST"
    folders: ClassVar[tuple[str, ...]] = ("fashion_mnist", "FashionMNIST/raw")
    attribute: ClassVar[str] = "garment"

    name: Literal["fashion_mnist"] = "fashion_mnist"

    def classes(self) -> tuple[str, ...]:
        """The ten kinds of clothing."""
        words = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag")
        return (*words, "Ankle boot")


class KMNISTData(IDXData):
    """Cursive Japanese characters, 60,000 + 10,000 grey images of 28 x 28, one character per row of hiragana.

    References:
        Deep Learning for Classical Japanese Literature (Clanuwat et al., 2018). https://arxiv.org/abs/1812.01718
    """

    title: ClassVar[str] = "KMNIST"
    folders: ClassVar[tuple[str, ...]] = ("kmnist", "KMNIST/raw")
    attribute: ClassVar[str] = "character"

    name: Literal["kmnist"] = "kmnist"

    def classes(self) -> tuple[str, ...]:
        """The ten characters, in Latin letters."""
        return ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


class EMNISTData(IDXData):
    """Handwritten digits and letters, up to 814,255 grey images of 28 x 28 in up to 62 classes; upright here.

    Letters are classes of their own in upper and in lower case in "byclass"; in "bymerge" and "balanced" the two are
    one class where they look alike, and in "letters" all are.

    References:
        EMNIST: an extension of MNIST to handwritten letters (Cohen et al., 2017). https://arxiv.org/abs/1702.05373
    """

    title: ClassVar[str] = "EMNIST"
    folders: ClassVar[tuple[str, ...]] = ("emnist", "EMNIST/raw", "EMNIST/raw/gzip")
    archives: ClassVar[tuple[str, ...]] = ("gzip.zip",)
    attribute: ClassVar[str] = "character"
    own_names: ClassVar[bool] = True

    name: Literal["emnist"] = "emnist"
    split: Literal["balanced", "byclass", "bymerge", "letters", "digits", "mnist"] = "balanced"
    """Which of the six selections of characters."""

    def files(self) -> tuple[str, ...]:
        """Images, labels, test images, test labels."""
        kinds = ("images-idx3", "labels-idx1")
        return tuple(f"emnist-{self.split}-{part}-{kind}-ubyte" for part in ("train", "test") for kind in kinds)

    def download_calls(self) -> tuple[Mapping[str, object], ...]:
        """One call, which downloads all selections."""
        return ({"split": self.split},)

    def classes(self) -> tuple[str, ...]:
        """The characters of the selection."""
        if self.split == "letters":
            return tuple(ascii_lowercase)
        letters = {"byclass": ascii_lowercase, "bymerge": "abdefghnqrt", "balanced": "abdefghnqrt"}
        return tuple(digits + ascii_uppercase + letters[self.split] if self.split in letters else digits)

    def arrays(self, files: Sequence[Path], field: str) -> Arrays:
        """The images, upright, and their labels from 0."""
        first = 1 if self.split == "letters" else 0
        # Released with rows and columns exchanged, as MATLAB stores them.
        return read_parts(files, self.attribute, self.classes(), field, first=first, by_columns=True)


class OmniglotData(ReleasedData):
    """Handwritten characters of 50 alphabets, 19,280 + 13,180 images, 20 of each character, white on black here.

    The 30 alphabets of the background set are the training set and the 20 of the evaluation set the test set, so
    that no character is in both. Log-likelihoods in the literature are of another split, 24,345 + 8,070 images of
    28 x 28 (Burda et al., 2016), and are not comparable.

    References:
        Human-level concept learning through probabilistic program induction (Lake et al., 2015).
        https://doi.org/10.1126/science.aab3050
        Importance Weighted Autoencoders (Burda et al., 2016). https://arxiv.org/abs/1509.00519
    """

    title: ClassVar[str] = "Omniglot"
    folders: ClassVar[tuple[str, ...]] = ("omniglot-py", "omniglot", "omniglot/omniglot-py", ".")
    archives: ClassVar[tuple[str, ...]] = ("images_background.zip", "images_evaluation.zip")

    name: Literal["omniglot"] = "omniglot"
    size: Annotated[int, Field(ge=1, le=105)] = 28
    """Rows, and columns, that the images of 105 x 105 are resized to."""

    def files(self) -> tuple[str, ...]:
        """The two folders."""
        return ("images_background", "images_evaluation")

    def download_calls(self) -> tuple[Mapping[str, object], ...]:
        """One call for each of the two."""
        return ({"background": True}, {"background": False})

    def declared(self) -> Declared:
        """Grey or binarised squares of 50 alphabets and 1623 characters."""
        return self._images((1, self.size, self.size), {"alphabet": 50, "character": 1623})

    def arrays(self, files: Sequence[Path], field: str) -> Arrays:
        """The images, their alphabets and their characters."""
        return read_omniglot(files, field, self.size)


class CIFAR10Data(ReleasedData):
    """Photographs of 10 kinds of objects, 50,000 + 10,000 images of 32 x 32 in colour.

    References:
        Learning Multiple Layers of Features from Tiny Images (Krizhevsky, 2009).
        https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf
    """

    title: ClassVar[str] = "CIFAR10"
    folders: ClassVar[tuple[str, ...]] = ("cifar-10-batches-py", "cifar10/cifar-10-batches-py")
    archives: ClassVar[tuple[str, ...]] = ("cifar-10-python.tar.gz",)

    name: Literal["cifar10"] = "cifar10"

    def files(self) -> tuple[str, ...]:
        """Five files of training images, one of test images, one of names."""
        return (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")

    def declared(self) -> Declared:
        """Colour images of 32 x 32 of ten kinds of objects."""
        return self._images((3, 32, 32), {"object": 10})

    def arrays(self, files: Sequence[Path], field: str) -> Arrays:
        """The images and what is on them."""
        from torchvision.datasets import CIFAR10

        # The files are pickles, which can run anything. torchvision unpickles those alone whose MD5 is that of the
        # release; the same is checked here first, because it does not say which of them is another.
        meta, problems = CIFAR10.meta, list[str]()
        sums = dict([*CIFAR10.train_list, *CIFAR10.test_list, [meta["filename"], meta["md5"]]])
        for path in files:
            attempted(partial(_check_md5, md5=sums[path.name]), path, field, problems)
        if problems:
            raise DeclarationError(problems)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy 2.4, about pickles of numpy 1 (pytorch/vision#9340)
            train, test = (CIFAR10(str(files[0].parent.parent), train=part) for part in (True, False))
        parts = [
            Arrays(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), {"object": np.asarray(part.targets)})
            for part in (train, test)
        ]
        return replace(parts[0], test=parts[1], levels=256, names={"object": tuple(train.classes)})


def _check_md5(path: Path, md5: str) -> None:
    """Refuse a file that is not that of the release."""
    from torchvision.datasets.utils import check_md5

    if not check_md5(path, md5):
        raise ValueError("is not the file that was released (by its MD5)")


class SVHNData(ReleasedData):
    """House numbers, cropped to one digit each, 73,257 + 26,032 images of 32 x 32 in colour.

    References:
        Reading Digits in Natural Images with Unsupervised Feature Learning (Netzer et al., 2011).
        http://ufldl.stanford.edu/housenumbers/
    """

    title: ClassVar[str] = "SVHN"
    folders: ClassVar[tuple[str, ...]] = ("svhn", "SVHN", ".")
    below: ClassVar[str] = "svhn"

    name: Literal["svhn"] = "svhn"

    def files(self) -> tuple[str, ...]:
        """Training and test images with their labels."""
        return ("train_32x32.mat", "test_32x32.mat")

    def download_calls(self) -> tuple[Mapping[str, object], ...]:
        """One call for each file."""
        return ({"split": "train"}, {"split": "test"})

    def declared(self) -> Declared:
        """Colour images of 32 x 32 of ten digits."""
        return self._images((3, 32, 32), {"digit": 10})

    def arrays(self, files: Sequence[Path], field: str) -> Arrays:
        """The images and their digits."""
        return read_svhn(files, field)


class CelebAData(ReleasedData):
    """Faces of celebrities, aligned, 182,637 + 19,962 images in colour with 40 attributes of 0 or 1.

    The central 178 x 178 of 178 x 218 is resized to `size`; a crop of 148 x 148 or 108 x 108, which is usual too,
    shows less hair. The released training and validation images are the training set here, of which `validation`
    takes its part. The download comes from Google Drive and needs the package gdown; img_align_celeba.zip, fetched by
    hand, is to be unpacked.

    References:
        Deep Learning Face Attributes in the Wild (Liu et al., 2015). https://arxiv.org/abs/1411.7766
    """

    title: ClassVar[str] = "CelebA"
    folders: ClassVar[tuple[str, ...]] = ("celeba", ".")
    archives: ClassVar[tuple[str, ...]] = ("img_align_celeba.zip",)

    name: Literal["celeba"] = "celeba"
    size: Annotated[int, Field(ge=1, le=178)] = 64
    """Rows, and columns, that the central 178 x 178 pixels are resized to."""
    limit: Count | None = None
    """How many images are read of the training set, and of the test set, the first ones; null: all."""

    def files(self) -> tuple[str, ...]:
        """The folder of images, their attributes, and which part each is in."""
        return ("img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt")

    def declared(self) -> Declared:
        """Colour squares with 40 attributes."""
        return self._images((3, self.size, self.size), dict.fromkeys(CELEBA_ATTRIBUTES, 2))

    def arrays(self, files: Sequence[Path], field: str) -> Arrays:
        """The images and their attributes."""
        return read_celeba(files, field, self.size, self.limit)
