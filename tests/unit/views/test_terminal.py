"""Outputs are as wide as the terminal: words are wrapped and never cut, and no line ends in blanks."""

import re
from pathlib import Path

import pytest

from planner.solver.sweep import Row
from planner.views.content import Fields, Table
from planner.views.sweep import rows_table
from planner.views.terminal import print_content
from tests.helpers import Run

ROOT = Path(__file__).parents[3]
PLAN, OTHER = ROOT / "plans" / "gpt3-pp1d-min.plan", ROOT / "plans" / "gpt3-96xa100-40g.plan"
CONFIG = ROOT / "tests" / "configs" / "valid" / "gpt2_1d.py"
COMMANDS: list[tuple[object, ...]] = [
    ("solve", "--model", "gpt3-13b", "--gpus", 16, "--top", 5),
    ("solve", "--model", "gpt3", "--gpus", 96, "--min-gpus", "--pin", "tensor_parallel=4"),
    ("show", PLAN),
    ("check", PLAN),
    ("check", CONFIG, "--gpus", 2),
    ("check", CONFIG.parent.parent / "valid", "--gpus", 8),
    ("diff", PLAN, OTHER),
    ("rules",),
    ("explain", "TP001"),
    ("explain", "EST001"),
    ("models",),
    ("hardware",),
    ("sweep", "--model", "gpt2-small", "--gpus", 1, "--vary", "global_batch=8"),
    ("validate", ROOT / "tests" / "validation" / "library_runs.csv"),
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda one: f"{one[0]} {Path(str(one[-1])).name}")
@pytest.mark.parametrize("width", [60, 200])
def test_no_output_is_wider_than_the_terminal(
    width: int, arguments: tuple[object, ...], gptplan: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    outcome = gptplan(*arguments)
    assert outcome.out
    for line in outcome.out.splitlines():
        # A path or a digest stays in one piece, on a line of its own.
        assert len(line) <= width or " " not in line.strip(), line
        assert line == line.rstrip(), line


def test_behind_a_pipe_nothing_is_wrapped(gptplan: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = gptplan("show", PLAN).out.splitlines()
    assert any(
        re.match(r" +0 .* optimizer moments [0-9.]+ GiB, master weights .*, gradients [0-9.]+ GiB$", x) for x in lines
    )
    assert any(line.startswith("assumes: ") and line.endswith("the first step takes 12 s longer") for line in lines)
    assert not any(line != line.rstrip() for line in lines)


NUMBERS = Table(("row", "first", "second", "third"), [("a", "1" * 20, "2" * 20, "3" * 20), ("b", "4", "5", "6")])


def printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int, *blocks: object
) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    print_content(*blocks)  # type: ignore[arg-type]
    return capsys.readouterr().out.splitlines()


def test_a_wide_table_is_divided_between_columns_with_its_keys_before_each_part(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(capsys, monkeypatch, 50, NUMBERS)
    assert [line.split() for line in lines] == [
        ["row", "first", "second"],
        ["a", "1" * 20, "2" * 20],
        ["b", "4", "5"],
        [],
        ["row", "third"],
        ["a", "3" * 20],
        ["b", "6"],
    ]
    assert len(printed(capsys, monkeypatch, 80, NUMBERS)) == 3


def test_no_figure_is_cut_however_narrow_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = "\n".join(printed(capsys, monkeypatch, 10, NUMBERS))
    assert all(digit * 20 in out for digit in "123")


def test_fields_stand_beside_each_other_where_there_is_room(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = Fields([("one", "1"), ("two", "2" * 20), ("three", "3")])
    assert len(printed(capsys, monkeypatch, 80, fields)) == 2
    assert [line.split()[0] for line in printed(capsys, monkeypatch, 30, fields)] == ["one", "two", "three"]


def test_lines_keep_their_indent_and_their_long_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/a/" + "folder/" * 8
    assert printed(capsys, monkeypatch, 20, f"  plan: {path}", "", "a b") == ["  plan:", f"  {path}", "", "a b"]


def test_a_sweep_repeats_what_it_varies(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    varied = [{"gpus": gpus, "global_batch": batch} for gpus in "12" for batch in ("8", "16")]
    rows = [Row(varied=one, status="infeasible", rules=("MEM001", "PP001")) for one in varied]
    lines = printed(capsys, monkeypatch, 60, rows_table(rows))
    assert lines.count("") > 0
    for part in "\n".join(lines).split("\n\n"):
        assert re.findall(r"^ *([12]) +(8|16)\b", part, re.MULTILINE) == [tuple(one.values()) for one in varied]
