"""No rendering of a layout leaves out a field: a layout that differs in one of them reads otherwise everywhere."""

import dataclasses
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from planner.layouts.layout import Layout, Offload
from planner.layouts.words import PRECISION, in_one_line
from planner.lint.check import check_text
from planner.lint.draft import Asked
from planner.plans.plan import Plan, read_plan
from planner.specs import HardwareSpec
from planner.specs.files import load_spec
from planner.views import check as check_view
from planner.views.answer import layout_cells
from planner.views.plan import summary
from planner.views.report import report
from planner.views.terminal import print_content

ROOT = Path(__file__).parents[3]

LAYOUT = Layout(
    tensor_mode="2.5d",
    tensor_parallel=8,
    tensor_depth=2,
    pipeline_parallel=2,
    data_parallel=2,
    zero_stage=1,
    sequence_parallel=True,
    micro_batch=2,
    num_microbatches=16,
    schedule="interleaved",
    num_model_chunks=2,
    layers_per_stage=(6, 6),
    recompute_layers_per_stage=(3, 3),
    offload=Offload(optimizer=1.0, tier="cpu"),
    precision="bf16",
)
OTHER: dict[str, Any] = {
    "tensor_mode": "3d",
    "tensor_parallel": 16,
    "tensor_depth": 4,
    "pipeline_parallel": 4,
    "data_parallel": 4,
    "zero_stage": 2,
    "sequence_parallel": False,
    "sequence_parallel_degree": 2,
    "expert_parallel": 2,
    "micro_batch": 4,
    "num_microbatches": 32,
    "schedule": "1f1b",
    "num_model_chunks": 3,
    "layers_per_stage": (6, 7),
    "recompute_layers_per_stage": (3, 4),
    "recompute_pointwise": True,
    "offload": Offload(optimizer=1.0, parameters=0.5, tier="cpu"),
    "precision": "fp16",
}
OF_THE_QUESTION: dict[Callable[[Layout], str], tuple[str, ...]] = {in_one_line: PRECISION.fields}
"""What a rendering may leave out, as it has the same value in all layouts that are compared."""


@cache
def plan() -> Plan:
    return read_plan(ROOT / "plans" / "gpt2-pp.plan")


@cache
def checked() -> Any:
    path = ROOT / "tests" / "configs" / "valid" / "gpt2_1d.py"
    hardware = load_spec("a100-40g", HardwareSpec)
    asked = Asked(
        gpus=2, hardware=hardware, devices_per_node=8, global_batch=None, model=None, seq_len=None, reserve=None
    )
    return check_text(path.read_text(), str(path), asked, compare=False)[0]


def plan_view(layout: Layout) -> str:
    """On stdout."""
    print_content(*summary(msgspec.structs.replace(plan(), layout=layout)))
    return ""


def config_view(layout: Layout) -> str:
    """On stdout."""
    judged = dataclasses.replace(checked().judged, layout=layout)
    print_content(*check_view.judgement(dataclasses.replace(checked(), judged=judged, predicted=None)))
    return ""


def page(layout: Layout) -> str:
    return report(msgspec.structs.replace(plan(), layout=layout))


def runner_up(layout: Layout) -> str:
    return " ".join(layout_cells(LAYOUT, layout))


@pytest.mark.parametrize("field", Layout.__struct_fields__)
@pytest.mark.parametrize("render", [plan_view, config_view, page, runner_up, in_one_line])
def test_a_field_changes_what_is_read(
    render: Callable[[Layout], str], field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = render(LAYOUT) + capsys.readouterr().out
    second = render(msgspec.structs.replace(LAYOUT, **{field: OTHER[field]})) + capsys.readouterr().out
    assert (first != second) == (field not in OF_THE_QUESTION.get(render, ()))
