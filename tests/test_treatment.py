"""What a data set is made to be before it is modelled: counts, hidden entries, entries that are shown."""

import dataclasses

import numpy as np
import pytest
import torch
from test_data import refusal

import pyro_vae as pv
from pyro_vae.batches import build, preparer
from pyro_vae.card import card_lines, density_words
from pyro_vae.data import Arrays, ArraysData, DigitsData, load
from pyro_vae.evaluation import prepared
from pyro_vae.latent import impute
from pyro_vae.sites import Batch
from pyro_vae.vae import VAE

pytestmark = pytest.mark.filterwarnings("error")
RNG = np.random.default_rng(0)
IMAGES = RNG.random((40, 1, 6, 4)).astype(np.float32)


# -------------------------------------------------------------------------------------------------------- counts


def test_counts_stay_as_they_are():
    x = RNG.poisson(300, (30, 4))
    data = load(ArraysData(counts=True, library=True), arrays=Arrays(x, given=RNG.normal(size=(30, 2))))
    assert (data.support, data.levels, data.num_given) == ("counts", None, 3)
    batch = preparer(data, torch.float64, torch.device("cpu"))(Batch(data.train.x, given=data.train.given.double()))
    assert batch.x.max() > 255
    torch.testing.assert_close(batch.given[:, -1].exp(), batch.x.sum(1))
    torch.testing.assert_close(batch.given[:, :2], data.train.given.double())


def test_levels_can_be_counts():
    data = load(DigitsData(counts=True))
    assert data.support == "counts" == DigitsData(counts=True).declared().support
    assert data.train.x.max() == 16


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.full((20, 2), -1.0), "goes from -1 to -1"),
        (np.full((20, 2), 0.5), "with fractions"),
        (np.zeros((20, 2)), "no count at all"),
    ],
)
def test_what_is_no_count_is_refused(x, words):
    assert words in refusal(load, ArraysData(counts=True, library=True), arrays=Arrays(x))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"counts": True, "binarize": "dynamic"}, "counts=true: counts stay as they are; leave binarize out"),
        ({"counts": True, "standardize": True}, "leave standardize out"),
        ({"library": True}, "library=true: is the total count of a datum; set counts=true too"),
        ({"missing": 1.0}, "missing=1.0: must"),
        ({"shown": {}}, "give either quadrants"),
        ({"shown": {"quadrants": 4}}, "shown.quadrants=4"),
    ],
)
def test_what_excludes_one_another_is_said(fields, words):
    assert words in refusal(DigitsData, **fields)


def test_a_library_size_needs_data_that_have_one():
    with pytest.raises(pv.DeclarationError, match=r"likelihood\.library=true: 'poisson' .* set data\.library=true"):
        pv.Experiment(
            variant={"likelihood": {"kind": "poisson", "library": True}}, data={"name": "digits", "counts": True}
        )


def test_levels_must_agree():
    with pytest.raises(
        pv.DeclarationError, match=r"levels=256: 'digits' has 17 levels; set variant\.likelihood\.levels=17"
    ):
        pv.Experiment(variant={"likelihood": "discretized_logistic"}, data={"name": "digits"})


# ----------------------------------------------------------------------------------------------------- missing


def test_hidden_entries_are_the_same_in_every_run():
    spec = ArraysData(missing=0.3)
    first, again = (load(spec, arrays=Arrays(IMAGES)) for _ in range(2))
    assert torch.equal(first.train.mask, again.train.mask)
    assert not torch.equal(first.train.mask[: len(first.test)], first.test.mask)
    assert (first.train.x[~first.train.mask] == 0).all()
    share = torch.cat([part.mask.flatten() for part in (first.train, first.validation, first.test)]).double().mean()
    assert abs(share - 0.7) < 5 * (0.21 / 960) ** 0.5


def test_entries_that_are_missing_already_stay_so():
    mask = RNG.random(IMAGES.shape) > 0.5
    data = load(ArraysData(missing=0.2, validation=0), arrays=Arrays(IMAGES, mask=mask, test=Arrays(IMAGES, mask=mask)))
    assert not (data.test.mask.numpy() & ~mask).any()
    assert data.test.mask.sum() < mask.sum()


# ------------------------------------------------------------------------------------------------------- shown


