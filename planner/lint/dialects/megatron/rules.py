"""Rules of Megatron-LM's arguments that a layout does not show: what its argument checks refuse."""

from planner.layouts.degrees import divisors
from planner.lint.config_rule import divides, multiples_around
from planner.lint.dialects.megatron.option_rules import ARGUMENTS, READ, TRANSFORMER, megatron_rule
from planner.rules.rule import listed

_STATE = "megatron/core/parallel_state.py, initialize_model_parallel"
_SCHEDULES = f"{READ}: megatron/core/pipeline_parallel/schedules.py, forward_backward_pipelining_with_interleaving"


_RULES_OF_MESH = (
    megatron_rule("MEG001", "world size does not divide by TP x PP x CP", about=("mesh",))(
        message="world size {num_devices} does not divide by TP x PP x CP = {group}",
        detail="{tensor_parallel} * {pipeline_parallel} * {context_parallel} = {group}, {num_devices} % "
        "{group} = {rest}",
        hint="choose TP x PP x CP from {valid}",
        **divides("tensor_parallel", "pipeline_parallel", "context_parallel"),
        why="Data parallelism is what is left of the GPUs, and it has to be a whole number.",
        source=f"{ARGUMENTS}; {_STATE}",
    ),
    megatron_rule("MEG002", "interleaved schedule without a pipeline", remedy="remove")(
        message="an interleaved schedule needs --pipeline-model-parallel-size above {least}, and it is "
        "{pipeline_parallel}",
        detail="{virtual_key} = {virtual_stage}, which makes {virtual_size} virtual stages",
        hint="use --pipeline-model-parallel-size {enough}, or drop {virtual_key}",
        values=lambda overlap_p2p: {"least": 1 if overlap_p2p else 2, "enough": 2 if overlap_p2p else 4},
        why="Virtual stages take turns on the stages of a pipeline; with --no-overlap-p2p-communication two stages "
        "would both send and receive in one batch.",
        source=f"{ARGUMENTS}; {_STATE}",
        holds=lambda virtual_stage, virtual_size, pipeline_parallel, overlap_p2p: (
            virtual_size == 1 or pipeline_parallel > (1 if overlap_p2p else 2)
        ),
    ),
    megatron_rule("MEG003", "query groups and tensor parallelism do not divide")(
        message="--num-query-groups {num_query_groups} and --tensor-model-parallel-size {tensor_parallel} "
        "do not divide each other",
        detail="{num_query_groups} % {tensor_parallel} and {tensor_parallel} % {num_query_groups} are both above 0",
        hint="use --tensor-model-parallel-size {valid}",
        values=lambda num_query_groups: {"valid": listed(divisors(num_query_groups))},
        why="Each rank holds whole groups, or whole ranks share one group.",
        source=TRANSFORMER,
        holds=lambda num_query_groups, tensor_parallel: (
            num_query_groups % tensor_parallel == 0 or tensor_parallel % num_query_groups == 0
        ),
    ),
    megatron_rule("MEG004", "expert parallelism without experts")(
        field="--num-experts",
        message="--expert-model-parallel-size {expert_parallel} needs --num-experts, and it is not given",
        detail="expert parallel size {expert_parallel}",
        hint="add --num-experts, or use --expert-model-parallel-size 1",
        why="There is nothing to divide over the ranks.",
        source=f"{ARGUMENTS}; TransformerConfig",
        repaired=lambda: 1,
        holds=lambda expert_parallel, has_experts: expert_parallel == 1 or has_experts,
    ),
    megatron_rule("MEG005", "experts do not divide over the expert-parallel ranks")(
        message="--num-experts {num_experts} does not divide by --expert-model-parallel-size {expert_parallel}",
        detail="{num_experts} % {expert_parallel} = {rest}",
        hint="use --expert-model-parallel-size {valid}",
        values=lambda num_experts, expert_parallel: {
            "rest": num_experts % expert_parallel,
            "valid": listed(divisors(num_experts)),
        },
        why="Each rank holds whole experts.",
        holds=lambda num_experts, expert_parallel: num_experts % expert_parallel == 0,
    ),
    megatron_rule("MEG006", "world size does not divide by the expert group")(
        message="world size {num_devices} does not divide by expert TP x EP x PP = {group}",
        detail="{expert_tensor_parallel} * {expert_parallel} * {pipeline_parallel} = {group}, "
        "{num_devices} % {group} = {rest}",
        hint="choose the product from {valid}",
        **divides("expert_parallel", "expert_tensor_parallel", "pipeline_parallel"),
        why="Expert data parallelism is what is left of the GPUs, and it has to be a whole number; expert TP is "
        "--tensor-model-parallel-size unless it is given.",
        source=f"{READ}: {_STATE}",
    ),
    megatron_rule("MEG007", "fp16 and bf16 together", remedy="remove")(
        message="--fp16 and --bf16 are both given, and only one of them may be",
        detail="fp16 and bf16 are both set",
        hint="keep --bf16",
        why="Weights have one precision.",
        source=f"{ARGUMENTS}; TransformerConfig",
        holds=lambda fp16, bf16: not (fp16 and bf16),
    ),
    megatron_rule("MEG008", "global batch does not divide by micro batch x DP")(
        message="--global-batch-size {global_batch} does not divide by micro batch x DP = {group}",
        detail="{micro_batch} * {ranks} = {group}, {global_batch} % {group} = {rest}",
        hint="use --global-batch-size {near}",
        values=lambda micro_batch, global_batch, data_parallel=1: {
            "ranks": data_parallel,
            "group": micro_batch * data_parallel,
            "rest": global_batch % (micro_batch * data_parallel),
            "near": multiples_around(global_batch, micro_batch * data_parallel),
        },
        why="Every data-parallel rank runs the same whole number of micro batches.",
        source=f"{READ}: megatron/core/num_microbatches_calculator.py, ConstantNumMicroBatchesCalculator",
        options=("--decrease-batch-size-if-needed",),
        holds=lambda global_batch, micro_batch, options, data_parallel=1: (
            "--decrease-batch-size-if-needed" in options or global_batch % (micro_batch * data_parallel) == 0
        ),
    ),
    megatron_rule("MEG009", "full recomputation without a method")(
        field="--recompute-method",
        message="--recompute-granularity full needs --recompute-method, and it is not given",
        detail="recompute granularity {recompute_granularity}",
        hint="add --recompute-method uniform or block",
        added=lambda: {"--recompute-method": "uniform"},
        why="Full recomputation has to know which layers keep their inputs.",
        source=TRANSFORMER,
        options=("--recompute-method",),
        holds=lambda recompute_granularity, options: recompute_granularity != "full" or "--recompute-method" in options,
    ),
    megatron_rule("MEG010", "hidden size does not divide by the heads")(
        message="--hidden-size {hidden_size} does not divide by --num-attention-heads {num_heads}",
        detail="{hidden_size} % {num_heads} = {rest}",
        hint="use --num-attention-heads {valid}, or give --kv-channels",
        values=lambda hidden_size, num_heads: {
            "rest": hidden_size % num_heads,
            "valid": listed(sorted(divisors(hidden_size), key=lambda d: abs(d - num_heads))[:3]),
        },
        why="Every head has the same width.",
        options=("--kv-channels",),
        holds=lambda hidden_size, num_heads, options: "--kv-channels" in options or hidden_size % num_heads == 0,
    ),
    megatron_rule("MEG011", "processes of the launcher are not the GPUs", severity="warning")(
        message="the launcher starts {launched} processes, and {num_devices} GPUs are checked",
        detail="nnodes x nproc_per_node = {launched}",
        hint="check with `--gpus {launched}`",
        why="The check is for another number of GPUs than the script starts.",
        source="torchrun",
        holds=lambda launched, num_devices: launched == num_devices,
    ),
)

