"""The layers of the package: what may import what, and that PyTorch is loaded by nothing but qexport.nn."""

import ast
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import qexport

ROOT = Path(qexport.__file__).parent
# Each module imports from its own layer and those before it.
LAYERS = (
    {"errors", "intformat"},
    {"equivalence"},
    {"layer"},
    {"requant", "golden", "layout", "pack", "formats", "stream", "strength", "stress", "manifest", "bench", "ports"},
    {"rerun", "hypotheses"},
    {"export", "check", "simulate", "actual", "diagnose", "explain", "shrink"},
    {"rtl", "stub", "cocotb", "edits", "mutants", "selftest"},
    {"cli"},
    {"__main__"},
)
NN_MAY_IMPORT = {"errors", "intformat", "layer"}
MODULES = sorted(module.name for module in pkgutil.walk_packages([str(ROOT)], "qexport."))
TREES = {
    name: ast.parse((ROOT.parent / name.replace(".", "/") / "__init__.py").read_bytes())
    if (ROOT.parent / name.replace(".", "/")).is_dir()
    else ast.parse((ROOT.parent / f"{name.replace('.', '/')}.py").read_bytes())
    for name in MODULES
}


def is_nn(name: str) -> bool:
    return name == "qexport.nn" or name.startswith("qexport.nn.")


def is_torch(name: str) -> bool:
    return name.partition(".")[0] in ("torch", "torchvision")


UPPER = [name for name in MODULES if not is_nn(name)]


def imports(tree: ast.AST, inside_functions: bool = True) -> Iterator[str]:
    """The modules that a tree imports, by their full names; of qexport, the module that a name comes from."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write imports with their full names"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else str(node.module) for name in whole)
        elif inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports(node, inside_functions)


def layer_of(name: str) -> int:
    found = [number for number, layer in enumerate(LAYERS) if name.removeprefix("qexport.") in layer]
    assert found, f"{name} has no layer; place it in LAYERS"
    return found[0]


def test_importing_every_module_outside_nn_loads_no_torch() -> None:
    assert len(UPPER) > 10
    assert "qexport.cli" in UPPER
    code = (
        "import importlib, json, sys\n"
        f"for name in {[name for name in UPPER if not name.endswith('__main__')]!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)
    assert "qexport.cli" in loaded
    assert not [name for name in loaded if is_torch(name) or is_nn(name)]


@pytest.mark.parametrize("name", UPPER)
def test_a_module_imports_from_its_own_layer_and_lower_ones_only(name: str) -> None:
    ours = [found for found in imports(TREES[name]) if found.startswith("qexport.") and not is_nn(found)]
    assert not [found for found in ours if layer_of(found) > layer_of(name)]


@pytest.mark.parametrize("name", UPPER)
def test_only_cli_imports_nn_or_torch_and_only_inside_functions(name: str) -> None:
    found = imports(TREES[name], inside_functions=name != "qexport.cli")
    assert not [module for module in found if is_nn(module) or is_torch(module)]


@pytest.mark.parametrize("name", [name for name in MODULES if is_nn(name)])
def test_nn_imports_nothing_of_the_upper_half_but_errors_intformat_and_layer(name: str) -> None:
    ours = [found for found in imports(TREES[name]) if found.startswith("qexport.") and not is_nn(found)]
    assert {found.removeprefix("qexport.") for found in ours} <= NN_MAY_IMPORT


def test_no_modules_import_each_other_in_a_circle() -> None:
    left = {name: {found for found in imports(TREES[name]) if found in TREES} - {name} for name in MODULES}
    while leaves := [name for name, found in left.items() if not found & set(left)]:
        for name in leaves:
            del left[name]
    assert not left
