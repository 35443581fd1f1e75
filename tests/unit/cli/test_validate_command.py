"""``gptplan validate``: its JSON, its CSV, its limits and its messages."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.cli import app as cli
from tests.unit.validation.validation_rows import PUBLISHED, RECORDED, write_table

Run = Callable[..., tuple[int, str, str]]
SKIPPED = PUBLISHED | {"id": "p-2", "kv_heads": "8"}
OTHER = PUBLISHED | {"id": "p-3", "tp": "4", "dp": "2", "measured_step_s": "21.5"}


@pytest.fixture
def validate(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as finished:
            cli.main(["validate", *map(str, arguments)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(finished.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "runs.csv", PUBLISHED, SKIPPED, OTHER)


def test_json_has_the_promised_fields(validate: Run, table: Path) -> None:
    code, out, _ = validate(table, "--json")
    document: dict[str, Any] = json.loads(out)
    assert code == 0
    one = document["sets"]["BLOOM-prequel"]
    assert (one["rows"], one["scored"]) == (3, 2)
    assert one["skipped"] == {"grouped-query attention of a model whose other parts are not told": 1}
    assert one["memory"].keys() == one["step_time"].keys() == {"n", "mean_abs_pct", "max_abs_pct", "bias_pct"}
    assert one["outcome"].keys() == {f"{was}_as_{said}" for was in ("fit", "oom", "failed") for said in ("fit", "oom")}
    assert one["ranking"].keys() >= {"groups", "kendall_tau", "top1_regret_pct"}
    assert one["ranking"]["groups"] == 1
    rows = document["rows"]
    assert [row["id"] for row in rows] == ["p-1", "p-2", "p-3"]
    fields = {"id", "predicted_mem_gib", "predicted_step_s", "predicted_outcome", "skipped"}
    assert all(row.keys() >= fields for row in rows)
    assert rows[0]["skipped"] is None
    assert rows[0]["predicted_outcome"] == "fit"
    assert rows[1]["predicted_step_s"] is None
    error = 100 * (rows[0]["predicted_step_s"] / 20.5 - 1)
    assert rows[0]["step_error_pct"] == pytest.approx(error)
    assert document["assumptions"]


def test_out_writes_the_rows_with_predictions_and_can_be_read_again(validate: Run, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "predicted.csv"
    assert validate(table, "--out", out)[0] == 0
    assert validate(table, "--out", out)[0] == 0
    before = table.read_bytes()
    code, _, err = validate(table, "--out", table)
    assert (code, "there is a file already" in err, table.read_bytes() == before) == (2, True, True)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["p-1", "p-2", "p-3"]
    assert rows[0]["measured_step_s"] == "20.5"
    assert float(rows[0]["predicted_step_s"]) > 0
    assert rows[1]["predicted_step_s"] == ""
    assert rows[1]["skipped"].startswith("grouped-query attention")
    assert validate(out)[0] == 0


def test_tables_of_several_dialects_go_together(validate: Run, table: Path, tmp_path: Path) -> None:
    other = write_table(tmp_path / "own.csv", RECORDED)
    document = json.loads(validate(table, other, "--json")[1])
    assert list(document["sets"]) == ["BLOOM-prequel", "own-runs"]
    assert document["sets"]["own-runs"]["memory_by_kind"].keys() == {"allocated", "reserved", "device"}


def test_the_text_names_skips_assumptions_and_worst_rows(validate: Run, table: Path) -> None:
    _, out, err = validate(table, "--worst", 1)
    assert err == ""
    assert "1 BLOOM-prequel: grouped-query attention of a model whose other parts are not told" in out
    assert "BLOOM-prequel: stack megatron-deepspeed (trained with BigScience's Megatron-DeepSpeed)" in out
    assert "worst rows by memory" in out
    assert "worst rows by step time" in out


def test_a_set_can_be_chosen(validate: Run, table: Path, tmp_path: Path) -> None:
    other = write_table(tmp_path / "own.csv", RECORDED)
    document = json.loads(validate(table, other, "--set", "own-runs", "--json")[1])
    assert list(document["sets"]) == ["own-runs"]
    assert [row["id"] for row in document["rows"]] == ["r-1"]


def test_an_unknown_set_is_told_the_known_ones(validate: Run, table: Path) -> None:
    code, _, err = validate(table, "--set", "BLOOM-prekwel")
    assert code == 2
    assert "did you mean `BLOOM-prequel`?" in err


@pytest.mark.parametrize("option", ["--max-memory-error", "--max-time-error"])
def test_exit_code_1_over_a_limit(validate: Run, table: Path, option: str) -> None:
    code, _, err = validate(table, option, 0.001)
    assert code == 1
    assert "error[VAL001]: BLOOM-prequel: the mean" in err
    assert validate(table, option, 1000)[0] == 0


def test_over_a_limit_json_says_so(validate: Run, table: Path) -> None:
    code, out, _ = validate(table, "--max-time-error", 0.001, "--json")
    assert code == 1
    assert len(json.loads(out)["over_limit"]) == 1


@pytest.mark.parametrize("limit", ["-1", "nan", "inf"])
def test_a_limit_has_to_be_a_percentage(validate: Run, table: Path, limit: str) -> None:
    code, _, err = validate(table, "--max-time-error", limit)
    assert code == 2
    assert "--max-time-error has to be a percentage" in err


def test_another_card_can_be_tried(validate: Run, table: Path) -> None:
    own = json.loads(validate(table, "--json")[1])["rows"][0]["predicted_step_s"]
    other = json.loads(validate(table, "--gpu", "h100-80g", "--json")[1])["rows"][0]["predicted_step_s"]
    assert other < own
    assert validate(table, "--gpu", "z100")[0] == 2


def test_rows_with_a_wrong_cell_are_left_out_and_counted_by_what_is_wrong(validate: Run, tmp_path: Path) -> None:
    right = PUBLISHED | {"stack": ""}
    wrong = right | {"hidden": "wide"}
    path = write_table(tmp_path / "runs.csv", right, wrong, wrong, right | {"stack": "megatrn"})
    code, out, err = validate(path, "--json")
    one = json.loads(out)["sets"]["BLOOM-prequel"]
    assert (code, err, one["scored"]) == (0, "", 1)
    assert one["skipped"] == {
        "hidden: `wide` is no whole number from 1 on": 2,
        "stack: there is no stack spec named `megatrn`": 1,
    }


FACTS = """
[BLOOM-prequel]
stack = "megatron"
network = "1 x 100 Gbit/s"
[BLOOM-prequel.why]
network = "its data sheet"
"""


def test_a_file_of_facts_fills_blanks_of_a_set(validate: Run, table: Path, tmp_path: Path) -> None:
    facts = tmp_path / "facts.toml"
    facts.write_text(FACTS)
    built_in, own = (json.loads(validate(table, "--json", *more)[1]) for more in ((), ("--facts", facts)))
    assert own["rows"][2]["predicted_step_s"] != built_in["rows"][2]["predicted_step_s"]
    assert "network `1 x 100 Gbit/s`: 1 x 100 Gbit/s a node" in own["assumptions"]
    assert any("stack megatron (" in words for words in own["assumptions"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[mine]\nstak = 'fsdp'", "unknown key `stak`"),
        ("[mine]\nstack = 'fsdpp'", "there is no stack spec named `fsdpp`"),
        ("[mine]\nlike = 'vTrian'", "did you mean `vTrain`?"),
        ("[mine]\nlike = 'other'\n[other]\nlike = 'mine'", "the set is like itself: mine -> other -> mine"),
        ("[mine]\nnetwork = 'fast'", "does not say how many adapters a node has"),
        ("[mine]\nzero_stage = 4", "Expected `int` <= 3"),
        ("mine = 3", "`mine` is no table"),
        ("[networks.fabric]\nadapters = '0 x 200 Gbit/s'", "does not say how many adapters a node has, 1 to 64"),
        ("[mine", "the file of facts is not TOML"),
    ],
)
def test_a_wrong_file_of_facts_says_where(validate: Run, table: Path, tmp_path: Path, text: str, message: str) -> None:
    facts = tmp_path / "facts.toml"
    facts.write_text(text)
    code, out, err = validate(table, "--facts", facts)
    assert (code, out) == (2, "")
    assert message in err
    assert str(facts) in err


def test_a_missing_table(validate: Run) -> None:
    code, _, err = validate("nowhere.csv")
    assert code == 2
    assert "cannot read the table" in err


@pytest.mark.parametrize("target", [".", "nowhere/out.csv"])
def test_out_has_to_be_writable(validate: Run, table: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(table.parent)
    code, _, err = validate(table, "--out", target)
    assert code == 2
    assert "--out predicted.csv" in err
