"""The plans in plans/: the launcher takes each on its machine, and each that needs no GPU agrees with one process."""

import importlib.metadata
import importlib.util
import warnings
from pathlib import Path
from typing import Any

import msgspec
import pytest

from planner.cli import app as cli
from planner.diagnostics import PlanError
from planner.handover.verification import Verification
from planner.handover.work import RunOptions
from planner.launch import machine
from planner.launch.machine import check_machine
from planner.launch.processes import training
from planner.launch.shrink import shrink
from planner.layouts.layout import Offload
from planner.plans.plan import Plan, read_plan, seal
from tests.runtime.host_gemini import divide_on_host, host_plugin
from tests.runtime.training import Ranks

PLANS = sorted((Path(__file__).parents[3] / "plans").glob("*.plan"))
NEED_GPUS = {"gpt2-zero3", "gpt2-nvme", "gpt3-zero3-min", "gpt3-zero3"}
CARDS = {
    **{"a100-80g": "NVIDIA A100-SXM4-80GB", "a100-40g": "NVIDIA A100-SXM4-40GB"},
    **{"h100-80g": "NVIDIA H100 80GB HBM3", "local-cpu": ""},
}


@pytest.fixture(params=PLANS, ids=[path.stem for path in PLANS])
def path(request: pytest.FixtureRequest) -> Path:
    chosen: Path = request.param
    return chosen


def test_the_launcher_takes_a_plan_on_its_machine(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = read_plan(path)
    versions = {"torch": "2.5.1", "colossalai": "0.5.0", "transformers": "4.51.3"}
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    on_node = min(8, plan.problem.num_devices)
    monkeypatch.setattr(machine, "present_gpus", lambda: [CARDS[plan.problem.hardware.name]] * on_node)
    check_machine(plan, str(path))
    last = plan.problem.num_nodes - 1
    options = RunOptions(node=last, rendezvous="host0:29500")
    work = training(plan, path, options)
    assert (work.here, work.first) == (on_node, on_node * last)
    assert (work.others is not None) == (last > 0)


@pytest.mark.parametrize("path", [one for one in PLANS if "cpu" not in one.stem], ids=lambda path: path.stem)
def test_a_machine_without_gpus_says_so_in_one_message(
    path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plan = read_plan(path)
    pytest.importorskip("colossalai")
    monkeypatch.setattr(machine, "present_gpus", list)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as finished:
        cli.main(["run", str(path)])
    captured = capfd.readouterr()
    assert finished.value.code == 1
    card = "H100" if plan.problem.hardware.name == "h100-80g" else "A100"
    assert captured.err.startswith(f"error[RUN003]: the plan needs {min(8, plan.problem.num_devices)} NVIDIA {card}")
    assert "no GPU was found" in captured.err
    assert captured.err.count("error[") == 1
    assert len(captured.err.splitlines()) == 3
    assert not captured.out
    assert list(tmp_path.iterdir()) == []


def verified(plan: Plan, ranks: Ranks) -> Verification:
    def verify(rank: int) -> Verification | None:
        with warnings.catch_warnings(action="ignore"):  # the libraries' own
            from runtime.verify.steps import verify

        return verify(plan, steps=3, seed=7)

    found: Any = ranks(plan.layout.num_devices, verify)[0]
    assert isinstance(found, Verification)
    return found


@pytest.mark.runtime
@pytest.mark.parametrize("own_precision", [False, True], ids=["best", "own"])
def test_the_layout_of_a_plan_agrees_with_one_process(path: Path, own_precision: bool, ranks: Ranks) -> None:
    pytest.importorskip("colossalai")
    plan = read_plan(path)
    if path.stem in NEED_GPUS:
        with pytest.raises(PlanError, match="cannot be verified on processor cores"):
            shrink(plan, max_processes=8, on_gpus=False)
        return
    small = shrink(plan, max_processes=8, on_gpus=False, own_precision=own_precision).plan
    assert not own_precision or small.layout.precision == plan.layout.precision
    found = verified(small, ranks)
    assert found.holds, found
    model = small.problem.model
    routed = model.experts
    of_layer, others = (12, 4) if routed is None else (7 + 3 * routed.count, 3)
    assert found.num_parameters == of_layer * model.num_layers + others


def verified_on_host(plan: Plan, ranks: Ranks) -> Verification:
    """With Gemini's chunks in host memory, which tests can divide; nothing of it can be offloaded further."""

    def verify(rank: int) -> Verification | None:
        with warnings.catch_warnings(action="ignore"):  # the libraries' own
            import runtime.engines.gemini
            from runtime.verify import steps as verifying

        divide_on_host()
        vars(runtime.engines.gemini)["gemini_plugin"] = host_plugin

        def on_host(plan: Plan, *, seed: int, learning_rate: float, **_: object) -> Any:
            return runtime.engines.gemini.GeminiEngine(plan, "cpu", seed=seed, learning_rate=learning_rate)

        vars(verifying)["make_engine"] = on_host
        return verifying.verify(plan, steps=3, seed=7)

    found: Any = ranks(plan.layout.num_devices, verify)[0]
    assert isinstance(found, Verification)
    return found


@pytest.mark.runtime
@pytest.mark.parametrize("name", sorted(NEED_GPUS - {"gpt2-nvme"}))  # which has the chunks of gpt2-zero3
def test_the_chunks_of_a_plan_agree_with_one_process(name: str, ranks: Ranks) -> None:
    pytest.importorskip("colossalai")
    plan = read_plan(PLANS[0].with_name(f"{name}.plan"))
    small = shrink(plan, max_processes=8, on_gpus=True).plan
    assert small.layout.data_parallel == min(8, plan.layout.data_parallel)
    in_place = msgspec.structs.replace(small.layout, offload=Offload())
    found = verified_on_host(seal(msgspec.structs.replace(small, layout=in_place)), ranks)
    assert found.holds, found
