"""Commands that walk through the latent space of a run: between data, along directions, over the prior."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from pyro_vae import cli_io
from pyro_vae.cli_options import (
    Attribute,
    Directory,
    Input,
    Json,
    LabelNames,
    Observations,
    Out,
    Quiet,
    Seed,
    SplitName,
)

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_vae.latent import Points
    from pyro_vae.runs import Run

MOST_SHOWN = 12
"""Rows of a picture; the arrays hold all."""
MOST_CODES = 10_000
"""Training data, from the first on, behind a direction."""


def interpolate(
    directory: Directory,
    observations: Observations = None,
    steps: Annotated[int, typer.Option("--steps", min=2, max=1000, help="Steps of each way, both ends included.")] = 10,
    label: LabelNames = None,
    input: Input = None,  # noqa: A002 - the option's name
    split: SplitName = "test",
    seed: Seed = None,
    out: Out = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """From each datum to the next, by lines and by great circles: a PNG and the arrays as .npz."""
    import torch

    from pyro_vae import latent, plots
    from pyro_vae.specs import DeclarationError

    run, path = cli_io.load(directory), cli_io.target(out, directory / "interpolation.png")
    _images_or_refuse(run, "interpolate")
    batch, extra = cli_io.some(run, input, split, observations, 3)
    if batch.size < 2:
        raise DeclarationError([f"--observation: is {batch.size} datum; a way takes two or more: repeat the option."])
    points, x = cli_io.labelled(run, run.locate(batch), label), cast("Tensor", batch.x)
    arrays: dict[str, Any] = {**extra, "x": x, "code": points.z}
    ways = {kind: latent.interpolate(points, steps, kind == "spherical") for kind in ("linear", "spherical")}
    decoded = {kind: run.decode(way, seed) for kind, way in ways.items()}
    for kind, way in ways.items():
        arrays |= {f"z_{kind}": way.z, f"mean_{kind}": decoded[kind]}
    rows = list[Any]()
    for i in range(shown := min(batch.size - 1, MOST_SHOWN // 2)):
        some = slice(i * (steps - 1), (i + 1) * (steps - 1) + 1)
        rows += [part for mean in decoded.values() for part in (x[i : i + 1], mean[some], x[i + 1 : i + 2])]
    shares = [f"{round(t, 2):g}" for t in torch.linspace(0, 1, steps).tolist()]
    figure = plots.data_figure(
        torch.cat(rows).cpu().numpy(),
        f"{cli_io.subject(run, label)}: from one datum to the next, E[x | z]",
        columns=steps + 2,
        row_labels=[*decoded] * shown,
        column_labels=["x", *shares, "x"] if steps <= 20 else (),
    )
    cli_io.save_picture(figure, path, arrays, as_json)


def edit(
    directory: Directory,
    attribute: Attribute = None,
    axis: Annotated[int | None, typer.Option("--axis", min=0, help="A principal axis of the codes, from 0.")] = None,
    dimension: Annotated[int | None, typer.Option("--dimension", min=0, help="A latent dimension, from 0.")] = None,
    plus: Annotated[
        Path | None, typer.Option("--plus", help="Data with something; goes with --minus, data without it.")
    ] = None,
    minus: Annotated[Path | None, typer.Option("--minus", help="Data without it.")] = None,
    method: Annotated[
        Literal["mean", "classifier"],
        typer.Option("--method", help="Direction of an attribute: difference of means, or a classifier's normal."),
    ] = "mean",
    within: Annotated[
        str | None,
        typer.Option("--within", help="An attribute, like person: differences are taken within each of its classes."),
    ] = None,
    reach: Annotated[
        float | None,
        typer.Option("--reach", min=0.01, max=100, help="Largest alpha: 1.5 of an attribute, else 4 sd of the codes."),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=2, max=1000, help="Alphas, from -reach to reach.")] = 9,
    observations: Observations = None,
    label: LabelNames = None,
    input: Input = None,  # noqa: A002 - the option's name
    split: SplitName = "test",
    seed: Seed = None,
    out: Out = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Data moved along a direction, z + alpha v: an attribute's, a principal axis, a dimension, or between two sets."""
    import torch

    from pyro_vae import latent, plots

    run, path = cli_io.load(directory), cli_io.target(out, directory / "edited.png")
    _images_or_refuse(run, "edit")
    v, name, unit = _direction(run, attribute, axis, dimension, plus, minus, method, within)
    reach = reach or (4.0 if unit == "s" else 1.5)
    batch, extra = cli_io.some(run, input, split, observations, 6)
    points = cli_io.labelled(run, run.locate(batch), label)
    alphas = torch.linspace(-reach, reach, steps)
    edited = latent.edit(points, v, alphas)
    mean = run.decode(edited, seed)
    shown = min(batch.size, MOST_SHOWN)
    x = cast("Tensor", batch.x)
    rows = torch.cat([x[None, :shown], mean[:, :shown]]).movedim(0, 1).flatten(0, 1)
    figure = plots.data_figure(
        rows.cpu().numpy(),
        f"{cli_io.subject(run, label)}: E[x | z + alpha v] at alpha below, v {name}",
        columns=steps + 1,
        column_labels=["x", *(f"{round(alpha, 2):g}" for alpha in alphas.tolist())] if steps <= 20 else (),
    )
    arrays = {"x": x, "code": points.z, "direction": v, "alpha": alphas, "mean": mean}
    cli_io.save_picture(figure, path, extra | arrays, as_json)


