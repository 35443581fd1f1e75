"""Start-up stays light, and imports keep their directions."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "colossalai", "transformers", "ortools", "networkx", "numpy", "tomlkit", "runtime"}
PROBE = """
import sys
try:
    {statement}
except SystemExit as finished:
    assert not finished.code, finished.code
print("loaded:", *sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after ``statement``."""
    code = PROBE.format(statement=statement)
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].removeprefix("loaded: ").split())


@pytest.mark.parametrize(
    "statement",
    [
        "import planner.cli.app",
        "from planner.cli.app import main; main(['--help'])",
        "from planner.cli.app import main; main(['--version'])",
        "from planner.cli.app import main; main(['solve', '--help'])",
    ],
)
def test_start_up_loads_nothing_heavy(statement: str) -> None:
    assert not loaded_by(statement) & HEAVY


def test_solving_loads_no_runtime() -> None:
    loaded = loaded_by("import planner.solver, planner.views.answer, planner.views.terminal, planner.launch.processes")
    assert "ortools" in loaded
    assert not loaded & {"torch", "colossalai", "transformers", "runtime"}


def test_imports_keep_their_directions() -> None:
    code = "from importlinter.cli import lint_imports_command as lint; lint()"
    command = [sys.executable, "-c", code, "--no-logo", "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_both_halves_know_these_rooms() -> None:
    """The contract lists what the runtime may not import, so that a new room is in it or here."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    (contract,) = (one for one in tools["importlinter"]["contracts"] if one["id"] == "runtime-reads-plans")
    rooms = {f"planner.{path.stem}" for path in (ROOT / "planner").iterdir() if not path.stem.startswith(("_", "py"))}
    shared = {
        f"planner.{name}"
        for name in (
            "checkpoints",
            "diagnostics",
            "inputs",
            "outputs",
            "data",
            "specs",
            "handover",
            "jobs",
            "layouts",
            "plans",
            "rules",
        )
    }
    assert rooms - {*contract["forbidden_modules"]} == shared
