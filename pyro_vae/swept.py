"""What a sweep has found: its trials, the best first, and the best of them compared on test data."""

import json
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vae.comparison import Comparison, compare
from pyro_vae.data import Arrays
from pyro_vae.files import Tree
from pyro_vae.opening import chosen_checkpoints
from pyro_vae.progress import counter
from pyro_vae.records import Metrics, read_json, read_metrics, write_json
from pyro_vae.runs import Run
from pyro_vae.search import Search, Sweep
from pyro_vae.specs import DeclarationError
from pyro_vae.workers import claimed

if TYPE_CHECKING:
    import optuna

log = logging.getLogger("pyro_vae")

STATES = ("completed", "pruned", "failed", "running", "stopped")
"""What becomes of a trial, in the order of the table; `stopped`: to be continued."""
FEW_TRIALS = 10
"""Completed trials below which importances would be noise."""


@dataclass(frozen=True, eq=False, repr=False)
class Swept:
    """The result of a sweep; scores are means over the validation data, in nats per datum.

    The scores picked the best, which makes them a little too good; `comparison` is by test data, which did not.
    """

    directory: Path
    score: str
    """What is maximised."""
    trials: list[dict[str, Any]]
    """One row per trial, the best first.

    trial, rank   its number; 1 is the best, None of those that were not completed
    score         at the end (the best epoch's with early stopping); the last one of a pruned trial
    values        field -> value
    epochs        that were trained
    state         one of STATES
    run           the run directory
    error         of a failed trial, what happened, otherwise None
    """
    comparison: Comparison | None
    """The best trials by log p(x) of the test data, with paired differences; None where there is none."""
    importances: dict[str, float] | None
    """Field -> share of the variance of the score that it explains (fANOVA), of ten completed trials or more."""
    notes: list[str]
    """What else is to be known."""

    @property
    def best(self) -> dict[str, Any] | None:
        """The row of the best trial."""
        return self.trials[0] if self.trials and self.trials[0]["rank"] else None

    @property
    def cells(self) -> list[list[str]]:
        """The table as words, a line of headings first."""
        fields = list(self.trials[0]["values"]) if self.trials else []
        lines = [["rank", "trial", "score", *map(short, fields), "epochs", "state"]]
        for row in self.trials:
            score = "" if row["score"] is None else f"{row['score']:.3f}"
            values = [_word(row["values"].get(field)) for field in fields]
            rank = "" if row["rank"] is None else str(row["rank"])
            lines.append([rank, str(row["trial"]), score, *values, str(row["epochs"]), row["state"]])
        return lines

    @property
    def summary(self) -> list[str]:
        """What the table says, a line each."""
        counts = {state: sum(row["state"] == state for row in self.trials) for state in STATES}
        said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        lines = [f"{len(self.trials)} trials: {said}; score: {self.score}, nats per datum"]
        if self.importances:
            shares = ", ".join(f"{short(field)} {100 * share:.0f} %" for field, share in self.importances.items())
            lines.append(f"share of the score's variance that each explains: {shares}")
        lines += [f"trial {row['trial']} failed: {row['error']}" for row in self.trials if row["error"]]
        if self.best:
            lines.append(f"best by validation: {self.best['run']}")
        return lines + [f"note: {note}" for note in self.notes]

    def __repr__(self) -> str:
        widths = [max(map(len, column)) for column in zip(*self.cells, strict=True)]
        lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in self.cells]
        return "\n".join([*lines, *self.summary, *([str(self.comparison)] if self.comparison else [])])

    def tree(self) -> Tree:
        """The result as plain dicts, lists and numbers; what sweep.json holds and --json prints."""
        return {
            "sweep": str(self.directory),
            "score": self.score,
            "best": self.best,
            "trials": self.trials,
            "importances": self.importances,
            "comparison": None if self.comparison is None else self.comparison.tree(),
            "notes": self.notes,
        }


def short(field: str) -> str:
    """A field without the sections that can be left out.

    >>> short("variant.latent.dim"), short("training.optimizer.learning_rate")
    ('latent.dim', 'learning_rate')
    """
    return field.removeprefix("variant.").removeprefix("training.").removeprefix("optimizer.")


def _word(value: Any) -> str:
    """A value for reading: numbers to four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def score_of(row: dict[str, Any] | Metrics) -> float:
    """The score of an epoch, larger is better: the ELBO, or minus the loss where there is no ELBO."""
    tree = row._asdict() if isinstance(row, Metrics) else row
    return float(-tree["loss"] if tree["elbo"] is None else tree["elbo"])


def final_score(folder: Path) -> float:
    """The score of the weights that a finished run ends with: the last epoch's, or the best with early stopping."""
    rows = [row for row in read_metrics(folder) if row["split"] == "validation"]
    best = read_json(chosen_checkpoints(folder)[0] / "state.json")["best_step"]
    return score_of(rows[-1] if best is None else next(row for row in rows if row["step"] == best))


