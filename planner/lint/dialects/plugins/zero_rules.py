"""Rules of the arguments of GeminiPlugin and LowLevelZeroPlugin."""

from planner.lint.config_rule import divides, one_of, rule_for
from planner.lint.dialects.plugins.names import (
    DDP,
    GEMINI,
    GEMINI_OPTIMIZERS,
    LOW_LEVEL_ZERO,
    MIXED_PRECISIONS,
    PLUGINS,
)

_GEM = f"{PLUGINS}/gemini_plugin.py"
_PLACEMENT = "colossalai 0.5.0: zero/gemini/placement_policy.py"
_LLZ = f"{PLUGINS}/low_level_zero_plugin.py"

GEMINI_RULES = (
    rule_for(
        GEMINI, **divides({
            "id": "GEM001", "title": "tensor and extra data parallelism do not divide the GPUs", "fact": "tp_size",
            "needs": ("tp_size", "extra_dp_size", "num_devices"),
            "message": "{num_devices} GPUs do not divide by tp_size x extra_dp_size = {group}",
            "detail": "{tp_size} * {extra_dp_size} = {group}, {num_devices} % {group} = {rest}",
            "hint": "choose a product of {valid}", "source": f"{_GEM}:547",
            "why": "The rest of the GPUs shards the states, and it has to be a whole number.",
        }, lambda f: f["tp_size"] * f["extra_dp_size"]),
    ),
    one_of("GEM002", GEMINI, "precision", ("fp16", "bf16"), f"{_GEM}:486"),
    one_of("GEM003", GEMINI, "placement_policy", ("static", "auto"), _PLACEMENT),
    rule_for(
        GEMINI, id="GEM004", title="offload_param_frac without effect", fact="offload_param_frac",
        needs=("offload_param_frac", "shard_param_frac", "offload_optim_frac"),
        message="offload_param_frac {offload_param_frac} is ignored unless the other two fractions are 1.0",
        hint="use shard_param_frac = 1.0 and offload_optim_frac = 1.0", severity="warning",
        source="colossalai 0.5.0: zero/gemini/placement_policy.py:59-61",
        why="Parameters can only leave the device where they are sharded and their optimizer states have left.",
        holds=lambda f: f["offload_param_frac"] == 0 or f["shard_param_frac"] == f["offload_optim_frac"] == 1,
    ),
    rule_for(
        GEMINI, id="GEM005", title="a fraction outside 0 to 1", fact="fraction", field="shard_param_frac",
        needs=("fraction", "fraction_key"), message="{fraction_key} is {fraction}, and a fraction is from 0 to 1",
        hint="use a value from 0.0 to 1.0", source=f"{_GEM}:442; zero/gemini/gemini_optimizer.py:184",
        why="It is a share of the parameters, of the states or of the memory that is left.",
        holds=lambda f: 0 <= f["fraction"] <= 1,
    ),
    rule_for(
        GEMINI, id="GEM006", title="an optimizer that Gemini does not take", fact="optimizer", needs=("optimizer",),
        message="Gemini takes FusedAdam, CPUAdam and HybridAdam, and the optimizer is {optimizer}",
        hint="use HybridAdam of colossalai.nn.optimizer",
        source="colossalai 0.5.0: zero/gemini/gemini_optimizer.py:43,121",
        why="Gemini updates whole chunks, some of them on the host, which only these optimizers do.",
        holds=lambda f: f["optimizer"] in GEMINI_OPTIMIZERS,
    ),
    rule_for(
        GEMINI, id="GEM007", title="gpu_margin_mem_ratio without effect", fact="gpu_margin_mem_ratio",
        needs=("gpu_margin_mem_ratio", "placement_policy"), severity="warning",
        message="gpu_margin_mem_ratio {gpu_margin_mem_ratio} has no effect with placement_policy {placement_policy}",
        hint="use placement_policy = 'auto', or offload_optim_frac instead",
        source="colossalai 0.5.0: zero/gemini/gemini_optimizer.py:184-195",
        why="Only the automatic policy moves optimizer chunks into memory that is left.",
        holds=lambda f: f["gpu_margin_mem_ratio"] == 0 or f["placement_policy"] == "auto",
    ),
    rule_for(
        GEMINI, id="GEM008", title="another norm than the L2 norm", fact="norm_type", needs=("norm_type",),
        message="gradients are clipped by the L2 norm only, and norm_type is {norm_type}", hint="use norm_type = 2.0",
        source="colossalai 0.5.0: zero/gemini/gemini_optimizer.py:144", repaired=lambda f: 2.0,
        why="The optimizer asserts it.", holds=lambda f: f["norm_type"] == 2,  # noqa: PLR2004
    ),
    rule_for(
        GEMINI, id="GEM009", title="options that need tensor parallelism", fact="needs_tp",
        needs=("needs_tp", "tp_size"), field="enable_flash_attention", severity="warning",
        message="{needs_tp} has no effect with tp_size 1", detail="tp_size = {tp_size}",
        hint="use tp_size = 2 or more, or leave it out", source=f"{_GEM}:539,675",
        why="The plugin replaces layers only where it shards them.", holds=lambda f: f["tp_size"] > 1,
    ),
    rule_for(
        GEMINI, id="GEM010", title="clipping that offloaded bf16 states do not get", fact="max_norm",
        needs=("max_norm", "precision", "offload_optim_frac"), severity="warning",
        message="max_norm {max_norm} is not applied to bf16 states on the host",
        hint="use precision = 'fp16', or offload_optim_frac = 0",
        source="colossalai 0.5.0: nn/optimizer/hybrid_adam.py:126-143",
        why="The host update of bf16 gradients leaves the scale out, without a word.",
        holds=lambda f: f["max_norm"] == 0 or f["precision"] != "bf16" or f["offload_optim_frac"] == 0,
    ),
    rule_for(
        GEMINI, id="GEM011", title="no_sync or LoRA under Gemini", fact="calls_refused", needs=("calls_refused",),
        field="no_sync", message="{calls_refused}() is called, and Gemini does not have it",
        hint="remove the call, or use another plugin", source=f"{_GEM}:573-577; zero/gemini/gemini_ddp.py:355",
        why="The plugin raises when it is called.", holds=lambda f: not f["calls_refused"],
    ),
    rule_for(
        GEMINI, id="GEM012", title="a share of the optimizer that becomes all of it", fact="offload_optim_frac",
        needs=("offload_optim_frac",), severity="warning",
        message="offload_optim_frac {offload_optim_frac} offloads nearly all optimizer states",
        hint="use offload_optim_frac = 1.0 or 0.0, or let `gptplan run` divide them",
        source=f"{_PLACEMENT}, setup_grads_device",
        why="The share is of a sum that has every chunk once for each parameter in it, about a dozen; `gptplan run` "
        "counts each chunk once.",
        holds=lambda f: f["offload_optim_frac"] in (0, 1),
    ),
)  # fmt: skip

