"""The verdict of a whole diagnosis: the exact guide is good, and three wrong ones are told apart by name."""

import math

import pytest
import torch
from guides import data, guided, model

from pyro_vae import inference_data
from pyro_vae.diagnosis.everything import SECTIONS, Material, examine
from pyro_vae.diagnosis.pace import Pace, TooLittle, fitting, measured
from pyro_vae.diagnosis.report import Convergence, numbers
from pyro_vae.diagnosis.verdict import QUESTIONS, Statement, overall, verdict
from pyro_vae.diagnostics.predictive import quantities
from pyro_vae.latent import draw_latents, side_by_side
from pyro_vae.sites import Batch

pytestmark = pytest.mark.usefixtures("float64")

W, B = model()
PACE, BUDGET = Pace((0.025, 2.5e-4), (0.025, 2.5e-4)), 1000.0
"""As if a slow machine had much time: the sizes are the same everywhere, since the true time hardly counts."""


def material(guide, held_out=400):
    kinds = quantities((6,), counts=False)
    refined = {"test": data(8, W, B, seed=1), "train": data(8, W, B, seed=2)}
    return Material(guided(guide, W, B), data(8, W, B, seed=3), data(held_out, W, B, seed=4), refined, {}, kinds)


class Judged(dict):
    """Guide -> section -> statements, and the findings; made when they are asked for."""

    def __missing__(self, guide):
        torch.manual_seed(0)
        m = material(guide)
        found = examine(m, BUDGET, pace=PACE)
        z = side_by_side(draw_latents(m.vae, m.observed, 2000).z)
        draws = side_by_side(found.reference.z).movedim(0, 1)
        chains = Convergence(**{k: torch.as_tensor(v) for k, v in inference_data.convergence(draws).items()})
        sections = numbers(found, (z.mean(0), z.std(0)), chains)
        questions = {question: name for name, (question, _) in QUESTIONS.items()}
        by_section: dict[str, list[Statement]] = {}
        for statement in verdict(sections, found.skipped):
            by_section.setdefault(questions[statement.question], []).append(statement)
        self[guide] = by_section, found
        return self[guide]


@pytest.fixture(scope="module")
def judged():
    return Judged()


def levels(judged, guide):
    return {name: [s.level for s in statements] for name, statements in judged[guide][0].items()}


def test_the_exact_guide_is_good(judged):
    found = levels(judged, "exact")
    assert found == {name: ["good"] * len(found[name]) for name in found}
    assert set(found) == {section.name for section in SECTIONS} - {"labels"}


@pytest.mark.parametrize(
    ("guide", "bad", "words"),
    [
        pytest.param("narrow", {"reference", "calibration"}, "too narrow", marks=pytest.mark.slow),
        pytest.param("shifted", {"reference", "calibration"}, "shifted", marks=pytest.mark.slow),
        ("collapsed", {"reference", "calibration", "aggregate", "gaps"}, "posterior collapse"),
    ],
)
def test_wrong_guides_are_bad_and_named(judged, guide, bad, words):
    found = levels(judged, guide)
    assert {name for name, values in found.items() if "bad" in values} >= bad
    statements = [s for some in judged[guide][0].values() for s in some]
    assert any(words in s.text for s in statements if s.level == "bad")
    assert all(s.advice for s in statements if s.level == "bad")
    assert overall(statements).startswith("Not to be relied on")


@pytest.mark.parametrize("guide", ["exact", "collapsed"])
def test_what_the_model_does_is_not_the_guides_fault(judged, guide):
    """Annealing and HMC never look at the guide: they stay good."""
    assert levels(judged, guide)["bidirectional"] == ["good"]
    assert judged[guide][1].reference.hmc.divergent.sum() == 0


def test_a_small_budget_says_what_it_leaves_out():
    found = examine(material("exact"), 1.0, pace=Pace((0.0, 1e-4), (0.0, 1e-4)))
    assert set(found.skipped) >= {"annealing", "gaps", "reference"}
    assert all("raise the budget" in why for why in found.skipped.values())
    statements = verdict({}, found.skipped)
    assert {s.level for s in statements} == {"unknown"}
    assert overall(statements) == "Nothing could be told."


def test_fitting():
    assert fitting(10, lambda n: n, 1, 1000) == 10
    assert fitting(49, lambda n: n, 1, 1000) == 20
    assert fitting(999, lambda n: n, 1, 700) == 700
    assert fitting(7, lambda n: n, 6, 1000) == 6
    with pytest.raises(TooLittle, match="needs about 50.0 s and had 7.0 s"):
        fitting(7, lambda n: n, 50, 1000)


def test_pace_is_positive_and_rises():
    pace = measured(guided("exact", W, B), Batch(torch.randn(5, 6)))
    assert 0 < pace.density(10) < pace.density(10**7)
    assert 0 < pace.slope(10) < pace.slope(10**7)
    assert math.isfinite(pace.slope(10**7))
