r"""Comparing trained models by log p(x) of the same held-out data, datum by datum.

    log p^_r(x_i) = log 1/K sum_k w_rik,   w_rik = p_r(x_i, z_k) / q_r(z_k | x_i),   z_k ~ q_r(z | x_i)
    d_ri          = log p^_r(x_i) - log p^_best(x_i)
    difference    = 1/N sum_i d_ri  +-  sd_i(d_ri) / sqrt(N)

The differences are paired: what makes a datum hard for every model cancels, so that their standard error is
several times smaller than that of log p(x) itself. The Monte Carlo error of K draws is in sd(d) already, and is
given beside it, so that one sees whether more draws would help.

Every model sees the same x: what training draws at random (binarisation, dequantisation) is drawn once, from the
smallest seed among the runs. Runs that measure different things are refused: log p(x) against log p(x | y), a
density against a probability, other data or other entries of them.

Draws of z are integrated out here, and must be. `az.loo` on log p(x_i | z) is not a comparison of VAEs: z is local
to its datum, so that leaving x_i out leaves p(z_i), and

    1 / p(x_i) = E_{z ~ p(z | x_i)} [1 / p(x_i | z)]

makes of PSIS-LOO the harmonic mean of the likelihood, whose weights 1 / p(x_i | z) have a heavy tail: for 16 digits
it was off by 9 nats in all (draws of a guide) or 20 (of HMC), with a bad k-hat for each of them. Importance
sampling from the guide estimates the same p(x_i), from weights that the guide was trained to make equal.

References:
    Bayesian Comparison of Latent Variable Models: Conditional Versus Marginal Likelihoods
        (Merkle, Furr & Rabe-Hesketh, 2019).
    Using Stacking to Average Bayesian Predictive Distributions (Yao, Vehtari, Simpson & Gelman, 2018).
    Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2016).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from pyro_vae import comparable, inference_data
from pyro_vae.card import TRUSTED, density_words
from pyro_vae.diagnostics.importance import mean_and_standard_error
from pyro_vae.diagnostics.psis import khat_report
from pyro_vae.evaluation import KHAT_DRAWS, MIN_KHAT_DRAWS, Scores
from pyro_vae.plots import rounded
from pyro_vae.runs import IMPORTANCE_SAMPLES, Run
from pyro_vae.sites import Batch
from pyro_vae.specs import DeclarationError

if TYPE_CHECKING:
    from pyro_vae.inference_data import ELPDData

APART = 2.0
"""Standard errors of the difference from which two models are told apart."""


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Models side by side, the best first; every number is in nats per datum where not said otherwise.

    `elpd` is what ArviZ takes: `az.compare(comparison.elpd)`, `az.plot_compare` of that, `az.plot_khat` of one of
    them. There, sums over the data are printed, as `elpd_loo`, though nothing was left out: the data were held
    out. The weights of `az.compare` underflow, silently, where log p of a datum is below -745 or above 709 nats;
    those in `table` do not.

    >>> figure = lambda value, error: {"value": value, "standard_error": error}
    >>> row = {"name": "a", "log_likelihood": figure(-90.0, 0.6), "monte_carlo_error": 0.01, "khat": None}
    >>> row |= {"difference": figure(0.0, 0.0), "weight": 1.0, "rank": 1, "run": "runs/a"}
    >>> other = row | {"name": "b", "difference": figure(-1.93, 0.1), "weight": 0.0}
    >>> Comparison([row, other], {}, "x", (), "test", 360, 50).verdict
    'best: a; b is 1.93 ± 0.10 nats per datum worse (19 standard errors)'
    """

    table: list[dict[str, Any]]
    """One row per run, of plain numbers, None where undetermined.

    name, run           what it is called, and its directory
    rank                1 is the best
    log_likelihood      {"value", "standard_error"}, the error over data
    monte_carlo_error   of that value, for these data: what K draws leave open
    difference          {"value", "standard_error", "monte_carlo_error"} to the best, paired
    weight              in the mixture of the models that gives these data the highest probability (stacking)
    khat                share of data whose importance weights can be trusted, as in result.json
    """
    elpd: "dict[str, ELPDData]"
    """Name -> log p(x) and k-hat per datum, as ArviZ has them."""
    density: str
    """What was measured: x, or x|y."""
    conditional_on: tuple[str, ...]
    """What else was given."""
    split: str
    num_data: int
    num_importance_samples: int
    drawn: str | None = None
    """What of the data was drawn at random, once for all runs."""

    @property
    def subject(self) -> str:
        """What log p is of.

        >>> Comparison([], {}, "x|y", ("library size",), "test", 2, 10).subject
        'log p(x | y, library size)'
        """
        return f"log p({density_words(self.density, self.conditional_on)})"

    @property
    def verdict(self) -> str:
        """The comparison in a sentence."""
        best, *others = self.table
        return "; ".join([f"best: {best['name']}", *(f"{row['name']} {_against(row['difference'])}" for row in others)])

    @property
    def warnings(self) -> list[str]:
        """Runs whose log p is not to be trusted, a line each."""
        found = []
        for row in self.table:
            if row["khat"] is None:
                found.append(f"{row['name']}: k-hat is undetermined: takes {MIN_KHAT_DRAWS} importance samples or more")
            elif row["khat"]["good_fraction"] < TRUSTED:
                share = 100 * row["khat"]["good_fraction"]
                found.append(
                    f"{row['name']}: k-hat is good for {share:.1f} % of the data only: its {self.subject} is a lower "
                    "bound, and the comparison favours the guide that fits, not the model; raise the number of "
                    "samples, or train a richer guide"
                )
        return found

    @property
    def title(self) -> str:
        """What was measured, on what, and how."""
        drawn = f", x with {self.drawn} drawn once for all" if self.drawn else ""
        samples = f"{self.num_importance_samples} importance samples"
        return f"{self.subject}, nats per datum; {self.split}, {self.num_data} data, {samples}{drawn}"

    @property
    def cells(self) -> list[list[str]]:
        """The table as words, a line of headings first."""
        head = ["", self.subject, "difference", "Monte Carlo error", "weight", "good k-hat"]
        lines = []
        for row in self.table:
            khat, gap = row["khat"], row["difference"]
            good = "undetermined" if khat is None else f"{100 * khat['good_fraction']:.1f} %"
            error = gap["monte_carlo_error"]
            gaps = [_figure(gap), "undetermined" if error is None else f"{error:.2g}"] if row["rank"] > 1 else ["", ""]
            lines.append([row["name"], _figure(row["log_likelihood"]), *gaps, f"{row['weight']:.2f}", good])
        return [head, *lines]

    def text(self) -> str:
        """The table, the verdict and the warnings as plain text."""
        widths = [max(map(len, column)) for column in zip(*self.cells, strict=True)]
        lines = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in self.cells)
        return "\n".join([self.title, *lines, self.verdict, *(f"note: {line}" for line in self.warnings)])

    def __repr__(self) -> str:
        return self.text()

    def tree(self) -> dict[str, Any]:
        """The comparison as plain dicts, lists and numbers, None where undetermined; what --json prints."""
        return {
            "density": self.density,
            "conditional_on": list(self.conditional_on),
            "split": self.split,
            "num_data": self.num_data,
            "num_importance_samples": self.num_importance_samples,
            "drawn": self.drawn,
            "runs": self.table,
            "verdict": self.verdict,
            "warnings": self.warnings,
        }


