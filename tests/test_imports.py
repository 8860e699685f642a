"""The direction of imports, and who may import or say what (design, section 5)."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pyro_vae

ROOT = Path(pyro_vae.__file__).parent
# A module may import from the lines above its own, and on its line from the names to its left.
LINES = """
    specs
    networks standardize flows relaxed priors likelihoods guides data
    variant sites vae
    objectives trackers files fitting experiment ranges search
    distributed random_states checkpoints capture lowering step batches feeding validation planning interruption
    progress records callbacks training
    diagnostics
    latent classification evaluation diagnosis
    inference_data plots diagnosis_figures card report
    opening result posterior runs launch examination comparable comparison workers swept sweep
    cli_io cli_options cli_latent cli_walks cli_compare cli_diagnose cli_report cli_sweep cli __main__
"""
ORDER = [line.split() for line in LINES.strip().splitlines()]
PLACE = {name: (i, j) for i, line in enumerate(ORDER) for j, name in enumerate(line)}
STORE = {"module", "param", "random_module", "clear_param_store", "get_param_store", "PyroModule", "PyroParam"}


def name_of(path):
    """pyro_vae/diagnostics/psis.py -> diagnostics.psis; the package itself is ''."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


TREES = {name_of(path): ast.parse(path.read_text(), str(path)) for path in sorted(ROOT.rglob("*.py"))}
MODULES = sorted(TREES)


def imports(tree):
    """Every dotted name that is imported, wherever: in functions and under TYPE_CHECKING too."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide where a name comes from"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def at_import(tree):
    """The same, of what runs when the module is imported: functions and TYPE_CHECKING left out."""
    found, nodes = [], list(tree.body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += imports(ast.Module([node], []))
        elif not (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        ):
            nodes += ast.iter_child_nodes(node)
    return found


def own(tree):
    """Modules of the package that are imported; `from pyro_vae import ELBO` goes by where ELBO lives."""
    found = set()
    for name in imports(tree):
        package, _, rest = name.partition(".")
        if package == "pyro_vae" and rest:
            rest = pyro_vae._MODULE.get(rest, rest)
            while rest not in TREES and "." in rest:
                rest = rest.rpartition(".")[0]
            found.add(rest)
    return found


def packages(names):
    return {name.partition(".")[0] for name in names}


def wrong_direction(name, tree):
    """Imports against the order: names of modules."""
    mine, found = name.partition(".")[0], []
    for other in own(tree):
        head = other.partition(".")[0]
        if head == mine:  # one package; see test_no_cycles
            continue
        if mine == "diagnostics" or PLACE[head] >= PLACE[mine]:
            found.append(other)
    return found


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_direction(name):
    assert name.partition(".")[0] in PLACE, f"{name} has no place in LINES"
    assert wrong_direction(name, TREES[name]) == []


def test_no_cycles():
    """Within a package, where the lines say nothing, imports make no circle; its `__init__` may gather them all."""
    graph = {name: own(tree) - {name.partition(".")[0]} for name, tree in TREES.items() if "." in name}
    TopologicalSorter(graph).prepare()


def test_direction_sees_what_it_should():
    lazy = ast.parse("def f():\n    from pyro_vae.training import fit")
    typing = ast.parse("if TYPE_CHECKING:\n    from pyro_vae import vae")
    public = ast.parse("from pyro_vae import ELBO")
    assert wrong_direction("data", lazy) == ["training"]
    assert wrong_direction("latent", lazy) == []
    assert wrong_direction("variant", typing) == ["vae"]
    assert wrong_direction("vae", public) == ["objectives"]
    assert wrong_direction("diagnostics.psis", ast.parse("from pyro_vae.specs import Spec")) == ["specs"]
    assert at_import(lazy) == at_import(typing) == []
    assert at_import(ast.parse("class A:\n    import torch")) == ["torch"]


def test_the_package_itself_imports_its_modules_on_first_use():
    assert own(TREES[""]) == set()
    for module in {*pyro_vae._MODULE.values()}:
        assert module in TREES


@pytest.mark.parametrize("name", pyro_vae.__all__)
def test_public_names_live_where_the_package_says(name):
    found = getattr(pyro_vae, name)
    if hasattr(found, "__module__") and not isinstance(found, pyro_vae.Table):
        assert f"{found.__module__}.".startswith(f"pyro_vae.{pyro_vae._MODULE[name]}.")


@pytest.mark.parametrize("name", MODULES)
def test_who_may_import_what(name):
    used = packages(imports(TREES[name]))
    if name not in ("inference_data", "plots", "diagnostics.psis"):
        assert not any(package.startswith("arviz") for package in used)
    if name.partition(".")[0] not in ("plots", "diagnosis_figures", "report"):
        assert "matplotlib" not in used
    if name.partition(".")[0] != "data":
        assert "torchvision" not in used
        assert "sklearn" not in used or name == "latent.directions"
    assert not packages(at_import(TREES[name])) & {"torchvision", "sklearn"}, "only inside functions"


@pytest.mark.parametrize("name", MODULES)
def test_no_star(name):
    assert not any(imported.endswith(".*") for imported in imports(TREES[name]))


def said(tree, package, words, inside=None):
    """Uses of package.word: as an attribute, or imported from it; those inside a function called `inside` left out."""
    found = []

    def walk(node):
        if inside is not None and isinstance(node, ast.FunctionDef) and node.name == inside:
            return
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == package and node.attr in words:
                found.append(f"{package}.{node.attr}")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == package:
            found.extend(alias.name for alias in node.names if alias.name in words)
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(tree)
    return found


@pytest.mark.parametrize("name", [name for name in MODULES if name != "vae"])
def test_only_vae_says_sample(name):
    assert said(TREES[name], "pyro", {"sample", "factor", "deterministic"}) == []


@pytest.mark.parametrize("name", MODULES)
def test_only_registered_uses_the_param_store(name):
    assert said(TREES[name], "pyro", STORE, inside="registered" if name == "vae" else None) == []
    assert not any(imported.startswith("pyro.nn") for imported in imports(TREES[name]))


def test_said_sees_what_it_should():
    assert said(TREES["vae"], "pyro", {"sample"}) != []
    assert said(TREES["vae"], "pyro", STORE) != []
    assert said(ast.parse("from pyro import param"), "pyro", STORE) == ["param"]
    assert said(ast.parse("from pyro.nn import PyroModule"), "pyro", STORE) == ["PyroModule"]


@pytest.mark.parametrize("module", ["pyro_vae", "pyro_vae.cli"])
def test_import_is_light(module):
    """`import pyro_vae` and the command line's help load no torch, which takes seconds."""
    heavy = "{'torch', 'pyro', 'arviz', 'matplotlib', 'sklearn', 'xarray'}"
    code = f"import sys, {module}; sys.exit(' '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
