"""Rules of the arguments of HybridParallelPlugin: what the library asserts before the first step, and its traps."""

from planner.layouts.degrees import divisors
from planner.lint.config_rule import Facts, divides, one_of, rule_for
from planner.lint.dialects.plugins.names import (
    DDP,
    GEMINI,
    HYBRID,
    LOW_LEVEL_ZERO,
    PIPELINE_STYLES,
    PLUGINS,
    SEQUENCE_MODES,
)
from planner.rules.rule import listed, micro_batches

_HP = f"{PLUGINS}/hybrid_parallel_plugin.py"


def _by_layers(f: Facts) -> bool:
    layers = f["num_layers_per_stage"]
    return len(layers) == f["pp_size"] and sum(layers) == f["num_layers"]


_CHUNKS = {"1f1b": "1", "zbv": "2", "interleaved": "2 or more"}

RULES = (
    rule_for(
        HYBRID,
        id="HPP001",
        title="zero-bubble pipeline without scheduler_nodes",
        fact="pp_style",
        needs=("pp_style", "has_scheduler_nodes"),
        message="pp_style zbv needs scheduler_nodes, and there are none",
        hint="pass scheduler_nodes, or use pp_style = '1f1b'",
        repaired=lambda f: "1f1b",
        source=f"{_HP}:1056",
        why="The zero-bubble schedule is computed beforehand; the plugin asks for it even with one stage.",
        holds=lambda f: f["pp_style"] != "zbv" or f["has_scheduler_nodes"],
    ),
    one_of("HPP002", HYBRID, "sequence_parallelism_mode", SEQUENCE_MODES, f"{_HP}:1063"),
    rule_for(
        HYBRID,
        id="HPP003",
        about=("degrees",),
        title="sequence parallelism of the tensor group without one",
        fact="sequence_parallelism_mode",
        needs=("enable_sequence_parallelism", "sequence_parallelism_mode", "tp_size"),
        message="sequence_parallelism_mode {sequence_parallelism_mode} needs tp_size above 1, and it is {tp_size}",
        hint="use tp_size = 2 or more, or enable_sequence_parallelism = False",
        source=f"{_HP}:1067",
        why="In these modes the sequence is divided over the ranks of the tensor-parallel group.",
        holds=lambda f: (
            not f["enable_sequence_parallelism"]
            or f["sequence_parallelism_mode"] not in ("split_gather", "ring")
            or f["tp_size"] > 1
        ),
    ),
    rule_for(
        HYBRID,
        id="HPP004",
        title="sp_size without sequence parallelism",
        fact="sp_size",
        needs=("sp_size", "enable_sequence_parallelism"),
        message="sp_size is {sp_size}, and sequence parallelism is not enabled",
        hint="use sp_size = 1, or enable_sequence_parallelism = True",
        source=f"{_HP}:1084",
        why="Ranks of a group that does nothing would be missing from the mesh.",
        repaired=lambda f: 1,
        holds=lambda f: f["enable_sequence_parallelism"] or f["sp_size"] == 1,
    ),
    rule_for(
        HYBRID,
        **divides(
            {
                "id": "HPP005",
                "about": ("mesh",),
                "title": "degrees do not divide the GPUs",
                "fact": "tp_size",
                "needs": ("sp_size", "tp_size", "pp_size", "num_devices"),
                "message": "{num_devices} GPUs do not divide by sp_size x pp_size x tp_size = {group}",
                "detail": "{sp_size} * {pp_size} * {tp_size} = {group}, {num_devices} % {group} = {rest}",
                "hint": "choose a product of {valid}",
                "source": f"{_HP}:1052,1077-1079",
                "why": "The plugin rounds the data-parallel degree down, and the mesh then misses GPUs.",
            },
            lambda f: f["sp_size"] * f["tp_size"] * f["pp_size"],
        ),
    ),
    one_of("HPP006", HYBRID, "zero_stage", (0, 1, 2), f"{_HP}:1122"),
    rule_for(
        HYBRID,
        id="HPP007",
        title="a pipeline style that the plugin does not know",
        fact="pp_style",
        needs=("pp_style", "pp_size"),
        message="pp_style {pp_style} is none of 1f1b, interleaved, zbv",
        hint="use one of 1f1b, interleaved, zbv",
        source=f"{_HP}:1124",
        why="The plugin asserts it when there is a pipeline.",
        holds=lambda f: f["pp_size"] == 1 or f["pp_style"] in PIPELINE_STYLES,
    ),
    rule_for(
        HYBRID,
        id="HPP008",
        title="num_model_chunks does not go with pp_style",
        fact="num_model_chunks",
        needs=("num_model_chunks", "pp_style", "pp_size"),
        message="num_model_chunks {num_model_chunks} does not go with pp_style {pp_style}",
        hint="use num_model_chunks = {wanted}",
        source=f"{_HP}:1125-1130,1151",
        values=lambda f: {"wanted": _CHUNKS.get(f["pp_style"], "1")},
        added=lambda f: {"num_model_chunks": int(_CHUNKS.get(f["pp_style"], "1")[0])},
        why="Each schedule gives a stage its own number of runs of layers.",
        holds=lambda f: (
            f["pp_size"] == 1
            or f["pp_style"] not in _CHUNKS
            or (
                f["num_model_chunks"] > 1
                if f["pp_style"] == "interleaved"
                else f["num_model_chunks"] == int(_CHUNKS[f["pp_style"]])
            )
        ),
    ),
    rule_for(
        HYBRID,
        id="HPP009",
        remedy="add",
        title="a pipeline without num_microbatches",
        fact="pp_size",
        needs=("pp_size", "has_microbatches"),
        field="num_microbatches",
        message="pp_size {pp_size} needs num_microbatches or microbatch_size, and neither is given",
        detail="pp_size = {pp_size}",
        hint="add num_microbatches = {wanted}",
        source=f"{_HP}:1131",
        values=lambda f: {"wanted": micro_batches(f["pp_size"], f.get("batch_size"))},
        added=lambda f: {"num_microbatches": micro_batches(f["pp_size"], f.get("batch_size"))},
        why="The schedule has to know into how many micro batches it cuts the batch.",
        holds=lambda f: f["pp_size"] == 1 or f["has_microbatches"],
    ),
    rule_for(
        HYBRID,
        id="HPP010",
        title="ZeRO 2 with a pipeline",
        fact="zero_stage",
        needs=("zero_stage", "pp_size"),
        message="zero_stage {zero_stage} does not go with pp_size {pp_size}",
        hint="use zero_stage = 1",
        source=f"{_HP}:1134",
        why="Gradients accumulate over micro batches, and scattering each of them costs too much.",
        holds=lambda f: f["pp_size"] == 1 or f["zero_stage"] <= 1,
    ),
    rule_for(
        HYBRID,
        id="HPP011",
        title="ZeRO in fp32",
        fact="zero_stage",
        needs=("zero_stage", "precision"),
        message="zero_stage {zero_stage} does not run in precision fp32",
        hint="use precision = 'bf16', or zero_stage = 0",
        source=f"{_HP}:1361",
        why="The sharded optimizer keeps a full-precision master copy beside a half-precision model.",
        holds=lambda f: f["zero_stage"] == 0 or f["precision"] != "fp32",
    ),
    one_of("HPP012", HYBRID, "precision", ("fp16", "bf16", "fp32"), f"{_HP}:928"),
    rule_for(
        HYBRID,
        id="HPP013",
        title="num_layers_per_stage does not match",
        fact="num_layers_per_stage",
        needs=("num_layers_per_stage", "pp_size", "num_layers"),
        message="num_layers_per_stage has to name {pp_size} stages with {num_layers} layers in all",
        detail="{num_layers_per_stage} names {stages} stages with {total} layers",
        hint="use num_layers_per_stage = {even}",
        values=lambda f: {
            "stages": len(f["num_layers_per_stage"]),
            "total": sum(f["num_layers_per_stage"]),
            "even": str(_even(f["num_layers"], f["pp_size"])),
        },
        repaired=lambda f: _even(f["num_layers"], f["pp_size"]),
        why="Every layer belongs to exactly one stage.",
        source="colossalai 0.5.0: pipeline/stage_manager.py:41,216",
        holds=_by_layers,
    ),
    rule_for(
        HYBRID,
        id="HPP014",
        title="batch does not divide into micro batches",
        fact="num_microbatches",
        needs=("num_microbatches", "batch_size", "pp_size"),
        message="a batch of {batch_size} does not divide by num_microbatches {num_microbatches}",
        hint="use num_microbatches = {valid}",
        source="colossalai 0.5.0: pipeline/schedule/one_f_one_b.py:67-107",
        values=lambda f: {"valid": listed([d for d in divisors(f["batch_size"]) if d >= f["pp_size"]])},
        why="Every micro batch has the same number of sequences.",
        holds=lambda f: f["pp_size"] == 1 or f["batch_size"] % f["num_microbatches"] == 0,
    ),
    rule_for(
        HYBRID,
        id="HPP015",
        title="batch does not divide by the micro batch",
        fact="microbatch_size",
        needs=("microbatch_size", "batch_size", "pp_size"),
        message="a batch of {batch_size} does not divide by microbatch_size {microbatch_size}",
        hint="use microbatch_size = {valid}",
        source="colossalai 0.5.0: pipeline/schedule/one_f_one_b.py:67-107",
        values=lambda f: {"valid": listed(divisors(f["batch_size"]))},
        why="Every micro batch has the same number of sequences.",
        holds=lambda f: f["pp_size"] == 1 or f["batch_size"] % f["microbatch_size"] == 0,
    ),
    rule_for(
        HYBRID,
        id="HPP016",
        title="ZeRO 2 and no_sync",
        fact="zero_stage",
        needs=("zero_stage", "calls_no_sync"),
        message="no_sync() is called, and zero_stage {zero_stage} forbids it",
        detail="zero_stage = {zero_stage}",
        hint="use zero_stage = 1",
        source=f"{_HP}:1503",
        why="Stage 2 gives its gradients away after every backward pass, so none can be kept back.",
        holds=lambda f: f["zero_stage"] != 2 or not f["calls_no_sync"],  # noqa: PLR2004
    ),
    rule_for(
        HYBRID,
        id="HPP017",
        title="LoRA with tensor parallelism",
        fact="tp_size",
        needs=("tp_size", "calls_lora"),
        message="enable_lora() is called, and LoRA needs tp_size 1, not {tp_size}",
        detail="tp_size = {tp_size}",
        hint="use tp_size = 1",
        source=f"{_HP}:1518",
        why="The adapters are not sharded.",
        repaired=lambda f: 1,
        holds=lambda f: f["tp_size"] == 1 or not f["calls_lora"],
    ),
    rule_for(
        HYBRID,
        id="HPP018",
        title="sequence parallelism that GPT-2 does not have",
        fact="sequence_parallelism_mode",
        needs=("model", "enable_sequence_parallelism", "sequence_parallelism_mode"),
        message="GPT-2 does not run sequence_parallelism_mode {sequence_parallelism_mode}",
        hint="use sequence_parallelism_mode = 'split_gather'",
        source="colossalai 0.5.0: shardformer/policies/gpt2.py:55-61",
        why="The GPT-2 policy asserts against all_to_all and turns ring into split_gather without an error.",
        holds=lambda f: (
            not f["enable_sequence_parallelism"] or f["sequence_parallelism_mode"] in ("split_gather", "ring_attn")
        ),
    ),
    rule_for(
        HYBRID,
        id="HPP019",
        title="sequence does not divide for ring attention",
        fact="sp_size",
        needs=("sequence_parallelism_mode", "sp_size", "seq_len"),
        message="ring_attn cuts the sequence into 2 x sp_size = {pieces} pieces, and {seq_len} tokens do "
        "not divide by it",
        hint="use an sp_size whose double divides {seq_len}",
        values=lambda f: {"pieces": 2 * f["sp_size"]},
        why="Each rank takes one piece from the front and one from the back, so that causal work is even.",
        source="colossalai 0.5.0: shardformer/layer/attn.py (zigzag split)",
        holds=lambda f: f["sequence_parallelism_mode"] != "ring_attn" or f["seq_len"] % (2 * f["sp_size"]) == 0,
    ),
    rule_for(
        HYBRID,
        id="HPP020",
        title="inner ring does not divide the sequence group",
        fact="inner_ring_size",
        needs=("inner_ring_size", "sp_size"),
        message="inner_ring_size {inner_ring_size} does not divide sp_size {sp_size}",
        hint="use inner_ring_size = {valid}",
        values=lambda f: {"valid": listed(divisors(f["sp_size"]))},
        why="The double ring consists of whole inner rings.",
        source="colossalai 0.5.0: shardformer/layer/attn.py (get_double_ring_groups)",
        holds=lambda f: f["sp_size"] % f["inner_ring_size"] == 0,
    ),
    rule_for(
        HYBRID,
        id="HPP021",
        title="zero-bubble pipeline with GPT-2",
        fact="pp_style",
        needs=("model", "pp_style", "pp_size"),
        message="pp_style zbv places GPT-2's last norm on another device than its last layers",
        hint="use pp_style = '1f1b'",
        severity="warning",
        source="colossalai 0.5.0: shardformer/policies/gpt2.py:311-312,452",
        why="Under zbv the last chunk is on the first device, and the GPT-2 policy puts the final norm on the last.",
        holds=lambda f: f["pp_size"] == 1 or f["pp_style"] != "zbv",
    ),
    rule_for(
        HYBRID,
        id="HPP022",
        title="sequence parallelism that spoils bias gradients",
        fact="sequence_parallelism_mode",
        needs=("model", "enable_sequence_parallelism", "sequence_parallelism_mode", "tp_size"),
        message="split_gather gives GPT-2 wrong gradients of the biases of its row-parallel layers",
        hint="use enable_sequence_parallelism = False, or mark these biases as partial after boosting",
        source="colossalai 0.5.0: shardformer/policies/gpt2.py:248-269",
        severity="warning",
        why="Each rank sees the gradient of its own slice of the sequence only, and the replicas drift apart.",
        holds=lambda f: (
            not (
                f["enable_sequence_parallelism"]
                and f["sequence_parallelism_mode"] == "split_gather"
                and f["tp_size"] > 1
            )
        ),
    ),
    rule_for(
        HYBRID,
        id="HPP023",
        title="an optimizer that switches ZeRO off",
        fact="zero_stage",
        needs=("zero_stage", "uses_galore"),
        message="DistGaloreAwamW sets zero_stage {zero_stage} to 0 without a word",
        detail="zero_stage = {zero_stage}",
        hint="use zero_stage = 0, or another optimizer",
        source=f"{_HP}:1301-1307",
        why="The memory that ZeRO was to save is not saved.",
        severity="warning",
        holds=lambda f: f["zero_stage"] == 0 or not f["uses_galore"],
    ),
    rule_for(
        HYBRID,
        id="HPP024",
        remedy="add",
        title="an argument that has no default",
        fact="missing_argument",
        needs=("missing_argument",),
        field="tp_size",
        message="HybridParallelPlugin has no {missing_argument}",
        detail="tp_size and pp_size have no default",
        hint="add {missing_argument} = 1",
        added=lambda f: {f["missing_argument"]: 1},
        source=f"{_HP}:928",
        why="Python stops at the call.",
        holds=lambda f: False,
    ),
    rule_for(
        (HYBRID, GEMINI, LOW_LEVEL_ZERO, DDP),
        id="GPT001",
        title="hidden units of GPT2Config do not divide by the heads",
        fact="n_head",
        needs=("n_embd", "n_head"),
        message="{n_embd} hidden units do not divide by {n_head} heads",
        detail="{n_embd} % {n_head} = {rest}",
        hint="use n_head = {valid}",
        values=lambda f: {
            "rest": f["n_embd"] % f["n_head"],
            "valid": listed(sorted(divisors(f["n_embd"]), key=lambda d: (abs(d - f["n_head"]), -d))[:3]),
        },
        source="transformers 4.51.3: models/gpt2/modeling_gpt2.py, GPT2Attention",
        why="Every head has the same width.",
        holds=lambda f: f["n_embd"] % f["n_head"] == 0,
    ),
)


def _even(layers: int, stages: int) -> tuple[int, ...]:
    share, rest = divmod(layers, max(1, stages))
    return tuple(share + (stage >= stages - rest) for stage in range(stages))
