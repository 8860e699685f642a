"""From a data set and a declaration to what a step works on: the VAE, data on a device, the treatment of a batch."""

import math
from typing import cast

import torch
from torch import Tensor

from pyro_vae.capture import same_random_state
from pyro_vae.data import Data, Split, StoredSplit, prepare
from pyro_vae.data.storage import Stored
from pyro_vae.experiment import Experiment
from pyro_vae.networks import fill, join
from pyro_vae.sites import Batch
from pyro_vae.specs import DeclarationError
from pyro_vae.step import Prepare, Resident
from pyro_vae.vae import VAE

DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}


def build(experiment: Experiment, data: Data, device: torch.device) -> VAE:
    """The VAE of an experiment, initialised from its seed; the caller's random state is left alone."""
    scaling = data.scaling
    with same_random_state(torch.device("cpu")):
        torch.manual_seed(experiment.seed)
        vae = VAE(
            experiment.variant,
            data.shape,
            given=data.num_given,
            masked=data.train.mask is not None,
            standardized=scaling is not None,
        )
    vae = vae.to(device=device, dtype=DTYPES[experiment.training.precision])
    if vae.standardization is not None and scaling is not None:
        vae.standardization.set(*scaling)  # in that precision: a mean may need more digits than float32 has
    return vae


def preparer(data: Data, dtype: torch.dtype, device: torch.device) -> Prepare:
    """The function from a batch as stored to one as modelled.

    x is scaled, binarised or dequantised; entries that are shown, and the library size of counts, join the covariates.
    """
    scaling = None if data.scaling is None else tuple(value.to(device=device, dtype=dtype) for value in data.scaling)
    shown = None if data.shown is None else data.shown.to(device)
    entries, rest = (None, None) if shown is None else (shown.flatten().nonzero().flatten(), ~shown)

    def for_networks(x: Tensor) -> Tensor:
        """As the encoder sees x: standardised, counts as log(1 + x)."""
        if scaling is not None:
            return (x - scaling[0]) / scaling[1]
        return x.log1p() if data.support == "counts" else x

    def prepared(batch: Batch) -> Batch:
        x = prepare(cast(Tensor, batch.x), data.levels, data.binarize, data.dequantize, dtype)
        given, mask = batch.given, batch.mask
        if entries is not None and rest is not None:  # of data that are all there
            given = join(given, for_networks(x).flatten(1).index_select(1, entries))
            mask = rest.expand_as(x)
        if data.library:
            given = join(given, fill(x, batch.mask).flatten(1).sum(1, keepdim=True).clamp(min=1).log())
        return batch._replace(x=x, mask=mask, given=given)

    return prepared


def columns(
    split: Split | StoredSplit, experiment: Experiment, device: torch.device, *, training: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The labels of the variant's sites, -1 where there is none, and the covariates.

    Labels that can be missing are seen in training only: elsewhere they would turn log p(x) into log p(x, y).
    """
    absent = torch.full((len(split),), -1, dtype=torch.int64)
    hidden = () if training else experiment.variant.missing
    found = [absent if name in hidden else split.attributes.get(name, absent) for name in experiment.variant.labels]
    given = None if split.given is None else split.given.to(device, DTYPES[experiment.training.precision])
    return torch.stack(found, -1).to(device) if found else None, given


def resident(split: Split | StoredSplit, experiment: Experiment, device: torch.device, *, training: bool) -> Resident:
    """A split on the device, all of it; see `columns`.

    Raises:
        DeclarationError: the device has no room for it.
    """
    y, given = columns(split, experiment, device, training=training)
    try:
        if isinstance(split, Split):
            x, mask = split.x.to(device), None if split.mask is None else split.mask.to(device)
        else:
            x = read(split.x, split.rows, device)
            mask = None if split.mask is None else read(split.mask, split.rows, device)
    except torch.OutOfMemoryError:
        raise DeclarationError(
            [
                f"training.device={str(device)!r}: has no room for {len(split)} data of {math.prod(split.x.shape[1:])} "
                "numbers; set training.device=cpu, or train on smaller data."
            ]
        ) from None
    return Resident(x if x.dtype == torch.uint8 else x.to(DTYPES[experiment.training.precision]), y, mask, given)


def read(source: Stored, rows: Tensor, device: torch.device) -> Tensor:
    """The rows of a file on the device, without another copy of them in memory on the way."""
    made = torch.empty(len(rows), *source.shape[1:], dtype=source.dtype, device=device)
    for some in torch.arange(len(rows)).split(max(1, 2**22 // math.prod(source.shape[1:]))):
        made[some[0] : some[-1] + 1] = torch.from_numpy(source.take(rows[some].numpy())).to(device)
    return made
