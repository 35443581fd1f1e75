"""Rules of the arguments of GeminiPlugin and LowLevelZeroPlugin."""

from planner.lint.config_rule import divides, one_of, rules_of
from planner.lint.dialects.plugins.keys import (
    DDP,
    FACTS,
    GEMINI,
    GEMINI_OPTIMIZERS,
    LOW_LEVEL_ZERO,
    MIXED_PRECISIONS,
    PLUGINS,
)

_GEM = f"{PLUGINS}/gemini_plugin.py"
_PLACEMENT = "colossalai 0.5.0: zero/gemini/placement_policy.py"
_LLZ = f"{PLUGINS}/low_level_zero_plugin.py"
_gemini, _zero, _ddp = (rules_of(FACTS[name], name) for name in (GEMINI, LOW_LEVEL_ZERO, DDP))

GEMINI_RULES = (
    _gemini("GEM001", "tensor and extra data parallelism do not divide the GPUs", about=("mesh",))(
        message="{num_devices} GPUs do not divide by tp_size x extra_dp_size = {group}",
        detail="{tp_size} * {extra_dp_size} = {group}, {num_devices} % {group} = {rest}",
        hint="choose a product of {valid}",
        source=f"{_GEM}:547",
        why="The rest of the GPUs shards the states, and it has to be a whole number.",
        **divides("tp_size", "extra_dp_size"),
    ),
    _gemini("GEM002")(source=f"{_GEM}:486", **one_of("precision", ("fp16", "bf16"))),
    _gemini("GEM003")(source=_PLACEMENT, **one_of("placement_policy", ("static", "auto"))),
    _gemini("GEM004", "offload_param_frac without effect", severity="warning")(
        message="offload_param_frac {offload_param_frac} is ignored unless the other two fractions are 1.0",
        hint="use shard_param_frac = 1.0 and offload_optim_frac = 1.0",
        source="colossalai 0.5.0: zero/gemini/placement_policy.py:59-61",
        why="Parameters can only leave the device where they are sharded and their optimizer states have left.",
        holds=lambda offload_param_frac, shard_param_frac, offload_optim_frac: (
            offload_param_frac == 0 or shard_param_frac == offload_optim_frac == 1
        ),
    ),
    _gemini("GEM005", "a fraction outside 0 to 1")(
        message="{fraction_key} is {fraction}, and a fraction is from 0 to 1",
        hint="use a value from 0.0 to 1.0",
        source=f"{_GEM}:442; zero/gemini/gemini_optimizer.py:184",
        why="It is a share of the parameters, of the states or of the memory that is left.",
        holds=lambda fraction, fraction_key: 0 <= fraction <= 1,
    ),
    _gemini("GEM006", "an optimizer that Gemini does not take")(
        message="Gemini takes FusedAdam, CPUAdam and HybridAdam, and the optimizer is {optimizer}",
        hint="use HybridAdam of colossalai.nn.optimizer",
        source="colossalai 0.5.0: zero/gemini/gemini_optimizer.py:43,121",
        why="Gemini updates whole chunks, some of them on the host, which only these optimizers do.",
        holds=lambda optimizer: optimizer in GEMINI_OPTIMIZERS,
    ),
    _gemini("GEM007", "gpu_margin_mem_ratio without effect", severity="warning")(
        message="gpu_margin_mem_ratio {gpu_margin_mem_ratio} has no effect with placement_policy {placement_policy}",
        hint="use placement_policy = 'auto', or offload_optim_frac instead",
        source="colossalai 0.5.0: zero/gemini/gemini_optimizer.py:184-195",
        why="Only the automatic policy moves optimizer chunks into memory that is left.",
        holds=lambda gpu_margin_mem_ratio, placement_policy: gpu_margin_mem_ratio == 0 or placement_policy == "auto",
    ),
    _gemini("GEM008", "another norm than the L2 norm")(
        message="gradients are clipped by the L2 norm only, and norm_type is {norm_type}",
        hint="use norm_type = 2.0",
        source="colossalai 0.5.0: zero/gemini/gemini_optimizer.py:144",
        repaired=lambda: 2.0,
        why="The optimizer asserts it.",
        holds=lambda norm_type: norm_type == 2,  # noqa: PLR2004
    ),
    _gemini("GEM009", "options that need tensor parallelism", severity="warning")(
        message="{needs_tp} has no effect with tp_size 1",
        detail="tp_size = {tp_size}",
        hint="use tp_size = 2 or more, or leave it out",
        source=f"{_GEM}:539,675",
        why="The plugin replaces layers only where it shards them.",
        holds=lambda needs_tp, tp_size: tp_size > 1,
    ),
    _gemini("GEM010", "clipping that offloaded bf16 states do not get", severity="warning")(
        message="max_norm {max_norm} is not applied to bf16 states on the host",
        hint="use precision = 'fp16', or offload_optim_frac = 0",
        source="colossalai 0.5.0: nn/optimizer/hybrid_adam.py:126-143",
        why="The host update of bf16 gradients leaves the scale out, without a word.",
        holds=lambda max_norm, precision, offload_optim_frac: (
            max_norm == 0 or precision != "bf16" or offload_optim_frac == 0
        ),
    ),
    _gemini("GEM011", "no_sync or LoRA under Gemini")(
        message="{calls_refused}() is called, and Gemini does not have it",
        hint="remove the call, or use another plugin",
        source=f"{_GEM}:573-577; zero/gemini/gemini_ddp.py:355",
        why="The plugin raises when it is called.",
        holds=lambda calls_refused: not calls_refused,
    ),
    _gemini("GEM012", "a share of the optimizer that becomes all of it", severity="warning")(
        message="offload_optim_frac {offload_optim_frac} offloads nearly all optimizer states",
        hint="use offload_optim_frac = 1.0 or 0.0, or let `gptplan run` divide them",
        source=f"{_PLACEMENT}, setup_grads_device",
        why="The share is of a sum that has every chunk once for each parameter in it, about a dozen; `gptplan run` "
        "counts each chunk once.",
        holds=lambda offload_optim_frac: offload_optim_frac in (0, 1),
    ),
)

