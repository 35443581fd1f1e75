"""The command line, in this process: what it prints where, and how it exits."""

import json
import re
from pathlib import Path

import pytest

from planner.plans.plan import read_plan
from tests.helpers import Run


@pytest.fixture
def plan_path(gptplan: Run) -> Path:
    """A plan of a small model."""
    assert gptplan("solve", "--model", "gpt2-small", "--gpus", 8, "-o", "small.plan").code == 0
    return Path("small.plan")


def test_solve_prints_layout_time_memory_and_plan_file(gptplan: Run) -> None:
    outcome = gptplan("solve", "--model", "gpt3", "--gpus", 96, "--top", 3)
    assert outcome.code == 0
    assert outcome.err == ""
    for words in ("optimal, proven fastest", "tensor parallel    ", " (1d)", "MFU", "+ reserve", "39.39 GiB", "+0.0%"):
        assert words in outcome.out
    assert outcome.out.rstrip().endswith("plan: plans/gpt3-96xa100-40g.plan")
    assert read_plan(Path("plans/gpt3-96xa100-40g.plan")).layout.num_devices == 96
    assert [path.name for path in Path("plans").iterdir()] == ["gpt3-96xa100-40g.plan"]


def test_solve_json_has_the_fields_that_scripts_rely_on(gptplan: Run) -> None:
    document = gptplan("solve", "--model", "gpt2-small", "--gpus", 8, "--top", 2, "--json").document()
    names = "status objective bound gap solve_s space reasons plan_file plan variants runners_up warnings"
    assert set(names.split()) == set(document)
    assert document["status"] == "optimal"
    assert document["gap"] == 0
    assert set(document["space"]) == {"layouts", "valid", "fit", "rejected"}
    assert document["plan_file"] == "plans/gpt2-8xa100-40g.plan"
    predicted, layout = document["plan"]["predicted"], document["plan"]["layout"]
    assert document["plan"]["digest"].startswith("sha256:")
    assert sum(predicted["breakdown_s"].values()) == pytest.approx(predicted["step_s"])
    for stage in predicted["stages"]:
        assert sum(stage["breakdown_bytes"].values()) == stage["peak_bytes"]
        assert stage["peak_bytes"] + stage["reserve_bytes"] <= stage["capacity_bytes"]
    assert set(layout["offload"]) == {"optimizer", "parameters", "tier"}
    assert len(document["runners_up"]) == 1
    assert document["runners_up"][0]["predicted"]["step_s"] >= predicted["step_s"]


def test_solve_is_infeasible_with_reasons_and_no_plan(gptplan: Run) -> None:
    outcome = gptplan("solve", "--model", "gpt3", "--gpus", 97)
    assert outcome.code == 1
    assert outcome.out == ""
    for words in ("error[BAT001]", "error[PP001]", "use `--gpus 96`", "use `--gpus 98`"):
        assert words in outcome.err
    assert not Path("plans").exists()
    document = gptplan("solve", "--model", "gpt3", "--gpus", 16, "--json").document()
    assert document["status"] == "infeasible"
    assert document["plan"] is None
    assert document["plan_file"] is None
    assert [reason["rule"] for reason in document["reasons"]] == ["INF001", "DEV001", "OFF001", "MEM001", "WAY001"]


def test_solve_names_the_nearest_miss_in_memory(gptplan: Run) -> None:
    outcome = gptplan("solve", "--model", "gpt3", "--gpus", 16)
    assert "error[MEM001]: no valid layout fits; in the nearest one the fullest stage needs" in outcome.err
    assert "39.39 GiB" in outcome.err


