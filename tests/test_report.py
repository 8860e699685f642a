"""The report: one HTML file that needs nothing else, and the decoder inside it equal to PyTorch's."""

import copy
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, trained

import pyro_vae as pv
from pyro_vae import card, report
from pyro_vae.networks.spec import ACTIVATIONS
from pyro_vae.report import UntranslatableError, explorer, figures, material, program, sections
from pyro_vae.report.arrays import Packer
from pyro_vae.vae import VAE

SOURCES = Path(report.__file__).parent
VOID = {"meta", "img", "br", "input", "link", "hr"}
HOSTILE = "</script><script>alert(1)</script><!--\u2028'\"&amp;<b>"


class Reader(HTMLParser):
    """Elements, their attributes and text; fails where tags do not match."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.text = [], [], ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def made(tiny_run, tmp_path_factory):
    return pv.load(tiny_run).report(tmp_path_factory.mktemp("made") / "page.html")


@pytest.fixture(scope="module")
def read(made):
    return Reader(made.html)


def scene_of(page):
    return json.loads(re.search(r'id="scene">(.*?)</script>', page.html, re.DOTALL)[1])


def blob_of(page):
    return re.search(r'id="blob">(.*?)</script>', page.html, re.DOTALL)[1]


# ----------------------------------------------------------------------------------------------------------- the page


def test_report_is_written_and_says_where(copy, made):
    assert made.path.read_text(encoding="utf-8") == made.html
    assert str(made.path) in repr(made)
    assert "KB" in repr(made)
    assert pv.load(copy).report().path == copy / "report.html"
    assert not [*copy.glob("*.part"), *made.path.parent.glob("*.part")]


def test_report_has_every_section(read):
    names = [attributes["id"] for attributes in read.all("section")]
    assert names == ["result", "verdict", "explorer", "training", "samples", "reconstructions", "made"]
    titles = [attributes["aria-labelledby"] for attributes in read.all("section")]
    assert {attributes.get("id") for attributes in read.all("h2")} == set(titles)
    links = [attributes["href"][1:] for attributes in read.all("a")]
    assert links == names


def test_report_refers_to_nothing_outside(read, made):
    for tag, attributes in read.elements:
        assert tag not in ("link", "base", "iframe", "object", "embed")
        for name, value in attributes.items():
            assert not name.startswith("on"), "handlers are in the script"
            if name in ("src", "href", "xlink:href", "srcset", "action", "poster"):
                assert value.startswith(("#", "data:image/png;base64,"))
            assert "url(" not in (value or "") or "url(#" in value
    assert not re.search(r"\b(https?|ftp|wss?):", made.html)
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|EventSource|import)\s*\(", made.html)
    policy = next(a["content"] for a in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")


def test_report_is_accessible(read):
    assert read.all("html") == [{"lang": "en"}]
    names = {attributes.get("name") for attributes in read.all("meta")}
    assert {"viewport", "color-scheme"} <= names
    assert len(read.all("h1")) == len(read.all("main")) == len(read.all("header")) == 1
    assert all(attributes["alt"] for attributes in read.all("img"))
    assert all(attributes["scope"] in ("row", "col") for attributes in read.all("th"))
    assert len(read.all("caption")) == len(read.all("table")) == 2
    assert all(attributes["aria-label"] for attributes in read.all("svg"))
    plane = next(attributes for attributes in read.all("canvas") if attributes["id"] == "plane")
    assert plane["tabindex"] == "0"
    assert "Arrow keys" in plane["aria-label"]


def test_ids_are_unique(read):
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for _, a in read.elements if a.get("href", "").startswith("#")} <= set(ids)


def test_report_says_what_the_run_says(read, tiny_run):
    run = pv.load(tiny_run)
    for label, text in card.card_lines(run.result):
        assert label in read.text
        assert text in read.text
    assert f"pyro-vae diagnose {tiny_run}" in read.text
    assert "widths:" in read.text
    assert str(run.environment["versions"]["torch"]) in read.text


def test_report_is_small(made):
    assert len(made.html.encode()) < 400_000


def test_explorer_alone_shows_in_a_notebook(tiny_run, monkeypatch):
    page = pv.explore(pv.load(tiny_run))
    assert page.path is None
    assert len(page._repr_html_()) < 300_000
    frame = Reader(page._repr_html_()).all("iframe")
    assert [attributes["srcdoc"] for attributes in frame] == [page.html]
    assert frame[0]["sandbox"] == "allow-scripts"
    assert frame[0]["title"]
    assert [attributes["id"] for attributes in Reader(page.html).all("section")] == ["explorer"]
    assert scene_of(page)["num"] == material.FEW_DATA


def test_report_needs_a_result(copy, refused):
    (copy / "result.json").unlink()
    (line,) = refused("report", copy)
    assert "has no result yet; `pyro-vae evaluate` makes one" in line
    assert not (copy / "report.html").exists()


def test_figures_leave_matplotlib_as_it_was(tiny_run):
    import matplotlib

    before = {name: value for name, value in matplotlib.rcParams.items() if name != "backend"}
    svg = figures.curves_svg(pv.load(tiny_run).metrics, "a <name>")
    assert before == {name: value for name, value in matplotlib.rcParams.items() if name != "backend"}
    assert 'aria-label="a &lt;name&gt;"' in svg
    assert ">epoch</text>" in svg, "text is text"
    assert "#000000" not in svg
    assert not re.search(r'id="(?!curves-)', svg)


# -------------------------------------------------------------------------------------------------------- the verdict


DIAGNOSIS = {
    "observations": [0, 1], "split": "test", "budget": 30.0,
    "verdict": {
        "overall": "Good, with reservations.",
        "statements": [
            {"question": f"q of {level} {HOSTILE}?", "level": level, "text": f"because {level}", "advice": advice}
            for level, advice in (("good", ""), ("fair", "more"), ("bad", "less"), ("unknown", ""))
        ],
    },
}  # fmt: skip


def test_verdict_in_words(copy):
    (copy / "diagnostics.json").write_text(json.dumps(DIAGNOSIS))
    (copy / "plots").mkdir()
    for name in ("khat", "own_figure"):
        (copy / "plots" / f"{name}.png").write_bytes(figures.grid_png(np.random.default_rng(0).random((4, 1, 8, 8)), 2))
    read = Reader(pv.load(copy).report().html)
    for level, sign in sections.SIGNS.items():
        assert f"{sign} {level}" in read.text, "a word and a sign beside the colour"
        assert f"q of {level} {HOSTILE}?" in read.text
        assert f"because {level}" in read.text
    assert "Try: more." in read.text
    alts = [attributes["alt"] for attributes in read.all("img")]
    assert alts[-2:] == [sections.CAPTIONS["khat"], "own figure"]


def test_figures_that_do_not_fit_are_named(copy, monkeypatch):
    (copy / "diagnostics.json").write_text(json.dumps(DIAGNOSIS))
    (copy / "plots").mkdir()
    (copy / "plots" / "gaps.png").write_bytes(figures.grid_png(np.random.default_rng(0).random((4, 1, 8, 8)), 2))
    monkeypatch.setattr("pyro_vae.report.document.ROOM", 0)
    read = Reader(pv.load(copy).report().html)
    assert f"Not shown, so that this page stays small: {sections.CAPTIONS['gaps']}" in read.text


# ----------------------------------------------------------------------------------------------------------- escaping


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory):
    """Names that would break out of the page: of columns, classes and the attribute's classes."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)), np.arange(60) % 2
    arrays = pv.Arrays(x, y={"kind": y}, names={"kind": [HOSTILE, "b"]}, columns=[HOSTILE, "two", "three"])
    words = [*TINY, "data={name: arrays, binarize: none}", "likelihood=normal", "training.batch_size=16"]
    experiment = pv.load_experiment("digits", words)
    out = tmp_path_factory.mktemp("hostile") / "<i>run"
    return pv.train(experiment, arrays, out=out, name=HOSTILE, quiet=True, num_samples=20)


