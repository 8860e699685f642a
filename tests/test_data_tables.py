"""Tables: what a CSV file becomes, as training data and as input, and every way in which it is refused."""

import gzip
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_data import refusal

from pyro_vae.data import Arrays, ArraysData, Data, delimited, load, read_input

pytestmark = pytest.mark.filterwarnings("error")

FLOWERS = "length,width,kind\n" + "".join(f"{i / 4},{i * i - 1},{'abc'[i % 3]}\n" for i in range(20))


def written(folder: Path, content: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def read(folder: Path, content: str | bytes, name: str = "t.csv", **fields: Any) -> Arrays:
    """The table as read, before any check."""
    return ArraysData(path=str(written(folder, content, name)), **fields).read(0)


def mistakes(folder: Path, content: str | bytes, name: str = "t.csv", **fields: Any) -> list[str]:
    """The lines with which a table is refused, the path left out."""
    spec = ArraysData(path=str(written(folder, content, name)), **fields)
    return refusal(load, spec).replace(f"{folder}/", "").splitlines()


def trained(folder: Path, content: str, **fields: Any) -> Data:
    return load(ArraysData(path=str(written(folder, content)), **fields))


def given_to(folder: Path, like: Data, content: str, spec: Any = None) -> Data:
    return read_input(written(folder, content, "mine.csv"), like, spec)


def refused_by(folder: Path, like: Data, content: str) -> list[str]:
    path = written(folder, content, "mine.csv")
    lines = refusal(read_input, path, like).splitlines()
    assert all(line.startswith(f"--input {path}: ") for line in lines)
    return [line.removeprefix(f"--input {path}: ") for line in lines]


# ------------------------------------------------------------------------------------------------- what comes out


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "T.CSV", "t.csv.gz", "t.tsv.gz"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_is_read_however_it_is_separated(tmp_path: Path, name: str, delimiter: str, end: str) -> None:
    raw = read(tmp_path, FLOWERS.replace(",", delimiter).replace("\n", end), name, labels=["kind"])
    i = np.arange(20)
    assert np.array_equal(raw.x, np.stack([i / 4, i * i - 1], 1))
    assert raw.x.dtype == np.float64
    assert (raw.columns, raw.given_columns, raw.mask, raw.given) == (("length", "width"), None, None, None)
    assert np.array_equal(raw.y["kind"], i % 3)
    assert raw.names == {"kind": ("a", "b", "c")}


def test_columns_go_where_they_are_named(tmp_path: Path) -> None:
    text = "id,a,kind,age,b\n" + "".join(f"n{i},{i},{i % 2},{40 + i},{-i}\n" for i in range(20))
    got = trained(tmp_path, text, labels=["kind"], given=["age"], ignore=["id"], validation=0)
    assert (got.columns, got.given_columns, got.num_classes, got.names) == (("a", "b"), ("age",), {"kind": 2}, {})
    x, given = got.train.x.numpy(), got.train.given
    assert given is not None
    assert np.array_equal(x[:, 1], -x[:, 0])
    assert np.array_equal(given.numpy()[:, 0], x[:, 0] + 40)
    assert np.array_equal(got.train.attributes["kind"].numpy(), x[:, 0] % 2)


def test_numbers_are_read_to_the_last_digit(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(500, 3)) * 10.0 ** np.arange(-20, 21, 20)
    lines = [",".join(map(repr, row)) for row in x.tolist()]
    assert np.array_equal(read(tmp_path, "\n".join(["a,b,c", *lines])).x, x)


@pytest.mark.parametrize("empty", ["", " ", "?", " ?", "NA", "N/A", "NaN", "nan", "null", "NULL", '""'])
def test_missing_entries_make_a_mask(tmp_path: Path, empty: str) -> None:
    raw = read(tmp_path, f"a,b,c\n1,2,x\n{empty},3,{empty}\n4,5,y\n", labels=["c"])
    assert np.array_equal(raw.mask, [[True, True], [False, True], [True, True]])
    assert np.array_equal(raw.x, [[1, 2], [0, 3], [4, 5]])
    assert raw.y["c"].tolist() == [0, -1, 1]


def test_missing_entries_reach_the_mask_of_the_data(tmp_path: Path) -> None:
    got = trained(tmp_path, "a,b\n" + "1.5,\n,3\n4,5\n" * 10, validation=0)
    assert got.train.mask is not None
    assert not got.train.x[~got.train.mask].any()
    assert got.support == "real"


@pytest.mark.parametrize(
    ("words", "numbers", "names"),
    [
        ("0 1 2 1", [0, 1, 2, 1], None),
        ("0 0 0", [0, 0, 0], None),
        ("0.0 2.0  1.0", [0, 2, -1, 1], None),
        ("3 7 3", [0, 1, 0], ("3", "7")),
        ("10 9 ? 10", [1, 0, -1, 1], ("9", "10")),
        ("-1 1 0", [0, 2, 1], ("-1", "0", "1")),
        ("1 2 01", [0, 1, 0], ("1", "2")),
        ("b a b", [1, 0, 1], ("a", "b")),
        ("1 a 0", [1, 2, 0], ("0", "1", "a")),
        ("true FALSE True", [1, 0, 1], ("False", "True")),
        ("None a", [0, 1], ("None", "a")),
        ("true maybe", [1, 0], ("maybe", "true")),
    ],
)
def test_attributes_are_numbered(tmp_path: Path, words: str, numbers: list[int], names: Any) -> None:
    lines = [f"1,{word}" for word in words.split(" ")]
    raw = read(tmp_path, "\n".join(["x,c", *lines]), labels=["c"])
    assert raw.y["c"].tolist() == numbers
    assert raw.y["c"].dtype == np.int64
    assert raw.names.get("c") == names


def test_a_table_is_real_valued_unless_it_is_all_0_and_1(tmp_path: Path) -> None:
    ages = trained(tmp_path, "age,sex\n" + "".join(f"{i},{i % 2}\n" for i in range(90)))
    assert (ages.levels, ages.support, ages.train.x.dtype) == (None, "real", torch.float64)
    for one, zero in (("1", "0"), ("True", "False"), ("1.0", "0.0"), ("1", "")):
        binary = trained(tmp_path, "a,b\n" + f"{one},{zero}\n1,1\n".replace("1,1", f"{one},{one}") * 10)
        assert (binary.levels, binary.support) == (2, "binary")
        assert (binary.train.mask is not None) == (zero == "")


def test_levels_and_shape_make_images_of_a_table(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (30, 6))
    lines = [f"{i % 3}," + ",".join(map(str, row)) for i, row in enumerate(x)]
    text = "\n".join(["label," + ",".join(f"pixel{i}" for i in range(6)), *lines])
    fields: dict[str, Any] = {"labels": ["label"], "levels": 256}
    raw = read(tmp_path, text, **fields, shape=[2, 3])
    assert (raw.x.dtype, raw.levels) == (np.uint8, 256)
    assert np.array_equal(raw.x, x.reshape(30, 2, 3))
    for shape, event in (([2, 3], (1, 2, 3)), ([1, 2, 3], (1, 2, 3)), ([3, 1, 2], (3, 1, 2)), ([2, 1, 3], (3, 2, 1))):
        got = trained(tmp_path, text, **fields, shape=shape)
        assert (got.shape, got.levels, got.support, got.num_classes) == (event, 256, "levels", {"label": 3})
    assert trained(tmp_path, text, **fields).shape == (6,)
    # Integers are refused where they exceed the levels, and fractions, whatever is missing.
    lines = mistakes(tmp_path, "a,b,c\n3,,0\n1,2,0\n,0.5,0\n4,-1,0\n", levels=4)
    assert len(lines) == 2
    assert "column 'a' holds 4 on line 5; data.levels=4 needs integers from 0 to 3" in lines[0]
    assert "column 'b' holds 0.5 on line 4" in lines[1]


def test_levels_and_shape_of_arrays(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 9, (30, 6), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x, mask=x > 1, x_test=x[:4].reshape(4, 2, 3), y=np.arange(30) % 2)
    plain, nine = (load(ArraysData(path=str(tmp_path / "x.npy"), **f)) for f in ({}, {"levels": 9, "shape": [2, 3]}))
    assert (plain.levels, plain.shape) == (256, (6,))
    assert (nine.levels, nine.shape) == (9, (1, 2, 3))
    assert torch.equal(nine.train.x.reshape(-1, 6), plain.train.x)
    raw = ArraysData(path=str(tmp_path / "x.npy"), shape=[3, 2]).read(0)
    assert isinstance(raw.x, np.memmap)
    packed = load(ArraysData(path=str(tmp_path / "x.npz"), shape=[2, 3]))
    assert packed.train.mask is not None
    assert (packed.train.mask.shape[1:], packed.test.x.shape) == ((1, 2, 3), (4, 1, 2, 3))
    (line,) = refusal(load, ArraysData(path=str(tmp_path / "x.npy"), shape=[2, 4])).splitlines()
    assert line.startswith("data.shape=[2, 4]: takes rows of 8 numbers")
    assert "(30, 6)" in line
    np.savez(tmp_path / "x.npz", x=x, x_test=x[:, :4])
    (line,) = refusal(load, ArraysData(path=str(tmp_path / "x.npz"), shape=[2, 3])).splitlines()
    assert "test.x" in line
    assert "levels=5: must be from 2 to 256" in refusal(load, ArraysData(path=str(tmp_path / "x.npy"), levels=5))


def test_decimal_commas(tmp_path: Path) -> None:
    raw = read(tmp_path, '"length, cm";b;c\n1,5;-2;,25\n2,5e1;3;\n', ignore=["b"])
    assert np.array_equal(raw.x, [[1.5, 0.25], [25, 0]])
    assert raw.columns == ("length, cm", "c")
    assert np.array_equal(read(tmp_path, "a\tb\n1,5\t2\n").x, [[1.5, 2]])
    (line,) = mistakes(tmp_path, "a;b\n1,5;1.234\n2,5;3\n")
    assert "column 'b' holds text in 1 of 2 rows, such as '1.234' (the file has decimal commas)" in line
    (line,) = mistakes(tmp_path, 'a,b\n"1,5",2\n')
    assert "column 'a' holds text in 1 of 1 rows, such as '1,5'. Name" in line


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_marks_blank_lines_and_quotes(tmp_path: Path, name: str) -> None:
    text = '\ufeff\n"a ""x""", b ,c\r\n1, 2,"two\r\nlines"\r\n\r\n   \n"3",4 ,"a, b"\n5,6,NA \n\n'
    raw = read(tmp_path, text, name, labels=["c"])
    assert raw.columns == ('a "x"', "b")
    assert np.array_equal(raw.x, [[1, 2], [3, 4], [5, 6]])
    assert raw.names == {"c": ("a, b", "two\r\nlines")}
    assert raw.y["c"].tolist() == [1, 0, -1]


def test_large_integers_are_numbers(tmp_path: Path) -> None:
    raw = read(tmp_path, "a,b\n1,2\n-123456789012345678901234567890,3\n,4\n")
    assert raw.x[:, 0].tolist() == [1, -123456789012345678901234567890.0, 0]
    assert raw.mask is not None
    assert not raw.mask[2, 0]


def test_wine_of_scikit_learn(tmp_path: Path) -> None:
    from sklearn.datasets import load_wine

    wine = load_wine(as_frame=True)
    table = wine.data.assign(kind=[wine.target_names[i] for i in wine.target])
    table.to_csv(tmp_path / "wine.csv", index=False)
    spec = ArraysData(path=str(tmp_path / "wine.csv"), labels=["kind"])
    like = load(spec)
    assert like.columns == tuple(wine.data.columns)
    assert like.names == {"kind": tuple(wine.target_names)}
    got = read_input(tmp_path / "wine.csv", like, spec)
    assert np.array_equal(got.test.x.numpy(), wine.data.to_numpy())
    assert np.array_equal(got.test.attributes["kind"].numpy(), wine.target)
    # The same with semicolons, quoted names and decimal commas.
    table.to_csv(tmp_path / "uci.csv", index=False, sep=";", decimal=",", quoting=2)
    got = read_input(tmp_path / "uci.csv", like, spec)
    assert np.array_equal(got.test.x.numpy(), wine.data.to_numpy())


def test_nothing_heavy_is_imported_before_a_table_is_read() -> None:
    import subprocess

    code = "import sys; from pyro_vae.data import tables, delimited; assert 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# -------------------------------------------------------------------------------------------------- what is refused


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "is empty"),
    "only blank lines": ("\n \n\n", "is empty"),
    "names only": ("a,b\n", "holds a line of names and no data"),
    "names and blank lines": ("a,b\n\n\n", "holds a line of names and no data"),
    "numbers": ("5.1,3.5,-1e3\n4.9,3.0,2\n", "its first line holds numbers (5.1, 3.5, -1e3)"),
    "numbers and gaps": ("5.1,,?\n4.9,3.0,2\n", "its first line holds numbers"),
    "decimal commas": ("5,1;3,5\n4,9;3,0\n", "its first line holds numbers (5,1, 3,5)"),
    "one number": ("5\n4\n", "its first line holds numbers (5)"),
    "two of a name": ("a,b,a,b,c\n1,2,3,4,5\n", "names that several columns have: a, b"),
    "two names but for blanks": ("a, a\n1,2\n", "names that several columns have: a."),
    "no name": (",a\n0,1\n", "no name in the first line for column 1"),
    "trailing comma": ("a,b,\n1,2,\n", "no name in the first line for column 3"),
    "too many fields": ("a,b\n1,2\n\n1,2,3\n", "1 of 2 other lines have more or fewer: line 4 has 3"),
    "too many in every line": ("a,b\n1,2,3\n4,5,6\n", "2 of 2 other lines have more or fewer"),
    "too few fields": ("a,b\n1\n1,2\n", "line 2 has 1"),
    "many such lines": ("a,b\n" + "1\n" * 30, "line 11 has 1 and 20 more"),
    "semicolon in a name": ("a;b,c\n1,2\n", "2 fields, separated by semicolons"),
    "empty rows": ("a,b\n1,2\n,\n,\n", "lines without any entry: 3, 4"),
    "infinity": ("a,b\n1,2\n3,inf\n4,-Infinity\n", "column 'b' is infinite in 2 of 3 rows, first on line 3"),
    "too large": ("a\n1e999\n", "column 'a' is infinite"),
    "text": ("a,b\n1,x\n2,3\n4,y\n5,z\n6,w\n", "column 'b' holds text in 4 of 5 rows, such as 'x', 'y', 'z'."),
    "thousands": ('a\n"1,234"\n5\n', "such as '1,234'"),
    "underscores": ("a\n1_000\n5\n", "such as '1_000'"),
    "no entry": ("a,b\n1,\n2,NA\n", "column 'b' holds no entry"),
    "open quotation mark": ('a,b\n1,"2\n3,4\n', "unexpected end of data. Is a quotation mark left open"),
    "stray quotation mark": ('a,b\n1,"2"x\n', "line 2: "),
    "open quotation mark in the names": ('a,"b\n1,2\n', "the quotation marks of its first line do not match"),
    "huge field": ("a,b\n1," + "9" * 200_000 + "\n", "line 2: field larger than field limit"),
    "Latin-1": ("a,b\ncafé,1\n".encode("latin-1"), "is no text in UTF-8"),
    "UTF-16": ("a,b\n1,2\n".encode("utf-16"), "is no text in UTF-8"),
    "UTF-16 without a mark": ("a,b\n1,2\n".encode("utf-16-le"), "line 1 holds bytes that are no text"),
    "picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is no text in UTF-8"),
    "gzip by another name": (gzip.compress(b"a,b\n1,2\n"), "is no text in UTF-8"),
    "zip by another name": (b"PK\x03\x04\x14\0\x06\0", "line 1 holds bytes that are no text"),
    "control characters": (
        b"\x01\x02,\x03\n1,2\n",
        "its first line holds characters that are no text: '\\x01\\x02', '\\x03'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_tables_are_refused(tmp_path: Path, case: str) -> None:
    content, words = REFUSED[case]
    (line,) = mistakes(tmp_path, content)
    assert line.startswith('data.path="t.csv": ')
    assert words in line
    assert line.endswith((".", "]", "?"))
    assert "Traceback" not in line


def test_all_columns_at_fault_are_named_at_once(tmp_path: Path) -> None:
    text = "a,b,c,d,e,f,g\nx,inf,,1.5,,x,1\ny,2,,2,5,y,2\n"
    lines = mistakes(tmp_path, text, labels=["d"], given=["e", "f"])
    starts = ["'a' holds text", "'b' is inf", "'c' holds no", "'d' holds frac", "'e' lacks 1 of 2", "'f' holds text"]
    assert len(lines) == len(starts)
    assert all(f"column {start}" in line for line, start in zip(lines, starts, strict=True))
    assert 'data.ignore=["a"]' in lines[0]
    assert "first on line 2" in lines[4]
    assert "data.ignore" not in lines[5]
    wide = ",".join(f"c{i}" for i in range(25)) + "\n" + ",".join("x" * 25) + "\n"
    lines = mistakes(tmp_path, wide)
    assert len(lines) == 11
    assert "15 more columns cannot be part of x" in lines[10]


def test_unknown_columns_are_refused_with_the_nearest(tmp_path: Path) -> None:
    lines = mistakes(tmp_path, FLOWERS, labels=["knd", "kind"], given=["widht"], ignore=["length", "q"])
    assert [line.split(".")[1].split(":")[0] for line in lines] == [
        'labels=["knd", "kind"]',
        'given=["widht"]',
        'ignore=["length", "q"]',
    ]
    assert "Did you mean 'kind'?" in lines[0]
    assert "Did you mean 'width'?" in lines[1]
    assert "has no column 'q'. It has: length, width, kind." in lines[2]
    (line,) = mistakes(tmp_path, FLOWERS, labels=["kind"], given=["width"], ignore=["length"])
    assert "no column is left for x" in line


def test_attributes_that_are_none_are_refused(tmp_path: Path) -> None:
    lines = mistakes(tmp_path, "x,a,b\n1,,1.5\n2,?,2\n", labels=["a", "b"])
    assert "column 'a' holds no entry" in lines[0]
    assert "column 'b' holds fractions, such as 1.5" in lines[1]


def test_a_damaged_gzip_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(FLOWERS.encode())
    for content in (packed[:-9], b"no gzip at all", packed[:40] + b"\0" * 20 + packed[60:]):
        path = tmp_path / "t.csv.gz"
        path.write_bytes(content)
        assert "cannot be read (" in refusal(load, ArraysData(path=str(path)))


def test_tables_beyond_any_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "MAX_LINE", 1000)
    (line,) = mistakes(tmp_path, "a,b\n1," + "2" * 2000, "t.csv.gz")
    assert "line 2 has 1000 characters or more" in line
    monkeypatch.setattr(delimited, "MAX_CHARACTERS", 100)
    (line,) = mistakes(tmp_path, FLOWERS, "t.csv.gz", labels=["kind"])
    assert "holds more than 100 characters" in line


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    for name in ("t.xlsx", "T.XLS", "t.ods"):
        (line,) = mistakes(tmp_path, "a,b", name)
        assert line.endswith("Export the sheet as CSV UTF-8.")
    (line,) = mistakes(tmp_path, "a,b", "t.txt")
    assert "must end in .npy or .npz, or .csv or .tsv" in line
    (tmp_path / "d.csv").mkdir()
    assert "is a folder" in refusal(load, ArraysData(path=str(tmp_path / "d.csv")))
    assert "there is no such file" in refusal(load, ArraysData(path=str(tmp_path / "e.csv")))


