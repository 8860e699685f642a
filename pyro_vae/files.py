"""Declarations as text: strict YAML in and out, and `key=value` overrides.

YAML 1.2 by ruamel.yaml: `1e-3` is a number, `no` is a string, duplicate keys are refused. Refused beyond
that: anchors and aliases, dates, numbers that are not finite, keys that are no strings, files over 1 MB
or 50 levels deep. A file holds data only; nothing in it can name code.
"""

import datetime
import io
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent, Event
from ruamel.yaml.representer import SafeRepresenter

from pyro_vae.specs import DeclarationError, OneOf, Spec, did_you_mean

MAX_BYTES = 1_000_000
MAX_DEPTH = 50

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
        refusal = _refusal(yaml.parse(io.StringIO(text)))
        tree = None if refusal else yaml.load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise DeclarationError([f"{name}:{where} no valid YAML: {problem}."]) from None
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        # The reader fails in many ways over keys that are lists, and over what only looks like a number.
        reason = "a key, a number or a date in it cannot be read"
        if isinstance(error, RecursionError):
            reason = "it is nested too deeply"
        elif "digits" in str(error):
            reason = "a number in it has more digits than can be read"
        raise DeclarationError([f"{name}: no valid YAML: {reason}; write plain keys and values."]) from None
    if refusal:
        raise DeclarationError([f"{name}: {refusal}"])
    if tree is None:
        return {}
    if not isinstance(tree, Mapping):
        raise DeclarationError([f"{name}: must be a mapping like `variant: {{...}}`, not {type(tree).__name__}."])
    problems = list(_strange(tree, ""))
    if problems:
        raise DeclarationError([f"{name}: {problem}" for problem in problems])
    return dict(tree)


def _refusal(events: Iterable[Event]) -> str | None:
    """What of YAML's notation is not used in a declaration; seen before anything is built from it."""
    depth = 0
    for event in events:
        if getattr(event, "anchor", None):
            return "anchors and aliases (& and *) are not used here; write it out."
        if tag := getattr(event, "tag", None):
            written = str(tag).replace("tag:yaml.org,2002:", "!!")
            return f"line {event.start_mark.line + 1}: the tag {written} is not used here; write the value alone."
        if getattr(event, "version", None):
            return "%YAML directives are not used here; remove the line."
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            return f"is nested deeper than {MAX_DEPTH} levels, which no declaration is."
    return None


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


class _Representer(SafeRepresenter):
    """Quotes every string that is no plain word: ruamel.yaml writes `{a: ?x}` or `{a: :x}` and cannot read it back."""

    def represent_str(self, data: str) -> Any:
        plain = re.fullmatch(r"[^\W\d][\w ./+-]*", data)
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if plain else '"')


_Representer.add_representer(str, _Representer.represent_str)


def to_yaml(tree: Tree) -> str:
    """YAML text of a tree of dicts, lists and scalars; small mappings and lists on one line."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 140
    yaml.allow_unicode = True
    stream = io.StringIO()
    yaml.dump(tree, stream)
    return stream.getvalue()


def override(tree: Tree, assignments: Iterable[str], root: type[Spec]) -> Tree:
    """Apply `a.b=value` overrides to a tree.

    A first key that is no field of `root` but one of its `variant` means that: `latent.dim=2` is
    `variant.latent.dim=2`. A value is read as YAML (or JSON), and is a string where it is neither. Of two for one key
    the later holds. A mapping changes the keys that it names. Changing which part a field holds drops the fields of
    the other part.

    Raises:
        DeclarationError: an assignment has no `=`, or its path runs into a value that has no fields.
    """
    result, problems = json.loads(json.dumps(tree)), list[str]()
    variant = _spec(root, "variant")
    short = tuple(variant.model_fields) if variant else ()
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not all(key.strip().split(".")):
            problems.append(f"{assignment!r}: must be key=value, like training.epochs=20.")
            continue
        path = key.strip().split(".")
        if path[0] not in root.model_fields:
            if path[0] not in short:
                known = (*root.model_fields, *short)
                problems.append(f"{key}: unknown key.{did_you_mean(path[0], known)} Known: {', '.join(known)}.")
                continue
            path.insert(0, "variant")
        problem = _assign(result, path, _value(text.strip(), key, problems), root)
        if problem:
            problems.append(problem)
    if problems:
        raise DeclarationError(problems)
    return result


def _value(text: str, key: str, problems: list[str]) -> Any:
    """YAML's reading of a value (JSON is YAML); a string where it is none and no bracket or quote opens it."""
    try:
        return parse_yaml(f"value: {text}", key)["value"]
    except DeclarationError as error:
        if text.startswith(("[", "{", '"')):
            problems.extend(error.problems)
        return text


def _assign(tree: Tree, path: list[str], value: Any, root: type[Spec]) -> str | None:
    owner: type[Spec] | None = root
    node: Any = tree
    for i, key in enumerate(path):
        choice, spec = _choice(owner, key), _spec(owner, key)
        left = path[i + 1 :]
        if choice is not None and left == [choice.table.base.word]:
            value, left = {left[0]: value}, []
        if not left:
            node[key] = _changed(node.get(key), value, choice, spec)
            return None
        child = node[key] = {} if node.get(key) is None else _written_out(node[key], choice, spec)
        if not isinstance(child, dict):
            return f"{'.'.join(path)}: {'.'.join(path[: i + 1])} is {json.dumps(child)} and has no {path[i + 1]!r}."
        part = choice and choice.table.find(str(child.get(choice.table.base.word, choice.default)))
        owner, node = part or spec, child
    return None


def _changed(old: Any, new: Any, choice: OneOf | None, spec: type[Spec] | None) -> Any:
    """The new value of a field: a mapping changes the keys that it names, where the part stays the same.

    If the part changes, the fields common to all parts of the table stay; the others belonged to the other part.
    """
    old, new = _written_out(old, choice, spec), _written_out(new, choice, spec)
    if not (isinstance(old, dict) and isinstance(new, dict) and (choice or spec)):
        return new
    if choice is not None:
        word = choice.table.base.word
        current = old.get(word, choice.default)
        if new.get(word, current) != current:
            old = {key: value for key, value in old.items() if key in choice.table.base.model_fields}
    return {**old, **new}


def _written_out(value: Any, choice: OneOf | None, spec: type[Spec] | None) -> Any:
    """A bare word as the mapping that it is short for, anything else as it is."""
    word = choice.table.base.word if choice else "kind" if spec and "kind" in spec.model_fields else None
    return {word: value} if word and isinstance(value, str) else value


def _annotations(owner: type[Spec] | None, key: str) -> tuple[Any, ...]:
    """The annotations of a field of a spec, those inside `X | None` and `OneOrMore[X]` included."""
    field = owner.model_fields.get(key) if owner else None
    if field is None or get_origin(field.annotation) is dict:
        return ()
    inside = get_args(field.annotation)
    return (field.annotation, *field.metadata, *inside, *(note for item in inside for note in get_args(item)))


def _choice(owner: type[Spec] | None, key: str) -> OneOf | None:
    """The table that a field of a spec chooses from, if it does."""
    return next((item for item in _annotations(owner, key) if isinstance(item, OneOf)), None)


def _spec(owner: type[Spec] | None, key: str) -> type[Spec] | None:
    """The spec class of a field's value, if that is one and no part."""
    return next((item for item in _annotations(owner, key) if isinstance(item, type) and issubclass(item, Spec)), None)
