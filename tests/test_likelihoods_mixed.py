"""Tables of several kinds of columns: each is what it is alone, around one decoder."""

import math

import pytest
import torch
from mc import assert_close_mc
from test_likelihoods import LINEAR, raw

import pyro_vae as pv
from pyro_vae.likelihoods import COLUMNS, Categorical, Mixed, Several
from pyro_vae.networks import MLP, Conv, Shape
from pyro_vae.sites import Batch
from pyro_vae.specs import DeclarationError
from pyro_vae.vae import VAE, densities

COLUMN_WORDS = [
    "bernoulli",
    {"kind": "categorical", "levels": 4},
    {"of": {"kind": "normal", "scale": "decoded"}, "times": 2},
    "laplace",
    "student_t",
    "poisson",
    {"of": "negative_binomial", "times": 2},
    "zero_inflated_poisson",
    "zero_inflated_negative_binomial",
]
D = 11
OUTPUTS = [1, 4, 2 * 2, 1, 1, 1, 2, 2, 2]


def table(n=500):
    real, counts = torch.randn(n, 4) * 2 + 1, torch.poisson(torch.full((n, 5), 3.0))
    return torch.cat([(torch.rand(n, 1) > 0.3).float(), torch.randint(4, (n, 1)).float(), real, counts], -1)


def build(columns=COLUMN_WORDS, d=D, **shape):
    return Mixed(columns=columns).build(LINEAR, 3, Shape((d,), **shape))


def test_every_column_is_what_it_is_alone():
    likelihood, z, x = build(), torch.randn(2, 6, 3), table(6)
    p = likelihood(z, None, None)
    assert p.batch_shape == (2, 6, D)
    assert p.event_shape == ()
    numbers = raw(likelihood, z)[0].split(OUTPUTS, -1)
    assert likelihood.decoded.network.output.out_features == sum(OUTPUTS), "as many as are needed"
    first, found = 0, p.log_prob(x)
    for spec, columns, r in zip(likelihood.specs, likelihood.widths, numbers, strict=True):
        alone = spec.build(LINEAR, 3, Shape((columns,)))
        r = r.unflatten(-1, (alone.decoded.outputs, -1))
        alone.decoded.network.forward = lambda c, r=r: r
        expected = alone(z, None, None).log_prob(x[:, first : first + columns])
        torch.testing.assert_close(found[..., first : first + columns], expected)
        first += columns
    assert first == D


def test_a_group_shares_what_it_learns_and_single_columns_do_not():
    group, single = build([{"of": "normal", "times": 3}], 3), build(["normal"] * 3, 3)
    assert [tuple(q.shape) for name, q in group.named_parameters() if "log_variance" in name] == [()]
    assert len([name for name, _ in single.named_parameters() if "log_variance" in name]) == 3


def test_no_columns_mean_that_all_are_normal():
    likelihood, z, x = build([], 5), torch.randn(6, 3), torch.randn(6, 5)
    found = likelihood(z, None, None).log_prob(x)
    expected = torch.distributions.Normal(raw(likelihood, z)[0], (1 + 1e-6) ** 0.5).log_prob(x)
    torch.testing.assert_close(found, expected)


def test_conditions_and_batch_dimensions():
    likelihood = build(y=2, given=2)
    z, y, given = (torch.randn(4, 6, n, requires_grad=True) for n in (3, 2, 2))
    p = likelihood(z, y, given)
    for condition in torch.autograd.grad(p.log_prob(table(6)).sum(), (z, y, given)):
        assert (condition != 0).any()
    assert p.expand((3, 4, 6, D)).log_prob(table(6)).shape == (3, 4, 6, D)
    with pytest.raises(ValueError, match="cannot be expanded"):
        p.expand((4, 6, 1))


def test_draws_are_of_the_columns_kinds_and_have_their_means():
    likelihood, S = build(), 8000
    with torch.no_grad():
        p = likelihood(torch.randn(3), None, None).expand((D,))
        x = p.sample((S,))
    assert not p.has_rsample
    assert build(["normal", "laplace"], 2)(torch.randn(3), None, None).has_rsample
    assert set(x[:, 0].unique().tolist()) <= {0.0, 1.0}
    assert set(x[:, 1].unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}
    assert (x[:, 6:] == x[:, 6:].round()).all()
    assert_close_mc(x.mean(0), p.mean, x.std(0) / math.sqrt(S))


