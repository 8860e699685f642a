"""What a user can get wrong in a declaration and with a run; their data are in test_malformed_data.py.

Every row is a command, with files of its own; it must exit 2 with one clear line per mistake and write nothing.
"""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

import pyro_vae as pv
from pyro_vae import cli

LONGEST = 400
"""Most characters of a line; a path to the test's own folder counts as one."""
NOT_OURS = re.compile(
    r"Traceback|pydantic|ruamel|torch\.|pandas\.|numpy\.(?!save|isfinite|unique)\w|allow_pickle|site-packages| at 0x"
    r"|sys\.|Errno|codec|invalid literal|could not convert|<class|Encountered"
)
"""Words of libraries, and of Python."""

X = np.random.default_rng(0).normal(size=(100, 4))


class Row(NamedTuple):
    """Files to write, the command, and what each line of its answer must say; ` ... ` stands for anything."""

    files: dict[str, Any]
    command: str | list[str]
    lines: tuple[str, ...]


def row(files: dict[str, Any], command: str | list[str], *lines: str) -> Row:
    return Row(files, command, lines)


def write(folder: Path, files: dict[str, Any]) -> None:
    """Text, bytes, arrays, images, folders (None) and further files within a folder (a dict)."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        elif isinstance(content, str | bytes):
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        elif isinstance(content, dict):
            np.savez(path, **content)
        elif path.suffix == ".npy":
            np.save(path, content, allow_pickle=True)
        else:
            Image.fromarray(content).save(path)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def check_refusal(folder: Path, capsys: Any, case: Row, usage: bool = False) -> None:
    """Run the command: nothing is written, and the answer is as it must be."""
    words = shlex.split(case.command) if isinstance(case.command, str) else case.command
    before = tree(folder)
    code = cli._guarded(words)
    out, err = capsys.readouterr()
    answer = err.replace(f"{folder}/", "").rstrip("\n").split("\n")
    assert code == 2, err
    assert out == ""
    assert tree(folder) == before
    assert not NOT_OURS.search(err), err
    if usage:
        assert case.lines[0] in answer[-1]
        return
    assert all(line.startswith("pyro-vae: ") and len(line) <= LONGEST for line in answer), err
    assert len(answer) == len(case.lines), err
    for line, expected in zip(answer, case.lines, strict=True):
        assert re.search(".*".join(map(re.escape, expected.split(" ... "))), line), f"{expected!r} is not in {line!r}"


# -------------------------------------------------------------------------------------------------- declarations


def yaml(text: str | bytes, *lines: str) -> Row:
    return row({"mine.yaml": text}, "validate mine.yaml", *lines)


DECLARATIONS = {
    "syntax": yaml("variant: [1", "mine.yaml: line 1 ... no valid YAML"),
    "tab": yaml("variant:\n\tlatent: {dim: 2}", "mine.yaml: line 2 ... no valid YAML ... '\\t'"),
    "key twice": yaml("seed: 1\nseed: 2", 'mine.yaml: line 2 ... duplicate key "seed"'),
    "two documents": yaml("seed: 1\n---\nseed: 2", "mine.yaml: line 2 ... another document"),
    "anchor": yaml("variant: &a {}", "mine.yaml: anchors and aliases ... write it out"),
    "directive": yaml("%YAML 1.1\n---\nseed: 1", "mine.yaml: %YAML ... remove the line"),
    "date": yaml("seed: 2024-01-01", "mine.yaml: seed: a date ... quote it"),
    "not a number": yaml("objective: {beta: .nan}", "mine.yaml: objective.beta=nan: must be a finite number"),
    "infinite": yaml("objective: {beta: 1e999}", "mine.yaml: objective.beta=inf: must be a finite number"),
    "key is a number": yaml("1: 2", "mine.yaml: 1: keys are strings; quote it"),
    "list at the top": yaml("- seed", "mine.yaml: must be a mapping like ... not list"),
    "no UTF-8": yaml(b"\xff\xfe\x00", "mine.yaml: cannot be read: it is not UTF-8"),
    "binary": yaml(b"\x00\x01", "mine.yaml: no valid YAML"),
    "two megabytes": yaml("# " + "x" * 2_000_000, "mine.yaml: is over 1000000 bytes"),
    "too deep": yaml("seed: " + "[" * 5000, "mine.yaml: is nested deeper than 50 levels"),
    "tag of Python": yaml("seed: !!python/object/apply:os.system [touch hacked]", "mine.yaml: line 1 ... tag"),
    "tag that fails": yaml("seed: !!bool maybe", "mine.yaml ... !!bool"),
    "tag of nothing": yaml("seed: !!int ''", "mine.yaml ... !!int"),
    "key is a list": yaml("? [a, [b]]\n: 1", "mine.yaml ... key"),
    "many digits": yaml("seed: " + "9" * 5000, "mine.yaml ... digits"),
    "underscores": yaml("seed: +_", "mine.yaml: no valid YAML"),
    "unknown section": yaml("trainning: {}", "trainning: unknown key. Did you mean 'training'? ... has: variant"),
    "unknown key": yaml("training: {epoch: 5}", "training.epoch: unknown key. Did you mean 'epochs'?"),
    "line break in a key": yaml('"a\\nb": 3', "a\\nb: unknown key"),
    "line break in a path": yaml('data: {name: arrays, path: "a\\nb.npy"}', 'data.path="a\\nb.npy": there'),
    "NUL in a path": yaml('data: {name: folder, path: "a\\0b"}', 'data.path="a\\u0000b": there is no such folder'),
    "long key": yaml("x" * 1000 + ": 3", "xxx ... unknown key"),
    "long value": yaml("seed: " + "x" * 1000, 'seed="xxx ... must be an integer'),
    "long path": yaml(f"data: {{name: arrays, path: {'x' * 300}.npy}}", "data.path= ... there is no such file. Name"),
    "text for a number": yaml("seed: many", 'seed="many": must be an integer'),
    "true for a number": yaml("seed: true", "seed=true: must be an integer"),
    "negative": yaml("seed: -1", "seed=-1: must be greater than or equal to 0"),
    "huge": yaml("variant: {latent: {dim: 99999999999}}", "variant.latent.dim=99999999999: must be less than"),
    "null section": yaml("training: null", "training=null: must be a mapping of: epochs"),
    "unknown part": yaml("variant: {likelihood: bernouli}", "variant.likelihood ... Did you mean 'bernoulli'? Known:"),
    "part is a list": yaml("variant: {encoder: [mlp]}", "variant.encoder: must be a network: one of mlp, conv"),
    "field of another part": yaml(
        "variant: {likelihood: {kind: bernoulli, scale: 0.1}}", "variant.likelihood.scale: unknown key. ... has: kind"
    ),
    "two priors too few": yaml("variant: {latent: [{dim: 2}, {dim: 3}]}", "variant.prior: 1 for 2 layers ... give a"),
    "label called x": yaml("variant: {labels: {x: {classes: 3}}}", "variant.labels.x: ... rename the attribute"),
    "label called training": row(
        {"d.npz": {"x": X, "training": np.arange(100) % 3}},
        "train vae-gaussian data=arrays data.path=d.npz labels.training.classes=3 training.epochs=1 -k 2 --out out",
        "variant.labels.training: ... rename the attribute",
    ),
    "grey pixels": yaml(
        "variant: {likelihood: bernoulli}\ndata: {name: digits}",
        "variant.likelihood: 'bernoulli' needs ... set data.binarize=dynamic",
    ),
    "three sections": yaml(
        "variant: {latent: {dmi: 3}, likelihood: bernouli}\nseed: -1\ntraining: {epochs: 0}",
        "variant.latent.dmi: unknown key. Did you mean 'dim'?",
        "variant.likelihood: no likelihood",
        "training.epochs=0: must be",
        "seed=-1: must be",
    ),
    "no such file": row({}, "validate none.yaml", "none.yaml: there is no such file; ... list"),
    "no such variant": row({}, "train digts", "'digts': no variant of that name and no file. Did you mean 'digits'?"),
    "a folder for a file": row({"a.yaml": None}, "validate a.yaml", "a.yaml: cannot be read: Is a directory"),
}

# ----------------------------------------------------------------------------------------------------- overrides


def say(*words: str, lines: tuple[str, ...]) -> Row:
    return row({}, ["train", "digits", *words, "--out", "out"], *lines)


OVERRIDES = {
    "no =": say("foo", lines=("'foo': must be key=value, like training.epochs=20",)),
    "no key": say("=3", lines=("'=3': must be key=value",)),
    "unknown path": say("latnet.dim=3", lines=("latnet.dim: unknown key. Did you mean 'latent'? Known:",)),
    "into a number": say("training.epochs.x=3", lines=("training.epochs.x: training.epochs is 200",)),
    "bad value": say("latent.dim=two", lines=('variant.latent.dim="two": must be an integer',)),
    "open list": say("encoder.widths=[1,2", lines=("encoder.widths: ... no valid YAML: expected ',' or ']'",)),
    "list without brackets": say("encoder.widths=1,2", lines=('variant.encoder.widths="1,2": must be a list',)),
    "number for a section": say("training=5", lines=("training=5: must be a mapping of: epochs",)),
    "tag": say("seed=!!bool x", lines=("seed ... must be an integer",)),
    "many digits": say("seed=" + "9" * 5000, lines=("seed= ... must be an integer",)),
    "long key": say("x" * 1000 + "=3", lines=("xxx ... unknown key",)),
    "line break": say("a\nb=3", lines=("a\\nb: unknown key",)),
    "two mistakes": say("foo", "=3", lines=("'foo': must be", "'=3': must be")),
    "mistakes of both kinds": say("foo", "seed=x", lines=("'foo': must be", "seed=")),
    "too large a batch": say("training.batch_size=5000", lines=("training.batch_size=5000: ... take at most that",)),
    "nothing to train on": say(
        "data.validation=1437", lines=("data.validation=1437: ... none to train on. Give more",)
    ),
    "stop without validation": say(
        "training.early_stopping={}", "data.validation=0", lines=("training.early_stopping: ... set data.validation",)
    ),
    "warm-up too long": say(
        "objective.warmup_epochs=500", lines=("objective.warmup_epochs=500: ... shorten it or train longer",)
    ),
    "no labels to keep": say("data.labels_kept=9", lines=("data.labels_kept=9: ... remove it, or",)),
    "no such GPU": say("training.device=cuda:99", lines=("training.device='cuda:99': ... use auto or cpu",)),
    "no such GPU at all": say("training.device=cuda:" + "9" * 11, lines=("training.device= ... auto",)),
    "no such device": say("training.device=gpu", lines=('training.device="gpu": must be auto, cpu, cuda',)),
    "terabytes of weights": say("encoder.widths=[100000,1000000000]", lines=("memory ... encoder.widths",)),
    "terabytes of data": say(
        "data={name: linear_gaussian, binarize: none, dim: 1000000000, latent_dim: 1000000000}",
        "likelihood=normal",
        lines=("data ... memory",),
    ),
    "path of another set": say("data.path=my.npy", lines=("data.path: unknown key ... data=arrays",)),
    "arrays without a path": say("data=arrays", lines=("data.path=null: must be a .npy, .npz, .csv or .tsv file",)),
    "folder without a path": say("data=folder", lines=("data.path=null: must be a folder of images",)),
    "validated without a path": row(
        {}, "validate vae-gaussian data=arrays", "data.path=null: must be a .npy, .npz, .csv or .tsv file"
    ),
}


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, so that names are short, and whatever is written is found."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", DECLARATIONS)
def test_malformed_declarations(inside: Path, capsys: Any, case: str) -> None:
    write(inside, DECLARATIONS[case].files)
    check_refusal(inside, capsys, DECLARATIONS[case])


@pytest.mark.parametrize("case", OVERRIDES)
def test_malformed_overrides(inside: Path, capsys: Any, case: str) -> None:
    check_refusal(inside, capsys, OVERRIDES[case])


# ----------------------------------------------------------------------------------------------- commands on runs

TINY = ["latent.dim=2", "encoder.widths=[8]", "decoder.widths=[8]", "training.epochs=1", "data.validation=0"]
TABLE = "a,b,g,kind\n" + "".join(f"{i / 50},{i % 7},{i % 3},{'xyz'[i % 3]}\n" for i in range(100))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run` on the digits, `own` on a table with a covariate and a label that is always given, `points` without q."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "t.csv").write_text(TABLE)
    table = ["data=arrays", f"data.path={folder / 't.csv'}", "data.labels=[kind]", "data.given=[g]"]
    table += ["labels={kind: {classes: 3}}", "training.batch_size=16"]
    for name, variant, words in (
        ("run", "digits", ["training.batch_size=256"]),
        ("own", "vae-sigma", table),
        ("points", "autoencoder", ["training.batch_size=256"]),
    ):
        pv.train(pv.load_experiment(variant, [*TINY, *words]), out=folder / name, name=name, quiet=True, num_samples=2)
    return folder


def edited(path: str, *pairs: str) -> Any:
    """Replace text in a file; pairs of old and new."""

    def edit(folder: Path) -> None:
        text = (folder / path).read_text()
        for old, new in zip(pairs[::2], pairs[1::2], strict=True):
            assert old in text
            text = text.replace(old, new)
        (folder / path).write_text(text)

    return edit


def environment(**changes: Any) -> Any:
    def edit(folder: Path) -> None:
        path = folder / "run/environment.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def without(path: str) -> Any:
    return lambda folder: shutil.rmtree(folder / path) if (folder / path).is_dir() else (folder / path).unlink()


def flipped(name: str) -> Any:
    """A flipped bit in that file of every checkpoint."""

    def flip(folder: Path) -> None:
        for path in folder.glob(f"run/checkpoints/*/{name}"):
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(bytes(content))

    return flip


def on(damage: Any, command: str, *lines: str) -> tuple[Any, Row]:
    """A command on copies of the runs to which something was done: files written, or a function of the folder."""
    files = damage if isinstance(damage, dict) else {}
    return (None if damage is files else damage), Row(files, command, lines)


def given(name: str, content: Any, *lines: str, run: str = "run", command: str = "encode") -> tuple[Any, Row]:
    """A file given to a run."""
    lines = tuple(line.replace("@", f"--input {name}: ") for line in lines)
    return on({name: content}, f"{command} {run} --input {name}", *lines)


IMAGES = np.zeros((5, 8, 8), np.uint8)
DAMAGED = ("Passed over a damaged checkpoint ... an older checkpoint",) * 2
NO_RUN = "is no run directory (it has no experiment.yaml); `pyro-vae train` makes one"
COLUMNS = TABLE.replace("a,b,g", "a,c,g")
WIDER = "".join(f"{i},{line}\n" for i, line in enumerate(TABLE.splitlines()))
RUNS = {
    "a folder that is none": on({"my": None}, "evaluate my", f"my: {NO_RUN}"),
    "a missing run": on({}, "sample none", f"none: {NO_RUN}"),
    "a file": on({"f": "x"}, "encode f", f"f: {NO_RUN}"),
    "resume what is none": on({}, "train --resume none", f"none: {NO_RUN}"),
    "start from what is none": on({}, "train --from none", f"none: {NO_RUN}"),
    "a long name": on({}, "evaluate " + "x" * 300, f"xxx ... {NO_RUN}"),
    "a line break": on({}, "evaluate 'a\nb'", f"a\\nb: {NO_RUN}"),
    "resume with other words": on({}, "train --resume run seed=3", "--resume run: continues as declared; drop"),
    "start from another variant": on(
        {}, "train --from run latent.dim=3 --out new", "run: its parameters do not fit ... keep latent"
    ),
    "no checkpoints": on(without("run/checkpoints"), "score run", "run: holds no checkpoint yet; train it anew"),
    "resume without checkpoints": on(
        without("run/checkpoints"), "train --resume run", "run: was stopped before its first checkpoint; train it anew"
    ),
    "parameters of a flipped bit": on(
        flipped("model.safetensors"), "evaluate run", *DAMAGED, "run: holds no whole checkpoint; train it anew"
    ),
    "state of a flipped bit": on(flipped("state.json"), "encode run", *DAMAGED, "run: holds no whole checkpoint"),
    "manifest of a flipped bit": on(flipped("MANIFEST.json"), "sample run", *DAMAGED, "run: holds no whole"),
    "start from a flipped bit": on(
        flipped("model.safetensors"), "train --from run --out new", *DAMAGED, "run: holds no whole checkpoint"
    ),
    "resume from a flipped bit": on(
        flipped("model.safetensors"), "train --resume run", *DAMAGED, "run: holds no whole checkpoint"
    ),
    "declaration that is no YAML": on({"run/experiment.yaml": "seed: ["}, "score run", "run/experiment.yaml: line 1"),
    "declaration of nothing": on({"run/experiment.yaml": ""}, "sample run", "run: ... run/experiment.yaml"),
    "declaration of another model": on(
        edited("run/experiment.yaml", "dim: 2", "dim: 3"), "sample run", "run: ... experiment.yaml"
    ),
    "resume another model": on(
        edited("run/experiment.yaml", "dim: 2", "dim: 3"), "train --resume run", "run: ... experiment.yaml"
    ),
    "declaration of no digits": on(
        edited("run/experiment.yaml", "dim: 2", "dim: two"), "evaluate run", 'variant.latent.dim="two": must be'
    ),
    "no environment": on(
        without("run/environment.json"), "evaluate run", "run/environment.json: cannot be read ... restore it, or"
    ),
    "environment that is no JSON": on(
        {"run/environment.json": b"\xff"}, "sample run", "run/environment.json: ... it is no JSON; restore it, or"
    ),
    "environment of nothing": on({"run/environment.json": "{}"}, "sample run", "run/environment.json"),
    "start from an environment of nothing": on(
        {"run/environment.json": "{}"}, "train --from run --out new", "run/environment.json"
    ),
    "environment of another shape": on(
        environment(shape={"x": [1, 9, 9], "given": 0, "masked": False}), "sample run", "run/environment.json"
    ),
    "environment without end": on(
        {"run/environment.json": "[" * 100_000}, "sample run", "run/environment.json: cannot be read"
    ),
    "metrics that are no text": on({"run/metrics.jsonl": b"\xff\n"}, "train --resume run", "run/metrics.jsonl"),
    "metrics of another kind": on({"run/metrics.jsonl": "5\n"}, "train --resume run", "run/metrics.jsonl"),
    "metrics damaged before the end": on(
        lambda folder: (folder / "run/metrics.jsonl").write_text("x" + (folder / "run/metrics.jsonl").read_text()),
        "train --resume run -k 2",
        "run/metrics.jsonl: line 1",
    ),
    "metrics are a folder": on(
        lambda folder: [without("run/metrics.jsonl")(folder), (folder / "run/metrics.jsonl").mkdir()],
        "train --resume run",
        "run/metrics.jsonl: ... restore it",
    ),
    "data that are gone": on(without("t.csv"), "sample own", 'data.path="t.csv": there is no such file'),
    "data that became wider": on({"t.csv": WIDER}, "evaluate own -k 2", "data.path= ... trained on"),
    "data of other columns": on({"t.csv": COLUMNS}, "evaluate own -k 2", "data.path= ... trained on"),
    "data of other classes": on({"t.csv": TABLE.replace("z", "q")}, "evaluate own -k 2", "data.path= ... trained on"),
    "data of more rows": on({"t.csv": TABLE + "1,2,0,x\n"}, "evaluate own -k 2", "data.path= ... trained on"),
    "data of fewer": on({"t.csv": TABLE[:20]}, "encode own", "data.validation=0: ... none to train on. Give more"),
    "no such split": on({}, "evaluate run --split tset", "split='tset': must be one of train, validation, test"),
    "split without data": on({}, "encode run --split validation", "split='validation': holds no data; set data."),
    "no density": on({}, "score points", "points: its guide is a point, not a density; there is no log p(x)"),
    "no such label": on({}, "sample own --label kindd=x", "--label kindd=x: the label sites are: kind"),
    "no such class": on({}, "sample own --label kind=q", "--label kind=q: must be a class from 0 to 2, or one of x"),
    "label twice": on({}, "sample own --label kind=x --label kind=y", "--label kind=y: kind is given twice"),
    "label of nothing": on(
        {}, "sample run --label digit=3", "--label digit=3: the run was trained without labels; ... out"
    ),
    "label over two lines": on({}, "sample own --label 'a\nb=3'", "--label a\\nb=3: the label"),
    "out into no folder": on({}, "encode run --out none/x.npz", "--out none/x.npz: none is no ... choose another"),
    "out below a file": on({}, "sample run --out t.csv/x", "--out t.csv/x: t.csv is no directory ... choose another"),
    "out is a folder": on({}, "reconstruct run --out own", "--out own: is a directory; name a file, like own/"),
    "out of a long name": on({}, "sample run --out " + "x" * 300, "--out xxx ... choose another"),
    "train into a file": on({}, "train digits --out t.csv", "t.csv: cannot be made (Not a directory); choose another"),
    "train below a file": on({}, "train digits --out t.csv/x", "t.csv/x: cannot be made ... choose another --out"),
    "train into a run": on({}, "train digits --out run", "run: is there already ... choose another --out, or --resume"),
    "train into a long name": on({}, "train digits --out " + "x" * 300, "xxx ... cannot be made ... choose another"),
    "input that is missing": on({}, "encode run --input none.npy", "--input none.npy: there is no such file. Name"),
    "input of another suffix": given("d.txt", "1", "@must end in .npy or .npz, or .csv or .tsv"),
    "input of another shape": given("d.npy", IMAGES[:, :5], "@x: a datum has shape (1, 5, 8); must be (1, 8, 8)"),
    "input of one image": given("d.npy", IMAGES[0], "@x: a datum has shape (8,); ... give x the shape (N, ...)"),
    "input of other levels": given("d.npy", IMAGES + 99, "@x: holds uint8 values from 99 ... integers from 0 to 16"),
    "input beyond white": given("d.npy", IMAGES - 0.5, "@x: holds float64 values from -0.5 ... Rescale it"),
    "input of zeros and ones": given("d.npy", np.eye(8, dtype=int)[None], "@x: ... Save it as bool if 1 is white"),
    "input of NaN": given("d.npy", IMAGES + np.nan, "@x: NaN or infinite in 320 of 320 entries ... give a mask"),
    "input of nothing": given("d.npy", IMAGES[:0], "@x: shape (0, 8, 8); must be"),
    "input of objects": given("d.npy", np.full((5, 8, 8), None), "@ ... Python objects are not read"),
    "input of an eleventh class": given("d.npz", {"x": IMAGES, "digit": np.full(5, 10)}, "@y.digit: holds 10; must be"),
    "input with covariates": given("d.npz", {"x": IMAGES, "given": X[:5]}, "@given: 4 covariates ... Leave it out"),
    "input without a column": given(
        "i.csv", "a,g,kind\n1,2,x\n", "@x: lacks 1 of the 2 columns ... b. It has: a", run="own"
    ),
    "input without two columns": given(
        "i.csv", "a,kind\n1,x\n", "@x: lacks ... b. It has", "@given: lacks ... g. It has", run="own"
    ),
    "input of text": given("i.csv", "a,b,g,kind\n1,two,0,x\n", "@column 'b' holds text ... Give numbers", run="own"),
    "input of a new class": given("i.csv", "a,b,g,kind\n1,2,0,q\n", "@y.kind: holds q ... Must be: x, y", run="own"),
    "input without its label": given("i.csv", "a,b,g\n1,2,0\n", "@labels.kind is observed always ... add", run="own"),
    "input without data": given("i.csv", "a,b,g,kind\n", "@holds a line of names and no data. Give", run="own"),
    "input beyond float32": given("i.csv", "a,b,g,kind\n1,1e300,0,x\n", "@ ... 1e+300", run="own"),
    "input of an image for a table": given(
        "d.npz", {"x": IMAGES}, "@x: a datum has shape (1, 8, 8); must be (2,)", "@given: is missing", run="own"
    ),
    **{
        f"input to {command}": given(
            "i.csv", "a,b,g,kind\n1,1e6,0,x\n", "observation 0: ... look at them", run="own", command=command
        )
        for command in ("score", "encode", "reconstruct")
    },
}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("case", RUNS)
def test_malformed_commands_on_runs(inside: Path, trained: Path, capsys: Any, case: str) -> None:
    damage, asked = RUNS[case]
    shutil.copytree(trained, inside, dirs_exist_ok=True)
    edited("own/experiment.yaml", str(trained), str(inside))(inside)
    write(inside, asked.files)
    if damage is not None:
        damage(inside)
    check_refusal(inside, capsys, asked)


USAGE = {
    "nope": "No such command 'nope'",
    "evaluate": "Missing argument 'DIR'",
    "train --nope": "No such option: --nope",
    "sample x -n 0": "Invalid value for '--num' / '-n'",
    "sample x --seed x": "Invalid value for '--seed'",
    "evaluate x --samples 0": "Invalid value for '--samples'",
    "evaluate x --samples 1000000000000": "Invalid value for '--samples'",
}


@pytest.mark.parametrize("command", USAGE)
def test_malformed_usage(inside: Path, capsys: Any, command: str) -> None:
    check_refusal(inside, capsys, row({}, command, USAGE[command]), usage=True)