def _against(gap: dict[str, float | None]) -> str:
    """A model against the best in words."""
    value, error = gap["value"], gap["standard_error"]
    if value is None:
        return "gives some data no probability at all"
    if error is None:
        return f"is {-value:.3f} nats per datum worse; the standard error is undetermined"
    if abs(value) <= APART * error:
        return f"is not told apart ({_figure(gap)} nats per datum)"
    times = -value / error if error else math.inf
    words = f"{times:.{0 if times >= 10 else 1}f} standard errors" if error else "the same for every datum"
    return f"is {rounded(-value, error)} nats per datum worse ({words})"


def _figure(figure: dict[str, float | None]) -> str:
    return rounded(figure["value"], figure["standard_error"])


def compare(
    runs: Sequence[Run] | Mapping[str, Run],
    split: str = "test",
    num_samples: int = IMPORTANCE_SAMPLES,
    observations: int | None = None,
    progress: Callable[[int], object] = lambda n: None,
) -> Comparison:
    """Compare runs by importance-sampled log p(x) of the same data; see the module for the equations.

    Draws of log p(x | z) are not looked at, and `az.loo` of them is no substitute: it is a harmonic mean.

    Args:
        runs: two or more; called by the ends of their directories, or as the mapping says.
        split: "train", "validation" or "test".
        num_samples: K importance samples per datum and run.
        observations: how many data of the split, drawn at random, always the same ones; all by default.
        progress: called with the number of data just done, of (number of runs) x (number of data).

    Returns:
        The comparison, the best run first; it does not depend on the order of the runs.

    Raises:
        DeclarationError: the runs do not measure the same of the same data, one line per run and difference.

    References:
        Bayesian Comparison of Latent Variable Models: Conditional Versus Marginal Likelihoods
            (Merkle, Furr & Rabe-Hesketh, 2019).

    >>> compare({"a": load("runs/a"), "b": load("runs/b")}).verdict                 # doctest: +SKIP
    'best: a; b is 1.93 ± 0.10 nats per datum worse (19 standard errors)'
    """
    named = comparable.named(runs)
    if num_samples < 1:
        raise DeclarationError([f"num_samples={num_samples}: must be at least 1; 1000 is usual."])
    # What is drawn at random is that of one run, which is found by what it is and not by where it stands.
    first = min(named, key=lambda name: (named[name].experiment.seed, named[name].experiment.training.precision, name))
    rows = comparable.rows(named[first], split, observations)
    problems = [problem for name in named for problem in comparable.misfits(name, first, named, split, rows)]
    if problems:
        raise DeclarationError(problems)
    drawn, some = comparable.drawn(named[first].data), None if observations is None else rows
    batch = named[first].batch(split, some) if drawn else None
    scores = {
        name: _scored(name, run, run.batch(split, some), batch, num_samples, progress) for name, run in named.items()
    }
    return _compared(named, scores, split, rows, num_samples, drawn)


