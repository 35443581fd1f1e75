"""Tables of measured runs: what is read, and what a wrong file or cell is told."""

from pathlib import Path

import pytest

from planner.diagnostics import Diagnostic, PlanError
from planner.validation.tables import DIALECTS, read_table
from tests.unit.validation.validation_rows import PUBLISHED, RECORDED, SEED, row, write_table


def told(path: Path) -> Diagnostic:
    with pytest.raises(PlanError) as raised:
        read_table(path)
    assert raised.value.exit_code == 2
    return raised.value.diagnostics[0]


@pytest.mark.parametrize(("base", "dialect"), [(PUBLISHED, "published"), (RECORDED, "recorded"), (SEED, "seed")])
def test_the_header_tells_the_dialect(tmp_path: Path, base: dict[str, str], dialect: str) -> None:
    table = read_table(write_table(tmp_path / "runs.csv", base, base))
    assert table.dialect.name == dialect
    assert [one.line for one in table.rows] == [2, 3]
    assert table.rows[0].cells == base


def test_columns_that_out_appends_are_known(tmp_path: Path) -> None:
    path = write_table(tmp_path / "runs.csv", PUBLISHED | {"predicted_step_s": "3", "skipped": ""})
    assert len(read_table(path).rows) == 1


def test_a_missing_file() -> None:
    finding = told(Path("nowhere.csv"))
    assert finding.message == "cannot read the table: No such file or directory"
    assert finding.location == "nowhere.csv"


def test_a_folder(tmp_path: Path) -> None:
    assert told(tmp_path).message.startswith("cannot read the table")


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.write_text("")
    assert told(path).message == "the table is empty"


def test_no_header(tmp_path: Path) -> None:
    path = tmp_path / "numbers.csv"
    path.write_text("1,2,3\n4,5,6\n")
    assert told(path).message == "the first line is no header of a table of measured runs"


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "binary.csv"
    path.write_bytes(b"\xff\xfe\x00\x01")
    assert told(path).message.startswith("the table is not CSV")


def test_an_unknown_column_names_the_nearest_one(tmp_path: Path) -> None:
    wrong = {("micro_bach" if name == "micro_batch" else name): cell for name, cell in PUBLISHED.items()}
    finding = told(write_table(tmp_path / "runs.csv", wrong))
    assert finding.message == "unknown column `micro_bach`"
    assert finding.hint == "did you mean `micro_batch`?"
    assert finding.location.endswith("runs.csv:1")


def test_a_missing_column(tmp_path: Path) -> None:
    short = {name: cell for name, cell in PUBLISHED.items() if name != "tp"}
    assert told(write_table(tmp_path / "runs.csv", short)).message == "the column tp is missing"


def test_a_column_twice(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(",".join([*PUBLISHED, "tp"]) + "\n")
    assert told(path).message == "the column tp occurs twice"


def test_a_line_with_a_cell_too_many(tmp_path: Path) -> None:
    path = write_table(tmp_path / "runs.csv", PUBLISHED)
    path.write_text(path.read_text() + "a,b,c\n")
    finding = told(path)
    assert finding.message == f"the line has 3 cells and the header {len(PUBLISHED)}"
    assert finding.location.endswith("runs.csv:3")


def test_a_row_without_an_id_is_named_by_its_line_and_its_set_by_the_table(tmp_path: Path) -> None:
    (blank,) = read_table(write_table(tmp_path / "runs.csv", PUBLISHED | {"id": " ", "set": ""})).rows
    assert (blank.id, blank.set_name) == ("line 2", "runs")


@pytest.mark.parametrize("text", ["four", "-1", "0", "2.5", "1e3", "99999999999999999999"])
def test_a_count_has_to_be_one(text: str) -> None:
    with pytest.raises(PlanError, match="no whole number from 1 on") as raised:
        row(PUBLISHED, tp=text).count("tp")
    assert raised.value.diagnostics[0].location == "runs.csv:2: column tp"


@pytest.mark.parametrize("text", ["fast", "-3", "0", "nan", "inf"])
def test_a_number_has_to_be_above_zero(text: str) -> None:
    with pytest.raises(PlanError, match="no number above 0"):
        row(PUBLISHED, measured_step_s=text).number("measured_step_s")


def test_blanks_are_none() -> None:
    blank = row(PUBLISHED, tp="", measured_step_s=" ")
    assert blank.count("tp") is None
    assert blank.number("measured_step_s") is None
    assert blank.text("a column that is not there") == ""


def test_dialects_do_not_share_a_header() -> None:
    for dialect in DIALECTS:
        others = [other for other in DIALECTS if other is not dialect]
        assert all(not dialect.required <= {*other.columns} for other in others)
