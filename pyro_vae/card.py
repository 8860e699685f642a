"""What is printed: the result card, and tables of words."""

from collections.abc import Sequence
from typing import Any

TRUSTED = 0.5
"""Share of data with a good k-hat below which the card says that log p is only a bound."""


def density_words(density: str, conditional_on: Sequence[str]) -> str:
    """What log p is of, and given what.

    >>> density_words("x|y", ["library size"])
    'x | y, library size'
    """
    x, *y = density.split("|")
    return f"{x} | {', '.join([*y, *conditional_on])}" if conditional_on else density


def card_lines(card: dict[str, Any]) -> list[tuple[str, str]]:
    """The result card in words.

    >>> card_lines({"density": "x", "split": "test", "num_data": 9, "elbo": None, "log_likelihood": None})[:2]
    [('split', 'test, 9 data'), ('log p(x)', 'none: not a normalised density')]
    """

    def number(value: float | None, digits: int = 3) -> str:
        return "undetermined" if value is None else f"{value:.{digits}f}"

    def figure(value: dict[str, float | None] | None, unit: str = "nats per datum") -> str:
        if value is None:
            return "none: not a normalised density"
        return f"{number(value['value'])} ± {number(value['standard_error'])} {unit}"

    density, khat = density_words(card["density"], card.get("conditional_on", ())), card.get("khat")
    samples = card.get("num_importance_samples")
    lines = [
        ("split", f"{card['split']}, {card['num_data']} data"),
        (f"log p({density})", figure(card["log_likelihood"]) + (f", {samples} importance samples" if samples else "")),
        ("ELBO", figure(card["elbo"])),
    ]
    if card.get("reconstruction"):
        lines.append(("E_q[log p(x | z)]", figure(card["reconstruction"])))
    if card.get("kl"):
        lines.append(("KL(q || p)", figure(card["kl"])))
    layers = card.get("kl_per_layer") or {}
    if len(layers) > 1:
        lines.append(("KL per layer", ", ".join(f"{name} {figure(kl, '')}".rstrip() for name, kl in layers.items())))
    if card.get("bits_per_dim") is not None:
        lines.append(("bits per dimension", number(card["bits_per_dim"], 4)))
    if card.get("active_units") is not None:
        error = number(card["active_units_standard_error"], 1)
        lines.append(("active units", f"{card['active_units']} ± {error} of {card['latent_dim']}"))
    if samples:
        lines += _khat_lines(khat, density)
    if card.get("seconds"):
        seconds = card["seconds"]
        lines.append(("time", f"{seconds['train']:.1f} s training, {seconds['evaluate']:.1f} s evaluation"))
        how = "compiled" if card["compiled"] else "not compiled"
        lines.append(("training", f"{card['epochs']} epochs, {card['steps']} steps, {card['parameters']:,} parameters"))
        lines.append(("on", f"{card['device']}, {card['precision']}, {how}, seed {card['seed']}"))
    return lines


def _khat_lines(khat: dict[str, Any] | None, density: str) -> list[tuple[str, str]]:
    """How far the importance-sampled log p can be trusted."""
    if not khat:
        return [("k-hat", "undetermined: takes 100 importance samples or more")]
    share, limit, draws = khat["good_fraction"], khat["threshold"], khat["num_draws"]
    error = "undetermined" if khat["standard_error"] is None else f"{100 * khat['standard_error']:.1f}"
    lines = [("k-hat", f"{100 * share:.1f} ± {error} % of data below {limit:.2f} ({draws} draws)")]
    if share < TRUSTED:
        lines.append(("", f"log p({density}) is a lower bound here; by how much too low is not known"))
    return lines


def card_title(card: dict[str, Any]) -> str:
    """What was trained on what."""
    return f"{card['variant']} on {card['data']}"


def card_text(card: dict[str, Any]) -> str:
    """The result card as plain text, aligned."""
    lines = card_lines(card)
    width = max(len(label) for label, _ in lines)
    return "\n".join([card_title(card), *(f"{label.ljust(width)}  {text}" for label, text in lines)])


def print_card(card: dict[str, Any]) -> None:
    """Print the result card."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=card_title(card), show_header=False, title_justify="left")
    for label, text in card_lines(card):
        table.add_row(Text(label), Text(text))  # Text, because [log p] would be read as markup
    console = Console(soft_wrap=True)
    console.print(table)


def print_table(title: str, words: dict[str, str]) -> None:
    """Print words and what they mean."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, padding=(0, 2), title=title, title_justify="left", title_style="bold")
    for word, text in words.items():
        table.add_row(word, Text(text))
    console = Console()
    console.print(table)
    console.print()
