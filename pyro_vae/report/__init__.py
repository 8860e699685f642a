"""The report of a run: one self-contained HTML page, and the explorer of its latent space.

    material    what a page shows, gathered from a run
    arrays      arrays as text that a browser unpacks
    program     the decoder, recorded and translated for the page
    explorer    what the scripts of the page need
    figures     pictures and curves
    sections    the HTML of each section
    document    the whole file

`program.js` runs the decoder, `scene.js` knows data and point, `plane.js` draws the plane, `explorer.js` is the
interaction, `page.css` the looks.
"""

from pyro_vae.report.document import Page, explore, page
from pyro_vae.report.material import FEW_DATA, Material, Shown, gather, shown
from pyro_vae.report.program import UntranslatableError, translate

__all__ = [
    "FEW_DATA",
    "Material",
    "Page",
    "Shown",
    "UntranslatableError",
    "explore",
    "gather",
    "page",
    "shown",
    "translate",
]
