"""What every part of every table promises. Parametrised from the tables: a new part is tested by being in one.

A part is built from its word alone, so each needs a default for every other field. What a test needs to know it reads
from the part: the data that a likelihood is a density on, the layer above that a prior conditions on.
"""

import copy
import inspect
import itertools
import math
import pickle
import re

import pyro
import pytest
import torch
from scipy.spatial import cKDTree
from test_capture import compare

import pyro_vae as pv
from pyro_vae.data import ReleasedData, load
from pyro_vae.experiment import TABLES
from pyro_vae.files import parse_yaml, to_yaml
from pyro_vae.guides import GUIDES, DiagonalNormal
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.networks import MLP, NETWORKS, Shape
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.priors import PRIORS, LearnedNormal
from pyro_vae.relaxed import Simplices
from pyro_vae.sites import Batch, without_labels
from pyro_vae.vae import VAE, densities

FALSE_ALARM = 1e-5
"""Of each test of fit: a p-value below it fails. Seeds are fixed, so that a test that passes goes on passing."""
NO_PAPER = {"mlp", "point", "arrays", "folder", "tensorboard", "mlflow", "wandb"}
"""Parts that come from no paper; every other one says which."""

PARTS = {f"{table.noun} {word}": (table, part) for table in TABLES.values() for word, part in table.items()}
LABELS = {"y": pv.Label(classes=3, observed="partly")}
IMAGE = (1, 8, 6)
SMALL = MLP(widths=[8], activation="tanh")
BATCHES = {"(B)": (5,), "(K, B)": (4, 5), "(C, K, B)": (3, 4, 5)}


def every(table):
    """Parametrise over the parts of a table, each built from its word alone."""
    return pytest.mark.parametrize("spec", [part() for part in table.values()], ids=list(table))


@pytest.fixture(params=BATCHES.values(), ids=BATCHES.keys())
def shape(request):
    return request.param


def support(likelihood):
    """The first kind of data that a likelihood accepts."""
    kinds = ("binary", "counts", "levels", "unit", "real")
    return next(kind for kind in kinds if likelihood.accepts(kind) is None)


def data(likelihood, *size):
    match support(likelihood):
        case "real":
            return torch.randn(size)
        case "binary":
            return torch.rand(size).round()
        case "counts":
            return torch.poisson(torch.full(size, 3.0))
        case "levels":
            levels = getattr(likelihood, "levels", 256)
            return torch.randint(levels, size) / (levels - 1)
    return torch.rand(size)


def variant(**parts):
    """A small variant with the given parts; two layers where the prior conditions on the one above."""
    dims = 2 * [math.prod(IMAGE)] if getattr(parts.get("guide"), "dims_of_x", False) else [3, 2]
    layers = {"latent": pv.Latent(dim=dims[0])}
    if any(getattr(parts.get(noun), "simplex", False) for noun in ("prior", "guide")):  # the other one follows
        layers = {"latent": pv.Latent(kind="categorical", dim=2, classes=3)}
    if getattr(parts.get("prior"), "reads_above", False):
        layers = {"latent": [pv.Latent(dim=dim) for dim in dims], "prior": [parts.pop("prior"), "standard_normal"]}
    return pv.Variant(**{"encoder": SMALL, "decoder": SMALL, "likelihood": "bernoulli"} | layers | parts)


def variants():
    """Every part of p and q once, in an otherwise plain variant; and every likelihood with missing labels."""
    for part in LIKELIHOODS.values():
        yield f"likelihood {part().kind}", variant(likelihood=part())
        yield f"likelihood {part().kind}, M2", variant(likelihood=part(), labels=LABELS)
    for part in PRIORS.values():
        yield f"prior {part().kind}", variant(prior=part())
        yield f"prior {part().kind}, M2", variant(prior=part(), labels=LABELS)
    for part in GUIDES.values():
        yield f"guide {part().kind}", variant(guide=part())
        yield f"guide {part().kind}, M2", variant(guide=part(), labels=LABELS)
        if not part().simplex:
            yield f"guide {part().kind}, two layers, M2", variant(guide=part(), prior=LearnedNormal(), labels=LABELS)
    for part in NETWORKS.values():
        yield f"network {part().kind}", variant(encoder=part(), decoder=part())


