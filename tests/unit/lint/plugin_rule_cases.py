"""For every rule of Colossal-AI's plugins a file that breaks it and one that keeps it."""

from typing import Any

from tests.unit.lint.config_rule_cases import Case, gemini, hybrid, plugin, zero

PP: dict[str, Any] = {"pp_size": 2, "num_microbatches": 4}


def experts(**arguments: Any) -> str:
    """The plugin with experts on what makes none of its rules speak, with other arguments."""
    return plugin("MoeHybridParallelPlugin", **{"tp_size": 1, "pp_size": 1, "ep_size": 8, "zero_stage": 1, **arguments})


EXPERTS = experts()

CASES = (
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
    Case(
        "HPP025",
        "a.py",
        hybrid(**PP, pp_style="interleaved", num_model_chunks=2, num_layers_per_stage=[6, 6]),
        hybrid(**PP, pp_style="interleaved", num_model_chunks=2),
        "num_layers_per_stage does not go with pp_style interleaved",
    ),
    Case(
        "HPP026",
        "a.py",
        hybrid(**PP, pp_style="zbv", num_model_chunks=2),
        hybrid(**PP, pp_style="interleaved", num_model_chunks=2),
        "pp_style zbv keeps the weight gradients of linear layers of one micro batch alone",
    ),
    Case(
        "HPP027",
        "a.py",
        hybrid("model.gradient_checkpointing_enable()", **PP, pp_style="zbv", num_model_chunks=2),
        hybrid("model.gradient_checkpointing_enable()", **PP, pp_style="interleaved", num_model_chunks=2),
        "gradient checkpointing under pp_style zbv loses weight gradients unless it is reentrant",
    ),
    Case(
        "HPP028",
        "a.py",
        hybrid(**PP, pp_style="zbv", num_model_chunks=2).replace("gpt2-small", "qwen2.5-0.5b"),
        hybrid(**PP, pp_style="interleaved", num_model_chunks=2).replace("gpt2-small", "qwen2.5-0.5b"),
        "pp_style zbv fails for models of qwen2 with tp_size 1",
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
    Case("MOE001", "a.py", experts(ep_size=3), EXPERTS, "ep_size 3 does not divide the 8 ranks of data parallelism"),
    Case("MOE002", "a.py", experts(zero_stage=0), EXPERTS, "zero_stage 0 does not go with ep_size 8"),
    Case("MOE003", "a.py", experts(max_norm=1.0), EXPERTS, "max_norm 1.0 clips by a wrong norm with ep_size 8"),
    Case(
        "MOE004",
        "a.py",
        experts(enable_sequence_parallelism=True),
        EXPERTS,
        "enable_sequence_parallelism is on, and MoeHybridParallelPlugin has no such mode for Mixtral",
    ),
    Case(
        "MOE005",
        "a.py",
        experts(zero_stage=2),
        EXPERTS,
        "zero_stage 2 makes the plugin run ZeRO stage 1 without overlap",
    ),
    Case(
        "MOE006",
        "a.py",
        experts(ep_size=4),
        EXPERTS,
        "ep_size 4 leaves 2 copies of each expert; one without a token spoils its gradient",
    ),
)