def test_hostile_names_are_escaped(hostile_run):
    page = hostile_run.report()
    read = Reader(page.html)
    assert len(read.all("script")) == 3
    assert read.all("b") == [{}], "E[x | z], and no other"
    assert read.all("i") == []
    assert HOSTILE in read.text
    assert "\u2028" not in re.search(r"<script.*", page.html, re.DOTALL)[0]
    scene = scene_of(page)
    assert scene["columns"][0] == HOSTILE
    assert scene["attributes"][0]["names"][0] == HOSTILE


# ------------------------------------------------------------------------------------------------- the decoder inside


RUN = """
const {unpack, prepare} = require(process.argv[1]);
const {text, table, program, inputs} = JSON.parse(require("fs").readFileSync(0));
unpack(text, table).then((arrays) => {
  const run = prepare(program, arrays);
  console.log(JSON.stringify(inputs.map((input) => Array.from(run(input)))));
});
"""
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="node is not there; the slow browser tests cover this")


def by_node(packer, made, inputs):
    """What the page's own code decodes."""
    given = [{name: value.flatten().tolist() for name, value in one.items()} for one in inputs]
    asked = json.dumps({"text": packer.text(), "table": packer.table, "program": made, "inputs": given})
    command = ["node", "-e", RUN, str(SOURCES / "program.js")]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return torch.tensor(json.loads(done.stdout))