VARIANTS = dict(variants())
each_variant = pytest.mark.parametrize("declared", VARIANTS.values(), ids=VARIANTS.keys())


def event_of(declared):
    """Images, or vectors where the likelihood is of nothing else."""
    return (6,) if declared.likelihood.datum == "vector" else IMAGE


def batch_for(declared, size=6):
    x = data(declared.likelihood, size, *event_of(declared))
    return Batch(x, torch.tensor([0, 1, 2, -1, -1, -1])[:size] if declared.labels else None)


def loss_of(vae, spec=None):
    spec = spec or pv.ELBO()
    objective = spec.build(vae)
    weights = {name: torch.tensor(value) for name, value in spec.weights(1.0).items()}
    return lambda batch: objective(batch, weights)


# ------------------------------------------------------------------------------------------------------- declarations

each_part = pytest.mark.parametrize(("table", "part"), PARTS.values(), ids=PARTS.keys())


@each_part
def test_docstring(table, part):
    """One line, the equation, the reference; a sentence for every field."""
    doc = inspect.cleandoc(part.__doc__)
    first = doc.split("\n\n")[0]
    assert re.fullmatch(r"[^\n]{10,115}(\n[^\n]+)?", first), "what it is, in a line"
    assert first.endswith((".", ":"))
    if table.noun not in ("data set", "tracker"):
        assert re.search(r"[=~|^]", doc), "no equation"
    word = part.model_fields[part.word].default
    if word not in NO_PAPER:
        _, heading, references = doc.partition("\nReferences:\n")
        assert heading, "no References; a part without a paper is listed in NO_PAPER"
        assert re.search(r"\([^()]+, (19|20)\d\d\)", references), "title (authors, year)"
    for name, field in part.model_fields.items():
        if name != part.word:
            assert field.description, f"{name} has no docstring"
            assert field.description.endswith(".")


@each_part
def test_every_field_has_a_default(table, part):
    """The bare word is a declaration."""
    word = part.model_fields[part.word].default
    assert part.model_validate({part.word: word}) == part()
    assert table[word] is part


@each_part
def test_round_trips(table, part):
    spec = part()
    assert part.model_validate(parse_yaml(to_yaml(spec.tree()), "it")) == spec
    assert part.model_validate_json(spec.model_dump_json()) == spec
    assert eval(repr(spec), {part.__name__: part for _, part in PARTS.values()}) == spec
    for twin in (copy.copy(spec), copy.deepcopy(spec), pickle.loads(pickle.dumps(spec))):
        assert twin == spec
        assert hash(twin) == hash(spec)
        assert type(twin) is part


@each_part
def test_frozen_and_strict(table, part):
    with pytest.raises(ValueError, match="frozen"):
        setattr(part(), part.word, "other")
    with pytest.raises(pv.DeclarationError, match="unknown key"):
        part(no_such_field=1)


@each_variant
def test_variants_round_trip(declared):
    assert pv.Variant.model_validate(parse_yaml(to_yaml(declared.tree()), "it")) == declared
    assert pickle.loads(pickle.dumps(declared)) == declared
    assert hash(copy.deepcopy(declared)) == hash(declared)


# ------------------------------------------------------------------------------------------------------------- shapes


def check_distribution(p, shape, event_shape, value, inputs, module):
    """Batch and event shapes; log_prob and a draw carry finite gradients to every parameter, nonzero somewhere."""
    assert torch.broadcast_shapes(p.batch_shape, shape) == torch.Size(shape), "no batch dimension is added"
    assert p.event_shape == event_shape
    log_prob = p.log_prob(value)
    assert torch.broadcast_shapes(log_prob.shape, shape) == torch.Size(shape)
    assert torch.isfinite(log_prob).all()
    total = log_prob.sum() + (p.rsample().square().sum() if p.has_rsample else 0)
    leaves = [*inputs, *module.parameters()]
    if not total.requires_grad:
        assert list(module.parameters()) == [], "parameters that nothing depends on"
        return
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    for (name, _), g in zip(module.named_parameters(), found[len(inputs) :], strict=True):
        assert g is not None, f"{name} is not used"
        assert torch.isfinite(g).all(), name
        assert (g != 0).any(), name


