"""The sections of a report, as HTML. Whatever a user named is escaped here, and nowhere else."""

import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, NamedTuple

import numpy as np

from pyro_vae.card import card_lines
from pyro_vae.experiment import dump
from pyro_vae.report import figures
from pyro_vae.report.explorer import Explorer
from pyro_vae.report.material import Material, Shown
from pyro_vae.specs import Part

SIGNS = {"good": "✓", "fair": "~", "bad": "✗", "unknown": "?"}
"""What stands beside the word of a level."""
CAPTIONS = {
    "khat": "k-hat of the importance weights, and how much the draws are worth",
    "posterior": "The guide against the posterior by Hamiltonian Monte Carlo",
    "moments": "Mean and standard deviation of the guide against those of the posterior",
    "log_likelihood": "log p(x) of each datum, by every method",
    "gaps": "What the guide loses, to its family and to amortisation",
    "calibration": "Calibration: ranks of what made the data among draws of the guide",
    "aggregate": "The aggregate posterior against the prior",
    "predictive": "Predictive checks: data from the model against the data",
    "labels": "Reliability of the probabilities of labels",
}
"""What each figure of a diagnosis shows."""


class Section(NamedTuple):
    """A part of the page."""

    name: str
    """Its id, of letters."""
    title: str
    body: str


def header(material: Material) -> str:
    """What this is, in a sentence."""
    shown = material.shown
    started = str(material.environment.get("started", "")).split("T")[0]
    event = " × ".join(map(str, shown.vae.shape.x))
    what = f"{len(shown.data.train):,} training data of shape {event}"
    layers = ", ".join(f"{name} of {dim}" for name, dim in shown.vae.variant.layers.items())
    return (
        f"<p>A variational autoencoder: what it learned from {escape(what)}, how well, and how far that can be "
        f"trusted. Latent {escape(layers)}; {escape(word(shown.vae.variant.likelihood))} likelihood, "
        f"{escape(word(shown.vae.variant.guide))} guide{', trained ' + escape(started) if started else ''}.</p>"
    )


def word(part: Part) -> str:
    """What a part is called in a declaration."""
    return str(getattr(part, part.word)).replace("_", " ")


def table(caption: str, rows: Iterable[tuple[str, str]], hidden: bool = False) -> str:
    """Two columns: what, and how much; the caption may be for screen readers alone."""
    lines = "".join(f'<tr><th scope="row">{escape(a)}</th><td>{escape(b)}</td></tr>' for a, b in rows)
    kind = ' class="unseen"' if hidden else ""
    return f"<table><caption{kind}>{escape(caption)}</caption><tbody>{lines}</tbody></table>"


def card(material: Material) -> Section:
    """The result card."""
    text = table("The result card; ± is the standard error over data", card_lines(material.card))
    return Section("result", "Result", text)


def verdict(material: Material) -> Section:
    """The diagnosis in words."""
    found = material.diagnostics
    if found is None:
        command = f"pyro-vae diagnose {material.directory}"
        text = f"<p>Not diagnosed yet. <code>{escape(command)}</code> looks at the posterior and says how far it is to "
        return Section("verdict", "Verdict", text + "be trusted; a new report then shows it.</p>")
    items = "".join(_statement(statement) for statement in found["verdict"]["statements"])
    facts = f"{len(found['observations'])} data of the {found['split']} split looked at one by one, "
    facts += f"in a budget of {found['budget']:g} seconds."
    overall = escape(str(found["verdict"]["overall"]))
    return Section(
        "verdict", "Verdict", f'<p class="overall">{overall}</p><ol class="verdict">{items}</ol><p>{escape(facts)}</p>'
    )


def _statement(statement: Mapping[str, Any]) -> str:
    level = str(statement["level"])
    advice = f'<p class="advice">Try: {escape(str(statement["advice"]))}.</p>' if statement["advice"] else ""
    sign = f'<span class="level {escape(level)}"><span aria-hidden="true">{SIGNS.get(level, "?")}</span> '
    return (
        f"<li>{sign}{escape(level)}</span><div><h3>{escape(str(statement['question']))}</h3>"
        f"<p>{escape(str(statement['text']))}</p>{advice}</div></li>"
    )


def explorer(shown: Shown, found: Explorer) -> Section:
    """The plane, what controls it, and where the decoded datum goes; `explorer.js` fills it."""
    if found.computed:
        how = "computed in this page from the decoder's own weights"
    else:
        how = "computed in advance on a grid: the page shows the nearest point of it, as it cannot run this decoder"
    spoken = "Latent plane. Arrow keys move the point, with shift in larger steps."
    held = ""
    if shown.vae.shape.given:
        what = "shown part of the image is that" if shown.data.shown is not None else "covariates are those"
        which = "the datum that was clicked last, at first of datum 0" if found.computed else "datum 0"
        held = f"<p>The {what} of {which}.</p>"
    many = len(shown.z)
    body = f"""
<p>Drag the point through the latent space: E[x | z] follows, {escape(how)}. Dots are E[z | x] of {many}
{escape(shown.part)} data; point at one to see the datum and its reconstruction, click it to go there.</p>{held}
<noscript><p>The explorer needs JavaScript.</p></noscript>
<div class="explorer">
<div class="side">
<div class="controls" id="axes"></div>
<canvas id="plane" tabindex="0" role="application" aria-label="{spoken}" aria-describedby="position"></canvas>
<div class="controls" id="marks"></div>
<div id="legend" class="legend"></div>
</div>
<div class="side">
<div class="controls" id="labels"></div>
<figure id="decoded"><figcaption><b>E[x | z]</b> <span id="position"></span></figcaption></figure>
<div class="controls" id="buttons"></div>
<div id="sliders" class="sliders"></div>
<div class="controls" id="chooser"></div>
<div id="datum" class="pair"></div>
<p id="spoken" class="unseen" aria-live="polite"></p>
</div>
</div>"""
    return Section("explorer", "Explorer", body)


