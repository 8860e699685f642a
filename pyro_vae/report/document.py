"""One HTML file that needs nothing else: no network, no other file, light and dark, from a phone to paper."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib import resources
from pathlib import Path

from pyro_vae.records import write_text
from pyro_vae.report import sections
from pyro_vae.report.explorer import Explorer, pack
from pyro_vae.report.material import Material, Shown
from pyro_vae.report.sections import Section
from pyro_vae.specs import DeclarationError

ROOM = 2_900_000
"""Characters of a page that figures of the diagnosis may fill up; the rest may need more by itself."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""Nothing is ever fetched."""
SCRIPTS = ("program.js", "scene.js", "plane.js", "explorer.js")
"""In the order in which they need one another."""


@dataclass(frozen=True, repr=False)
class Page:
    """A page, which a notebook shows in a frame of its own."""

    html: str
    title: str
    height: int
    """Pixels of the frame."""
    path: Path | None = None
    """Where it was written."""

    def __repr__(self) -> str:
        where = f" at {self.path}" if self.path else ""
        return f"<Page {self.title!r}{where}, {sections.count(len(self.html.encode()))}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the page in a sandbox that may run its scripts, and nothing else."""
        return (
            f'<iframe title="{escape(self.title)}" sandbox="allow-scripts" width="100%" height="{self.height}" '
            f'style="border:0" srcdoc="{escape(self.html)}"></iframe>'
        )

    def written(self, path: Path) -> "Page":
        """The page, written to a file, whole or not at all.

        Raises:
            DeclarationError: the file cannot be written.
        """
        try:
            write_text(path, self.html)
        except OSError as error:
            raise DeclarationError(
                [f"{path}: cannot be written ({os.strerror(error.errno or 0)}); choose another."]
            ) from None
        return replace(self, path=path)


def page(material: Material) -> Page:
    """The whole report."""
    found = pack(material.shown)
    parts = [
        sections.card(material),
        sections.verdict(material),
        sections.explorer(material.shown, found),
        sections.curves(material),
        sections.samples(material),
        sections.reconstructions(material),
        sections.made_with(material),
    ]
    room = ROOM - sum(len(part.body) for part in parts) - len(found.blob) - len(found.scene) - 40_000
    shown = sections.diagnosis_figures(material, room)
    if shown is not None:
        parts.insert(-1, shown)
    links = "".join(f'<li><a href="#{part.name}">{escape(part.title)}</a></li>' for part in parts)
    nav = f'<nav aria-label="Sections"><ul>{links}</ul></nav>'
    title = material.shown.title
    top = f"<header><h1>{escape(title)}</h1>{sections.header(material)}{nav}</header>"
    return Page(_document(title, top, parts, found, "whole"), title, 900)


def explore(shown: Shown) -> Page:
    """The explorer alone, for notebooks."""
    found = pack(shown)
    top = f'<header><h1 class="small">{escape(shown.title)}</h1></header>'
    return Page(_document(shown.title, top, [sections.explorer(shown, found)], found, "alone"), shown.title, 820)


def _document(title: str, top: str, parts: Sequence[Section], found: Explorer, kind: str) -> str:
    """The file: what is read first, and last what the explorer needs."""
    body = "\n".join(
        f'<section id="{part.name}" aria-labelledby="{part.name}-title"><h2 id="{part.name}-title">'
        f"{escape(part.title)}</h2>{part.body}</section>"
        for part in parts
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{_file("page.css")}</style>
</head>
<body class="{kind}">
{top}
<main>
{body}
</main>
<footer><p>Made by pyro_vae. This page is one file and asks for no other.</p></footer>
<script type="application/json" id="scene">{found.scene}</script>
<script type="text/plain" id="blob">{found.blob}</script>
<script>
{"".join(map(_file, SCRIPTS))}</script>
</body>
</html>
"""


def _file(name: str) -> str:
    """A file of this package; none of them may end the element that it is put into."""
    return resources.files("pyro_vae.report").joinpath(name).read_text(encoding="utf-8")
