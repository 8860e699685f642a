"""Parts of an image that are given and not modelled: structured prediction.

    p(x_rest | x_shown) = int p(x_rest | z, x_shown) p(z | x_shown) dz

The shown entries join the covariates, which every part of a variant sees, and leave the likelihood, whose entries they
are no more.

References:
    Learning Structured Output Representation using Deep Conditional Generative Models (Sohn, Lee & Yan, 2015).
"""

from typing import Literal

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from pyro_vae.data.files import expanded
from pyro_vae.specs import DeclarationError, Spec


class Shown(Spec):
    """Which entries of x are given: quadrants of an image, or those where a mask is True."""

    quadrants: Literal[1, 2, 3] | None = None
    """1: lower left; 2: the left half; 3: all but the lower right."""
    mask: str | None = None
    """A .npy file: bool, shaped like a datum, True where the entry is given."""

    @model_validator(mode="after")
    def _one_of_both(self) -> "Shown":
        if (self.quadrants is None) == (self.mask is None):
            raise ValueError("shown: give either quadrants (1, 2 or 3) or mask (a .npy file)")
        return self

    def entries(self, shape: tuple[int, ...]) -> Tensor:
        """True where an entry of a datum of that shape is given; bool, shaped like a datum.

        Raises:
            DeclarationError: the data have no quadrants, or the mask cannot be read or has another shape.
        """
        if self.mask is not None:
            return _read(self.mask, shape)
        if len(shape) != 3:
            raise DeclarationError(
                [f"data.shown.quadrants={self.quadrants}: needs images, and these data are vectors; give a mask."]
            )
        rows, columns = shape[1] // 2, shape[2] // 2
        shown = torch.zeros(shape, dtype=torch.bool)
        shown[:, rows:, :columns] = True
        if self.quadrants in (2, 3):
            shown[:, :rows, :columns] = True
        if self.quadrants == 3:
            shown[:, :rows, columns:] = True
        return shown


def _read(path: str, shape: tuple[int, ...]) -> Tensor:
    """The mask of a file."""
    at = f'data.shown.mask="{path}"'
    try:
        found = np.load(expanded(path), allow_pickle=False)
    except OSError as error:
        raise DeclarationError([f"{at}: cannot be read ({error.strerror or 'it is no .npy file'})."]) from None
    except (ValueError, EOFError):
        raise DeclarationError([f"{at}: is no .npy file of numbers; numpy.save makes one."]) from None
    if not isinstance(found, np.ndarray) or found.dtype != bool or found.shape not in (shape, shape[1:]):
        what = f"{found.dtype} of shape {found.shape}" if isinstance(found, np.ndarray) else "an archive"
        raise DeclarationError([f"{at}: holds {what}; must be bool of the shape {shape} of a datum."])
    if found.all() or not found.any():
        which = "every entry" if found.all() else "no entry"
        raise DeclarationError([f"{at}: shows {which}; must leave some to predict and show some."])
    return torch.from_numpy(np.broadcast_to(found, shape).copy())