def curves(material: Material) -> Section:
    """The course of the training."""
    if not material.metrics:
        return Section("training", "Training", "<p>metrics.jsonl is not there.</p>")
    last = material.metrics[-1]
    name = f"Training curves: loss, reconstruction and KL in nats per datum over {last['epoch']} epochs"
    seconds = sum(float(row.get("seconds") or 0) for row in material.metrics[-1:])
    text = f"Nats per datum, dashed for the validation data; {last['step']} steps in {seconds:.0f} seconds."
    svg = figures.curves_svg(material.metrics, name)
    return Section("training", "Training", f"<figure>{svg}<figcaption>{escape(text)}</figcaption></figure>")


def samples(material: Material) -> Section:
    """Means of data generated from the prior."""
    text = f"E[x | z] of {len(material.samples)} draws of z from the prior."
    if material.shown.data.shown is not None:
        text += " The shown part of each image is that of a datum."
    columns = 8 if len(material.samples) <= 64 else 16
    body = _picture(material, material.samples.float().numpy(), text, columns, ())
    return Section("samples", "Samples", body)


def reconstructions(material: Material) -> Section:
    """Data above their reconstructions."""
    x, mean = (part.float().nan_to_num().numpy() for part in material.pairs)
    text = f"Above: {len(x)} {material.shown.part} data x. Below: E[x | z], z drawn from q(z | x)."
    if x.ndim == 2:
        text = f"{len(x)} {material.shown.part} data x, and E[x | z] with z drawn from q(z | x)."
    body = _picture(material, np.concatenate([x, mean]), text, len(x), ("x", "E[x | z]"))
    return Section("reconstructions", "Reconstructions", body)


def _picture(material: Material, x: np.ndarray, text: str, columns: int, rows: tuple[str, ...]) -> str:
    """Images in a grid, vectors as a heat map."""
    if x.ndim == 4:
        content = figures.grid_png(x, columns)
        width = min(columns * max(x.shape[3], 28) * 2, 1000)
        return _figure(content, text, f'class="pixels" style="width:{width}px"')
    return _figure(figures.vectors_png(x, "", rows, material.shown.columns), text, 'class="card"')


def _figure(content: bytes, text: str, attributes: str) -> str:
    image = f'<img {attributes} alt="{escape(text)}" src="{figures.data_uri(content)}">'
    return f"<figure>{image}<figcaption>{escape(text)}</figcaption></figure>"


def diagnosis_figures(material: Material, room: int) -> Section | None:
    """The figures of the diagnosis, as many as there is room for, in characters."""
    found, left = [], []
    order = sorted(material.figures, key=lambda name: [*CAPTIONS, name].index(name))
    for name in order:
        text = CAPTIONS.get(name, name.replace("_", " "))
        made = _figure(figures.small_png(material.figures[name]), text, 'class="card"')
        if len(made) > room:
            left.append(text)
        else:
            room -= len(made)
            found.append(made)
    if not found and not left:
        return None
    rest = (
        f"<p>Not shown, so that this page stays small: {escape('; '.join(left))}. They are in plots/.</p>"
        if left
        else ""
    )
    return Section("figures", "Figures of the diagnosis", f'<div class="figures">{"".join(found)}</div>{rest}')


def made_with(material: Material) -> Section:
    """What it takes to make it again: data, seed, command, versions, the declaration."""
    environment, shown = material.environment, material.shown
    command = " ".join(map(str, environment.get("command", ())))
    sizes = ", ".join(f"{len(getattr(shown.data, part)):,} {part}" for part in ("train", "validation", "test"))
    rows = [
        ("data", f"{shown.data.name}: {sizes}"),
        ("seed", str(shown.experiment.seed)),
        ("command", command),
        ("started", str(environment.get("started", ""))),
        ("on", f"{environment.get('device', '')}, {environment.get('system', '')} {environment.get('machine', '')}"),
        ("versions", ", ".join(f"{name} {number}" for name, number in environment["versions"].items())),
        ("directory", str(material.directory.absolute())),
    ]
    again = (
        "<p>The same command, data, seed and versions make the same run; <code>pyro-vae train FILE</code> takes the "
    )
    again += "declaration below as a file.</p>"
    yaml = f"<details><summary>The declaration, as YAML</summary><pre>{escape(dump(shown.experiment))}</pre></details>"
    return Section("made", "How it was made", table("How the run was made", rows, hidden=True) + again + yaml)


def count(value: int) -> str:
    """A number of bytes in words.

    >>> count(1_234_567)
    '1.2 MB'
    """
    power = min(2, int(math.log(max(value, 1), 1000)))
    return f"{value / 1000**power:.{1 if power == 2 else 0}f} {('B', 'KB', 'MB')[power]}"
