"""Commands that work with the latent space and the labels of a run; each writes arrays and, mostly, a picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from pyro_vae import cli_io
from pyro_vae.cli_options import Directory, Input, Json, LabelNames, Out, Quiet, Seed, SplitName

if TYPE_CHECKING:
    from pyro_vae.runs import Run


def sample(
    directory: Directory,
    num: Annotated[int, typer.Option("--num", "-n", min=1, max=100_000, help="How many.")] = 64,
    label: LabelNames = None,
    each: Annotated[
        str | None,
        typer.Option("--each", help="A label site: a row for each draw, a column for each class, the style held."),
    ] = None,
    seed: Seed = None,
    out: Out = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Generate from the prior: a PNG of the means E[x | z] and the arrays as .npz."""
    from pyro_vae import plots

    run, path = cli_io.load(directory), cli_io.target(out, directory / "samples.png")
    if each is not None:
        _sample_each(run, path, num, each, label or [], seed, as_json)
        return
    x, mean, z = run.sample(num, cli_io.labels(run, label or [], num), seed=seed)
    title = f"{cli_io.subject(run, label)}: E[x | z], z from the prior"
    figure = plots.data_figure(mean.cpu().numpy()[:256], title, names=run.columns)
    cli_io.save_picture(figure, path, {"x": x, "mean": mean, "z": z}, as_json)


def _sample_each(
    run: "Run", path: Path, num: int, site: str, label: list[str], seed: int | None, as_json: bool
) -> None:
    """Every class of a label site by the same draws."""
    from pyro_vae import plots

    fixed = cli_io.labels(run, label, 1, besides=site)
    x, mean, z = run.sample_each(site, num, fixed, seed)
    shown, names = min(num, 12), run.data.names.get(site, [str(c) for c in range(x.shape[1])])
    title = f"{cli_io.subject(run, label)}: E[x | z, {site}], the same draw of z in each row"
    if mean.dim() == 5:
        figure = plots.data_figure(mean[:shown].flatten(0, 1).cpu().numpy(), title, x.shape[1], column_labels=names)
    else:
        rows = mean[:shown].transpose(0, 1).flatten(0, 1).cpu().numpy()
        figure = plots.data_figure(rows, title, row_labels=names, names=run.columns)
    cli_io.save_picture(figure, path, {"x": x, "mean": mean, "z": z}, as_json)


