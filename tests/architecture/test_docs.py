"""What the documentation says is true: generated pages are fresh, commands and options exist."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup

from docs import check_page, cli_page, facts_page, job_page, plans_page, schedules_page, specs_page
from docs.chart import Axis
from docs.rules_page import PAGE, rules_page
from planner.cli.app import app
from planner.lint.registry import EVERY_RULE
from planner.specs import HardwareSpec, ModelSpec, StackSpec
from planner.specs.files import ALIASES, builtin_names

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = typer.main.get_command(app)
MOST_PLOT_BYTES = 80_000
VALUES: dict[str, type] = {"--model": ModelSpec, "--gpu": HardwareSpec, "--stack": StackSpec}


def code(page: Path) -> Iterator[str]:
    """Code of a page: the lines of its fenced blocks and its inline literals."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    yield from (line.removeprefix("$ ") for block in blocks for line in block.splitlines())
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def shown(program: str) -> list[tuple[str, list[str]]]:
    """Every ``program ...`` of the documentation, as its page and its arguments."""
    lines = [(page.name, line.strip()) for page in PAGES for line in code(page)]
    pattern = re.compile(rf"(?:\S*/)?{program}\s+(.*)")
    matches = [(page, pattern.fullmatch(line)) for page, line in lines]
    return [(page, shlex.split(match[1], comments=True)) for page, match in matches if match]


def named(calls: list[tuple[str, list[str]]]) -> list[str]:
    return [f"{page}: {' '.join(arguments)}" for page, arguments in calls]


GPTPLAN = shown("gptplan")
MAKE = shown("make")


@pytest.mark.parametrize(("page", "arguments"), GPTPLAN, ids=named(GPTPLAN))
def test_commands_exist_with_their_options(page: str, arguments: list[str]) -> None:
    assert isinstance(COMMANDS, TyperGroup)
    if arguments[0].startswith("-"):
        assert arguments[0] in {option for parameter in COMMANDS.params for option in parameter.opts} | {"--help"}
        return
    assert arguments[0] in COMMANDS.commands
    command = COMMANDS.commands[arguments[0]]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    used = {argument.partition("=")[0] for argument in arguments[1:] if re.match(r"--?[a-z]", argument)}
    assert used <= known
    for option, value in pairwise(arguments):
        if option in VALUES and not value.isupper() and not value.endswith(".toml"):
            assert value in {*builtin_names(VALUES[option]), *ALIASES}


@pytest.mark.parametrize(("page", "arguments"), MAKE, ids=named(MAKE))
def test_make_targets_exist(page: str, arguments: list[str]) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {argument for argument in arguments if "=" not in argument} <= {*targets}


def test_rules_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == rules_page() + "\n", "run `make docs`"


def test_the_page_of_specs_is_up_to_date() -> None:
    assert specs_page.PAGE.read_text(encoding="utf-8") == specs_page.specs_page(), "run `make docs`"


def test_the_page_of_facts_is_up_to_date() -> None:
    assert facts_page.PAGE.read_text(encoding="utf-8") == facts_page.facts_page(), "run `make docs`"


def test_the_page_of_jobs_is_up_to_date() -> None:
    assert job_page.PAGE.read_text(encoding="utf-8") == job_page.job_page(), "run `make docs`"


def test_the_page_of_commands_is_up_to_date() -> None:
    assert cli_page.PAGE.read_text(encoding="utf-8") == cli_page.cli_page() + "\n", "run `make docs`"


def test_the_page_of_what_check_reads_is_up_to_date() -> None:
    assert check_page.PAGE.read_text(encoding="utf-8") == check_page.check_page(), "run `make docs`"


def test_the_page_of_plans_is_up_to_date() -> None:
    assert plans_page.PAGE.read_text(encoding="utf-8") == plans_page.plans_page(), "run `make plans`"


def test_the_page_of_schedules_is_up_to_date() -> None:
    assert schedules_page.PAGE.read_text(encoding="utf-8") == schedules_page.schedules_page(), "run `make docs`"


def test_plots_are_small() -> None:
    assert sum(path.stat().st_size for path in (ROOT / "docs").glob("*.svg")) < MOST_PLOT_BYTES


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis("s", 0.05, 700, log=10), [0.1, 1, 10, 100]),
        (Axis("s", 2, 60, log=10), [2, 5, 10, 20, 50]),
        (Axis("s", 2, 9, log=10), [2, 4, 6, 8]),
        (Axis("GPUs", 7, 17000, log=2), [32, 256, 2048, 16384]),
        (Axis("%", -12, 31), [-10, 0, 10, 20, 30]),
    ],
)
def test_ticks_of_plots_are_few_and_round(axis: Axis, ticks: list[float]) -> None:
    assert axis.ticks() == pytest.approx(ticks)


def test_every_plan_is_on_the_page_of_verified_layouts() -> None:
    page = (ROOT / "docs" / "verification.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    names = {path.stem for path in (ROOT / "plans").glob("*.plan")}
    assert names <= {line.split("`")[1] for line in rows}, "run `python -m docs.verification_page`"
    assert all(line.endswith(("| yes |", "| needs GPUs |")) for line in rows)


def test_rules_named_in_pages_exist() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    prefixes = {rule.id.rstrip("0123456789") for rule in EVERY_RULE}
    mentioned = {id_ for id_ in re.findall(r"\b[A-Z]{2,4}[0-9]{3}\b", text) if id_.rstrip("0123456789") in prefixes}
    assert mentioned <= {rule.id for rule in EVERY_RULE}


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text) if ":" not in target]
        missing = [target for target in targets if target and not (page.parent / target).exists()]
        assert not missing, f"{page.name}: {missing}"


def test_the_changelog_has_this_version() -> None:
    from planner import __version__

    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(__version__)}\b", changelog, re.MULTILINE)


def test_versions_agree() -> None:
    from planner.launch.machine import TRANSFORMERS_VERSION

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stack = tomllib.loads((ROOT / "specs/stacks/colossalai.toml").read_text(encoding="utf-8"))
    pinned = f"colossalai=={stack['version']}"
    assert pinned in project["optional-dependencies"]["cluster"]
    assert pinned in (ROOT / "requirements/colossalai.txt").read_text(encoding="utf-8").splitlines()
    assert f"transformers=={TRANSFORMERS_VERSION}" in project["optional-dependencies"]["runtime"]