def test_fields_that_do_not_go_together_are_refused() -> None:
    lines = refusal(ArraysData, path="x.npy", labels=["a"], given=["a"]).splitlines()
    assert [line.split(":")[0] for line in lines] == ['labels=["a"]', 'given=["a"]', 'given=["a"]']
    assert 'is for tables, and path="x.npy" is none' in lines[0]
    assert "'a' is in labels already" in lines[2]
    assert refusal(ArraysData, path="x.csv", ignore=["a", "b", "a"]).startswith(
        'ignore=["a", "b", "a"]: \'a\' is in ig'
    )
    assert "path=null is none" in refusal(ArraysData, ignore=["a"])
    lines = refusal(ArraysData, levels=3, shape=[2, 2]).splitlines()
    assert [line.split(":")[0] for line in lines] == ["levels=3", "shape=[2, 2]"]
    for fields in ({"shape": [4]}, {"shape": [0, 4]}, {"shape": [1, 2, 3, 4]}, {"levels": 1}, {"levels": 257}):
        assert refusal(ArraysData, path="x.csv", **fields).startswith(next(iter(fields)))
    assert refusal(ArraysData, path="x.csv", labels="a") == 'labels="a": must be a list, like ["a"].'


def test_a_relative_path_becomes_absolute_with_all_else_the_same(tmp_path: Path) -> None:
    spec = ArraysData(path="t.csv", labels=["a"], shape=[2, 3], levels=4)
    assert spec.located() == spec.replace(path=str(Path("t.csv").absolute()))


