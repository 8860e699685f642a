"""An `Experiment` is everything a run needs: variant, objective, data, training, seed; one YAML file.

A *named* experiment is a YAML file in `pyro_vae/variants/`, partial like a user's own: every key that it
leaves out has a default.
"""

import math
import os
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from pyro_vae.data import DATA, Data, DataSpec, DigitsData
from pyro_vae.files import Tree, override, parse_yaml, read_yaml, to_yaml
from pyro_vae.fitting import misfits, too_fine, too_large
from pyro_vae.guides import GUIDES
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.networks import NETWORKS
from pyro_vae.objectives import ELBO, OBJECTIVES, Objective
from pyro_vae.priors import PRIORS
from pyro_vae.specs import Count, DeclarationError, OneOf, OneOrMore, Part, Seq, Spec, Table, did_you_mean, explain
from pyro_vae.trackers import TRACKERS, Tracker
from pyro_vae.variant import Variant

TABLES: dict[str, Table] = {
    table.noun: table for table in (LIKELIHOODS, PRIORS, GUIDES, NETWORKS, OBJECTIVES, DATA, TRACKERS)
}
"""Every table of parts, by what its parts are called."""


type Decay = Annotated[float, Field(ge=0, lt=1)]


class Optimizer(Spec):
    """Adam (weight decay added to the gradient) or AdamW (decoupled)."""

    kind: Literal["adam", "adamw"] = "adam"
    """`adam` or `adamw`."""
    learning_rate: float = Field(1e-3, gt=0)
    """Step size at the start of the schedule."""
    betas: Annotated[tuple[Decay, Decay], Field(strict=False)] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the mean square."""
    weight_decay: float = Field(0.0, ge=0)
    """Pull of the parameters towards zero."""


class Schedule(Spec):
    """Learning rate over training, as a factor from 1 down to `final`, after a linear warm-up."""

    kind: Literal["constant", "linear", "cosine", "exponential"] = "constant"
    """Shape of the decay."""
    final: float = Field(0.01, gt=0, le=1)
    """Factor at the end; of no concern to `constant`."""
    warmup_epochs: float = Field(0.0, ge=0)
    """Epochs over which the rate rises linearly from 0."""

    @model_validator(mode="after")
    def _final_is_used(self) -> "Schedule":
        if self.kind == "constant" and "final" in self.model_fields_set and self.final != 0.01:
            raise ValueError("final: has no effect on a constant schedule; choose linear, cosine or exponential")
        return self

    def factor(self, epoch: float, epochs: float) -> float:
        """Factor of the learning rate after `epoch` of `epochs` epochs."""
        if epoch < self.warmup_epochs:
            return epoch / self.warmup_epochs
        done = min((epoch - self.warmup_epochs) / max(epochs - self.warmup_epochs, 1e-12), 1.0)
        match self.kind:
            case "linear":
                return 1 + (self.final - 1) * done
            case "cosine":
                return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done))
            case "exponential":
                return self.final**done
        return 1.0


class EarlyStopping(Spec):
    """Stop when the validation ELBO (the loss, where there is no ELBO) has not improved; keep the best weights."""

    patience: Count = 10
    """Epochs without improvement before training stops."""
    min_delta: float = Field(0.0, ge=0)
    """Improvement, nats per datum, that counts."""


DEVICE = r"^(auto|cpu|cuda(:\d{1,3})?)$"


def _device(name: str) -> str:
    if not re.match(DEVICE, name):
        raise PydanticCustomError("device", "must be auto, cpu, cuda or cuda:NUMBER")
    return name


type Followed = Annotated[Tracker, OneOf(TRACKERS, "tensorboard")]


def _listed(trackers: Any) -> Any:
    """One tracker as a list of one."""
    return [trackers] if isinstance(trackers, str | dict | Tracker) else trackers


class Training(Spec):
    """How the parameters are found."""

    epochs: Count = 100
    """Passes over the training data."""
    batch_size: Count = 128
    """Data per step; a short last batch is dropped (the order changes every epoch)."""
    optimizer: Optimizer = Optimizer()
    """The update rule."""
    schedule: Schedule = Schedule()
    """Learning rate over training."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the gradient; larger ones are scaled down."""
    early_stopping: EarlyStopping | None = None
    """When to stop before the last epoch."""
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    """`bfloat16` runs the matrix products in bfloat16 and keeps parameters and densities in float32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the recorded step; `auto` where the planned steps repay it. `off` is for evaluations too."""
    device: Annotated[str, AfterValidator(_device), WithJsonSchema({"type": "string", "pattern": DEVICE})] = "auto"
    """`auto` takes a GPU where there is one."""
    checkpoint_every: Count = 1
    """Epochs between checkpoints."""
    trackers: Annotated[Seq[Followed], BeforeValidator(_listed, json_schema_input_type=OneOrMore[Followed])] = ()
    """Programs that show the curves while it runs: one, or a list of them."""

    @model_validator(mode="after")
    def _trackers_differ(self) -> "Training":
        words = [tracker.tree()[tracker.word] for tracker in self.trackers]
        if len(set(words)) < len(words):
            raise ValueError(f"trackers={', '.join(words)}: names one of them twice; each can be fed once")
        return self

    @model_validator(mode="after")
    def _warmup_ends(self) -> "Training":
        if self.schedule.warmup_epochs > self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs={self.schedule.warmup_epochs:g} is longer than training "
                f"(epochs={self.epochs}): the rate would never be reached; shorten it or train longer"
            )
        return self


