"""Names that Colossal-AI's plugins give to their arguments' values."""

HYBRID, GEMINI, LOW_LEVEL_ZERO, DDP = "HybridParallelPlugin", "GeminiPlugin", "LowLevelZeroPlugin", "TorchDDPPlugin"
PLUGINS = "colossalai 0.5.0: booster/plugin"
"""Where their source is."""
SEQUENCE_MODES = ("split_gather", "ring", "all_to_all", "ring_attn")
PIPELINE_STYLES = ("1f1b", "interleaved", "zbv")
MIXED_PRECISIONS = ("fp16", "fp16_apex", "fp16_naive", "bf16", "fp8")
GEMINI_OPTIMIZERS = ("FusedAdam", "CPUAdam", "HybridAdam")