# -------------------------------------------------------------------------------------------------------- as input


PEOPLE = "id,height,weight,age,kind\n" + "".join(f"{i},{i / 2},{i},{30 + i},{'abc'[i % 3]}\n" for i in range(20))


def people(folder: Path) -> Data:
    return trained(folder, PEOPLE, labels=["kind"], given=["age"], ignore=["id"])


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    like = people(tmp_path)
    assert like.names == {"kind": ("a", "b", "c")}
    got = given_to(tmp_path, like, "kind,note,weight,age,height\nc,hello,1,2,3\n,,4,5.5,6\n")
    assert got.test.x.tolist() == [[3, 1], [6, 4]]
    assert got.test.given is not None
    assert got.test.given.tolist() == [[2], [5.5]]
    assert got.test.attributes["kind"].tolist() == [2, -1]
    assert (got.num_classes, got.names, got.columns) == (like.num_classes, like.names, like.columns)
    got = given_to(tmp_path, like, "age;weight;height\n2;1,5;3\n")
    assert got.test.x.tolist() == [[3, 1.5]]
    assert got.test.attributes["kind"].tolist() == [-1]
    got = given_to(tmp_path, like, "age,weight,height\n2,,3\n")
    assert got.test.mask is not None
    assert got.test.mask.tolist() == [[True, False]]


