"""Dependencies point down, in the order of the table in docs/contributing/layers.md."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "unmergeable"
PAGE = (ROOT / "docs" / "contributing" / "layers.md").read_text("utf-8")
ROWS = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
HEIGHT = {
    name.removesuffix("/").removesuffix(".py"): len(ROWS) - place
    for place, row in enumerate(ROWS)
    for name in re.findall("`([^`]+)`", row)
}


def imports(path):
    """The modules of the package that a file imports, also inside functions and for types."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "unmergeable":
            yield from (f"unmergeable.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_every_package_stands_in_the_table_and_nothing_else():
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages <= HEIGHT.keys()
    assert all((PACKAGE / n).is_dir() or (PACKAGE / f"{n}.py").is_file() for n in HEIGHT)


@pytest.mark.parametrize("name", HEIGHT)
def test_nothing_imports_what_stands_above_it(name):
    files = [PACKAGE / f"{name}.py"] if (PACKAGE / f"{name}.py").is_file() else []
    files += (PACKAGE / name).rglob("*.py")
    found = {
        (path.relative_to(PACKAGE).as_posix(), module)
        for path in files
        for module in imports(path)
        if module.startswith("unmergeable.") and HEIGHT.get(module.split(".")[1], 0) > HEIGHT[name]
    }
    assert not found
