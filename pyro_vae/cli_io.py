"""What commands read and write: targets that are checked before the work is done, inputs, labels, arrays, pictures."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pyro_vae.runs import Run
    from pyro_vae.sites import Batch


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


def labels(run: "Run", words: list[str], num: int) -> Any:
    """Labels to generate with: every site given, or none."""
    import torch

    from pyro_vae.specs import DeclarationError

    sites = run.experiment.variant.labels
    if not words:
        return None
    if not sites:
        raise DeclarationError([f"--label {words[0]}: the run was trained without labels; leave it out."])
    chosen: dict[str, int] = {}
    problems = []
    for word in words:
        name, _, value = word.partition("=")
        if name not in sites:
            problems.append(f"--label {word}: the label sites are: {', '.join(sites) or 'none'}.")
        elif name in chosen:
            problems.append(f"--label {word}: {name} is given twice.")
        elif value in map(str, range(sites[name].classes)):
            chosen[name] = int(value)
        elif value in (names := run.data.names.get(name, ())):
            chosen[name] = names.index(value)
        else:
            named = f", or one of {', '.join(names)}" if names else ""
            problems.append(f"--label {word}: must be a class from 0 to {sites[name].classes - 1}{named}.")
    problems += [f"--label: give one for {name} too." for name in sites if not problems and name not in chosen]
    if problems:
        raise DeclarationError(problems)
    return torch.tensor([[chosen[name] for name in sites]]).expand(num, -1)


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
