"""Write the generated tables of README.md: the parts from the code, the results from analysis/results/.

    python analysis/readme.py [--check]

With --check nothing is written, and the exit code is 1 if the page is out of date.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from pyro_vae.experiment import TABLES, named

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "analysis" / "results"


def parts() -> str:
    lines = ["| kind | word | what it is |", "|---|---|---|"]
    for noun, table in TABLES.items():
        for word, part in table.items():
            first = (part.__doc__ or "").strip().splitlines()[0].replace("|", "\\|")
            lines.append(f"| {noun} | `{word}` | {first} |")
    for name, text in named().items():
        lines.append(f"| named variant | `{name}` | {text.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def results() -> str:
    """What there is of SHOWN; that the GPU was not used is said too."""
    found = []
    for name, show in SHOWN.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            found.append(show(json.loads(path.read_text())))
        elif name == "gpu":
            found.append(NO_GPU)
    return "\n\n".join(found)


def figure(value: dict, digits: int = 2) -> str:
    return f"{value['value']:.{digits}f} ± {value['standard_error']:.{digits}f}"


def bounds(result: dict) -> str:
    s, times = result["settings"], result["seconds"]
    variant, training = result["experiment"]["variant"], result["experiment"]["training"]
    network = "-".join(map(str, [784, *variant["encoder"]["widths"], variant["latent"]["dim"]]))
    return "\n".join(
        [
            f"Is a reported log p(x) right? A VAE {network}, {training['epochs']} epochs of MNIST, {s['data']} test "
            f"images: annealed importance sampling ({s['temperatures']} temperatures, {s['chains']} chains, "
            f"{times['annealing']:.0f} s) does not look at the guide. On as many images from the model itself, it "
            "bounds log p(x) from both sides.",
            "",
            "| | nats per datum ± standard error over data |",
            "|---|---|",
            f"| ELBO | {figure(result['elbo'])} |",
            f"| IWAE, {s['samples']} samples | {figure(result[f'iwae_{s["samples"]}'])} |",
            f"| annealing | {figure(result['annealed'])} |",
            f"| annealing less IWAE, paired | {figure(result['annealed_minus_iwae'])} |",
            f"| images from the model: upper less lower side, paired | {figure(result['simulated_gap'])} |",
            "",
            source(result),
        ]
    )


def posteriors(result: dict) -> str:
    s = result["settings"]
    columns = {"seconds": ".1f", "min_bulk_ess": ".0f", "ess_per_second": ".0f", "rhat_max": ".3f"}
    rows = [
        f"| {name} | {' | '.join(format(side[key], how) for key, how in columns.items())} |"
        for name, side in result["sides"].items()
    ]
    return "\n".join(
        [
            f"Draws of the true posterior p(z | x) of {s['observations']} digits, {s['chains']} chains each: batched "
            "HMC against Pyro's NUTS, preparation and warm-up included; medians over "
            f"{s['rounds']} interleaved rounds. Means differ by at most {result['bias_over_sd_largest']:.3f} posterior "
            f"sd, the ratio of sds is {result['sd_ratio_mean']:.3f} on average.",
            "",
            "| | seconds | least bulk ESS | ESS per second | largest R-hat |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"Ratio of ESS per second: {result['ratio']:.1f}. {source(result)}",
        ]
    )


def evaluation(result: dict) -> str:
    s, found, moved, memory = (result[key] for key in ("settings", "likelihood", "transitions", "memory"))
    sides = {"log p(x) of an image": found, "a transition, annealing": moved["annealing"], "HMC": moved["HMC"]}
    rows = [
        f"| {what}: {name} | {row['median']:.3g} ({row['least']:.3g} to {row['largest']:.3g}) | {row['ratio']:.2f} |"
        for what, side in sides.items()
        for name, row in side["rows"].items()
    ]
    vamp = memory["vamp, guide=flow"]
    return "\n".join(
        [
            f"Evaluation of a VAE {result['network']} on MNIST, K = {s['samples']:,}, after a compilation of "
            f"{found['first_call_seconds']['pyro_vae']:.0f} s; sides interleaved, medians (and range) of {s['rounds']} "
            f"rounds of {s['data']} images. Annealing and HMC: {s['chains']} chains for each of {s['chain_data']} "
            f"images, {s['steps']} leapfrog steps, per chain and image. Peak memory of a process that only evaluates: "
            f"{memory['run']['peak_mb']:.0f} MB; with `prior=vamp guide=flow` on digits, {s['vamp_samples']} samples, "
            f"{vamp['peak_mb']:.0f} MB and {vamp['ms_per_datum']:.0f} ms per datum.",
            "",
            "| what | ms | / ours |",
            "|---|---|---|",
            *rows,
            "",
            source(result),
        ]
    )


def variants(result: dict) -> str:
    s = result["setting"]
    lines = [
        f"Variants of one network, 784-200-200-50, after {s['epochs']} epochs of MNIST ({s['short']} for `iwae-50` and "
        f"`elbo-short`), at most {max(result['seconds'].values()):.0f} s of training each; {s['test']:,} test images, "
        f"{s['samples']} importance samples; nats per datum where not said otherwise. Differences are paired, their "
        "± the larger of the standard errors over images and over seeds.",
        "",
        "| what | this | against | difference | seeds |",
        "|---|---|---|---|---|",
    ]
    for row in result["comparisons"]:
        sides = [f"`{name}` {side['value']:.2f} ± {side['standard_error']:.2f}" for name, side in row["sides"].items()]
        d, what = row["difference"], row["what"].replace("|", "\\|")
        lines.append(
            f"| {what} | {' | '.join(sides)} | {d['value']:+.2f} ± {d['standard_error']:.2f} | {row['seeds']} |"
        )
    lines += [
        "",
        "`elbo` is the plain VAE; `m2` has 10 latent dimensions beside the label instead of 50; `hvae-warmup` has the "
        "warm-up that `ladder` has too. Units by variance: "
        "Var_x(E_q[z]) > 0.01 (Burda et al., 2016); by KL: a mean KL above 0.01 nats (Soenderby et al., 2016), which "
        "alone tells for a layer whose prior moves.",
    ]
    return "\n".join([*lines, "", source(result)])


NO_GPU = "The tests that need a GPU have not been run yet (`python analysis/benchmarks/gpu_check.py` runs them)."


def gpu(result: dict) -> str:
    return f"On a GPU: {result['pytest']}; commit {result['commit']}. {source(result)}"


def source(result: dict) -> str:
    versions = result["versions"]
    peers = "".join(f", {name} {versions[name]}" for name in ("numpyro", "jax", "pythae") if name in versions)
    return (
        f"`{result['command']}`, {result['date']}, {result['machine']}, Python {versions['python']}, "
        f"torch {versions['torch']}, pyro-ppl {versions['pyro-ppl']}{peers}."
    )


def convolutional(result: dict) -> str:
    found = result["criterion"]
    return "\n".join(
        [
            "`conv-2d`, the convolutional model with two latent dimensions that courses train on MNIST. Criterion:",
            f"mean cross-entropy per pixel + 10^-3 x mean KL per latent dimension on {found['num_data']:,} images; a "
            "teaching deck gives 0.1858 after 50 epochs.",
            "",
            "| | |",
            "|---|---|",
            f"| criterion after {result['epochs']} epochs | {found['value']:.4f} ± {found['standard_error']:.4f} |",
            f"| cross-entropy per pixel | {found['cross_entropy_per_pixel']:.4f} |",
            f"| KL per latent dimension | {found['kl_per_dimension']:.2f} nats |",
            "",
            source(result),
        ]
    )


def convolutional_speed(result: dict) -> str:
    names = {"Keras 3": f"Keras {result['keras']['keras']}, {result['keras']['backend']}"}
    rows = []
    for name, seconds in result["seconds_per_epoch"].items():
        low, high = result["range"][name]
        epoch = f"{seconds:.1f} ({low:.1f} to {high:.1f})"
        rows.append(f"| {names.get(name, name)} | {epoch} | {60_000 / seconds:,.0f} |")
    return "\n".join(
        [
            f"Epochs of `conv-2d` on 60,000 images: medians (and range) of {result['rounds']} of each side, in turn; "
            f"theirs / ours: {result['ratio']:.2f}.",
            "",
            "| side | seconds per epoch | images a second |",
            "|---|---|---|",
            *rows,
            "",
            source(result),
        ]
    )


def likelihood(result: dict) -> str:
    card = result["card"]

    samples, khat = card["num_importance_samples"], card["khat"]
    active = f"{card['active_units']} ± {card['active_units_standard_error']:.1f} of {card['latent_dim']}"
    return "\n".join(
        [
            "The one-layer model of Burda et al. (2016), 784-200-200-50, on dynamically binarised MNIST; their fully "
            "trained figure (3280 epochs, 5000 samples) is -86.76.",
            "",
            "| | nats per datum ± standard error over data |",
            "|---|---|",
            f"| log p(x), {card['num_data']:,} test images, {samples} samples | {figure(card['log_likelihood'])} |",
            f"| ELBO | {figure(card['elbo'])} |",
            f"| KL(q(z \\| x) \\|\\| p(z)) | {figure(card['kl'])} |",
            f"| active units | {active} |",
            f"| data with k-hat below {khat['threshold']:.2f} | {100 * khat['good_fraction']:.1f} "
            f"± {100 * khat['standard_error']:.1f} % |",
            f"| training | {card['epochs']} epochs, {card['seconds']['train'] / 60:.1f} minutes |",
            "",
            source(result),
        ]
    )


SPEEDS = {
    "pyro_vae, bf16": "bfloat16",
    "Pyro SVI": "Pyro SVI",
    "by hand": "by hand",
    "by hand, compiled": "by hand, compiled",
    "NumPyro": "NumPyro, epoch",
    "pythae": "pythae",
}
"""Columns of the table of training steps, and the groups of sides whose fastest one stands there."""


def speed(result: dict) -> str:
    columns = {
        title: group
        for title, group in SPEEDS.items()
        if any(group in found["ratios"] for found in result["settings"].values())
    }
    rows = []
    for name, found in result["settings"].items():
        ours = next(row for row in found["rows"] if row["group"] == "pyro_vae")
        times = f"{ours['median_ms']:.2f} ({ours['fastest_ms']:.2f} to {ours['slowest_ms']:.2f})"
        ratios = [f"{found['ratios'][group]:.2f}" if group in found["ratios"] else "" for group in columns.values()]
        floor = f"{found['ours_to_floor']:.2f}" if "ours_to_floor" in found else ""
        rows.append(f"| {name} | {times} | {' | '.join(ratios)} | {floor} |")
    where = "" if result["device"] == "cpu" else " on a GPU"
    return "\n".join(
        [
            f"One training step{where}, with fetch, binarisation and Adam: milliseconds of `pyro_vae`, compiled "
            "(range), and how many times as long others take, the fastest form of each; medians over "
            f"{result['rounds']} interleaved rounds of {result['seconds_per_round']:g} s, {result['threads']} threads. "
            "784-400-20/128 has one hidden layer of 400 each way, 20 latent dimensions, batches of 128; `iwae-50` is "
            "the bound of 50 particles. NumPyro runs an epoch as one `fori_loop`. The floor is the matrix products of "
            "the step alone.",
            "",
            f"| network / batch | ms a step | {' | '.join(columns)} | ours / floor |",
            "|---" * (len(columns) + 3) + "|",
            *rows,
            "",
            *details(result),
            source(result),
        ]
    )


def details(result: dict) -> list[str]:
    """Every side of the setting that all take part in."""
    name = "784-400-20/128"
    if name not in result["settings"]:
        return []
    found = result["settings"][name]
    sides = [f"{row['side']} {row['median_ms']:.2f}" for row in found["rows"]]
    left_out = [f"{side} ({why})" for side, why in found["missing"].items()]
    lines = [f"{name} in detail, ms a step: {'; '.join(sides)}.", ""]
    return lines + ([f"Left out: {'; '.join(left_out)}.", ""] if left_out else [])


def start_up(result: dict) -> str:
    times = {name: f"{row['median']:.2f} s" for name, row in result["seconds"].items()}
    return (
        f"Start of a process: `pyro-vae --help` {times['--help']}, `pyro-vae list` {times['list']}; `pyro-vae train` "
        f"to the end of its first step {times['train, not compiled']}, compiled {times['train, compiled, warm']}, with "
        f"an empty cache of compiled steps {times['train, compiled, cold']}; medians of {result['starts']}. "
        f"{source(result)}"
    )


def streaming(result: dict) -> str:
    s, whole, ms = result["setting"], result["pass"], result["ms_per_step"]
    anonymous, files = (whole["memory_mb"][kind] for kind in ("anonymous", "files"))
    cold = ", thrown out of the system's cache all the time" if s["cold"] else ""
    return "\n".join(
        [
            f"Data larger than memory: one pass over {s['rows']:,} rows of 784 bytes in a file of "
            f"{s['file_mb']:,.0f} MB{cold}, 784-400-20, batch {s['batch']}, while an array of data may take "
            f"{s['limit_mb']:.0f} MB of memory.",
            "",
            "| | |",
            "|---|---|",
            f"| anonymous memory: at the start, most, at the end | {memory_row(anonymous)} |",
            f"| pages of files: at the start, most, at the end | {memory_row(files)} |",
            f"| waited for data | {100 * whole['share_waited']:.2f} % of {whole['seconds']:.0f} s |",
            f"| a step on data that are fed, and held in memory | {ms['fed']:.2f} and {ms['held']:.2f} ms, "
            f"medians of {s['rounds']} rounds of {s['steps']} steps in turn |",
            "",
            source(result),
        ]
    )


def memory_row(mb: dict) -> str:
    return ", ".join(f"{mb[key]:.0f}" for key in ("start", "peak", "end")) + " MB"


SHOWN = {
    "mnist_mlp": likelihood,
    "likelihood_bounds": bounds,
    "posterior_speed": posteriors,
    "variants": variants,
    "training_speed_cpu": speed,
    "training_speed_cuda": speed,
    "conv_2d": convolutional,
    "conv_2d_speed": convolutional_speed,
    "evaluation_speed": evaluation,
    "data_streaming": streaming,
    "start_up": start_up,
    "gpu": gpu,
}
"""Files of analysis/results/, in the order of the page, and what shows each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    page = ROOT / "README.md"
    text = before = page.read_text()
    for name, content in (("parts", parts()), ("results", results())):
        pattern = rf"(<!-- {name}: .*? -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda m, c=content: f"{m[1]}\n{c}\n\n{m[2]}", text, count=1, flags=re.DOTALL)
    if check and text != before:
        sys.exit("README.md is out of date: run python analysis/readme.py")
    page.write_text(text)


if __name__ == "__main__":
    main()
