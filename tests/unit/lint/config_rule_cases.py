"""For every rule of configurations a file that breaks it and one that keeps it, and what is said of the broken one."""

from typing import Any, NamedTuple


class Case(NamedTuple):
    """One rule. ``message`` is the message of the broken file."""

    rule: str
    name: str
    """The file's name, whose ending is its language."""
    broken: str
    kept: str
    message: str
    gpus: int = 8


def old(**keys: object) -> str:
    """A configuration of 2022; ``parallel`` comes from ``pipeline``, ``size``, ``mode`` and ``depth``."""
    mesh = {key: keys.pop(key, default) for key, default in (("pipeline", 1), ("size", 1), ("mode", None))}
    lines = {"BATCH_SIZE": 8, "SEQ_LEN": 1024} | keys
    parallel = f"dict(pipeline={mesh['pipeline']}, tensor=dict(size={mesh['size']}, mode={mesh['mode']!r}))"
    lines = {"model": "dict(type=gpt2_small)", "fp16": "dict(mode=AMP_TYPE.NAIVE)", "parallel": parallel} | lines
    return "".join(f"{key} = {value}\n" for key, value in lines.items() if value is not None)


def plugin(name: str, extra: str = "", **arguments: object) -> str:
    """A script with one plugin; ``extra`` stands after it."""
    written = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return f"batch_size = 8\nmodel = 'gpt2-small'\nplugin = {name}({written})\n{extra}\n"


def hybrid(extra: str = "", **arguments: object) -> str:
    """A HybridParallelPlugin with a pipeline of one stage unless said otherwise."""
    return plugin("HybridParallelPlugin", extra, **({"tp_size": 1, "pp_size": 1} | arguments))


def gemini(extra: str = "", **arguments: object) -> str:
    """A GeminiPlugin."""
    return plugin("GeminiPlugin", extra, **arguments)


def zero(extra: str = "", **arguments: object) -> str:
    """A LowLevelZeroPlugin."""
    return plugin("LowLevelZeroPlugin", extra, **arguments)


def megatron(options: str) -> str:
    """A command line of a model that fits everything."""
    shape = "" if "--hidden-size" in options else " --num-layers 12 --hidden-size 768 --num-attention-heads 12"
    return f"torchrun pretrain_gpt.py{shape} --seq-length 1024 --micro-batch-size 1 {options}\n"


def deepspeed(rest: str) -> str:
    """A DeepSpeed file with a micro batch of 4 on 8 GPUs."""
    return '{"train_micro_batch_size_per_gpu": 4, ' + rest + "}"


PIPE: dict[str, Any] = {"pipeline": 2, "NUM_MICRO_BATCHES": 4}
ZERO_DICT = "dict(level=2)"
PP: dict[str, Any] = {"pp_size": 2, "num_microbatches": 4}

