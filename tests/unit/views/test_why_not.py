"""What is typed after the hint of a way out is solved again."""

import re
import shlex
from fnmatch import fnmatchcase
from typing import Any

import pytest

from planner.diagnostics import Diagnostic
from planner.plans.question import Question, build_problem
from planner.solver import solve
from planner.views.why_not import reasons_of
from tests.helpers import problem

Options = dict[str, Any]


def ways(options: Options) -> list[Diagnostic]:
    answer = solve(build_problem(Question(**options)))
    return [reason for reason in reasons_of(answer) if reason.rule.startswith("WAY")]


def typed(options: Options, way: Diagnostic) -> Options:
    """The options with what the hint says, as a user would type it."""
    told = re.findall(r"`([^`]+)`", way.hint)
    changed = dict(options)
    name, value = shlex.split(told[0].replace("=", " ", 1) if "--reserve=" in told[0] else told[0])[:2]
    if way.hint.startswith("leave out `--forbid"):
        changed["forbid"] = tuple(one for one in options["forbid"] if one != value)
    elif name == "--pin":
        changed["pin"] = tuple(value if one == told[1] else one for one in options["pin"])
    else:
        number = int(value) if value.isdecimal() else value
        changed[name.removeprefix("--").replace("-", "_")] = number
    return changed


CASES: list[tuple[Options, list[str]]] = [
    (
        {"model": "gpt3", "gpus": 97, "gpu": "a100-80g"},
        ["WAY001 use `--gpus 96`", "WAY001 use `--gpus 98`", "WAY005 use `--global-batch 1552`"],
    ),
    (
        {"model": "gpt3", "gpus": 96, "pin": ("tensor_parallel=5",)},
        ["WAY002 use `--pin tensor_parallel=[48]` instead of `tensor_parallel=5`"],
    ),
    (
        {"model": "gpt3", "gpus": 96, "pin": ("zero_stage=2", "pipeline_parallel=8")},
        ["WAY002 use `--pin zero_stage=0` instead of `zero_stage=2`"],
    ),
    (
        {"model": "gpt2-xl", "gpus": 8, "global_batch": 64, "pin": ("micro_batch=3",)},
        [
            "WAY002 use `--pin micro_batch=2` instead of `micro_batch=3`",
            "WAY002 use `--pin micro_batch=4` instead of `micro_batch=3`",
            "WAY005 use `--global-batch 63`",
        ],
    ),
    (
        {"model": "gpt2-small", "gpus": 8, "stack": "megatron", "forbid": ("tensor_mode=none", "tensor_mode=1d")},
        ["WAY002 leave out `--forbid tensor_mode=none`", "WAY002 leave out `--forbid tensor_mode=1d`"],
    ),
]


@pytest.mark.parametrize(("options", "expected"), CASES, ids=lambda value: str(value)[:60])
def test_ways_out_are_what_to_type(options: Options, expected: list[str]) -> None:
    found = ways(options)
    assert len(found) == len(expected)
    for way, words in zip(found, expected, strict=True):
        assert fnmatchcase(f"{way.rule} {way.hint}", words)
    for way in found:
        answer = solve(build_problem(Question(**typed(options, way))))
        assert answer.plan is not None
        assert answer.plan.predicted.step_s <= way.values["step_s"] * (1 + 1e-6)


def test_a_near_miss_has_a_way_by_gpus_offload_card_and_reserve() -> None:
    options: Options = {"model": "gpt3", "gpus": 96, "pin": ("tensor_parallel=4", "pipeline_parallel=12")}
    found = {way.rule: way for way in ways(options)}
    assert {"WAY001", "WAY002", "WAY003", "WAY004"} <= set(found)
    assert found["WAY002"].hint.startswith(("leave out", "use `--pin"))
    assert found["WAY003"].values["optimizer"] > 0
    for rule in ("WAY001", "WAY003", "WAY004"):
        assert solve(build_problem(Question(**typed(options, found[rule])))).plan is not None


def test_recompute_that_a_pin_forbids_is_a_way() -> None:
    options: Options = {"model": "gpt3-1.3b", "gpus": 1, "global_batch": 8}
    pinned = ("recompute_layers_per_stage=none", "recompute_pointwise=false", "micro_batch=8")
    found = ways(options | {"pin": pinned})
    unpinned = [way for way in found if way.values.get("field") == "recompute_layers_per_stage"]
    assert [way.hint for way in unpinned] == [
        "use `--pin recompute_layers_per_stage=some` instead of `recompute_layers_per_stage=none`"
    ]


def test_nothing_that_helps_is_said() -> None:
    asked = problem(hardware={"memory_bytes": 10, "device": "abacus"}, num_devices=1)
    last = reasons_of(solve(asked))[-1]
    assert (last.rule, last.severity) == ("WAY000", "note")
