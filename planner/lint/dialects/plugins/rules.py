"""Rules of the arguments of HybridParallelPlugin: what the library asserts before the first step, and its traps."""

from planner.layouts.degrees import divisors, micro_batches
from planner.layouts.division import CHUNKED
from planner.lint.config_rule import divides, one_of, rules_of
from planner.lint.dialects.plugins.keys import FACTS, HYBRID, PIPELINE_STYLES, PLUGINS, SEQUENCE_MODES
from planner.rules.rule import listed

_HP = f"{PLUGINS}/hybrid_parallel_plugin.py"
_hybrid = rules_of(FACTS[HYBRID], HYBRID)
_ZBV_UNDIVIDED, _ZBV_TIED = ("qwen2",), ("mistral", "mixtral")
"""Families that fail under zbv: without tensor parallelism, and with tied embeddings."""
_CHUNKS = {"1f1b": "1", "zbv": "2", "interleaved": "2 or more"}


def _even(num_layers: int, pp_size: int) -> tuple[int, ...]:
    share, rest = divmod(num_layers, max(1, pp_size))
    return tuple(share + (stage >= pp_size - rest) for stage in range(pp_size))


RULES = (
    _hybrid("HPP001", "zero-bubble pipeline without scheduler_nodes")(
        message="pp_style zbv needs scheduler_nodes, and there are none",
        hint="pass scheduler_nodes, or use pp_style = '1f1b'",
        repaired=lambda: "1f1b",
        source=f"{_HP}:1056",
        why="The zero-bubble schedule is computed beforehand; the plugin asks for it even with one stage.",
        holds=lambda pp_style, has_scheduler_nodes: pp_style != "zbv" or has_scheduler_nodes,
    ),
    _hybrid("HPP002")(source=f"{_HP}:1063", **one_of("sequence_parallelism_mode", SEQUENCE_MODES)),
    _hybrid("HPP003", "sequence parallelism of the tensor group without one", about=("degrees",))(
        fact="sequence_parallelism_mode",
        message="sequence_parallelism_mode {sequence_parallelism_mode} needs tp_size above 1, and it is {tp_size}",
        hint="use tp_size = 2 or more, or enable_sequence_parallelism = False",
        source=f"{_HP}:1067",
        why="In these modes the sequence is divided over the ranks of the tensor-parallel group.",
        holds=lambda enable_sequence_parallelism, sequence_parallelism_mode, tp_size: (
            not enable_sequence_parallelism or sequence_parallelism_mode not in ("split_gather", "ring") or tp_size > 1
        ),
    ),
    _hybrid("HPP004", "sp_size without sequence parallelism")(
        message="sp_size is {sp_size}, and sequence parallelism is not enabled",
        hint="use sp_size = 1, or enable_sequence_parallelism = True",
        source=f"{_HP}:1084",
        why="Ranks of a group that does nothing would be missing from the mesh.",
        repaired=lambda: 1,
        holds=lambda sp_size, enable_sequence_parallelism: enable_sequence_parallelism or sp_size == 1,
    ),
    _hybrid("HPP005", "degrees do not divide the GPUs", about=("mesh",))(
        message="{num_devices} GPUs do not divide by sp_size x pp_size x tp_size = {group}",
        detail="{sp_size} * {pp_size} * {tp_size} = {group}, {num_devices} % {group} = {rest}",
        hint="choose a product of {valid}",
        source=f"{_HP}:1052,1077-1079",
        why="The plugin rounds the data-parallel degree down, and the mesh then misses GPUs.",
        fact="tp_size",
        **divides("sp_size", "tp_size", "pp_size"),
    ),
    _hybrid("HPP006")(source=f"{_HP}:1122", **one_of("zero_stage", (0, 1, 2))),
    _hybrid("HPP007", "a pipeline style that the plugin does not know")(
        message="pp_style {pp_style} is none of 1f1b, interleaved, zbv",
        hint="use one of 1f1b, interleaved, zbv",
        source=f"{_HP}:1124",
        why="The plugin asserts it when there is a pipeline.",
        holds=lambda pp_style, pp_size: pp_size == 1 or pp_style in PIPELINE_STYLES,
    ),
    _hybrid("HPP008", "num_model_chunks does not go with pp_style", remedy="change")(
        message="num_model_chunks {num_model_chunks} does not go with pp_style {pp_style}",
        hint="use num_model_chunks = {wanted}",
        source=f"{_HP}:1125-1130,1151",
        values=lambda pp_style: {"wanted": _CHUNKS.get(pp_style, "1")},
        added=lambda pp_style: {"num_model_chunks": int(_CHUNKS.get(pp_style, "1")[0])},
        why="Each schedule gives a stage its own number of runs of layers.",
        holds=lambda num_model_chunks, pp_style, pp_size: (
            pp_size == 1
            or pp_style not in _CHUNKS
            or (num_model_chunks > 1 if pp_style == "interleaved" else num_model_chunks == int(_CHUNKS[pp_style]))
        ),
    ),
    _hybrid("HPP009", "a pipeline without num_microbatches")(
        field="num_microbatches",
        message="pp_size {pp_size} needs num_microbatches or microbatch_size, and neither is given",
        detail="pp_size = {pp_size}",
        hint="add num_microbatches = {wanted}",
        source=f"{_HP}:1131",
        values=lambda pp_size, batch_size=None: {"wanted": micro_batches(pp_size, batch_size)},
        added=lambda pp_size, batch_size=None: {"num_microbatches": micro_batches(pp_size, batch_size)},
        why="The schedule has to know into how many micro batches it cuts the batch.",
        holds=lambda pp_size, has_microbatches: pp_size == 1 or has_microbatches,
    ),
    _hybrid("HPP010", "ZeRO 2 with a pipeline")(
        message="zero_stage {zero_stage} does not go with pp_size {pp_size}",
        hint="use zero_stage = 1",
        source=f"{_HP}:1134",
        why="Gradients accumulate over micro batches, and scattering each of them costs too much.",
        holds=lambda zero_stage, pp_size: pp_size == 1 or zero_stage <= 1,
    ),
    _hybrid("HPP011", "ZeRO in fp32")(
        message="zero_stage {zero_stage} does not run in precision fp32",
        hint="use precision = 'bf16', or zero_stage = 0",
        source=f"{_HP}:1361",
        why="The sharded optimizer keeps a full-precision master copy beside a half-precision model.",
        holds=lambda zero_stage, precision: zero_stage == 0 or precision != "fp32",
    ),
    _hybrid("HPP012")(source=f"{_HP}:928", **one_of("precision", ("fp16", "bf16", "fp32"))),
    _hybrid("HPP013", "num_layers_per_stage does not match")(
        message="num_layers_per_stage has to name {pp_size} stages with {num_layers} layers in all",
        detail="{num_layers_per_stage} names {stages} stages with {total} layers",
        hint="use num_layers_per_stage = {even}",
        values=lambda num_layers_per_stage, num_layers, pp_size: {
            "stages": len(num_layers_per_stage),
            "total": sum(num_layers_per_stage),
            "even": str(_even(num_layers, pp_size)),
        },
        repaired=_even,
        why="Every layer belongs to exactly one stage.",
        source="colossalai 0.5.0: pipeline/stage_manager.py:41,216",
        holds=lambda num_layers_per_stage, pp_size, num_layers: (
            len(num_layers_per_stage) == pp_size and sum(num_layers_per_stage) == num_layers
        ),
    ),
    _hybrid("HPP014", "batch does not divide into micro batches")(
        message="a batch of {batch_size} does not divide by num_microbatches {num_microbatches}",
        hint="use num_microbatches = {valid}",
        source="colossalai 0.5.0: pipeline/schedule/one_f_one_b.py:67-107",
        values=lambda batch_size, pp_size: {"valid": listed([d for d in divisors(batch_size) if d >= pp_size])},
        why="Every micro batch has the same number of sequences.",
        holds=lambda num_microbatches, batch_size, pp_size: pp_size == 1 or batch_size % num_microbatches == 0,
    ),
    _hybrid("HPP015", "batch does not divide by the micro batch")(
        message="a batch of {batch_size} does not divide by microbatch_size {microbatch_size}",
        hint="use microbatch_size = {valid}",
        source="colossalai 0.5.0: pipeline/schedule/one_f_one_b.py:67-107",
        values=lambda batch_size: {"valid": listed(divisors(batch_size))},
        why="Every micro batch has the same number of sequences.",
        holds=lambda microbatch_size, batch_size, pp_size: pp_size == 1 or batch_size % microbatch_size == 0,
    ),
    _hybrid("HPP016", "ZeRO 2 and no_sync")(
        message="no_sync() is called, and zero_stage {zero_stage} forbids it",
        detail="zero_stage = {zero_stage}",
        hint="use zero_stage = 1",
        source=f"{_HP}:1503",
        why="Stage 2 gives its gradients away after every backward pass, so none can be kept back.",
        holds=lambda zero_stage, calls_no_sync: zero_stage != 2 or not calls_no_sync,  # noqa: PLR2004
    ),
    _hybrid("HPP017", "LoRA with tensor parallelism")(
        message="enable_lora() is called, and LoRA needs tp_size 1, not {tp_size}",
        detail="tp_size = {tp_size}",
        hint="use tp_size = 1",
        source=f"{_HP}:1518",
        why="The adapters are not sharded.",
        repaired=lambda: 1,
        holds=lambda tp_size, calls_lora: tp_size == 1 or not calls_lora,
    ),
    _hybrid("HPP018", "sequence parallelism that GPT-2 does not have")(
        fact="sequence_parallelism_mode",
        message="GPT-2 does not run sequence_parallelism_mode {sequence_parallelism_mode}",
        hint="use sequence_parallelism_mode = 'split_gather'",
        source="colossalai 0.5.0: shardformer/policies/gpt2.py:55-61",
        why="The GPT-2 policy asserts against all_to_all and turns ring into split_gather without an error.",
        holds=lambda model, enable_sequence_parallelism, sequence_parallelism_mode: (
            not enable_sequence_parallelism or sequence_parallelism_mode in ("split_gather", "ring_attn")
        ),
    ),
    _hybrid("HPP019", "sequence does not divide for ring attention")(
        fact="sp_size",
        message="ring_attn cuts the sequence into 2 x sp_size = {pieces} pieces, and {seq_len} tokens do "
        "not divide by it",
        hint="use an sp_size whose double divides {seq_len}",
        values=lambda sp_size: {"pieces": 2 * sp_size},
        why="Each rank takes one piece from the front and one from the back, so that causal work is even.",
        source="colossalai 0.5.0: shardformer/layer/attn.py (zigzag split)",
        holds=lambda sequence_parallelism_mode, sp_size, seq_len: (
            sequence_parallelism_mode != "ring_attn" or seq_len % (2 * sp_size) == 0
        ),
    ),
    _hybrid("HPP020", "inner ring does not divide the sequence group")(
        message="inner_ring_size {inner_ring_size} does not divide sp_size {sp_size}",
        hint="use inner_ring_size = {valid}",
        values=lambda sp_size: {"valid": listed(divisors(sp_size))},
        why="The double ring consists of whole inner rings.",
        source="colossalai 0.5.0: shardformer/layer/attn.py (get_double_ring_groups)",
        holds=lambda inner_ring_size, sp_size: sp_size % inner_ring_size == 0,
    ),
    _hybrid("HPP021", "zero-bubble pipeline with GPT-2")(
        fact="pp_style",
        message="pp_style zbv places GPT-2's last norm on another device than its last layers",
        hint="use pp_style = '1f1b'",
        source="colossalai 0.5.0: shardformer/policies/gpt2.py:147,311-312,452",
        why="Under zbv the last chunk is on the first device, and the GPT-2 policy puts the final norm on the last: it "
        "trains another model, and raises with tp_size 1.",
        holds=lambda model, pp_style, pp_size: pp_size == 1 or pp_style != "zbv",
    ),
    _hybrid("HPP022", "sequence parallelism that spoils bias gradients", severity="warning")(
        fact="sequence_parallelism_mode",
        message="split_gather gives GPT-2 wrong gradients of the biases of its row-parallel layers",
        hint="use enable_sequence_parallelism = False, or mark these biases as partial after boosting",
        source="colossalai 0.5.0: shardformer/policies/gpt2.py:248-269",
        why="Each rank sees the gradient of its own slice of the sequence only, and the replicas drift apart.",
        holds=lambda model, enable_sequence_parallelism, sequence_parallelism_mode, tp_size: (
            not (enable_sequence_parallelism and sequence_parallelism_mode == "split_gather" and tp_size > 1)
        ),
    ),
    _hybrid("HPP023", "an optimizer that switches ZeRO off", severity="warning")(
        message="DistGaloreAwamW sets zero_stage {zero_stage} to 0 without a word",
        detail="zero_stage = {zero_stage}",
        hint="use zero_stage = 0, or another optimizer",
        source=f"{_HP}:1301-1307",
        why="The memory that ZeRO was to save is not saved.",
        holds=lambda zero_stage, uses_galore: zero_stage == 0 or not uses_galore,
    ),
    _hybrid("HPP024", "an argument that has no default")(
        message="HybridParallelPlugin has no {missing_argument}",
        detail="tp_size and pp_size have no default",
        hint="add {missing_argument} = 1",
        added=lambda missing_argument: {missing_argument: 1},
        source=f"{_HP}:928",
        why="Python stops at the call.",
        holds=lambda missing_argument: False,
    ),
    _hybrid("HPP025", "num_layers_per_stage of stages with several chunks", remedy="remove")(
        fact="num_layers_per_stage",
        message="num_layers_per_stage does not go with pp_style {pp_style}",
        detail="{num_layers_per_stage} names stages, and pp_style {pp_style} asks for every chunk of one",
        hint="remove num_layers_per_stage",
        source="colossalai 0.5.0: pipeline/stage_manager.py:41,87-103",
        why="The plugin takes one number for each stage, and the schedule looks for more: it fails with an IndexError.",
        holds=lambda num_layers_per_stage, pp_style, pp_size: pp_size == 1 or pp_style not in CHUNKED,
    ),
    _hybrid("HPP026", "zero-bubble pipeline that loses gradients", severity="warning")(
        fact="pp_style",
        message="pp_style zbv keeps the weight gradients of linear layers of one micro batch alone",
        detail="pp_size = {pp_size}",
        hint="use pp_style = 'interleaved', or have WeightGradStore.pop add to gradients that are there",
        source="colossalai 0.5.0: pipeline/weight_grad_store.py:29-45; shardformer/layer/_operation.py:125-165",
        why="The store drops the product of every further micro batch, unless apex adds it up; the loss is right.",
        holds=lambda pp_style, pp_size: pp_size == 1 or pp_style != "zbv",
    ),
    _hybrid("HPP027", "checkpoints under a zero-bubble pipeline", severity="warning")(
        fact="recomputes",
        message="gradient checkpointing under pp_style zbv loses weight gradients unless it is reentrant",
        detail="pp_size = {pp_size}",
        hint="do not recompute, or pass use_reentrant = True",
        source=f"{_HP}:1139, which warns of the opposite; pipeline/weight_grad_store.py",
        why="Without reentry the products that forward is run again for put no weight gradient off.",
        holds=lambda recomputes, pp_style, pp_size: pp_size == 1 or pp_style != "zbv" or not recomputes,
    ),
    _hybrid("HPP028", "zero-bubble pipeline that the model's policy fails in")(
        fact="pp_style",
        message="pp_style zbv fails for models of {family} with {what}",
        detail="pp_size = {pp_size}",
        hint="use pp_style = 'interleaved', or a model without them",
        values=lambda family: {"what": "tp_size 1" if family in _ZBV_UNDIVIDED else "tied embeddings"},
        source="colossalai 0.5.0: shardformer/policies/qwen2.py:183; mistral.py:420-434; mixtral.py:433-447",
        why="Qwen2's policy reads a variable that only tensor parallelism sets; those of Mistral and Mixtral share the "
        "embedding with the last device, which has no head then.",
        holds=lambda family, is_tied, tp_size, pp_style, pp_size: (
            pp_size == 1
            or pp_style != "zbv"
            or not ((family in _ZBV_UNDIVIDED and tp_size == 1) or (family in _ZBV_TIED and is_tied))
        ),
    ),
    rules_of(FACTS[HYBRID], *FACTS)("GPT001", "hidden units of GPT2Config do not divide by the heads")(
        fact="n_head",
        message="{n_embd} hidden units do not divide by {n_head} heads",
        detail="{n_embd} % {n_head} = {rest}",
        hint="use n_head = {valid}",
        values=lambda n_embd, n_head: {
            "rest": n_embd % n_head,
            "valid": listed(sorted(divisors(n_embd), key=lambda d: (abs(d - n_head), -d))[:3]),
        },
        source="transformers 4.51.3: models/gpt2/modeling_gpt2.py, GPT2Attention",
        why="Every head has the same width.",
        holds=lambda n_embd, n_head: n_embd % n_head == 0,
    ),
)
