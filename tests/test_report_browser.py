"""The report in a browser that has no network: what it shows is what PyTorch decodes."""

import shutil

import pytest
import torch
from conftest import LABELS, TINY, trained

import pyro_vae as pv
from pyro_vae import report
from pyro_vae.report import UntranslatableError, explorer

pytestmark = pytest.mark.slow

NAMES = ("chromium", "chromium-browser", "google-chrome")
CONV = ["encoder={kind: conv, channels: [8, 16]}", "decoder={kind: conv, channels: [16, 8], norm: batch}"]
GREY = ["data.binarize=none", "likelihood=continuous_bernoulli"]
REAL = ["data.binarize=none", "likelihood=normal", "training.batch_size=32"]
TOLERANCE = 1e-4
RUNS = {
    "mlp": [],
    "grid": [],
    "conv": [*CONV, *GREY, "data.name=squares"],
    "labels": [LABELS, "decoder={kind: mlp, widths: [16], conditioning: film}"],
    "layers": ["latent=[{dim: 4}, {dim: 2}]", "prior=[normal, standard_normal]", "guide=bottom_up_normal"],
    "line": ["latent.dim=1"],
    "wide": ["latent.dim=12"],
    "shown": ["data.shown={quadrants: 2}", "prior=normal"],
    "missing": ["data.missing=0.4", "data.binarize=static"],
    "vectors": ["data={name: linear_gaussian, num_data: 400, binarize: none, standardize: true}", *REAL],
    "colour": [*CONV, *REAL],
}


@pytest.fixture(scope="session")
def browser():
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is there")
    with sync.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield started
        started.close()


def colour_data():
    """Blots of any colour and place, 3 x 10 x 10."""
    generator = torch.Generator().manual_seed(0)
    places, inks = torch.rand(200, 2, 1, 1, generator=generator) * 10, torch.rand(200, 3, 1, 1, generator=generator)
    rows, columns = torch.meshgrid(torch.arange(10.0), torch.arange(10.0), indexing="ij")
    distance = (rows - places[:, 0]) ** 2 + (columns - places[:, 1]) ** 2
    return pv.Arrays((inks * torch.exp(-distance / 6)[:, None]).numpy())


@pytest.fixture(scope="session")
def make(tmp_path_factory):
    """A run of a kind and its page; each is made once."""
    made = {}

    def once(kind):
        if kind not in made:
            made[kind] = _make(kind, tmp_path_factory)
        return made[kind]

    return once


def _make(kind, tmp_path_factory):
    words = [word for word in [*TINY, *RUNS[kind]] if not word.startswith("training.epochs")] + ["training.epochs=2"]
    if any(word.startswith("latent=") for word in words):
        words.remove("latent.dim=2")
    if CONV[0] in words:
        words = [word for word in words if ".widths" not in word]
    if kind == "colour":
        out = tmp_path_factory.mktemp("colour") / "run"
        experiment = pv.load_experiment("digits", [*words, "data={name: arrays, binarize: none}"])
        run = pv.train(experiment, colour_data(), out=out, quiet=True, num_samples=20)
    else:
        run = pv.load(trained(tmp_path_factory, *words))
    with pytest.MonkeyPatch.context() as patch:
        if kind == "grid":
            patch.setattr(explorer, "translate", _refuse)
        run.report()
    return run


def _refuse(*_):
    raise UntranslatableError("for the test")


