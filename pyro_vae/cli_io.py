"""What commands read and write: targets that are checked before the work is done, inputs, labels, arrays, pictures."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pyro_vae.latent import Points
    from pyro_vae.runs import Run
    from pyro_vae.sites import Batch

WIDEST = 1000
"""Letters of a line of a table, at most."""


def log_to_stderr(quiet: bool) -> None:
    """Show what was decided on the user's behalf, such as whether the step is compiled."""
    import logging

    logging.basicConfig(format="pyro-vae: %(message)s")
    logging.getLogger("pyro_vae").setLevel(logging.WARNING if quiet else logging.INFO)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that there is no CUDA is no news


def load(directory: Path) -> "Run":
    """Open a run directory."""
    from pyro_vae import runs

    return runs.load(directory)


def subject(run: "Run", labels: list[str] | None = None) -> str:
    """What a picture is of: the data set, by the name of its file where it has one, and the labels asked for."""
    path = getattr(run.experiment.data, "path", None)
    name = Path(path).name if path else run.experiment.data.name
    return ", ".join([name, *(labels or [])])


def target(out: Path | None, default: Path) -> Path:
    """The file to write, without .npz or .png; checked before the work is done."""
    from pyro_vae.specs import DeclarationError

    path = out or default
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except OSError as error:
        if not isinstance(error, NotADirectoryError):
            raise DeclarationError([f"--out {path}: {error.strerror}; choose another."]) from None
    if path.is_dir():
        raise DeclarationError([f"--out {path}: is a directory; name a file, like {path / default.name}."])
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise DeclarationError([f"--out {path}: {path.parent} is no directory that can be written to; choose another."])
    return path.with_suffix("") if path.suffix in (".npz", ".png") else path


def read(run: "Run", path: Path | None, split: str, need_labels: bool = True) -> tuple["Batch", dict[str, Any]]:
    """The data that a command works on, and what identifies them in its output: number and labels."""
    import numpy as np

    if path is not None:
        batch, attributes = run.read(path, need_labels)
        return batch, {"observation": np.arange(batch.size), **{name: y.numpy() for name, y in attributes.items()}}
    batch = run.batch(split)
    attributes = getattr(run.data, split).attributes
    return batch, {"observation": np.arange(batch.size), **{name: y.numpy() for name, y in attributes.items()}}


def some(
    run: "Run", path: Path | None, split: str, observations: list[int] | None, most: int
) -> tuple["Batch", dict[str, Any]]:
    """A few data: those that are named, or the first ones; all of a file."""
    from pyro_vae.specs import DeclarationError

    if path is None:
        run.check_split(split)
        chosen = list(range(min(most, len(getattr(run.data, split))))) if observations is None else observations
        batch = run.batch(split, chosen)
        attributes = {name: y.numpy()[chosen] for name, y in getattr(run.data, split).attributes.items()}
        return batch, {"observation": chosen, **attributes}
    batch, extra = read(run, path, split)
    beyond = [i for i in observations or () if i >= batch.size]
    if beyond:
        raise DeclarationError([f"--observation {beyond[0]}: {path} holds the data 0 to {batch.size - 1}."])
    chosen = list(range(batch.size)) if observations is None else observations
    return batch.map(lambda tensor: tensor[chosen]), {name: values[chosen] for name, values in extra.items()}


def labelled(run: "Run", points: "Points", words: list[str] | None) -> "Points":
    """The points with the labels that are asked for in place of their own."""
    from pyro_vae.latent import relabelled

    for name, value in _classes(run, words or []).items():
        points = relabelled(run.vae, points, name, value)
    return points


def attribute(run: "Run", word: str) -> tuple[Any, str]:
    """Where the training data have an attribute: 1, 0, or -1 where unknown (N,), and its name.

    NAME alone is of an attribute that is there or not; of more classes, NAME=CLASS is one of them against the others.
    """
    import torch

    from pyro_vae.specs import DeclarationError

    name, equals, value = word.partition("=")
    y = classes(run, name, f"--attribute {word}")
    num, names = run.data.num_classes[name], run.data.names.get(name, ())
    if not equals and num > 2:
        raise DeclarationError([f"--attribute {name}: has {num} classes; say which, like {name}=1."])
    chosen = _class_of(value, num, names) if equals else 1
    if chosen is None:
        raise DeclarationError([f"--attribute {word}: {_allowed(num, names)}"])
    return torch.where(y < 0, -1, (y == chosen).long()), word