def build_prior(spec, dim, dim_above, shape):
    """A prior alone, with a guide to be made of where it is made of one."""
    prior = spec.build(dim, dim_above if spec.reads_above else None, shape)
    if spec.of_guide:
        body = SMALL.body(shape)
        prior.attach(body, DiagonalNormal().head(body.features, None, dim, shape))
    return prior


def one_datum(*inputs):
    """Each input (..., B, D), of the third datum alone."""
    return [None if tensor is None else tensor[..., 2:3, :] for tensor in inputs]


@every(LIKELIHOODS)
@pytest.mark.parametrize("event", [(4,), (3, 4, 5)], ids=["vectors", "images"])
def test_likelihood_shapes(spec, event, shape):
    if spec.datum not in ("any", "vector" if len(event) == 1 else "image"):
        with pytest.raises(pv.DeclarationError, match="data must be"):
            spec.build(SMALL, 3, Shape(event))
        return
    likelihood = spec.build(SMALL, 3, Shape(event, y=2, given=1))
    z, given = torch.randn(*shape, 3, requires_grad=True), torch.randn(shape[-1], 1)
    y = torch.randn(*shape, 2)
    p = likelihood(z, y, given)
    unit = event[len(event) - len(p.event_shape) :]
    entries = event[: len(event) - len(unit)]
    x = data(spec, shape[-1], *event)
    check_distribution(p, (*shape, *entries), unit, x, [z], likelihood)
    assert p.mean.shape == (*shape, *event)
    alone = likelihood(*one_datum(z, y, given)).log_prob(x[2:3])
    together = p.log_prob(x).narrow(len(shape) - 1, 2, 1)
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)


@every(PRIORS)
def test_prior_shapes(spec, shape):
    prior = build_prior(spec, 3, 2, Shape((4,), y=2, given=1, classes=3 * spec.simplex))
    above = torch.randn(*shape, 2, requires_grad=True) if spec.reads_above else None
    y, given = torch.randn(*shape, 2), torch.randn(shape[-1], 1)
    inputs, z, p = [] if above is None else [above], torch.randn(*shape, 3), prior(above, y, given)
    z = z.softmax(-1) if spec.simplex else z
    check_distribution(p, shape, (3,), z, inputs, prior)
    alone = prior(*one_datum(above, y, given)).log_prob(*one_datum(z))
    torch.testing.assert_close(alone, p.log_prob(z)[..., 2:3], rtol=1e-4, atol=1e-4)


@every(GUIDES)
@pytest.mark.parametrize("neighbour_dim", [None, 2])
def test_head_shapes(spec, neighbour_dim, shape):
    features, neighbour_dim = (3, neighbour_dim and 3) if spec.dims_of_x else (5, neighbour_dim)
    head = spec.head(features, neighbour_dim, 3, Shape((3,), y=2, classes=3 * spec.simplex))
    h = torch.randn(shape[-1], features, requires_grad=True)
    neighbour = torch.randn(*shape, neighbour_dim) if neighbour_dim else None
    y = torch.randn(*shape, 2)
    p = pyro.distributions.Normal(torch.zeros(*shape, 3), torch.ones(*shape, 3)).to_event(1)
    q = head(h, neighbour, y, p if spec.order == "top_down" else None, None)
    z = q.rsample()
    assert torch.broadcast_shapes(z.shape, (*shape, 3)) == (*shape, 3), "no batch dimension is added"
    assert z.shape == (*shape, 3) or list(head.parameters()) == [], "what sees y has its batch dimensions"
    check_distribution(q, shape, (3,), z, [h], head)
    p = pyro.distributions.Normal(torch.zeros(3), 1.0).to_event(1) if spec.order == "top_down" else None
    alone = head(*one_datum(h, neighbour, y), p, None)
    if spec.density:
        torch.testing.assert_close(alone.log_prob(*one_datum(z)), q.log_prob(z)[..., 2:3], rtol=1e-4, atol=1e-4)
    else:
        torch.testing.assert_close(alone.mean, *one_datum(q.mean))