@pytest.mark.parametrize(("quadrants", "count"), [(1, 6), (2, 12), (3, 18)])
def test_quadrants(quadrants, count, tmp_path):
    """What is shown joins the covariates and leaves the likelihood; what is left has the same values as before."""
    data = load(ArraysData(shown={"quadrants": quadrants}, validation=0), arrays=Arrays(IMAGES))
    assert int(data.shown.sum()) == count == data.num_given
    assert data.shown[0, 3:, :2].all()  # lower left
    assert not data.shown[0, 3:, 2:].any()  # lower right
    experiment = pv.Experiment(data=ArraysData(shown={"quadrants": quadrants}))
    batch = prepared(data, "test", experiment, torch.device("cpu"))
    assert torch.equal(batch.mask[0], ~data.shown)
    assert torch.equal(batch.given, batch.x[:, data.shown])
    vae = build(experiment, data, torch.device("cpu"))
    assert vae.shape.given == count
    assert not vae.shape.masked


@pytest.mark.parametrize(
    ("fields", "arrays", "said"),
    [
        ({}, {}, "x"),
        ({"shown": {"quadrants": 1}}, {}, "x | x_shown"),
        ({"counts": True, "library": True}, {}, "x | library size"),
        ({}, {"given": np.ones((40, 2)), "given_columns": ("age", "dose")}, "x | age, dose"),
        (
            {"shown": {"quadrants": 1}},
            {"given": np.ones((40, 4)), "given_columns": tuple("abcd")},
            "x | covariates, x_shown",
        ),
    ],
)
def test_what_log_p_is_given_is_said(fields, arrays, said):
    x = np.arange(40 * 16).reshape(40, 1, 4, 4) % 7.0
    data = load(ArraysData(validation=0, **fields), arrays=Arrays(x, **arrays))
    assert density_words("x", data.conditional_on) == said


def test_what_is_shown_is_not_scored():
    """Other values of a shown entry change log p(x_rest | x_shown) only through the covariates."""
    data = load(ArraysData(shown={"quadrants": 1}, validation=0), arrays=Arrays(IMAGES))
    vae = build(pv.Experiment(data=ArraysData(shown={"quadrants": 1})), data, torch.device("cpu"))
    x, given = torch.rand(3, 1, 6, 4), torch.rand(3, 6)
    other = torch.where(data.shown, x + 5, x)
    found = []
    for values in (x, other):
        torch.manual_seed(0)
        found.append(pv.densities(vae, Batch(values, mask=(~data.shown).expand_as(x), given=given), 2).log_w)
    assert torch.equal(*found)


def test_a_mask_of_ones_own(tmp_path):
    mask = RNG.random((6, 4)) > 0.5
    np.save(tmp_path / "mask.npy", mask)
    data = load(ArraysData(shown={"mask": str(tmp_path / "mask.npy")}), arrays=Arrays(IMAGES))
    assert torch.equal(data.shown[0], torch.from_numpy(mask))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.ones((6, 4), bool), "shows every entry"),
        (np.zeros((6, 4), bool), "shows no entry"),
        (np.ones((3, 4), bool), "must be bool of the shape (1, 6, 4)"),
        (np.ones((6, 4)), "holds float64"),
        (None, "cannot be read"),
        (b"nonsense", "is no .npy file"),
    ],
)
def test_masks_that_are_none(mask, words, tmp_path):
    path = tmp_path / "mask.npy"
    if isinstance(mask, bytes):
        path.write_bytes(mask)
    elif mask is not None:
        np.save(path, mask)
    assert words in refusal(load, ArraysData(shown={"mask": str(path)}), arrays=Arrays(IMAGES))


def test_vectors_have_no_quadrants():
    spec = ArraysData(shown={"quadrants": 1})
    assert "these data are vectors; give a mask" in refusal(load, spec, arrays=Arrays(IMAGES.reshape(40, -1)))


# ---------------------------------------------------------------------------------------------------- imputation