def test_misfits_of_a_table_are_refused(tmp_path: Path) -> None:
    like = people(tmp_path)
    lines = refused_by(tmp_path, like, "hight,weigth\n1,2\n")
    assert lines[0].startswith(
        "x: lacks 2 of the 2 columns that the model was trained on: height, weight. Did you mean"
    )
    assert lines[1].startswith("given: lacks 1 of the 1 columns that the model was trained on: age.")
    lines = refused_by(tmp_path, like, "height,weight,age,kind\n1,tall,,a\n2,inf,2,d\n3,3,x,b\n")
    assert [line.split(" holds")[0] for line in lines] == ["column 'weight'", "y.kind:", "column 'age'"]
    assert "Must be: a, b, c, or empty" in lines[1]
    assert "data.ignore" not in lines[0]
    (line,) = refused_by(tmp_path, like, "height,weight,age\n1,2,\n")
    assert "covariates cannot be missing" in line


def test_classes_are_the_same_however_they_are_written(tmp_path: Path) -> None:
    for train, mine, numbers in (
        ("3 7 9", "9.0 3 ?", [2, 0, -1]),
        ("True False", "true FALSE", [1, 0]),
        ("true maybe", "true maybe", [1, 0]),
        ("1 2 x", "x 2", [2, 1]),
        ("0 1 2", "2.0 -1", [2, -1]),
    ):
        like = trained(tmp_path, "x,c\n" + "".join(f"1.5,{w}\n2,{w}\n" for w in train.split() * 4), labels=["c"])
        got = given_to(tmp_path, like, "c,x\n" + "".join(f"{word},1\n" for word in mine.split()))
        assert got.test.attributes["c"].tolist() == numbers
        assert got.num_classes == like.num_classes
    (line,) = refused_by(tmp_path, like, "c,x\n3,1\n")
    assert line.startswith("y.c: holds 3; must be from 0 to 2")
    (line,) = refused_by(tmp_path, like, "c,x\nb,1\n")
    assert "Must be: integers from 0 to 2" in line


