"""What of a declaration does not fit the data: one line each, with what to do.

What is known of the data before they are read is enough for most of it.
"""

import math

from pyro_vae.data import Data, DataSpec, Declared
from pyro_vae.data.storage import at_once
from pyro_vae.specs import Part, did_you_mean
from pyro_vae.variant import MAX_CELLS, Variant

LARGE = 50.0
"""Root mean square of x from which training fails: log variances grow with it, and exp(89) is infinite in float32."""
RESOLUTION = 6e-5
"""Standard deviation over mean at which rounding to float32 is a thousandth of the standard deviation."""


def misfits(variant: Variant, spec: DataSpec, data: Declared | Data) -> list[str]:
    """What of a declaration does not fit the data, one line each, empty if all is well."""
    refusal = variant.likelihood.accepts(data.support)
    found = [f"variant.likelihood: {_word(variant.likelihood)!r} {refusal}"] if refusal else []
    binarize, word = spec.binarize, _word(variant.likelihood)
    if not refusal and binarize != "none" and not variant.likelihood.discrete:
        found.append(
            f"data.binarize={binarize}: makes every pixel 0 or 1, and variant.likelihood {word!r} is a density on "
            "grey or real values; set data.binarize=none, or use 'bernoulli'."
        )
    for field in ("encoder", "decoder"):
        network = getattr(variant, field)
        if network.image_only and len(data.shape) != 3:
            found.append(
                f"variant.{field}: {_word(network)!r} needs images, and {data.name!r} holds vectors of "
                f"{data.shape[0]} numbers; use 'mlp'."
            )
    numel = math.prod(data.shape)
    if variant.guide.dims_of_x and any(dim != numel for dim in variant.layers.values()):
        found.append(
            f"variant.latent: guide {_word(variant.guide)!r} needs layers of as many dimensions as {data.name!r} has "
            f"entries, and these have {', '.join(map(str, variant.layers.values()))}; set each to {{dim: {numel}}}."
        )
    likelihood, vectors = variant.likelihood, len(data.shape) == 1
    if likelihood.datum not in ("any", "vector" if vectors else "image"):
        found.append(
            f"variant.likelihood: {word!r} needs {'images' if vectors else 'vectors'}, and {data.name!r} holds "
            f"{'vectors' if vectors else 'images'}; take another."
        )
    if not likelihood.takes_missing and (spec.missing or spec.shown is not None):
        field = "missing" if spec.missing else "shown"
        found.append(f"data.{field}: {word!r} needs every entry of x; leave it out, or take another likelihood.")
    found += _scale_misfits(variant, spec, data)
    found += _label_misfits(variant, spec, data)
    return found


def _scale_misfits(variant: Variant, spec: DataSpec, data: Declared | Data) -> list[str]:
    """Levels and library sizes: what a likelihood needs to know of x and a data set can give."""
    likelihood, word, found = variant.likelihood, _word(variant.likelihood), list[str]()
    levels, binary = getattr(likelihood, "levels", None), data.support == "binary"
    has = 2 if binary else data.levels
    if levels is not None and data.support in ("binary", "levels") and has != levels:
        found.append(
            f"variant.likelihood.levels={levels}: {data.name!r} has {has} levels; set variant.likelihood.levels={has}."
        )
    if getattr(likelihood, "library", False) and not spec.library:
        found.append(
            f"variant.likelihood.library=true: {word!r} takes the library size from the covariates; set "
            "data.library=true."
        )
    return found


def _label_misfits(variant: Variant, spec: DataSpec, data: Declared | Data) -> list[str]:
    found, known = [], data.num_classes
    for name, label in variant.labels.items():
        if label.observed == "never":
            continue
        if name not in known:
            has = f"It has: {', '.join(known)}" if known else "It has no labels; remove the label site"
            columns = getattr(data, "columns", None) or ()
            table = f", or name its column: data.labels=[{name}]" if name in columns else ""
            found.append(
                f"variant.labels.{name}: {data.name!r} has no attribute of that name.{did_you_mean(name, known)} "
                f"{has}{table}."
            )
        elif known[name] > MAX_CELLS:
            found.append(
                f"variant.labels.{name}: {data.name!r} has labels up to {known[name] - 1}, and a label site at most "
                f"{MAX_CELLS} classes; number them 0, 1, ..., or remove the label site."
            )
        elif label.classes < known[name]:
            found.append(
                f"variant.labels.{name}.classes={label.classes}: {data.name!r} has {known[name]} classes; "
                f"set it to {known[name]}."
            )
    kept = spec.labels_kept
    if kept is not None and not any(s.observed == "partly" for s in variant.labels.values()):
        found.append(
            f"data.labels_kept={kept}: no label site is observed partly, so that it has no effect; remove it, "
            "or declare one like variant.labels={digit: {classes: 10, observed: partly}}."
        )
    return found


def input_misfits(variant: Variant, spec: DataSpec, own: Data, need_labels: bool) -> list[str]:
    """What of a user's new data the model cannot take, one line each."""
    found = []
    for name, label in variant.labels.items():
        labels = own.test.attributes.get(name)
        if need_labels and label.observed == "always" and (labels is None or bool((labels < 0).any())):
            found.append(f"labels.{name} is observed always, and the file leaves some out; add them.")
    if own.test.mask is not None and spec.shown is not None:
        found.append("mask: the run predicts what is not shown; leave the mask out.")
    levels = getattr(variant.likelihood, "levels", None)
    if levels is not None and own.levels is None and own.support == "levels":
        found.append(f"x: holds floats; must be integers from 0 to {levels - 1}, which the likelihood counts.")
    return found


def too_fine(data: Data, precision: str) -> list[str]:
    """Columns whose spread is lost beside their mean: float32 holds seven digits."""
    if data.scaling is None or precision == "float64":
        return []
    mean, sd = (value.flatten() for value in data.scaling)
    lost = (sd < RESOLUTION * mean.abs()).nonzero().flatten().tolist()
    names = [data.columns[i] if data.columns else f"column {i}" for i in lost]
    return [
        f"data.standardize=true: {name} spreads by {sd[i]:.3g} about {mean[i]:.10g}, which {precision} "
        "does not resolve; subtract a constant from it, or set training.precision=float64."
        for i, name in zip(lost, names, strict=True)
    ]


def too_large(data: Data) -> list[str]:
    """Real-valued data on which a network would overflow in its first steps."""
    if data.support != "real" or data.scaling is not None:
        return []
    x = data.train.select(range(min(len(data.train), at_once(data.shape)))).x.double()
    size = (x if x.dim() == 2 else x.flatten(2).square().mean(-1).sqrt()).square().mean(0).sqrt()
    at = int(size.argmax())
    if size[at] <= LARGE:
        return []
    column = repr(data.columns[at]) if data.columns else f"column {at}" if x.dim() == 2 else f"channel {at}"
    advice = "set data.standardize=true (outputs stay in the units of the data), or rescale x"
    if not data.columns and x.min() >= 0 and x.max() <= 255 and bool((x == x.round()).all()):
        advice = f"if they are grey levels, save x as uint8, x.astype('uint8'); otherwise {advice}"
    return [
        f"data.standardize=false: {column} of x is {float(size[at]):.3g} in size (root of the mean square), and "
        f"networks need numbers of a few units; {advice}."
    ]


def _word(part: Part) -> str:
    return getattr(part, part.word)
