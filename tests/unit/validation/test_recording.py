"""Rows of ``gptplan run --record``: their columns, appending, and reading them back."""

import csv
import json
import multiprocessing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from planner.cost_model import predict
from planner.diagnostics import PlanError
from planner.layouts.layout import Layout, Offload
from planner.plans.plan import Plan
from planner.plans.question import Question, build_problem
from planner.solver import solve
from planner.solver.answer import Answer
from planner.specs.units import MIB
from planner.validation import recorded
from planner.validation.recording import append_run, check_record
from planner.validation.replay import replay
from planner.validation.tables import RECORDED, read_table

pytest.importorskip("torch", reason="a row states the versions of the runtime's packages")

SHARED_COLUMNS = (
    "id,set,gpu,n_gpus,torch,colossalai,transformers,model,layers,hidden,heads,vocab,seq_len,plugin,tp,pp,dp,"
    "zero_stage,pp_style,num_model_chunks,micro_batch,batch_per_dp_rank,global_batch,recompute,precision,"
    "flash_attention,attn,sequence_parallel,shard_param_frac,offload_optim_frac,optimizer,outcome,step_s,"
    "peak_allocated_mib_per_rank,peak_reserved_mib_max,device_used_mib_max,after_boost_allocated_mib,fresh_process"
)
LAYOUTS: list[dict[str, Any]] = [
    {"tensor_mode": "1d", "tensor_parallel": 2, "sequence_parallel": True, "num_microbatches": 4, "micro_batch": 8},
    {
        "pipeline_parallel": 2,
        "schedule": "interleaved",
        "num_model_chunks": 2,
        "layers_per_stage": (6, 6),
        "recompute_layers_per_stage": (4, 0),
        "num_microbatches": 8,
        "micro_batch": 4,
    },
    {"tensor_mode": "2.5d", "tensor_parallel": 2, "tensor_depth": 2, "num_microbatches": 4, "micro_batch": 8},
    {"recompute_pointwise": True, "recompute_layers_per_stage": (3,), "num_microbatches": 2, "micro_batch": 16},
    {"data_parallel": 2, "zero_stage": 1, "offload": Offload(optimizer=1.0, tier="cpu"), "micro_batch": 16},
    {
        "data_parallel": 2,
        "zero_stage": 3,
        "recompute_layers_per_stage": (12,),
        "micro_batch": 16,
        "offload": Offload(optimizer=1.0, parameters=0.5, tier="nvme"),
    },
]


@pytest.fixture(scope="module")
def solved() -> Plan:
    asked = Question(model="gpt2-small", gpu="h200-141g", gpus=2, global_batch=32)
    answer: Answer = solve(build_problem(asked))
    assert answer.plan
    return answer.plan


def with_layout(plan: Plan, **fields: Any) -> Plan:
    plain = Layout(micro_batch=32, layers_per_stage=(12,), recompute_layers_per_stage=(0,), precision="bf16")
    layout = msgspec.structs.replace(plain, **fields)
    problem = msgspec.structs.replace(plan.problem, precision="bf16", allow_offload=layout.offload.tier)
    return msgspec.structs.replace(plan, layout=layout, problem=problem)


def metrics_of(folder: Path, num_ranks: int) -> Path:
    def ranks(allocated: int) -> list[dict[str, int]]:
        return [
            {
                "allocated_bytes": (allocated + rank) * MIB,
                "reserved_bytes": (allocated + 10 + rank) * MIB,
                "held_bytes": (allocated - 1) * MIB,
                "device_used_bytes": (allocated + 1000 + rank) * MIB,
            }
            for rank in range(num_ranks)
        ]

    path = folder / "x.metrics.jsonl"
    records = [{"memory": ranks(500)}, {"step": 1}, {"median_step_s": 0.123456, "ranks": ranks(4000)}]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_run_without_an_update_has_no_step_time(solved: Plan, tmp_path: Path) -> None:
    table, metrics = tmp_path / "runs.csv", metrics_of(tmp_path, 2)
    metrics.write_text(metrics.read_text().replace("0.123456", "null"))
    append_run(table, with_layout(solved), name="x", outcome="fit", metrics=metrics)
    (row,) = read_table(table).rows
    assert row.text("step_s") == ""
    assert recorded.case_of(row).measured.memory_bytes["allocated"] == 4001 * MIB


def test_a_new_table_has_the_columns_of_the_shared_ones_in_their_order() -> None:
    shared = SHARED_COLUMNS.split(",")
    assert [name for name in RECORDED.columns if name in shared] == shared
    assert len(set(RECORDED.columns)) == len(RECORDED.columns)