LOW_LEVEL_ZERO_RULES = (
    _zero("LLZ001")(source=f"{_LLZ}:433", **one_of("stage", (1, 2))),
    _zero("LLZ002")(source=f"{_LLZ}:434", **one_of("precision", ("fp16", "bf16", "fp32"))),
    _zero("LLZ003", "extra data parallelism does not divide the GPUs")(
        message="extra_dp_size {extra_dp_size} does not divide {num_devices} GPUs",
        detail="{num_devices} % {group} = {rest}",
        hint="use extra_dp_size = {valid}",
        source=f"{_LLZ}:437",
        why="The states are sharded over whole groups.",
        **divides("extra_dp_size"),
    ),
    _zero("LLZ004", "ZeRO 2 and no_sync")(
        message="no_sync() is called, and stage {stage} forbids it",
        detail="stage = {stage}",
        hint="use stage = 1",
        source=f"{_LLZ}:472",
        why="Stage 2 gives its gradients away after every backward pass.",
        holds=lambda stage, calls_no_sync: stage != 2 or not calls_no_sync,  # noqa: PLR2004
    ),
    _zero("LLZ005", "extra data parallelism and fp8 communication")(
        message="fp8_communication does not go with extra_dp_size {extra_dp_size}",
        hint="use fp8_communication = False, or extra_dp_size = 1",
        repaired=lambda: False,
        source="colossalai 0.5.0: zero/low_level/low_level_optim.py:113",
        why="The optimizer refuses to reduce over two groups in fp8.",
        holds=lambda fp8_communication, extra_dp_size: not fp8_communication or extra_dp_size == 1,
    ),
    _zero("LLZ006", "another norm than the L2 norm")(
        message="gradients are clipped by the L2 norm only, and norm_type is {norm_type}",
        hint="use norm_type = 2.0",
        source=f"{_LLZ}:435",
        repaired=lambda: 2.0,
        why="The plugin asserts it.",
        holds=lambda norm_type: norm_type == 2,  # noqa: PLR2004
    ),
)

DDP_RULES = (
    _ddp("DDP001")(
        source="colossalai 0.5.0: booster/mixed_precision/__init__.py", **one_of("mixed_precision", MIXED_PRECISIONS)
    ),
)

RULES = (*GEMINI_RULES, *LOW_LEVEL_ZERO_RULES, *DDP_RULES)