LOW_LEVEL_ZERO_RULES = (
    one_of("LLZ001", LOW_LEVEL_ZERO, "stage", (1, 2), f"{_LLZ}:433"),
    one_of("LLZ002", LOW_LEVEL_ZERO, "precision", ("fp16", "bf16", "fp32"), f"{_LLZ}:434"),
    rule_for(
        LOW_LEVEL_ZERO, **divides({
            "id": "LLZ003", "title": "extra data parallelism does not divide the GPUs", "fact": "extra_dp_size",
            "needs": ("extra_dp_size", "num_devices"),
            "message": "extra_dp_size {extra_dp_size} does not divide {num_devices} GPUs",
            "detail": "{num_devices} % {group} = {rest}", "hint": "use extra_dp_size = {valid}",
            "source": f"{_LLZ}:437",
            "why": "The states are sharded over whole groups.",
        }, lambda f: f["extra_dp_size"]),
    ),
    rule_for(
        LOW_LEVEL_ZERO, id="LLZ004", title="ZeRO 2 and no_sync", fact="stage", needs=("stage", "calls_no_sync"),
        message="no_sync() is called, and stage {stage} forbids it", detail="stage = {stage}", hint="use stage = 1",
        source=f"{_LLZ}:472", why="Stage 2 gives its gradients away after every backward pass.",
        holds=lambda f: f["stage"] != 2 or not f["calls_no_sync"],  # noqa: PLR2004
    ),
    rule_for(
        LOW_LEVEL_ZERO, id="LLZ005", title="extra data parallelism and fp8 communication", fact="fp8_communication",
        needs=("fp8_communication", "extra_dp_size"),
        message="fp8_communication does not go with extra_dp_size {extra_dp_size}",
        hint="use fp8_communication = False, or extra_dp_size = 1", repaired=lambda f: False,
        source="colossalai 0.5.0: zero/low_level/low_level_optim.py:113",
        why="The optimizer refuses to reduce over two groups in fp8.",
        holds=lambda f: not f["fp8_communication"] or f["extra_dp_size"] == 1,
    ),
    rule_for(
        LOW_LEVEL_ZERO, id="LLZ006", title="another norm than the L2 norm", fact="norm_type", needs=("norm_type",),
        message="gradients are clipped by the L2 norm only, and norm_type is {norm_type}", hint="use norm_type = 2.0",
        source=f"{_LLZ}:435", repaired=lambda f: 2.0, why="The plugin asserts it.",
        holds=lambda f: f["norm_type"] == 2,  # noqa: PLR2004
    ),
)  # fmt: skip

DDP_RULES = (
    one_of("DDP001", DDP, "mixed_precision", MIXED_PRECISIONS, "colossalai 0.5.0: booster/mixed_precision/__init__.py"),
)

RULES = (*GEMINI_RULES, *LOW_LEVEL_ZERO_RULES, *DDP_RULES)
