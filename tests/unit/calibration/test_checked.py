"""A hardware spec from a check of all nodes: what was measured is in it, the rest is that of the base."""

import pytest

from planner.calibration.checked import checked, network_of
from planner.calibration.hardware import Origin
from planner.handover.measurements import Collective, Product
from planner.layouts.topology import Cluster
from planner.specs import HardwareSpec
from planner.specs.files import load_spec

BANDWIDTH, LATENCY = 5e9, 2e-5


def between(size: int) -> list[Collective]:
    """All-reduces over groups with a device on each node, as the cost model has them."""
    found = []
    for num_bytes in (4096, 2**20, 2**27):
        seconds = 2 * (size - 1) / size * num_bytes / BANDWIDTH + 2 * (size - 1) * LATENCY
        found.append(Collective(kind="all-reduce", size=size, num_bytes=num_bytes, seconds=seconds))
    return found


@pytest.mark.parametrize("devices", [1, 8])
def test_a_plan_with_the_written_spec_assumes_what_was_measured(devices: int) -> None:
    base = load_spec("a100-40g", HardwareSpec)
    origin = Origin("mine", base, "2026-01-02", same_device=True, devices_per_node=8)
    products = [
        Product(precision="bf16", m=m, k=1024, n=4096, seconds=2 * m * 1024 * 4096 / rate)
        for m, rate in ((64, 9e13), (512, 5e13), (4096, 2e14))
    ]
    spec, fields = checked(products, [], between(4), origin, devices)
    assert fields == ["efficiency", "network", "peak_flops_per_s"]
    assert spec.sources["network.bandwidth"].endswith("; measured by `gptplan doctor`, 2026-01-02")
    assert spec.sources["node_link.bandwidth"].startswith("taken from hardware spec a100-40g: ")
    shares = [share for _, share in spec.efficiency.matmul]
    assert shares == sorted(shares)
    link = Cluster(hardware=spec, devices_per_node=devices, num_devices=4 * devices).ring(devices, 4)
    assert link.bandwidth_bytes_per_s == pytest.approx(BANDWIDTH, rel=0.01)


def test_a_network_that_beats_its_datasheet_is_taken_as_it_is() -> None:
    base = load_spec("local-cpu", HardwareSpec).network
    spec, words = network_of(between(2), base, 1)
    assert spec.bandwidth_bytes_per_s * spec.efficiency == pytest.approx(BANDWIDTH, rel=0.01)
    assert "groups of 2" in words
