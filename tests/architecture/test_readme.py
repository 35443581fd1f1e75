"""Figures and examples of the README are what gptplan prints; tests/runtime/launch/test_run.py has those of a run."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from planner.validation import validate
from tests.architecture.test_docs import MAKE, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
FLOWING = " ".join(README.split())
BLOCKS = re.findall(r"^```(?:text)?\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
EXAMPLE = """from colossalai.amp import AMP_TYPE

BATCH_SIZE = 4
NUM_EPOCHS = 60
SEQ_LEN = 1024
HIDDEN_SIZE = 768

TENSOR_PARALLEL = 6

fp16 = dict(mode=AMP_TYPE.NAIVE)
parallel = dict(pipeline=1, tensor=dict(size=TENSOR_PARALLEL, mode="2d"))
"""
NUMBERS = {"seventeen": 17}


def block(beginning: str) -> list[str]:
    """The lines of the one block that has a line which begins so."""
    (found,) = (text.splitlines() for text in BLOCKS if re.search(rf"^{re.escape(beginning)}", text, re.MULTILINE))
    return found


def printed(arguments: list[str], folder: Path) -> list[str]:
    # Pages of help are made for a width of their own.
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [sys.executable, "-m", "planner.cli", *arguments]
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    return done.stdout.splitlines()


def test_the_two_first_commands_are_shown() -> None:
    readme = [arguments for page, arguments in MAKE if page == "README.md"]
    assert ["demo"] in readme
    assert ["test"] in readme


def test_what_solve_prints(tmp_path: Path) -> None:
    shown = block("gpt3-175b on 96 x a100-40g")
    lines = printed(["solve", "--model", "gpt3", "--gpus", "96", "-o", "readme.plan"], tmp_path)
    assert lines[: len(shown)] == shown


def test_what_check_prints(tmp_path: Path) -> None:
    shown = block("error[TP011]")
    (tmp_path / "gpt2_2d.py").write_text(EXAMPLE)
    assert printed(["check", "gpt2_2d.py", "--gpus", "96"], tmp_path)[: len(shown)] == shown


def test_counts_in_words() -> None:
    questions = tomllib.loads((ROOT / "plans" / "questions.toml").read_text(encoding="utf-8"))
    rows = sum("row" in question for question in questions.values() if isinstance(question, dict))
    (word,) = re.findall(r"Plans for the (\w+) layouts in the tables", FLOWING)
    assert NUMBERS[word] == rows
    (runs,) = re.findall(r"h200_runs\.csv` replays (\d+) runs", FLOWING)
    report = validate([ROOT / "tests" / "validation" / "h200_runs.csv"])
    assert int(runs) == sum(one.rows for one in report.sets.values())


def test_the_least_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"Python {project['requires-python'].removeprefix('>=')} or newer" in README
    torch = next(one for one in project["optional-dependencies"]["runtime"] if one.startswith("torch>="))
    assert f"| PyTorch | {torch.removeprefix('torch>=')} or newer;" in README


def test_the_first_paragraph_says_what_gptplan_is_not() -> None:
    first = README.split("\n\n")[1]
    assert re.search(r"\bis (no|not)\b", first)


def test_paths_exist() -> None:
    folders = "planner|runtime|specs|tests|docs|benchmarks|requirements"
    assert not [path for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", README) if not (ROOT / path).exists()]
