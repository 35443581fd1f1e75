"""Rules of Megatron-LM's arguments about single options: what needs, excludes or does not do something."""

from typing import Any

from planner.lint.config_rule import rules_of
from planner.lint.dialects.megatron.keys import DIALECT, OBSOLETE

READ = "Megatron-LM at d98e8a6 (August 2026)"
"""The version whose source every rule of Megatron-LM was read in."""
ARGUMENTS = f"{READ}: megatron/training/arguments.py, validate_args"
TRANSFORMER = f"{READ}: megatron/core/transformer/transformer_config.py, TransformerConfig"


megatron_rule = rules_of(DIALECT.facts, DIALECT.name, source=ARGUMENTS)


def _needs(option: str, needed: str) -> dict[str, Any]:
    """The fields of a rule that one option does not go without another one, which takes no value."""
    return {
        "title": f"{option} without {needed}",
        "needs": (option, "options"),
        "message": f"{option} needs {needed}, and it is not given",
        "detail": f"{option} is given",
        "hint": f"add {needed}, or drop {option}",
        "added": lambda: {needed: True},
        "holds": lambda options: needed in options,
    }


def _excludes(option: str, *others: str) -> dict[str, Any]:
    """The fields of a rule that an option does not go with any of some others."""
    words = " or ".join(others)
    return {
        "title": f"{option} with {words}",
        "needs": (option, "options"),
        "message": f"{option} does not go with {{other}}",
        "detail": f"{option} and {{other}} are given",
        "hint": f"drop {option} or {{other}}",
        "remedy": "remove",
        "values": lambda options: {"other": next((other for other in others if other in options), words)},
        "holds": lambda options: not options & {*others},
    }


def _of_old(options: frozenset[str]) -> str:
    return next((option for option in OBSOLETE if option in options), "")


RULES = (
    megatron_rule("MEG019")(
        **_needs("--overlap-param-gather", "--use-distributed-optimizer"),
        why="Only the distributed optimizer gathers weights, so there is nothing to overlap without it.",
    ),
    megatron_rule("MEG020")(
        **_needs("--overlap-param-gather", "--overlap-grad-reduce"),
        why="The gather of weights is launched from the buckets that overlap the reduction of gradients.",
    ),
    megatron_rule("MEG021")(
        **_needs("--tp-comm-overlap", "--sequence-parallel"),
        why="It overlaps the gathers and scatters of sequence parallelism with products.",
    ),
    megatron_rule("MEG022")(
        **_needs("--optimizer-cpu-offload", "--use-precision-aware-optimizer"),
        why="The optimizer that keeps a part of its states on the host is one of the precision-aware ones.",
    ),
    megatron_rule("MEG023")(
        **_excludes("--train-iters", "--train-samples", "--lr-decay-samples"),
        why="Training is counted either in iterations or in samples.",
    ),
    megatron_rule("MEG024")(
        **_excludes("--recompute-method", "--recompute-activations"),
        why="Selective recomputation repeats attention in every layer, so there is no choice of layers.",
    ),
    megatron_rule("MEG025", "an option that Megatron-LM no longer takes", severity="warning")(
        field="--checkpoint-activations",
        message="Megatron-LM of today stops at {option}",
        detail="{option} is given",
        hint="use {instead}",
        values=lambda options: {"option": _of_old(options), "instead": OBSOLETE.get(_of_old(options), "")},
        why="Versions of 2019 to 2021 took these options; later ones name their successor and end.",
        holds=lambda options: "--deepspeed" in options or not _of_old(options),
    ),
    megatron_rule("MEG026", "launched without CUDA_DEVICE_MAX_CONNECTIONS=1", severity="warning")(
        message="tensor or context parallelism needs CUDA_DEVICE_MAX_CONNECTIONS=1, and the script {found}",
        detail="--tensor-model-parallel-size {tensor_parallel}, --context-parallel-size {context_parallel}",
        hint="put `export CUDA_DEVICE_MAX_CONNECTIONS=1` before the launcher",
        values=lambda max_connections: {"found": f"sets {max_connections}" if max_connections else "does not set it"},
        why="Below Blackwell, communication overlaps products only if kernels start in the order of their launches, "
        "and Megatron-LM stops without it.",
        holds=lambda max_connections, tensor_parallel, context_parallel, own_sharding: (
            own_sharding or max_connections == "1" or tensor_parallel * context_parallel == 1
        ),
    ),
    megatron_rule("MEG027", "distributed saved activations where they cannot be", remedy="remove")(
        needs=("--distribute-saved-activations", "tensor_parallel", "options"),
        message="--distribute-saved-activations needs --tensor-model-parallel-size above 1, full recomputation and no "
        "--sequence-parallel",
        detail="--tensor-model-parallel-size {tensor_parallel}",
        hint="drop --distribute-saved-activations",
        why="It divides what full recomputation keeps over the tensor-parallel ranks.",
        source=f"{ARGUMENTS}; TransformerConfig",
        holds=lambda tensor_parallel, options, recompute_granularity=None: (
            tensor_parallel > 1 and recompute_granularity == "full" and "--sequence-parallel" not in options
        ),
    ),
    megatron_rule("MEG028", "PyTorch's FSDP with a pipeline", remedy="remove")(
        needs=("--use-torch-fsdp2", "pipeline_parallel"),
        message="--use-torch-fsdp2 does not go with --pipeline-model-parallel-size {pipeline_parallel}",
        detail="--pipeline-model-parallel-size {pipeline_parallel}",
        hint="use --pipeline-model-parallel-size 1, or drop --use-torch-fsdp2",
        why="Weights would be gathered again for every micro batch of every stage.",
        holds=lambda pipeline_parallel: pipeline_parallel == 1,
    ),
    megatron_rule("MEG029")(
        **_excludes("--use-torch-fsdp2", "--use-distributed-optimizer", "--fp16"),
        why="Both divide the optimizer states, each in its own way, and fp16 has no scaler there.",
    ),
    megatron_rule("MEG034", "an option without a default")(
        message="{missing_option} is not given, and it has no default",
        detail="{missing_option} is missing",
        hint="add {missing_option}",
        why="The arguments assert that it is there.",
        holds=lambda missing_option: False,
    ),
    megatron_rule("MEG030", "an option of half precision in fp32", remedy="remove")(
        message="{half_option} needs {wanted}, and it is not given",
        detail="fp16 {fp16}, bf16 {bf16}",
        hint="drop {half_option}",
        values=lambda half_option: {
            "wanted": "--fp16" if half_option == "--fp16-lm-cross-entropy" else "--fp16 or --bf16"
        },
        why="It changes the precision of one part of a model in half precision.",
        holds=lambda half_option, fp16, bf16: fp16 or (bf16 and half_option != "--fp16-lm-cross-entropy"),
    ),
)
