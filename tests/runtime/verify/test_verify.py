"""Verification: every layout agrees with one process, and each silent error of the library is found."""

import importlib.util
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.cli import app as cli
from planner.handover.verification import TOLERANCES, Verification, Workaround
from planner.launch.drives import MEMORY_FILE_SYSTEMS, file_system
from planner.layouts.layout import Offload
from planner.plans.plan import Plan, write_plan
from tests.runtime.family_models import MODELS
from tests.runtime.training import MakePlan, Ranks

pytestmark = pytest.mark.runtime

MIXED: dict[str, Any] = {"precision": "bf16"}
TWO_STAGES: dict[str, Any] = {"pipeline_parallel": 2, "num_microbatches": 2}
UNEVEN = {**TWO_STAGES, "layers_per_stage": (3, 1), "recompute_layers_per_stage": (1, 0)}
PAIR: dict[str, Any] = {"tensor_mode": "2.5d", "tensor_parallel": 2, "tensor_depth": 2}
SEQUENCE: dict[str, Any] = {"tensor_parallel": 2, "sequence_parallel": True}

LAYOUTS: dict[str, dict[str, Any]] = {
    "one": {},
    "tp2": {"tensor_parallel": 2},
    "pp2-uneven-recompute": {**UNEVEN, "num_microbatches": 4},
    "interleaved": {**TWO_STAGES, "schedule": "interleaved", "num_model_chunks": 2, "num_microbatches": 4},
    "sequence": {**SEQUENCE, "num_microbatches": 2},
    "sequence-zero1": {**SEQUENCE, **MIXED, "data_parallel": 2, "zero_stage": 1},
    "dp2": {"data_parallel": 2, "num_microbatches": 2},
    "zero1": {**MIXED, "data_parallel": 2, "zero_stage": 1, "num_microbatches": 2},
    "zero2": {**MIXED, "data_parallel": 2, "zero_stage": 2, "num_microbatches": 2},
    "zero1-offload": {**MIXED, "data_parallel": 2, "zero_stage": 1, "offload": Offload(optimizer=1.0, tier="cpu")},
    "tp2-pp2-dp2": {**UNEVEN, "tensor_parallel": 2, "data_parallel": 2},
    "tp2-pp2-zero1": {**TWO_STAGES, **MIXED, "tensor_parallel": 2, "zero_stage": 1},
    "2d": {"tensor_mode": "2d", "tensor_parallel": 4},
    "2.5d": PAIR,
    "2.5d-pp2-dp2": {**PAIR, **TWO_STAGES, "data_parallel": 2},
    "3d": {"tensor_mode": "3d", "tensor_parallel": 8},
}


def verified(plan: Plan, ranks: Ranks, *without: Workaround) -> Verification:
    def verify(rank: int) -> Verification | None:
        from runtime.verify.steps import verify

        return verify(plan, steps=3, seed=7, without=without)

    first, *others = ranks(plan.layout.num_devices, verify)
    assert others == [None] * (plan.layout.num_devices - 1)
    assert isinstance(first, Verification)
    return first


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_agrees_with_one_process(name: str, plan: MakePlan, ranks: Ranks) -> None:
    chosen = plan(**LAYOUTS[name])
    found = verified(chosen, ranks)
    assert found.holds, found
    assert found.num_parameters == 12 * 4 + 4


def test_rounding_does_not_lead_away_from_one_process_whatever_the_seed(plan: MakePlan, ranks: Ranks) -> None:
    model = {**MODELS["qwen2"], "num_layers": 5, "vocab_size": 128}
    chosen = plan(**MIXED, num_microbatches=4, model=model)

    def verify(rank: int) -> list[float]:
        from runtime.verify.steps import verify

        found = [verify(chosen, steps=3, seed=seed) for seed in range(1, 11)]
        return [step.gradient.value or 0.0 for one in found if one is not None for step in one.steps]

    (values,) = ranks(1, verify)
    assert len(values) == 30
    assert min(values) > 0
    assert max(values) < TOLERANCES["bf16"].gradient / 2