def test_initialise_starts_every_column_where_it_starts_alone():
    x = table()
    likelihood = build()
    likelihood.initialise(x)
    p = likelihood(torch.zeros(3), None, None)
    torch.testing.assert_close(p.mean[torch.arange(D) != 1], x.mean(0)[torch.arange(D) != 1], rtol=0.01, atol=0.01)
    every = torch.cat([x[:4, :1], torch.arange(4.0)[:, None], x[:4, 2:]], -1)
    codes = p.log_prob(every)[:, 1].exp()
    torch.testing.assert_close(codes, (torch.bincount(x[:, 1].long()) + 1).to(codes.dtype) / 504)
    assert all(part.start is None for part in likelihood.modules() if hasattr(part, "start")), "nothing is kept"


def test_the_encoder_sees_columns_on_one_scale():
    likelihood, x = build(), table()
    x[:, 3] = 5.0
    assert torch.equal(likelihood.for_encoder(x)[:, 2], x[:, 2]), "before it has seen data"
    likelihood.initialise(x)
    seen, counts = likelihood.for_encoder(x), (1 + x[:, 6:]).log()
    torch.testing.assert_close(seen.mean(0), torch.zeros(D).to(seen.dtype), rtol=0.0, atol=1e-5)
    assert (seen[:, 3] == 0).all()
    others = [i for i in range(D) if i != 3]
    torch.testing.assert_close(seen.std(0, correction=0)[others], torch.ones(D - 1), rtol=0.0, atol=1e-5)
    torch.testing.assert_close(seen[:, 6:], (counts - counts.mean(0)) / counts.std(0, correction=0))
    again = build()
    again.load_state_dict(likelihood.state_dict())
    assert torch.equal(again.for_encoder(x), seen)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, 2.0, "column 1 of x is 'bernoulli', which needs 0 and 1"),
        (1, 4.0, "column 2 of x is 'categorical', which needs codes 0, ..., 3"),
        (1, 0.5, "column 2"),
        (6, -1.0, "column 7 of x is 'poisson', which needs counts"),
        (8, 0.25, "column 9 of x is 'negative_binomial'"),
    ],
)
def test_columns_that_hold_something_else_are_named(column, value, message):
    x = table()
    x[3, column] = value
    with pytest.raises(DeclarationError) as caught:
        build().initialise(x)
    assert len(caught.value.problems) == 1
    assert message in str(caught.value)


@pytest.mark.parametrize("count", [3, D - 1, D + 1])
def test_the_number_of_columns_must_fit(count):
    with pytest.raises(DeclarationError, match=rf"columns: {D} of them for data of {count} columns"):
        build(d=count)


def test_what_is_no_column_is_refused():
    for wrong, message in [
        ("mixed", "Known: normal, laplace"),
        ("perceptual", "Known: normal, laplace"),
        ({"kind": "poisson", "library": True}, r"columns\[0\]\.library=true"),
        ({"of": {"kind": "bernoulli", "grey": True}}, r"columns\[0\]\.grey=true"),
        ({"of": "normal", "times": 0}, r"columns\.0\.times=0"),
    ]:
        with pytest.raises(DeclarationError, match=message):
            Mixed(columns=[wrong])
    with pytest.raises(DeclarationError, match="data must be tables"):
        Mixed().build(LINEAR, 3, Shape((1, 8, 8)))
    with pytest.raises(DeclarationError, match="data must be images"):
        Mixed(columns=["normal"] * 4).build(Conv(), 3, Shape((4,)))


def test_round_trip_and_schema():
    spec = Mixed(columns=COLUMN_WORDS)
    assert Mixed.model_validate_json(spec.model_dump_json()) == spec
    assert spec.columns[2] == Several(of={"kind": "normal", "scale": "decoded"}, times=2)
    assert spec.columns[1] == Categorical(levels=4)
    assert "mixed" not in COLUMNS
    assert spec.accepts("real") is None
    jsonschema = pytest.importorskip("jsonschema")
    schema = pv.Variant.model_json_schema()
    jsonschema.validate({"likelihood": {"kind": "mixed", "columns": COLUMN_WORDS}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"likelihood": {"kind": "mixed", "columns": [{"of": "normal", "time": 2}]}}, schema)


def test_missing_columns_do_not_count():
    """Any column can be missing in any row; the others are scored as if it were not there."""
    small = MLP(widths=[8])
    variant = pv.Variant(latent=pv.Latent(dim=2), likelihood=Mixed(columns=COLUMN_WORDS), encoder=small, decoder=small)
    vae = VAE(variant, (D,), masked=True)
    x, mask, z = table(6), torch.rand(6, D) > 0.4, {"z": torch.randn(3, 6, 2)}
    d = densities(vae, Batch(torch.where(mask, x, torch.nan), mask=mask), 3, z)
    expected = (vae.likelihood(z["z"], None, None).log_prob(x) * mask).sum(-1)
    torch.testing.assert_close(d.p["x"].log_prob, expected)
    d.log_w.sum().backward()
    assert all(torch.isfinite(q.grad).all() for q in vae.parameters())