CASES = (
    Case(
        "OLD001", "a.py", old(**PIPE, BATCH_SIZE=9), old(**PIPE), "BATCH_SIZE 9 does not divide by NUM_MICRO_BATCHES 4"
    ),
    Case(
        "OLD002",
        "a.py",
        old(**PIPE, TENSOR_SHAPE="(2, 1024, 384)"),
        old(**PIPE, TENSOR_SHAPE="(2, 1024, 768)"),
        "TENSOR_SHAPE is (2, 1024, 384), and the stages send (2, 1024, 768)",
    ),
    Case(
        "OLD003",
        "a.py",
        old(pipeline=2),
        old(**PIPE),
        "a pipeline of 2 stages needs NUM_MICRO_BATCHES, and the file has none",
    ),
    Case(
        "OLD004",
        "a.py",
        old(DATA_PARALLEL=8),
        old(),
        "DATA_PARALLEL is set by hand, and data parallelism is never written",
    ),
    Case(
        "OLD005",
        "a.py",
        old(zero=ZERO_DICT),
        old(zero=ZERO_DICT, fp16=None),
        "fp16 and zero are both set, and only one of them may be",
    ),
    Case(
        "OLD006",
        "a.py",
        old(**PIPE, fp16="dict(mode=AMP_TYPE.TORCH)"),
        old(**PIPE),
        "a pipeline takes AMP_TYPE.NAIVE only, and fp16 mode is AMP_TYPE.TORCH",
    ),
    Case("OLD007", "a.py", old(HIDDEN_SIZE=1024), old(HIDDEN_SIZE=768), "HIDDEN_SIZE is 1024, and gpt2-small has 768"),
    Case(
        "OLD008", "a.py", old(**PIPE, PIPELINE=4), old(**PIPE, PIPELINE=2), "PIPELINE is 4, and parallel.pipeline is 2"
    ),
    Case(
        "HPP001",
        "a.py",
        hybrid(pp_style="zbv"),
        hybrid(pp_style="1f1b"),
        "pp_style zbv needs scheduler_nodes, and there are none",
    ),
    Case(
        "HPP002",
        "a.py",
        hybrid(enable_sequence_parallelism=True, sequence_parallelism_mode="rings"),
        hybrid(),
        "sequence_parallelism_mode rings is none of split_gather, ring, all_to_all, ring_attn",
    ),
    Case(
        "HPP003",
        "a.py",
        hybrid(enable_sequence_parallelism=True, sequence_parallelism_mode="split_gather"),
        hybrid(tp_size=2, enable_sequence_parallelism=True, sequence_parallelism_mode="split_gather"),
        "sequence_parallelism_mode split_gather needs tp_size above 1, and it is 1",
    ),
    Case(
        "HPP004", "a.py", hybrid(sp_size=2), hybrid(sp_size=1), "sp_size is 2, and sequence parallelism is not enabled"
    ),
    Case(
        "HPP005",
        "a.py",
        hybrid(tp_size=3),
        hybrid(tp_size=2),
        "8 GPUs do not divide by sp_size x pp_size x tp_size = 3",
    ),
    Case("HPP006", "a.py", hybrid(zero_stage=3), hybrid(zero_stage=2), "zero_stage 3 is none of 0, 1, 2"),
    Case(
        "HPP007",
        "a.py",
        hybrid(**PP, pp_style="gpipe"),
        hybrid(**PP),
        "pp_style gpipe is none of 1f1b, interleaved, zbv",
    ),
    Case(
        "HPP008",
        "a.py",
        hybrid(**PP, num_model_chunks=2),
        hybrid(**PP),
        "num_model_chunks 2 does not go with pp_style 1f1b",
    ),
    Case(
        "HPP009",
        "a.py",
        hybrid(pp_size=2),
        hybrid(**PP),
        "pp_size 2 needs num_microbatches or microbatch_size, and neither is given",
    ),
    Case(
        "HPP010",
        "a.py",
        hybrid(**PP, zero_stage=2),
        hybrid(**PP, zero_stage=1),
        "zero_stage 2 does not go with pp_size 2",
    ),
    Case(
        "HPP011",
        "a.py",
        hybrid(zero_stage=1, precision="fp32"),
        hybrid(zero_stage=1, precision="bf16"),
        "zero_stage 1 does not run in precision fp32",
    ),
    Case(
        "HPP012", "a.py", hybrid(precision="fp8"), hybrid(precision="bf16"), "precision fp8 is none of fp16, bf16, fp32"
    ),
    Case(
        "HPP013",
        "a.py",
        hybrid(**PP, num_layers_per_stage=[6, 5]),
        hybrid(**PP, num_layers_per_stage=[7, 5]),
        "num_layers_per_stage has to name 2 stages with 12 layers in all",
    ),
    Case(
        "HPP014",
        "a.py",
        hybrid(pp_size=2, num_microbatches=3),
        hybrid(**PP),
        "a batch of 8 does not divide by num_microbatches 3",
    ),
    Case(
        "HPP015",
        "a.py",
        hybrid(pp_size=2, microbatch_size=3),
        hybrid(pp_size=2, microbatch_size=2),
        "a batch of 8 does not divide by microbatch_size 3",
    ),
    Case(
        "HPP016",
        "a.py",
        hybrid("plugin.no_sync()", zero_stage=2),
        hybrid("plugin.no_sync()", zero_stage=1),
        "no_sync() is called, and zero_stage 2 forbids it",
    ),
    Case(
        "HPP017",
        "a.py",
        hybrid("booster.enable_lora()", tp_size=2),
        hybrid("booster.enable_lora()"),
        "enable_lora() is called, and LoRA needs tp_size 1, not 2",
    ),
    Case(
        "HPP018",
        "a.py",
        hybrid(enable_sequence_parallelism=True, sequence_parallelism_mode="all_to_all"),
        hybrid(),
        "GPT-2 does not run sequence_parallelism_mode all_to_all",
    ),
    Case(
        "HPP019",
        "a.py",
        "seq_len = 100\n" + hybrid(sp_size=8, enable_sequence_parallelism=True, sequence_parallelism_mode="ring_attn"),
        "seq_len = 64\n" + hybrid(sp_size=8, enable_sequence_parallelism=True, sequence_parallelism_mode="ring_attn"),
        "ring_attn cuts the sequence into 2 x sp_size = 16 pieces, and 100 tokens do not divide by it",
    ),
    Case(
        "HPP020", "a.py", hybrid(sp_size=4, inner_ring_size=3), hybrid(), "inner_ring_size 3 does not divide sp_size 4"
    ),
    Case(
        "HPP021",
        "a.py",
        hybrid(**PP, pp_style="zbv"),
        hybrid(**PP),
        "pp_style zbv places GPT-2's last norm on another device than its last layers",
    ),
    Case(
        "HPP022",
        "a.py",
        hybrid(tp_size=2, enable_sequence_parallelism=True, sequence_parallelism_mode="split_gather"),
        hybrid(tp_size=2),
        "split_gather gives GPT-2 wrong gradients of the biases of its row-parallel layers",
    ),
    Case(
        "HPP023",
        "a.py",
        hybrid("DistGaloreAwamW", zero_stage=1),
        hybrid("AdamW", zero_stage=1),
        "DistGaloreAwamW sets zero_stage 1 to 0 without a word",
    ),
    Case(
        "HPP024",
        "a.py",
        plugin("HybridParallelPlugin", tp_size=2),
        plugin("HybridParallelPlugin", tp_size=2, pp_size=1),
        "HybridParallelPlugin has no pp_size",
    ),
    Case("GEM001", "a.py", gemini(tp_size=3), gemini(tp_size=2), "8 GPUs do not divide by tp_size x extra_dp_size = 3"),
    Case("GEM002", "a.py", gemini(precision="fp32"), gemini(precision="bf16"), "precision fp32 is none of fp16, bf16"),
    Case(
        "GEM003",
        "a.py",
        gemini(placement_policy="cpu"),
        gemini(placement_policy="static"),
        "placement_policy cpu is none of static, auto",
    ),
    Case(
        "GEM004",
        "a.py",
        gemini(offload_param_frac=1.0),
        gemini(offload_param_frac=1.0, offload_optim_frac=1.0),
        "offload_param_frac 1.0 is ignored unless the other two fractions are 1.0",
    ),
    Case(
        "GEM005",
        "a.py",
        gemini(shard_param_frac=1.5),
        gemini(shard_param_frac=0.5),
        "shard_param_frac is 1.5, and a fraction is from 0 to 1",
    ),
    Case(
        "GEM006",
        "a.py",
        gemini("SGD"),
        gemini("HybridAdam"),
        "Gemini takes FusedAdam, CPUAdam and HybridAdam, and the optimizer is SGD",
    ),
    Case(
        "GEM007",
        "a.py",
        gemini(gpu_margin_mem_ratio=0.5),
        gemini(gpu_margin_mem_ratio=0.5, placement_policy="auto"),
        "gpu_margin_mem_ratio 0.5 has no effect with placement_policy static",
    ),
    Case(
        "GEM008",
        "a.py",
        gemini(norm_type=1.0),
        gemini(norm_type=2.0),
        "gradients are clipped by the L2 norm only, and norm_type is 1.0",
    ),
    Case(
        "GEM009",
        "a.py",
        gemini(enable_flash_attention=True),
        gemini(enable_flash_attention=True, tp_size=2),
        "enable_flash_attention has no effect with tp_size 1",
    ),
    Case(
        "GEM010",
        "a.py",
        gemini(max_norm=1.0, precision="bf16", offload_optim_frac=1.0),
        gemini(max_norm=1.0),
        "max_norm 1.0 is not applied to bf16 states on the host",
    ),
    Case("GEM011", "a.py", gemini("plugin.no_sync()"), gemini(), "no_sync() is called, and Gemini does not have it"),
    Case(
        "GEM012",
        "a.py",
        gemini(offload_optim_frac=0.5),
        gemini(offload_optim_frac=1.0),
        "offload_optim_frac 0.5 offloads nearly all optimizer states",
    ),
    Case(
        "GPT001",
        "a.py",
        hybrid("GPT2Config(n_embd=1024, n_head=12)"),
        hybrid("GPT2Config(n_embd=1024, n_head=16)"),
        "1024 hidden units do not divide by 12 heads",
    ),
    Case("LLZ001", "a.py", zero(stage=3), zero(stage=2), "stage 3 is none of 1, 2"),
    Case(
        "LLZ002", "a.py", zero(precision="int8"), zero(precision="bf16"), "precision int8 is none of fp16, bf16, fp32"
    ),
    Case("LLZ003", "a.py", zero(extra_dp_size=3), zero(extra_dp_size=2), "extra_dp_size 3 does not divide 8 GPUs"),
    Case(
        "LLZ004",
        "a.py",
        zero("plugin.no_sync()", stage=2),
        zero("plugin.no_sync()", stage=1),
        "no_sync() is called, and stage 2 forbids it",
    ),
    Case(
        "LLZ005",
        "a.py",
        zero(extra_dp_size=2, fp8_communication=True),
        zero(fp8_communication=True),
        "fp8_communication does not go with extra_dp_size 2",
    ),
    Case(
        "DDP001",
        "a.py",
        plugin("TorchDDPPlugin", "Booster(mixed_precision='fp12', plugin=plugin)"),
        plugin("TorchDDPPlugin", "Booster(mixed_precision='bf16', plugin=plugin)"),
        "mixed_precision fp12 is none of fp16, fp16_apex, fp16_naive, bf16, fp8",
    ),
    Case(
        "LLZ006", "a.py", zero(norm_type=1.0), zero(), "gradients are clipped by the L2 norm only, and norm_type is 1.0"
    ),
)