def test_imputation_of_a_linear_model_is_the_conditional_normal():
    """Mean and sd of the missing entries given the observed ones, within the error of the importance samples."""
    import exact

    torch.manual_seed(0)
    W, b, sigma = torch.tensor([[1.0], [2.0], [-1.0]]).double(), torch.tensor([0.5, 0.0, 1.0]).double(), 0.5
    vae = exact.linear_vae(W, b, sigma)
    with torch.no_grad():  # a guide that is wide enough for every pattern of missing entries
        vae.heads["z"].raw.output.weight.zero_()
        vae.heads["z"].raw.output.bias.copy_(torch.tensor([0.0, 0.0]))
    x = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 2.0]]).double()
    mask = torch.tensor([[True, True, False], [False, True, False]])
    found = impute(vae, Batch(torch.where(mask, x, torch.nan), mask=mask), num_draws=2, num_samples=40_000)
    covariance = W @ W.T + sigma**2 * torch.eye(3).double()
    for i in range(2):
        o, m = mask[i], ~mask[i]
        gain = covariance[m][:, o] @ torch.linalg.inv(covariance[o][:, o])
        mean = b[m] + gain @ (x[i, o] - b[o])
        variance = (covariance[m][:, m] - gain @ covariance[o][:, m]).diagonal()
        error = (variance / found.effective[i]).sqrt()
        assert ((found.mean[i, m] - mean).abs() < 5 * error).all()
        assert ((found.sd[i, m] - variance.sqrt()).abs() < 5 * error).all()
        assert torch.equal(found.mean[i, o], x[i, o])
        assert torch.equal(found.draws[0, i, o], x[i, o])
        assert (found.sd[i, o] == 0).all()


def test_prediction_from_what_is_shown_uses_the_prior():
    """What is predicted of the rest does not depend on the rest."""
    data = load(ArraysData(shown={"quadrants": 2}, validation=0), arrays=Arrays(IMAGES))
    experiment = pv.Experiment(data=ArraysData(shown={"quadrants": 2}))
    vae = build(experiment, data, torch.device("cpu"))
    batch = prepared(data, "test", experiment, torch.device("cpu"))
    found = []
    for x in (batch.x, torch.where(batch.mask, batch.x + 1, batch.x)):
        torch.manual_seed(0)
        found.append(impute(vae, batch._replace(x=x), 2, 50, from_prior=True))
    assert torch.equal(found[0].mean, found[1].mean)
    assert torch.equal(found[0].mean[:, data.shown], batch.given)
    assert (found[0].sd[:, data.shown] == 0).all()
    assert (found[0].sd[:, ~data.shown] > 0).all()


# ----------------------------------------------------------------------------------------- what a label conditions


def test_a_label_conditions_what_it_says():
    label = pv.Label(classes=3, conditions=["decoder"])
    variant = pv.Variant(labels={"y": label, "s": pv.Label(classes=2)}, latent=pv.Latent(dim=2))
    vae = VAE(variant, (5,))
    assert (variant.label_width("encoder"), variant.label_width("decoder")) == (2, 5)
    x, y = torch.rand(4, 5), torch.tensor([[0, 1], [1, 1], [2, 0], [0, 0]])
    found = []
    for labels in (y, (y + torch.tensor([1, 0])) % 3):
        torch.manual_seed(0)
        found.append(pv.densities(vae, Batch(x, labels)))
    assert torch.equal(found[0].q["z"].value, found[1].q["z"].value)
    assert not torch.equal(found[0].p["x"].log_prob, found[1].p["x"].log_prob)


def test_a_label_that_the_model_ignores_is_refused():
    with pytest.raises(pv.DeclarationError, match=r"conditions=\['encoder'\]: the model would not depend on the label"):
        pv.Label(classes=3, conditions=["encoder"])
    with pytest.raises(pv.DeclarationError, match="names a part twice"):
        pv.Label(classes=3, conditions=["decoder", "decoder"])


# ------------------------------------------------------------------------------------------ what does not go together


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"missing": 0.2, "shown": {"quadrants": 1}}, "missing=0.2: does not go with shown"),
        ({"missing": 0.2, "counts": True, "library": True}, "missing=0.2: does not go with library=true"),
    ],
)
def test_what_is_hidden_from_totals_and_predictions_is_refused(fields, words):
    assert words in refusal(DigitsData, **fields)


def test_a_mask_does_not_go_with_what_is_shown():
    mask = RNG.random(IMAGES.shape) > 0.5
    spec = ArraysData(shown={"quadrants": 1})
    assert "data.shown: needs data of which no entry is missing" in refusal(
        load, spec, arrays=Arrays(IMAGES, mask=mask)
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["likelihood=mixed"], "'mixed' needs vectors, and 'digits' holds images"),
        (["likelihood=perceptual", "data.missing=0.1"], "data.missing: 'perceptual' needs every entry of x"),
        (["labels={c: {classes: 3, conditions: [prior]}}"], "no prior here depends on labels"),
        (["labels={digit: {classes: 10, rule: guide}}"], "rule='guide': has no meaning for a label"),
        (["objective={kind: mmd, strength: 0}"], "strength=0: with alpha=0 the discrepancy would be raised"),
    ],
)
def test_what_would_go_wrong_later_is_refused_when_declared(words, message):
    with pytest.raises(pv.DeclarationError) as caught:
        pv.load_experiment("vae-sigma", words)
    assert message in str(caught.value)


