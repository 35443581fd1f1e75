"""Cases of the rules of experts, as in :mod:`tests.unit.rules.rule_cases`."""

from planner.layouts.layout import Offload
from planner.specs import ExpertsSpec
from tests.helpers import layout
from tests.unit.rules.rule_cases import Case

EXPERTS = ExpertsSpec(count=6, top_k=2, ffn_hidden_size=24)
MODEL = {"experts": EXPERTS, "attention": {"qkv_bias": False, "output_bias": False}, "num_layers": 4}
LLAMA = {"positions": {"kind": "rotary"}, "norm": {"kind": "rmsnorm"}, "mlp": {"gated": True, "bias": False}}
ASKED = {
    "model": {**MODEL, **LLAMA},
    "stack": {"families": ("mixtral",), "experts": {"families": ("mixtral",), "zero_stages": (0, 1)}},
}


def of_stack(**experts: object) -> dict[str, object]:
    return {**ASKED, "stack": {"families": ("mixtral",), "experts": {"families": ("mixtral",), **experts}}}


CASES = (
    Case(
        "EP001", layout(data_parallel=2), layout(data_parallel=2, expert_parallel=2),
        "stack tiny-stack does not divide the experts of tiny over 2 ranks", "set expert_parallel to 1",
        {"family": "mixtral", "families": "no family"}, asked={"model": {**MODEL, **LLAMA}},
    ),
    Case(
        "EP002", layout(data_parallel=4, expert_parallel=2), layout(data_parallel=4, expert_parallel=4),
        "expert parallel degree 4 does not divide the 6 experts of a layer of tiny",
        "use an expert_parallel of 1 or 2", {"count": 6, "rest": 2}, asked=ASKED,
    ),
    Case(
        "EP003", layout(data_parallel=2, expert_parallel=2),
        layout(tensor_parallel=2, data_parallel=1, expert_parallel=2),
        "expert parallel degree 2 does not divide the 1 ranks of a stage that may hold experts",
        "use an expert_parallel of 1", {"ranks": 1, "ranks_rest": 1}, asked=ASKED,
    ),
    Case(
        "EP004", layout(data_parallel=2, expert_parallel=2, zero_stage=1),
        layout(data_parallel=2, expert_parallel=2),
        "ZeRO stage 0 does not go with an expert parallel degree of 2",
        "use ZeRO stage 1, or an expert_parallel of 1", {"expert_zero": "1"}, asked=of_stack(zero_stages=(1,)),
    ),
    Case(
        "EP005", layout(tensor_parallel=2), layout(tensor_parallel=4),
        "tensor parallel degree 4 does not divide the 6 experts of a layer of tiny",
        "use a tensor parallel degree of 1 or 2", {"count": 6}, asked=of_stack(by_count=True),
    ),
    Case(
        "EP006", layout(tensor_parallel=4), layout(tensor_parallel=5),
        "tensor parallel degree 5 does not divide the 24 units of an expert of tiny",
        "use a tensor parallel degree that divides 24", {"ffn": 24}, asked=ASKED,
    ),
    Case(
        "EP007", layout(data_parallel=2, expert_parallel=2), layout(data_parallel=4, expert_parallel=2),
        "expert parallel degree 2 leaves 2 copies of each expert, and stack tiny-stack averages their gradients over "
        "those alone that got tokens",
        "use an expert_parallel of 4, or of 1", {"copies": 2, "ranks": 4}, asked=of_stack(copies=False),
    ),
    Case(
        "EP008", layout(), layout(pipeline_parallel=2),
        "2 stages of stack tiny-stack do not train the routers of tiny by its balance loss",
        "use one stage, or experts.balance_loss = 0 in the model", {"balance": 0.01},
        asked={
            **of_stack(balance_loss_in_pipeline=False),
            "model": {
                **MODEL, **LLAMA, "experts": ExpertsSpec(count=6, top_k=2, ffn_hidden_size=24, balance_loss=0.01)
            },
        },
    ),
    Case(
        "EP009", layout(tensor_parallel=2, sequence_parallel=True), layout(tensor_parallel=2),
        "stack tiny-stack trains experts under tensor parallel degree 2 only on slices of sequences",
        "set sequence_parallel to true, or tensor parallel degree to 1", {"tensor_parallel": 2},
        asked=of_stack(needs_slices=True),
    ),
    Case(
        "EP010", layout(data_parallel=2, expert_parallel=2),
        layout(data_parallel=2, expert_parallel=2, offload=Offload(optimizer=1.0, tier="cpu")),
        "states are not offloaded to cpu with an expert parallel degree of 2",
        "use tier none, or an expert_parallel of 1", {"tier": "cpu"}, asked=ASKED,
    ),
    Case(
        "EP011", layout(layers_per_stage=(2, 2), pipeline_parallel=2),
        layout(layers_per_stage=(1, 3), pipeline_parallel=2),
        "the first 2 blocks of tiny have no experts and belong on the first stage, which has 1",
        "give the first stage 2 layers or more in its first chunk, or use fewer stages", {"dense": 2, "first": 1},
        asked={
            **ASKED,
            "model": {
                **MODEL, **LLAMA, "experts": ExpertsSpec(count=6, top_k=2, ffn_hidden_size=24, first_dense_layers=2)
            },
        },
    ),
    Case(
        "EP012", layout(tensor_parallel=4), layout(tensor_parallel=4, tensor_mode="2d"),
        "mode 2d does not divide the experts of tiny", "use --mode 1d", {"tensor_mode": "2d"}, asked=ASKED,
    ),
)  # fmt: skip
