"""Compilers that are missing are named before the run."""

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from planner.diagnostics import ExitCode, PlanError
from planner.launch import machine
from planner.launch.machine import check_toolchain
from planner.layouts.layout import Offload
from planner.plans.plan import Plan

MakePlan = Callable[..., Plan]

ZERO3: dict[str, Any] = {"zero_stage": 3, "precision": "bf16", "hardware": {"device": "cuda"}}
NVME: dict[str, Any] = {"zero_stage": 1, "precision": "bf16", "offload": Offload(optimizer=1.0, tier="nvme")}


@pytest.fixture
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without any compiler, and a Colossal-AI without built kernels."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)]) if name == "colossalai" else None,
    )
    monkeypatch.setattr(machine, "DEFAULT_CUDA", tmp_path / "cuda")
    for name in ("CUDA_HOME", "CUDA_PATH", "CXX"):
        monkeypatch.delenv(name, raising=False)


def refusal(plan: Plan) -> Any:
    with pytest.raises(PlanError) as caught:
        check_toolchain(plan)
    assert caught.value.exit_code == ExitCode.NEGATIVE
    (found,) = caught.value.diagnostics
    assert found.rule == "RUN012"
    return found


@pytest.mark.usefixtures("_bare")
def test_missing_compilers_are_named(plan: MakePlan) -> None:
    found = refusal(plan(**ZERO3))
    assert found.message.startswith("ZeRO stage 3 uses an Adam")
    assert found.message.endswith("there is no nvcc, no C++ compiler, no ninja")
    assert "CUDA_HOME" in found.hint
    found = refusal(plan(**NVME))
    assert found.message.startswith("offload to NVMe uses an Adam")
    assert found.message.endswith("there is no C++ compiler, no ninja")
    assert found.hint == "`apt install g++`, and `pip install ninja`"


@pytest.mark.usefixtures("_bare")
def test_what_is_there_is_found(plan: MakePlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name if name in ("g++", "ninja") else None)
    check_toolchain(plan(**NVME))
    assert refusal(plan(**ZERO3)).message.endswith("there is no nvcc")
    (tmp_path / "toolkit" / "bin").mkdir(parents=True)
    (tmp_path / "toolkit" / "bin" / "nvcc").touch()
    monkeypatch.setitem(os.environ, "CUDA_HOME", str(tmp_path / "toolkit"))
    check_toolchain(plan(**ZERO3))


@pytest.mark.usefixtures("_bare")
def test_built_kernels_need_no_compiler(plan: MakePlan, tmp_path: Path) -> None:
    (tmp_path / "_C").mkdir()
    (tmp_path / "_C" / "fused_optim_cuda.so").touch()
    check_toolchain(plan(**ZERO3))


@pytest.mark.usefixtures("_bare")
def test_other_plans_need_no_compiler(plan: MakePlan) -> None:
    check_toolchain(plan(tensor_parallel=2))
    check_toolchain(plan(zero_stage=1, precision="bf16", offload=Offload(optimizer=1.0, tier="cpu")))
