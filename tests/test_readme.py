"""The README's blocks run as they stand, and its tables are those of the code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyro_vae.experiment import LIKELIHOODS, load_experiment
from pyro_vae.search import load_sweep

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_two_commands():
    commands = [block for block in blocks("sh") if "venv" in block]
    assert [command.strip().rsplit("&& ", 1)[1] for command in commands] == ["pyro-vae train", "pytest"]


@pytest.mark.parametrize("block", blocks("yaml"))
def test_yaml_blocks_are_valid(block, tmp_path):
    (tmp_path / "block.yaml").write_text(block)
    assert (load_sweep if "\nsweep:" in block else load_experiment)(str(tmp_path / "block.yaml"))


@pytest.mark.parametrize("block", blocks("python"))
def test_python_blocks_run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        exec(compile(block, "README.md", "exec"), {})
    finally:
        LIKELIHOODS._parts.pop("asymmetric_laplace", None)


def test_commands_exist():
    from typer.main import get_command

    from pyro_vae.cli import app

    known = set(get_command(app).commands)
    said = set(re.findall(r"^pyro-vae (\w+)", "".join(blocks("sh")), flags=re.MULTILINE))
    assert said == known


def test_tables_are_up_to_date():
    script = [sys.executable, "analysis/readme.py", "--check"]
    assert subprocess.run(script, cwd=ROOT, check=False).returncode == 0
