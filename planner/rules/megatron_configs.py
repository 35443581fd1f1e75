"""Rules of Megatron-LM's arguments that a layout does not show: what its argument checks refuse."""

from typing import Any

from planner.rules.config_rule import ConfigRule, Facts
from planner.rules.rule import divisors, listed

MEGATRON = "megatron"
_STATE = "Megatron-LM: megatron/core/parallel_state.py"
_ARGUMENTS = "Megatron-LM: megatron/training/arguments.py"
_TRANSFORMER = "Megatron-LM: megatron/core/transformer/transformer_config.py"


def _rule(**fields: Any) -> ConfigRule:
    return ConfigRule(dialects=(MEGATRON,), **fields)


def _group(f: Facts) -> int:
    return int(f["tensor_parallel"] * f["pipeline_parallel"] * f["context_parallel"])


def _expert_group(f: Facts) -> int:
    return int(f["expert_tensor_parallel"] * f["expert_parallel"] * f["pipeline_parallel"])


RULES = (
    _rule(
        id="MEG001", title="world size does not divide by TP x PP x CP", field="--tensor-model-parallel-size",
        fact="tensor_parallel", needs=("tensor_parallel", "pipeline_parallel", "context_parallel", "num_devices"),
        message="world size {num_devices} does not divide by TP x PP x CP = {group}",
        detail="{tensor_parallel} * {pipeline_parallel} * {context_parallel} = {group}, {num_devices} % "
        "{group} = {rest}",
        hint="choose TP x PP x CP from {valid}",
        values=lambda f: {
            "group": _group(f), "rest": f["num_devices"] % _group(f), "valid": listed(divisors(f["num_devices"])),
        },
        why="Data parallelism is what is left of the GPUs, and it has to be a whole number.", source=_STATE,
        holds=lambda f: f["num_devices"] % _group(f) == 0,
    ),
    _rule(
        id="MEG002", title="interleaved schedule without a pipeline", field="--num-layers-per-virtual-pipeline-stage",
        fact="virtual_stage", needs=("virtual_stage", "pipeline_parallel"),
        message="an interleaved schedule needs --pipeline-model-parallel-size above 1, and it is {pipeline_parallel}",
        detail="{virtual_key} = {virtual_stage}", hint="use --pipeline-model-parallel-size 2, or drop {virtual_key}",
        why="Virtual stages take turns on the stages of a pipeline.", source=_STATE,
        holds=lambda f: f["pipeline_parallel"] > 1,
    ),
    _rule(
        id="MEG003", title="query groups and tensor parallelism do not divide", field="--num-query-groups",
        fact="num_query_groups", needs=("num_query_groups", "tensor_parallel"),
        message="--num-query-groups {num_query_groups} and --tensor-model-parallel-size {tensor_parallel} "
        "do not divide each other",
        detail="{num_query_groups} % {tensor_parallel} and {tensor_parallel} % {num_query_groups} are both above 0",
        hint="use --tensor-model-parallel-size {valid}",
        values=lambda f: {"valid": listed(divisors(f["num_query_groups"]))},
        why="Each rank holds whole groups, or whole ranks share one group.", source=_TRANSFORMER,
        holds=lambda f: (
            f["num_query_groups"] % f["tensor_parallel"] == 0 or f["tensor_parallel"] % f["num_query_groups"] == 0
        ),
    ),
    _rule(
        id="MEG004", title="expert parallelism without experts", field="--num-experts",
        fact="expert_parallel", needs=("expert_parallel", "has_experts"),
        message="--expert-model-parallel-size {expert_parallel} needs --num-experts, and it is not given",
        detail="expert parallel size {expert_parallel}",
        hint="add --num-experts, or use --expert-model-parallel-size 1",
        why="There is nothing to divide over the ranks.", source=_TRANSFORMER, repaired=lambda f: 1,
        holds=lambda f: f["expert_parallel"] == 1 or f["has_experts"],
    ),
    _rule(
        id="MEG005", title="experts do not divide over the expert-parallel ranks", field="--num-experts",
        fact="num_experts", needs=("num_experts", "expert_parallel"),
        message="--num-experts {num_experts} does not divide by --expert-model-parallel-size {expert_parallel}",
        detail="{num_experts} % {expert_parallel} = {rest}", hint="use --expert-model-parallel-size {valid}",
        values=lambda f: {"rest": f["num_experts"] % f["expert_parallel"], "valid": listed(divisors(f["num_experts"]))},
        why="Each rank holds whole experts.", source=_ARGUMENTS,
        holds=lambda f: f["num_experts"] % f["expert_parallel"] == 0,
    ),
    _rule(
        id="MEG006", title="world size does not divide by the expert group", field="--expert-model-parallel-size",
        fact="expert_parallel", needs=("expert_parallel", "expert_tensor_parallel", "pipeline_parallel", "num_devices"),
        message="world size {num_devices} does not divide by expert TP x EP x PP = {group}",
        detail="{expert_tensor_parallel} * {expert_parallel} * {pipeline_parallel} = {group}, "
        "{num_devices} % {group} = {rest}",
        hint="choose the product from {valid}",
        values=lambda f: {
            "group": _expert_group(f), "rest": f["num_devices"] % _expert_group(f),
            "valid": listed(divisors(f["num_devices"])),
        },
        why="Expert data parallelism is what is left of the GPUs, and it has to be a whole number.", source=_STATE,
        holds=lambda f: f["num_devices"] % _expert_group(f) == 0,
    ),
    _rule(
        id="MEG007", remedy="remove", title="fp16 and bf16 together", field="--fp16", fact="fp16",
        needs=("fp16", "bf16"),
        message="--fp16 and --bf16 are both given, and only one of them may be", detail="fp16 and bf16 are both set",
        hint="keep --bf16", why="Weights have one precision.", source=_TRANSFORMER,
        holds=lambda f: not (f["fp16"] and f["bf16"]),
    ),
    _rule(
        id="MEG008", title="global batch does not divide by micro batch x DP", field="--global-batch-size",
        fact="global_batch", needs=("global_batch", "micro_batch", "data_parallel"),
        message="--global-batch-size {global_batch} does not divide by micro batch x DP = {group}",
        detail="{micro_batch} * {data_parallel} = {group}, {global_batch} % {group} = {rest}",
        hint="use --global-batch-size {below} or {above}",
        values=lambda f: {
            "group": f["micro_batch"] * f["data_parallel"],
            "rest": f["global_batch"] % (f["micro_batch"] * f["data_parallel"]),
            "below": max(1, f["global_batch"] // (f["micro_batch"] * f["data_parallel"])) * f["micro_batch"]
            * f["data_parallel"],
            "above": (f["global_batch"] // (f["micro_batch"] * f["data_parallel"]) + 1) * f["micro_batch"]
            * f["data_parallel"],
        },
        why="Every data-parallel rank runs the same whole number of micro batches.",
        source="Megatron-LM: megatron/core/num_microbatches_calculator.py",
        holds=lambda f: f["global_batch"] % (f["micro_batch"] * f["data_parallel"]) == 0,
    ),
    _rule(
        id="MEG009", remedy="add", title="full recomputation without a method", field="--recompute-method",
        fact="recompute_granularity", needs=("recompute_granularity", "has_recompute_method"),
        message="--recompute-granularity full needs --recompute-method, and it is not given",
        detail="recompute granularity {recompute_granularity}",
        hint="add `--recompute-method uniform --recompute-num-layers 1`",
        why="Full recomputation has to know which layers keep their inputs.", source=_TRANSFORMER,
        holds=lambda f: f["recompute_granularity"] != "full" or f["has_recompute_method"],
    ),
    _rule(
        id="MEG010", title="hidden size does not divide by the heads", field="--hidden-size",
        fact="hidden_size", needs=("hidden_size", "num_heads"),
        message="--hidden-size {hidden_size} does not divide by --num-attention-heads {num_heads}",
        detail="{hidden_size} % {num_heads} = {rest}", hint="use --num-attention-heads {valid}",
        values=lambda f: {
            "rest": f["hidden_size"] % f["num_heads"],
            "valid": listed(sorted(divisors(f["hidden_size"]), key=lambda d: abs(d - f["num_heads"]))[:3]),
        },
        why="Every head has the same width.", source=_ARGUMENTS,
        holds=lambda f: f["has_kv_channels"] or f["hidden_size"] % f["num_heads"] == 0,
    ),
    _rule(
        id="MEG011", title="processes of the launcher are not the GPUs", field="--nproc_per_node",
        fact="launched", needs=("launched", "num_devices"), severity="warning",
        message="the launcher starts {launched} processes, and {num_devices} GPUs are checked",
        detail="nnodes x nproc_per_node = {launched}", hint="check with `--gpus {launched}`",
        why="The check is for another number of GPUs than the script starts.", source="torchrun",
        holds=lambda f: f["launched"] == f["num_devices"],
    ),
)  # fmt: skip
