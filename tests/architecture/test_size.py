"""No file and no function grows beyond what a reader takes in."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60
FILES = sorted(
    path
    for folder in ("planner", "runtime", "tests", "benchmarks", "docs", "plans")
    for path in (ROOT / folder).rglob("*.py")
)


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_size(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, f"{lines} lines"
    long = [f"{name}: {length} lines" for name, length in functions(path) if length > MAX_FUNCTION_LINES]
    assert not long