def test_shown_entries_are_in_the_units_of_the_networks():
    x = 1000 + 10 * RNG.normal(size=(60, 4))
    np_mask = np.array([True, False, True, False])
    spec = ArraysData(standardize=True, validation=0)
    data = load(spec, arrays=Arrays(x))
    shown = torch.from_numpy(np_mask)
    data = dataclasses.replace(data, shown=shown)
    batch = preparer(data, torch.float64, torch.device("cpu"))(Batch(data.train.x))
    expected = (data.train.x.double() - data.scaling[0]) / data.scaling[1]
    torch.testing.assert_close(batch.given, expected[:, shown])


# --------------------------------------------------------------------------------------------------- starts and seeds


@pytest.mark.parametrize(
    "words", [["prior=vamp"], ["objective=factor"], ["likelihood={kind: multivariate_normal, covariance: low_rank}"]]
)
def test_same_seed_same_start(words, tmp_path):
    """Whatever the caller's random state, which stays as it was."""
    small = ["encoder.widths=[8]", "decoder.widths=[8]", "training.epochs=1", "training.batch_size=256", "latent.dim=2"]
    experiment = pv.load_experiment("vae-sigma", [*words, *small])
    found = []
    for i in range(2):
        torch.manual_seed(i)
        before = torch.get_rng_state()
        found.append(pv.train(experiment, out=tmp_path / str(i), quiet=True, num_samples=1).vae.state_dict())
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_mixed_table_with_missing_entries_trains(tmp_path):
    """Missing entries start as values of other data, which are codes where codes are asked for."""
    x = np.stack([RNG.integers(0, 2, 200), RNG.normal(size=200), RNG.poisson(3, 200)], 1).astype(np.float64)
    mask = RNG.random(x.shape) > 0.2
    variant = pv.Variant(likelihood=pv.Mixed(columns=["bernoulli", "normal", "poisson"]), latent=pv.Latent(dim=2))
    training = pv.Training(epochs=1, batch_size=32)
    experiment = pv.Experiment(variant=variant, data=ArraysData(), training=training)
    run = pv.train(experiment, data=Arrays(x, mask=mask), out=tmp_path / "run", quiet=True, num_samples=5)
    assert np.isfinite(run.result["log_likelihood"]["value"])


def test_counts_are_read_as_counts(tmp_path):
    experiment = pv.load_experiment("counts", ["training.epochs=1", "encoder.widths=[8]", "decoder.widths=[8]"])
    run = pv.train(experiment, out=tmp_path / "run", quiet=True, num_samples=1)
    np.savez(tmp_path / "x.npz", x=RNG.poisson(3.0, (4, 8, 8)))
    batch, _ = run.read(tmp_path / "x.npz")
    torch.testing.assert_close(batch.given[:, 0].exp(), batch.x.flatten(1).sum(1))
    np.savez(tmp_path / "bad.npz", x=np.full((4, 8, 8), 0.5))
    with pytest.raises(pv.DeclarationError, match="must be counts 0, 1, 2"):
        run.read(tmp_path / "bad.npz")


def test_samples_show_what_is_shown(tmp_path):
    small = ["training.epochs=1", "encoder.widths=[8]", "decoder.widths=[8]", "training.batch_size=256"]
    run = pv.train(pv.load_experiment("cvae-quadrants", small), out=tmp_path / "run", quiet=True, num_samples=1)
    assert run.result["conditional_on"] == ["x_shown"]
    assert any(label == "log p(x | x_shown)" for label, _ in card_lines(run.result))
    x, mean, _ = run.sample(3)
    shown, test = run.data.shown, run.batch("test", range(3)).x
    for found in (x, mean, run.reconstruct(run.batch("test", range(3))).x_mean[0]):
        assert torch.equal(found[:, shown], test[:, shown])
        assert not torch.equal(found[:, ~shown], test[:, ~shown])
    with pytest.raises(pv.DeclarationError, match="must be classes below"):
        pv.train(pv.load_experiment("cvae", small), out=tmp_path / "c", quiet=True, num_samples=1).sample(
            2, torch.tensor([10, 1])
        )
