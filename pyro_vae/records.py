"""The files of a run directory: JSON and text written whole or not at all, the lines of metrics.jsonl."""

import json
import math
import platform
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from pyro_vae.data import Data
from pyro_vae.specs import DeclarationError

PARTS = ("train", "validation", "test")
PACKAGES = ("pyro_vae", "torch", "pyro-ppl", "arviz", "numpy", "pydantic")


class Metrics(NamedTuple):
    """One line of metrics.jsonl; nats per datum."""

    step: int
    epoch: int
    split: str
    loss: float
    elbo: float | None
    reconstruction: float | None
    kl: float | None
    seconds: float
    learning_rate: float | None = None
    beta: float | None = None


def write_metrics(folder: Path, rows: list[Metrics]) -> None:
    """Append lines to metrics.jsonl."""
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row._asdict()) + "\n")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that was cut off is left out.

    Raises:
        DeclarationError: another line is damaged.
    """
    path, rows = folder / "metrics.jsonl", []
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise DeclarationError([f"{path}: cannot be read: {error.strerror}; restore it, or remove it."]) from None
    lines = content.splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise ValueError("no metrics")
            rows.append(row)
        except (ValueError, RecursionError):
            if number == len(lines) and not content.endswith(b"\n"):
                break
            advice = "restore it, or remove it: training goes on without what it held."
            raise DeclarationError([f"{path}: line {number} holds no metrics; {advice}"]) from None
    return rows


def truncate_metrics(folder: Path, step: int) -> None:
    """Drop what a killed run had written after its last checkpoint: it will be written again."""
    rows = [row for row in read_metrics(folder) if row["step"] <= step]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    part = folder / "metrics.jsonl.part"
    part.write_text(text, encoding="utf-8")
    part.replace(folder / "metrics.jsonl")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers depend on."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a run.

    Raises:
        DeclarationError: it is missing or damaged.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no JSON"
        raise DeclarationError([f"{path}: cannot be read: {reason}; restore it, or train again."]) from None
    if not isinstance(tree, dict):
        raise DeclarationError([f"{path}: holds no JSON object; restore it, or train again."])
    return tree


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Write JSON, whole or not at all; numbers that are not finite become null."""
    write_text(path, json.dumps(_finite(tree), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def data_record(data: Data) -> dict[str, Any]:
    """What a run keeps of its data, so that others are not taken for them."""
    return {
        "shape": list(data.shape),
        "sizes": [len(getattr(data, part)) for part in PARTS],
        "columns": None if data.columns is None else list(data.columns),
        "names": {name: list(words) for name, words in data.names.items()},
    }


def read_environment(folder: Path) -> dict[str, Any]:
    """Where and how the run in a folder was made.

    Raises:
        DeclarationError: the file is missing, damaged, or lacks what the run is opened with.
    """
    path = folder / "environment.json"
    tree = read_json(path)
    shape = tree.get("shape")
    known = isinstance(shape, dict) and {"x", "given", "masked"} <= shape.keys() and isinstance(shape["x"], list)
    if not known or not {"name", "versions"} <= tree.keys():
        raise DeclarationError([f"{path}: lacks what the run is opened with; restore it, or train again."])
    return tree