def test_an_update_that_is_a_tenth_too_small_is_found(plan: MakePlan, ranks: Ranks) -> None:
    """Later steps depend on earlier updates, so that these are compared too."""
    chosen = plan(data_parallel=2)

    def verify(rank: int) -> Verification | None:
        from runtime.verify import steps as verifying

        right = vars(verifying)["make_engine"]

        def wrong(plan: Plan, *, learning_rate: float, **more: Any) -> Any:
            return right(plan, learning_rate=0.9 * learning_rate, **more)

        vars(verifying)["make_engine"] = wrong
        return verifying.verify(plan=chosen, steps=3, seed=7)

    found = ranks(2, verify)[0]
    first, *later = found.steps
    assert first.gradient.value < found.tolerance.gradient
    assert all(step.gradient.value > 5 * found.tolerance.gradient for step in later)
    assert all(step.replicas.value == 0 for step in found.steps)


def test_attention_that_sees_the_future_is_found(plan: MakePlan, ranks: Ranks) -> None:
    found = verified(plan(tensor_parallel=2), ranks, "causal-attention")
    assert not found.holds
    for step in found.steps:
        assert step.gradient.value is not None
        assert step.gradient.value > 0.3
    # All ranks see the future alike, so comparing them with each other would not show it.
    assert found.steps[0].replicas is not None
    assert found.steps[0].replicas.value == pytest.approx(0.0, abs=1e-5)


def test_unsummed_biases_of_a_split_sequence_are_found(plan: MakePlan, ranks: Ranks) -> None:
    found = verified(plan(**SEQUENCE), ranks, "sequence-bias-sum")
    assert not found.holds
    first = found.steps[0]
    assert first.loss_difference == pytest.approx(0.0, abs=1e-6)
    assert first.gradient.parameter.endswith("c_proj.bias")
    assert first.gradient.value is not None
    assert first.gradient.value > 0.3
    assert first.replicas is not None
    assert first.replicas.parameter.endswith("c_proj.bias")
    assert first.replicas.value is not None
    assert first.replicas.value > 0.3


def test_a_depth_that_nobody_sums_over_is_found(plan: MakePlan, ranks: Ranks) -> None:
    found = verified(plan(**PAIR), ranks, "depth-sum")
    assert not found.holds
    first = found.steps[0]
    assert first.gradient.value is not None
    assert first.gradient.value > 0.3
    assert first.replicas is not None
    assert first.replicas.ranks == (0, 1)
    assert first.replicas.value is not None
    assert first.replicas.value > 0.3


Verify = Callable[..., tuple[int, str, str]]