LABELS = {"a": {"classes": 4}, "b": {"classes": 2, "conditions": ["encoder", "decoder"]}}
IMAGE, VECTOR = (3, 9, 10), (5,)
CONV = {"encoder": {"kind": "conv", "channels": [4, 8]}}
ODD = {"kind": "conv", "channels": [6, 3], "kernel": 4, "strides": [2, 3], "conditioning": "film"}
DECODERS = {
    "linear": ({"widths": []}, VECTOR, {}),
    "gated": ({"widths": [8, 6], "gated": True}, VECTOR, {}),
    "batch-norm": ({"widths": [8], "norm": "batch"}, VECTOR, {}),
    "layer-norm": ({"widths": [8], "norm": "layer"}, VECTOR, {}),
    "labels": ({"widths": [8]}, VECTOR, {"labels": LABELS}),
    "film": ({"widths": [8], "conditioning": "film", "embedding": 3}, VECTOR, {"labels": LABELS}),
    "conv-film": (ODD, (3, 11, 13), {"labels": LABELS, **CONV}),
    "resnet": ({"kind": "resnet", "channels": [32, 16]}, IMAGE, CONV),
}
DECODERS |= {f"mlp-{word}": ({"widths": [8], "activation": word}, VECTOR, {}) for word in ACTIVATIONS}
DECODERS |= {
    f"conv-{norm}": ({"kind": "conv", "channels": [32, 16], "norm": norm}, IMAGE, CONV)
    for norm in ("none", "batch", "group", "layer")
}
LIKELIHOODS = [word for word in pv.LIKELIHOODS if word not in ("mixed", "perceptual")]


def shaken(vae):
    """In evaluation mode, with parameters and running moments that are not those of the start."""
    for parameter in vae.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for name, buffer in vae.named_buffers():
        if "running" in name:
            torch.nn.init.uniform_(buffer, 0.5, 1.5)
    return vae.eval()


def compare(vae, tolerance=1e-5):
    """The page's image against PyTorch's, for a few z."""
    packer = Packer()
    made = program.translate(vae, packer)
    inputs = []
    for i in range(3):
        one = {"z": 2 * torch.randn(1, next(iter(vae.variant.layers.values())))}
        if vae.shape.y:
            sizes = [site.classes for site in vae.variant.labels.values()]
            one["y"] = torch.cat([torch.eye(size)[i % size] for size in sizes])[None]
        if vae.shape.given:
            one["given"] = torch.randn(1, vae.shape.given)
        inputs.append(one)
    exact = copy.deepcopy(vae).double()  # float32 alone is 1e-3 off where a mean is a difference of large numbers
    with torch.no_grad():
        given = [{name: value.double() for name, value in one.items()} for one in inputs]
        expected = [exact.decoded(**one).mean.flatten().float() for one in given]
    expected = torch.stack(expected)
    assert expected.std(0).max() > 1e-3, "they differ"
    torch.testing.assert_close(by_node(packer, made, inputs), expected, atol=tolerance, rtol=1e-5)


@needs_node
@pytest.mark.parametrize("which", DECODERS)
def test_decoders_run_in_a_page(which):
    decoder, shape, more = DECODERS[which]
    compare(shaken(VAE(pv.Variant(latent={"dim": 3}, decoder=decoder, **more), shape)))