class Opened:
    """A page in the browser, and everything that it said or asked for."""

    def __init__(self, browser, path, **options):
        self.context = browser.new_context(**options)
        self.context.set_offline(True)
        self.page = self.context.new_page()
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.absolute().as_uri())
        self.page.wait_for_function("window.explorer")
        self.settle()

    def settle(self):
        """Wait until what changed is drawn."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def call(self, text):
        return self.page.evaluate(text)

    def numbers(self, text):
        return torch.tensor(self.call(f"Array.from({text})"), dtype=torch.float32)

    @property
    def z(self):
        return self.numbers("explorer.z")

    @property
    def y(self):
        return self.call("explorer.y")

    @property
    def image(self):
        return self.numbers("explorer.image()")

    def drag(self, to):
        """Move the handle with the mouse, to fractions of the plane; it is where the pointer is then."""
        plane = self.page.locator("#plane")
        plane.scroll_into_view_if_needed()
        box, (x, y) = plane.bounding_box(), self.call("explorer.handle()")
        self.page.mouse.move(box["x"] + x, box["y"] + y)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.4 * box["height"], steps=4)
        self.page.mouse.move(box["x"] + to[0] * box["width"], box["y"] + to[1] * box["height"], steps=4)
        self.page.mouse.up()
        self.settle()
        x, y = self.call("explorer.handle()")
        assert x == pytest.approx(to[0] * box["width"], abs=1.5)
        assert y == pytest.approx(to[1] * box["height"], abs=1.5) or self.call("explorer.scene.dim") == 1

    def over(self, n):
        """Put the mouse on the dot of a datum."""
        plane = self.page.locator("#plane")
        plane.scroll_into_view_if_needed()
        box, (x, y) = plane.bounding_box(), self.call(f"explorer.place({n})")
        self.page.mouse.move(box["x"] + x, box["y"] + y)
        self.settle()

    def close(self):
        """Nothing was said, and nothing asked for but the file itself."""
        self.context.close()
        assert self.said == []
        assert [url for url in self.asked if not url.startswith("data:")] == self.asked[:1]
        assert self.asked[0].startswith("file://")


@pytest.fixture
def opened(browser, make):
    """Open the page of a kind of run; at the end of the test nothing may have gone wrong in it."""
    pages = []

    def see(kind, **options):
        pages.append(Opened(browser, make(kind).directory / "report.html", **options))
        return pages[-1]

    yield see
    for page in pages:
        page.close()


def shown_of(run):
    return report.shown(run, report.material.MOST_DATA)


def expected(shown, z, y, n):
    """E[x | z, y, given of datum n] by PyTorch, in double precision."""
    vae = shown.vae.double()
    labels = explorer.hot(shown, torch.tensor([y])).double() if y else None
    given = None if shown.batch.given is None else shown.batch.given[n : n + 1].double()
    with torch.no_grad():
        x = vae.decoded(z[None].double(), labels, given).mean[0].float()
    vae.float()
    return torch.where(shown.data.shown, shown.batch.x[n], x) if shown.data.shown is not None else x


COMPUTED = [kind for kind in RUNS if kind != "grid"]


@pytest.mark.parametrize("kind", COMPUTED)
def test_dragging_decodes_as_pytorch_does(opened, make, kind):
    page, shown = opened(kind), shown_of(make(kind))
    before, first = page.image, page.z
    page.drag((0.7, 0.3))
    z = page.z
    assert (z - first).norm() > 0.05
    assert (page.image - before).abs().max() > 1e-3
    torch.testing.assert_close(page.image, expected(shown, z, page.y, 0).flatten(), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("kind", COMPUTED)
def test_pointing_at_a_datum_shows_its_reconstruction(opened, make, kind):
    page, shown = opened(kind), shown_of(make(kind))
    n = 3
    y = [] if shown.labels is None else shown.labels[n].tolist()
    x = page.numbers(f"explorer.datum({n})")
    exists = torch.ones_like(x, dtype=torch.bool) if shown.batch.mask is None else shown.batch.mask[n].flatten()
    exists = exists if shown.data.shown is None else torch.ones_like(exists)
    low, high = page.call("explorer.scene.range")
    torch.testing.assert_close(x[exists], shown.batch.x[n].flatten()[exists], atol=0.51 * (high - low) / 255, rtol=0)
    found = page.numbers(f"explorer.reconstruction({n})")
    torch.testing.assert_close(found, expected(shown, shown.z[n], y, n).flatten(), atol=TOLERANCE, rtol=0)
    page.over(n)
    hovered = page.call("explorer.state.hovered")
    near = shown.z[hovered] - shown.z[n]
    assert hovered == n or near[page.call("explorer.state.axes")].norm() < 0.1, "another dot lies on it"
    assert f"datum {hovered}" in page.page.locator("#datum").inner_text()


def test_a_click_goes_to_the_datum(opened, make):
    page, shown = opened("mlp"), shown_of(make("mlp"))
    far = int(shown.z.norm(dim=1).argmax())
    page.over(far)
    page.page.mouse.down()
    page.page.mouse.up()
    page.settle()
    torch.testing.assert_close(page.z, shown.z[far], atol=1e-5, rtol=0)


def test_choosing_a_label(opened, make):
    page, shown = opened("labels"), shown_of(make("labels"))
    before = page.image
    for k in ("7", "2"):
        page.page.get_by_label("digit", exact=True).select_option(k)
        page.settle()
        assert page.y == [int(k)]
        torch.testing.assert_close(page.image, expected(shown, page.z, page.y, 0).flatten(), atol=TOLERANCE, rtol=0)
    assert (page.image - before).abs().max() > 1e-3
    assert "digit 2" in page.page.locator("#position").inner_text()


def test_keys_move_the_point(opened):
    page = opened("mlp")
    page.page.locator("#plane").focus()
    first = page.z
    page.page.keyboard.press("ArrowRight")
    page.page.keyboard.press("Shift+ArrowUp")
    page.settle()
    moved = page.z - first
    axes = page.call("explorer.state.axes")
    assert 0.01 < moved[axes[0]] < 0.2
    assert 0.2 < moved[axes[1]] < 2
    assert f"= {page.z[axes[0]]:.2f}" in page.page.locator("#position").inner_text()
    page.page.keyboard.press("Home")
    page.settle()
    assert page.z.abs().max() == 0


def test_sliders_and_axes_of_many_dimensions(opened, make):
    page, shown = opened("wide"), shown_of(make("wide"))
    assert page.call("document.querySelectorAll('#sliders > label').length") == 8
    page.page.get_by_text("4 more dimensions").click()
    order = page.call("explorer.scene.order")
    for d in (order[0], order[-1]):
        slider = page.page.locator(f"#sliders input[data-dim='{d}']")
        slider.focus()
        page.page.keyboard.press("End")
        page.settle()
        assert page.z[d] == pytest.approx(page.call("explorer.scene.high")[d], abs=1e-4)
    page.page.get_by_label("across").select_option(str(order[5]))
    first = page.z
    page.drag((0.3, 0.3))
    changed = ((page.z - first).abs() > 1e-6).nonzero().flatten().tolist()
    assert sorted(changed) == sorted([order[5], order[1]])
    torch.testing.assert_close(page.image, expected(shown, page.z, [], 0).flatten(), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("kind", ["mlp", "labels", "layers", "shown", "grid"])
def test_a_random_draw_from_the_prior(opened, kind):
    page = opened(kind)
    first = page.z
    page.page.get_by_role("button", name="random draw from the prior").click()
    page.settle()
    assert not torch.equal(page.z, first)
    assert page.image.isfinite().all()


def test_the_grid_shows_its_nearest_point(opened, make):
    page, shown = opened("grid"), shown_of(make("grid"))
    page.drag((0.7, 0.3))
    axes = page.call("explorer.scene.grid.axes")
    low, high = (torch.tensor(page.call(f"explorer.scene.{word}"))[axes] for word in ("low", "high"))
    steps = ((page.z[axes] - low) / (high - low) * 14).round()
    z = shown.z.mean(0)
    z[axes] = low + steps / 14 * (high - low)
    torch.testing.assert_close(page.image, expected(shown, z, [], 0).flatten(), atol=0.51 / 255, rtol=0)
    assert "nearest grid point" in page.page.locator("#position").inner_text()
    assert "computed in advance" in page.page.locator("main").inner_text()


def test_a_class_is_brought_out(opened):
    page = opened("mlp")
    button = page.page.locator("#legend button").nth(3)
    button.click()
    page.settle()
    assert page.call("explorer.state.chosen") == 3
    assert page.page.locator("#legend button").nth(3).get_attribute("aria-pressed") == "true"


@pytest.mark.parametrize("kind", ["mlp", "wide", "vectors"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phones_and_dark_rooms(opened, kind, scheme):
    size = {"width": 375, "height": 700}
    page = opened(kind, viewport=size, color_scheme=scheme, has_touch=True, is_mobile=True)
    assert page.call("document.documentElement.scrollWidth") <= 375
    ground = page.call("getComputedStyle(document.body).backgroundColor")
    text = page.call("getComputedStyle(document.body).color")
    bright = [sum(map(int, colour.strip("rgb()").split(","))) > 384 for colour in (ground, text)]
    assert bright == ([True, False] if scheme == "light" else [False, True])
    box = page.page.locator("#plane").bounding_box()
    page.page.locator("#plane").scroll_into_view_if_needed()
    box = page.page.locator("#plane").bounding_box()
    page.page.touchscreen.tap(box["x"] + 0.2 * box["width"], box["y"] + 0.15 * box["height"])
    page.settle()
    assert page.z.abs().max() > 0.3


def test_first_paint_and_a_frame_are_fast(opened):
    page = opened("conv")
    paint = page.call("Math.max(...performance.getEntriesByType('paint').map((entry) => entry.startTime))")
    assert 0 < paint < 1000
    spent = page.call(
        "(() => { const t = performance.now(); explorer.decode(explorer.z); return performance.now() - t })()"
    )
    assert spent < 100


def test_a_notebook_frame_runs_it(browser, make, tmp_path):
    """The sandbox of a notebook's frame lets the scripts run and nothing else."""
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><body>{pv.explore(make('mlp'))._repr_html_()}")
    context = browser.new_context()
    context.set_offline(True)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.goto(path.as_uri())
    frame = page.frame_locator("iframe")
    frame.locator("#sliders label").first.wait_for()
    assert "z_0" in frame.locator("#position").inner_text()
    assert said == []
    context.close()


def test_mnist_fits(browser, shared_data, tmp_path_factory):
    """The largest of the small networks: one file below 3 MB, painted within a second, equal to PyTorch's."""
    words = ["encoder.widths=[16]", "decoder.widths=[400, 400]", "latent.dim=20", "training.epochs=1"]
    out = tmp_path_factory.mktemp("mnist") / "run"
    data = [f"data={{name: mnist, root: {shared_data}, binarize: dynamic}}", "training.batch_size=1000"]
    run = pv.train(pv.load_experiment("digits", [*words, *data]), out=out, quiet=True, num_samples=1)
    path = run.report().path
    assert path.stat().st_size < 3_000_000
    page = Opened(browser, path)
    assert page.call("Math.max(...performance.getEntriesByType('paint').map((entry) => entry.startTime))") < 1000
    page.drag((0.7, 0.3))
    z = expected(shown_of(run), page.z, [], 0).flatten()
    torch.testing.assert_close(page.image, z, atol=TOLERANCE, rtol=0)
    page.close()
