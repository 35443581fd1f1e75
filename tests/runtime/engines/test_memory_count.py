"""Predicted activations, logits and gradients against the bytes that a run on the CPU really holds."""

import weakref
from typing import Any

import msgspec
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from planner.cost_model.memory import stage_memory
from planner.cost_model.terms import total
from planner.layouts.stages import stages_of_layout
from planner.plans.plan import Plan
from planner.specs import StackSpec
from planner.specs.files import load_spec
from runtime.states.placement import holds_loss
from tests.runtime.conftest import SEQ_LEN
from tests.runtime.training import SEED, MakePlan, Ranks

pytestmark = pytest.mark.runtime

MODEL = {"hidden_size": 128, "ffn_hidden_size": 512, "vocab_size": 2048}
RESIDENT = ("weights", "master_weights", "optimizer_moments", "workspaces", "batch", "communication_buckets")
"""Terms that exist before a step, or that the reducer allocates where Python does not see it."""

V: dict[str, Any] = {
    "pipeline_parallel": 2,
    "num_microbatches": 4,
    "schedule": "zbv",
    "num_model_chunks": 2,
    "model": {"num_layers": 8},
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "single": {},
    "accumulation": {"num_microbatches": 4},
    "recompute": {"num_microbatches": 2, "recompute_layers_per_stage": (4,)},
    "tp2": {"tensor_parallel": 2, "num_microbatches": 2},
    "sequence": {"tensor_parallel": 2, "sequence_parallel": True, "num_microbatches": 2},
    "sequence-single": {"tensor_parallel": 2, "sequence_parallel": True},
    "sequence-recompute": {
        "tensor_parallel": 2,
        "sequence_parallel": True,
        "num_microbatches": 2,
        "recompute_layers_per_stage": (3,),
    },
    "pp2": {"pipeline_parallel": 2, "num_microbatches": 4},
    "pp2-sequence": {"pipeline_parallel": 2, "num_microbatches": 4, "tensor_parallel": 2, "sequence_parallel": True},
    "interleaved": {"pipeline_parallel": 2, "num_microbatches": 4, "schedule": "interleaved", "num_model_chunks": 2},
    "zero1": {"data_parallel": 2, "zero_stage": 1, "num_microbatches": 2},
    "v": V,
    "v-recompute": {**V, "recompute_layers_per_stage": (4, 4)},
    "v-recompute-some": {**V, "recompute_layers_per_stage": (1, 3)},
    "v-recompute-tp2": {**V, "tensor_parallel": 2, "recompute_layers_per_stage": (4, 4)},
    "v-recompute-pp4": {
        **V,
        "pipeline_parallel": 4,
        "num_microbatches": 8,
        "model": {"num_layers": 16},
        "recompute_layers_per_stage": (2,) * 4,
    },
}


class Held(TorchDispatchMode):
    """Counts storages from when an operation returns them until they are freed, or given up before."""

    def __init__(self, before: set[int]) -> None:
        """Count none of the storages ``before``."""
        super().__init__()
        self.before, self.most = before, 0
        self.storages: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run ``func`` and look at what it returns."""
        returned = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(returned):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        held = [storage for reference in list(self.storages.values()) if (storage := reference()) is not None]
        # Stages of a V shrink what they have sent to nothing, while its graph still needs it.
        self.most = max(self.most, sum(storage.nbytes() for storage in held))
        return returned

    def _add(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self.before and key not in self.storages:
            self.storages[key] = weakref.ref(storage)
            weakref.finalize(storage, self.storages.pop, key)


def most_bytes(plan: Plan) -> int:
    """The most that a rank holds during one step's forward and backward, beyond what was there before."""
    from runtime.engines.hybrid import HybridEngine  # takes seconds to import

    engine = HybridEngine(plan, "cpu", seed=SEED, learning_rate=1e-3)
    share = plan.layout.micro_batch * plan.layout.num_microbatches
    tokens = torch.randint(0, 2048, (share, SEQ_LEN + 1))
    batch = {"input_ids": tokens[:, :-1].contiguous(), "labels": tokens[:, 1:].contiguous()}
    for _ in range(2):  # DDP lays out its buckets anew in the second
        engine.step(batch)
    held = Held({parameter.untyped_storage()._cdata for parameter in engine.model.parameters()})
    with held:
        engine.accumulate_gradients(batch)
    return held.most


def predicted_bytes(plan: Plan) -> list[float]:
    """The same of each stage, by the cost model with the constants of the runtime's stack."""
    problem = msgspec.structs.replace(plan.problem, stack=load_spec("colossalai", StackSpec))
    phases = stage_memory(problem, stages_of_layout(plan.layout)).phases
    made = [
        total({name: term for name, term in phases[phase].items() if name not in RESIDENT}).tolist()
        for phase in ("forward", "backward")
    ]
    return [max(pair) for pair in zip(*made, strict=True)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_step_holds_what_is_predicted(name: str, plan: MakePlan, ranks: Ranks) -> None:
    fields = LAYOUTS[name] | {"model": MODEL | LAYOUTS[name].get("model", {})}
    chosen = plan(precision="bf16", global_batch=64, **fields)
    found = ranks(chosen.layout.num_devices, lambda rank: most_bytes(chosen))
    predicted = predicted_bytes(chosen)
    of_stage = len(found) // len(predicted)
    for stage, expected in enumerate(predicted):
        measured = max(found[stage * of_stage : (stage + 1) * of_stage])
        # Stages without the loss peak in the backward of a layer, whose own gradients are a round count; and of four
        # processes on fewer cores some send faster than others receive.
        exact = holds_loss(chosen.layout, stage) and chosen.layout.pipeline_parallel <= 2
        slack = 0.035 if exact else 0.1
        assert expected == pytest.approx(measured, rel=slack), f"stage {stage}: {expected / measured}"
