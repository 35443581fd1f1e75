"""The committed plans are what the solver answers today, and those of the tables have the rows' layouts.

Where a change of a formula or a spec is meant to change them, `make plans` writes them again.
"""

import shlex
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from planner.cli import app as cli
from planner.layouts.layout import Offload
from planner.plans.plan import Plan, canonical_json, read_plan
from planner.plans.question import build_problem, plan_name
from plans.make import asked, command, path_of, solved

ASKED = asked()
ROWS = {name: one for name, one in ASKED.items() if one.row}


def comparable(encoded: bytes) -> dict[str, Any]:
    """A plan's fields less the version of OR-Tools and the digest that covers it.

    Floats are rounded to ten digits: processors differ in the last ones of a logarithm.
    """
    fields: dict[str, Any] = _rounded(msgspec.json.decode(encoded))
    del fields["evidence"]["ortools_version"], fields["digest"]
    return fields


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.10g}") if isinstance(value, float) else value


@pytest.mark.parametrize("name", ASKED)
def test_a_committed_plan_is_still_the_answer(name: str) -> None:
    committed = path_of(name)
    read_plan(committed)
    answer = canonical_json(solved(ASKED[name].question))
    assert comparable(answer) == comparable(committed.read_bytes()), "run `make plans`"


def test_every_committed_plan_is_tested() -> None:
    assert {path.stem for path in path_of("any").parent.glob("*.plan")} == set(ASKED)


def test_plans_without_a_row_have_the_names_that_solve_gives() -> None:
    names = {name: plan_name(build_problem(one.question)) for name, one in ASKED.items() if name not in ROWS}
    assert names == {name: f"{name}.plan" for name in names}
    assert len(names) == 4


@pytest.mark.parametrize("name", ["gpt2-nvme", "gpt3-pp2p5d"])
def test_the_command_that_is_shown_makes_the_plan(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(command(name, ASKED[name].question))
    assert program == "gptplan"
    with pytest.raises(SystemExit) as finished:
        cli.main(arguments)
    assert not finished.value.code, capsys.readouterr().err
    assert comparable(Path(f"plans/{name}.plan").read_bytes()) == comparable(path_of(name).read_bytes())


@pytest.mark.parametrize("name", ASKED)
def test_a_committed_plan_passes_check(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as finished:
        cli.main(["check", str(path_of(name))])
    answer = capsys.readouterr()
    assert not finished.value.code, answer.err
    assert answer.out.startswith("valid and fits; ")


class Row(NamedTuple):
    """A row of the tables: what it prints, and the ZeRO stage, offload and depth of its config."""

    gpus: int
    batch: int
    """Of one data-parallel rank, as the configs load it."""
    mode: str
    degrees: tuple[int, int, int]
    """TP, PP and DP."""
    zero_stage: int = 0
    offload: Offload = Offload()
    depth: int = 1
    card: str = "a100-80g"


ON_HOST = Offload(optimizer=1.0, tier="cpu")
ALL_ON_HOST = Offload(optimizer=1.0, parameters=1.0, tier="cpu")
ON_NVME = Offload(optimizer=1.0, parameters=1.0, tier="nvme")
SMALL_CARD = "a100-40g"

# Batches of 1 that do not divide over a grid or fill a pipeline are the next larger ones.
EXPECTED = {
    "gpt2-vanilla": Row(1, 1, "none", (1, 1, 1)),
    "gpt2-dp": Row(2, 1, "none", (1, 1, 2)),
    "gpt2-1d": Row(2, 1, "1d", (2, 1, 1)),
    "gpt2-2d": Row(4, 2, "2d", (4, 1, 1)),
    "gpt2-2p5d": Row(2, 2, "2.5d", (2, 1, 1), depth=2),
    "gpt2-3d": Row(8, 4, "3d", (8, 1, 1)),
    "gpt2-pp": Row(2, 2, "none", (1, 2, 1)),
    "gpt2-zero2": Row(1, 1, "none", (1, 1, 1), 2, ON_HOST),
    "gpt2-zero3": Row(1, 1, "none", (1, 1, 1), 3, ALL_ON_HOST),
    "gpt2-nvme": Row(1, 1, "none", (1, 1, 1), 3, ON_NVME),
    "gpt2-pp1d": Row(8, 8, "1d", (2, 2, 2)),
    "gpt3-pp1d-min": Row(96, 192, "1d", (4, 24, 1), card=SMALL_CARD),
    "gpt3-pp1d": Row(128, 192, "1d", (4, 32, 1), card=SMALL_CARD),
    "gpt3-pp2d": Row(96, 2 * 48, "2d", (4, 24, 1), card=SMALL_CARD),
    "gpt3-pp2p5d": Row(96, 2 * 48, "2.5d", (4, 24, 1), card=SMALL_CARD),
    "gpt3-zero3-min": Row(64, 3, "none", (1, 1, 64), 3, ALL_ON_HOST, card=SMALL_CARD),
    "gpt3-zero3": Row(96, 2, "none", (1, 1, 96), 3, ALL_ON_HOST, card=SMALL_CARD),
}


def row_of(plan: Plan) -> Row:
    layout = plan.layout
    return Row(
        gpus=plan.problem.num_devices,
        batch=layout.micro_batch * layout.num_microbatches,
        mode=layout.tensor_mode,
        degrees=(layout.tensor_parallel, layout.pipeline_parallel, layout.data_parallel),
        zero_stage=layout.zero_stage,
        offload=layout.offload,
        depth=layout.tensor_depth,
        card=plan.problem.hardware.name,
    )


def test_every_row_has_a_plan() -> None:
    assert ROWS.keys() == EXPECTED.keys()
    assert len({one.row for one in ROWS.values()}) == 17


@pytest.mark.parametrize("name", EXPECTED)
def test_a_plan_has_the_layout_of_its_row(name: str) -> None:
    plan = read_plan(path_of(name))
    assert row_of(plan) == EXPECTED[name]
    model, seq_len = ("gpt2-small", 1024) if name.startswith("gpt2") else ("gpt3-175b", 2048)
    assert (plan.problem.model.name, plan.problem.seq_len, plan.layout.precision) == (model, seq_len, "fp16")
    assert plan.evidence.status == "optimal"


@pytest.mark.parametrize("name", [name for name, row in EXPECTED.items() if row.mode in ("2d", "2.5d", "3d")])
def test_a_smaller_batch_than_noted_does_not_divide_over_the_grid(name: str) -> None:
    from planner.rules import violations

    plan, row = read_plan(path_of(name)), EXPECTED[name]
    smaller = msgspec.structs.replace(plan.layout, micro_batch=plan.layout.micro_batch // 2)
    broken = {found.rule for found in violations(plan.problem, smaller)}
    assert "TP023" in broken
    assert ("batch" in ROWS[name].note) == (row.card != SMALL_CARD)
