"""Rules of MoeHybridParallelPlugin: what it refuses, and what it trains wrong without a word."""

from planner.layouts.degrees import divisors
from planner.lint.config_rule import rules_of
from planner.lint.dialects.plugins.keys import FACTS, HYBRID, PLUGINS
from planner.rules.rule import listed

_MOE = f"{PLUGINS}/moe_hybrid_parallel_plugin.py"
_experts = rules_of(FACTS[HYBRID], HYBRID)


def _replicas(num_devices: int, tp_size: int, pp_size: int, sp_size: int) -> int:
    return max(1, num_devices // (tp_size * pp_size * sp_size))


RULES = (
    _experts("MOE001", "ep_size does not divide data parallelism", about=("mesh",))(
        fact="ep_size",
        message="ep_size {ep_size} does not divide the {replicas} ranks of data parallelism",
        detail="{num_devices} / ({tp_size} * {pp_size} * {sp_size}) = {replicas}, {replicas} % {ep_size} = {rest}",
        hint="use ep_size = {valid}",
        values=lambda ep_size, num_devices, tp_size, pp_size, sp_size: {
            "replicas": _replicas(num_devices, tp_size, pp_size, sp_size),
            "rest": _replicas(num_devices, tp_size, pp_size, sp_size) % ep_size,
            "valid": listed(divisors(_replicas(num_devices, tp_size, pp_size, sp_size))),
        },
        source=f"{_MOE}:268",
        why="The ranks that divide the experts are a part of data parallelism.",
        holds=lambda ep_size, num_devices, tp_size, pp_size, sp_size: (
            _replicas(num_devices, tp_size, pp_size, sp_size) % ep_size == 0
        ),
    ),
    _experts("MOE002", "divided experts without ZeRO")(
        message="zero_stage {zero_stage} does not go with ep_size {ep_size}",
        hint="use zero_stage = 1",
        repaired=lambda: 1,
        source=f"{_MOE}:454; {PLUGINS}/hybrid_parallel_plugin.py:161",
        why="Without a pipeline the plugin fails on a name that it never defines; with one it averages gradients of "
        "different experts as if they were copies of one.",
        holds=lambda zero_stage, ep_size: ep_size == 1 or zero_stage >= 1,
    ),
    _experts("MOE003", "clipping by a norm that is wrong with divided experts")(
        message="max_norm {max_norm} clips by a wrong norm with ep_size {ep_size}",
        hint="use max_norm = 0, or ep_size = 1",
        repaired=lambda: 0,
        source="colossalai 0.5.0: zero/low_level/low_level_optim.py:575",
        why="Norms of the groups of parameters are added and experts of other ranks left out, so that the norm is "
        "another one on every rank and copies of the other parameters drift apart.",
        holds=lambda max_norm, ep_size: max_norm <= 0 or ep_size == 1,
    ),
    _experts("MOE004", "sequence parallelism with experts")(
        message="enable_sequence_parallelism is on, and MoeHybridParallelPlugin has no such mode for Mixtral",
        detail="ep_size = {ep_size}",
        hint="use enable_sequence_parallelism = False",
        repaired=lambda: False,
        source="colossalai 0.5.0: shardformer/modeling/mixtral.py:783,794",
        why="Every mode raises in Mixtral's attention, and the policy for DeepSeek-V3 has none.",
        holds=lambda enable_sequence_parallelism, ep_size: not enable_sequence_parallelism,
    ),
    _experts("MOE005", "settings that the plugin turns into ZeRO 1 without overlap", severity="warning")(
        fact="turned_to_zero_1",
        message="{turned_to_zero_1} makes the plugin run ZeRO stage 1 without overlap",
        detail="ep_size = {ep_size}",
        hint="use zero_stage = 1 and overlap_communication = False",
        source=f"{_MOE}:227-229",
        why="Reduction in the middle of backward hangs where an expert of some rank gets no token.",
        needs=("turned_to_zero_1", "ep_size"),
        holds=lambda turned_to_zero_1: False,
    ),
    _experts("MOE006", "copies of experts of which some may get no token", severity="warning")(
        fact="ep_size",
        message="ep_size {ep_size} leaves {copies} copies of each expert; one without a token spoils its gradient",
        detail="{num_devices} / ({tp_size} * {pp_size} * {sp_size} * {ep_size}) = {copies}",
        hint="use ep_size = {whole}",
        values=lambda ep_size, num_devices, tp_size, pp_size, sp_size: {
            "copies": _replicas(num_devices, tp_size, pp_size, sp_size) // ep_size,
            "whole": _replicas(num_devices, tp_size, pp_size, sp_size),
        },
        source="colossalai 0.5.0: moe/_operation.py:335-378",
        why="The gradient of an expert is multiplied by its copies over those that got a token of the micro batch, and "
        "the mean over copies then divides by all of them.",
        holds=lambda ep_size, num_devices, tp_size, pp_size, sp_size: (
            ep_size == 1 or _replicas(num_devices, tp_size, pp_size, sp_size) <= ep_size
        ),
    ),
)
