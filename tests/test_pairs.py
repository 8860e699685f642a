"""Parts beside one another: every pair that can meet is right, or is refused when it is declared, with the reason.

The pairs run always; products of everything, drawn at random, in the slow tests.
"""

import itertools
import math

import pytest
import torch
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from test_capture import compare
from test_conformance import IMAGE, SMALL, batch_for, event_of, loss_of

import pyro_vae as pv
from pyro_vae.guides import GUIDES
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.networks import NETWORKS
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.priors import PRIORS
from pyro_vae.vae import VAE

MODES = {
    "no label": {},
    "always": {"y": pv.Label(classes=3)},
    "partly, sum": {"y": pv.Label(classes=3, observed="partly")},
    "partly, guide": {"y": pv.Label(classes=3, observed="partly", rule="guide")},
    "never": {"y": pv.Label(classes=3, observed="never")},
    "prior only": {"y": pv.Label(classes=3, observed="never", conditions=["prior"])},
}
FIELDS = ("guide", "encoder", "decoder")
SMALLER = {
    "vamp": {"components": 7},
    "flow": {"widths": [64], "layers": 2},
    "iwae": {"num_particles": 3},
    "dreg": {"num_particles": 3},
    "renyi": {"num_particles": 3},
    "reweighted_wake_sleep": {"num_particles": 3},
    "factor": {"widths": [16]},
    "resnet": {"channels": [16]},
    "conv": {"channels": [8]},
    "mlp": {"widths": [8]},
}
"""Fields that make a part quick; what they do is tested with the part."""
# What may be refused, and the words of the reason: nothing else is.
REASONS = (
    "combines its own normal with the prior's",  # ladder
    "is made of the guide's q(z | x) at the top layer",  # vamp
    "as many dimensions as",  # diffusion
    "ignores the layer above",
    "runs the guide twice",  # refined
    "is no density",
    "no prior here depends on labels",
    "is biased where a label",  # dreg
    "needs continuous latents",  # factor
    "and variant.guide has none",
    "is made of the guide needs every label",
    "no normalised density",
    "is for continuous latents",  # one of a categorical prior and a relaxed guide, without the other
    "a categorical layer must be the only one",
    "needs",
)


def declared(objective="elbo", layers=1, **parts):
    """A small variant and objective; or the reason why they do not go together."""
    entries = 6 if LIKELIHOODS[parts.get("likelihood", "bernoulli")].datum == "vector" else math.prod(IMAGE)
    dim = entries if GUIDES[parts.get("guide", "diagonal_normal")].dims_of_x else None
    dims = [dim or 3, dim or 2, dim or 2][:layers]
    simplex = GUIDES[parts.get("guide", "diagonal_normal")].simplex is True
    prior = parts.pop("prior", "categorical" if simplex else "standard_normal")
    kind = {"kind": "categorical", "classes": 3} if simplex or PRIORS[prior].simplex else {}
    prior = {"kind": prior} | SMALLER.get(prior, {})
    below = ["normal"] * (layers - 1)
    tree = {"latent": [pv.Latent(dim=d, **kind) for d in dims], "prior": [*below, prior]}
    tree = tree if layers > 1 else {"latent": pv.Latent(dim=dims[0], **kind), "prior": prior}
    try:
        small = {field: {"kind": word} | SMALLER.get(word, {}) for field, word in parts.items() if field in FIELDS}
        variant = pv.Variant(**{"encoder": SMALL, "decoder": SMALL, "likelihood": "bernoulli"} | tree | parts | small)
        spec = OBJECTIVES[objective](**SMALLER.get(objective, {}))
        if found := spec.misfits(variant):
            raise pv.DeclarationError(found)
    except pv.DeclarationError as error:
        if not any(reason in str(error) for reason in REASONS):
            raise
        return None, str(error)
    return variant, spec


def steps(variant, spec, masked=False):
    """One loss and its gradient: finite, and nonzero somewhere."""
    torch.manual_seed(0)
    try:
        vae = VAE(variant, event_of(variant), masked=masked)
    except pv.DeclarationError:
        if variant.likelihood.takes_missing or not masked:
            raise
        return
    batch = batch_for(variant)
    if masked:
        mask = torch.rand_like(batch.x) > 0.3
        batch = batch._replace(x=torch.where(mask, batch.x, torch.nan), mask=mask)
    loss, terms = loss_of(vae, spec)(batch)
    assert torch.isfinite(loss)
    if variant.normalized:
        torch.testing.assert_close(terms.elbo, terms.reconstruction - terms.kl, rtol=1e-4, atol=1e-4)
    found = torch.autograd.grad(loss, list(vae.parameters()), allow_unused=True)
    assert all(torch.isfinite(g).all() for g in found if g is not None)
    assert any(bool((g != 0).any()) for g in found if g is not None)


def pairs(first, second):
    return pytest.mark.parametrize(("a", "b"), list(itertools.product(first, second)))