_RULES_OF_LAYERS = (
    megatron_rule("MEG012", "full recomputation without a number of layers", severity="warning")(
        field="--recompute-num-layers",
        message="--recompute-granularity full needs --recompute-num-layers, which was 1 until September 2023",
        detail="recompute granularity {recompute_granularity}",
        hint="add --recompute-num-layers 1",
        added=lambda: {"--recompute-num-layers": 1},
        why="It is the number of layers in a recomputed group, or of recomputed layers of a stage. Megatron-LM has no "
        "default for it since 2e193ae of September 2023, and stops; Megatron-DeepSpeed takes 1.",
        source=TRANSFORMER,
        holds=lambda recompute_granularity, options: (
            recompute_granularity != "full" or "--recompute-num-layers" in options
        ),
    ),
    megatron_rule("MEG013", "selective recomputation of chosen layers", remedy="remove")(
        message="--recompute-granularity selective does not take {selective_with}",
        detail="recompute granularity {recompute_granularity}",
        hint="drop {selective_with}, or use --recompute-granularity full",
        why="Selective recomputation repeats attention in every layer, so there is no choice of layers.",
        source=f"{ARGUMENTS}; TransformerConfig",
        holds=lambda selective_with, recompute_granularity: recompute_granularity != "selective",
    ),
    megatron_rule("MEG014", "two ways to give virtual stages", remedy="remove")(
        message="{virtual_key} and {second_virtual} are both given, and only one of them may be",
        detail="both set the number of virtual stages",
        hint="keep {virtual_key}",
        why="Each of them sets the number of virtual stages.",
        holds=lambda second_virtual, virtual_key: False,
    ),
    megatron_rule("MEG015", "layers do not divide by the pipeline", about=("degrees",))(
        field="--num-layers",
        message="{split_layers} layers do not divide by --pipeline-model-parallel-size {pipeline_parallel}",
        detail="{split_layers}{counted} % {pipeline_parallel} = {rest}",
        hint="use --pipeline-model-parallel-size {valid}",
        values=lambda split_layers, pipeline_parallel, counted="": {
            "rest": split_layers % pipeline_parallel,
            "counted": counted,
            "valid": listed(divisors(split_layers)),
        },
        why="Every stage has the same number of layers, unless --decoder-first-pipeline-num-layers, "
        "--decoder-last-pipeline-num-layers or --pipeline-model-parallel-layout says otherwise.",
        source=f"{ARGUMENTS}; TransformerConfig",
        holds=lambda pipeline_parallel, split_layers: split_layers % pipeline_parallel == 0,
    ),
    megatron_rule("MEG016", "layers of a stage do not divide into virtual stages")(
        message="the {per_stage} layers of a stage do not divide by {virtual_key} {virtual_stage}",
        detail="{split_layers} / {pipeline_parallel} = {per_stage}, {per_stage} % {virtual_stage} = {rest}",
        hint="use {virtual_key} {valid}",
        values=lambda split_layers, pipeline_parallel, virtual_stage: {
            "per_stage": split_layers // pipeline_parallel,
            "rest": split_layers // pipeline_parallel % virtual_stage,
            "valid": listed(divisors(max(1, split_layers // pipeline_parallel))),
        },
        why="Every virtual stage has the same number of layers.",
        source=f"{ARGUMENTS}; TransformerConfig",
        holds=lambda virtual_stage, virtual_key, split_layers, pipeline_parallel: (
            split_layers % pipeline_parallel != 0 or split_layers // pipeline_parallel % virtual_stage == 0
        ),
    ),
    megatron_rule("MEG017", "sequence does not divide for context parallelism")(
        field="--seq-length",
        message="--seq-length {seq_len} does not divide by 2 x --context-parallel-size = {pieces}",
        detail="{seq_len} % {pieces} = {rest}",
        hint="use a --context-parallel-size whose double divides {seq_len}",
        values=lambda context_parallel, seq_len: {
            "pieces": 2 * context_parallel,
            "rest": seq_len % (2 * context_parallel),
        },
        why="Each rank takes one piece from the front and one from the back, so that causal work is even.",
        holds=lambda context_parallel, seq_len, ds_sequence_parallel=False: (
            ds_sequence_parallel or context_parallel == 1 or seq_len % (2 * context_parallel) == 0
        ),
    ),
    megatron_rule("MEG018", "sequence parallelism without tensor parallelism", severity="warning")(
        message="--sequence-parallel has no effect with --tensor-model-parallel-size {tensor_parallel}",
        detail="--tensor-model-parallel-size {tensor_parallel}",
        hint="use --tensor-model-parallel-size 2 or more, or drop --sequence-parallel",
        why="The sequence is divided over the tensor-parallel ranks; the arguments switch it off without them, "
        "and the library itself stops.",
        source=f"{ARGUMENTS}; megatron/core/model_parallel_config.py, ModelParallelConfig",
        holds=lambda sequence_parallel, tensor_parallel: not sequence_parallel or tensor_parallel > 1,
    ),
    megatron_rule("MEG032", "layers of the middle stages do not divide")(
        message="{middle_layers} layers are left for {middle_stages} middle stages, and they do not divide",
        detail="{uneven_key} = {uneven}",
        hint="choose {uneven_key} so that the rest divides by {middle_stages}",
        why="Only the first and the last stage may have another number of layers than the others.",
        source=TRANSFORMER,
        holds=lambda uneven, uneven_key, middle_layers, middle_stages: (
            middle_layers == 0 if middle_stages < 1 else middle_layers >= 0 and middle_layers % middle_stages == 0
        ),
    ),
    megatron_rule("MEG031", "micro batches do not suit the interleaved schedule", about=("degrees",))(
        message="{num_microbatches} micro batches do not suit the interleaved schedule of {pipeline_parallel} stages",
        detail="groups of {vp_group}: {num_microbatches} % {vp_group} = {rest}",
        hint="use a --global-batch-size that makes a multiple of {vp_group} micro batches",
        values=lambda num_microbatches, vp_group: {"rest": num_microbatches % vp_group},
        why="The schedule rotates whole groups of micro batches through the virtual stages.",
        source=_SCHEDULES,
        holds=lambda num_microbatches, virtual_size, pipeline_parallel, vp_group: (
            virtual_size == 1
            or pipeline_parallel == 1
            or (
                pipeline_parallel <= vp_group <= num_microbatches
                and not 0 < num_microbatches % vp_group < pipeline_parallel
            )
        ),
    ),
)

_RULES_OF_DEEPSPEED = (
    megatron_rule("MEG033", "ZeRO 2 or 3 with DeepSpeed's pipeline")(
        message="--zero-stage {deepspeed_stage} does not go with DeepSpeed's pipeline of {pipeline_parallel} stages",
        detail="--pipeline-model-parallel-size {pipeline_parallel}, and no --no-pipeline-parallel",
        hint="use --zero-stage 1, or --no-pipeline-parallel",
        repaired=lambda: 1,
        why="Gradients accumulate over micro batches, so they cannot be scattered after each of them.",
        source="DeepSpeed 0.16.5 at 38327e0 (February 2025): deepspeed/runtime/pipe/engine.py, PipelineEngine",
        holds=lambda deepspeed_stage, no_pipeline, pipeline_parallel: (
            no_pipeline or pipeline_parallel == 1 or deepspeed_stage <= 1
        ),
    ),
    megatron_rule("MEG035", "experts do not divide over DeepSpeed's expert-parallel ranks")(
        field="--moe-expert-parallel-size",
        message="--num-experts {num_experts} does not divide by --moe-expert-parallel-size {ds_expert_parallel}",
        detail="{num_experts} % {ds_expert_parallel} = {rest}",
        hint="use --moe-expert-parallel-size {valid}",
        values=lambda num_experts, ds_expert_parallel: {
            "rest": num_experts % ds_expert_parallel,
            "valid": listed(divisors(num_experts)),
        },
        why="Each rank holds whole experts; older versions divide fewer experts than ranks over as many ranks.",
        source="DeepSpeed 0.16.5 at 38327e0 (February 2025): deepspeed/moe/layer.py, MoE",
        holds=lambda num_experts, ds_expert_parallel: (
            ds_expert_parallel > num_experts or num_experts % ds_expert_parallel == 0
        ),
    ),
    megatron_rule("MEG036", "world size does not divide by DeepSpeed's expert group")(
        field="--moe-expert-parallel-size",
        message="world size {num_devices} does not divide by DeepSpeed's EP x PP = {group}",
        detail="{ds_expert_parallel} * {pipeline_parallel} = {group}, {num_devices} % {group} = {rest}",
        hint="choose the product from {valid}",
        **divides("ds_expert_parallel", "pipeline_parallel"),
        why="The ranks of a stage are divided into groups of expert parallelism.",
        source="DeepSpeed 0.16.5 at 38327e0 (February 2025): deepspeed/utils/groups.py, "
        "_create_expert_and_data_parallel",
    ),
)

RULES = (*_RULES_OF_MESH, *_RULES_OF_LAYERS, *_RULES_OF_DEEPSPEED)
