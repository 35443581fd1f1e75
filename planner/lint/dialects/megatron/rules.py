"""Rules of Megatron-LM's arguments that a layout does not show: what its argument checks refuse."""

from typing import Any

from planner.layouts.degrees import divisors
from planner.lint.config_rule import Facts
from planner.lint.dialects.megatron.option_rules import ARGUMENTS, MEGATRON, READ, TRANSFORMER, megatron_rule
from planner.rules.rule import listed

__all__ = ["MEGATRON", "RULES"]

_STATE = "megatron/core/parallel_state.py, initialize_model_parallel"
_SCHEDULES = f"{READ}: megatron/core/pipeline_parallel/schedules.py, forward_backward_pipelining_with_interleaving"


def _group(f: Facts) -> int:
    return int(f["tensor_parallel"] * f["pipeline_parallel"] * f["context_parallel"])


def _expert_group(f: Facts) -> int:
    return int(f["expert_tensor_parallel"] * f["expert_parallel"] * f["pipeline_parallel"])


def _batch_values(f: Facts) -> dict[str, Any]:
    unit = f["micro_batch"] * f["data_parallel"]
    below = f["global_batch"] // unit * unit
    return {
        "group": unit,
        "rest": f["global_batch"] % unit,
        "near": listed([near for near in (below, below + unit) if near]),
    }


def _least_stages(f: Facts) -> int:
    return 1 if f["overlap_p2p"] else 2