def classes(run: "Run", name: str, option: str) -> Any:
    """The classes of an attribute in the training data (N,), -1 where unknown."""
    from pyro_vae.specs import DeclarationError, did_you_mean

    known = run.data.train.attributes
    if name not in known:
        have = ", ".join(known) or "none"
        raise DeclarationError([f"{option}: the training data have: {have}.{did_you_mean(name, known)}"])
    return known[name]


def _class_of(value: str, classes: int, names: Sequence[str]) -> int | None:
    """The class that a word means, by number or name."""
    if value in map(str, range(classes)):
        return int(value)
    return names.index(value) if value in names else None


def _allowed(classes: int, names: Sequence[str]) -> str:
    return f"must be a class from 0 to {classes - 1}" + (f", or one of {', '.join(names)}." if names else ".")


def labels(run: "Run", words: list[str], num: int, besides: str | None = None) -> Any:
    """Labels to generate with (num, sites): every site given, or none; that of `besides` is -1."""
    import torch

    from pyro_vae.specs import DeclarationError

    chosen, sites = _classes(run, words), run.experiment.variant.labels
    if besides in chosen:
        raise DeclarationError([f"--label {besides}: takes every class with --each {besides}; leave it out."])
    if besides is not None and besides in sites:
        chosen[besides] = -1
    elif not chosen:
        return None
    missing = [f"--label: give one for {name} too." for name in sites if name not in chosen]
    if missing:
        raise DeclarationError(missing)
    return torch.tensor([[chosen[name] for name in sites]]).expand(num, -1)


def _classes(run: "Run", words: list[str]) -> dict[str, int]:
    """Label site -> class, as asked for."""
    from pyro_vae.specs import DeclarationError

    sites = run.experiment.variant.labels
    if words and not sites:
        raise DeclarationError([f"--label {words[0]}: the run was trained without labels; leave it out."])
    chosen: dict[str, int] = {}
    problems = []
    for word in words:
        name, _, value = word.partition("=")
        if name not in sites:
            problems.append(f"--label {word}: the label sites are: {', '.join(sites) or 'none'}.")
            continue
        names = run.data.names.get(name, ())
        found = _class_of(value, sites[name].classes, names)
        if name in chosen:
            problems.append(f"--label {word}: {name} is given twice.")
        elif found is None:
            problems.append(f"--label {word}: {_allowed(sites[name].classes, names)}")
        else:
            chosen[name] = found
    if problems:
        raise DeclarationError(problems)
    return chosen


def save_arrays(
    path: Path, arrays: dict[str, Any], as_json: bool, picture: Path | None = None, said: dict[str, Any] | None = None
) -> None:
    """Write .npz, whole or not at all, and say what is in it; `said` joins what --json prints."""
    import numpy as np
    import torch

    numpy = {k: v.cpu().numpy() if isinstance(v, torch.Tensor) else np.asarray(v) for k, v in arrays.items()}
    path = path.with_name(f"{path.name}.npz")
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        np.savez(file, **cast(Any, numpy))
    part.replace(path)
    shapes = {name: list(array.shape) for name, array in numpy.items()}
    if as_json:
        print(
            json.dumps(
                {"file": str(path), "arrays": shapes} | ({"picture": str(picture)} if picture else {}) | (said or {})
            )
        )
    else:
        print(f"{path}: " + ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items()))
        if picture:
            print(picture)


def save_picture(
    figure: Any, path: Path, arrays: dict[str, Any], as_json: bool, said: dict[str, Any] | None = None
) -> None:
    """Write a figure as .png and the arrays behind it as .npz."""
    from pyro_vae import plots

    picture = plots.save(figure, path.with_name(f"{path.name}.png"))
    save_arrays(path, arrays, as_json, picture, said)


def print_cells(cells: Sequence[Sequence[str]]) -> None:
    """A table of words, a line of headings first, as wide as it needs to be."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    head, *lines = cells
    table = Table(*head)
    for line in lines:
        table.add_row(*map(Text, line))  # Text, because [a] would be read as markup
    console = Console()
    natural = console.measure(table, options=console.options.update(width=WIDEST)).maximum
    Console(width=max(console.width, natural)).print(table)  # narrower, it would cut off names
