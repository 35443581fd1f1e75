"""Which plans the runtime executes, and what it says about the others. Needs no PyTorch."""

from collections.abc import Callable

from planner.diagnostics import Diagnostic, PlanError
from planner.plan import Plan

RULE = "RUN005"

Check = tuple[Callable[[Plan], bool], str, str]
"""What must hold, what is wrong if it does not, and what to type instead; texts are templates."""

_PARALLEL: tuple[Check, ...] = (
    (
        lambda p: p.layout.tensor_mode in ("none", "1d"),
        "the runtime executes 1D tensor parallelism, not `{x.tensor_mode}`",
        "solve again with `--mode 1d`",
    ),
    (
        lambda p: p.layout.tensor_mode != "none" or p.layout.tensor_parallel == 1,
        "tensor mode `none` with {x.tensor_parallel} tensor-parallel ranks",
        "solve again with `--mode 1d` or `--pin tensor_parallel=1`",
    ),
    (
        lambda p: p.layout.num_devices == p.problem.num_devices,
        "the layout uses {x.num_devices} devices, the plan was made for {q.num_devices}",
        "solve again",
    ),
    (
        lambda p: not p.layout.sequence_parallel,
        "the runtime does not execute sequence parallelism: Colossal-AI's gives GPT-2 wrong bias gradients",
        "solve again with `--pin sequence_parallel=false`",
    ),
    (
        lambda p: p.layout.schedule == ("none" if p.layout.pipeline_parallel == 1 else "1f1b"),
        "the runtime executes a pipeline of {x.pipeline_parallel} stages with 1F1B, not `{x.schedule}`",
        "solve again with `--pin schedule=1f1b`",
    ),
    (
        lambda p: p.layout.num_model_chunks == 1,
        "the runtime puts one model chunk on a stage, not {x.num_model_chunks}",
        "solve again with `--pin schedule=1f1b`",
    ),
    (
        lambda p: p.layout.pipeline_parallel == 1 or p.layout.num_microbatches >= p.layout.pipeline_parallel,
        "{x.num_microbatches} micro batches do not fill {x.pipeline_parallel} pipeline stages",
        "solve again with a smaller `--pin micro_batch=1` or a larger `--global-batch`",
    ),
)

_MODEL: tuple[Check, ...] = (
    (
        lambda p: all(
            size % p.layout.tensor_parallel == 0
            for size in (p.problem.model.num_heads, p.problem.model.hidden_size, p.problem.model.ffn_hidden_size)
        ),
        "{x.tensor_parallel} tensor-parallel ranks do not divide {m.num_heads} heads, hidden size "
        "{m.hidden_size} and feed-forward size {m.ffn_hidden_size}",
        "solve again with `--pin tensor_parallel=1`",
    ),
    (
        lambda p: p.problem.model.vocab_size > _vocabulary_before_last_rank(p),
        "the vocabulary of {m.vocab_size}, padded for {x.tensor_parallel} tensor-parallel ranks, leaves the "
        "last rank without a token",
        "solve again with a smaller `--pin tensor_parallel=2`",
    ),
    (
        lambda p: (
            len(p.layout.layers_per_stage) == p.layout.pipeline_parallel
            and min(p.layout.layers_per_stage) > 0
            and sum(p.layout.layers_per_stage) == p.problem.model.num_layers
        ),
        "layers per stage {x.layers_per_stage} do not put {m.num_layers} layers on {x.pipeline_parallel} stages",
        "solve again",
    ),
    (
        lambda p: p.layout.recompute_layers_per_stage in (p.layout.layers_per_stage, _no_layers(p)),
        "Colossal-AI recomputes every layer of GPT-2 or none, not {x.recompute_layers_per_stage} per stage",
        "solve again",
    ),
    (
        lambda p: p.problem.seq_len <= p.problem.model.max_seq_len,
        "sequences of {q.seq_len} tokens, the position table has {m.max_seq_len} rows",
        "solve again with a smaller `--seq-len`",
    ),
)

_STATES: tuple[Check, ...] = (
    (
        lambda p: p.layout.zero_stage <= (1 if p.layout.pipeline_parallel > 1 else 2),
        "the runtime does not execute ZeRO stage {x.zero_stage} with {x.pipeline_parallel} pipeline stages",
        "solve again with `--pin zero_stage=1`",
    ),
    (
        lambda p: p.layout.zero_stage == 0 or p.layout.precision != "fp32",
        "Colossal-AI has no ZeRO in fp32",
        "solve again with `--precision bf16`",
    ),
    (
        lambda p: p.layout.offload.optimizer in (0.0, 1.0) and p.layout.offload.parameters == 0.0,
        "the runtime moves all optimizer states off the device or none, and never parameters",
        "solve again with `--allow-offload none`",
    ),
    (
        lambda p: p.layout.offload.optimizer == 0.0 or (p.layout.offload.tier == "cpu" and p.layout.zero_stage > 0),
        "the runtime offloads optimizer states to the host, with ZeRO only",
        "solve again with `--allow-offload none`",
    ),
)


def check_supported(plan: Plan) -> None:
    """Refuse a plan that the runtime would not execute as it is written.

    Raises:
        PlanError: one diagnostic for each thing that is not supported.
    """
    names = {"x": plan.layout, "q": plan.problem, "m": plan.problem.model}
    found = [
        Diagnostic(rule=RULE, message=message.format(**names), hint=hint)
        for holds, message, hint in _PARALLEL + _MODEL + _STATES
        if not holds(plan)
    ]
    if found:
        raise PlanError(*found)


def _no_layers(plan: Plan) -> tuple[int, ...]:
    return (0,) * len(plan.layout.layers_per_stage)


def _vocabulary_before_last_rank(plan: Plan) -> int:
    ranks = plan.layout.tensor_parallel
    multiple = plan.problem.stack.vocab_multiple * ranks
    padded = -(-plan.problem.model.vocab_size // multiple) * multiple
    return padded // ranks * (ranks - 1)
