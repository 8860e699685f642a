"""A screenshot of the top of a run's report, by headless Chromium.

    python analysis/report_picture.py DIR [OUT.png]

The picture in the README is of `pyro-vae train vae-bernoulli data=mnist data.binarize=dynamic latent.dim=2
"encoder.widths=[256,128]" "decoder.widths=[64,64]" training.epochs=6 training.batch_size=128`. Needs the package
playwright and an installed Chromium.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

import pyro_vae as pv

ROOT = Path(__file__).parent


def main(directory, out=ROOT / "results" / "report.png"):
    page = pv.load(directory).report()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1100, "height": 760})
        tab.goto(Path(page.path).resolve().as_uri())
        tab.wait_for_function("window.explorer && window.explorer.image()")
        tab.evaluate("document.getElementById('explorer').scrollIntoView({behavior: 'instant'})")
        tab.screenshot(path=str(out))
        browser.close()
    print(out)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except pv.DeclarationError as error:
        sys.exit(str(error))