class Experiment(Spec):
    """Everything a run needs."""

    variant: Variant = Variant()
    """The model and the guide."""
    objective: Annotated[Objective, OneOf(OBJECTIVES, "elbo")] = ELBO()
    """What training minimises."""
    data: Annotated[DataSpec, OneOf(DATA, "digits")] = DigitsData()
    """The data and their treatment."""
    training: Training = Training()
    """How the parameters are found."""
    seed: int = Field(0, ge=0, le=2**31 - 1)
    """Seed of the initial weights, the order of the data and the draws."""

    @model_validator(mode="after")
    def _parts_fit(self) -> "Experiment":
        longest, epochs = self.objective.longest(), self.training.epochs
        declared = self.data.declared()
        problems = [] if declared is None else misfits(self.variant, self.data, declared)
        problems += self.objective.misfits(self.variant)
        if longest > epochs:
            warmup = getattr(self.objective, "warmup_epochs", None) == longest
            what = "objective.warmup_epochs=" if warmup else "objective: its schedule in epochs, "
            problems.append(
                f"{what}{longest:g}: is longer than training (training.epochs={epochs}), so that beta would never be "
                "reached; shorten it or train longer."
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self


def check(experiment: Experiment, data: Data) -> None:
    """Check a declaration against the data themselves.

    Raises:
        DeclarationError: everything that does not fit.
    """
    found = misfits(experiment.variant, experiment.data, data)
    training = experiment.training
    if training.batch_size > len(data.train):
        found.append(
            f"training.batch_size={training.batch_size}: there are {len(data.train)} training data; "
            f"take at most that many."
        )
    if training.early_stopping and len(data.validation) == 0:
        found.append("training.early_stopping: needs validation data; set data.validation, like 0.1.")
    found += too_fine(data, training.precision)
    found += [] if experiment.variant.likelihood.scales else too_large(data)
    for name, label in experiment.variant.labels.items():
        for part in ("train", "validation", "test"):
            labels = getattr(data, part).attributes.get(name)
            if label.observed == "always" and labels is not None and bool((labels < 0).any()):
                found.append(
                    f"variant.labels.{name}.observed=always: {int((labels < 0).sum())} labels of the {part} data "
                    "are missing; use partly."
                )
    if found:
        raise DeclarationError(found)


def named() -> dict[str, str]:
    """Names of the experiments that come with the package -> the first line of comment of each."""
    folder = resources.files("pyro_vae") / "variants"
    files = sorted((item for item in folder.iterdir() if item.name.endswith(".yaml")), key=lambda item: item.name)
    return {item.name.removesuffix(".yaml"): item.read_text().splitlines()[0].lstrip("# ") for item in files}


def load_experiment(source: str = "digits", overrides: Sequence[str] = ()) -> Experiment:
    """An experiment from a name or a YAML file, with `key=value` overrides.

    Args:
        source: one of `named()`, or the path of a file.
        overrides: assignments like "training.epochs=20".

    Raises:
        DeclarationError: everything that is wrong with it.

    >>> load_experiment("digits", ["latent.dim=2"]).variant.latent.dim
    2
    """
    return experiment_from(source_tree(source), overrides)


def experiment_from(tree: Tree, overrides: Sequence[str] = ()) -> Experiment:
    """An experiment from a (partial) tree, with `key=value` overrides."""
    return declaration_from(Experiment, tree, overrides)


def declaration_from[E: Experiment](kind: type[E], tree: Tree, overrides: Sequence[str] = ()) -> E:
    """An experiment, or something that is one and more, from a (partial) tree, with `key=value` overrides."""
    problems: list[str] = []
    try:
        tree = override(tree, overrides, kind)
    except DeclarationError as error:
        problems += error.problems
        tree = _overridden_where_possible(kind, tree, overrides)
    try:
        experiment = kind.model_validate(tree)
    except ValidationError as error:
        raise DeclarationError([*problems, *explain(error), *_further(tree, error)]) from None
    if problems:
        raise DeclarationError(problems)
    return experiment


def _overridden_where_possible(kind: type[Experiment], tree: Tree, overrides: Sequence[str]) -> Tree:
    """The tree with those overrides that make sense."""
    for assignment in overrides:
        try:
            tree = override(tree, [assignment], kind)
        except DeclarationError:
            continue
    return tree


def _further(tree: Tree, error: ValidationError) -> list[str]:
    """What is wrong between the sections that are right by themselves, so that every mistake is said at once."""
    wrong = {item["loc"][0] for item in error.errors() if item["loc"]}
    if not wrong:  # the sections are right, and what is wrong between them has been said
        return []
    try:
        Experiment.model_validate({name: tree[name] for name in Experiment.model_fields if name in tree.keys() - wrong})
    except ValidationError as rest:
        # Where a section is wrong, its defaults stand in for it, and what is said of it or with it is void.
        pairs = ({"variant", "data"}, {"objective", "training"})
        void = set[Any]().union(*(pair for pair in pairs if pair & wrong))
        return [line for line in explain(rest) if line.split(".")[0] not in void]
    return []


def source_tree(source: str) -> Tree:
    """The tree of a named experiment or of a YAML file.

    Raises:
        DeclarationError: there is neither of that name, or the file cannot be read.
    """
    if source in named():
        text = (resources.files("pyro_vae") / "variants" / f"{source}.yaml").read_text()
        return parse_yaml(text, source)
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or os.path.isfile(source):
        if not os.path.exists(source):  # Path.exists raises where the name is too long
            raise DeclarationError([f"{source}: there is no such file; `pyro-vae list` names what comes along."])
        return read_yaml(path)
    hint = did_you_mean(source, named())
    known = "`pyro-vae list` shows all" if hint else f"Known: {', '.join(named())}"
    raise DeclarationError([f"{source!r}: no variant of that name and no file.{hint} {known}."])


def dump(experiment: Experiment) -> str:
    """YAML of an experiment, every default filled in; `experiment_from(parse_yaml(...))` gives it back."""
    return to_yaml(experiment.tree())


def json_schema() -> dict[str, Any]:
    """JSON schema of a file, for editors; no key is required in one."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Experiment.model_json_schema()


def register(part: type[Part]) -> type[Part]:
    """Add a part from outside the package to its table; usable as a decorator.

    Raises:
        TypeError: it derives from none of the abstract specs, or its word is taken.
    """
    for table in TABLES.values():
        if isinstance(part, type) and issubclass(part, table.base):
            table.add(part)
            return part
    bases = ", ".join(table.base.__name__ for table in TABLES.values())
    raise TypeError(f"{part!r} is no part: derive it from one of pyro_vae.{{{bases}}}.")
