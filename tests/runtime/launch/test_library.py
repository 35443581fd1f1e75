"""Runs of Colossal-AI by hand, on the CPU: the harness trains, measures and writes rows that validate reads."""

from pathlib import Path

import pytest

from benchmarks.library.cases import LibraryCase
from benchmarks.library.run import cells, main, prepared, run_case
from planner.validation import validate
from planner.validation.recording import append_row

pytestmark = pytest.mark.runtime
LIMIT_S = 100.0
TINY = LibraryCase(
    name="tiny",
    layers=2,
    hidden=64,
    heads=4,
    seq_len=32,
    vocab=512,
    tp=2,
    micro_batch=2,
    flash=False,
    fused_adam=False,
    steps=4,
)
FIELDS = {name: getattr(TINY, name) for name in TINY.__struct_fields__}


def test_a_case_becomes_a_row(tmp_path: Path) -> None:
    measured = run_case(TINY, prepared(TINY), "cpu", LIMIT_S)
    assert measured is not None
    assert (measured["outcome"], measured["colossalai"]) == ("fit", "0.5.0")
    table = tmp_path / "rows.csv"
    row = cells(TINY, "H100-SXM-80G", "by-hand") | measured
    append_row(table, lambda _: row)
    append_row(table, lambda _: row)
    report = validate([table])
    assert (report.sets["by-hand"].scored, report.sets["by-hand"].step_time.n) == (2, 2)
    case = report.replays[0].case
    assert case is not None
    assert (case.problem.stack.name, case.layout.tensor_parallel, case.problem.model.vocab_size) == (
        "colossalai-hf",
        2,
        512,
    )
    assert case.measured.step_s == float(measured["step_s"]) > 0


def test_a_case_that_fails_gives_no_row(capfd: pytest.CaptureFixture[str]) -> None:
    broken = LibraryCase(**(FIELDS | {"heads": 3}))  # 64 units do not divide by it
    assert run_case(broken, prepared(broken), "cpu", LIMIT_S) is None
    assert "ValueError" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "missing required field `case`"),
        ("case = []", "length >= 1"),
        ("[[case]", "cannot read"),
        ("[[case]]\nlayer = 2", "unknown field `layer`"),
        (None, "No such file"),
    ],
)
def test_cases_that_cannot_be_read_are_told_in_one_line(
    text: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cases.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit) as ended:
        main([str(path), "-o", str(tmp_path / "rows.csv")])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert said in error
    assert "name a TOML file of [[case]] tables" in error
    assert "Traceback" not in error
