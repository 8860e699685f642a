"""`DataSpec`, the abstract spec of a data set: how to read it, and how its values and labels are treated."""

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from pyro_vae.data.containers import Arrays, Binarize, Declared, Dequantize, Support
from pyro_vae.data.files import expanded
from pyro_vae.data.shown import Shown
from pyro_vae.specs import Part


class DataSpec(Part):
    """Abstract spec of a data set."""

    word: ClassVar[str] = "name"

    name: Any  # a Literal in every data set; declared here so that it comes first
    """Which data set."""
    binarize: Binarize = "none"
    """How grey values become {0, 1}: a new draw per step, one draw for ever, or a threshold at 1/2."""
    dequantize: Dequantize = "none"
    """Whether uniform noise turns integer levels into a continuous x in (0, 1)."""
    standardize: bool = False
    """Whether the networks see (x - mean) / sd of the training data, per column or channel; undone on output."""
    counts: bool = False
    """Whether x are counts 0, 1, 2, ... and no grey levels."""
    library: bool = False
    """Whether the logarithm of a datum's total count is a covariate, its library size; for counts."""
    missing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the entries that is hidden at random, once and for ever, beside those that are missing already."""
    shown: Shown | None = None
    """Entries of x that are given and not modelled."""
    validation: float | int = 0.1
    """How many of the training data are kept for validation: a fraction in [0, 1) or a count."""
    labels_kept: Annotated[int, Field(ge=0)] | None = None
    """How many training data keep their labels, evenly over the classes; the others get -1."""

    def read(self, seed: int) -> Arrays:
        """Read or make the data; `seed` is for data that are simulated.

        Raises:
            DeclarationError: the data cannot be had, and what to do about it.
        """
        raise TypeError(f"{type(self).__name__} reads no data: define read(seed) -> Arrays.")

    def declared(self) -> Declared | None:
        """What is known without reading; None where only the data can tell."""
        return None

    def located(self) -> Self:
        """The same data set from any working directory: what names a file or folder is absolute."""
        if self.shown is None or self.shown.mask is None:
            return self
        return self.replace(shown=Shown(mask=str(expanded(self.shown.mask).absolute())))

    def where(self) -> str:
        """What names the data, with its value: what the lines of an error begin with."""
        return f'data.name="{self.name}"'

    def _images(self, shape: tuple[int, ...], num_classes: dict[str, int], levels: int = 256) -> Declared:
        """What is known of images in integer levels."""
        grey: Support = "levels" if self.dequantize == "none" else "unit"
        support: Support = grey if self.binarize == "none" else "binary"
        support = "counts" if self.counts else "real" if self.standardize else support
        known = None if support in ("counts", "real") else 2 if self.binarize == "static" else levels
        return Declared(self.name, support, shape, num_classes, known)

    @model_validator(mode="after")
    def _check(self) -> Self:
        # Said here and not by the annotation, whose message would name the branches of the union.
        if self.validation < 0 or (isinstance(self.validation, float) and self.validation >= 1):
            raise ValueError(f"validation={self.validation}: must be a fraction in [0, 1) or a count, an integer >= 0.")
        if self.binarize != "none" and self.dequantize != "none":
            raise ValueError(
                f'binarize="{self.binarize}" and dequantize="{self.dequantize}" exclude one another: '
                "binarized data have no levels left to spread. Set one of them to none."
            )
        if self.counts and (self.standardize or self.binarize != "none" or self.dequantize != "none"):
            word = "standardize" if self.standardize else "binarize" if self.binarize != "none" else "dequantize"
            raise ValueError(f"counts=true: counts stay as they are; leave {word} out.")
        hides = f"missing={self.missing:g}" if self.missing else ""
        if hides and (self.library or self.shown is not None):
            other = "library=true" if self.library else "shown"
            why = "a total of some entries is no total" if self.library else "what is not shown is predicted, all of it"
            raise ValueError(f"{hides}: does not go with {other}: {why}; leave one of them out.")
        if self.library and not self.counts:
            raise ValueError("library=true: is the total count of a datum; set counts=true too, or leave it out.")
        for word in ("binarize", "dequantize"):
            if self.standardize and getattr(self, word) != "none":
                raise ValueError(
                    f'standardize=true and {word}="{getattr(self, word)}" exclude one another: standardized data '
                    f"are real-valued. Set {word}=none, or leave standardize out."
                )
        return self


class OwnData(DataSpec):
    """Abstract spec of a user's own data, in a file or folder."""

    path: str | None = None

    def where(self) -> str:
        """The path, where there is one."""
        return super().where() if self.path is None else f'data.path="{self.path}"'

    def located(self) -> Self:
        """The same, the path absolute where there is one."""
        found = super().located()
        return found if found.path is None else found.replace(path=str(expanded(found.path).absolute()))