@every(NETWORKS)
def test_network_shapes(spec, shape):
    body, decoder = spec.body(Shape(IMAGE, given=2, masked=True)), spec.decoder(3, Shape(IMAGE), 2)
    h = body(torch.randn(5, *IMAGE), torch.rand(5, *IMAGE) > 0.3, torch.randn(5, 2))
    assert h.shape == (5, body.features)
    assert decoder(torch.randn(*shape, 3)).shape == (*shape, 2, *IMAGE)


@each_variant
def test_gradients(declared):
    """Finite for every parameter, nonzero for nearly all: a bias can be 0 by symmetry."""
    vae = VAE(declared, event_of(declared))
    with torch.no_grad():
        for parameter in vae.parameters():  # one that starts at 0 keeps gradients from those before it
            parameter.add_(0.01 * torch.randn_like(parameter))
    loss, _ = loss_of(vae)(batch_for(declared))
    found = torch.autograd.grad(loss, list(vae.parameters()), allow_unused=True)
    zero = [name for (name, _), g in zip(vae.named_parameters(), found, strict=True) if g is None or not (g != 0).any()]
    assert all(torch.isfinite(g).all() for g in found if g is not None)
    assert len(zero) <= 1, zero


@each_variant
def test_gradients_with_missing_entries(declared):
    if not declared.likelihood.takes_missing:
        with pytest.raises(pv.DeclarationError, match="missing"):
            VAE(declared, event_of(declared), masked=True)
        return
    vae = VAE(declared, event_of(declared), masked=True)
    batch, mask = batch_for(declared), torch.rand(6, *event_of(declared)) > 0.3
    mask[2], mask[3] = False, True
    batch = batch._replace(x=torch.where(mask, batch.x, torch.nan), mask=mask)
    loss, _ = loss_of(vae)(batch)
    assert torch.isfinite(loss)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in vae.parameters() if p.grad is not None)


@every(OBJECTIVES)
def test_objective(spec):
    """Loss and terms as promised, one weight after another; the schedule ends where it says."""
    vae = VAE(variant(labels=LABELS), IMAGE)
    objective = spec.build(vae)
    weights = {name: torch.tensor(value, requires_grad=True) for name, value in spec.weights(1.0).items()}
    loss, terms = objective(batch_for(vae.variant), weights)
    assert loss.shape == ()
    assert all(value.shape == (6,) for value in (terms.elbo, terms.reconstruction, terms.kl))
    torch.testing.assert_close(terms.elbo, terms.reconstruction - terms.kl)
    found = torch.autograd.grad(loss, [*objective.parameters(), *weights.values()], allow_unused=True)
    assert all(torch.isfinite(g).all() for g in found if g is not None)
    assert all(g is not None for g in found[len(found) - len(weights) :]), "weights enter as tensors"
    assert spec.weights(spec.longest()) == spec.weights(spec.longest() + 100)
    assert spec.weights(0).keys() == weights.keys()


# ----------------------------------------------------------------------------------------------------- goodness of fit


def fit(p, S=20_000):
    """p-values of S draws against log_prob, one for each entry of the batch.

    As `pyro.distributions.testing.gof`, whose chi-square tail is wrong: it gives 1 for a log_prob that is 0.2 too high.
    """
    x = p.sample((S,))
    probs = p.log_prob(x).double().exp()
    if isinstance(p.support, Simplices):  # log z_c / z_C instead, because densities are infinite at the edges
        log_z = x.unflatten(-1, (-1, p.support.classes)).log()
        x, probs = (log_z - log_z[..., -1:])[..., :-1].flatten(-2), probs * log_z.sum((-2, -1)).double().exp()
    found = []
    for index in itertools.product(*map(range, p.batch_shape)):
        at = (slice(None), *index)
        values = x[at].reshape(S, -1)
        found.append((_fit_counts if getattr(p.support, "is_discrete", False) else _fit_density)(values, probs[at]))
    return found


def _pearson(counts, expected):
    """Upper tail of Pearson's chi-square."""
    statistic = ((counts - expected).square() / expected).sum()
    return torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2).double(), statistic / 2).item()


