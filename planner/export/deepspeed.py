"""A script that starts Megatron-DeepSpeed with the arguments of a plan and DeepSpeed's configuration of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from planner.diagnostics import usage_error
from planner.export.arguments import EVEN, Argument, Dialect, check_stack, refused, script_values
from planner.export.options import ExportOptions
from planner.export.rendering import filled
from planner.jobs.reading import read_job
from planner.layouts.layout import SHARDS_WEIGHTS
from planner.plans.plan import Plan

STACKS = ("megatron-deepspeed", "megatron-deepspeed-bf16")
_DIALECT = Dialect(
    rms_norm="rmsnorm",
    epsilon="--layernorm-epsilon",
    query_groups=("--num-key-value-heads",),
    rotary=("--use-rotary-position-embeddings",),
    rotary_base="--rotary-position-embeddings-theta",
    tokens_beside_vocabulary=1,
    has_wsd=False,
)


def deepspeed(plan: Plan, path: Path, options: ExportOptions) -> str:
    """The script of a plan in ``path``.

    Raises:
        PlanError: the plan is for another stack, or Megatron-DeepSpeed has no arguments for it.
    """
    check_stack(plan, STACKS, "Megatron-DeepSpeed", "deepspeed")
    if plan.layout.offload.tier == "nvme" and options.nvme_path is None:
        raise usage_error(
            "the plan offloads to NVMe, and no folder is named",
            location="--nvme-path",
            hint="for example `--nvme-path /local/nvme`, on a drive that every node has",
        )
    job = read_job(options.job, options.settings)
    values = script_values(plan, path, job, _DIALECT)
    config = json.dumps(_config(plan, options, job.optimizer.clip_norm), indent=2)
    return filled("deepspeed.sh.j2", **values, layout=list(_layout_arguments(plan)), config=config)


def _layout_arguments(plan: Plan) -> Iterator[Argument]:
    layout = plan.layout
    if len(set(layout.layers_per_stage)) > 1:
        raise refused(
            "the stages of the plan have different numbers of layers",
            f"Megatron-DeepSpeed balances them itself, and the plan has {list(layout.layers_per_stage)}",
            f"solve again with `{EVEN}`",
        )
    yield "--tensor-model-parallel-size", str(layout.tensor_parallel)
    yield "--pipeline-model-parallel-size", str(layout.pipeline_parallel)
    if layout.pipeline_parallel == 1:
        yield ("--no-pipeline-parallel",)
    yield "--zero-stage", str(layout.zero_stage)
    if layout.offload.optimizer:
        yield ("--cpu-optimizer",)
    if layout.offload.parameters:
        yield "--remote-device", "cpu"
    if any(layout.recompute_layers_per_stage):
        yield ("--deepspeed-activation-checkpointing",)
        yield "--recompute-granularity", "full"
        yield "--recompute-method", "uniform"
        yield "--recompute-num-layers", "1"


def _config(plan: Plan, options: ExportOptions, clip_norm: float) -> dict[str, Any]:
    """DeepSpeed's configuration: batch, ZeRO, precision."""
    layout = plan.layout
    zero: dict[str, Any] = {"stage": layout.zero_stage}
    if layout.offload.optimizer:
        zero["offload_optimizer"] = {"device": layout.offload.tier, "pin_memory": True}
        if layout.offload.tier == "nvme":
            zero["offload_optimizer"]["nvme_path"] = str(options.nvme_path)
    if layout.offload.parameters and layout.zero_stage == SHARDS_WEIGHTS:
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    config = {
        "train_batch_size": plan.problem.global_batch,
        "train_micro_batch_size_per_gpu": layout.micro_batch,
        "gradient_accumulation_steps": layout.num_microbatches,
        "zero_optimization": zero,
        "steps_per_print": 10,
    }
    if clip_norm:
        config["gradient_clipping"] = clip_norm
    if layout.precision != "fp32":
        config[layout.precision] = {"enabled": True}
    return config
