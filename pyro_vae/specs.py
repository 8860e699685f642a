"""How a part is declared: strict frozen specs, one table per kind of part, and errors that say what to do.

A *spec* is data: a frozen pydantic model that forbids unknown keys. A *part* is a spec with a word that
names it (`kind`, or `name` for data sets) and a method that builds its module. A *table* holds the parts of
one kind; the YAML words, `pyro-vae list`, the JSON schema, the README's table and the conformance tests all
read the tables, so that adding a part is one class and one line in its file.

    class Laplace(Likelihood):                      # in likelihoods/, or in your own package
        kind: Literal["laplace"] = "laplace"
        ...
    pyro_vae.register(Laplace)                      # only from outside the package
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Annotated, Any, ClassVar, Self, cast, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError, core_schema

ENTRY_POINTS = "pyro_vae.parts"
"""Entry point group from which an installed package adds parts; a file can never name code to import."""


class DeclarationError(ValueError):
    """Everything that is wrong with a declaration, one line per problem."""

    def __init__(self, problems: Iterable[str]) -> None:
        """Keep the problems; the message is one of them a line."""
        self.problems = tuple(map(_line, problems))
        super().__init__("\n".join(self.problems))


def _line(problem: str) -> str:
    """A problem on one line that can be read: what a user's words hold of line breaks, and of length, is cut out."""
    printable = "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in problem)
    return re.sub(r"\S{160,}", lambda word: f"{word[0][:60]} ... {word[0][-20:]}", printable)