def _fit_density(values, probs):
    """Nearest neighbours: n p(x) (volume of the ball about x that holds one of n other draws) is Exponential(1)."""
    others, here = values.double().chunk(2)
    radius = torch.from_numpy(cKDTree(others.numpy()).query(here.numpy())[0])
    D = values.shape[-1]
    volume = radius**D * math.pi ** (D / 2) / math.gamma(D / 2 + 1)
    uniform = torch.exp(-len(others) * probs.chunk(2)[1] * volume)
    counts = torch.histc(uniform, 20, 0, 1)
    return _pearson(counts, torch.full_like(counts, len(here) / 20))


def _fit_counts(values, probs):
    """Counts of the values that are common enough, and of all the others."""
    seen, which = values.unique(dim=0, return_inverse=True)
    counts = torch.bincount(which).double()
    expected = len(values) * torch.zeros_like(counts).scatter_(0, which, probs)
    common = expected > 10
    rest = len(values) - expected[common].sum()
    if rest > 10:
        counts = torch.cat([counts[common], counts[~common].sum()[None]])
        return _pearson(counts, torch.cat([expected[common], rest[None]]))
    assert rest > -1e-3 * len(values), "probabilities that add up to more than 1"
    return _pearson(counts[common], expected[common])


@every(LIKELIHOODS)
def test_likelihood_fits_its_draws(spec):
    if not spec.normalized:
        pytest.skip("declared to be no density")
    likelihood = spec.build(SMALL, 3, Shape((4,)))
    with torch.no_grad():
        p = likelihood(2 * torch.randn(3), None, None).expand((4,))
        assert min(fit(p)) > FALSE_ALARM


@every(PRIORS)
def test_prior_fits_its_draws(spec):
    prior = build_prior(spec, 3 if spec.simplex else 2, 3, Shape((4,), classes=3 * spec.simplex))
    with torch.no_grad():
        p = prior(2 * torch.randn(3) if spec.reads_above else None, None, None)
        assert min(fit(p)) > FALSE_ALARM


@every(GUIDES)
def test_guide_fits_its_draws(spec):
    features = 2 if spec.dims_of_x else 5
    head = spec.head(features, None, 3 if spec.simplex else 2, Shape((2,), classes=3 * spec.simplex))
    p = pyro.distributions.Normal(torch.zeros(2), torch.ones(2)).to_event(1)
    with torch.no_grad():
        q = head(2 * torch.randn(features), None, None, p if spec.order == "top_down" else None, None)
        if spec.density:
            assert min(fit(q)) > FALSE_ALARM
        else:
            z = q.sample((10,))
            assert torch.equal(z, z[:1].expand_as(z)), "not a density, so certain"


class Shifted(pyro.distributions.Normal):
    """A density that integrates to exp(0.1)."""

    def log_prob(self, value):
        return super().log_prob(value) + 0.1


class Flatter(pyro.distributions.Normal):
    """The density of a wider distribution than the one that draws."""

    def log_prob(self, value):
        return pyro.distributions.Normal(self.loc, 1.5 * self.scale).log_prob(value)


class Biased(pyro.distributions.Bernoulli):
    """Probabilities other than those of the draws."""

    def log_prob(self, value):
        return pyro.distributions.Bernoulli(logits=self.logits + 0.2).log_prob(value)


def test_goodness_of_fit_tells_right_from_wrong():
    right = pyro.distributions.Normal(torch.zeros(30), 1.0), pyro.distributions.Bernoulli(torch.full((30,), 0.3))
    for p in (*right, pyro.distributions.Normal(torch.zeros(10, 2), 1.0).to_event(1)):
        found = torch.tensor(fit(p))
        assert found.min() > FALSE_ALARM
        assert 0.2 < found.mean() < 0.8, "p-values are about uniform"
    for p in (Shifted(torch.zeros(2), 1.0), Flatter(torch.zeros(2), 1.0), Biased(logits=torch.zeros(1))):
        assert max(fit(p)) < FALSE_ALARM
    assert max(fit(Shifted(torch.zeros(2), 1.0).to_event(1))) < FALSE_ALARM


# --------------------------------------------------------------------------------------------- saved, recorded, moved