def trial_folder(folder: Path, number: int) -> Path:
    """The run directory of a trial."""
    return folder / f"trial_{number:04d}"


def claim_path(folder: Path, number: int) -> Path:
    """The file that says who works on a trial."""
    return folder / "workers" / f"{trial_folder(folder, number).name}.json"


def rows(folder: Path, search: Search, trials: Sequence["optuna.trial.FrozenTrial"]) -> list[dict[str, Any]]:
    """The table of the trials, see `Swept`."""
    found = list[dict[str, Any]]()
    for trial in trials:
        state = {"COMPLETE": "completed", "PRUNED": "pruned", "FAIL": "failed"}.get(trial.state.name)
        if state is None:
            state = "running" if claimed(claim_path(folder, trial.number)) else "stopped"
        scores = trial.intermediate_values
        last = scores[max(scores)] if scores else None
        found.append(
            {
                "trial": trial.number,
                "rank": None,
                "score": trial.value if state == "completed" else last,
                "values": {name: search.space[name].value(value) for name, value in trial.params.items()},
                "epochs": max(scores, default=0),
                "state": state,
                "run": str(trial_folder(folder, trial.number)),
                "error": trial.user_attrs.get("error"),
            }
        )
    found.sort(key=lambda row: (STATES.index(row["state"]), -(row["score"] or 0.0), row["trial"]))
    for rank, row in enumerate((row for row in found if row["state"] == "completed"), 1):
        row["rank"] = rank
    return found


def gather(
    folder: Path,
    sweep: Sweep,
    study: "optuna.Study",
    arrays: Arrays | None,
    top: int,
    num_samples: int,
    quiet: bool,
    progress: Callable[[], None],
) -> Swept:
    """Everything that a sweep has found so far, also written to sweep.json.

    Args:
        folder: of the sweep.
        sweep: the declaration.
        study: Optuna's.
        arrays: the data of a sweep over data in memory.
        top: how many of the best trials are evaluated and compared.
        num_samples: importance samples per datum of that.
        quiet: no progress bar.
        progress: called now and then; may raise.
    """
    trials = [trial for trial in study.get_trials() if trial.state.name != "WAITING"]
    table = rows(folder, sweep.sweep, trials)
    best = [Path(row["run"]) for row in table if row["rank"]][:top]
    going = [row["trial"] for row in table if row["state"] in ("running", "stopped")]
    notes, comparison = list[str](), None
    if going:
        words = f"trial{'s' * (len(going) > 1)} {', '.join(map(str, going))}"
        notes.append(
            f"{words}: not done yet; pyro-vae sweep --resume {folder} goes on, and compares the best at the end"
        )
    else:
        comparison, notes = _compared([Run(run, arrays) for run in best], num_samples, quiet, progress)
    score = "validation ELBO" if sweep.variant.normalized else "minus the validation loss"
    swept = Swept(folder, score, table, comparison, _importances(study), notes)
    write_json(folder / "sweep.json", swept.tree())
    return swept


def _compared(
    runs: list[Run], num_samples: int, quiet: bool, progress: Callable[[], None]
) -> tuple[Comparison | None, list[str]]:
    """The runs evaluated, and side by side; and why not, where they are not."""
    if not runs:
        return None, []
    part = next(part for part in ("test", "validation") if len(getattr(runs[0].data, part)))
    notes = (
        [] if part == "test" else ["there are no test data: evaluated on the validation data, which picked the best"]
    )
    number = len(getattr(runs[0].data, part))

    def forward(text: str, times: int) -> Callable[[int], None]:
        count = counter(number * times, text, quiet)

        def step(some: int) -> None:
            progress()
            count(some)

        return step

    for run in runs:
        if not (run.directory / "result.json").exists():
            run.evaluate(part, num_samples, forward("evaluating", 1))
    if len(runs) < 2:
        return None, notes
    try:
        return compare(runs, part, num_samples, progress=forward("comparing", len(runs))), notes
    except DeclarationError as error:
        return None, [*notes, *error.problems]


def _importances(study: "optuna.Study") -> dict[str, float] | None:
    """How much of the score each field explains, where there are enough trials to say."""
    import optuna

    done = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    varied = {name for name in done[0].params if len({trial.params[name] for trial in done}) > 1} if done else set()
    if len(done) < FEW_TRIALS or not varied or len({trial.value for trial in done}) == 1:
        return None
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=sorted(varied))
    return {name: float(share) for name, share in found.items()}
