"""Runs on two GPUs and more over NCCL: the losses equal those of one GPU, and memory is measured."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.handover.work import METRICS_FILE, RunOptions
from planner.launch.folder import run_folder
from planner.launch.jobs import job_of, make_ready, write_job
from planner.launch.machine import check_machine, present_gpus
from planner.launch.processes import execute, training
from planner.plans.plan import Plan
from tests.runtime.conftest import compiled

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.runtime,
    pytest.mark.skipif(len(present_gpus()) < 2, reason="needs two GPUs"),
]

MakePlan = Callable[..., Plan]

HARDWARE = {"device": "cuda", "device_names": ["NVIDIA"]}
MODEL = {"hidden_size": 256, "num_heads": 4, "ffn_hidden_size": 1024, "vocab_size": 1000}
TOLERANCE = {"fp32": 1e-4, "bf16": 3e-3, "fp16": 3e-3}
V: dict[str, Any] = {"pipeline_parallel": 2, "schedule": "zbv", "num_model_chunks": 2}

LAYOUTS: list[dict[str, Any]] = [
    {"precision": "fp32", "tensor_parallel": 2},
    {"precision": "fp32", "pipeline_parallel": 2, "num_microbatches": 4, "layers_per_stage": (3, 1)},
    {"precision": "fp32", "data_parallel": 2, "num_microbatches": 2},
    {"precision": "bf16", "tensor_parallel": 2, "recompute_layers_per_stage": (4,)},
    {"precision": "bf16", "data_parallel": 2, "zero_stage": 1, "num_microbatches": 2},
    {"precision": "bf16", "data_parallel": 2, "zero_stage": 2},
    {"precision": "fp16", "pipeline_parallel": 2, "num_microbatches": 4},
    {"precision": "fp32", "num_microbatches": 4, **V},
    {"precision": "fp16", "num_microbatches": 8, **V},
    {"precision": "bf16", "num_microbatches": 2, **V, "tensor_parallel": 2, "data_parallel": 2, "zero_stage": 1},
    {"precision": "fp32", "tensor_mode": "2.5d", "tensor_parallel": 2, "tensor_depth": 2},
    {"precision": "fp16", "tensor_mode": "2.5d", "tensor_parallel": 2, "tensor_depth": 2},
    {"precision": "fp32", "tensor_mode": "2d", "tensor_parallel": 4},
    {"precision": "bf16", "tensor_mode": "2d", "tensor_parallel": 4, "recompute_layers_per_stage": (4,)},
    {"precision": "bf16", "tensor_mode": "2.5d", "tensor_parallel": 2, "tensor_depth": 2, "pipeline_parallel": 2},
    {"precision": "fp32", "tensor_mode": "2d", "tensor_parallel": 4, "pipeline_parallel": 2},
    {"precision": "fp32", "tensor_mode": "2.5d", "tensor_parallel": 8, "tensor_depth": 2},
    {"precision": "fp32", "tensor_mode": "3d", "tensor_parallel": 8},
    {"precision": "bf16", "tensor_mode": "3d", "tensor_parallel": 8, "num_microbatches": 2},
]
COMPILED: list[dict[str, Any]] = [
    {"data_parallel": 2, "zero_stage": 1, "num_microbatches": 2},
    {"data_parallel": 2, "zero_stage": 2, "num_microbatches": 2},
    {"data_parallel": 2, "num_microbatches": 2},
    {"data_parallel": 2, "pipeline_parallel": 2, "num_microbatches": 2},
]


@pytest.fixture
def losses(plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """``losses(**layout)`` are those of a short run; the run's memory must be there too."""
    root = Path(__file__).parents[3]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH")))))

    def run(*, compiles: bool = False, **layout: Any) -> list[float]:
        chosen, options = plan(model=MODEL, hardware=HARDWARE, **layout), RunOptions(steps=6, output=tmp_path)
        chosen = compiled(chosen) if compiles else chosen
        check_machine(chosen, "gpu.plan")
        ready = make_ready(job_of(options, {}), chosen)
        with run_folder(chosen, "gpu", options) as folder:
            write_job(ready, folder)
            assert execute(training(chosen, folder, options)).code == 0
        lines = (folder / METRICS_FILE).read_text().splitlines()
        _, *steps, summary = map(json.loads, lines)
        assert all(0 < r["allocated_bytes"] <= r["reserved_bytes"] for r in summary["ranks"])
        return [step["loss"] for step in steps]

    return run


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: "-".join(map(str, layout.values())))
def test_gpus_train_like_one(layout: dict[str, Any], losses: Callable[..., list[float]], plan: MakePlan) -> None:
    needed = plan(**layout).layout.num_devices
    if len(present_gpus()) < needed:
        pytest.skip(f"needs {needed} GPUs")
    alone = losses(precision=layout["precision"])
    assert alone[-1] < alone[0] - 0.1
    assert losses(**layout) == pytest.approx(alone, rel=TOLERANCE[layout["precision"]])


@pytest.mark.parametrize("layout", COMPILED, ids=lambda layout: "-".join(map(str, layout.values())))
def test_compiled_replicas_train_like_one(
    layout: dict[str, Any], losses: Callable[..., list[float]], plan: MakePlan
) -> None:
    if len(present_gpus()) < plan(**layout).layout.num_devices:
        pytest.skip("needs four GPUs")
    alone = losses(precision="bf16", compiles=True)
    assert losses(precision="bf16", compiles=True, **layout) == pytest.approx(alone, rel=TOLERANCE["bf16"])
