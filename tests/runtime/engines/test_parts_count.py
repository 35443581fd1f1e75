"""What blocks keep and move by their parts, against each tensor that autograd saves and each operation on the CPU."""

from collections import Counter
from typing import Any

import msgspec
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from planner.cost_model.parts import final_norm, kept_elements, moved_elements
from planner.layouts.problem import Problem
from planner.plans.plan import Plan
from planner.specs import StackSpec
from planner.specs.files import load_spec
from tests.runtime.conftest import SEQ_LEN
from tests.runtime.family_models import MODELS
from tests.runtime.training import SEED, MakePlan, Ranks

pytestmark = pytest.mark.runtime

SIZES = {"hidden_size": 128, "ffn_hidden_size": 512, "vocab_size": 2048}
ROWS = 4
UNIT_BYTES = 2 * ROWS * SEQ_LEN * SIZES["hidden_size"]
"""Of one hidden state in bf16."""
COUNTED = {
    "norm_elements": (18.0, 46.0),
    "residual_elements": (3.0, 3.0),
    "summed_gradients": 3.0,
    "layout_elements": (2.0, 2.0),
    "repeat_elements": (2.0, 2.0),
    "rotary_elements": (10.0, 15.0),
    "gated_elements": (5.0, 9.0),
}
"""Reads and writes of each part; the stack has what its kernels take for them."""
PRODUCTS = ("aten::mm", "aten::bmm", "aten::addmm", "aten::_scaled_dot")
BUCKETS = ("aten::copy_", "aten::mul.out", "c10d::allreduce_")
"""How DDP fills its buckets, reduces and empties them."""
ALIASES = ("aten::detach", "aten::_unsafe_view")


class Passes(TorchDispatchMode):
    """Counts bytes that operations read and write, but for products, views and DDP's buckets."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run ``func`` and add what it moves."""
        returned = func(*args, **(kwargs or {}))
        name = f"{func._schema.name}.{func._schema.overload_name}"
        if func.is_view or name.startswith(PRODUCTS + BUCKETS + ALIASES):
            return returned
        read, written = (sum(map(_moved, tree_leaves(part))) for part in ((args, kwargs), returned))
        # Zeros that the half is then written to.
        self.moved += 2 * read + written if "slice_backward" in name else read + written
        return returned


def _moved(tensor: Any) -> int:
    """Bytes of a tensor, once where it is expanded."""
    if not isinstance(tensor, torch.Tensor):
        return 0
    sides = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return int(torch.Size(sides).numel()) * tensor.element_size()


def counts(plan: Plan) -> Counter[str]:
    """Bytes that one micro batch keeps and that its element-wise operations move, forward and backward."""
    from runtime.engines.hybrid import HybridEngine  # takes seconds to import

    engine = HybridEngine(plan, "cpu", seed=SEED, learning_rate=1e-3)
    tokens = torch.randint(0, SIZES["vocab_size"], (ROWS, SEQ_LEN + 1))
    batch = {"input_ids": tokens[:, :-1].contiguous(), "labels": tokens[:, 1:].contiguous()}
    for _ in range(2):  # DDP lays out its buckets anew in the second
        engine.step(batch)
    weights = {parameter.untyped_storage()._cdata for parameter in engine.model.parameters()}
    saved: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = storage
        return tensor

    forward, backward = Passes(), Passes()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with forward:
            loss = engine.model(**batch)["loss"]
        kept = sum(storage.nbytes() for storage in saved.values())
        with backward:
            engine.optimizer.backward(loss)
    return Counter(kept=kept, forward=forward.moved, backward=backward.moved)


def expected(problem: Problem) -> dict[str, float]:
    """The same of a block by its parts, in hidden states, but for some numbers a token: statistics and rotations."""
    problem = msgspec.structs.replace(problem, stack=load_spec("colossalai", StackSpec))
    kept = sum(kept_elements(problem))
    parts = msgspec.structs.replace(problem.stack.parts, **COUNTED)
    problem = msgspec.structs.replace(problem, stack=msgspec.structs.replace(problem.stack, parts=parts))
    forward, backward = (sum(elements) for elements in moved_elements(problem))
    assert final_norm(problem) == (4.0, COUNTED["norm_elements"])
    return {"kept": kept, "forward": forward, "backward": backward}


@pytest.mark.parametrize(("family", "kv_heads"), [("llama", 4), ("llama", 8), ("qwen2", 4)])
def test_parts_of_a_block_keep_and_move_what_is_counted(
    family: str, kv_heads: int, plan: MakePlan, ranks: Ranks
) -> None:
    model = {**MODELS[family], **SIZES}
    model["attention"] = {**model["attention"], "kv_heads": kv_heads}
    shapes = [
        plan(model={**model, "num_layers": n}, precision="bf16", global_batch=ROWS, layers_per_stage=(n,))
        for n in (2, 3)
    ]
    fewer, more = ranks(1, lambda rank: [counts(one) for one in shapes])[0]
    made = expected(shapes[0].problem)
    for name, elements in made.items():
        counted = (more[name] - fewer[name]) / UNIT_BYTES
        assert counted == pytest.approx(elements, rel=0.01), name