def test_arrays_without_names_go_by_position(tmp_path: Path) -> None:
    like = trained(tmp_path, FLOWERS, labels=["kind"])
    np.save(tmp_path / "x.npy", np.eye(2))
    assert read_input(tmp_path / "x.npy", like).test.x.tolist() == [[1, 0], [0, 1]]
    named = load(ArraysData(), arrays=Arrays(np.random.default_rng(0).normal(size=(20, 2)), {"kind": np.arange(20)}))
    got = given_to(tmp_path, named, "kind,b,a\n3,1.5,2\n")
    assert got.test.x.tolist() == [[1.5, 2]]
    assert got.test.attributes["kind"].tolist() == [3]
    assert "a datum has shape (3,); must be (2,)" in refused_by(tmp_path, named, "a,b,c\n1,2,3\n")[0]
    assert "no column is left" in refused_by(tmp_path, named, "kind\n1\n")[0]


@pytest.mark.parametrize(
    "treatment", [{}, {"binarize": "static"}, {"binarize": "threshold"}, {"dequantize": "uniform"}]
)
def test_pixels_are_read_on_the_scale_of_training(tmp_path: Path, treatment: dict[str, Any]) -> None:
    x = np.random.default_rng(0).integers(0, 256, (30, 12))
    x[:3] = [[0], [1], [255]]
    names = [f"p{i}" for i in range(12)]

    def text(columns: list[str], x: Any) -> str:
        return "\n".join(",".join(map(str, row)) for row in [columns, *x.tolist()])

    np.save(tmp_path / "x.npy", x)
    for shape in ([3, 4], [3, 2, 2], [2, 2, 3]):
        fields = {"shape": shape, **treatment}
        spec = ArraysData(path=str(written(tmp_path, text(names, x))), levels=256, **fields)
        like, same = load(spec), load(ArraysData(path=str(tmp_path / "x.npy"), **fields))
        assert torch.equal(like.train.x, same.train.x)
        expected = read_input(tmp_path / "x.npy", same, spec)
        got = given_to(tmp_path, like, text(names[::-1], x[:, ::-1]), spec)
        assert torch.equal(got.test.x, expected.test.x)
        assert (got.levels, got.shape) == (expected.levels, like.shape)
        # A gap makes no floats of integers.
        gap = text(names, x).replace("\n1,1,", "\n1,,", 1)
        holed = given_to(tmp_path, like, gap, spec)
        assert holed.test.mask is not None
        assert (int((~holed.test.mask).sum()), holed.test.x.dtype) == (1, torch.uint8)
    assert "shape (12,)" in refusal(read_input, tmp_path / "x.npy", like)


def test_ones_are_white_only_where_the_file_holds_fractions(tmp_path: Path) -> None:
    like = trained(tmp_path, "a,b\n" + "".join(f"{i},{16 - i}\n" for i in range(17)), levels=17)
    for text, levels, x in (
        ("a,b\n1,0\n", 17, [[1, 0]]),
        ("a,b\n1.0,0.5\n", None, [[1, 0.5]]),
        ("a,b\n1.0,0\n", None, [[1, 0]]),
        ("a,b\nTrue,False\n", 17, [[16, 0]]),
        ("a,b\nTrue,\n", 17, [[16, 0]]),
        ("a,b\n1,\n", 17, [[1, 0]]),
    ):
        got = given_to(tmp_path, like, text)
        assert (got.levels, got.test.x.tolist()) == (levels, x)
    assert "must be integers from 0 to 16 or floats from 0 to 1" in refused_by(tmp_path, like, "a,b\n17,0\n")[0]
