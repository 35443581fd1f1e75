"""What git runs before a commit is what `make lint` runs."""

import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
# The environment counts as set up, whatever runs this.
DRY_RUN = ["make", "--dry-run", "--no-print-directory", "--assume-old", ".venv/dev.stamp"]


def commands(*targets: str) -> list[str]:
    """What make would run for the targets."""
    command = [*DRY_RUN, "VENV=.venv", *targets]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def hooks() -> list[dict[str, object]]:
    document = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (local,) = document["repos"]
    assert local["repo"] == "local"
    found: list[dict[str, object]] = local["hooks"]
    return found


def test_hooks_run_what_make_lint_runs() -> None:
    entries = [str(hook["entry"]).removeprefix("make --silent ") for hook in hooks()]
    assert entries == [hook["id"] for hook in hooks()]
    assert commands(*entries) == commands("lint")


def test_make_lint_runs_every_tool() -> None:
    tools = [match[1] for line in commands("lint") if (match := re.match(r"\.venv/bin/([\w-]+)", line))]
    assert tools == ["ruff", "ruff", "codespell", "lint-imports", "mypy"]


def test_hooks_judge_the_whole_tree() -> None:
    assert all(hook["language"] == "system" and hook["pass_filenames"] is False for hook in hooks())