@pytest.fixture
def verify_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Verify:
    """``verify_file(plan, "--json")`` is the command with its own processes: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(plan: Plan, *arguments: str) -> tuple[int, str, str]:
        write_plan(plan, Path("some.plan"))
        with pytest.raises(SystemExit) as finished:
            cli.main(["verify", "some.plan", *arguments])
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return int(finished.value.code or 0), captured.out, captured.err

    return run


def test_the_command_shrinks_a_plan_and_prints_every_step(plan: MakePlan, verify_file: Verify) -> None:
    large = {"num_layers": 24, "hidden_size": 2048, "num_heads": 16, "ffn_hidden_size": 8192, "vocab_size": 50257}
    chosen = plan(
        model=large,
        hardware={"device": "cuda"},
        precision="bf16",
        global_batch=64,
        data_parallel=16,
        zero_stage=2,
        num_microbatches=2,
        recompute_layers_per_stage=(6,),
    )
    code, out, err = verify_file(chosen, "--max-processes", "2", "--steps", "2")
    assert code == 0, err
    assert err.startswith("training 2 steps on 2 processes and on one\n")
    assert "layers 2, recomputed 1, bf16" in out
    assert "differs from the plan: data parallel 2 instead of 16\n" in out
    rows = [line.split() for line in out.splitlines() if line.split()[:1] in (["1"], ["2"])]
    assert len(rows) == 2
    assert all(float(row[4]) < 0.05 for row in rows)
    assert "verified: losses and the gradients of all 28 parameters agree in 2 steps" in out


def test_the_command_fails_where_an_error_is_let_happen(plan: MakePlan, verify_file: Verify) -> None:
    code, out, err = verify_file(plan(**SEQUENCE), "--json", "--without", "sequence-bias-sum")
    assert code == 1
    document = json.loads(out)
    assert document["verified"] is False
    assert document["without"] == ["sequence-bias-sum"]
    assert document["missing"] == []
    assert [step["step"] for step in document["steps"]] == [1, 2, 3]
    first = document["steps"][0]
    assert set(first) == {"step", "loss", "reference_loss", "loss_difference", "gradient", "replicas", "routing"}
    assert first["gradient"]["parameter"].endswith("c_proj.bias")
    assert first["gradient"]["value"] > 0.3 > document["tolerance"]["gradient"]
    assert first["replicas"]["ranks"] == [0, 1]
    assert "warning: switched off: gradients of row-parallel biases summed" in err
    assert "error[VER001]: the layout does not train like one process" in err


@pytest.mark.skipif(importlib.util.find_spec("tensornvme") is None, reason="needs the package tensornvme")
def test_moments_on_a_drive_are_verified(plan: MakePlan, verify_file: Verify) -> None:
    if file_system(Path()) in MEMORY_FILE_SYSTEMS:
        pytest.skip("temporary files are in memory")
    fields = {**MIXED, "data_parallel": 2, "zero_stage": 1, "offload": Offload(optimizer=1.0, tier="nvme")}
    code, out, err = verify_file(plan(**fields), "--nvme-path", ".")
    assert code == 0, err
    assert "offload of 100% of the optimizer to nvme" in out
    assert sorted(path.name for path in Path().iterdir()) == ["some.plan"]


def test_what_is_no_number_or_not_there_does_not_pass() -> None:
    import numpy as np

    with warnings.catch_warnings(action="ignore"):  # the libraries' own
        from runtime.verify.differences import RankSteps, compare, relative
        from runtime.verify.reference import ReferenceStep

    def gradient(*values: float) -> Any:
        return np.array(values, dtype=np.float32)

    right = {"a": gradient(3.0, 4.0), "b": gradient(1.0)}
    limits = TOLERANCES["fp32"]

    def judged(own: dict[str, Any], loss: float = 2.0) -> Verification:
        return compare([ReferenceStep(2.0, right)], [RankSteps(0, [loss], [own])], limits)

    assert judged(right).holds
    assert judged(right).steps[0].replicas is None
    no_number = judged(right | {"a": gradient(float("nan"), 4.0)})
    assert not no_number.holds
    assert no_number.steps[0].gradient.value is None
    assert no_number.steps[0].gradient.parameter == "a"
    assert not judged(right, loss=float("nan")).holds
    missing = judged({"a": right["a"]})
    assert missing.missing == ("b",)
    assert not missing.holds
    off = judged(right | {"a": gradient(3.0, 4.5)})
    assert off.steps[0].gradient.value == pytest.approx(0.1)
    # What is left of a bias of keys is measured with those that GPT-2 has in one with it.
    biases = {f"attn.{part}_proj.bias": gradient(size) for part, size in (("q", 3.0), ("k", 0.01), ("v", 4.0))}
    rounded = biases | {"attn.k_proj.bias": gradient(0.02)}
    found = compare([ReferenceStep(2.0, biases)], [RankSteps(0, [2.0], [rounded])], limits)
    assert found.steps[0].gradient.value == pytest.approx(0.01 / 5, rel=1e-3)
    # Padding of the vocabulary has no gradient.
    assert relative(np.ones((3, 1), np.float32), np.ones((2, 1), np.float32)) == pytest.approx(1 / 2**0.5)
    assert relative(np.zeros((2, 1), np.float32), np.zeros((2, 1), np.float32)) == 0
    assert relative(np.ones((2, 1), np.float32), np.zeros((2, 1), np.float32)) is None