def manifold(
    directory: Directory,
    size: Annotated[int, typer.Option("--size", "-n", min=2, max=200, help="Points along each of the two axes.")] = 20,
    dimension: Annotated[
        list[int] | None,
        typer.Option("--dimension", min=0, help="Two latent dimensions, from 0; those of the largest KL by default."),
    ] = None,
    principal: Annotated[
        bool, typer.Option("--principal", help="Along the first two principal axes of the codes instead.")
    ] = False,
    label: LabelNames = None,
    observations: Observations = None,
    split: SplitName = "test",
    seed: Seed = None,
    out: Out = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The decoder over the quantiles of the prior, a grid of equal probability mass: a PNG and the arrays as .npz."""
    from pyro_vae import plots

    run, path = cli_io.load(directory), cli_io.target(out, directory / "manifold.png")
    _images_or_refuse(run, "manifold")
    axes, names = _axes(run, dimension, principal)
    points = run.manifold(size, axes, _around(run, label, observations, split))
    mean = run.decode(points, seed)
    figure = plots.data_figure(
        mean.flatten(0, 1).cpu().numpy(),
        f"{cli_io.subject(run, label)}: E[x | z] at quantiles of p({points.layer}), {names[0]} across, {names[1]} up",
        columns=size,
    )
    cli_io.save_picture(figure, path, {"z": points.z, "mean": mean}, as_json)


def _images_or_refuse(run: "Run", command: str) -> None:
    """Vectors have no picture of a walk; their arrays can be had in Python."""
    from pyro_vae.specs import DeclarationError

    if len(run.environment["shape"]["x"]) != 3:
        raise DeclarationError(
            [
                f"{run.directory}: its data are vectors, of which `{command}` draws no picture; in Python, "
                "run.locate, run.decode and what is in pyro_vae.latent give the numbers."
            ]
        )


def _training_codes(run: "Run", layer: str | None = None) -> tuple["Tensor", int]:
    """Codes of training data, and of how many."""
    num = min(len(run.data.train), MOST_CODES)
    return run.locate(run.batch("train", range(num)), layer).z, num


def _direction(
    run: "Run",
    attribute: str | None,
    axis: int | None,
    dimension: int | None,
    plus: Path | None,
    minus: Path | None,
    method: str,
    within: str | None,
) -> tuple["Tensor", str, str]:
    """A direction, what it is, and what alpha = 1 is: one sd of the codes ("s") or the distance of two groups."""
    import torch

    from pyro_vae import latent
    from pyro_vae.specs import DeclarationError

    chosen = [
        word
        for word, value in (("--attribute", attribute), ("--axis", axis), ("--dimension", dimension), ("--plus", plus))
        if value is not None
    ]
    if len(chosen) > 1:
        raise DeclarationError([f"{' and '.join(chosen)}: are several directions; give one of them."])
    if (plus is None) != (minus is None):
        raise DeclarationError(["--plus and --minus: go together: data with something, and data without it."])
    if within is not None and (attribute is None or method != "mean"):
        raise DeclarationError([f"--within {within}: is of an --attribute by differences of means; leave it out."])
    if method != "mean" and not (attribute or plus):
        raise DeclarationError([f"--method {method}: is of --attribute, or of --plus and --minus; give one of them."])
    find = latent.mean_difference if method == "mean" else latent.classifier_normal
    if plus is not None and minus is not None:
        sides = [run.locate(run.read(side)[0]).z for side in (minus, plus)]
        there = torch.cat([torch.full((len(side),), i) for i, side in enumerate(sides)])
        return find(torch.cat(sides), there), f"from {minus.name} to {plus.name}", "groups"
    z, num = _training_codes(run)
    if attribute is not None:
        there, name = cli_io.attribute(run, attribute)
        if within is not None:
            groups = cli_io.classes(run, within, f"--within {within}")[:num]
            return latent.mean_difference(z, there[:num], groups), f"towards {name}, within {within}", "groups"
        return find(z, there[:num]), f"towards {name}", "groups"
    if dimension is not None:
        if dimension >= z.shape[1]:
            raise DeclarationError([f"--dimension {dimension}: the latent has the dimensions 0 to {z.shape[1] - 1}."])
        return latent.per_sd(torch.eye(z.shape[1]).to(z)[dimension], z), f"s along dimension {dimension}", "s"
    found, k = latent.principal_axes(z), axis or 0
    if k >= len(found.axes):
        raise DeclarationError([f"--axis {k}: the codes have the principal axes 0 to {len(found.axes) - 1}."])
    share = f"{100 * float(found.explained[k]):.0f} %"
    return found.axes[k] * found.sd[k], f"s along principal axis {k} ({share} of the variance)", "s"


def _axes(run: "Run", dimension: list[int] | None, principal: bool) -> tuple[Any, list[str]]:
    """Two axes of the top layer, and their names."""
    from pyro_vae import latent
    from pyro_vae.specs import DeclarationError

    layers = run.experiment.variant.layers
    top = list(layers)[-1]
    if dimension and principal:
        raise DeclarationError(["--dimension and --principal: are two ways to say which axes; give one of them."])
    if dimension is not None and len(dimension) != 2:
        raise DeclarationError([f"--dimension: is given {len(dimension)} times; give it twice, for two axes."])
    if dimension:
        return dimension, [f"dimension {d}" for d in dimension]
    if principal:
        axes = latent.principal_axes(_training_codes(run, top)[0]).axes
        return axes[:2], [f"principal axis {k}" for k in (0, 1)]
    if layers[top] <= 2:
        return (0, 1), ["dimension 0", "dimension 1"]
    some = run.batch("train", range(min(len(run.data.train), 1000)))
    used = run.usage(some)
    worth = (used.mean.var(0) if used.kl is None else used.kl.mean(0))[-layers[top] :]
    best = sorted(worth.topk(2).indices.tolist())
    return best, [f"dimension {d}" for d in best]


def _around(run: "Run", label: list[str] | None, observations: list[int] | None, split: str) -> "Points | None":
    """What else the decoder is given: labels as asked for, or a datum's, whose other dimensions then hold as well."""
    from dataclasses import replace

    from pyro_vae import latent
    from pyro_vae.specs import DeclarationError

    if observations is not None and len(observations) > 1:
        raise DeclarationError([f"--observation: is given {len(observations)} times; a grid is around one datum."])
    variant = run.experiment.variant
    if observations is None and not (variant.labels or run.vae.shape.given):
        cli_io.labels(run, label or [], 1)  # refuses them
        return None
    batch = run.batch(split, observations or [0])
    point = cli_io.labelled(run, run.locate(batch, list(variant.layers)[-1]), label)
    if observations is not None:
        return point
    widths = [site.classes for site in variant.labels.values()]
    classes = [] if point.y is None else [int(part.argmax(-1)) for part in point.y.split(widths, -1)]
    return replace(latent.origin(run.vae, classes, batch.given), known=point.known)