@pairs(PRIORS, GUIDES)
@pytest.mark.parametrize("layers", [1, 2])
def test_prior_and_guide(a, b, layers):
    variant, spec = declared(prior=a, guide=b, layers=layers)
    if variant is not None:
        steps(variant, spec)


@pairs(OBJECTIVES, PRIORS)
def test_objective_and_prior(a, b):
    variant, spec = declared(objective=a, prior=b)
    if variant is not None:
        steps(variant, spec)


@pairs(OBJECTIVES, GUIDES)
def test_objective_and_guide(a, b):
    variant, spec = declared(objective=a, guide=b)
    if variant is not None:
        steps(variant, spec)


@pairs(OBJECTIVES, MODES)
def test_objective_and_labels(a, b):
    variant, spec = declared(objective=a, prior="normal", labels=MODES[b])
    if variant is not None:
        steps(variant, spec)


@pairs(MODES, PRIORS)
def test_labels_and_prior(a, b):
    variant, spec = declared(labels=MODES[a], prior=b)
    if variant is not None:
        steps(variant, spec)


@pairs(MODES, GUIDES)
def test_labels_and_guide(a, b):
    prior = {} if GUIDES[b].simplex is True else {"prior": "normal"}
    variant, spec = declared(labels=MODES[a], guide=b, **prior)
    if variant is not None:
        steps(variant, spec)


@pairs(LIKELIHOODS, NETWORKS)
def test_likelihood_and_network_learn(a, b):
    """Every pair builds, steps, and goes down."""
    if LIKELIHOODS[a].datum == "vector" and NETWORKS[b].image_only:
        pytest.skip("a network of images, a likelihood of vectors")
    variant, _ = declared(encoder=b, decoder=b, likelihood=a)
    vae, batch = VAE(variant, event_of(variant)), batch_for(variant)
    vae.initialise(batch.x)
    loss_at, losses = loss_of(vae), []
    optimizer = torch.optim.Adam(vae.parameters(), 3e-4)
    for _ in range(8):
        torch.manual_seed(0)
        loss, _ = loss_at(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(map(math.isfinite, losses))
    assert min(losses[1:]) < losses[0]


@pytest.mark.parametrize("decoder", NETWORKS)
@pytest.mark.parametrize("encoder", NETWORKS)
def test_encoder_and_decoder(encoder, decoder):
    variant, spec = declared(encoder=encoder, decoder=decoder)
    steps(variant, spec)


def test_layers_of_the_size_of_vectors():
    """A guide that needs as many dimensions as x has, on a likelihood of vectors."""
    variant, spec = declared(guide="diffusion", likelihood="mixed")
    steps(variant, spec)


def test_what_does_not_go_together_is_said():
    """The refusals themselves: if none were left, the tests above would say nothing of them."""
    for parts, words in (
        ({"prior": "vamp", "guide": "bottom_up_normal", "layers": 2}, "is made of the guide"),
        ({"prior": "vamp", "guide": "point"}, "is no density"),
        ({"objective": "dreg", "guide": "refined"}, "runs the guide twice"),
        ({"prior": "categorical", "guide": "ladder"}, "is for continuous latents"),
        ({"prior": "categorical", "layers": 2}, "a categorical layer must be the only one"),
    ):
        variant, reason = declared(**parts)
        assert variant is None, parts
        assert words in reason


@st.composite
def everything(draw):
    """A product of words from all tables, with labels, layers, covariates and missing entries."""
    words = {
        noun: draw(st.sampled_from(list(table)))
        for noun, table in {
            "prior": PRIORS,
            "guide": GUIDES,
            "likelihood": LIKELIHOODS,
            "objective": OBJECTIVES,
        }.items()
    }
    image = LIKELIHOODS[words["likelihood"]].datum != "vector"
    networks = [word for word, part in NETWORKS.items() if image or not part.image_only]
    words |= {field: draw(st.sampled_from(networks)) for field in ("encoder", "decoder")}
    labels = MODES[draw(st.sampled_from(list(MODES)))]
    return words | {"labels": labels, "layers": draw(st.sampled_from([1, 1, 2, 3]))}, draw(st.booleans())


@pytest.mark.slow
@settings(max_examples=540, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=False)
@given(everything())
def test_everything_with_everything(case):
    """Builds, steps, is recorded as it runs and comes back from its YAML; at least 300 of the draws are valid."""
    parts, masked = case
    variant, spec = declared(**parts)
    if variant is None:
        note(spec)
        COUNTS["refused"] += 1
        return
    steps(variant, spec, masked and variant.likelihood.takes_missing)
    assert pv.Variant.model_validate(variant.tree()) == variant
    if variant.capturable and spec.capturable:
        objective = spec.build(VAE(variant, event_of(variant)))
        compare(objective, batch_for(variant), batch_for(variant), tolerance=1e-3, weights=spec.weights(0))
    COUNTS["valid"] += 1


COUNTS = {"valid": 0, "refused": 0}


@pytest.mark.slow
def test_enough_products_were_valid():
    assert COUNTS["valid"] >= 300, COUNTS
