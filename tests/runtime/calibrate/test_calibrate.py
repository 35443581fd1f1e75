"""Whole calibrations on this machine's cores, with little time."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from planner.plans.plan import read_plan
from planner.specs import HardwareSpec
from planner.specs.files import load_spec, spec_digest

pytestmark = pytest.mark.runtime
TIMEOUT_S = 120
LIMIT_S = 3


def gptplan(folder: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    root = Path(__file__).parents[3]
    python_path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    return subprocess.run(
        [sys.executable, "-m", "planner.cli.app", *map(str, arguments)],
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
        env=environment | {"PYTHONPATH": python_path, "CUDA_VISIBLE_DEVICES": ""},
    )


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two processes need two cores")
def test_two_processes_measure_the_machine_and_the_link(tmp_path: Path) -> None:
    result = gptplan(tmp_path, "calibrate", "-o", "mine.toml", "--devices", 2, "--time-limit", LIMIT_S, "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert "1/10 matrix products" in result.stderr
    spec, base = load_spec(str(tmp_path / "mine.toml"), HardwareSpec), load_spec("local-cpu", HardwareSpec)
    assert (document["name"], document["base"], spec.device) == ("mine", "local-cpu", "cpu")
    assert document["digest"] == spec_digest(spec)
    measured = document["measurements"]
    assert measured["num_devices"] == 2
    assert {one["kind"] for one in measured["collectives"]} == {"all-reduce", "all-gather", "send"}
    assert {one["precision"] for one in measured["products"]} >= {"fp32", "bf16"}
    # Between an embedded board and the fastest server.
    assert 1e8 < spec.peak_flops_per_s["fp32"] < 1e14
    assert 1e8 < spec.memory_bandwidth_bytes_per_s < 1e13
    assert 1e6 < spec.node_link.bandwidth_bytes_per_s < 1e12
    assert 1e-7 < spec.kernel_launch_s < 1e-3
    assert spec.host.gpt2_block_s == pytest.approx(measured["gpt2_block_s"], rel=1e-4)
    # Some hundred operations of Python and PyTorch.
    assert 1e-4 < measured["gpt2_block_s"] < 1.0
    assert 1e5 < spec.host.nvme_write_bytes_per_s < 1e12
    assert len(spec.efficiency.matmul) >= 3
    assert spec.network == base.network
    assert "measured on" in spec.sources["node_link.latency"]
    assert spec.sources["network.bandwidth"].startswith("taken from hardware spec local-cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_one_process_leaves_the_link_to_the_base_and_its_spec_solves(tmp_path: Path) -> None:
    started = time.monotonic()
    result = gptplan(tmp_path, "calibrate", "-o", "one.toml", "--devices", 1, "--time-limit", LIMIT_S)
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - started < TIMEOUT_S / 2
    assert "one device: the links are those of local-cpu" in result.stdout
    spec = load_spec(str(tmp_path / "one.toml"), HardwareSpec)
    assert spec.node_link == load_spec("local-cpu", HardwareSpec).node_link
    solved = gptplan(tmp_path, "solve", "--model", "gpt2-tiny", "--gpus", 2, "--gpu", "one.toml", "-o", "x.plan")
    assert solved.returncode == 0, solved.stderr
    plan = read_plan(tmp_path / "x.plan")
    assert plan.problem.hardware.name == "one"
    assert plan.spec_digests["hardware"] == spec_digest(spec)


def test_attention_is_measured_in_both_directions() -> None:
    from runtime.calibrate.attention import attention_flops, measure_attention

    assert attention_flops(2, 64) == 2 * 2 * 16 * 64 * 64 * 128
    found = measure_attention(torch.device("cpu"), 0.2, kind=torch.float32, tokens=64, sequences=2)
    assert found is not None
    assert 1e6 < found.forward_flops_per_s < 1e14
    assert 0 < found.backward_flops_per_s <= 2 * found.forward_flops_per_s


def test_products_that_no_longer_fit_keep_those_before(monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.calibrate import products

    def full(*arguments: object) -> float:
        if arguments[3] == products.Shape(8, 8, 8):
            raise torch.OutOfMemoryError("no memory")
        return 1e-6

    monkeypatch.setattr(products, "_one", full)
    shapes = [products.Shape(2, 2, 2), products.Shape(8, 8, 8), products.Shape(9, 9, 9)]
    found = products.measure_products(torch.device("cpu"), "fp32", shapes, 1.0)
    assert [one.m for one in found] == [2]
