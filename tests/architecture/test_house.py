"""The rules of the house (DESIGN 3): order of the imports, sizes, names, what a person reads."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import tltf

HOUSE = Path(tltf.__file__).parent
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "base"}

# A part imports parts above it, and its own package. rundir stands below spec, whose JSON it
# compares; trained stands above serving, whose decision it carries, and below stages.
ORDER = (
    *(
        "errors",
        "legacy",
        "cluster",
        "terminal",
        "methods",
        "policies",
        "checks",
        "interval",
        "specjson",
        "spec",
    ),
    *("recipes", "storage", "tensorfile", "sealed", "variables", "rundir"),
    *(
        "data",
        "probes",
        "backbones",
        "effort",
        "models",
        "training",
        "transfer",
        "adapt",
        "evaluation",
        "serving",
    ),
    *("selection", "trained", "stages", "pipeline", "demo", "doctor", "cli"),
)
MODULES = {
    ".".join(("tltf", *path.relative_to(HOUSE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(HOUSE.rglob("*.py"))
}

# Run in a process of its own, since it imports Keras 2, which tltf refuses beside itself.
ALONE = {"tltf.backbones.hub.download"}


def part(module: str) -> str:
    """``tltf.data.scan`` -> ``data``; the package itself -> ``""``."""
    return module.split(".")[1] if "." in module else ""


def imported(path: Path) -> Iterator[str]:
    """The modules of tltf that a file imports anywhere, in functions too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "tltf")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tltf":
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                yield below if below in MODULES else str(node.module)


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def test_every_part_has_a_place_in_the_order() -> None:
    assert {part(module) for module in MODULES} - {""} <= set(ORDER)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_upwards_only(module: str) -> None:
    own = part(module)
    for other in imported(MODULES[module]):
        if part(other) not in ("", own):
            assert ORDER.index(part(other)) < ORDER.index(own), f"{module} imports {other}"


def test_no_circle_within_a_package() -> None:
    arrows = {
        module: {other for other in imported(path) if other != module}
        for module, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"a circle: {' -> '.join((*above, module))}"
        if module not in done:
            # A lazy __init__ names its own members; the order of parts is checked elsewhere.
            for other in arrows.get(module, set()) if not lazy(module) else set():
                visit(other, (*above, module))
            done.add(module)

    for module in arrows:
        visit(module, ())


def lazy(module: str) -> bool:
    return MODULES[module].name == "__init__.py"


@pytest.mark.parametrize("module", MODULES)
def test_a_file_keeps_its_size_and_its_name(module: str) -> None:
    path = MODULES[module]
    text = path.read_text("utf-8")
    assert not {*module.split("."), path.stem} & FORBIDDEN_NAMES
    assert len(text.splitlines()) <= MAX_FILE_LINES
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says in its first line what it is"
    long = {f.name: body_lines(f) for f in functions(tree) if body_lines(f) > MAX_FUNCTION_LINES}
    assert not long


@pytest.mark.parametrize("folder", ["tltf", "experiments"])
def test_only_the_public_keras_three(folder: str) -> None:
    for path in (HOUSE.parent / folder).rglob("*.py"):
        if path.stem == "legacy":  # the one that refuses it
            continue
        found = re.search(r"\btf\.keras\b|\btf_keras\b|keras\.src\b", path.read_text("utf-8"))
        assert found is None, f"{path}: {found}"


def test_the_library_asserts_nothing() -> None:
    """``python -O`` drops asserts: a check that matters is an exception."""
    for path in MODULES.values():
        kinds = [type(node) for node in ast.walk(ast.parse(path.read_text("utf-8")))]
        assert ast.Assert not in kinds, path


def test_importing_starts_and_opens_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    before = threading.active_count()
    for module in sorted(MODULES.keys() - ALONE):
        importlib.import_module(module)
    assert threading.active_count() == before
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("name", tltf.__all__)
def test_a_public_name_is_there_and_explained(name: str) -> None:
    value = getattr(tltf, name)
    assert (value.__doc__ or "").strip(), f"tltf.{name} has no docstring"
    # A dataclass without one gets its signature as docstring.
    assert not value.__doc__.startswith(f"{name}("), f"tltf.{name} has no docstring"
    assert name in dir(tltf)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = tltf.Trainer


@pytest.mark.parametrize("module", sorted(MODULES.keys() - ALONE))
def test_the_examples_in_docstrings_hold(module: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert not failed


def test_some_module_has_examples() -> None:
    assert doctest.testmod(importlib.import_module("tltf.errors")).attempted > 0


@pytest.mark.parametrize("module", ["tltf", "tltf.stages.data", "experiments.any"])
def test_a_warning_from_our_own_code_is_an_error(module: str) -> None:
    code = compile("import warnings; warnings.warn('careless')", "x.py", "exec")
    with pytest.raises(UserWarning, match="careless"):
        exec(code, {"__name__": module})
    with warnings.catch_warnings(record=True) as others:
        exec(code, {"__name__": "somebody.elses"})
    assert len(others) == 1