class Spec(BaseModel):
    """A strict, frozen, hashable piece of declaration."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    def __init__(self, **fields: Any) -> None:
        """Validate the fields.

        Raises:
            DeclarationError: every mistake at once, with the dotted field, the value and what is allowed.
        """
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise DeclarationError(explain(error)) from None

    # Without this mark pydantic would build nested specs through __init__ and lose where their mistakes are.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="wrap")
    @classmethod
    def _from_text_or_tree(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Read a bare word as the kind; say which keys there are, here where the class is known."""
        if isinstance(value, str) and "kind" in cls.model_fields:
            value = {"kind": value}
        try:
            return handler(value)
        except ValidationError as error:
            items = [_hinted(item, cls) for item in error.errors()]
            raise ValidationError.from_exception_data(cls.__name__, items) from None

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The mapping, or the bare word where the spec has a kind."""
        found = handler(schema)
        kind = cls.model_fields.get("kind")
        if kind is None or issubclass(cls, Part):  # a field that holds a part knows all words of its table
            return found
        return {"anyOf": [{"enum": list(get_args(kind.annotation))}, found]}

    def tree(self) -> dict[str, Any]:
        """The spec as plain dicts, lists and scalars, every default filled in."""
        return json.loads(self.model_dump_json())

    def replace(self, **changes: Any) -> Self:
        """A new spec with some fields changed, validated like any other (`model_copy` would not)."""
        return type(self)(**({name: getattr(self, name) for name in type(self).model_fields} | changes))


class Part(Spec):
    """A spec that is one word of a vocabulary; abstract. Its first field is the word."""

    word: ClassVar[str] = "kind"
    """Name of the field that holds the word."""
    capturable: ClassVar[bool] = True
    """False for operations that cannot be recorded once and replayed; the eager program then runs."""


# Sequences are written as lists in YAML and Python alike, and kept as tuples, so that a spec is hashable.
type Seq[T] = Annotated[tuple[T, ...], Field(strict=False)]
type Count = Annotated[int, Field(ge=1, le=10**9)]
# One thing, or a list of them; the tags hold a bracket so that `explain` leaves them out of the dotted field.
type OneOrMore[T] = Annotated[
    Annotated[T, Tag("one[]")] | Annotated[Seq[T], Tag("more[]")],
    Discriminator(lambda value: "more[]" if isinstance(value, list | tuple) else "one[]"),
]


class Table[P: Part](Mapping[str, type[P]]):
    """The parts of one kind, in order: word -> spec class."""

    def __init__(self, noun: str, base: type[P], *parts: type[P]) -> None:
        """Make the table of `noun`, whose parts all derive from the abstract spec `base`."""
        self.noun, self.base = noun, base
        self._parts: dict[str, type[P]] = {}
        self._loaded = False
        for part in parts:
            self.add(part)

    def add(self, part: type[P]) -> None:
        """Add a part under its word.

        Raises:
            TypeError: the class is no part of this kind, its word has no default, or the word is taken.
        """
        if not (isinstance(part, type) and issubclass(part, self.base)):
            raise TypeError(f"{part!r} is no {self.noun}: derive it from pyro_vae.{self.base.__name__}.")
        field = part.model_fields.get(part.word)
        if field is None or not isinstance(field.default, str):
            raise TypeError(f"{part.__name__} needs a field `{part.word}: Literal['...'] = '...'`.")
        taken = self._parts.get(field.default)
        if taken is not None and taken is not part:
            raise TypeError(f"{self.noun} {field.default!r} is taken by {taken.__module__}.{taken.__name__}.")
        self._parts[field.default] = part

    def find(self, word: str) -> type[P] | None:
        """The part called `word`; installed packages are asked the first time a word is unknown or all are listed."""
        if word not in self._parts:
            self._load()
        return self._parts.get(word)

    def _load(self) -> None:
        """Add the parts of installed packages, once."""
        if self._loaded:
            return
        self._loaded = True
        for entry in entry_points(group=ENTRY_POINTS):
            part = entry.load()
            if isinstance(part, type) and issubclass(part, self.base):
                self.add(part)

    def __getitem__(self, word: str) -> type[P]:
        part = self.find(word)
        if part is None:
            raise KeyError(word)
        return part

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._parts)

    def __len__(self) -> int:
        self._load()
        return len(self._parts)


class OneOf:
    """Annotation of a field that holds one part of a table: `Annotated[Likelihood, OneOf(LIKELIHOODS, "normal")]`.

    Accepts a spec, a mapping (without the word: the field's own default kind) or the bare word.
    """

    def __init__(self, table: Table, default: str) -> None:
        """Choose from `table`; `default` is the word that a mapping without one means."""
        self.table, self.default = table, default

    def _choose(self, value: Any) -> Part:
        table, word = self.table, self.table.base.word
        if isinstance(value, table.base):
            return value
        if isinstance(value, str):
            value = {word: value}
        if not isinstance(value, Mapping):
            raise PydanticCustomError(
                "part", "{text}", {"text": f"must be a {table.noun}: one of {_words(table)}, or a mapping."}
            )
        name = value.get(word, self.default)
        part = table.find(name) if isinstance(name, str) else None
        if part is None:
            hint = did_you_mean(str(name), table)
            own = "" if hint else " A part of your own must be registered before, or installed as an entry point."
            text = f"no {table.noun} is called {name!r}.{hint} Known: {_words(table)}.{own}"
            raise PydanticCustomError("part", "{text}", {"text": text})
        try:
            return part.model_validate(dict(value) | {word: name})
        except ValidationError as error:
            items = [self._with_owners(item) for item in error.errors()]
            raise ValidationError.from_exception_data(part.__name__, items) from None

    def _with_owners(self, item: ErrorDetails) -> InitErrorDetails:
        """The same error; about an unknown key that other parts of the table have, with their words."""
        key = item["loc"][0] if len(item["loc"]) == 1 and item["type"] == "extra_forbidden" else None
        owners = [word for word, part in self.table.items() if key in part.model_fields]
        context = {"text": item["msg"]} | ({"owners": owners} if owners else {})
        kind = PydanticCustomError(cast(Any, item["type"]), "{text}", context)
        return InitErrorDetails(type=kind, loc=item["loc"], input=item["input"])

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Validate by dispatch at run time, so that parts registered later are known too."""
        return core_schema.no_info_plain_validator_function(
            self._choose,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda part: part.tree()),
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The union of the table's parts, or the bare word; only the default part can leave out its word."""
        options = [
            handler(part.__pydantic_core_schema__) | ({} if word == self.default else {"required": [part.word]})
            for word, part in self.table.items()
        ]
        return {"anyOf": [{"enum": list(self.table)}, *options], "default": self.default}


def _words(table: Table) -> str:
    return ", ".join(table)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence with the closest known word, or nothing.

    >>> did_you_mean("bernouli", ["bernoulli", "normal"])
    " Did you mean 'bernoulli'?"
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def explain(error: ValidationError) -> list[str]:
    """One line per mistake: dotted field, value, what is allowed, what to do.

    A field that takes several types fails once for each; those are one mistake and become one line. A model
    validator of a spec says `field=value: ...`, a line per mistake; the field gets its dots here.
    """
    mistakes: dict[str, list[str]] = {}
    for item in error.errors():
        path = ".".join(str(name) for name in item["loc"] if not _names_a_type(name))
        if item["type"] in ("part", "extra_forbidden", "value_error", "missing"):  # these say the value themselves
            for line in (_said(item) + _owned(item)).splitlines():
                between = "." if path and re.match(r"\w+[.=:\[]", line) else ": "
                mistakes[f"{path}{between}{line}".removeprefix(": ")] = []
        else:
            mistakes.setdefault(f"{path}={_shown(item['input'])}: must ", []).append(_said(item).removeprefix("must "))
    lines = [start + " or ".join(dict.fromkeys(ends)).replace(" or be ", " or ") for start, ends in mistakes.items()]
    return [line.rstrip(".") + "." for line in lines]


def _owned(item: ErrorDetails) -> str:
    """Which parts have a key that this one lacks, as something to do."""
    owners = item.get("ctx", {}).get("owners", [])
    field = ".".join(str(name) for name in item["loc"][:-1] if not _names_a_type(name))
    return (
        f" {item['loc'][-1]!r} is a key of: {', '.join(owners)}; choose one, like {field}={owners[0]}."
        if owners
        else ""
    )


_WORDS = {
    "Value error, ": "",
    "Input should": "must",
    "Tuple should": "must",
    " after validation": "",
    "a valid tuple": "a list",
    "a valid dictionary": "a mapping",
    "a valid integer": "an integer",
    "a valid ": "a ",
}
"""What pydantic says -> what the author of a YAML file would."""


def _said(item: ErrorDetails) -> str:
    if item["type"] == "missing":
        return "is required; give it a value"
    message = item["msg"]
    for old, new in _WORDS.items():
        message = message.replace(old, new)
    if item["type"] == "tuple_type" and isinstance(item["input"], int | float | str):
        message += f", like [{_shown(item['input'])}]"
    return message


def _shown(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _names_a_type(name: int | str) -> bool:
    """Whether an element of pydantic's location is the branch of a union, which no user wrote."""
    branches = ("int", "float", "bool", "str", "none")
    return isinstance(name, str) and ("[" in name or name.startswith("constrained-") or name in branches)


def _inside(key: str, owner: type[Spec]) -> str:
    """A sentence with the section of `owner` that the key belongs to, or nothing."""
    found = [
        f"{name}.{key}"
        for name, field in owner.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Spec)
        if key in field.annotation.model_fields
    ]
    return f" Did you mean {found[0]}?" if found else ""


def _hinted(item: ErrorDetails, owner: type[Spec]) -> InitErrorDetails:
    """The same error with its final text; where it is about the keys of `owner` itself, with the known ones."""
    message, fields = item["msg"], list(owner.model_fields)
    if item["type"] == "extra_forbidden" and len(item["loc"]) == 1:
        key = str(item["loc"][0])
        hint = _inside(key, owner) or did_you_mean(key, fields)
        message = f"unknown key.{hint} {owner.__name__} has: {', '.join(fields)}."
    elif item["type"] == "model_type" and not item["loc"]:
        message = f"must be a mapping of: {', '.join(fields)}"
    owners = {key: value for key, value in item.get("ctx", {}).items() if key == "owners"}
    kind = PydanticCustomError(cast(Any, item["type"]), "{text}", {"text": message} | owners)
    return InitErrorDetails(type=kind, loc=item["loc"], input=item["input"])
