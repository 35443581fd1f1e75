"""Reading what varies, and the questions of a grid."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from planner.cli.sweep import Sweep
from planner.diagnostics import PlanError
from planner.handover.options import declared
from planner.plans.grid import READERS, Point, grid, parse_axes

SMALL = {"model": "gpt2-small"}


def points(*vary: str, **options: Any) -> list[Point]:
    return grid(SMALL | options, parse_axes(vary))


def test_the_grid_has_every_combination_in_order() -> None:
    found = points("gpus=2,4", "gpu=a100-40g,a100-80g")
    assert [tuple(point.varied.values()) for point in found] == [
        ("2", "a100-40g"),
        ("2", "a100-80g"),
        ("4", "a100-40g"),
        ("4", "a100-80g"),
    ]
    assert [point.problem.num_devices for point in found] == [2, 2, 4, 4]
    assert {point.problem.hardware.name for point in found} == {"a100-40g", "a100-80g"}


@pytest.mark.parametrize(
    ("vary", "read", "expected"),
    [
        ("global_batch=8,16", lambda p: p.global_batch, [8, 16]),
        ("seq_len=512,1024", lambda p: p.seq_len, [512, 1024]),
        ("precision=fp16,fp32", lambda p: p.precision, ["fp16", "fp32"]),
        ("stack=colossalai,megatron", lambda p: p.stack.name, ["colossalai", "megatron"]),
        ("allow_offload=none,cpu", lambda p: p.allow_offload, ["none", "cpu"]),
        ("confidence=0.9,0.95", lambda p: p.confidence, [0.9, 0.95]),
        ("reserve=2GiB,6%", lambda p: (p.reserve.num_bytes, p.reserve.fraction), [(2 * 1024**3, 0), (0, 0.06)]),
        ("node_link=300GB/s,1GB/s", lambda p: p.hardware.node_link.bandwidth_bytes_per_s, [3e11, 1e9]),
        ("network=1x100Gbit/s,8 x 25GB/s", lambda p: p.hardware.network.nics_per_node, [1, 8]),
        ("network=1x100Gbit/s", lambda p: p.hardware.network.bandwidth_bytes_per_s, [12.5e9]),
        ("model=gpt2-small , gpt2-xl", lambda p: p.model.name, ["gpt2-small", "gpt2-xl"]),
    ],
)
def test_every_key_reaches_the_problem(vary: str, read: Callable[[Any], Any], expected: list[Any]) -> None:
    options = {"gpus": 4} | ({} if vary.startswith("model") else SMALL)
    assert [read(point.problem) for point in grid(options, parse_axes([vary]))] == expected


def test_varying_a_link_leaves_the_rest_of_the_hardware() -> None:
    slow, fast = points("network=1x1GB/s,1x2GB/s", gpus=4)
    assert slow.problem.hardware.node_link == fast.problem.hardware.node_link
    assert slow.problem.hardware.network.latency_s == fast.problem.hardware.network.latency_s


def test_nothing_to_vary_is_refused() -> None:
    with pytest.raises(PlanError, match="varies something"):
        parse_axes([])


def test_help_names_what_can_be_varied() -> None:
    (vary,) = (one for one in declared(Sweep) if one.field == "vary")
    keys = re.sub(r"\([^)]*\)", "", vary.option.help.partition("Keys:")[2])
    assert set(re.findall(r"[a-z_]+", keys)) - {"and"} == set(READERS)


@pytest.mark.parametrize(
    ("vary", "message", "location"),
    [
        ("confidence=0.9,2", "confidence has to be a probability between 0 and 1, and it is 2", "confidence=2"),
        ("global_batch=8,0", "global_batch has to be from 1 to 16777216, and it is 0", "global_batch=0"),
        ("reserve=99TiB", "a reserve of 99TiB leaves nothing of a100-40g", "reserve=99TiB"),
    ],
)
def test_a_varied_value_out_of_range_is_said_of_what_was_typed(vary: str, message: str, location: str) -> None:
    with pytest.raises(PlanError) as raised:
        points(vary, gpus=4)
    (diagnostic,) = raised.value.diagnostics
    assert (diagnostic.message, diagnostic.location) == (message, f"--vary {location}")
    assert diagnostic.hint.startswith(f"write it like `--vary {vary.partition('=')[0]}=")


def test_an_option_that_is_not_varied_is_said_by_its_name() -> None:
    with pytest.raises(PlanError) as raised:
        points("seq_len=512", gpus=4, confidence=2.0)
    assert raised.value.diagnostics[0].location == "--confidence"
