from colossalai.booster.plugin import GeminiPlugin, HybridParallelPlugin, LowLevelZeroPlugin
from torch.optim import SGD

PLUGINS = {
    "hybrid": HybridParallelPlugin(
        tp_size=3, pp_size=2, zero_stage=2, precision="fp32", pp_style="interleaved", num_microbatch=4, sp_size=2
    ),
    "gemini": GeminiPlugin(placement_policy="cpu", shard_param_frac=1.5, precision="fp32", tp_size=3),
    "zero": LowLevelZeroPlugin(stage=3, precision="bf16", norm_type=1.0),
}
optimizer = SGD
