"""The command that starts a plan, and the refusals before it; none of it needs PyTorch."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from planner.diagnostics import ExitCode, PlanError
from planner.handover.options import decode
from planner.handover.work import NVME_FOLDER, Beginning, RunOptions
from planner.launch import machine, processes
from planner.launch.links import Endpoint
from planner.launch.machine import check_machine
from planner.launch.meeting import Run
from planner.launch.processes import training
from planner.launch.ranks import Command
from planner.layouts.layout import Offload
from planner.plans.plan import Plan
from planner.specs import ModelSpec
from planner.specs.files import load_spec

MakePlan = Callable[..., Plan]
ELSEWHERE = "run it where there are 2 A100 40 GB"
GPU_PLAN = {"device": "cuda", "device_names": ["A100-SXM4-40GB", "A100-PCIE-40GB"], "title": "A100 40 GB"}
FOLDER = Path("runs/x/1")


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with the right packages and no GPU, whatever this one has."""
    versions = {"torch": "2.5.1+cpu", "colossalai": "0.5.0", "transformers": "4.51.3"}
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(machine, "present_gpus", list)


def refusal(plan: Plan) -> Any:
    with pytest.raises(PlanError) as caught:
        check_machine(plan, "plans/x.plan")
    assert caught.value.exit_code == ExitCode.NEGATIVE
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.location == "plans/x.plan"
    assert diagnostic.hint
    return diagnostic


def test_a_cpu_plan_runs_anywhere(plan: MakePlan) -> None:
    check_machine(plan(data_parallel=2), "x.plan")


def test_missing_packages_are_named(plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else name)
    found = refusal(plan())
    assert (found.rule, found.message) == ("RUN001", "running needs packages that are not installed: peft")


@pytest.mark.parametrize(
    ("package", "version", "message"),
    [
        ("colossalai", "0.4.9", "made for Colossal-AI 0.5.0, 0.4.9 is installed"),
        ("transformers", "4.53.0", "needs transformers 4.51.3, 4.53.0 is installed"),
        ("torch", "2.1.2+cu121", "needs torch 2.2 or newer"),
    ],
)
def test_another_version_is_refused(
    package: str, version: str, message: str, plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version if name == package else known(name))
    found = refusal(plan())
    assert found.rule == "RUN002"
    assert message in found.message


@pytest.mark.parametrize(
    ("names", "message", "hint"),
    [
        ([], "no GPU was found", "`gptplan solve --gpu local-cpu --gpus 2 --model gpt2-small`"),
        (
            ["NVIDIA A100-SXM4-40GB"],
            "needs 2 GPUs on this machine, 1 found",
            "`gptplan solve --gpu a100-40g --gpus 1 --model gpt2-small`",
        ),
        (["NVIDIA Other"] * 2, "made for A100 40 GB, this machine has NVIDIA Other", ELSEWHERE),
    ],
)
def test_other_hardware_is_refused(
    names: list[str], message: str, hint: str, plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "present_gpus", lambda: names)
    found = refusal(on_two(plan, "gpt2-small"))
    assert found.rule == "RUN003"
    assert message in found.message
    assert found.hint == hint


@pytest.mark.parametrize("model", ["gpt3-175b", "test-model"])
@pytest.mark.parametrize("names", [[], ["NVIDIA A100-SXM4-40GB"], ["NVIDIA H100 80GB HBM3"] * 2])
def test_no_command_is_suggested_that_has_no_answer(
    names: list[str], model: str, plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "present_gpus", lambda: names)
    assert refusal(on_two(plan, model)).hint == ELSEWHERE


def on_two(plan: MakePlan, model: str) -> Plan:
    """A plan of that model for two GPUs; where the model is none of the built-in ones, of a file."""
    made = plan(hardware=GPU_PLAN, data_parallel=2)
    if model == made.problem.model.name:
        return made
    problem = msgspec.structs.replace(made.problem, model=load_spec(model, ModelSpec))
    return msgspec.structs.replace(made, problem=problem)


def test_planned_hardware_passes(plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "present_gpus", lambda: ["NVIDIA A100-SXM4-40GB"] * 4)
    check_machine(plan(hardware=GPU_PLAN, data_parallel=8, devices_per_node=4), "x.plan")


def test_the_last_node_may_have_fewer_gpus(plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "present_gpus", lambda: ["NVIDIA A100-SXM4-40GB"] * 2)
    chosen = plan(hardware=GPU_PLAN, data_parallel=6, devices_per_node=4)
    assert "needs 4 GPUs on this machine, 2 found" in refusal(chosen).message
    check_machine(chosen, "x.plan", node_rank=1)


def test_a_plan_for_another_stack_cannot_run(plan: MakePlan) -> None:
    found = refusal(plan(stack={"name": "megatron"}))
    assert found.rule == "RUN004"


