"""ZeRO stage 3, offloading and the newer modes on GPUs: losses and gradients of one process in fp32."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from planner.launch.machine import present_gpus
from planner.layouts.layout import Offload
from planner.plans.plan import write_plan
from tests.runtime.training import GPU_LEARNING_RATE, MakePlan, reference, reference_gradients

pytestmark = [pytest.mark.gpu, pytest.mark.runtime]

TIMEOUT_S = 400
"""The first use of Colossal-AI's Adam on a machine compiles it."""
HARDWARE = {"device": "cuda", "device_names": ["NVIDIA"]}
MODEL = {"num_layers": 8, "hidden_size": 256, "num_heads": 4, "ffn_hidden_size": 1024, "vocab_size": 1000}
LOSS_TOLERANCE = {"fp32": 1e-4, "bf16": 4e-3, "fp16": 4e-3}
GRADIENT_TOLERANCE = 0.03

ZERO3 = {"zero_stage": 3, "precision": "bf16"}
LAYOUTS: dict[str, dict[str, Any]] = {
    "zero3-alone": {**ZERO3},
    "zero3": {**ZERO3, "data_parallel": 2},
    "zero3-untied": {**ZERO3, "data_parallel": 2, "tied": False},
    "zero3-accumulation": {**ZERO3, "data_parallel": 2, "num_microbatches": 4},
    "zero3-recompute": {**ZERO3, "data_parallel": 2, "recompute_layers_per_stage": (3,)},
    "zero3-half-offload": {**ZERO3, "data_parallel": 2, "offload": Offload(optimizer=0.5, tier="cpu")},
    "zero3-offload": {
        **ZERO3,
        "data_parallel": 2,
        "num_microbatches": 2,
        "recompute_layers_per_stage": (8,),
        "offload": Offload(optimizer=1.0, parameters=1.0, tier="cpu"),
    },
    "zero3-half-parameters": {
        **ZERO3,
        "data_parallel": 2,
        "offload": Offload(optimizer=1.0, parameters=0.5, tier="cpu"),
    },
    "zero3-fp16": {"zero_stage": 3, "precision": "fp16", "data_parallel": 2, "num_microbatches": 2},
    "zero1-offload": {
        "zero_stage": 1,
        "precision": "bf16",
        "data_parallel": 2,
        "offload": Offload(optimizer=1.0, tier="cpu"),
    },
    "interleaved": {
        "precision": "fp32",
        "pipeline_parallel": 2,
        "schedule": "interleaved",
        "num_model_chunks": 2,
        "num_microbatches": 4,
    },
    "sequence": {"precision": "fp32", "tensor_parallel": 2, "sequence_parallel": True, "num_microbatches": 2},
    "recompute": {"precision": "fp32", "pipeline_parallel": 2, "recompute_layers_per_stage": (3, 1)},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_gpus_train_like_one_process(name: str, plan: MakePlan, tmp_path: Path) -> None:
    fields = dict(LAYOUTS[name])
    chosen = plan(model={**MODEL, "tied_embeddings": fields.pop("tied", True)}, hardware=HARDWARE, **fields)
    if len(present_gpus()) < chosen.layout.num_devices:
        pytest.skip(f"needs {chosen.layout.num_devices} GPUs")
    write_plan(chosen, tmp_path / "gpu.plan")
    found = run_ranks(tmp_path, chosen.layout.num_devices)

    expected = reference(chosen, torch.optim.AdamW, GPU_LEARNING_RATE)
    assert found["losses"] == pytest.approx(expected, rel=LOSS_TOLERANCE[chosen.layout.precision])
    gradients = reference_gradients(chosen, torch.optim.AdamW)[0]
    assert set(found["norms"]) == (set(gradients) if chosen.layout.zero_stage == 3 else set())
    for parameter, norm in found["norms"].items():
        assert norm == pytest.approx(float(np.linalg.norm(gradients[parameter])), rel=GRADIENT_TOLERANCE), parameter


def run_ranks(folder: Path, num_devices: int) -> dict[str, Any]:
    """What the ranks of the plan in ``folder`` measured."""
    root = Path(__file__).parents[3]
    path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={num_devices}",
        "-m",
        "tests.runtime.gpu_ranks",
        str(folder / "gpu.plan"),
        str(folder / "found.json"),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found
