"""Chunks of particles: what is recorded is what runs otherwise, the encoder runs once, memory is bounded."""

import os

import parts
import pytest
import torch
from test_conformance import VARIANTS, batch_for, event_of

import pyro_vae as pv
from pyro_vae import planning
from pyro_vae.diagnostics.importance import importance_estimate
from pyro_vae.evaluation import Parts, _score_part, score, scorer
from pyro_vae.latent import Particles, collected, particles
from pyro_vae.planning import choose_treatment
from pyro_vae.vae import VAE

KINDS = {"prior vamp, M2", "guide flow", "guide refined", "guide relaxed, M2"}
CASES = {"plain, covariates", "M2, labels summed", "always and partly", "ladder, M2, missing pixels"}
FLAT = torch.utils._pytree.tree_leaves


def some(every, quick):
    """Parametrise over names, most of them in the long test run only."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in every]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """A few data and particles at a time, so that there are chunks of all shapes."""
    monkeypatch.setattr(particles, "CACHED", {"cpu": 600})


def scores(vae, batch, treatment, num_samples=7, data=None):
    """Scores by chunks of a part of K and a part of the data, the random state the same."""
    program = scorer(vae, num_samples, batch.size)
    program.treatment, program.particles, program.data = treatment, 3, data or 5
    torch.manual_seed(3)
    return score(vae, batch, num_samples, particles=program), program


def assert_recorded_is_eager(vae, batch, treatment="recorded", **tolerance):
    expected, _ = scores(vae, batch, "eager")
    found, program = scores(vae, batch, treatment)
    assert program._recorded is not None
    for a, b in zip(FLAT(found), FLAT(expected), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, **tolerance)


@pytest.mark.parametrize("name", some(parts.CASES, CASES))
def test_recorded_is_eager_on_every_contract_case(name):
    """Recorded at the first five data, run on five others; two are left over, and one particle of seven."""
    case = parts.CASES[name]
    assert_recorded_is_eager(parts.vae(**case).eval(), parts.batch(case), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", some(VARIANTS, KINDS))
def test_recorded_is_eager_for_every_part(name):
    declared = VARIANTS[name]
    vae = VAE(declared, event_of(declared)).eval()
    assert_recorded_is_eager(vae, batch_for(declared, 6), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(os.path.exists, ("/usr/bin/g++", "/usr/bin/clang++"))), reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_is_eager():
    case = parts.CASES["ladder, M2, missing pixels"]
    assert_recorded_is_eager(parts.vae(**case).eval(), parts.batch(case), "compiled", rtol=1e-4, atol=1e-4)


def test_the_encoder_runs_once_per_datum():
    vae, seen = parts.vae().eval(), []
    vae.body.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    for treatment in ("eager", "recorded"):
        seen.clear()
        scores(vae, parts.batch({}, size=12), treatment, num_samples=20)
        assert seen == [5, 5, 2]


def test_a_refined_guide_is_refined_once_per_datum(monkeypatch):
    declared = VARIANTS["guide refined"]
    vae, calls = VAE(declared, event_of(declared)).eval(), []
    refined = vae.refined
    monkeypatch.setattr(vae, "refined", lambda *args: calls.append(1) or refined(*args))
    scores(vae, batch_for(declared, 6), "eager", num_samples=20)
    assert len(calls) == 2


@pytest.mark.parametrize("treatment", ["eager", "recorded"])
def test_particles_and_data_that_are_left_over(treatment, monkeypatch):
    """K particles of N data, whatever the chunks; those of the usual shape are recorded, and nothing twice."""
    shapes, recordings = [], []
    densities, record = particles.densities, particles.record
    monkeypatch.setattr(particles, "record", lambda *args: recordings.append(1) or record(*args))
    monkeypatch.setattr(
        particles,
        "densities",
        lambda vae, batch, k, **o: shapes.append((batch.size, k)) or densities(vae, batch, k, **o),
    )
    vae = parts.vae().eval()
    found = Particles(vae, lambda d, _: d.log_w, 8, 12)
    found.treatment, found.data, found.particles = treatment, 5, 3
    log_w = [[k for k, w in found(part) if w.shape == (k, part.size)] for part in found.parts(parts.batch({}))]
    assert log_w == [[3, 3, 2]] * 3
    left_over = [(5, 2), (5, 2), (2, 3), (2, 3), (2, 2)]
    assert sorted(shapes) == sorted(left_over + [(5, 3)] * (4 if treatment == "eager" else 1))
    assert len(recordings) == (treatment == "recorded")


def test_every_particle_counts_once():
    """Averages of unequal chunks are weighted; log p^ and k-hat are those of all weights together."""
    log_w = torch.randn(130, 4)

    def chunked(_):
        for some in log_w.split(50):
            mean = some.mean(0)
            yield len(some), Parts(some, torch.stack([mean] * 3), {"z": mean[:, None]}, {"z": mean})

    found = _score_part(chunked, pv.Batch(torch.zeros(4, 2)), 0)
    for value in (found.elbo, found.reconstruction, found.kl, found.mean["z"][:, 0], found.kl_per_layer["z"]):
        torch.testing.assert_close(value, log_w.double().mean(0), rtol=1e-6, atol=1e-6)
    estimate, error = importance_estimate(log_w)
    torch.testing.assert_close(found.log_likelihood, estimate)
    torch.testing.assert_close(found.standard_error, error)
    assert found.khat.isfinite().all()


def test_scores_do_not_depend_on_the_batches_before():
    """Data that are scored elsewhere, by their number, get the same draws; other data get others."""
    vae, batch = parts.vae().eval(), parts.batch({}, size=12).map(lambda t: t[[0, 1, 2, 3, 4] * 2 + [0, 1]])
    whole = scores(vae, batch, "eager")[0]
    assert not torch.isclose(whole.elbo[:5], whole.elbo[5:10]).any()
    rest = batch.map(lambda t: t[5:])
    torch.manual_seed(3)
    program = scorer(vae, 7, 7)
    program.treatment, program.particles, program.data = "eager", 3, 5
    some = score(vae, rest, 7, first=5, particles=program)
    for a, b in zip(FLAT(whole), FLAT(some), strict=True):
        assert torch.equal(a[5:], b) or a.isnan().all()


def test_memory_is_bounded_whatever_k(monkeypatch):
    declared = VARIANTS["prior vamp, M2"]
    vae, largest, densities = VAE(declared, event_of(declared)).eval(), [], particles.densities
    monkeypatch.setattr(particles, "CACHED", {"cpu": 3 * vae.widest * 20})

    def watched(vae, batch, k, **options):
        d = densities(vae, batch, k, **options)
        largest.append(max(d.p["x"].fn.mean.numel(), k * batch.size * vae.widest * 3))
        return d

    monkeypatch.setattr(particles, "densities", watched)
    score(vae, batch_for(declared, 6), 200)
    assert max(largest) <= 3 * vae.widest * 20
    assert len(largest) == 6 * 10


def test_the_widest_tensor_is_that_of_a_flow_at_every_pseudo_input():
    declared = pv.Variant(
        latent={"dim": 4}, prior={"kind": "vamp", "components": 50}, guide={"kind": "flow", "widths": [30]},
        encoder={"widths": [8]}, decoder={"widths": [8]},
    )  # fmt: skip
    assert VAE(declared, (10,)).widest >= 50 * 30
    plain = declared.replace(guide=pv.GUIDES["diagonal_normal"]())
    assert VAE(plain, (10,)).widest == 50 * 4


def test_all_of_it_collected():
    vae, batch = parts.vae().eval(), parts.batch({}, size=12)
    log_w, doubled = collected(vae, lambda d, _: (d.log_w, 2 * d.log_w), batch, 17)
    assert log_w.shape == (17, 12)
    assert log_w.dtype == torch.float64
    torch.testing.assert_close(doubled, 2 * log_w)
    assert log_w.std(0).min() > 0


def test_what_pays():
    plain, cpu, cuda = parts.vae().variant, torch.device("cpu"), torch.device("cuda")
    many, few = planning.RECORDING_PAYS, planning.RECORDING_PAYS - 1
    assert choose_treatment(plain, few, 2**60, cpu, "auto") == "eager"
    assert choose_treatment(plain, many, 2**31, cpu, "auto") == "recorded"
    assert choose_treatment(plain, many, 2**60, cpu, "off") == "recorded"
    assert choose_treatment(plain, many, 2**60, cuda, "on") == "compiled"
