"""Host memory and NVMe, by hand: 15328 parameters, 7664 on each of two ranks."""

from typing import Any

import pytest

from planner.cost_model.host import host_bytes_per_rank, nvme_bytes_per_rank, pinned_bytes, resident_moment_bytes
from planner.layouts.layout import Offload
from planner.specs.units import Bytes
from tests.helpers import problem, stages

ON_HOST = Offload(optimizer=1.0, tier="cpu")
ON_NVME = Offload(optimizer=1.0, tier="nvme")
PINNED = {"sharded": {"pinned_weight": 2.0, "pinned_master": 4.0, "gradients_reuse_weights": True}}


def test_host_bytes_per_rank_by_hand() -> None:
    offloaded = stages(data_parallel=2, zero_stage=1, offload=ON_HOST)
    assert host_bytes_per_rank(problem(), offloaded).tolist() == [7664 * (4 + 8 + 4)]


def test_host_bytes_per_rank_without_offload_are_the_process() -> None:
    assert host_bytes_per_rank(problem(), stages(data_parallel=2, zero_stage=1)).tolist() == [0]
    process = problem(hardware={"host": {"process_bytes": Bytes(77)}})
    assert host_bytes_per_rank(process, stages()).tolist() == [77]


@pytest.mark.parametrize(
    ("offload", "stack", "per_parameter"),
    [
        (ON_HOST, {}, 2 + 4 + 8),
        (Offload(optimizer=1.0, parameters=0.5, tier="cpu"), {}, 2 + 4 + 8 + 1),
        (Offload(), PINNED, 2 + 4),
        (ON_HOST, PINNED, 2 + 4 + 8),
        (Offload(optimizer=1.0, parameters=0.5, tier="cpu"), PINNED, 2 + 4 + 8),
    ],
)
def test_host_bytes_per_rank_under_zero_3(offload: Offload, stack: Any, per_parameter: float) -> None:
    sharded = stages(data_parallel=2, zero_stage=3, num_microbatches=1, offload=offload)
    assert host_bytes_per_rank(problem(stack=stack), sharded).tolist() == [7664 * per_parameter]


def test_host_bytes_per_rank_leave_moments_on_nvme() -> None:
    disk = stages(data_parallel=2, zero_stage=1, offload=ON_NVME)
    # Moments of two of the largest tensors (3072, shared by two ranks) stay.
    assert host_bytes_per_rank(problem(), disk).tolist() == [7664 * (4 + 4) + 8 * 3072]


def test_nvme_bytes_per_rank_by_hand() -> None:
    assert nvme_bytes_per_rank(problem(), stages(data_parallel=2, zero_stage=1, offload=ON_NVME)).tolist() == [61312]
    half = stages(data_parallel=2, zero_stage=3, offload=Offload(optimizer=0.5, tier="nvme"))
    assert nvme_bytes_per_rank(problem(), half).tolist() == [30656]


def test_nvme_bytes_per_rank_are_zero_on_the_host() -> None:
    assert nvme_bytes_per_rank(problem(), stages(data_parallel=2, zero_stage=1, offload=ON_HOST)).tolist() == [0]


def test_resident_moment_bytes_are_all_on_the_host_and_two_tensors_with_nvme() -> None:
    host, disk = (stages(data_parallel=2, zero_stage=1, offload=offload) for offload in (ON_HOST, ON_NVME))
    assert resident_moment_bytes(problem(), host).tolist() == [8 * 7664]
    assert resident_moment_bytes(problem(), disk).tolist() == [8 * 2 * 3072 / 2]
    many = stages(data_parallel=2, zero_stage=1, offload=Offload(optimizer=0.1, tier="nvme"))
    assert resident_moment_bytes(problem(), many).tolist() == pytest.approx([8 * 766.4])


def test_pinned_bytes_by_hand() -> None:
    single = stages(data_parallel=2, zero_stage=3, num_microbatches=1)
    assert pinned_bytes(problem(stack=PINNED), single).tolist() == [7664 * 6]
    # Gradients that add up have pieces of their own.
    several = stages(data_parallel=2, zero_stage=3)
    assert pinned_bytes(problem(stack=PINNED), several).tolist() == [7664 * (2 + 2 + 4)]
    assert pinned_bytes(problem(stack=PINNED), stages(data_parallel=2, zero_stage=2)).tolist() == [0]


def test_pinned_bytes_of_blocks_that_are_powers_of_two() -> None:
    blocks = {"sharded": PINNED["sharded"] | {"pinned_blocks": True}}
    single = stages(data_parallel=2, zero_stage=3, num_microbatches=1)
    # A layer's 1640 parameters on each rank: 3280 bytes of weights take 4096, 6560 of master weights 8192.
    assert pinned_bytes(problem(stack=blocks), single).tolist() == pytest.approx([7664 * 6 * 4096 / 3280])