@each_variant
def test_saved_and_loaded(declared):
    """state_dict holds all that a VAE is, besides its declaration: the densities are equal bit by bit."""
    torch.manual_seed(1)
    first = VAE(declared, event_of(declared))
    first.initialise(data(declared.likelihood, 50, *event_of(declared)))
    torch.manual_seed(2)
    second = VAE(pv.Variant.model_validate_json(declared.model_dump_json()), event_of(declared))
    batch, found = batch_for(declared), []
    for load_first in (False, True):
        if load_first:
            second.load_state_dict(first.state_dict())
        for vae in (first, second):
            torch.manual_seed(3)
            found.append(densities(vae.eval(), batch, 2).log_w)
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found[2], found[3])


@each_variant
def test_captured_is_eager(declared):
    """Other data, other labels missing, other parameters, another random state."""
    if not declared.capturable:
        pytest.skip("declared to be not capturable")
    traced, other = batch_for(declared), batch_for(declared)
    if declared.labels:
        other = other._replace(y=torch.tensor([-1, -1, 2, 0, -1, 1]))
    objective = pv.ELBO(num_particles=2).build(VAE(declared, event_of(declared)))
    compare(objective, traced, other, tolerance=1e-6)


@every(OBJECTIVES)
def test_captured_objective_is_eager(spec):
    if not spec.capturable:
        pytest.skip("declared to be not capturable")
    for labels in ({}, LABELS):
        vae = VAE(variant(labels=labels), IMAGE)
        traced, other = batch_for(vae.variant), batch_for(vae.variant)
        if labels:
            other = other._replace(y=torch.tensor([-1, -1, 2, 0, -1, 1]))
        compare(spec.build(vae), traced, other, tolerance=1e-5, weights=spec.weights(0))


def to_meta(batch):
    return Batch(*(value.to("meta") if torch.is_tensor(value) else value for value in batch))


@each_variant
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_device_meta(declared, masked):
    """On a device without numbers, where any constant left on the CPU is an error."""
    if masked and not declared.likelihood.takes_missing:
        pytest.skip("declared to take no missing entries")
    batch = batch_for(declared)
    if masked:
        batch = batch._replace(mask=torch.ones_like(batch.x, dtype=torch.bool))
    vae = VAE(declared, event_of(declared), masked=masked).to("meta")
    with pyro.validation_enabled(False):  # a check reads its outcome
        d = densities(vae, to_meta(batch), 3)
        log_w = without_labels(d.log_w, d, to_meta(batch), declared.rule)
        assert log_w.shape == (3, 6)
        assert log_w.device.type == "meta"
        objective = pv.ELBO().build(vae)
        loss, terms = objective(to_meta(batch), {"beta": torch.tensor(1.0, device="meta")})
        loss.backward()
        assert terms.elbo.device.type == "meta"
        assert vae.model(Batch(None, n=6)).shape == (6, *event_of(declared))


@every(OBJECTIVES)
def test_objective_on_device_meta(spec):
    vae = VAE(variant(labels=LABELS), IMAGE)
    objective = spec.build(vae).to("meta")
    weights = {name: torch.tensor(value, device="meta") for name, value in spec.weights(1.0).items()}
    with pyro.validation_enabled(False):
        loss, _ = objective(to_meta(batch_for(vae.variant)), weights)
    assert loss.device.type == "meta"


def test_device_meta_sees_a_constant_on_the_cpu():
    vae = VAE(VARIANTS["prior standard_normal"], IMAGE).to("meta")
    vae.priors["z"].loc = torch.zeros(3)
    with pyro.validation_enabled(False), pytest.raises((RuntimeError, NotImplementedError)):
        pv.ELBO().build(vae)(to_meta(batch_for(vae.variant)), {"beta": torch.tensor(1.0, device="meta")})


# --------------------------------------------------------------------------------------------------------------- data


@every(pv.DATA)
def test_data_are_what_they_declare(spec, shared_data):
    expected = spec.declared()
    if expected is None:
        pytest.skip("says nothing before it is read")
    if isinstance(spec, ReleasedData):
        spec = spec.replace(download=False)
        if spec.found() is None:
            pytest.skip(f"{spec.place()} does not hold {spec.title}")
    found = load(spec)
    assert found.name == expected.name
    assert found.support == expected.support
    assert found.shape == expected.shape
    assert found.num_classes == expected.num_classes
    again = load(spec)
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(found, part).x, getattr(again, part).x), "the same spec and seed, the same data"