@needs_node
@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_means_of_likelihoods_run_in_a_page(kind):
    levels = {"levels": 6} if kind in ("discretized_logistic", "categorical") else {}
    compare(
        shaken(VAE(pv.Variant(latent={"dim": 3}, likelihood={"kind": kind, **levels}, decoder={"widths": [8]}), VECTOR))
    )


@needs_node
def test_units_covariates_and_double_precision_run_in_a_page():
    vae = shaken(
        VAE(
            pv.Variant(latent=[{"dim": 3}, {"dim": 2}], prior=["normal", "standard_normal"]),
            VECTOR,
            2,
            standardized=True,
        )
    )
    vae.standardization.set(torch.randn(5), torch.rand(5) + 1)
    compare(vae)
    compare(vae.double())


def test_packed_arrays_are_exact():
    """What a browser unpacks: the same steps backwards."""
    import base64
    import zlib

    packer, rng = Packer(), np.random.default_rng(0)
    numbers, places, pixels = (
        rng.normal(size=5).astype(np.float32),
        np.array([3, 1, 7], np.int32),
        np.arange(4, dtype=np.uint8),
    )
    assert [packer.add(array) for array in (numbers, pixels, places, numbers)] == [0, 1, 2, 0]
    content = zlib.decompress(base64.b64decode(packer.text()), wbits=-15)
    words = np.frombuffer(content[: 8 * 4], np.uint8).reshape(4, 8).T.tobytes()
    np.testing.assert_array_equal(np.frombuffer(words, "<f4", 5), numbers)
    np.testing.assert_array_equal(np.frombuffer(words, "<i4", 3, 20).cumsum(), places)
    assert content[8 * 4 :] == pixels.tobytes()


@pytest.mark.parametrize("limit", ["MOST_NUMBERS", "MOST_PRODUCTS", "MOST_OPERATIONS"])
def test_what_is_too_large_is_no_program(tiny_run, monkeypatch, limit):
    monkeypatch.setattr(program, limit, 2)
    with pytest.raises(UntranslatableError, match="too large"):
        program.translate(pv.load(tiny_run).vae, Packer())


def test_an_unknown_operation_is_no_program(tiny_run, monkeypatch):
    monkeypatch.delitem(program.KNOWN, "addmm")
    with pytest.raises(UntranslatableError, match="addmm"):
        program.translate(pv.load(tiny_run).vae, Packer())


def test_an_operation_that_takes_constants_alone_is_no_program(tiny_run, monkeypatch):
    """Pages know a batch norm whose statistics are constants; computed ones are no fault, but a reason for a grid."""
    monkeypatch.setitem(program.KNOWN, "addmm", lambda t, *args: t.constants[args[1]])
    with pytest.raises(UntranslatableError, match="of constants alone"):
        program.translate(pv.load(tiny_run).vae, Packer())


@pytest.fixture
def no_program(monkeypatch):
    def refuse(*_):
        raise UntranslatableError("it is a secret")

    monkeypatch.setattr(explorer, "translate", refuse)


@pytest.mark.parametrize("which", ["tiny_run", "conditional_run"])
def test_a_grid_stands_in(request, which, no_program):
    """The points of the grid are PyTorch's, in bytes: half of 1/255 off at most."""
    run = pv.load(request.getfixturevalue(which))
    page = pv.explore(run)
    scene = scene_of(page)
    assert "program" not in scene
    assert "computed in advance" in page.html
    grid, cells = scene["grid"], 10 if which == "conditional_run" else 1
    assert grid["side"] == explorer.FINEST
    assert grid["labels_chosen"] == (cells == 10)
    assert scene["arrays"][grid["decoded"]] == ["uint8", cells * grid["side"] ** 2 * 64]
    assert scene["arrays"][grid["own"]] == ["uint8", scene["num"] * 64]


# -------------------------------------------------------------------------------------------------- runs of all kinds


