"""Declarations as text: strict YAML in and out, and `key=value` overrides.

YAML 1.2 by ruamel.yaml: `1e-3` is a number, `no` is a string, duplicate keys are refused. Refused beyond
that: anchors and aliases, dates, numbers that are not finite, keys that are no strings, files over 1 MB. A
file holds data only; nothing in it can name code.
"""

import datetime
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pyro_vae.specs import DeclarationError, OneOf, Part, Spec

MAX_BYTES = 1_000_000

type Tree = dict[str, Any]


def read_yaml(path: Path) -> Tree:
    """The mapping in a YAML file.

    Raises:
        DeclarationError: the file cannot be read, is no YAML mapping, or holds what declarations never hold.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DeclarationError([f"{path}: is over {MAX_BYTES} bytes, which no declaration is."])
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DeclarationError([f"{path}: cannot be read: {reason}."]) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> Tree:
    """The mapping that a YAML text holds; `name` is what errors call it."""
    yaml = YAML(typ="safe", pure=True)
    try:
        if any(getattr(event, "anchor", None) for event in yaml.parse(io.StringIO(text))):
            raise DeclarationError([f"{name}: anchors and aliases (& and *) are not used here; write it out."])
        tree = yaml.load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise DeclarationError([f"{name}:{where} no valid YAML: {problem}."]) from None
    except (ValueError, RecursionError) as error:
        raise DeclarationError([f"{name}: no valid YAML: {error}."]) from None
    if tree is None:
        return {}
    if not isinstance(tree, Mapping):
        raise DeclarationError([f"{name}: must be a mapping like `variant: {{...}}`, not {type(tree).__name__}."])
    problems = list(_strange(tree, ""))
    if problems:
        raise DeclarationError([f"{name}: {problem}" for problem in problems])
    return dict(tree)


def _strange(value: Any, path: str) -> Iterable[str]:
    """What YAML can say and a declaration cannot."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                yield f"{path}{key!r}: keys are strings; quote it."
            yield from _strange(item, f"{path}{key}.")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _strange(item, f"{path}{i}.")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{path.rstrip('.')}={value}: must be a finite number."
    elif isinstance(value, datetime.date | bytes | set):
        yield f"{path.rstrip('.')}: a {type(value).__name__} is not used here; quote it to make it a string."


def to_yaml(tree: Tree) -> str:
    """YAML text of a tree of dicts, lists and scalars; small mappings and lists on one line."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 110
    yaml.allow_unicode = True
    stream = io.StringIO()
    yaml.dump(tree, stream)
    return stream.getvalue()


def override(tree: Tree, assignments: Iterable[str], root: type[Spec]) -> Tree:
    """Apply `a.b=value` overrides to a tree.

    A first key that is no field of `root` but one of its `variant` means that: `latent.dim=2` is
    `variant.latent.dim=2`. A value that is JSON is read as JSON, a number as a number, else it is a string.
    Changing which part a field holds drops the fields of the other part.

    Raises:
        DeclarationError: an assignment has no `=`, or its path runs into a value that has no fields.
    """
    result, problems = json.loads(json.dumps(tree)), []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            problems.append(f"{assignment!r}: must be key=value, like training.epochs=20.")
            continue
        path = key.strip().split(".")
        variant = root.model_fields.get("variant")
        if path[0] not in root.model_fields and variant and path[0] in variant.annotation.model_fields:  # type: ignore[union-attr]
            path.insert(0, "variant")
        problem = _assign(result, path, _value(text.strip(), key, problems), root)
        if problem:
            problems.append(problem)
    if problems:
        raise DeclarationError(problems)
    return result


def _value(text: str, key: str, problems: list[str]) -> Any:
    try:
        return json.loads(text, parse_constant=str)
    except json.JSONDecodeError:
        if not text.startswith(("[", "{", '"')):
            return _scalar(text)
    try:  # [a, b] and {kind: adam} as YAML writes them
        return parse_yaml(f"value: {text}", key)["value"]
    except DeclarationError as error:
        problems.extend(error.problems)
        return None


def _scalar(text: str) -> Any:
    """YAML's reading of a bare word: `1e-3` is a number, `true` a truth value, `null` nothing."""
    try:
        return parse_yaml(f"value: {text}", "value")["value"]
    except DeclarationError:
        return text


def _assign(tree: Tree, path: list[str], value: Any, root: type[Spec]) -> str | None:
    owner: type[Spec] | None = root
    node: Any = tree
    for i, key in enumerate(path):
        choice = _choice(owner, key)
        last = i == len(path) - 1
        if choice is not None and not last and path[i + 1] == choice.table.base.word:
            value, last = {path[i + 1]: value}, True
        if last and choice is not None and isinstance(value, str):
            value = {choice.table.base.word: value}
        if last:
            if isinstance(value, dict) and isinstance(node.get(key), dict) and choice is not None:
                # The treatment common to all parts of the table stays, what belonged to the other part goes.
                word = choice.table.base.word
                same = value.get(word, node[key].get(word)) == node[key].get(word)
                kept = node[key] if same else {k: v for k, v in node[key].items() if k in choice.table.base.model_fields}
                value = {**kept, **value}
            node[key] = value
            return None
        if isinstance(node.get(key), str) and choice is not None:
            node[key] = {choice.table.base.word: node[key]}
        child = node.setdefault(key, {})
        if child is None:
            child = node[key] = {}
        if not isinstance(child, dict):
            return f"{'.'.join(path)}: {'.'.join(path[: i + 1])} is {json.dumps(child)} and has no {path[i + 1]!r}."
        owner, node = _owner(owner, key, child, choice), child
    return None


def _choice(owner: type[Spec] | None, key: str) -> OneOf | None:
    """The table that a field of a spec chooses from, if it does."""
    field = owner.model_fields.get(key) if owner else None
    return next((item for item in field.metadata if isinstance(item, OneOf)), None) if field else None


def _owner(owner: type[Spec] | None, key: str, child: Tree, choice: OneOf | None) -> type[Spec] | None:
    """The spec class of a field's value."""
    if choice is not None:
        word = choice.table.base.word
        part: type[Part] | None = choice.table.find(str(child.get(word, choice.default)))
        return part
    field = owner.model_fields.get(key) if owner else None
    kind = field.annotation if field else None
    return kind if isinstance(kind, type) and issubclass(kind, Spec) else None