def test_solve_finds_the_least_number_of_gpus(gptplan: Run) -> None:
    asked = ("solve", "--model", "gpt3-2.7b", "--gpu", "v100-32g", "--min-gpus")
    outcome = gptplan(*asked, "--gpus", 64)
    assert outcome.code == 0
    assert outcome.out.startswith("2 GPUs is the least:\n  1: ")
    assert outcome.out.rstrip().endswith("plan: plans/gpt3-2.7b-2xv100-32g.plan")
    document = gptplan(*asked, "--gpus", 64, "--json").document()
    assert document["plan_file"] == "plans/gpt3-2.7b-2xv100-32g.plan"
    assert document["min_gpus"]["num_devices"] == document["plan"]["problem"]["num_devices"] == 2
    assert document["min_gpus"]["nearest_miss"]["reasons"][0]["rule"] == "MEM001"
    outcome = gptplan(*asked, "--gpus", 1, "-o", "none.plan")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("no number of GPUs up to 1 is enough:")
    assert gptplan(*asked, "--gpus", 1, "--json").document()["min_gpus"]["num_devices"] is None
    assert not Path("none.plan").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gpus", 0), "--gpus has to be from 1"),
        (("--gpus", 10**12), "--gpus has to be from 1"),
        (("--gpus", 8, "--gpus-per-node", 0), "--gpus-per-node has to be from 1"),
        (("--gpus", 8, "--global-batch", -4), "--global-batch has to be from 1"),
        (("--gpus", 8, "--seq-len", 4096), "--seq-len has to be from 1 to 1024, and it is 4096"),
        (("--gpus", 8, "--top", 0), "--top has to be at least 1"),
        (("--gpus", 8, "--time-limit", 0), "--time-limit has to be above 0"),
        (("--gpus", 8, "--reserve", "lots"), "`lots` is no amount of memory"),
        (("--gpus", 8, "--reserve", "100%"), "a reserve of 100% leaves nothing"),
        (("--gpus", 8, "--reserve", "80GiB"), "a reserve of 80GiB leaves nothing"),
        (("--gpus", 8, "--gpu", "a100"), "there is no hardware spec named `a100`"),
        (("--gpus", 8, "--stack", "none.toml"), "cannot read the spec"),
        (("--gpus", 8, "--pin", "tp=4"), "a layout has no field `tp`"),
        (("--gpus", 8, "--mode", "1d", "--pin", "tensor_mode=none"), "pinned to none and to 1d"),
        (("--gpus", 8, "--forbid", "layers_per_stage=even"), "can be pinned, not forbidden"),
        (("--gpus", 8, "--forbid", "recompute_layers_per_stage=1,2"), "can be pinned, not forbidden"),
        (("--gpus", 8, "--pin", "recompute_layers_per_stage=1,-2"), "`1,-2` is no value of recompute_layers_per_stage"),
        (
            ("--gpus", 8, "--pin", "recompute_layers_per_stage=8,5"),
            "need 13 in all, at least one each, and gpt2-small has 12",
        ),
        (("--gpus", 8, "-o", "."), "this is a folder"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_bad_options_get_one_message_and_exit_code_2(options: tuple[object, ...], message: str, gptplan: Run) -> None:
    outcome = gptplan("solve", "--model", "gpt2-small", *options)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("error[") == 1
    assert "hint: " in outcome.err
    assert outcome.out == ""
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("arguments", [("slve",), ("solve",), ("solve", "--model", "gpt3", "--gpus", "many"), ()])
def test_bad_usage_exits_with_2(arguments: tuple[str, ...], gptplan: Run) -> None:
    assert gptplan(*arguments).code == 2


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_an_answer_that_cannot_be_written_is_printed(form: tuple[str, ...], gptplan: Run) -> None:
    Path("file").touch()
    outcome = gptplan("solve", "--model", "gpt2-small", "--gpus", 8, "-o", "file/x.plan", *form)
    assert outcome.code == 2
    assert outcome.err.startswith("error[USAGE]: cannot write the plan")
    if form:
        assert outcome.document()["plan_file"] is None
        assert outcome.document()["plan"]["digest"].startswith("sha256:")
    else:
        assert "optimal, proven fastest" in outcome.out
        assert "plan: " not in outcome.out


def test_a_search_that_was_cut_short_says_how_far_it_may_be(gptplan: Run) -> None:
    """The bound is rounded up: 0.0% would be a proof."""
    outcome = gptplan("solve", "--model", "gpt3", "--gpus", 96, "--time-limit", 0.001)
    assert outcome.code == 0
    found = re.search(r"feasible, at most ([0-9.]+)% from the fastest", outcome.out)
    assert found is not None
    evidence = read_plan(Path("plans/gpt3-96xa100-40g.plan")).evidence
    assert evidence.gap * 100 <= float(found[1]) <= evidence.gap * 100 + 0.01


def test_no_reserve_needs_no_unit(gptplan: Run) -> None:
    stages = [
        gptplan("solve", "--model", "gpt2-small", "--gpus", 8, "--reserve", none, "--json").document()
        for none in ("0", "0 GiB")
    ]
    assert stages[0]["plan"]["digest"] == stages[1]["plan"]["digest"]
    assert stages[0]["plan"]["predicted"]["stages"][0]["reserve_bytes"] == 0


def test_a_reserve_is_kept_free(gptplan: Run) -> None:
    document = gptplan("solve", "--model", "gpt2-small", "--gpus", 8, "--reserve", "6%", "--json").document()
    stage = document["plan"]["predicted"]["stages"][0]
    assert stage["reserve_bytes"] == pytest.approx(0.06 * stage["capacity_bytes"], abs=1)


def test_show_prints_the_plan_and_its_proof(gptplan: Run, plan_path: Path) -> None:
    outcome = gptplan("show", plan_path)
    assert outcome.code == 0
    assert read_plan(plan_path).digest in outcome.out
    document = gptplan("show", plan_path, "--json").document()
    assert [warning["rule"] for warning in document.pop("warnings")] == ["EST002"]
    assert document == json.loads(plan_path.read_bytes())


def test_check_accepts_the_plans_of_solve(gptplan: Run, plan_path: Path) -> None:
    outcome = gptplan("check", plan_path)
    assert outcome.code == 0
    assert "valid and fits" in outcome.out
    document = gptplan("check", plan_path, "--json").document()
    assert set(document) == {"valid", "fits", "diagnostics", "layout", "predicted"}
    assert document["valid"]
    assert document["fits"]
    assert document["diagnostics"] == []


def test_an_edited_plan_is_refused_everywhere(gptplan: Run, plan_path: Path) -> None:
    plan_path.write_text(plan_path.read_text().replace('"micro_batch": ', '"micro_batch": 1'))
    for command in ("show", "check", "run"):
        outcome = gptplan(command, plan_path)
        assert outcome.code == 1
        assert "error[PLAN002]" in outcome.err


def test_a_plan_for_gpus_is_refused_without_them(
    gptplan: Run, plan_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planner.launch.machine.RUNTIME_PACKAGES", ())
    monkeypatch.setattr("planner.launch.machine._other_versions", lambda plan: [])
    monkeypatch.setattr("planner.launch.machine.present_gpus", list)
    outcome = gptplan("run", plan_path)
    assert outcome.code == 1
    assert "error[RUN003]" in outcome.err
    assert "gptplan solve --gpu local-cpu" in outcome.err


def test_lists(gptplan: Run) -> None:
    assert "gpt3-175b" in gptplan("models").out
    assert "h200-141g" in gptplan("hardware").out
    assert "TP001" in gptplan("rules").out
    assert gptplan("models", "--json").document()[0]["name"] == "deepseek-v3"
    assert len(gptplan("hardware", "--json").document()) == 14
    assert {"id", "title", "why", "source", "hint"} <= set(gptplan("rules", "--json").document()[0])


def test_explain_takes_any_case_and_suggests(gptplan: Run) -> None:
    assert "attention heads" in gptplan("explain", "tp001").out
    assert gptplan("explain", "MEM001", "--json").document()["id"] == "MEM001"
    outcome = gptplan("explain", "TP00")
    assert outcome.code == 2
    assert "did you mean `TP0" in outcome.err


def test_a_defect_is_called_one_and_exits_with_3(gptplan: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(problem: object, **_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("planner.solver.solve", broken)
    outcome = gptplan("solve", "--model", "gpt3", "--gpus", 96)
    assert outcome.code == 3
    assert "defect of gptplan" in outcome.err


def test_version(gptplan: Run) -> None:
    assert gptplan("--version").out.startswith("gptplan 0.")