def test_gpu_names_come_from_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    answer = SimpleNamespace(stdout="NVIDIA A100-SXM4-40GB, 40960\nNVIDIA H100 80GB HBM3, 81559\n")
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: answer)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.present_gpus() == ["NVIDIA A100-SXM4-40GB", "NVIDIA H100 80GB HBM3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert machine.present_gpus() == ["NVIDIA H100 80GB HBM3"]


def command_of(plan: Plan, rank: int = 0, options: RunOptions | None = None) -> Command:
    with ExitStack() as stack:
        work = training(plan, FOLDER, options or RunOptions())
        return processes._command(work, rank, processes._Shared(stack), None)


def test_a_rank_is_told_its_place_and_the_folder_of_its_job(plan: MakePlan) -> None:
    command = command_of(plan(data_parallel=2), 1)
    assert command.argv[:4] == (sys.executable, "-m", "runtime.train.worker", "runs/x/1")
    assert decode(command.argv[4], Beginning) == Beginning()
    expected = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "PYTHONSAFEPATH": "1"}
    assert command.env.items() >= expected.items()


def test_one_node_meets_in_a_file_without_a_name_and_listens_on_loopback_only(
    plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    work = training(plan(data_parallel=2), FOLDER, RunOptions(rendezvous="10.0.0.1:29500"))
    assert work.others is None
    command = command_of(plan(data_parallel=2))
    env = command.env
    assert env["GPTPLAN_STORE"] == f"file:/proc/self/fd/{command.keep_fds[0]}"
    assert env["NCCL_SOCKET_IFNAME"] == "lo"
    assert "GLOO_SOCKET_IFNAME" not in env  # what the user has set stays


@pytest.mark.parametrize(("node_rank", "first", "here"), [(0, 0, 4), (1, 4, 2)])
def test_each_node_starts_its_own_devices(node_rank: int, first: int, here: int, plan: MakePlan) -> None:
    chosen = plan(data_parallel=6, devices_per_node=4)
    options = RunOptions(node=node_rank, rendezvous="host0:29500", rendezvous_timeout=7)
    work = training(chosen, FOLDER, options)
    assert (work.first, work.here, work.num_ranks, work.timeout_s) == (first, here, 6, 7)
    assert work.others == (Endpoint("host0", 29500), Run(digest=chosen.digest, num_nodes=2, node=node_rank))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RunOptions(), "does not know where they meet"),
        (RunOptions(node=2, rendezvous="host0:29500"), "there is no node 2"),
        (RunOptions(rendezvous="host0"), "`host0` is no host and port"),
        (RunOptions(rendezvous="host0:ssh"), "no host and port"),
        (RunOptions(rendezvous="host0:65536"), "no host and port"),
        (RunOptions(rendezvous=":29500"), "no host and port"),
        (RunOptions(rendezvous="host 0:29500"), "no host and port"),
    ],
)
def test_several_nodes_need_a_rendezvous(options: RunOptions, message: str, plan: MakePlan) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        training(plan(data_parallel=8, devices_per_node=4), FOLDER, options)
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize("endpoint", ["node-0.cluster:29500", "10.0.0.1:1", "[fe80::1]:65535"])
def test_a_rendezvous_is_a_name_or_an_address(endpoint: str, plan: MakePlan) -> None:
    work = training(plan(data_parallel=8, devices_per_node=4), FOLDER, RunOptions(rendezvous=endpoint))
    assert work.others is not None
    assert str(work.others[0]) == endpoint


@pytest.mark.parametrize(("given", "expected"), [(None, "3"), ("5", None)])
def test_ranks_share_the_cores(
    given: str | None, expected: str | None, plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    command = command_of(plan(data_parallel=2))
    assert command.env.get("OMP_NUM_THREADS") == expected


@pytest.mark.parametrize(("given", "expected"), [(None, "ERROR"), ("INFO", None)])
def test_warnings_of_pytorch_s_own_code_are_left_out_unless_asked_for(
    given: str | None, expected: str | None, plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCH_CPP_LOG_LEVEL", raising=False)
    if given is not None:
        monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", given)
    command = command_of(plan(data_parallel=2))
    assert command.env.get("TORCH_CPP_LOG_LEVEL") == expected


def test_workers_are_told_where_moments_go(plan: MakePlan, tmp_path: Path) -> None:
    options = RunOptions(nvme_path=tmp_path)
    to_nvme = plan(zero_stage=1, precision="bf16", offload=Offload(optimizer=1.0, tier="nvme"))
    assert training(to_nvme, FOLDER, options).nvme_path == tmp_path
    assert training(plan(), FOLDER, options).nvme_path is None
    assert command_of(to_nvme, options=options).env[NVME_FOLDER] == str(tmp_path)
    assert NVME_FOLDER not in command_of(plan()).env


def test_launching_imports_no_framework() -> None:
    code = (
        "import sys, planner.launch.machine, planner.launch.processes; "
        "print([n for n in ('torch', 'colossalai', 'transformers', 'runtime') if n in sys.modules])"
    )
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": str(root)}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert answer.stdout.strip() == "[]"