def reconstruct(
    directory: Directory,
    num: Annotated[int, typer.Option("--num", "-n", min=1, max=100_000, help="How many data.")] = 12,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="The posterior predictive's mean and sd of every entry as well.")
    ] = False,
    input: Input = None,  # noqa: A002 - the option's name
    split: SplitName = "test",
    seed: Seed = None,
    out: Out = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Data above their reconstructions E[x | z], z from the guide: a PNG and the arrays as .npz."""
    import torch

    from pyro_vae import plots

    run, path = cli_io.load(directory), cli_io.target(out, directory / "reconstructions.png")
    batch, extra = cli_io.read(run, input, split)
    total, batch = batch.size, batch.map(lambda tensor: tensor[:num])
    draws = run.reconstruct(batch, 1, seed=seed)
    x, mean = cast(torch.Tensor, batch.x), draws.x_mean[0]
    shown = min(batch.size, 12)
    both = torch.cat([x[:shown], mean[:shown]]).cpu().numpy()
    title = f"{cli_io.subject(run)}: x and E[x | z], z from q(z | x)"
    figure = plots.data_figure(both, title, columns=shown, row_labels=("x", "E[x | z]"), names=run.columns)
    arrays = {"x": x, "mean": mean, **{name: z[0] for name, z in draws.z.items()}}
    if uncertainty:
        found = run.predictive(batch, seed=seed)
        arrays |= {f"predictive_{name}": part for name, part in found._asdict().items()}
        if x.dim() == 4:
            one, two, three, four = (part[:shown].cpu().numpy() for part in (x, *found))
            title = f"{cli_io.subject(run)}: the posterior predictive of each pixel"
            figure = plots.uncertainty_figure(one, two, three, four, title)
    cli_io.save_picture(figure, path, {k: v[:num] for k, v in extra.items()} | arrays, as_json)
    if total > batch.size and not (as_json or quiet):
        print(f"{batch.size} of {total} data; -n {total} takes all.")


def impute(
    directory: Directory,
    num: Annotated[int, typer.Option("--num", "-n", min=1, max=100_000, help="How many data.")] = 12,
    draws: Annotated[int, typer.Option("--draws", min=1, max=1000, help="Draws of each datum, S.")] = 3,
    samples: Annotated[int, typer.Option("--samples", "-k", min=1, max=10**6, help="Importance samples, K.")] = 200,
    input: Input = None,  # noqa: A002 - the option's name
    split: SplitName = "test",
    seed: Seed = None,
    out: Out = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fill in what is missing, or not shown: mean, sd and draws; a PNG and the arrays as .npz."""
    import torch

    from pyro_vae import plots

    run, path = cli_io.load(directory), cli_io.target(out, directory / "imputed.png")
    batch, extra = cli_io.read(run, input, split)
    batch = batch.map(lambda tensor: tensor[:num])
    found = run.impute(batch, draws, samples, seed)
    x, mask = cast(torch.Tensor, batch.x), cast(torch.Tensor, batch.mask)
    known = ~mask if run.experiment.data.shown is not None else mask
    shown = min(batch.size, 12)
    rows = {"known": torch.where(known, x, 0.5), "mean": found.mean, "sd": found.sd}
    rows |= {f"draw {i + 1}": draw for i, draw in enumerate(found.draws[:6])}
    title = f"{cli_io.subject(run)}: what is known, mean, sd and draws of the rest"
    picture = torch.cat([row[:shown] for row in rows.values()]).cpu().numpy()
    figure = plots.data_figure(picture, title, columns=shown, row_labels=tuple(rows), names=run.columns)
    arrays = {"x": x, "known": known, "mean": found.mean, "sd": found.sd, "draws": found.draws}
    arrays |= {"effective_sample_size": found.effective}
    cli_io.save_picture(figure, path, {k: v[:num] for k, v in extra.items()} | arrays, as_json)


def classify(
    directory: Directory,
    samples: Annotated[int, typer.Option("--samples", "-k", min=1, max=10**6, help="Importance samples, K.")] = 100,
    input: Input = None,  # noqa: A002 - the option's name
    split: SplitName = "test",
    out: Out = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Labels by Bayes' rule, p(y | x), and log p(x | y) of every class; accuracy where labels are known."""
    from pyro_vae import plots
    from pyro_vae.classification import accuracy
    from pyro_vae.progress import counter

    run, path = cli_io.load(directory), cli_io.target(out, directory / "labels.png")
    batch, extra = cli_io.read(run, input, split, need_labels=False)
    scores = run.classify(batch, samples, counter(batch.size, "classifying", quiet or as_json))
    arrays = {"log_likelihood": scores.log_likelihood, "standard_error": scores.standard_error}
    arrays |= {"probability": scores.probability, "share": scores.share, "log_prior": scores.log_prior}
    arrays |= {f"class_{site}": cells for site, cells in scores.cells.items()}
    found: dict[str, Any] = {}
    pairs: dict[str, tuple[Any, Any]] = {}
    for site in run.experiment.variant.labels:
        ways = {"p(y | x)": scores.marginal(site)} | ({"q(y | x)": scores.guide[site]} if site in scores.guide else {})
        arrays |= {f"probability_{site}": scores.marginal(site)}
        arrays |= {f"guide_{site}": scores.guide[site]} if site in scores.guide else {}
        known = extra.get(site)
        if known is not None and (known >= 0).any():
            found[site] = {way: accuracy(probability, known) for way, probability in ways.items()}
            pairs[site] = (known, scores.marginal(site).argmax(1).numpy())
    said = {"accuracy": found} if found else {}
    if pairs:
        figure = plots.confusion_figure(pairs, run.data.names)
        cli_io.save_picture(figure, path, extra | arrays, as_json, said)
    else:
        cli_io.save_arrays(path, extra | arrays, as_json, said=said)
    for site, ways in found.items() if not as_json else ():
        for way, (value, error) in ways.items():
            print(f"{site}: accuracy of {way} {100 * value:.2f} ± {100 * error:.2f} %")