@pytest.mark.parametrize("fields", LAYOUTS, ids=lambda fields: "-".join(map(str, fields)))
def test_a_row_says_which_layout_ran(fields: dict[str, Any], solved: Plan, tmp_path: Path) -> None:
    plan, table = with_layout(solved, **fields), tmp_path / "runs.csv"
    append_run(table, plan, name="x", outcome="fit", metrics=metrics_of(tmp_path, 2))
    (row,) = read_table(table).rows
    case = recorded.case_of(row)
    assert case.layout == plan.layout
    assert case.problem.hardware == plan.problem.hardware
    assert case.problem.stack == plan.problem.stack
    assert case.problem.model.dropout == plan.problem.model.dropout
    assert case.measured.step_s == pytest.approx(0.12346)
    assert case.measured.memory_bytes == {"allocated": 4001 * MIB, "reserved": 4011 * MIB, "device": 5001 * MIB}
    assert row.text("after_boost_allocated_mib") == "499 499"
    assert replay(row, RECORDED).skipped is None


def test_rows_are_appended_below_one_header(solved: Plan, tmp_path: Path) -> None:
    table = tmp_path / "new" / "runs.csv"
    for _ in range(3):
        append_run(table, solved, name="x", outcome="fit", metrics=metrics_of(tmp_path, 2))
    assert table.read_text().count("id,set,gpu") == 1
    assert [row.id for row in read_table(table).rows] == ["x-000", "x-001", "x-002"]


def test_a_model_of_grouped_queries_is_read_back(tmp_path: Path) -> None:
    asked = Question(model="llama3-8b", gpu="h200-141g", gpus=1, global_batch=8, seq_len=8192, precision="bf16")
    plan = solve(build_problem(asked)).plan
    assert plan
    table = tmp_path / "runs.csv"
    append_run(table, plan, name="x", outcome="oom", metrics=None)
    (row,) = read_table(table).rows
    case = recorded.case_of(row)
    assert case.layout == plan.layout
    (own,), (replayed,) = plan.predicted.stages, predict(case.problem, case.layout).stages
    assert replayed.peak_bytes == own.peak_bytes


def test_a_run_out_of_memory_has_no_figures(solved: Plan, tmp_path: Path) -> None:
    table = tmp_path / "runs.csv"
    append_run(table, solved, name="x", outcome="oom", metrics=None)
    (row,) = read_table(table).rows
    measured = recorded.case_of(row).measured
    assert (measured.outcome, measured.step_s, measured.memory_bytes) == ("oom", None, {})


def test_a_table_with_the_shared_columns_is_appended_to(solved: Plan, tmp_path: Path) -> None:
    table = tmp_path / "shared.csv"
    table.write_text(SHARED_COLUMNS)  # without the newline that an editor may have left out
    plan = with_layout(solved, **LAYOUTS[0])
    plan = msgspec.structs.replace(plan, problem=msgspec.structs.replace(plan.problem, compiled=False))
    append_run(table, plan, name="x", outcome="fit", metrics=metrics_of(tmp_path, 2))
    header, row = csv.reader(table.read_text().splitlines())
    assert ",".join(header) == SHARED_COLUMNS
    assert len(row) == len(header)


def test_a_table_that_cannot_say_the_layout_is_refused(solved: Plan, tmp_path: Path) -> None:
    table = tmp_path / "shared.csv"
    table.write_text(SHARED_COLUMNS + "\n")
    with pytest.raises(PlanError, match=r"no column tensor_mode, which this plan needs \(`2.5d`\)"):
        check_record(table, with_layout(solved, **LAYOUTS[2]))
    assert table.read_text() == SHARED_COLUMNS + "\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [("a,b\n1,2\n", "no header of a table"), (SHARED_COLUMNS + ",colour\n", "unknown column `colour`")],
)
def test_other_columns_are_refused(content: str, message: str, solved: Plan, tmp_path: Path) -> None:
    table = tmp_path / "other.csv"
    table.write_text(content)
    with pytest.raises(PlanError, match=message):
        check_record(table, solved)
    assert table.read_text() == content


def test_a_folder_is_refused(solved: Plan, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="a folder"):
        check_record(tmp_path, solved)


def _append_some(table: Path, plan: Plan, metrics: Path) -> None:
    for _ in range(10):
        append_run(table, plan, name="x", outcome="fit", metrics=metrics)


def test_runs_at_the_same_time_lose_no_row(solved: Plan, tmp_path: Path) -> None:
    table, metrics = tmp_path / "runs.csv", metrics_of(tmp_path, 2)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_some, args=(table, solved, metrics)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(row.id for row in read_table(table).rows) == [f"x-{number:03d}" for number in range(20)]
