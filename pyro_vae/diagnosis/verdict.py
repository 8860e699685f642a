"""A diagnosis in plain words: what is good, what is not, what to try.

Each statement answers one question with a level: `good`, `fair`, `bad`, or `unknown` where the question could not be
asked or the answer cannot be relied on. A difference counts where it is larger than chance would make it *and* large
enough to matter; the limits are below.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

type Numbers = Mapping[str, Any]
type Level = Literal["good", "fair", "bad", "unknown"]

GOOD_SHARE, FAIR_SHARE = 0.9, 0.5
"""Share of the data with a good k-hat."""
FEW_EFFECTIVE = 0.05
"""Effective share of the draws of the median datum below which the weights are uneven."""
CONVERGED = 1.02
"""R-hat of every latent; 1.01 asks for more draws than a diagnosis has time for."""
ENOUGH = 100
"""Effective draws of every latent."""
FAIR_BIAS, BAD_BIAS = 0.2, 0.5
"""Root mean square distance of the guide's mean from the posterior's, in posterior sd."""
FAIR_RATIO, BAD_RATIO = 1.1, 1.3
"""Ratio of the guide's sd to the posterior's, or its inverse."""
NATS = 0.1
"""A difference of log p that matters, per datum."""
MANY_NATS = 1.0
ERRORS = 4.0
"""Standard errors beyond chance."""
SANDWICH = 0.5
"""Nats between both sides of bidirectional Monte Carlo."""
P_VALUE = 0.01
"""Of a whole family of tests (Bonferroni)."""
FAIR_COVERAGE, BAD_COVERAGE = 0.01, 0.03
"""Distance of the coverage of some interval from its probability."""
FAIR_EFFECT = 0.2
"""Difference of the means of a test quantity, in its sd over data."""
EXTREMES = 0.15
"""Share of the data whose posterior predictive p-value is extreme; 0.05 if the model is right."""
ECE = 0.05
"""Expected calibration error."""
RICHER = "a richer guide (guide=full_normal, flow), objective=iwae, or more training"


class Statement(NamedTuple):
    """One answer."""

    question: str
    level: Level
    text: str
    advice: str = ""


def verdict(numbers: Numbers, skipped: Mapping[str, str]) -> list[Statement]:
    """Judge the numbers of `report.numbers`.

    Args:
        numbers: section -> its numbers.
        skipped: section -> why it was left out.

    Returns:
        A statement for each question, in the order of the sections.
    """
    found = []
    for section, (question, judge) in QUESTIONS.items():
        if section in numbers:
            found += [Statement(question, *answer) for answer in judge(numbers[section])]
        elif section in skipped:
            found.append(Statement(question, "unknown", f"not asked: {skipped[section]}."))
    return found


def overall(statements: list[Statement]) -> str:
    """One sentence."""
    levels = [statement.level for statement in statements]
    if "bad" in levels:
        wrong = "; ".join(dict.fromkeys(s.question.rstrip("?") for s in statements if s.level == "bad"))
        return f"Not to be relied on as it is. In doubt: {wrong}."
    if not set(levels) & {"good", "fair"}:
        return "Nothing could be told."
    return "Good, with reservations." if "fair" in levels else "Good."


def _pair(value: Numbers, digits: int = 3) -> str:
    """A mean and its standard error."""
    return f"{value['value']:.{digits}f} ± {value['standard_error']:.{digits}f}"


def _beyond(value: Numbers, least: float) -> bool:
    """Whether a difference is larger than `least` and than chance."""
    return value["value"] > max(least, ERRORS * value["standard_error"])


def _importance(n: Numbers) -> list[tuple[Any, ...]]:
    khat, share = n["khat"], n["khat"]["good_fraction"]
    text = (
        f"k-hat is below {khat['threshold']:.2f} for {100 * share:.0f} ± {100 * khat['standard_error']:.0f} % of "
        f"{n['num_data']} data ({n['num_draws']} draws; k-hat reads 0.05 to 0.09 low near 0.8)"
    )
    if khat["undetermined"]:
        text += f"; undetermined, which is not good, for {khat['undetermined']}"
    effective = n["effective_fraction"]["median"]
    text += f"; the weights of the median datum are worth {100 * effective:.0f} % of the draws."
    if share < GOOD_SHARE:
        level = "fair" if share >= FAIR_SHARE else "bad"
        return [(level, text, f"more draws (k-hat of 0.8 needs 100,000), {RICHER}; trust annealing for log p(x)")]
    if effective < FEW_EFFECTIVE:
        return [("fair", text, f"few draws carry the weight: {RICHER}")]
    return [("good", text)]


def _reference(n: Numbers) -> list[tuple[Any, ...]]:
    chains = (
        f"HMC of {n['num_observations']} data: R-hat up to {n['rhat_max']:.3f}, at least {n['ess_bulk_min']:.0f} "
        f"effective draws, {n['divergences']} divergences"
    )
    if not (n["rhat_max"] < CONVERGED and n["ess_bulk_min"] >= ENOUGH):
        return [("unknown", f"{chains}: the chains have not converged, and cannot judge the guide.", "a larger budget")]
    bias, ratio = n["bias_over_sd"]["root_mean_square"], n["sd_ratio"]["geometric_mean"]
    width = max(ratio, 1 / ratio)
    text = (
        f"the guide's mean is {bias:.2f} posterior sd off (root mean square), its sd {ratio:.2f} times the posterior's "
        f"(from {n['sd_ratio']['least']:.2f} to {n['sd_ratio']['largest']:.2f}); {chains}."
    )
    if bias > FAIR_BIAS or width > FAIR_RATIO:
        words = [f"too {'narrow' if ratio < 1 else 'wide'}"] * (width > FAIR_RATIO) + ["shifted"] * (bias > FAIR_BIAS)
        level = "bad" if bias > BAD_BIAS or width > BAD_RATIO else "fair"
        return [(level, f"{' and '.join(words)}: {text}", f"{RICHER}; resample by importance (posterior_psir)")]
    return [("good", text)]


def _annealing(n: Numbers) -> list[tuple[Any, ...]]:
    if "minus_importance_sampled" not in n:
        return [("good", f"log p(x) is {_pair(n)} nats by annealing, a lower bound on average.")]
    excess, draws = n["minus_importance_sampled"], n["importance_draws"]
    text = (
        f"annealing finds {_pair(excess)} nats more log p(x) than {draws} importance samples, on {n['num_data']} data."
    )
    short = {"value": -excess["value"], "standard_error": excess["standard_error"]}
    more = f"more importance samples, {RICHER}"
    if _beyond(excess, NATS):
        level = "bad" if excess["value"] > MANY_NATS else "fair"
        return [(level, f"{text} The importance-sampled log p(x) is too low.", more)]
    if excess["value"] > max(NATS, 2 * excess["standard_error"]):
        return [("fair", f"{text} The importance-sampled log p(x) may be too low.", f"{more}, or more observations")]
    if _beyond(short, NATS):
        return [("unknown", f"{text} The chains are too short to tell.", "a larger budget")]
    return [("good", text)]


def _bidirectional(n: Numbers) -> list[tuple[Any, ...]]:
    gap = n["gap"]
    text = f"annealing holds log p(x) of {n['num_data']} simulated data between bounds {_pair(gap)} nats apart."
    return [("good", text)] if gap["value"] < SANDWICH else [("fair", text, "more temperatures: a larger budget")]


def _gaps(n: Numbers) -> list[tuple[Any, ...]]:
    split = next(name for name in n if name not in ("train", "generalisation")) if len(n) > 1 else next(iter(n))
    here = n[split]
    text = (
        f"the guide loses {_pair(here['total'])} nats: {_pair(here['approximation'])} to its family, "
        f"{_pair(here['amortisation'])} to amortisation ({here['num_data']} data)"
    )
    full = here.get("approximation_of_full_normal")
    text += f"; the best normal with a full covariance would lose {_pair(full)}." if full else "."
    level: Level = "good"
    advice = ""
    if here["total"]["value"] > NATS:
        level = "fair" if here["total"]["value"] < MANY_NATS else "bad"
        gains = full and here["approximation"]["value"] - full["value"] > NATS
        of_family = "guide=full_normal or flow" if gains else "guide=flow"
        advice = (
            f"the family is too small: {of_family}"
            if here["approximation"]["value"] > here["amortisation"]["value"]
            else "the encoder cannot tell the data apart: wider encoder.widths, more training, or guide=refined"
        )
    found: list[tuple[Any, ...]] = [(level, text, advice)]
    if "generalisation" in n and _beyond(n["generalisation"], NATS):
        more = _pair(n["generalisation"])
        text = f"amortisation costs {more} nats more on data that the encoder was not trained on."
        found.append(("fair", text, "more data, early stopping, or guide=refined"))
    return found


def _calibration(n: Numbers) -> list[tuple[Any, ...]]:
    tests, least = n["num_tests"], n["least_p_value"]
    ninety = n["coverage"][1]
    off = max(abs(row["mean"] - row["nominal"]) for row in n["coverage"])
    worst = max(max(abs(row["least"] - row["nominal"]), abs(row["largest"] - row["nominal"])) for row in n["coverage"])
    text = (
        f"intervals of {100 * ninety['nominal']:.0f} % hold {100 * ninety['mean']:.1f} % of what made the data "
        f"(of one latent {100 * ninety['least']:.1f} to {100 * ninety['largest']:.1f}, "
        f"± {100 * ninety['standard_error_of_one']:.1f}); "
        f"least p-value of {tests} tests of uniform ranks {least:.2g} ({n['num_simulations']} simulations)."
    )
    by_rank, by_width = least * tests < P_VALUE, n["largest_coverage_z"] > ERRORS
    if not by_rank and not by_width:
        return [("good", text)]
    collapsed = n["p_values"].get("log_joint", [1.0])[0] < P_VALUE / tests and not by_width
    if collapsed and all(
        min(p) * tests > P_VALUE for name, p in n["p_values"].items() if name not in ("log_joint", "distance")
    ):
        return [("bad", f"z is calibrated and log p(x, z) is not: the guide ignores part of x; {text}", RICHER)]
    level = "bad" if max(off, worst) > BAD_COVERAGE else "fair"
    return [(level, text, f"{RICHER}; a mean-field guide is too narrow by design")]


def _aggregate(n: Numbers) -> list[tuple[Any, ...]]:
    dims, gone = n["latent_dim"], n["collapsed"]
    found: list[tuple[Any, ...]] = []
    unused = None if gone is None else len(gone)
    text = f"{n['active_units']} of {dims} latent dimensions vary with x (Var E_q[z] > 0.01)"
    text += "" if unused is None else f", {unused} know nothing of it"
    capped = "mutual_information" in n and n["mutual_information"]["value"] > n["log_num_data"] - 1
    if "mutual_information" in n:
        cap = " (near the most that so many data can tell)" if capped else ""
        text += f"; z tells {_pair(n['mutual_information'], 2)} nats about which of {n['num_data']} data it is{cap}"
    if unused == dims or n["active_units"] == 0:
        advice = "a KL warm-up (objective.warmup_epochs), beta below 1, free bits, or a weaker decoder"
        found.append(("bad", f"posterior collapse: {text}.", advice))
    elif unused and unused > dims / 2:
        found.append(("fair", f"{text}.", "a smaller latent.dim would do, or a KL warm-up to use more of it"))
    else:
        found.append(("good", f"{text}."))
    apart, distance = n["mmd"]["p_value"], n.get("kl_to_prior")
    text = f"MMD test of q(z) against p(z): p = {apart:.3f} ± {n['mmd']['p_standard_error']:.3f}"
    if distance and capped:
        text += f"; KL(q(z) || p(z)) is at most {_pair(distance)} nats: so few data cannot tell more."
    elif distance:
        text += f"; KL(q(z) || p(z)) = {_pair(distance)} nats, of the {n['num_data']} data's own aggregate."
    else:
        text += "."
    if apart < P_VALUE:
        advice = "a learned prior (prior=vamp, flow, mixture): samples start where the decoder was not trained"
        found.append(("fair", f"the aggregate posterior is not the prior: {text}", advice))
    else:
        found.append(("good", f"the aggregate posterior is not told from the prior: {text}"))
    return found


def _predictive(n: Numbers) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for name, check in n.items():
        prior, posterior = check["prior"], check["posterior"]
        effect = abs(prior["observed_mean"] - prior["replicated_mean"]) / max(prior["sd_observed"], 1e-300)
        extreme = posterior["extreme_fraction"]
        wrong = []
        if effect > FAIR_EFFECT and prior["p_value"] * len(n) < P_VALUE:
            wrong.append(
                f"generated data have a mean of {prior['replicated_mean']:.4g}, the data {prior['observed_mean']:.4g} "
                f"({effect:.1f} sd, p = {prior['p_value']:.3f})"
            )
        if extreme["value"] - ERRORS * extreme["standard_error"] > EXTREMES:
            wrong.append(
                f"{100 * extreme['value']:.0f} % of the data are extreme among their own replicates (5 % should be)"
            )
        if wrong:
            found.append(
                ("fair", f"{name}: {'; '.join(wrong)}.", "another likelihood, a larger decoder, or a learned prior")
            )
    return found or [("good", f"{', '.join(n)}: the data look like those of the model.")]


def _labels(n: Numbers) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for site, numbers in n.items():
        error = numbers["expected_calibration_error"]
        text = (
            f"{site}: p(y | x) is off by {100 * error['value']:.1f} ± {100 * error['standard_error']:.1f} % on average."
        )
        wrong = error["value"] > max(ECE, ERRORS * error["standard_error"])
        found.append(
            ("fair", text, "calibrate them on held-out data, or train the classifier too") if wrong else ("good", text)
        )
    return found


QUESTIONS: dict[str, tuple[str, Callable[[Numbers], list[tuple[Any, ...]]]]] = {
    "importance": ("Can importance sampling with the guide be trusted?", _importance),
    "reference": ("Is q(z | x) the posterior?", _reference),
    "annealing": ("Is the reported log p(x) right?", _annealing),
    "bidirectional": ("Is annealing long enough?", _bidirectional),
    "gaps": ("What does the guide lose, and to what?", _gaps),
    "calibration": ("Is the guide calibrated, for data from the model?", _calibration),
    "aggregate": ("Is the latent space used, and is it the prior's?", _aggregate),
    "predictive": ("Do data from the model look like the data?", _predictive),
    "labels": ("Are the probabilities of labels right?", _labels),
}
