"""The order of floors (DESIGN section 3): a module imports only from what stands before it in this list."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "engine"

# Each line may import from the lines before it and from itself.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("engine.version",),
    ("engine.errors",),
    ("engine.config",),
    ("engine.model.states",),
    ("engine.model.lines",),
    ("engine.model.line_policy",),
    ("engine.model.records",),
    ("engine.model.chunks", "engine.model.retry", "engine.model.events"),
    ("engine._native",),
    ("engine.native",),
    ("engine.model.bitmap",),
    ("engine.model",),
    ("engine.threads",),
    ("engine.files",),
    ("engine.store",),
    ("engine.net",),
    ("engine.network",),
    ("engine.transfer",),
    ("engine.media",),
    ("engine.control",),
    ("engine.engine",),
    ("engine.opening",),
    ("engine",),
    ("engine.serve", "engine.embed", "engine.cli"),
    ("engine.__main__",),
)

# What only these may import. The command line uses ssl to try a CA file before anything begins.
SOLE: dict[str, tuple[str, ...]] = {
    "lmdb": ("engine.store",),
    "h11": ("engine.net",),
    "ssl": ("engine.net", "engine.cli.asking"),
    "engine._native": ("engine.native",),
}

# Floors 0 and 1 know no tasks and do no input or output.
PURE = ("engine.errors", "engine.config", "engine.model")
IMPURE_MODULES = frozenset(
    {"trio", "os", "io", "socket", "ssl", "select", "shutil", "pathlib", "subprocess", "threading", "time", "tempfile"}
)


def _module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(text: str) -> Iterator[str]:
    """Every module that a file of this text imports, also inside functions and under ``if TYPE_CHECKING``."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the floor"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if _is_module(name) else str(node.module)


def _is_module(name: str) -> bool:
    path = PACKAGE.parent / Path(*name.split("."))
    return name.startswith("engine") and (path.with_suffix(".py").exists() or path.is_dir())


def _floor(module: str) -> int:
    """The place of the longest prefix of ``module`` in the list; the package itself counts for its own file only."""
    best, at = "", -1
    for number, names in enumerate(FLOORS):
        for name in names:
            under = module == name or (name != "engine" and module.startswith(name + "."))
            if under and len(name) > len(best):
                best, at = name, number
    assert at >= 0, f"{module} has no floor: give it its place in FLOORS"
    return at


def _under(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


MODULES = {_module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
IMPORTS = {module: sorted(set(_imports(path.read_text(encoding="utf-8")))) for module, path in MODULES.items()}


@pytest.mark.parametrize("module", MODULES)
def test_imports_come_from_floors_below(module: str) -> None:
    here = _floor(module)
    for name in IMPORTS[module]:
        if _under(name, "engine"):
            assert _floor(name) <= here, f"{module} imports {name}, which stands above it"


@pytest.mark.parametrize(("library", "owners"), SOLE.items())
def test_one_place_alone_knows_each_library(library: str, owners: tuple[str, ...]) -> None:
    users = {module for module, names in IMPORTS.items() if any(_under(name, library) for name in names)}
    assert users, f"nobody imports {library}: has it another name now?"
    assert all(any(_under(user, owner) for owner in owners) for user in users), (
        f"{library} is imported by {sorted(users)}"
    )


@pytest.mark.parametrize("module", [name for name in MODULES if any(_under(name, pure) for pure in PURE)])
def test_values_and_rules_do_nothing(module: str) -> None:
    assert not IMPURE_MODULES & {name.partition(".")[0] for name in IMPORTS[module]}


def test_packages_hold_no_logic() -> None:
    """A package's own file has a docstring, imports and ``__all__``, nothing that runs. The outermost one looks its
    names up when they are first used (PEP 562), so that the command starts, and can be interrupted, at once."""
    allowed = (ast.Import, ast.ImportFrom, ast.Expr, ast.Assign, ast.AnnAssign)
    for module, path in MODULES.items():
        if path.name == "__init__.py":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            rest = [node for node in tree.body if not isinstance(node, allowed)]
            if module == "engine":
                rest = [node for node in rest if not _is_lazy_lookup(node)]
            assert not rest, f"{module} holds logic"


def _is_lazy_lookup(node: ast.stmt) -> bool:
    if isinstance(node, ast.If):
        return ast.unparse(node.test) in {"TYPE_CHECKING", "not TYPE_CHECKING"} and not node.orelse
    return isinstance(node, ast.FunctionDef) and node.name in {"__getattr__", "__dir__"}


@pytest.mark.parametrize(
    "text",
    [
        "import engine.store.state_store",
        "from engine.store import state_store",
        "from engine.store.state_store import StateStore",
        "from engine import open_engine",
        "def late() -> None:\n    import engine.net.client",
    ],
)
def test_an_import_from_above_is_seen(text: str) -> None:
    """The rules themselves: each form of a forbidden import is found."""
    assert any(_floor(name) > _floor("engine.files.names") for name in _imports(text))
