"""``solve --min-gpus``: the least count, what excludes the smaller ones, and how it is told."""

from typing import Any

import msgspec
import pytest

from planner.plans.question import Question, build_problem
from planner.solver import solve, solve_least_devices
from planner.solver.counts import on
from planner.solver.min_devices import least_devices
from planner.specs.units import GIB, Bytes
from planner.views.answer import least_devices_text
from tests.helpers import problem, slow_hardware

PINNED = ("tensor_parallel=4", "layers_per_stage=even")
GPT3 = Question(model="gpt3", gpus=128, pin=PINNED)


def ask(**overrides: Any) -> Any:
    hardware = slow_hardware(**overrides.pop("hardware", {}))
    return least_devices(problem(hardware=hardware, **overrides))


def test_gpt3_in_even_stages_with_four_way_tensor_parallelism() -> None:
    asked = build_problem(GPT3)
    answer, least = solve_least_devices(asked)
    assert least.num_devices == 96
    assert answer.plan is not None
    assert answer.status == "optimal"
    assert answer.plan.layout.pipeline_parallel == 24
    assert answer.plan == solve(on(asked, 96)).plan
    assert least.excluded_by_bound >= 48
    counts = (*range(1, least.excluded_by_bound + 1), *least.no_valid_layout, *least.none_fits)
    assert sorted(counts) == list(range(1, 96))
    assert least.nearest_miss is not None
    assert least.nearest_miss.reasons[0].rule == "MEM001"


@pytest.mark.parametrize("count", [64, 84, 88])
def test_the_excluded_counts_of_gpt3_have_no_solution(count: int) -> None:
    answer = solve(build_problem(Question(model="gpt3", gpus=count, pin=PINNED)))
    assert answer.status == "infeasible"
    assert answer.space.valid > 0


def test_gpt3_with_zero_3_and_offload_at_three_sequences_a_device() -> None:
    pins = ("zero_stage=3", "micro_batch=3", "num_microbatches=1")
    asked = build_problem(Question(model="gpt3", gpus=96, global_batch=192, allow_offload="cpu", pin=pins))
    answer, least = solve_least_devices(asked)
    assert least.num_devices == 64
    assert answer.plan is not None
    assert (answer.plan.layout.data_parallel, answer.plan.layout.zero_stage) == (64, 3)
    assert answer.plan.predicted.host_bytes_per_node <= asked.hardware.host.memory_bytes


def test_one_device_is_the_least_where_everything_fits() -> None:
    least = ask(num_devices=8)
    assert (least.num_devices, least.excluded_by_bound, least.nearest_miss) == (1, 0, None)


def test_the_bound_excludes_what_the_states_alone_overfill() -> None:
    least = ask(num_devices=8, hardware={"memory_bytes": Bytes(150_000)})
    assert least.excluded_by_bound * least.usable_bytes_per_device < least.state_bytes
    assert (least.excluded_by_bound + 1) * least.usable_bytes_per_device >= least.state_bytes * (1 - 1e-6)


def test_no_usable_memory_excludes_every_count() -> None:
    least = ask(num_devices=8, hardware={"memory_bytes": Bytes(900)})
    assert (least.num_devices, least.excluded_by_bound) == (None, 8)
    assert least.nearest_miss is not None
    assert least.nearest_miss.num_devices == 8


def test_counts_that_no_rule_allows_are_named() -> None:
    least = ask(num_devices=3, pins={"tensor_parallel": "4"})
    assert (least.num_devices, least.no_valid_layout, least.nearest_miss) == (None, (1, 2, 3), None)
    assert least_devices_text(least) == "no number of GPUs up to 3 is enough:\n  1-3: no valid layout"


def test_offload_lowers_the_bound() -> None:
    without, allowed = ask(), ask(allow_offload="cpu")
    assert allowed.state_bytes < without.state_bytes


def test_the_text_names_bound_counts_and_nearest_miss() -> None:
    least = least_devices(build_problem(GPT3))
    text = least_devices_text(least)
    bound = least.excluded_by_bound
    assert text.startswith(f"96 GPUs is the least:\n  1-{bound}: the training states alone take ")
    assert "no valid layout\n" in text
    assert "valid layouts, but none fits\n" in text
    assert "the nearest of these, " in text
    miss = least.nearest_miss
    assert miss is not None
    assert miss.short_bytes is not None
    assert 0 < miss.short_bytes < 40 * GIB
    long = msgspec.structs.replace(least, none_fits=tuple(range(1, 101, 2)))
    assert "21, 23, ... 99: valid" in least_devices_text(long)


def test_one_gpu_has_nothing_below_it() -> None:
    proof = least_devices(build_problem(Question(model="gpt2", gpus=8)))
    assert least_devices_text(proof) == "1 GPU is enough"