def _scored(
    name: str, run: Run, batch: Batch, drawn: Batch | None, num_samples: int, progress: Callable[[int], object]
) -> Scores:
    """Scores of a run's own batch, with what was drawn at random for all."""
    if drawn is not None:
        # Entries that are shown are drawn too, and are among the covariates.
        x, given = cast(Tensor, drawn.x), drawn.given
        batch = batch._replace(x=x.to(cast(Tensor, batch.x)), given=None if given is None else given.to(batch.given))
    try:
        return run.score(batch, num_samples, progress)
    except DeclarationError as error:
        raise DeclarationError([f"{name}: {problem}" for problem in error.problems]) from None


def _compared(
    runs: Mapping[str, Run],
    scores: Mapping[str, Scores],
    split: str,
    rows: list[int],
    num_samples: int,
    drawn: str | None,
) -> Comparison:
    """The table and what ArviZ takes, from the scores."""
    order = sorted(scores, key=lambda name: (-float(scores[name].log_likelihood.mean()), name))
    draws = min(num_samples, KHAT_DRAWS)
    elpd = {
        name: inference_data.elpd(scores[name].log_likelihood, scores[name].khat, num_samples, draws, rows)
        for name in order
    }
    weights, best = inference_data.stacking_weights(elpd), scores[order[0]]
    table = []
    for rank, name in enumerate(order, 1):
        ours = scores[name]
        report = khat_report(ours.khat.numpy(), draws) if draws >= MIN_KHAT_DRAWS else None
        row = {"name": name, "run": str(runs[name].directory), "rank": rank}
        row |= {"log_likelihood": _with_error(ours.log_likelihood), "difference": _difference(ours, best)}
        table.append(row | {"monte_carlo_error": _monte_carlo(ours), "weight": weights[name], "khat": report})
    run = runs[order[0]]
    about = run.experiment.variant.density, run.data.conditional_on, split, len(rows), num_samples, drawn
    return Comparison(table, elpd, *about)


def _difference(ours: Scores, best: Scores) -> dict[str, float | None]:
    """Paired difference to the best, its standard error over data, and the Monte Carlo error within that.

    The Monte Carlo error is that of independent draws; runs with the same seed share some of their randomness.
    """
    gap = ours.log_likelihood - best.log_likelihood
    if ours is best:
        return {"value": 0.0, "standard_error": 0.0, "monte_carlo_error": 0.0}
    if not bool(gap.isfinite().all()):  # a datum to which a model gives no probability
        return {"value": None, "standard_error": None, "monte_carlo_error": None}
    errors = torch.stack([ours.standard_error, best.standard_error])
    return _with_error(gap) | {"monte_carlo_error": _number(errors.square().sum().sqrt() / len(gap))}


def _monte_carlo(scores: Scores) -> float | None:
    """Monte Carlo error of the mean of log p^(x) over these data: sqrt(sum_i se_i^2) / N."""
    return _number(scores.standard_error.square().sum().sqrt() / len(scores.standard_error))


def _with_error(values: Tensor) -> dict[str, float | None]:
    value, error = map(_number, mean_and_standard_error(values))
    return {"value": value, "standard_error": error}


def _number(value: Tensor | float) -> float | None:
    """A plain number, None where it is not finite."""
    return float(value) if math.isfinite(value) else None
