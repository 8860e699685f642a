"""What a user can get wrong in data: arrays, tables, folders of images and released sets; see test_malformed.py."""

import io
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_data_idx import NAMES, idx
from test_malformed import Row, check_refusal, inside, row, write

__all__ = ["inside"]  # a fixture

X = np.random.default_rng(0).normal(size=(100, 4))
GREY = np.random.default_rng(0).integers(0, 256, (100, 8, 8), dtype=np.uint8)

# -------------------------------------------------------------------------------------------------------- arrays


def npy(header: str) -> bytes:
    """A file of that header, and nothing behind it."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


def header(descr: object = "<f8", shape: object = (5, 3)) -> str:
    return str({"descr": descr, "fortran_order": False, "shape": shape}) + "\n"


def saved(x: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, x)
    return file.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytearray:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return bytearray(file.getvalue())


def flipped(content: bytearray, at: int) -> bytes:
    content[at] ^= 0xFF
    return bytes(content)


def bomb() -> bytes:
    """Three arrays, each of which the directory says to have four gigabytes."""
    content = zipped({f"{name}.npy": saved(X) for name in "xyz"})
    for entry in re.finditer(b"PK\x01\x02", bytes(content)):
        content[entry.start() + 24 : entry.start() + 28] = b"\xf0\xff\xff\xff"
    return bytes(content)


def put(value: float) -> np.ndarray:
    x = X.copy()
    x[3, 1] = value
    return x


def own(content: Any, *lines: str, also: str = "", name: str | None = None) -> Row:
    """Validate a declaration of one file of arrays."""
    name = name or ("d.npz" if isinstance(content, dict) else "d.npy")
    at = f'data.path="{name}": '
    lines = tuple(line.replace("@", at) for line in lines)
    return row({name: content}, f"validate vae-gaussian data=arrays data.path={name} {also}", *lines)


READABLE = "@is no readable .npy file ... Write it again"
LABELS = np.arange(100) % 10
ARRAYS = {
    "NaN": own(put(np.nan), "@x: NaN or infinite in 1 of 400 entries, first at [3, 1]. Remove them, or give a mask"),
    "infinite": own(put(np.inf), "@x: NaN or infinite in 1 of 400 entries ... Remove them"),
    "beyond float32": own(put(1e300), "@x ... 1e+300"),
    "one dimension": own(X[:, 0], "@x: shape (100,); must be (N, D)"),
    "five dimensions": own(X[None, None, None], "@x: shape (1, 1, 1, 100, 4); must be (N, D)"),
    "no data": own(X[:0], "@x: shape (0, 4); must be"),
    "no entries": own(X[:, :0], "@x: shape (100, 0); must be"),
    "complex": own(X + 1j, "@x: holds complex128 values; must be bool, integers or floats"),
    "strings": own(X.astype(str), "@x: holds <U32 values; must be bool, integers or floats. Try .astype(float)"),
    "records": own(np.zeros(100, [("a", float)]), "@x: holds ... must be bool, integers or floats"),
    "objects": own(np.array([[1, "a"]] * 50, object), "@ ... Python objects are not read; save numbers"),
    "text": own(b"1,2\n3,4\n", READABLE),
    "empty file": own(b"", READABLE),
    "cut short": own(saved(X)[:-100], READABLE),
    "cut in its header": own(saved(X)[:50], READABLE),
    "terabytes": own(npy(header(shape=(10**6, 10**6))), READABLE),
    "header of code": own(npy("__import__('os').system('touch hacked')"), READABLE),
    "header too long": own(npy(header().strip() + " " * 20_000 + "\n"), READABLE),
    "header left open": own(npy(header()[:-2]), READABLE),
    "header of another kind": own(npy("{[]: 1}"), READABLE),
    "header of no type": own(npy(header(descr=())), READABLE),
    "negative shape": own(npy(header(shape=(-5, 3))), READABLE),
    "shape of many digits": own(npy(header(shape=(10**20, 3))), READABLE),
    "npz cut short": own(bytes(zipped({"x.npy": saved(X)})[:200]), "@is no readable .npz file", name="d.npz"),
    "npz with a flipped bit": own(flipped(zipped({"x.npy": saved(X)}), 700), "@ ... CRC", name="d.npz"),
    "npz packed otherwise": own(
        flipped(zipped({"x.npy": saved(X)}, zipfile.ZIP_LZMA), 120), "@is no readable .npz file", name="d.npz"
    ),
    "npz with a damaged name": own(
        flipped(zipped({"x.npy": saved(X)}), 26), "@is no readable .npz file ... Write it again", name="d.npz"
    ),
    "bomb": own(bomb(), "@12884901840 bytes unpacked; must be at most 8589934592. Save x with", name="d.npz"),
    "zip that is no npz": own(bytes(zipped({"readme.txt": b"hi"})), "@which array is x? It holds", name="d.npz"),
    "npz of objects": own({"x": X, "y": np.array(["a", 1] * 50, object)}, "@ ... Python objects are not read"),
    "two candidates": own({"a": X, "b": X}, "@which array is x? It holds a (100, 4), b (100, 4). Call the one"),
    "a hundred candidates": own({f"a{i}": X for i in range(100)}, "@which array is x?"),
    "a folder": row(
        {"d.npy": None}, "validate digits data=arrays data.path=d.npy", 'data.path="d.npy": is a folder. Name a file'
    ),
    "no such file": row({}, "validate digits data=arrays data.path=d.npy", 'data.path="d.npy": there is no such file'),
    "below a file": row(
        {"d.npy": X},
        "validate digits data=arrays data.path=d.npy/x.npy",
        'data.path="d.npy/x.npy": there is no such file',
    ),
    "wrong suffix": own(b"1 2", "@must end in .npy or .npz, or .csv or .tsv", name="d.txt"),
    "spreadsheet": own(b"PK", "@must end in ... Export the sheet as CSV UTF-8", name="d.xlsx"),
    "bernoulli on grey": own(GREY, "variant.likelihood: ... set data.binarize=dynamic", also="likelihood=bernoulli"),
    "bernoulli on reals": own(X, "variant.likelihood: ... use 'normal'", also="likelihood=bernoulli"),
    "above the levels": own(GREY, "@levels=4: must be ... x goes from 0 to 255", also="data.levels=4"),
    "levels of floats": own(X, "@levels=4: is for integers ... Leave it out", also="data.levels=4"),
    "reals in zeros and ones": own(X, "data.binarize= ... Rescale x, or set", also="data.binarize=dynamic"),
    "noise on reals": own(X, "data.dequantize= ... Give x as uint8, or set", also="data.dequantize=uniform"),
    "convolved vectors": own(
        X,
        "variant.encoder: 'conv' needs images ... use 'mlp'",
        "variant.decoder: 'conv' needs images ... use 'mlp'",
        also="encoder=conv decoder=conv",
    ),
    "another shape": own(X, "data.shape=[3, 3]: takes rows of 9 ... leave it out", also="data.shape=[3,3]"),
    "labels too few": own({"x": X, "y": np.arange(7)}, "@y.label: ... must be integers of shape (100,)"),
    "labels of floats": own({"x": X, "y": X[:, 0]}, "@y.label: float64 ... must be integers of shape (100,)"),
    "labels of text": own({"x": X, "y": np.array(["a", "b"] * 50)}, "@y.label: ... must be integers"),
    "labels below -1": own({"x": X, "y": LABELS - 2}, "@y.label: holds -2; must be 0, 1, ..., or -1"),
    "labels all missing": own({"x": X, "y": LABELS * 0 - 1}, "@y.label: every label is -1. Leave it out"),
    "labels beyond int64": own({"x": X, "y": np.full(100, 2**63, np.uint64)}, "@y.label: holds 9223"),
    "label site of no attribute": own(
        {"x": X, "y": LABELS},
        "variant.labels.lable: ... Did you mean 'label'? It has: label",
        also="labels.lable.classes=10",
    ),
    "fewer classes": own(
        {"x": X, "y": LABELS}, "variant.labels.label.classes=3: ... set it to 10", also="labels.label.classes=3"
    ),
    "more classes than there may be": own(
        {"x": X, "y": LABELS * 10**6}, "variant.labels.label ... at most 1000", also="labels.label.classes=9"
    ),
    "labels that are identifiers": own({"x": X, "y": LABELS * 10**12}, "@y.label: ... Number them 0, 1"),
    "always observed, and missing": own(
        {"x": X, "y": LABELS - 1},
        *(
            f"variant.labels.label.observed=always: ... {part} data are missing; use partly"
            for part in ("train", "validation", "test")
        ),
        also="labels.label.classes=9",
    ),
    "mask of another shape": own({"x": X, "mask": X[:, :3] > 0}, "@mask: bool of shape (100, 3); must be bool of the"),
    "mask of numbers": own({"x": X, "mask": np.ones((100, 4), int)}, "@mask: int64 ... must be bool"),
    "mask that hides everything": own({"x": X, "mask": np.zeros((100, 4), bool)}, "@mask: ... True"),
    "covariates with gaps": own({"x": X, "given": put(np.nan)}, "@given: NaN ... covariates cannot be missing"),
    "covariates too few": own({"x": X, "given": X[:5]}, "@given: shape (5, 4); must be (100, G)"),
    "test set of another shape": own({"x": X, "x_test": X[:, :3]}, "@test.x: one has shape (3,); in x it is (4,)"),
    "test set of another type": own({"x": X, "x_test": LABELS[:, None]}, "@test.x: one has shape", "@test.x: int64"),
    "test set of nothing": own({"x": X, "x_test": X[:0]}, "@test.x: shape (0, 4); must be"),
    "four mistakes": own(
        {"x": put(np.nan), "y": np.arange(7), "given": X[:5], "mask": X[:3]},
        "@mask: ... must be bool",
        "@x: NaN ... Remove them",
        "@given: ... must be",
        "@y.label: ... must be",
    ),
    "two data": own(X[:2], "data.validation=0.1: of 2 data ... leaves none to train on. Give more data"),
    "less than a batch": own(X[:40], "training.batch_size=64: there are 32 training data; take at most"),
    "never standardised, hundreds": row(
        {"d.npy": X * 200},
        "train vae-sigma data=arrays data.path=d.npy training.epochs=1 -k 2 --quiet --out out",
        "data.standardize=false: ... set data.standardize=true",
    ),
    "levels as floats": row(
        {"d.npy": GREY.astype(float)},
        "train vae-sigma data=arrays data.path=d.npy training.epochs=1 -k 2 --quiet --out out",
        "data ... uint8",
    ),
    "never standardised": row(
        {"d.npy": X * 1e4},
        "train vae-sigma data=arrays data.path=d.npy training.epochs=1 -k 2 --quiet --out out",
        "data ... set data.standardize=true",
    ),
}

# -------------------------------------------------------------------------------------------------------- tables

TABLE = "age,height,kind\n" + "".join(f"{i / 50},{i % 7},{'abc'[i % 3]}\n" for i in range(100))
KIND = "data.labels=[kind]"


def table(content: str | bytes, *lines: str, also: str = KIND, name: str = "t.csv") -> Row:
    return own(content, *lines, also=also, name=name)


TABLES = {
    "text that is not declared": table(TABLE, "@column 'kind' holds text ... Name it in data.labels if", also=""),
    "ragged": table(TABLE + "1,2\n", "@the line of names has 3 fields ... line 102 has 2. Give each name a field"),
    "name twice": table(TABLE.replace("height", "age"), "@names that several columns have: age. Give each column"),
    "no names": table(
        TABLE.split("\n", 1)[1].replace("a\n", "1\n"), "@its first line holds numbers ... a line of names"
    ),
    "nameless column": table(TABLE.replace("height", ""), "@no name in the first line for column 2. Give each"),
    "names alone": table("age,height,kind\n", "@holds a line of names and no data. Give one line per datum"),
    "empty": table("", "@is empty. Its first line must hold the names"),
    "open quotation mark": table(TABLE.replace("0.02", '"0.02'), "@line 101: ... quotation mark left open"),
    "no such label": table(
        TABLE, "data.labels= ... no column 'kid'. Did you mean 'kind'? It has:", also="data.labels=[kid]"
    ),
    "one word for a list": table(TABLE, 'data.labels="kind": must be a list', also="data.labels=kind"),
    "column with two roles": table(TABLE, "data.given= ... Name a column once", also=f"{KIND} data.given=[kind]"),
    "no column left": table(TABLE, "@no column is left for x. Name fewer", also=f"{KIND} data.ignore=[age,height]"),
    "roles of an array": row(
        {"d.npy": X}, f"validate digits data=arrays data.path=d.npy {KIND}", "data.labels= ... is for tables ... leave"
    ),
    "covariate with a gap": table(
        TABLE.replace("0.02", ""),
        "@column 'age' lacks 1 of 100 ... on line 3; ... Fill them in",
        also=f"{KIND} data.given=[age]",
    ),
    "infinite": table(
        TABLE.replace("0.02", "inf"), "@column 'age' is infinite in 1 of 100 rows, first on line 3. Correct them"
    ),
    "column of gaps": table("a,b\n" + "1,\n" * 100, "@column 'b' holds no entry. Leave it out: data.ignore", also=""),
    "label of fractions": table(TABLE, "@column 'age' holds fractions ... data.given", also="data.labels=[age,kind]"),
    "fraction for a level": table(
        TABLE, "@column 'age' holds 0.02 on line 3; data.levels=8", also=f"{KIND} data.levels=8"
    ),
    "other encoding": table(
        TABLE.replace("height", "höhe").encode("latin1"), "@is no text in UTF-8. Save the table as"
    ),
    "spreadsheet called csv": table(b"PK\x03\x04\x00\x00\xff", "@ ... Save the table as CSV UTF-8"),
    "spreadsheet": table(b"PK\x03\x04", "@must end in ... Export the sheet as CSV UTF-8", also="", name="t.xlsx"),
    "no gzip": table(TABLE, "@cannot be read (Not a gzipped file ... Write it again", name="t.csv.gz"),
    "site of no label": table(
        TABLE,
        "variant.labels.kind: ... has no attribute ... remove the label site",
        also="data.ignore=[kind] labels.kind.classes=3",
    ),
    "fewer classes": table(
        TABLE, "variant.labels.kind.classes=2: ... set it to 3", also=f"{KIND} labels.kind.classes=2"
    ),
    "never standardised": row(
        {"t.csv": "age,income\n" + "".join(f"{20 + i % 50},{20000 + i * 791 % 60000}\n" for i in range(100))},
        "train vae-sigma data=arrays data.path=t.csv training.epochs=1 -k 2 --quiet --out out",
        "data ... set data.standardize=true",
    ),
}

# ------------------------------------------------------------------------------------------------------- folders

PICTURE = GREY[0]


def png(array: np.ndarray = PICTURE) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    return file.getvalue()


def huge() -> bytes:
    """The picture, whose header says that it has 60,000 x 60,000 pixels; its checksum is right."""
    content = bytearray(png())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def folder(files: dict[str, Any], *lines: str, also: str = "") -> Row:
    """Validate a declaration of the folder `f`."""
    lines = tuple(line.replace("@", 'data.path="f": ') for line in lines)
    return row(
        {f"f/{name}": content for name, content in files.items()},
        f"validate conv-digits data=folder data.path=f likelihood=normal data.binarize=none {also}",
        *lines,
    )


MANY = {f"{i:02}.png": PICTURE for i in range(90)}
FOLDERS = {
    "missing": folder({}, "@there is no such folder. Name a folder of images"),
    "empty": folder({"": None}, "@holds no images ... It holds no files at all"),
    "of text": folder({"a.txt": "x", "b.zip": "x"}, '@holds no images ... It holds "a.txt", "b.zip". Unpack archives'),
    "one image": row(
        {"f.png": PICTURE},
        "validate digits data=folder data.path=f.png",
        'data.path="f.png": is one image. Name the folder',
    ),
    "an archive": row(
        {"f.zip": "PK"},
        "validate digits data=folder data.path=f.zip",
        'data.path="f.zip": is a file. ... unpack an archive',
    ),
    "no image": folder({**MANY, "a.png": "text"}, '@"f/a.png" is no image ... Fetch it again, or take it out'),
    "no bytes": folder({**MANY, "a.png": ""}, '@"f/a.png" is empty. Fetch it again, or take it out'),
    "cut short": folder({**MANY, "a.png": png()[:-20]}, '@"f/a.png" is damaged or cut short ... Fetch it again'),
    "flipped bit": folder({**MANY, "a.png": flipped(bytearray(png()), 60)}, '@"f/a.png" is ... damaged ... Fetch'),
    "bomb": folder({**MANY, "a.png": huge()}, '@"f/a.png" has more than 67108864 pixels ... Make it smaller'),
    "many bad ones": folder(
        {f"{i:02}.png": "text" for i in range(12)},
        *(f'@"f/{i:02}.png" is no image' for i in range(10)),
        "@12 of 12 image files cannot be used; the first 10 are above",
    ),
    "sizes that differ": folder({**MANY, "a.png": GREY[0, :5]}, "@the images differ in size ... Set data.size"),
    "flat and classes": folder({"a.png": PICTURE, "cat/b.png": PICTURE}, '@"f" holds 1 image ... Move those into'),
    "empty class": folder(
        {"cat/a.png": PICTURE, "dog": None}, '@"f" has a folder for each class, and no images in "dog". Put some'
    ),
    "train without test": folder({"train/a.png": PICTURE}, '@holds "train", and not both of train and test. Name'),
    "class of the test set": folder(
        {"train/cat/a.png": PICTURE, "test/dog/a.png": PICTURE}, '@test has "dog", and train ... Add images of them, or'
    ),
    "size of nothing": folder(MANY, "data.size=0: must be null, an integer from 1 to 4096", also="data.size=0"),
    "fit without a size": folder(MANY, 'data.fit="pad": ... Set size, or leave fit out', also="data.fit=pad"),
    "less than a batch": folder(
        {"a.png": PICTURE, "b.png": PICTURE, "c.png": PICTURE}, "training.batch_size=64: there are 1 training"
    ),
    "two images": folder({"a.png": PICTURE, "b.png": PICTURE}, "data.validation=0.1: of 2 data ... Give more data, or"),
    "bernoulli on grey": folder(MANY, "variant.likelihood: ... set data.binarize=dynamic", also="likelihood=bernoulli"),
}

# -------------------------------------------------------------------------------------------------- released sets

IMAGES, DIGITS = np.zeros((70, 28, 28), np.uint8), (np.arange(70) % 10).astype(np.uint8)
WHOLE = dict(zip(NAMES, (IMAGES, DIGITS, IMAGES, DIGITS), strict=True))


def released(name: str, files: dict[str, Any], *lines: str) -> Row:
    """Train on a set in the folder `r`, with nothing to be downloaded."""
    lines = tuple(line.replace("@", 'data.root="r": ') for line in lines)
    return row(
        {"r": None, **{f"r/{file}": content for file, content in files.items()}},
        f"train vae-gaussian data={name} data.root=r data.download=false --out out",
        *lines,
    )


def mnist(changes: dict[str, Any], *lines: str) -> Row:
    """MNIST in small, with some of its files changed."""
    files = {f"mnist/{name}": idx(array) for name, array in WHOLE.items()} | changes
    return released("mnist", {name: content for name, content in files.items() if content != ""}, *lines)


FIRST, SECOND = (f"mnist/{name}" for name in NAMES[:2])
RELEASED = {
    "mnist is missing": released(
        "mnist", {}, "@MNIST is not there, and data.download is false ... data.root=FOLDER, or"
    ),
    "mnist in part": mnist({SECOND: ""}, f"@MNIST is not there ... mnist lacks {NAMES[1]}. Put them"),
    "images cut short": mnist({FIRST: idx(IMAGES)[:-9]}, f"@r/{FIRST}: its header says ... Delete the file and fetch"),
    "images of nothing": mnist({FIRST: b"\n"}, f"@r/{FIRST}: begins with 0a ... Delete the file and fetch it again"),
    "packed text": mnist({FIRST: "", f"{FIRST}.gz": "text"}, f"@r/{FIRST}.gz: Not a gzipped file ... Delete the file"),
    "labels too few": mnist(
        {SECOND: idx(DIGITS[:7])}, f"@r/{FIRST} holds 70 images and {NAMES[1]} 7 labels. Delete both"
    ),
    "labels too large": mnist({SECOND: idx(DIGITS + 9)}, f"@r/{SECOND}: holds labels from 9 to 18 ... Delete the file"),
    "two bad files": mnist({FIRST: b"x", SECOND: b"x"}, f"@r/{FIRST}: begins with 78", f"@r/{SECOND}: begins with 78"),
    "svhn in part": released(
        "svhn", {"train_32x32.mat": b"x"}, "@SVHN is not there ... lacks test_32x32.mat. Put them"
    ),
    "svhn of text": released(
        "svhn",
        {"train_32x32.mat": b"x", "test_32x32.mat": b"x"},
        *(f"@r/{part}_32x32.mat: is no MATLAB file ... fetch it again" for part in ("train", "test")),
    ),
    "omniglot in part": released("omniglot", {"images_background": None}, "@Omniglot is ... lacks images_evaluation"),
    "omniglot of nothing": released(
        "omniglot",
        {"images_background": None, "images_evaluation": None},
        *(f"@r/images_{part}: has no folders of alphabets ... fetch" for part in ("background", "evaluation")),
    ),
    "omniglot packed": released(
        "omniglot", {"images_background.zip": "PK"}, "@Omniglot ... is not unpacked; unpack it"
    ),
    "celeba in part": released("celeba", {"img_align_celeba": None}, "@CelebA is not there ... lacks list_attr_celeba"),
    "celeba of text": released(
        "celeba",
        {"img_align_celeba": None, "list_attr_celeba.txt": "x", "list_eval_partition.txt": "x"},
        "@r/list_attr_celeba.txt: ... fetch it again",
        "@r/list_eval_partition.txt: line 1 must hold ... fetch it again",
    ),
    "cifar10 of other files": released(
        "cifar10",
        {
            f"cifar-10-batches-py/{name}": b"x"
            for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
        },
        *["@r/cifar-10-batches-py/ ... is not the file that was released ... fetch it again"] * 7,
    ),
    "root is a file": row(
        {"r": "x"},
        "train digits data=mnist data.root=r data.download=false",
        'data.root="r": MNIST is not there ... Put them into',
    ),
}

ALL = {
    f"{family}: {name}": case
    for family, cases in (("array", ARRAYS), ("table", TABLES), ("folder", FOLDERS), ("released", RELEASED))
    for name, case in cases.items()
}


@pytest.mark.parametrize("case", ALL)
def test_malformed_data(inside: Path, capsys: Any, case: str) -> None:
    write(inside, ALL[case].files)
    check_refusal(inside, capsys, ALL[case])
