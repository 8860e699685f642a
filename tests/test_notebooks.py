"""What is committed of the notebooks: executed, small, plain. That they run is for `pytest --nbmake` (see .ci/run)."""

import ast
import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "analysis" / "notebooks").glob("*.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def code(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_all_are_there():
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{i:02}" for i in range(1, len(NOTEBOOKS) + 1)]
    assert len(NOTEBOOKS) >= 8


@each
def test_small(path):
    assert path.stat().st_size < 1_000_000


@each
def test_executed_from_top_to_bottom_without_an_error(path):
    cells = code(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 3


@each
def test_no_function_is_longer_than_ten_lines(path):
    source = "\n\n".join("".join(cell["source"]) for cell in code(path))
    tree = ast.parse(re.sub(r"^%.*$", "", source, flags=re.MULTILINE))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            assert body[-1].end_lineno - body[0].lineno + 1 <= 10, node.name


@each
def test_a_fast_mode_and_no_path_of_a_machine(path):
    text = path.read_text()
    assert "PYRO_VAE_FAST" in text
    assert not re.search(r'(^|[\s"\'(=])/(home|root|work|tmp|Users)/', text)
