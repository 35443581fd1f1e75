"""A model and a job as arguments of Megatron-LM and of what was made of it, each option with its words."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from planner.diagnostics import Diagnostic, ExitCode, PlanError
from planner.export.environment import CONNECTIONS, settings
from planner.export.launching import header_values, plain_name
from planner.jobs.batches import batches_of
from planner.jobs.job import Job
from planner.plans.plan import Plan
from planner.specs import ModelSpec

RULE = "EXP001"
EVEN = "--pin layers_per_stage=even"

Argument = tuple[str, ...]
"""An option, and its value if it takes one."""


class Dialect(NamedTuple):
    """What frameworks call alike things."""

    rms_norm: str
    epsilon: str
    query_groups: tuple[str, ...]
    rotary: tuple[str, ...]
    rotary_base: str
    tokens_beside_vocabulary: int
    """How many more tokens its tokenizer without text counts than it is told."""
    has_wsd: bool


def refused(what: str, why: str, hint: str) -> PlanError:
    """The target does not have what a plan needs: exit code 1."""
    return PlanError(Diagnostic(rule=RULE, message=what, detail=why, hint=hint), exit_code=ExitCode.NEGATIVE)


def check_stack(plan: Plan, names: tuple[str, ...], framework: str, target: str) -> None:
    """Refuse a plan for another stack than those of a framework.

    Raises:
        PlanError: with exit code 1.
    """
    stack = plan.problem.stack.name
    if stack not in names:
        raise PlanError(
            Diagnostic(
                rule=RULE,
                message=f"`--to {target}` takes plans for {framework}, this one is for {stack}",
                hint=f"solve with `--stack {names[0]}`",
            ),
            exit_code=ExitCode.NEGATIVE,
        )


def script_values(plan: Plan, path: Any, job: Job, dialect: Dialect) -> dict[str, Any]:
    """What the templates of both frameworks name.

    Raises:
        PlanError: the framework has no arguments for the model or the job.
    """
    layout, problem = plan.layout, plan.problem
    steps = batches_of(job, problem).steps
    connections = (CONNECTIONS,) if problem.hardware.device == "cuda" and layout.tensor_parallel > 1 else ()
    return {
        **header_values(plan, path),
        "name": plain_name(path),
        "nodes": problem.num_nodes,
        "devices": layout.num_devices,
        "per_node": min(problem.devices_per_node, layout.num_devices),
        "on_last_node": layout.num_devices - (problem.num_nodes - 1) * problem.devices_per_node,
        "environment": (*settings(plan), *connections),
        "alone": True,
        "model": list(model_arguments(problem.model, dialect)),
        "batch": [
            ("--micro-batch-size", str(layout.micro_batch)),
            ("--global-batch-size", str(problem.global_batch)),
            ("--seq-length", str(problem.seq_len)),
            *([] if layout.precision == "fp32" else [(f"--{layout.precision}",)]),
        ],
        "training": list(training_arguments(job, steps, dialect)),
        "vocabulary": problem.model.vocab_size - dialect.tokens_beside_vocabulary,
    }


def model_arguments(model: ModelSpec, dialect: Dialect) -> Iterator[Argument]:
    """The sizes and parts of a model.

    Raises:
        PlanError: the framework does not have one of its parts.
    """
    plain = {
        "--num-layers": model.num_layers,
        "--hidden-size": model.hidden_size,
        "--ffn-hidden-size": model.ffn_hidden_size,
        "--num-attention-heads": model.num_heads,
        "--max-position-embeddings": model.max_seq_len,
        "--make-vocab-size-divisible-by": 128,
        "--attention-dropout": model.dropout,
        "--hidden-dropout": model.dropout,
        "--init-method-std": 0.02,
        dialect.epsilon: model.norm.epsilon,
    }
    yield from ((option, str(value)) for option, value in plain.items())
    if model.head_size * model.num_heads != model.hidden_size and model.attention.latent is None:
        yield "--kv-channels", str(model.head_size)
    if not model.tied_embeddings:
        yield ("--untie-embeddings-and-output-weights",)
    if model.norm.kind == "rmsnorm":
        yield "--normalization", dialect.rms_norm
    if model.attention.qk_norm:
        yield ("--qk-layernorm",)
    yield from _attention(model, dialect)
    if model.attention.latent is None:
        yield from _positions(model, dialect)
    yield from _feed_forward(model)


def _attention(model: ModelSpec, dialect: Dialect) -> Iterator[Argument]:
    if model.kv_heads != model.num_heads:
        *flags, option = dialect.query_groups
        yield from ((flag,) for flag in flags)
        yield option, str(model.kv_heads)
    if model.attention.sliding_window:
        yield "--window-size", f"{model.attention.sliding_window - 1},0"
    if not model.attention.output_bias:
        yield ("--disable-bias-linear",)
        if model.attention.qkv_bias:
            yield ("--add-qkv-bias",)


def _positions(model: ModelSpec, dialect: Dialect) -> Iterator[Argument]:
    own = model.positions
    if own.kind == "learned":
        return
    yield dialect.rotary
    yield dialect.rotary_base, f"{own.base:g}" if own.base != int(own.base) else str(int(own.base))
    if own.scaling == "llama3" and dialect.has_wsd:
        yield ("--use-rope-scaling",)
        yield "--rope-scaling-factor", f"{own.factor:g}"
    elif own.scaling == "linear" and dialect.has_wsd:
        yield "--rotary-seq-len-interpolation-factor", f"{own.factor:g}"
    elif own.scaling != "none":
        raise refused(
            f"the model stretches its rotary positions by {own.scaling}",
            "the arguments have no option that does the same",
            "solve for a model without it",
        )


def _feed_forward(model: ModelSpec) -> Iterator[Argument]:
    own = model.mlp
    if own.gated and own.activation == "silu":
        yield ("--swiglu",)
    elif own.gated or own.activation not in ("gelu", "gelu-tanh"):
        raise refused(
            f"the model's feed-forward part is{' gated' * own.gated} {own.activation}",
            "the arguments have GELU, and SiLU where it is gated",
            "solve for a model with one of these",
        )


_DECAYS = {"constant": "constant", "linear": "linear", "cosine": "cosine", "wsd": "WSD"}


def training_arguments(job: Job, steps: int, dialect: Dialect) -> Iterator[Argument]:
    """Optimizer, schedule, seed and checkpoints of a job, as far as both frameworks have them.

    Raises:
        PlanError: the framework does not have the schedule.
    """
    plan, optimizer = job.schedule, job.optimizer
    if plan.kind == "wsd" and not dialect.has_wsd:
        raise refused(
            "the job's schedule is wsd",
            "the arguments have constant, linear and cosine",
            "for example `--set schedule.kind=cosine`",
        )
    if plan.ramp_start:
        raise refused(
            f"the job's batch grows from {plan.ramp_start}",
            "the arguments have that only where a run counts samples, and this one counts steps",
            "`--set schedule.ramp_start=0`",
        )
    values = {
        "--train-iters": steps,
        "--lr": optimizer.learning_rate,
        "--lr-decay-style": _DECAYS[plan.kind],
        "--lr-decay-iters": steps,
        "--lr-warmup-iters": min(plan.warmup_steps, steps - 1),
        "--min-lr": optimizer.learning_rate if plan.kind == "constant" else optimizer.learning_rate * plan.final_share,
        "--weight-decay": optimizer.weight_decay,
        "--adam-beta1": optimizer.beta1,
        "--adam-beta2": optimizer.beta2,
        "--adam-eps": optimizer.epsilon,
        "--clip-grad": optimizer.clip_norm,
        "--seed": job.seed or 1,  # it has to be above 0
        "--log-interval": job.logging.every_steps,
        "--save-interval": job.checkpoint.every_steps or steps,
    }
    if plan.kind == "wsd":
        values["--lr-wsd-decay-style"] = "linear"
        values["--lr-wsd-decay-iters"] = math.ceil(plan.decay_share * steps)
    yield from ((option, str(value)) for option, value in values.items())
    if job.data.documents == "apart":
        yield from (("--reset-position-ids",), ("--reset-attention-mask",))
