"""The rooms of the package: imports run one way, and PyTorch is loaded by nothing but frontends and train."""

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
# Each room imports from itself and from those that stand before it.
ROOMS = (
    "errors",
    "core",
    "layout",
    "sets",
    "bench",
    "build",
    "sim",
    "findings",
    "trust",
    "runs",
    "report",
    "api",
    "cli",
    "__main__",
)
TORCH_ROOMS = {"frontends": {"errors", "core"}, "train": {"errors", "core", "frontends"}}  # and what they may import
MODULES = sorted(module.name for module in pkgutil.walk_packages([str(ROOT)], "qexport."))


def source(name: str) -> Path:
    path = ROOT.parent / name.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


TREES = {name: ast.parse(source(name).read_bytes()) for name in MODULES}


def room(name: str) -> str:
    return name.split(".")[1]


def is_torch(name: str) -> bool:
    return name.partition(".")[0] in ("torch", "torchvision", "onnx")


PLAIN = [name for name in MODULES if room(name) not in TORCH_ROOMS]


def for_types(node: ast.AST) -> bool:
    """Whether a statement is `if TYPE_CHECKING`, which no program runs."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(tree: ast.AST, inside_functions: bool = True) -> Iterator[str]:
    """The modules that a tree imports, by their full names; of qexport, the module that a name comes from."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write imports with their full names"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else str(node.module) for name in whole)
        elif inside_functions or not (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or for_types(node)):
            yield from imports(node, inside_functions)


def of_ours(name: str, inside_functions: bool = True) -> set[str]:
    """The modules of the package that a module imports."""
    return {found for found in imports(TREES[name], inside_functions) if found.startswith("qexport.")}


def test_every_module_stands_in_a_room() -> None:
    assert {room(name) for name in MODULES} == {*ROOMS, *TORCH_ROOMS}


@pytest.mark.parametrize("name", [name for name in MODULES if source(name).name == "__init__.py"])
def test_each_room_says_what_it_is_for(name: str) -> None:
    assert len(ast.get_docstring(TREES[name]) or "") > 20


def test_importing_every_module_outside_frontends_and_train_loads_no_torch() -> None:
    assert len(PLAIN) > 40
    code = (
        "import importlib, json, sys\n"
        f"for name in {[name for name in PLAIN if not name.endswith('__main__')]!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)
    assert "qexport.cli" in loaded
    assert not [name for name in loaded if is_torch(name) or (name.startswith("qexport.") and name not in PLAIN)]


@pytest.mark.parametrize("name", PLAIN)
def test_imports_run_one_way_through_the_rooms(name: str) -> None:
    found = [other for other in of_ours(name) if room(other) not in TORCH_ROOMS]
    assert not [other for other in found if ROOMS.index(room(other)) > ROOMS.index(room(name))]


@pytest.mark.parametrize("name", PLAIN)
def test_only_commands_and_the_api_import_frontends_and_train_and_only_inside_functions(name: str) -> None:
    found = imports(TREES[name], inside_functions=room(name) not in ("api", "cli"))
    assert not [
        module for module in found if is_torch(module) or module.startswith(tuple(f"qexport.{r}" for r in TORCH_ROOMS))
    ]


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) in TORCH_ROOMS])
def test_frontends_know_the_core_alone_and_train_the_frontends(name: str) -> None:
    assert {room(other) for other in of_ours(name)} <= TORCH_ROOMS[room(name)] | {room(name)}


def test_no_modules_import_each_other_in_a_circle() -> None:
    left = {name: of_ours(name) & set(MODULES) - {name} for name in MODULES}
    while leaves := [name for name, found in left.items() if not found & set(left)]:
        for name in leaves:
            del left[name]
    assert not left