def _per_stage(f: Facts) -> int:
    return int(f["split_layers"] // f["pipeline_parallel"])


_RULES_OF_MESH = (
    megatron_rule(
        id="MEG001",
        about=("mesh",),
        title="world size does not divide by TP x PP x CP",
        field="--tensor-model-parallel-size",
        fact="tensor_parallel",
        needs=("tensor_parallel", "pipeline_parallel", "context_parallel", "num_devices"),
        message="world size {num_devices} does not divide by TP x PP x CP = {group}",
        detail="{tensor_parallel} * {pipeline_parallel} * {context_parallel} = {group}, {num_devices} % "
        "{group} = {rest}",
        hint="choose TP x PP x CP from {valid}",
        values=lambda f: {
            "group": _group(f),
            "rest": f["num_devices"] % _group(f),
            "valid": listed(divisors(f["num_devices"])),
        },
        why="Data parallelism is what is left of the GPUs, and it has to be a whole number.",
        source=f"{ARGUMENTS}; {_STATE}",
        holds=lambda f: f["num_devices"] % _group(f) == 0,
    ),
    megatron_rule(
        id="MEG002",
        title="interleaved schedule without a pipeline",
        field="--num-layers-per-virtual-pipeline-stage",
        fact="virtual_stage",
        needs=("virtual_stage", "virtual_size", "pipeline_parallel", "overlap_p2p"),
        message="an interleaved schedule needs --pipeline-model-parallel-size above {least}, and it is "
        "{pipeline_parallel}",
        detail="{virtual_key} = {virtual_stage}, which makes {virtual_size} virtual stages",
        hint="use --pipeline-model-parallel-size {enough}, or drop {virtual_key}",
        remedy="remove",
        values=lambda f: {"least": _least_stages(f), "enough": 2 * _least_stages(f)},
        why="Virtual stages take turns on the stages of a pipeline; with --no-overlap-p2p-communication two stages "
        "would both send and receive in one batch.",
        source=f"{ARGUMENTS}; {_STATE}",
        holds=lambda f: f["virtual_size"] == 1 or f["pipeline_parallel"] > _least_stages(f),
    ),
    megatron_rule(
        id="MEG003",
        title="query groups and tensor parallelism do not divide",
        field="--num-query-groups",
        fact="num_query_groups",
        needs=("num_query_groups", "tensor_parallel"),
        message="--num-query-groups {num_query_groups} and --tensor-model-parallel-size {tensor_parallel} "
        "do not divide each other",
        detail="{num_query_groups} % {tensor_parallel} and {tensor_parallel} % {num_query_groups} are both above 0",
        hint="use --tensor-model-parallel-size {valid}",
        values=lambda f: {"valid": listed(divisors(f["num_query_groups"]))},
        why="Each rank holds whole groups, or whole ranks share one group.",
        source=TRANSFORMER,
        holds=lambda f: (
            f["num_query_groups"] % f["tensor_parallel"] == 0 or f["tensor_parallel"] % f["num_query_groups"] == 0
        ),
    ),
    megatron_rule(
        id="MEG004",
        title="expert parallelism without experts",
        field="--num-experts",
        fact="expert_parallel",
        needs=("expert_parallel", "has_experts"),
        message="--expert-model-parallel-size {expert_parallel} needs --num-experts, and it is not given",
        detail="expert parallel size {expert_parallel}",
        hint="add --num-experts, or use --expert-model-parallel-size 1",
        why="There is nothing to divide over the ranks.",
        source=f"{ARGUMENTS}; TransformerConfig",
        repaired=lambda f: 1,
        holds=lambda f: f["expert_parallel"] == 1 or f["has_experts"],
    ),
    megatron_rule(
        id="MEG005",
        title="experts do not divide over the expert-parallel ranks",
        field="--num-experts",
        fact="num_experts",
        needs=("num_experts", "expert_parallel"),
        message="--num-experts {num_experts} does not divide by --expert-model-parallel-size {expert_parallel}",
        detail="{num_experts} % {expert_parallel} = {rest}",
        hint="use --expert-model-parallel-size {valid}",
        values=lambda f: {"rest": f["num_experts"] % f["expert_parallel"], "valid": listed(divisors(f["num_experts"]))},
        why="Each rank holds whole experts.",
        source=ARGUMENTS,
        holds=lambda f: f["num_experts"] % f["expert_parallel"] == 0,
    ),
    megatron_rule(
        id="MEG006",
        title="world size does not divide by the expert group",
        field="--expert-model-parallel-size",
        fact="expert_parallel",
        needs=("expert_parallel", "expert_tensor_parallel", "pipeline_parallel", "num_devices"),
        message="world size {num_devices} does not divide by expert TP x EP x PP = {group}",
        detail="{expert_tensor_parallel} * {expert_parallel} * {pipeline_parallel} = {group}, "
        "{num_devices} % {group} = {rest}",
        hint="choose the product from {valid}",
        values=lambda f: {
            "group": _expert_group(f),
            "rest": f["num_devices"] % _expert_group(f),
            "valid": listed(divisors(f["num_devices"])),
        },
        why="Expert data parallelism is what is left of the GPUs, and it has to be a whole number; expert TP is "
        "--tensor-model-parallel-size unless it is given.",
        source=f"{READ}: {_STATE}",
        holds=lambda f: f["num_devices"] % _expert_group(f) == 0,
    ),
    megatron_rule(
        id="MEG007",
        remedy="remove",
        title="fp16 and bf16 together",
        field="--fp16",
        fact="fp16",
        needs=("fp16", "bf16"),
        message="--fp16 and --bf16 are both given, and only one of them may be",
        detail="fp16 and bf16 are both set",
        hint="keep --bf16",
        why="Weights have one precision.",
        source=f"{ARGUMENTS}; TransformerConfig",
        holds=lambda f: not (f["fp16"] and f["bf16"]),
    ),
    megatron_rule(
        id="MEG008",
        title="global batch does not divide by micro batch x DP",
        field="--global-batch-size",
        fact="global_batch",
        needs=("global_batch", "micro_batch", "data_parallel", "options"),
        message="--global-batch-size {global_batch} does not divide by micro batch x DP = {group}",
        detail="{micro_batch} * {data_parallel} = {group}, {global_batch} % {group} = {rest}",
        hint="use --global-batch-size {near}",
        values=_batch_values,
        why="Every data-parallel rank runs the same whole number of micro batches.",
        source=f"{READ}: megatron/core/num_microbatches_calculator.py, ConstantNumMicroBatchesCalculator",
        holds=lambda f: (
            "--decrease-batch-size-if-needed" in f["options"]
            or f["global_batch"] % (f["micro_batch"] * f["data_parallel"]) == 0
        ),
    ),
    megatron_rule(
        id="MEG009",
        remedy="add",
        title="full recomputation without a method",
        field="--recompute-method",
        fact="recompute_granularity",
        needs=("recompute_granularity", "options"),
        message="--recompute-granularity full needs --recompute-method, and it is not given",
        detail="recompute granularity {recompute_granularity}",
        hint="add --recompute-method uniform or block",
        added=lambda f: {"--recompute-method": "uniform"},
        why="Full recomputation has to know which layers keep their inputs.",
        source=TRANSFORMER,
        holds=lambda f: f["recompute_granularity"] != "full" or "--recompute-method" in f["options"],
    ),
    megatron_rule(
        id="MEG010",
        title="hidden size does not divide by the heads",
        field="--hidden-size",
        fact="hidden_size",
        needs=("hidden_size", "num_heads", "options"),
        message="--hidden-size {hidden_size} does not divide by --num-attention-heads {num_heads}",
        detail="{hidden_size} % {num_heads} = {rest}",
        hint="use --num-attention-heads {valid}, or give --kv-channels",
        values=lambda f: {
            "rest": f["hidden_size"] % f["num_heads"],
            "valid": listed(sorted(divisors(f["hidden_size"]), key=lambda d: abs(d - f["num_heads"]))[:3]),
        },
        why="Every head has the same width.",
        source=ARGUMENTS,
        holds=lambda f: "--kv-channels" in f["options"] or f["hidden_size"] % f["num_heads"] == 0,
    ),
    megatron_rule(
        id="MEG011",
        title="processes of the launcher are not the GPUs",
        field="--nproc_per_node",
        fact="launched",
        needs=("launched", "num_devices"),
        severity="warning",
        message="the launcher starts {launched} processes, and {num_devices} GPUs are checked",
        detail="nnodes x nproc_per_node = {launched}",
        hint="check with `--gpus {launched}`",
        why="The check is for another number of GPUs than the script starts.",
        source="torchrun",
        holds=lambda f: f["launched"] == f["num_devices"],
    ),
)

_RULES_OF_LAYERS = (
    megatron_rule(
        id="MEG012",
        remedy="add",
        title="full recomputation without a number of layers",
        field="--recompute-num-layers",
        fact="recompute_granularity",
        needs=("recompute_granularity", "options"),
        message="--recompute-granularity full needs --recompute-num-layers, and it is not given",
        detail="recompute granularity {recompute_granularity}",
        hint="add --recompute-num-layers 1",
        added=lambda f: {"--recompute-num-layers": 1},
        why="It is the number of layers in a recomputed group, or of recomputed layers of a stage.",
        source=TRANSFORMER,
        holds=lambda f: f["recompute_granularity"] != "full" or "--recompute-num-layers" in f["options"],
    ),
    megatron_rule(
        id="MEG013",
        remedy="remove",
        title="selective recomputation of chosen layers",
        field="--recompute-method",
        fact="selective_with",
        needs=("selective_with", "recompute_granularity"),
        message="--recompute-granularity selective does not take {selective_with}",
        detail="recompute granularity {recompute_granularity}",
        hint="drop {selective_with}, or use --recompute-granularity full",
        why="Selective recomputation repeats attention in every layer, so there is no choice of layers.",
        source=f"{ARGUMENTS}; TransformerConfig",
        holds=lambda f: f["recompute_granularity"] != "selective",
    ),
    megatron_rule(
        id="MEG014",
        remedy="remove",
        title="two ways to give virtual stages",
        field="--num-layers-per-virtual-pipeline-stage",
        fact="second_virtual",
        needs=("second_virtual", "virtual_key"),
        message="{virtual_key} and {second_virtual} are both given, and only one of them may be",
        detail="both set the number of virtual stages",
        hint="keep {virtual_key}",
        why="Each of them sets the number of virtual stages.",
        source=ARGUMENTS,
        holds=lambda f: False,
    ),
    megatron_rule(
        id="MEG015",
        about=("degrees",),
        title="layers do not divide by the pipeline",
        field="--num-layers",
        fact="pipeline_parallel",
        needs=("pipeline_parallel", "split_layers"),
        message="{split_layers} layers do not divide by --pipeline-model-parallel-size {pipeline_parallel}",
        detail="{split_layers}{counted} % {pipeline_parallel} = {rest}",
        hint="use --pipeline-model-parallel-size {valid}",
        values=lambda f: {
            "rest": f["split_layers"] % f["pipeline_parallel"],
            "counted": f.get("counted", ""),
            "valid": listed(divisors(f["split_layers"])),
        },
        why="Every stage has the same number of layers, unless --decoder-first-pipeline-num-layers, "
        "--decoder-last-pipeline-num-layers or --pipeline-model-parallel-layout says otherwise.",
        source=f"{ARGUMENTS}; TransformerConfig",
        holds=lambda f: f["split_layers"] % f["pipeline_parallel"] == 0,
    ),
    megatron_rule(
        id="MEG016",
        title="layers of a stage do not divide into virtual stages",
        field="--num-layers-per-virtual-pipeline-stage",
        fact="virtual_stage",
        needs=("virtual_stage", "virtual_key", "split_layers", "pipeline_parallel"),
        message="the {per_stage} layers of a stage do not divide by {virtual_key} {virtual_stage}",
        detail="{split_layers} / {pipeline_parallel} = {per_stage}, {per_stage} % {virtual_stage} = {rest}",
        hint="use {virtual_key} {valid}",
        values=lambda f: {
            "per_stage": _per_stage(f),
            "rest": _per_stage(f) % f["virtual_stage"],
            "valid": listed(divisors(max(1, _per_stage(f)))),
        },
        why="Every virtual stage has the same number of layers.",
        source=f"{ARGUMENTS}; TransformerConfig",
        holds=lambda f: f["split_layers"] % f["pipeline_parallel"] != 0 or _per_stage(f) % f["virtual_stage"] == 0,
    ),
    megatron_rule(
        id="MEG017",
        title="sequence does not divide for context parallelism",
        field="--seq-length",
        fact="context_parallel",
        needs=("context_parallel", "seq_len"),
        message="--seq-length {seq_len} does not divide by 2 x --context-parallel-size = {pieces}",
        detail="{seq_len} % {pieces} = {rest}",
        hint="use a --context-parallel-size whose double divides {seq_len}",
        values=lambda f: {"pieces": 2 * f["context_parallel"], "rest": f["seq_len"] % (2 * f["context_parallel"])},
        why="Each rank takes one piece from the front and one from the back, so that causal work is even.",
        source=ARGUMENTS,
        holds=lambda f: f["context_parallel"] == 1 or f["seq_len"] % (2 * f["context_parallel"]) == 0,
    ),
    megatron_rule(
        id="MEG018",
        title="sequence parallelism without tensor parallelism",
        field="--sequence-parallel",
        fact="sequence_parallel",
        needs=("sequence_parallel", "tensor_parallel"),
        severity="warning",
        message="--sequence-parallel has no effect with --tensor-model-parallel-size {tensor_parallel}",
        detail="--tensor-model-parallel-size {tensor_parallel}",
        hint="use --tensor-model-parallel-size 2 or more, or drop --sequence-parallel",
        why="The sequence is divided over the tensor-parallel ranks; the arguments switch it off without them, "
        "and the library itself stops.",
        source=f"{ARGUMENTS}; megatron/core/model_parallel_config.py, ModelParallelConfig",
        holds=lambda f: not f["sequence_parallel"] or f["tensor_parallel"] > 1,
    ),
    megatron_rule(
        id="MEG032",
        title="layers of the middle stages do not divide",
        field="--decoder-first-pipeline-num-layers",
        fact="uneven",
        needs=("uneven", "uneven_key", "middle_layers", "middle_stages"),
        message="{middle_layers} layers are left for {middle_stages} middle stages, and they do not divide",
        detail="{uneven_key} = {uneven}",
        hint="choose {uneven_key} so that the rest divides by {middle_stages}",
        why="Only the first and the last stage may have another number of layers than the others.",
        source=TRANSFORMER,
        holds=lambda f: (
            f["middle_layers"] == 0
            if f["middle_stages"] < 1
            else f["middle_layers"] >= 0 and f["middle_layers"] % f["middle_stages"] == 0
        ),
    ),
    megatron_rule(
        id="MEG031",
        about=("degrees",),
        title="micro batches do not suit the interleaved schedule",
        field="--global-batch-size",
        fact="num_microbatches",
        needs=("num_microbatches", "virtual_size", "pipeline_parallel", "vp_group"),
        message="{num_microbatches} micro batches do not suit the interleaved schedule of {pipeline_parallel} stages",
        detail="groups of {vp_group}: {num_microbatches} % {vp_group} = {rest}",
        hint="use a --global-batch-size that makes a multiple of {vp_group} micro batches",
        values=lambda f: {"rest": f["num_microbatches"] % f["vp_group"]},
        why="The schedule rotates whole groups of micro batches through the virtual stages.",
        source=_SCHEDULES,
        holds=lambda f: (
            f["virtual_size"] == 1
            or f["pipeline_parallel"] == 1
            or (
                f["pipeline_parallel"] <= f["vp_group"] <= f["num_microbatches"]
                and not 0 < f["num_microbatches"] % f["vp_group"] < f["pipeline_parallel"]
            )
        ),
    ),
)

RULES = (*_RULES_OF_MESH, *_RULES_OF_LAYERS)
