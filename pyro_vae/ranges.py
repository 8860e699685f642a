"""Where the values of a field of an experiment lie: the words of a sweep's `space`, and Optuna's behind them."""

import json
import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from pyro_vae.specs import Count, DeclarationError, Part, Seq, Table

if TYPE_CHECKING:
    import optuna


class Range(Part):
    """Where the values of one field lie; abstract."""

    def ends(self) -> list[Any]:
        """The values that are checked before the first trial: if these are right, those between are."""
        raise NotImplementedError

    def grid(self) -> list[Any] | None:
        """Every value, None where there are infinitely many."""
        raise NotImplementedError

    def suggest(self, trial: "optuna.Trial", name: str) -> Any:
        """A value, drawn by the sampler of the study."""
        raise NotImplementedError

    def stored(self, value: Any) -> Any:
        """A value as Optuna keeps it."""
        return value

    def value(self, stored: Any) -> Any:
        """The value that Optuna keeps as `stored`."""
        return stored


class IntRange(Range):
    """Integers from `low` to `high`, both included."""

    kind: Literal["int"] = "int"
    low: int
    """The smallest."""
    high: int
    """The largest."""
    step: Count = 1
    """Distance of neighbours."""
    log: bool = False
    """Even in the logarithm."""

    @model_validator(mode="after")
    def _is_a_range(self) -> "IntRange":
        return _checked(self, self.low, self.high, None if self.step == 1 else self.step, self.log, 1)

    def ends(self) -> list[Any]:
        """Both ends."""
        return [self.low, self.high]

    def grid(self) -> list[Any] | None:
        """All of them; none of a logarithmic range, which names no steps."""
        return None if self.log else list(range(self.low, self.high + 1, self.step))

    def suggest(self, trial: "optuna.Trial", name: str) -> Any:
        """An integer."""
        return trial.suggest_int(name, self.low, self.high, step=self.step, log=self.log)


class FloatRange(Range):
    """Numbers from `low` to `high`."""

    kind: Literal["float"] = "float"
    low: float
    """The smallest."""
    high: float
    """The largest."""
    step: Annotated[float, Field(gt=0)] | None = None
    """Distance of neighbours, any number by default."""
    log: bool = False
    """Even in the logarithm."""

    @model_validator(mode="after")
    def _is_a_range(self) -> "FloatRange":
        return _checked(self, self.low, self.high, self.step, self.log, 0)

    def ends(self) -> list[Any]:
        """Both ends."""
        return [self.low, self.high]

    def grid(self) -> list[Any] | None:
        """Every step."""
        if self.step is None:
            return None
        return [self.low + i * self.step for i in range(round((self.high - self.low) / self.step) + 1)]

    def suggest(self, trial: "optuna.Trial", name: str) -> Any:
        """A number."""
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)


def _checked[R: Range](found: R, low: float, high: float, step: float | None, log: bool, least: int) -> R:
    """The range, if it is one."""
    if low >= high:
        raise ValueError(f"low={low}: must be below high={high}; for a single value, set the field itself")
    if log and low <= 0:
        raise ValueError(f"low={low}: must be {'at least 1' if least else 'above 0'} in a logarithmic range")
    if log and step is not None:
        raise ValueError(f"step={step}: has no meaning in a logarithmic range; leave out step, or log")
    if step is not None and not math.isclose((high - low) / step, round((high - low) / step), rel_tol=1e-9):
        raise ValueError(f"step={step}: does not lead from low={low} to high={high}; choose a high that it meets")
    return found


class Choice(Range):
    """One of several values of any kind, without an order."""

    kind: Literal["choice"] = "choice"
    values: Seq[Any]
    """The values: numbers, words, or mappings like {kind: flow}."""

    @model_validator(mode="after")
    def _are_several(self) -> "Choice":
        names = [self.stored(value) for value in self.values]
        if len(names) < 2:
            raise ValueError("values: must be two or more; for a single value, set the field itself")
        again = sorted({name for name in names if names.count(name) > 1})
        if again:
            raise ValueError(f"values: {', '.join(again)} is there more than once; name each once")
        return self

    def ends(self) -> list[Any]:
        """All of them."""
        return list(self.values)

    def grid(self) -> list[Any] | None:
        """All of them."""
        return list(self.values)

    def suggest(self, trial: "optuna.Trial", name: str) -> Any:
        """One of the values."""
        return self.value(trial.suggest_categorical(name, [self.stored(value) for value in self.values]))

    def stored(self, value: Any) -> Any:
        """A word as it is, anything else as JSON."""
        return value if isinstance(value, str) else json.dumps(value)

    def value(self, stored: Any) -> Any:
        """The value of that name."""
        return next(value for value in self.values if self.stored(value) == stored)


RANGES: Table[Range] = Table("range", Range, IntRange, FloatRange, Choice)


def optuna_package() -> Any:
    """Optuna, which is an extra.

    Raises:
        DeclarationError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise DeclarationError(
            ["a sweep needs Optuna, which is not installed; install it: pip install 'pyro_vae[sweep]'"]
        ) from None
    return optuna
