"""Compiled blocks and loss: the gradients of one process, in every layout that is compiled.

Regions are traced and differentiated as for a GPU, but run by PyTorch's own kernels: a C++ compiler would take most of
the time here. Ranks are started once for all layouts of as many processes.
"""

from functools import partial
from typing import Any

import msgspec
import pytest
import torch

from planner.handover.verification import Verification
from planner.plans.plan import Plan, seal
from planner.specs.stack import CompiledSpec
from planner.specs.units import Seconds
from tests.runtime.conftest import make_plan, run_ranks
from tests.runtime.family_models import MODELS

pytestmark = pytest.mark.runtime

STAGES: dict[str, Any] = {"pipeline_parallel": 2, "num_microbatches": 2}
LLAMA, PADDED = {"model": MODELS["llama"]}, {"model": MODELS["qwen2"] | {"vocab_size": 101}}
LAYOUTS: dict[str, dict[str, Any]] = {
    "one, recomputing": {"recompute_layers_per_stage": (2,)},
    "one, in bf16": {"precision": "bf16", "num_microbatches": 2},
    "llama, in bf16": {**LLAMA, "precision": "bf16"},
    "tp2": {"tensor_parallel": 2},
    "tp2, sequence parallel": {**{"tensor_parallel": 2, "sequence_parallel": True, "recompute_layers_per_stage": (2,)}},
    "llama tp2, padded": {**PADDED, "tensor_parallel": 2},
    "interleaved": {**STAGES, "schedule": "interleaved", "num_model_chunks": 2},
    "zero-bubble": {**STAGES, "schedule": "zbv", "num_model_chunks": 2},
    "llama zero-bubble, in bf16": {**LLAMA, **STAGES, "schedule": "zbv", "num_model_chunks": 2, "precision": "bf16"},
    "zero1": {"precision": "bf16", "data_parallel": 2, "zero_stage": 1},
    "dp2, in bf16": {"precision": "bf16", "data_parallel": 2},
    "all-to-all": {**LLAMA, "sequence_parallel_degree": 2},
}
CHUNK_TOKENS = 48
"""Less than those of a micro batch, and no divisor of them."""
TIMEOUT_S = 480

Found = dict[Any, Any]


def compiled_plan(**fields: Any) -> Plan:
    plan = make_plan(**fields)
    spec = CompiledSpec(families=("gpt2", "llama", "qwen2"), start_s=Seconds(0.0))
    stack = msgspec.structs.replace(plan.problem.stack, compiled=spec)
    return seal(
        msgspec.structs.replace(plan, problem=msgspec.structs.replace(plan.problem, stack=stack, compiled=True))
    )


def _all_of(world: int, _: int) -> Found:
    from colossalai.tensor.d_tensor.api import clear_layout_converter

    from runtime.patches import loss_head
    from runtime.verify.steps import verify

    compiler, loss_head.CHUNK_TOKENS = torch.compile, CHUNK_TOKENS
    torch.compile = partial(compiler, backend="aot_eager")
    found: Found = {}
    for name, fields in LAYOUTS.items():
        plan = compiled_plan(**fields)
        if plan.layout.num_devices != world:
            continue
        clear_layout_converter()
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        found[name] = verify(plan, steps=2, seed=7)
        found[name, "graphs"] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    whole: Found = {}
    for world in (1, 2):
        folder = tmp_path_factory.mktemp(f"compiled{world}")
        whole |= run_ranks(world, partial(_all_of, world), folder, timeout_s=TIMEOUT_S)[0]
    return whole


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_compiled_layout_agrees_with_one_process(name: str, found: Found) -> None:
    verification = found[name]
    assert isinstance(verification, Verification)
    assert verification.holds, verification


@pytest.mark.parametrize("name", LAYOUTS)
def test_all_blocks_are_compiled_once(name: str, found: Found) -> None:
    """Of one graph, or those between what runs as it is, which recomputing without a graph needs twice.

    Four for the loss.
    """
    pieces = 16 if any(part in name for part in ("tp2", "all-to-all", "zero-bubble")) else 1
    assert 0 < found[name, "graphs"] <= pieces + 4