KINDS = {
    "layers": ["latent=[{dim: 4}, {dim: 2}]", "prior=[normal, standard_normal]", "guide=bottom_up_normal"],
    "partly": ["labels={digit: {classes: 10, observed: partly, rule: guide}}", "data.labels_kept=100"],
    "never": ["labels={mode: {classes: 3, observed: never}}", "prior=normal"],
    "shown": ["data.shown={quadrants: 2}", "prior=normal"],
    "missing": ["data.missing=0.4", "data.binarize=static"],
    "categorical": ["latent={dim: 3, kind: categorical, classes: 4}", "prior=categorical", "guide=relaxed"],
    "line": ["latent.dim=1"],
    "point": ["guide=point", "likelihood={kind: bernoulli, grey: true}", "data.binarize=none"],
    "flow": ["prior=flow"],
    "wide": ["latent.dim=12"],
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def kind_run(request, tmp_path_factory):
    words = [
        word
        for word in TINY
        if not (word.startswith("latent") and any(w.startswith("latent=") for w in KINDS[request.param]))
    ]
    words = [word if "epochs" not in word else "training.epochs=1" for word in words]
    return request.param, pv.load(trained(tmp_path_factory, *words, *KINDS[request.param]))


@pytest.mark.slow
def test_every_kind_of_run_has_a_report(kind_run):
    kind, run = kind_run
    page = run.report()
    Reader(page.html)
    scene = scene_of(page)
    assert scene["num"] == 360
    assert scene["dim"] == next(iter(run.vae.variant.layers.values()))
    assert sorted(scene["order"]) == list(range(scene["dim"]))
    assert scene["standard_normal"] == (kind in ("partly", "missing", "line", "point", "wide"))
    assert ("pool" in scene) != scene["standard_normal"]
    assert ("program" in scene) != ("grid" in scene)
    assert "program" in scene
    assert scene["is_kl"] == (kind not in ("point", "flow", "categorical")) or kind in ("flow", "categorical")
    assert all(low < high for low, high in zip(scene["low"], scene["high"], strict=True))
    if scene["labels"] is not None:
        assert all(
            0 <= y < site["classes"] for row in scene["labels"] for y, site in zip(row, scene["sites"], strict=True)
        )
    assert ("given" in scene) == (kind == "shown") == ("pasted" in scene)
    assert ("mask" in scene) == (kind == "missing")


@pytest.mark.slow
def test_dimensions_are_in_the_order_of_their_kl(kind_run):
    kind, run = kind_run
    scene = scene_of(pv.explore(run))
    sorted_kl = [scene["spread"][d] for d in scene["order"]]
    assert sorted_kl == sorted(sorted_kl, reverse=True)


# -------------------------------------------------------------------------------------------------------- the command


def test_command(done, copy, tmp_path):
    assert done("report", copy, "--budget", 0).strip() == str(copy / "report.html")
    found = json.loads(done("report", copy, "--budget", 0, "--json", "--out", tmp_path / "own.html"))
    assert found == {"file": str(tmp_path / "own.html"), "bytes": (tmp_path / "own.html").stat().st_size}
    assert not (copy / "diagnostics.json").exists()


def test_command_diagnoses_first(say, copy, monkeypatch):
    from pyro_vae import examination

    def diagnose(run, observations, budget, split, progress):
        assert (list(observations), budget, split) == (list(range(16)), 7, "test")
        progress("looking")
        (run.directory / "diagnostics.json").write_text(json.dumps(DIAGNOSIS))

    monkeypatch.setattr(examination, "diagnose", diagnose)
    code, out, err = say("report", copy, "--budget", 7)
    assert code == 0
    assert "diagnosing for about 7 seconds" in err
    assert "looking" in err
    assert "because fair" in Reader((copy / "report.html").read_text()).text
    code, out, err = say("report", copy)
    assert (code, err) == (0, ""), "what is there is used"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "/"], "is a directory"),
        (["--out", "/no/such/folder/a.html"], "is no directory that can be written to"),
    ],
)
def test_command_refuses(refused, tiny_run, options, message):
    (line,) = refused("report", tiny_run, *options)
    assert message in line


def test_command_refuses_what_is_no_run(refused, tmp_path):
    (line,) = refused("report", tmp_path)
    assert "is no run directory" in line


def test_a_page_that_cannot_be_written(tiny_run, tmp_path):
    page = report.Page("text", "title", 10)
    with pytest.raises(pv.DeclarationError, match="cannot be written"):
        page.written(tmp_path / "none" / "page.html")
    assert page.path is None
