"""For every rule of the table a layout that keeps it, one that breaks it, and what is said of that one."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from planner.layouts.layout import Layout, Offload
from planner.layouts.problem import Problem
from planner.specs.stack import CompiledSpec
from planner.specs.units import Seconds
from tests.helpers import layout, problem


class Case(NamedTuple):
    """One rule. ``asked`` overrides the problem of both layouts, ``asked_of_broken`` that of the broken one."""

    rule: str
    kept: Layout
    broken: Layout
    message: str
    hint: str
    numbers: dict[str, Any]
    """Values that the diagnostic has to name."""
    asked: Mapping[str, Any] = MappingProxyType({})
    asked_of_broken: Mapping[str, Any] = MappingProxyType({})

    def problem_of_kept(self) -> Problem:
        """The problem in which ``kept`` keeps the rule."""
        return problem(**self.asked)

    def problem_of_broken(self) -> Problem:
        """The problem in which ``broken`` breaks it."""
        return problem(**{**self.asked, **self.asked_of_broken})


COMPILED = CompiledSpec(families=("gpt2",), start_s=Seconds(1.0), recomputes_pointwise=True)
V: dict[str, Any] = {"pipeline_parallel": 2, "schedule": "zbv", "num_model_chunks": 2}
"""A layout under the zero-bubble schedule, and below a stack that runs GPT-2 under it."""
IN_V = {"schedules": ("none", "1f1b", "zbv"), "zero_bubble_families": ("gpt2",), "zero_bubble_tied_families": ("gpt2",)}
CASES = (
    Case(
        "RCP001", layout(data_parallel=4, recompute_pointwise=True),
        layout(tensor_parallel=2, data_parallel=2, recompute_pointwise=True),
        "tiny-stack cannot make outputs of norms and activation functions again in this layout",
        "set recompute_pointwise to false",
        {"compiled": "yes", "tensor_parallel": 2, "divided": 1, "zero_stage": 0},
        asked={"compiled": True, "stack": {"compiled": COMPILED}},
    ),
    Case(
        "DEV001", layout(tensor_parallel=2, pipeline_parallel=2), layout(tensor_parallel=2),
        "TP x PP x DP has to be 4 GPUs, and it is 2",
        "data parallelism is set from the other two: choose TP x PP that divides 4",
        {"tensor_parallel": 2, "pipeline_parallel": 1, "data_parallel": 1, "product": 2, "num_devices": 4},
    ),
    Case(
        "BAT001", layout(data_parallel=4, num_microbatches=2), layout(data_parallel=3, num_microbatches=2),
        "micro batch x micro batches x DP has to be the global batch 8, and it is 6",
        "use a data parallel degree of 1, 2 or 4, or --global-batch 9",
        {"product_batch": 6, "global_batch": 8, "next_batch": 9},
    ),
    Case(
        "SEQ001", layout(), layout(),
        "sequences of 16 tokens do not fit the 8 positions of tiny", "use --seq-len 8 or less",
        {"seq_len": 16, "max_seq_len": 8}, asked_of_broken={"seq_len": 16},
    ),
    Case(
        "PRE001", layout(), layout(precision="fp16"),
        "tiny-gpu has no matrix rate for fp16", "use --precision with one of bf16",
        {"precision": "fp16", "precisions": "bf16"},
        asked={"hardware": {"peak_flops_per_s": {"bf16": 1e12}}}, asked_of_broken={"precision": "fp16"},
    ),
    Case(
        "PRE002", layout(), layout(precision="fp32"),
        "the layout is in fp32, and bf16 was asked for",
        "use --precision fp32, or a layout in bf16", {"precision": "fp32", "asked_precision": "bf16"},
    ),
    Case(
        "TP001", layout(tensor_parallel=4), layout(tensor_parallel=3),
        "tensor parallel degree 3 does not divide the 4 attention heads of tiny",
        "use 1, 2 or 4, which divide both 4 and 4 GPUs", {"size": 4, "tensor_parallel": 3, "rest": 1},
    ),
    Case(
        "TP002", layout(tensor_parallel=4), layout(tensor_parallel=3),
        "tensor parallel degree 3 does not divide the 16 hidden units of tiny",
        "use 1, 2 or 4, which divide both 16 and 4 GPUs", {"size": 16, "rest": 1},
    ),
    Case(
        "TP003", layout(tensor_parallel=4), layout(tensor_parallel=3),
        "tensor parallel degree 3 does not divide the 64 feed-forward units of tiny",
        "use 1, 2 or 4, which divide both 64 and 4 GPUs", {"size": 64, "rest": 1},
    ),
    Case(
        "TP004", layout(tensor_parallel=4), layout(tensor_parallel=4),
        "tensor parallel degree 4 does not divide the 102 vocabulary rows of tiny",
        "use 1 or 2, or a stack whose vocab_multiple pads the vocabulary", {"padded": 102, "rest": 2},
        asked_of_broken={"model": {"vocab_size": 102}, "stack": {"vocab_multiple": 0}},
    ),
    Case(
        "TP005", layout(tensor_parallel=2), layout(tensor_parallel=4),
        "4 tensor-parallel ranks leave the last one without any of 40 tokens",
        "use a tensor parallel degree of 1 or 2", {"vocab_size": 40, "padded": 64, "before_last": 48},
        asked={"model": {"vocab_size": 40}},
    ),
    Case(
        "TP010", layout(), layout(tensor_parallel=2, tensor_mode="none"),
        "tensor parallel degree 2 needs a tensor mode, and the mode is none",
        "set tensor_mode to 1d, or tensor_parallel to 1", {"tensor_parallel": 2, "tensor_mode": "none"},
    ),
    Case(
        "TP011", layout(tensor_parallel=4, tensor_mode="2d"), layout(tensor_parallel=2, tensor_mode="2d"),
        "tensor parallel degree 2 is not a square, as mode 2d needs", "use 4, which divide 4 GPUs",
        {"tensor_parallel": 2, "valid": "4"},
    ),
    Case(
        "TP012", layout(tensor_parallel=8, tensor_mode="3d"), layout(tensor_parallel=4, tensor_mode="3d"),
        "tensor parallel degree 4 is not a cube, as mode 3d needs", "use 8 or 64, which divide 64 GPUs",
        {"tensor_parallel": 4, "valid": "8 or 64"}, asked={"num_devices": 64},
    ),
    Case(
        "TP013", layout(tensor_parallel=8, tensor_mode="2.5d", tensor_depth=2),
        layout(tensor_parallel=4, tensor_mode="2.5d", tensor_depth=2),
        "tensor parallel degree 4 is not depth times a square, as mode 2.5d needs",
        "use 2 or 8, which divide 8 GPUs", {"tensor_parallel": 4, "tensor_depth": 2}, asked={"num_devices": 8},
    ),
    Case(
        "TP014", layout(tensor_parallel=2, tensor_mode="2.5d", tensor_depth=2),
        layout(tensor_parallel=2, tensor_depth=2),
        "tensor depth 2 has no meaning in mode 1d", "set tensor_depth to 1, or tensor_mode to 2.5d",
        {"tensor_depth": 2, "tensor_mode": "1d"},
    ),
    Case(
        "TP021", layout(tensor_parallel=16, tensor_mode="2d"), layout(tensor_parallel=9, tensor_mode="2d"),
        "the 2d grid edge 3 does not divide the 4 attention heads", "use a grid edge of 2 or 4",
        {"edge": 3, "num_heads": 4},
    ),
    Case(
        "TP022", layout(tensor_parallel=9, tensor_mode="2d"), layout(tensor_parallel=27, tensor_mode="3d"),
        "12 hidden units do not split into the 9 parts of mode 3d",
        "use a grid whose parts divide 12, or --mode 1d", {"share": 9, "hidden_size": 12},
        asked={"model": {"hidden_size": 12}},
    ),
    Case(
        "TP023", layout(tensor_parallel=8, tensor_mode="3d", micro_batch=4),
        layout(tensor_parallel=8, tensor_mode="3d", micro_batch=2),
        "micro batch 2 does not split into the 4 shares of mode 3d", "use a micro batch that is a multiple of 4",
        {"micro_batch": 2, "batch_share": 4},
    ),
    Case(
        "TP024", layout(tensor_parallel=8, tensor_mode="3d"), layout(tensor_parallel=8, tensor_mode="3d"),
        "62 feed-forward units do not split into the 4 parts of mode 3d",
        "use a grid whose parts divide 62, or --mode 1d", {"share": 4, "ffn_hidden_size": 62},
        asked_of_broken={"model": {"ffn_hidden_size": 62}},
    ),
    Case(
        "TP025", layout(tensor_parallel=4, tensor_mode="2d"),
        layout(tensor_parallel=4, tensor_mode="2d", zero_stage=1),
        "mode 2d does not run with ZeRO stage 1", "use ZeRO stage 0, or --mode 1d",
        {"tensor_mode": "2d", "zero_stage": 1},
    ),
    Case(
        "TP026", layout(tensor_parallel=4, tensor_mode="2d", pipeline_parallel=2),
        layout(
            tensor_parallel=4, tensor_mode="2d", pipeline_parallel=2, num_model_chunks=2, schedule="interleaved"
        ),
        "mode 2d does not run schedule interleaved", "use schedule 1f1b, or --mode 1d",
        {"tensor_mode": "2d", "schedule": "interleaved"},
    ),
    Case(
        "SP001", layout(tensor_parallel=2, sequence_parallel=True), layout(sequence_parallel=True),
        "sequence parallelism needs tensor mode 1d with a degree above 1",
        "set sequence_parallel to false, or tensor_mode to 1d and tensor_parallel to 2 or more",
        {"tensor_mode": "none", "tensor_parallel": 1},
    ),
    Case(
        "SP002", layout(tensor_parallel=4, sequence_parallel=True), layout(tensor_parallel=4, sequence_parallel=True),
        "sequence length 6 does not divide by tensor parallel degree 4",
        "use a tensor parallel degree of 1 or 2, or set sequence_parallel to false",
        {"seq_len": 6, "tensor_parallel": 4, "rest": 2}, asked_of_broken={"seq_len": 6},
    ),
    Case(
        "PP001", layout(pipeline_parallel=4),
        layout(pipeline_parallel=4, num_model_chunks=2, schedule="interleaved"),
        "4 stages x 2 chunks need as many layers, and tiny has 4", "use at most 4 stages",
        {"pipeline_parallel": 4, "chunks": 2, "num_layers": 4},
    ),
    Case(
        "PP002", layout(pipeline_parallel=2), layout(pipeline_parallel=2, schedule="none"),
        "schedule none does not go with 2 pipeline stages",
        "use schedule none for one stage, and 1f1b, interleaved or zbv for more",
        {"schedule": "none", "pipeline_parallel": 2},
    ),
    Case(
        "PP003", layout(pipeline_parallel=2, num_model_chunks=2, schedule="interleaved"),
        layout(pipeline_parallel=2, num_model_chunks=2), "2 model chunks do not go with schedule 1f1b",
        "use 1 chunk with none and 1f1b, 2 or more with interleaved, and 2 with zbv",
        {"chunks": 2, "schedule": "1f1b"},
    ),
    Case(
        "PP004", layout(pipeline_parallel=4, num_microbatches=4), layout(pipeline_parallel=4, num_microbatches=3),
        "num_microbatches 3 cannot fill 4 pipeline stages", "use at least 4 micro batches, or fewer stages",
        {"num_microbatches": 3, "pipeline_parallel": 4},
    ),
    Case(
        "PP005", layout(pipeline_parallel=2, num_model_chunks=2, schedule="interleaved", num_microbatches=4),
        layout(pipeline_parallel=2, num_model_chunks=2, schedule="interleaved", num_microbatches=3),
        "schedule interleaved needs micro batches in multiples of 2, not 3", "use 4 micro batches, or schedule 1f1b",
        {"num_microbatches": 3, "next_microbatches": 4},
    ),
    Case(
        "PP006", layout(pipeline_parallel=2), layout(pipeline_parallel=3, layers_per_stage=(2, 1, 1)),
        "4 layers do not divide over 3 stages x 1 chunks", "use 1, 2 or 4 stages",
        {"num_layers": 4, "pipeline_parallel": 3}, asked={"stack": {"uneven_stages": False}},
    ),
    Case(
        "PP010", layout(pipeline_parallel=2, layers_per_stage=(1, 3)),
        layout(pipeline_parallel=2, layers_per_stage=(2, 3)),
        "layers_per_stage has to name 2 stages of 1 layer or more, 4 in all",
        "give one number per stage; gptplan chooses them when they are not pinned",
        {"layers_per_stage": [2, 3], "total": 5, "num_layers": 4},
    ),
    Case(
        "PP011", layout(pipeline_parallel=2), layout(pipeline_parallel=2, layers_per_stage=(1, 3)),
        "schedule 1f1b of stack tiny-stack gives every stage the same number of layers", "use 1, 2 or 4 stages",
        {"layers_per_stage": [1, 3], "stack": "tiny-stack"}, asked={"stack": {"uneven_stages": False}},
    ),
    Case(
        "RC001", layout(pipeline_parallel=2, recompute_layers_per_stage=(2, 2)),
        layout(pipeline_parallel=2, recompute_layers_per_stage=(2, 0)),
        "stack tiny-stack recomputes all-or-nothing, not [2, 0] of [2, 2] layers", "recompute no layer, or all of them",
        {"recompute": [2, 0], "layers_per_stage": [2, 2]},
    ),
    Case(
        "RC002", layout(), layout(recompute_layers_per_stage=(4,)),
        "stack tiny-stack cannot recompute activations", "recompute no layer",
        {"recompute_rule": "none"}, asked={"stack": {"recompute": "none"}},
    ),
    Case(
        "RC003", layout(pipeline_parallel=2, recompute_layers_per_stage=(1, 1)),
        layout(pipeline_parallel=3, layers_per_stage=(2, 2, 2), recompute_layers_per_stage=(1, 1, 1)),
        "3 stages that recompute some of their layers need 6 layers, not 4",
        "recompute none or all, or use at most 2 stages",
        {"least": 6, "half": 2}, asked={"stack": {"recompute": "per-layer"}},
    ),
    Case(
        "RC004", layout(**V, recompute_layers_per_stage=(1, 2)), layout(**V, recompute_layers_per_stage=(0, 2)),
        "under schedule zbv all stages recompute a layer or none does, not [0, 2] of [2, 2]",
        "recompute a layer or more of every stage, or none at all", {"recompute": [0, 2], "schedule": "zbv"},
        asked={"stack": IN_V},
    ),
    Case(
        "ZER001", layout(pipeline_parallel=2, zero_stage=1), layout(pipeline_parallel=2, zero_stage=2),
        "ZeRO stage 2 does not go with a pipeline of 2 stages", "use ZeRO 0, 1, or one pipeline stage",
        {"zero_stage": 2, "pipeline_parallel": 2, "stack_zero_pipeline": "0, 1"},
    ),
    Case(
        "ZER002", layout(zero_stage=1), layout(zero_stage=1, precision="fp32"),
        "ZeRO stage 1 does not run in fp32", "use --precision fp16, bf16, or ZeRO stage 0",
        {"zero_stage": 1, "precision": "fp32"}, asked_of_broken={"precision": "fp32"},
    ),
    Case(
        "ZER003", layout(zero_stage=2, micro_batch=8, num_microbatches=1), layout(zero_stage=2, num_microbatches=8),
        "ZeRO stage 2 cannot accumulate 8 micro batches", "use one micro batch, or ZeRO 0, 1",
        {"zero_stage": 2, "num_microbatches": 8},
    ),
    Case(
        "ZER004", layout(zero_stage=3), layout(zero_stage=3, tensor_parallel=2),
        "ZeRO stage 3 does not go with tensor parallel degree 2", "use ZeRO 0, 1 or 2, or tensor parallel degree 1",
        {"zero_stage": 3, "tensor_parallel": 2},
    ),
    Case(
        "ZER005", layout(zero_stage=3), layout(zero_stage=3),
        "ZeRO stage 3 does not run on tiny-gpu, which is no GPU", "use ZeRO 0, 1 or 2, or a GPU",
        {"zero_stage": 3, "device": "cpu"}, asked_of_broken={"hardware": {"device": "cpu"}},
    ),
    Case(
        "OFF001", layout(zero_stage=1, offload=Offload(optimizer=1.0, tier="cpu")),
        layout(zero_stage=1, offload=Offload(optimizer=1.0, tier="nvme")),
        "offload to nvme is not allowed here", "add --allow-offload nvme",
        {"tier": "nvme", "allowed": "cpu"}, asked={"allow_offload": "cpu"},
    ),
    Case(
        "OFF002", layout(zero_stage=1, offload=Offload(optimizer=1.0, tier="cpu")),
        layout(zero_stage=1, offload=Offload(optimizer=1.0, tier="none")),
        "an optimizer share of 1.0 does not go with offload tier none",
        "use tier none with share 0, and tier cpu or nvme with a share above 0",
        {"optimizer": 1.0, "tier": "none"}, asked={"allow_offload": "cpu"},
    ),
    Case(
        "OFF003", layout(zero_stage=1, offload=Offload(optimizer=1.0, tier="cpu")),
        layout(offload=Offload(optimizer=1.0, tier="cpu")),
        "offload of the optimizer needs ZeRO stage 1 or higher", "use ZeRO stage 1",
        {"zero_stage": 0, "optimizer": 1.0}, asked={"allow_offload": "cpu"},
    ),
    Case(
        "OFF004", layout(zero_stage=3, offload=Offload(optimizer=1.0, parameters=0.5, tier="cpu")),
        layout(zero_stage=3, offload=Offload(optimizer=0.5, parameters=0.5, tier="cpu")),
        "a share of 0.5 of the weights is offloaded, and 0.5 of the optimizer",
        "set offload.optimizer to 1, or offload.parameters to 0",
        {"optimizer": 0.5, "parameters": 0.5}, asked={"allow_offload": "cpu", "stack": {"zero_stages": (0, 3)}},
    ),
    Case(
        "STK001", layout(tensor_parallel=4), layout(tensor_parallel=4, tensor_mode="2d"),
        "stack tiny-stack does not execute tensor mode 2d", "use --mode with one of none, 1d",
        {"tensor_mode": "2d", "stack_modes": "none, 1d"},
    ),
    Case(
        "STK002", layout(pipeline_parallel=2),
        layout(pipeline_parallel=2, num_model_chunks=2, schedule="interleaved"),
        "stack tiny-stack does not execute schedule interleaved", "use one of none, 1f1b",
        {"schedule": "interleaved"}, asked={"stack": {"schedules": ("none", "1f1b")}},
    ),
    Case(
        "STK003", layout(zero_stage=2), layout(zero_stage=3),
        "stack tiny-stack does not execute ZeRO stage 3", "use one of 0, 1, 2", {"zero_stage": 3},
    ),
    Case(
        "STK004", layout(tensor_parallel=2), layout(tensor_parallel=2, sequence_parallel=True),
        "stack tiny-stack does not execute sequence parallelism", "set sequence_parallel to false",
        {"stack": "tiny-stack"}, asked={"stack": {"sequence_parallel": False}},
    ),
    Case(
        "STK005", layout(offload=Offload(optimizer=1.0, tier="cpu")),
        layout(offload=Offload(optimizer=0.5, tier="cpu")),
        "stack tiny-stack does not offload a share of 0.5 to cpu", "use tier none, cpu and a share of 0.0, 1.0",
        {"optimizer": 0.5, "tier": "cpu", "stack_fractions": "0.0, 1.0"},
    ),
    Case(
        "STK006", layout(), layout(offload=Offload(parameters=0.5)),
        "stack tiny-stack does not offload a share of 0.5 of the weights under ZeRO stage 0",
        "set offload.parameters to 0, or use ZeRO stage 3 and a share of 0.0, 0.5, 1.0",
        {"parameters": 0.5, "sharded_fractions": "0.0, 0.5, 1.0"},
    ),
    Case(
        "PIN001", layout(tensor_parallel=2), layout(tensor_parallel=4),
        "the layout does not have tensor_parallel=2", "drop the pin", {"pins": "tensor_parallel=2"},
        asked={"pins": {"tensor_parallel": "2", "pipeline_parallel": "1"}},
    ),
    Case(
        "PIN002", layout(zero_stage=1), layout(zero_stage=2),
        "the layout has the forbidden zero_stage=2", "drop the --forbid", {"forbids": "zero_stage=2"},
        asked={"forbids": {"zero_stage": ("0", "2"), "tensor_parallel": ("4",)}},
    ),
)  # fmt: skip
